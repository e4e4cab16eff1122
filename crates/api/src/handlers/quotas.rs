//! `/os-quota-sets` and `/os-quota-class-sets`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::schemas::{is_true, number};
use db::quotas::{DEFAULTS, Limits};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use types::{Microversion, ProjectId, UserId};

/// The resources a project's quota set has at a version.
fn shown(version: Microversion) -> impl Iterator<Item = &'static str> {
    DEFAULTS
        .iter()
        .map(|(name, _)| *name)
        .filter(move |name| match *name {
            "networks" => false,
            "fixed_ips" | "floating_ips" | "security_groups" | "security_group_rules" => {
                version < mv::NO_PROXIES
            }
            "injected_files" | "injected_file_content_bytes" | "injected_file_path_bytes" => {
                version < mv::NO_PERSONALITY
            }
            _ => true,
        })
}

/// The resources a quota class has at a version.
fn shown_of_class(version: Microversion) -> impl Iterator<Item = &'static str> {
    DEFAULTS
        .iter()
        .map(|(name, _)| *name)
        .filter(move |name| match *name {
            "networks" => false,
            "fixed_ips" | "floating_ips" | "security_groups" | "security_group_rules" => {
                version < mv::QUOTA_CLASS_GROUPS
            }
            "server_groups" | "server_group_members" => version >= mv::QUOTA_CLASS_GROUPS,
            "injected_files" | "injected_file_content_bytes" | "injected_file_path_bytes" => {
                version < mv::NO_PERSONALITY
            }
            _ => true,
        })
}

fn document(names: impl Iterator<Item = &'static str>, limits: &Limits, id: Option<&str>) -> Value {
    let mut map = Map::new();
    if let Some(id) = id {
        map.insert("id".to_owned(), id.into());
    }
    map.extend(names.map(|name| {
        (
            name.to_owned(),
            Value::from(limits.get(name).copied().unwrap_or(-1)),
        )
    }));
    map.into()
}

/// Checks the row's rule for the project in the path.
fn allowed(call: &Call) -> Result<String, Fault> {
    let project = call.param(0).to_owned();
    if let Some(rule) = call.route.policy {
        call.require_for(rule, &project, &call.caller.user_id)?;
    }
    Ok(project)
}

/// As [`allowed`], of a project that exists.
async fn allowed_and_known(call: &Call) -> Result<String, Fault> {
    let project = allowed(call)?;
    call.demand_project(&project).await?;
    Ok(project)
}

fn user(call: &Call) -> Option<String> {
    call.query.get("user_id").map(str::to_owned)
}

fn limits(tx: &mut sql::Tx<'_>, project: &str, user: Option<&str>) -> Result<Limits, sql::Error> {
    match user {
        Some(user) => db::quotas::of_user(tx, project, user),
        None => db::quotas::of_project(tx, project),
    }
}

/// `GET`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let project = allowed_and_known(&call).await?;
    let (id, user) = (project.clone(), user(&call));
    let limits = call
        .api
        .deps
        .store
        .read(move |tx| limits(tx, &project, user.as_deref()))
        .await?;
    Reply::ok(&json!({ "quota_set": document(shown(call.version), &limits, Some(&id)) }))
}

/// `GET /defaults`.
pub async fn defaults(call: Call) -> Result<Reply, Fault> {
    let project = allowed_and_known(&call).await?;
    let limits = call.api.deps.store.read(db::quotas::defaults).await?;
    Reply::ok(&json!({ "quota_set": document(shown(call.version), &limits, Some(&project)) }))
}

/// What a project (or a user within it) holds of each countable resource.
fn in_use(
    tx: &mut sql::Tx<'_>,
    project: &str,
    user: Option<&str>,
) -> Result<BTreeMap<&'static str, i64>, sql::Error> {
    let owner = ProjectId(project.to_owned());
    let held = match user {
        Some(user) => db::usages::of_user(tx, &owner, &UserId(user.to_owned()))?,
        None => db::usages::of_project(tx, &owner)?,
    };
    let groups = db::server_groups::count(tx, project, user)?;
    Ok(BTreeMap::from([
        ("instances", held.instances),
        ("cores", held.cores),
        ("ram", held.ram_mb),
        ("server_groups", groups),
    ]))
}

/// `GET /detail`.
pub async fn detail(call: Call) -> Result<Reply, Fault> {
    let project = allowed_and_known(&call).await?;
    let (id, user) = (project.clone(), user(&call));
    let (limits, used) = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<_, sql::Error> {
            Ok((
                limits(tx, &project, user.as_deref())?,
                in_use(tx, &project, user.as_deref())?,
            ))
        })
        .await?;
    let mut map = Map::new();
    map.insert("id".to_owned(), id.into());
    for name in shown(call.version) {
        let limit = limits.get(name).copied().unwrap_or(-1);
        map.insert(name.to_owned(), json!({ "limit": limit, "in_use": used.get(name).copied().unwrap_or(0), "reserved": 0 }));
    }
    Reply::ok(&json!({ "quota_set": map }))
}

/// The limits a body sets.
fn wanted(body: Option<&Value>) -> Result<Vec<(String, i64)>, Fault> {
    let pairs = body
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "force");
    pairs
        .map(|(name, value)| match number(value) {
            Some(limit) if (-1..=2_147_483_647).contains(&limit) => Ok((name.clone(), limit)),
            _ => Err(Fault::bad_request(format!(
                "Quota limit {value} for {name} must be in the range of -1 and 2147483647."
            ))),
        })
        .collect()
}

/// The sum of the limits of users within a project; unlimited ones count nothing.
fn given(users: &[(String, String, i64)], resource: &str, counts: impl Fn(&str) -> bool) -> i64 {
    let of_resource = users
        .iter()
        .filter(|(user, name, limit)| name == resource && *limit > 0 && counts(user));
    of_resource
        .map(|(_, _, limit)| *limit)
        .fold(0, i64::saturating_add)
}

/// Between what a limit may be set without force.
struct Range {
    /// What the project, or the user, holds.
    held: i64,
    /// The project's limit.
    project: i64,
    /// What users were given of it; without the one whose limit is set.
    others: i64,
    of_user: bool,
}

impl Range {
    /// A project's limit covers what is held and what its users were given; a user's limit covers what the user holds,
    /// and is no more than what the project has left to give.
    fn check(&self, resource: &str, limit: i64) -> Result<(), Fault> {
        let endless = |limit: i64| if limit == -1 { i64::MAX } else { limit };
        let least = if self.of_user {
            self.held
        } else {
            self.held.max(self.others)
        };
        if endless(limit) < least {
            return Err(Fault::bad_request(format!(
                "Quota limit {limit} for {resource} must be greater than or equal to already used and reserved {least}."
            )));
        }
        if !self.of_user || self.project == -1 {
            return Ok(());
        }
        let most = (self.project - self.others).max(0);
        if endless(limit) > most {
            return Err(Fault::bad_request(format!(
                "Quota limit {limit} for {resource} must be less than or equal to {most}."
            )));
        }
        Ok(())
    }
}

/// `PUT`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let project = allowed_and_known(&call).await?;
    let force = call.field("quota_set", "force").is_some_and(is_true);
    let (changes, user) = (wanted(call.body.get("quota_set"))?, user(&call));
    let limits = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<Limits, Fault> {
            let used = in_use(tx, &project, user.as_deref())?;
            let whole = db::quotas::of_project(tx, &project)?;
            let users = db::quotas::of_users(tx, &project)?;
            for (name, limit) in &changes {
                if !force {
                    let range = Range {
                        held: used.get(name.as_str()).copied().unwrap_or(0),
                        project: whole.get(name).copied().unwrap_or(-1),
                        others: given(&users, name, |one| Some(one) != user.as_deref()),
                        of_user: user.is_some(),
                    };
                    range.check(name, *limit)?;
                }
                db::quotas::set(tx, &project, user.as_deref(), name, *limit)?;
            }
            Ok(self::limits(tx, &project, user.as_deref())?)
        })
        .await?;
    Reply::ok(&json!({ "quota_set": document(shown(call.version), &limits, None) }))
}

/// `DELETE`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let project = allowed(&call)?;
    let user = user(&call);
    call.api
        .deps
        .store
        .write(move |tx| db::quotas::reset(tx, &project, user.as_deref()))
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `GET /os-quota-class-sets/{class}`.
pub async fn class_show(call: Call) -> Result<Reply, Fault> {
    let class = call.param(0).to_owned();
    let limits = call
        .api
        .deps
        .store
        .read(move |tx| db::quotas::of_class(tx, &class))
        .await?;
    Reply::ok(
        &json!({ "quota_class_set": document(shown_of_class(call.version), &limits, Some(call.param(0))) }),
    )
}

/// `PUT /os-quota-class-sets/{class}`.
pub async fn class_update(call: Call) -> Result<Reply, Fault> {
    let (class, changes) = (
        call.param(0).to_owned(),
        wanted(call.body.get("quota_class_set"))?,
    );
    if class.chars().count() > 255 {
        return Err(Fault::bad_request(
            "quota_class_name has more than 255 characters.",
        ));
    }
    let limits = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<Limits, sql::Error> {
            for (name, limit) in &changes {
                db::quotas::set_class(tx, &class, name, *limit)?;
            }
            db::quotas::of_class(tx, &class)
        })
        .await?;
    Reply::ok(&json!({ "quota_class_set": document(shown_of_class(call.version), &limits, None) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_between_what_is_held_and_what_is_left() {
        let users = [
            ("u", "cores", 4),
            ("v", "cores", 6),
            ("w", "cores", -1),
            ("v", "ram", 9),
        ]
        .map(|(user, name, limit)| (user.to_owned(), name.to_owned(), limit));
        let range = |user: Option<&str>, project, held| Range {
            held,
            project,
            others: given(&users, "cores", |one| Some(one) != user),
            of_user: user.is_some(),
        };
        for (user, project, held, limit, good) in [
            (None, 20, 3, 10, true),
            // Users were given ten.
            (None, 20, 3, 9, false),
            (None, 20, 15, 14, false),
            (None, 20, 15, -1, true),
            // The others have ten of twenty, or six.
            (Some("x"), 20, 0, 10, true),
            (Some("x"), 20, 0, 11, false),
            (Some("u"), 20, 0, 14, true),
            (Some("u"), 20, 0, 15, false),
            (Some("u"), 20, 0, -1, false),
            (Some("u"), 20, 5, 4, false),
            (Some("u"), -1, 0, -1, true),
            (Some("u"), -1, 0, 99, true),
        ] {
            let verdict = range(user, project, held).check("cores", limit);
            assert_eq!(verdict.is_ok(), good, "{user:?} {project} {held} {limit}");
        }
    }
}
