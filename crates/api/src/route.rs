//! A row of the routing table, and finding the row for a path.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::query::Keys;
use crate::schemas::Schema;
use crate::success::{self, Success};
use std::collections::HashMap;
use std::pin::Pin;
use types::Microversion;

/// What a handler is.
pub type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Result<Reply, Fault>> + Send>>;

/// The methods the API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
}

impl Verb {
    /// The verb of a method, if the API uses it at all.
    pub fn of(method: &http::Method) -> Option<Self> {
        match *method {
            http::Method::GET => Some(Self::Get),
            http::Method::POST => Some(Self::Post),
            http::Method::PUT => Some(Self::Put),
            http::Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }

    /// In capitals.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// Who serves a row.
#[derive(Clone, Copy)]
pub enum Served {
    /// Nobody yet: 501.
    NotYet,
    /// Nobody any more: 410 at every version.
    Gone,
    /// This handler.
    By(Handler),
}

/// One row.
pub struct Route {
    /// The method.
    pub verb: Verb,
    /// The path below the version (and project), with `{parameters}`.
    pub path: &'static str,
    /// The action's name, where the body says what to do.
    pub action: Option<&'static str>,
    /// The first version that has it.
    pub since: Microversion,
    /// The first version that no longer has it.
    pub until: Option<Microversion>,
    /// The policy rule that guards it.
    pub policy: Option<&'static str>,
    /// Whether the rule is about the caller's own project and checked before the handler runs; otherwise the handler checks it
    /// against the owner of what it found.
    pub checked_first: bool,
    /// The schema of its body.
    pub body: Option<&'static Schema>,
    /// The keys of its query.
    pub query: Option<&'static Keys>,
    /// What it answers when it succeeds.
    pub success: &'static [Success],
    /// Who serves it.
    pub served: Served,
}

impl Route {
    /// A row for a method and path.
    pub const fn new(verb: Verb, path: &'static str) -> Self {
        Self {
            verb,
            path,
            action: None,
            since: Microversion::MIN,
            until: None,
            policy: None,
            checked_first: false,
            body: None,
            query: None,
            success: success::OK,
            served: Served::NotYet,
        }
    }

    /// A row for an action.
    pub const fn action(path: &'static str, action: &'static str) -> Self {
        let mut row = Self::new(Verb::Post, path);
        row.action = Some(action);
        row
    }

    /// Exists from `2.minor` on.
    #[must_use]
    pub const fn since(mut self, minor: u16) -> Self {
        self.since = Microversion(minor);
        self
    }

    /// Does not exist from `2.minor` on.
    #[must_use]
    pub const fn until(mut self, minor: u16) -> Self {
        self.until = Some(Microversion(minor));
        self
    }

    /// Removed for good.
    #[must_use]
    pub const fn gone(mut self) -> Self {
        self.served = Served::Gone;
        self
    }

    /// Guarded by a rule about the caller's own project.
    #[must_use]
    pub const fn policy(mut self, rule: &'static str) -> Self {
        self.policy = Some(rule);
        self.checked_first = true;
        self
    }

    /// Guarded by a rule about the owner of the thing in the path.
    #[must_use]
    pub const fn object_policy(mut self, rule: &'static str) -> Self {
        self.policy = Some(rule);
        self
    }

    /// With a checked body.
    #[must_use]
    pub const fn body(mut self, schema: &'static Schema) -> Self {
        self.body = Some(schema);
        self
    }

    /// With a checked query.
    #[must_use]
    pub const fn query(mut self, keys: &'static Keys) -> Self {
        self.query = Some(keys);
        self
    }

    /// With another status of success than 200.
    #[must_use]
    pub const fn gives(mut self, success: &'static [Success]) -> Self {
        self.success = success;
        self
    }

    /// Served by this handler.
    #[must_use]
    pub const fn to(mut self, handler: Handler) -> Self {
        self.served = Served::By(handler);
        self
    }

    /// The statuses of success at a version; none where it is always refused.
    pub fn successes(&self, version: Microversion) -> impl Iterator<Item = u16> {
        let all = self.success.iter();
        all.filter(move |one| one.exists_at(version))
            .map(|one| one.status)
    }

    /// Whether the version has it.
    pub fn exists_at(&self, version: Microversion) -> bool {
        self.since <= version && self.until.is_none_or(|until| version < until)
    }
}

struct Entry {
    verb: Verb,
    segments: Vec<&'static str>,
    rows: Vec<&'static Route>,
}

/// The table, arranged for finding rows.
pub struct Table {
    by_first: HashMap<&'static str, Vec<Entry>>,
}

/// What a path leads to.
pub struct Found<'a> {
    /// One row, or all actions of a path.
    pub rows: &'a [&'static Route],
    /// The values of the path's parameters.
    pub params: Vec<String>,
    /// The project, when the path began with one.
    pub project: Option<String>,
}

impl Table {
    /// Arranges rows.
    pub fn new(rows: &'static [Route]) -> Self {
        let mut by_first: HashMap<&'static str, Vec<Entry>> = HashMap::new();
        for row in rows {
            let segments: Vec<&'static str> = row.path.trim_start_matches('/').split('/').collect();
            let entries = by_first.entry(segments[0]).or_default();
            let same = entries
                .iter_mut()
                .find(|entry| entry.verb == row.verb && entry.segments == segments);
            match same {
                Some(entry) => entry.rows.push(row),
                None => entries.push(Entry {
                    verb: row.verb,
                    segments,
                    rows: vec![row],
                }),
            }
        }
        // Words before parameters, so that `/servers/detail` is not a server.
        for entries in by_first.values_mut() {
            entries.sort_by_key(|entry| {
                entry
                    .segments
                    .iter()
                    .map(|segment| segment.starts_with('{'))
                    .collect::<Vec<_>>()
            });
        }
        Self { by_first }
    }

    /// Finds the rows for a path below the version, for example `/servers/x` or `/{project}/servers/x`.
    pub fn find(&self, verb: Verb, path: &str) -> Option<Found<'_>> {
        let path = path.strip_prefix('/')?;
        let first = path.split('/').next().unwrap_or_default();
        if let Some((rows, params)) = self.find_below(verb, path) {
            return Some(Found {
                rows,
                params,
                project: None,
            });
        }
        let is_project = !first.is_empty()
            && first
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-');
        if !is_project {
            return None;
        }
        let rest = path.get(first.len() + 1..)?;
        let (rows, params) = self.find_below(verb, rest)?;
        Some(Found {
            rows,
            params,
            project: Some(first.to_owned()),
        })
    }

    fn find_below(&self, verb: Verb, path: &str) -> Option<(&[&'static Route], Vec<String>)> {
        let mut split = path.split('/');
        let entries = self.by_first.get(split.next()?)?;
        let segments: Vec<&str> = path.split('/').collect();
        let entry = entries
            .iter()
            .find(|entry| entry.verb == verb && matches(&entry.segments, &segments))?;
        let params = entry
            .segments
            .iter()
            .zip(&segments)
            .filter(|(pattern, _)| pattern.starts_with('{'));
        let params = params
            .map(|(_, value)| {
                percent_encoding::percent_decode_str(value)
                    .decode_utf8_lossy()
                    .into_owned()
            })
            .collect();
        Some((&entry.rows, params))
    }
}

fn matches(pattern: &[&str], segments: &[&str]) -> bool {
    pattern.len() == segments.len()
        && pattern.iter().zip(segments).all(|(wanted, given)| {
            if wanted.starts_with('{') {
                !given.is_empty()
            } else {
                wanted == given
            }
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::routes::ROUTES;

    #[test]
    fn paths_to_rows() {
        let table = Table::new(ROUTES);
        type Leads = (&'static str, &'static [&'static str], Option<&'static str>);
        let cases: &[(&str, Option<Leads>)] = &[
            ("/servers", Some(("/servers", &[], None))),
            ("/servers/detail", Some(("/servers/detail", &[], None))),
            ("/servers/x", Some(("/servers/{id}", &["x"], None))),
            (
                "/servers/x/metadata/a%20b",
                Some(("/servers/{server_id}/metadata/{id}", &["x", "a b"], None)),
            ),
            ("/0af1/servers", Some(("/servers", &[], Some("0af1")))),
            ("/0af1", None),
            ("/ABCDEF/servers", None),
            ("/servers/", None),
            ("/nonexistent", None),
            ("/servers.json", None),
            (
                "/flavors/detail.xml",
                Some(("/flavors/{id}", &["detail.xml"], None)),
            ),
        ];
        for (path, wanted) in cases {
            let found = table.find(Verb::Get, path);
            match wanted {
                None => assert!(found.is_none(), "{path}"),
                Some((row, params, project)) => {
                    let found = found.unwrap();
                    assert_eq!(found.rows[0].path, *row, "{path}");
                    assert_eq!(found.params, *params, "{path}");
                    assert_eq!(found.project.as_deref(), *project, "{path}");
                }
            }
        }
        assert!(table.find(Verb::Delete, "/servers").is_none());
        assert!(
            table
                .find(Verb::Post, "/servers/x/action")
                .unwrap()
                .rows
                .len()
                > 30
        );
    }

    #[test]
    fn rows_are_well_formed() {
        for row in ROUTES {
            assert!(
                row.until.is_none_or(|until| until > row.since),
                "{} {:?}",
                row.path,
                row.action
            );
            if let Some(rule) = row.policy {
                assert!(
                    crate::policy_rules::defaults().any(|known| known.name == rule),
                    "{rule}"
                );
            }
        }
    }
}
