//! `POST /os-server-external-events`: what other services tell about servers.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::HashMap;
use types::{ServerId, Timestamp};

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

/// Has guests told that their volumes have grown: what is answered as accepted is on record.
async fn tell(call: &Call, grown: Vec<(ServerId, String)>) -> Result<(), Fault> {
    let asker = call.requester();
    let accepting = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<bool, sql::Error> {
            let mut begins = false;
            for (server, volume) in &grown {
                let by = asker.as_requester();
                begins |= db::grown::accept(tx, *server, volume, &by, Timestamp::now())?;
            }
            Ok(begins)
        });
    if accepting.await? {
        call.api.deps.bus.ring(bus::Bell::Tasks);
    }
    Ok(())
}

/// `POST`. An accepted `network-*` event has the servers' ports and addresses read again (a
/// server that has lost a port loses the interface), `volume-extended` has the guest told,
/// as soon as nobody works on the server.
/// Plugged interfaces are reported by the hosts themselves, rebuilding looks at volumes by itself, and there are no
/// accelerators or bare metal to which the other events could apply.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let mut events = call.body["events"].as_array().cloned().unwrap_or_default();
    let placed = placed(&call, &events).await?;
    let (mut all_well, mut networks) = (true, false);
    let mut grown: Vec<(ServerId, String)> = Vec::new();
    for event in &mut events {
        let code = code(event, &placed);
        event["code"] = json!(code);
        event["status"] = json!(if code == 200 { "completed" } else { "failed" });
        all_well &= code == 200;
        let name = event["name"].as_str().unwrap_or_default();
        networks |= code == 200 && name.starts_with("network-");
        if let ("volume-extended", 200, Some(server), Some(volume)) = (
            name,
            code,
            event["server_uuid"].as_str().and_then(|id| id.parse().ok()),
            event["tag"].as_str(),
        ) {
            grown.push((server, volume.to_owned()));
        }
        tracing::info!(name, server = %event["server_uuid"], code, "an external event");
    }
    if !grown.is_empty() {
        tell(&call, grown).await?;
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
