//! `/os-server-groups`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::schemas::number;
use db::server_groups::Group;
use http::StatusCode;
use serde_json::{Map, Value, json};
use types::{GroupId, ServerId, Timestamp};

fn document(call: &Call, group: &Group, members: &[ServerId]) -> Value {
    let mut map = Map::new();
    map.insert("id".to_owned(), json!(group.id));
    map.insert("name".to_owned(), json!(group.name));
    if call.at_least(mv::GROUP_POLICY) {
        let rules = group
            .max_server_per_host
            .map_or_else(|| json!({}), |most| json!({ "max_server_per_host": most }));
        map.insert("policy".to_owned(), json!(group.policy));
        map.insert("rules".to_owned(), rules);
    } else {
        map.insert("policies".to_owned(), json!([group.policy]));
        map.insert("metadata".to_owned(), json!({}));
    }
    map.insert("members".to_owned(), json!(members));
    if call.at_least(mv::GROUP_OWNER) {
        map.insert("project_id".to_owned(), json!(group.project_id));
        map.insert("user_id".to_owned(), json!(group.user_id));
    }
    map.into()
}

/// `GET`: the project's groups, or with an administrator's `all_projects` everyone's; others get their own in spite of it, as
/// in Nova.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let everyone = call.query.get("all_projects").is_some() && call.is_admin();
    if everyone {
        call.require("os_compute_api:os-server-groups:index:all_projects")?;
    }
    let project = (!everyone).then(|| call.project().to_owned());
    let (limit, offset) = (call.limit_or_most()?, call.offset());
    let (groups, members) = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<_, sql::Error> {
            let all = db::server_groups::list(tx, project.as_deref())?;
            let groups: Vec<Group> = all.into_iter().skip(offset).take(limit).collect();
            let ids: Vec<GroupId> = groups.iter().map(|group| group.id).collect();
            let members = db::server_groups::members(tx, &ids)?;
            Ok((groups, members))
        })
        .await?;
    let none = Vec::new();
    let list: Vec<Value> = groups
        .iter()
        .map(|group| document(&call, group, members.get(&group.id).unwrap_or(&none)))
        .collect();
    Reply::ok(&json!({ "server_groups": list }))
}

async fn in_path(call: &Call) -> Result<(Group, Vec<ServerId>), Fault> {
    let unknown = || {
        Fault::not_found(format!(
            "Instance group {} could not be found.",
            call.param(0)
        ))
    };
    let id: GroupId = call.param(0).parse().map_err(|_| unknown())?;
    let found = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<_, sql::Error> {
            let Some(group) = db::server_groups::get(tx, id)? else {
                return Ok(None);
            };
            let members = db::server_groups::members(tx, &[id])?
                .remove(&id)
                .unwrap_or_default();
            Ok(Some((group, members)))
        })
        .await?;
    let (group, members) = found.ok_or_else(unknown)?;
    if group.project_id != call.project() && !call.is_admin() {
        return Err(unknown());
    }
    if let Some(rule) = call.route.policy {
        call.require_for(rule, &group.project_id, &group.user_id)?;
    }
    Ok((group, members))
}

/// `GET /{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let (group, members) = in_path(&call).await?;
    Reply::ok(&json!({ "server_group": document(&call, &group, &members) }))
}

/// `DELETE /{id}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let id = in_path(&call).await?.0.id;
    call.api
        .deps
        .store
        .write(move |tx| db::server_groups::delete(tx, id))
        .await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// `POST`.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let field = |name: &str| call.field("server_group", name);
    let policy = field("policy").or_else(|| field("policies").and_then(|list| list.get(0)));
    let policy = policy
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let most = field("rules")
        .and_then(|rules| rules.get("max_server_per_host"))
        .and_then(number);
    if most.is_some() && policy != "anti-affinity" {
        return Err(Fault::bad_request(
            "Only anti-affinity policy supports rules.",
        ));
    }
    let group = Group {
        id: GroupId::random(),
        project_id: call.project().to_owned(),
        user_id: call.caller.user_id.clone(),
        name: call
            .text("server_group", "name")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        policy,
        max_server_per_host: most,
    };
    let stored = group.clone();
    let now = Timestamp::now();
    call.api
        .deps
        .store
        .write(move |tx| -> Result<(), Fault> {
            let (project, user) = (&stored.project_id, &stored.user_id);
            let (whole, own) = db::quotas::of_both(tx, project, user)?;
            for (limits, of) in [(whole, None), (own, Some(user.as_str()))] {
                let most = limits.get("server_groups").copied().unwrap_or(-1);
                if most >= 0 && db::server_groups::count(tx, project, of)? >= most {
                    return Err(Fault::forbidden("Quota exceeded, too many server groups."));
                }
            }
            Ok(db::server_groups::insert(tx, &stored, now)?)
        })
        .await?;
    Reply::ok(&json!({ "server_group": document(&call, &group, &[]) }))
}
