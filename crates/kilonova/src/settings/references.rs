//! Values that refer to others, by oslo.config's rules (`ConfigOpts._substitute`): `$name` or `${name}` of the same section
//! or else of `DEFAULT`, `$section.name`, and `$$` or `\$` for the sign itself. What is neither stays as it is.

use super::Settings;
use super::keys::KEYS;
use std::collections::HashMap;

/// What values can refer to: what is said where, the last word counts; what is said nowhere has its default.
#[derive(Default)]
pub(super) struct Said {
    values: HashMap<(String, String), String>,
    defaults: Settings,
}

impl Said {
    /// Notes what is said of a name.
    pub(super) fn note(&mut self, section: &str, name: &str, value: &str) {
        let name = (section.to_owned(), name.to_owned());
        self.values.insert(name, value.to_owned());
    }

    /// A value of a section with what it refers to.
    ///
    /// # Errors
    /// A name that is none, or that refers to itself.
    pub(super) fn resolve(&self, section: &str, value: &str) -> Result<String, String> {
        self.resolve_within(section, value, &mut Vec::new())
    }

    /// `trail`: what is being resolved, from the outside in.
    fn resolve_within(
        &self,
        section: &str,
        value: &str,
        trail: &mut Vec<(String, String)>,
    ) -> Result<String, String> {
        let mut whole = String::with_capacity(value.len());
        let mut rest = value;
        while let Some(at) = rest.find(['$', '\\']) {
            whole.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("$$").or(rest.strip_prefix("\\$")) {
                whole.push('$');
                rest = after;
                continue;
            }
            let Some((name, after)) = reference(rest) else {
                // Both signs are one byte.
                whole.push_str(&rest[..1]);
                rest = &rest[1..];
                continue;
            };
            let (place, value) = self
                .look_up(section, name)
                .ok_or("a $ is followed by what names nothing; the sign itself is written $$")?;
            if trail.contains(&place) {
                return Err(format!("${name} refers to itself"));
            }
            let section = place.0.clone();
            trail.push(place);
            whole.push_str(&self.resolve_within(&section, &value, trail)?);
            trail.pop();
            rest = after;
        }
        whole.push_str(rest);
        Ok(whole)
    }

    /// The value behind a name, and its section and name.
    fn look_up(&self, section: &str, name: &str) -> Option<((String, String), String)> {
        let (sections, name) = match name.split_once('.') {
            Some((section, name)) => (vec![section], name),
            None => (vec![section, "DEFAULT"], name),
        };
        sections.into_iter().find_map(|section| {
            let place = (section.to_owned(), name.to_owned());
            let value = self.value(&place)?;
            Some((place, value))
        })
    }

    fn value(&self, place: &(String, String)) -> Option<String> {
        let default = || {
            let mut keys = KEYS.iter();
            let key = keys.find(|key| key.section == place.0 && key.name == place.1)?;
            Some(escaped(&(key.show)(&self.defaults)))
        };
        self.values.get(place).cloned().or_else(default)
    }
}

/// A value as it is written where others may be referred to.
pub(super) fn escaped(value: &str) -> String {
    value.replace('$', "$$")
}

/// The name that a text begins to refer to, and what follows.
fn reference(text: &str) -> Option<(&str, &str)> {
    let bare = text.strip_prefix('$')?;
    if let Some(inner) = bare.strip_prefix('{') {
        let (name, after) = inner.split_once('}')?;
        return (name_at(name) == name && !name.is_empty()).then_some((name, after));
    }
    let name = name_at(bare);
    (!name.is_empty()).then(|| (name, &bare[name.len()..]))
}

/// The name at the beginning of a text; empty if there is none.
fn name_at(text: &str) -> &str {
    let begins = |sign: char| sign.is_ascii_alphabetic() || sign == '_';
    let goes_on = |sign: char| begins(sign) || sign.is_ascii_digit() || sign == '.';
    if !text.starts_with(begins) {
        return "";
    }
    let end = text.find(|sign| !goes_on(sign)).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::Said;

    fn said() -> Said {
        let mut said = Said::default();
        said.note("DEFAULT", "my_ip", "192.0.2.1");
        said.note("DEFAULT", "port", "80");
        said.note("vnc", "port", "6080");
        said.note("vnc", "base", "http://${my_ip}:$port");
        said.note("a", "round", "$b.round");
        said.note("b", "round", "${a.round}");
        said.note("c", "price", "5$$");
        said
    }

    #[test]
    fn references_are_oslos() {
        for (section, value, wanted) in [
            ("DEFAULT", "as it is", "as it is"),
            ("DEFAULT", "$my_ip", "192.0.2.1"),
            ("vnc", "http://$my_ip:$port/", "http://192.0.2.1:6080/"),
            ("DEFAULT", "${my_ip}x${port}", "192.0.2.1x80"),
            ("x", "$port", "80"),
            ("x", "$vnc.port", "6080"),
            // What is referred to is read where it stands.
            ("x", "$vnc.base", "http://192.0.2.1:6080"),
            ("x", "$c.price, $$my_ip, \\$my_ip", "5$, $my_ip, $my_ip"),
            ("x", "p$ $1 ${ ${1} $", "p$ $1 ${ ${1} $"),
            ("x", "a\\b", "a\\b"),
            // Said nowhere.
            ("x", "$osapi_compute_listen_port", "8774"),
            ("x", "$api.max_limit", "1000"),
        ] {
            let resolved = said().resolve(section, value);
            assert_eq!(resolved.as_deref(), Ok(wanted), "{value}");
        }
    }

    #[test]
    fn what_names_nothing_is_told() {
        for (value, told) in [
            ("$nothing", "by what names nothing"),
            ("pass${word}", "by what names nothing"),
            ("$vnc.nothing", "by what names nothing"),
            // Of DEFAULT only without a section.
            ("$vnc.my_ip", "by what names nothing"),
            ("$my_ip.", "by what names nothing"),
            ("$a.round", "refers to itself"),
        ] {
            let refused = said().resolve("DEFAULT", value).err();
            let refused = refused.unwrap_or_default();
            assert!(refused.contains(told), "{value}: {refused}");
        }
    }
}
