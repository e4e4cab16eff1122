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
    let project = allowed(&call)?;
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
    let project = allowed(&call)?;
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
    let project = allowed(&call)?;
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

/// `PUT`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let project = allowed(&call)?;
    let force = call.field("quota_set", "force").is_some_and(is_true);
    let (changes, user) = (wanted(call.body.get("quota_set"))?, user(&call));
    let limits = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<Limits, Fault> {
            let used = in_use(tx, &project, user.as_deref())?;
            let whole = db::quotas::of_project(tx, &project)?;
            for (name, limit) in &changes {
                let held = used.get(name.as_str()).copied().unwrap_or(0);
                if !force && *limit >= 0 && *limit < held {
                    return Err(Fault::bad_request(format!(
                        "Quota value {limit} for {name} are less than already used and reserved {held}"
                    )));
                }
                let most = whole.get(name).copied().unwrap_or(-1);
                if user.is_some() && most >= 0 && (*limit > most || *limit == -1) {
                    return Err(Fault::bad_request(format!("Quota limit {limit} for {name} must be less than or equal to {most}.")));
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
