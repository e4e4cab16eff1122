//! `POST /os-server-external-events`: what other services tell about servers.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::HashMap;
use types::ServerId;

/// Events that say nothing without a tag.
const TAG_REQUIRED: [&str; 3] = [
    "volume-extended",
    "power-update",
    "accelerator-request-bound",
];

/// Where the servers are: on a host, or nowhere yet.
async fn placed(call: &Call, events: &[Value]) -> Result<HashMap<ServerId, bool>, Fault> {
    let mut ids: Vec<ServerId> = events
        .iter()
        .filter_map(|event| event["server_uuid"].as_str()?.parse().ok())
        .collect();
    ids.sort_unstable_by_key(ToString::to_string);
    ids.dedup();
    let reading = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<_, sql::Error> {
            let mut found = HashMap::new();
            for id in &ids {
                if let Some(server) = db::instances::get(tx, *id)? {
                    found.insert(*id, server.host.is_some());
                }
            }
            Ok(found)
        });
    Ok(reading.await?)
}

/// The code of one event.
fn code(event: &Value, placed: &HashMap<ServerId, bool>) -> u16 {
    let id: Option<ServerId> = event["server_uuid"].as_str().and_then(|id| id.parse().ok());
    let Some(on_host) = id.and_then(|id| placed.get(&id)) else {
        return 404;
    };
    let name = event["name"].as_str().unwrap_or_default();
    if TAG_REQUIRED.contains(&name) && event["tag"].is_null() {
        400
    } else if *on_host {
        200
    } else {
        422
    }
}

/// `POST`. An accepted `network-*` event has the servers' addresses read again. Plugged interfaces are reported by the
/// hosts themselves, and there are no volumes, accelerators or bare metal to which the other events could apply.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let mut events = call.body["events"].as_array().cloned().unwrap_or_default();
    let placed = placed(&call, &events).await?;
    let (mut all_well, mut networks) = (true, false);
    for event in &mut events {
        let code = code(event, &placed);
        event["code"] = json!(code);
        event["status"] = json!(if code == 200 { "completed" } else { "failed" });
        all_well &= code == 200;
        let name = event["name"].as_str().unwrap_or_default();
        networks |= code == 200 && name.starts_with("network-");
        tracing::info!(name, server = %event["server_uuid"], code, "an external event");
    }
    if networks {
        call.api.deps.bus.ring(bus::Bell::Addresses);
    }
    let status = if all_well {
        StatusCode::OK
    } else {
        StatusCode::MULTI_STATUS
    };
    Reply::json(status, &json!({ "events": events }))
}
