//! Views: the newest form of each resource, rendered with the fields that the version asked for has.

pub mod flavor;
pub mod server;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::cell::RefCell;
use types::Microversion;

/// A view that can be rendered at a version.
pub trait View {
    /// Writes the fields.
    fn fields<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error>;
}

/// A view together with the version it is wanted at.
pub struct At<'a, V>(pub &'a V, pub Microversion);

impl<V: View> Serialize for At<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields {
            map: serializer.serialize_map(None)?,
            version: self.1,
        };
        self.0.fields(&mut fields)?;
        fields.map.end()
    }
}

/// A list of views at a version.
pub struct All<'a, V>(pub &'a [V], pub Microversion);

impl<V: View> Serialize for All<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|view| At(view, self.1)))
    }
}

/// A list of views at a version, each made when it is written; written once.
pub struct Each<I>(pub RefCell<Option<I>>, pub Microversion);

impl<V: View, I: Iterator<Item = V>> Serialize for Each<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Own<V>(V, Microversion);

        impl<V: View> Serialize for Own<V> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                At(&self.0, self.1).serialize(serializer)
            }
        }

        let views = self.0.take();
        serializer.collect_seq(views.into_iter().flatten().map(|view| Own(view, self.1)))
    }
}

/// A document with one entry, and perhaps the link to the next page.
pub struct Document<'a, T> {
    /// The entry's name.
    pub name: &'static str,
    /// The entry.
    pub inner: T,
    /// The name and value of the links.
    pub links: Option<(&'static str, &'a [crate::links::Link])>,
}

impl<T: Serialize> Serialize for Document<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(self.name, &self.inner)?;
        if let Some((name, links)) = self.links {
            map.serialize_entry(name, links)?;
        }
        map.end()
    }
}

/// A document with one entry.
pub fn document<T: Serialize>(name: &'static str, inner: T) -> Document<'static, T> {
    Document {
        name,
        inner,
        links: None,
    }
}

/// Writes those fields of a view that the version has.
pub struct Fields<M> {
    map: M,
    version: Microversion,
}

impl<M: SerializeMap> Fields<M> {
    /// The version rendered.
    pub fn version(&self) -> Microversion {
        self.version
    }

    /// A field of every version.
    pub fn always(
        &mut self,
        name: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), M::Error> {
        self.map.serialize_entry(name, value)
    }

    /// A field that came with a version.
    pub fn since(
        &mut self,
        since: Microversion,
        name: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), M::Error> {
        if self.version >= since {
            self.always(name, value)
        } else {
            Ok(())
        }
    }

    /// A field that left with a version.
    pub fn until(
        &mut self,
        until: Microversion,
        name: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), M::Error> {
        if self.version < until {
            self.always(name, value)
        } else {
            Ok(())
        }
    }

    /// A field that is there only when there is something to show.
    pub fn maybe<T: Serialize>(
        &mut self,
        since: Microversion,
        name: &str,
        value: Option<&T>,
    ) -> Result<(), M::Error> {
        match value {
            Some(value) => self.since(since, name, value),
            None => Ok(()),
        }
    }
}

/// Renders a view at every version and says what changed where: the history that the tests keep.
#[cfg(test)]
pub fn history(view: &impl View) -> String {
    use serde_json::Value;
    let mut out = String::new();
    let mut before: Option<Value> = None;
    for minor in Microversion::MIN.0..=Microversion::MAX.0 {
        let version = Microversion(minor);
        let now = serde_json::to_value(At(view, version)).unwrap_or_default();
        let old = before
            .as_ref()
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        let new = now.as_object().cloned().unwrap_or_default();
        for (name, value) in &new {
            match old.get(name) {
                None => out.push_str(&format!("{version} + {name}: {value}\n")),
                Some(was) if was != value => {
                    out.push_str(&format!("{version} ~ {name}: {value}\n"))
                }
                Some(_) => {}
            }
        }
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            out.push_str(&format!("{version} - {name}\n"));
        }
        before = Some(now);
    }
    out
}
