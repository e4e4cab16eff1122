//! `/servers/{id}/os-instance-actions`: what was done to a server, and how it went.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use db::actions::{Action, Event};
use db::instances::Instance;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224};
use types::{ServerId, Timestamp};

const EVENTS: &str = "os_compute_api:os-instance-actions:events";
const DETAILS: &str = "os_compute_api:os-instance-actions:events:details";

/// The server in the path; from 2.21 deleted ones too.
async fn server(call: &Call) -> Result<Instance, Fault> {
    let unknown = || Fault::no_server(call.param(0));
    let id: ServerId = call.param(0).parse().map_err(|_| unknown())?;
    let found = call
        .api
        .deps
        .store
        .read(move |tx| db::instances::find(tx, id))
        .await?
        .ok_or_else(unknown)?;
    let own = found.project_id.as_str() == call.project() || call.is_admin();
    if !own || (found.deleted && !call.at_least(mv::ACTIONS_OF_DELETED)) {
        return Err(unknown());
    }
    call.allowed_on(&found)?;
    Ok(found)
}

fn entry(call: &Call, action: &Action) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("action".to_owned(), json!(action.action));
    map.insert("instance_uuid".to_owned(), json!(action.server));
    map.insert("request_id".to_owned(), json!(action.request_id));
    map.insert("user_id".to_owned(), json!(action.user_id));
    map.insert("project_id".to_owned(), json!(action.project_id));
    map.insert(
        "start_time".to_owned(),
        json!(action.start_time.iso_micros()),
    );
    map.insert("message".to_owned(), json!(action.message));
    if call.at_least(mv::ACTION_PAGES) {
        map.insert(
            "updated_at".to_owned(),
            json!(action.updated_at.iso_micros()),
        );
    }
    map
}

/// `GET`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let server = server(&call).await?;
    let id = server.id;
    let mut actions = call
        .api
        .deps
        .store
        .read(move |tx| db::actions::of_server(tx, id))
        .await?;
    let time = |name: &str| call.query.get(name).and_then(Timestamp::parse);
    let (since, before) = (time("changes-since"), time("changes-before"));
    if let (Some(since), Some(before)) = (since, before)
        && since > before
    {
        return Err(Fault::bad_request(
            "The value of changes-since must be less than or equal to changes-before.",
        ));
    }
    actions.retain(|action| {
        since.is_none_or(|since| action.updated_at >= since)
            && before.is_none_or(|before| action.updated_at <= before)
    });
    let mut next = None;
    if call.at_least(mv::ACTION_PAGES) {
        if let Some(marker) = call.query.get("marker") {
            let at = actions
                .iter()
                .position(|action| action.request_id == marker);
            let at =
                at.ok_or_else(|| Fault::bad_request(format!("marker [{marker}] not found")))?;
            actions.drain(..=at);
        }
        let limit = call.limit()?;
        actions.truncate(limit);
        next = actions
            .last()
            .filter(|_| limit > 0 && actions.len() == limit)
            .map(|action| action.request_id.clone());
    }
    let list: Vec<Value> = actions
        .iter()
        .map(|action| entry(&call, action).into())
        .collect();
    let mut document = json!({ "instanceActions": list });
    if let Some(marker) = next {
        let path = format!("/servers/{id}/os-instance-actions");
        document["links"] = json!(call.links.next(&path, call.query.pairs(), &marker));
    }
    Reply::ok(&document)
}

fn event(call: &Call, project: &str, event: &Event, whole: bool, details: bool) -> Value {
    let mut map = Map::new();
    map.insert("event".to_owned(), json!(event.event));
    map.insert(
        "start_time".to_owned(),
        json!(event.start_time.iso_micros()),
    );
    map.insert(
        "finish_time".to_owned(),
        json!(event.finish_time.map(Timestamp::iso_micros)),
    );
    map.insert("result".to_owned(), json!(event.result));
    if whole {
        map.insert("traceback".to_owned(), json!(event.traceback));
    }
    if call.at_least(mv::EVENT_HOST) {
        let host = event.host.as_deref();
        if whole {
            // A step that no host did: a text as of all others, for those who check the answer.
            map.insert("host".to_owned(), json!(host.unwrap_or_default()));
        }
        let host_id = host.map(|host| {
            hex::encode(
                Sha224::new()
                    .chain_update(project)
                    .chain_update(host)
                    .finalize(),
            )
        });
        map.insert("hostId".to_owned(), json!(host_id.unwrap_or_default()));
    }
    if details && call.at_least(mv::EVENT_DETAILS) {
        map.insert("details".to_owned(), json!(event.details));
    }
    map.into()
}

/// `GET /{request}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let server = server(&call).await?;
    let (id, request) = (server.id, call.param(1).to_owned());
    let found = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<_, sql::Error> {
            let Some(action) = db::actions::by_request(tx, id, &request)? else {
                return Ok(None);
            };
            let events = db::actions::events(tx, action.id)?;
            Ok(Some((action, events)))
        })
        .await?;
    let unknown = || {
        Fault::not_found(format!(
            "Action for request_id {} on instance {id} not found",
            call.param(1)
        ))
    };
    let (action, events) = found.ok_or_else(unknown)?;
    let mut map = entry(&call, &action);
    let (project, user) = (server.project_id.as_str(), server.user_id.as_str());
    let whole = call.may_for(EVENTS, project, user);
    let details = call.may_for(DETAILS, project, user);
    if whole || call.at_least(mv::EVENTS_FOR_ALL) {
        let list: Vec<Value> = events
            .iter()
            .map(|one| event(&call, project, one, whole, details))
            .collect();
        map.insert("events".to_owned(), list.into());
    }
    Reply::ok(&json!({ "instanceAction": map }))
}
