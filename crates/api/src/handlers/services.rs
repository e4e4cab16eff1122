//! `/os-services`: the processes of the cloud; disabling one keeps new servers from its host.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::schemas::{formats, is_true};
use db::hosts::Service;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use types::{HostName, ServiceId, Timestamp};

fn document(call: &Call, service: &Service, zones: &HashMap<String, String>) -> Value {
    let config = &call.api.config;
    let zone = if service.binary == "nova-compute" {
        zones
            .get(service.host.as_str())
            .unwrap_or(&config.scheduling.default_zone)
    } else {
        &config.internal_zone
    };
    let mut map = Map::new();
    let uuids = call.at_least(mv::UUIDS_OF_HOSTS);
    map.insert(
        "id".to_owned(),
        if uuids {
            json!(service.uuid)
        } else {
            json!(service.id)
        },
    );
    map.insert("binary".to_owned(), json!(service.binary));
    map.insert("host".to_owned(), json!(service.host));
    map.insert("zone".to_owned(), json!(zone));
    map.insert(
        "status".to_owned(),
        json!(if service.disabled {
            "disabled"
        } else {
            "enabled"
        }),
    );
    map.insert(
        "state".to_owned(),
        json!(
            if service.is_up(Timestamp::now(), config.service_down_micros) {
                "up"
            } else {
                "down"
            }
        ),
    );
    map.insert(
        "updated_at".to_owned(),
        json!(service.updated_at.map(Timestamp::iso_micros)),
    );
    map.insert("disabled_reason".to_owned(), json!(service.disabled_reason));
    if call.at_least(mv::FORCED_DOWN) {
        map.insert("forced_down".to_owned(), json!(service.forced_down));
    }
    map.into()
}

async fn read(call: &Call) -> Result<(Vec<Service>, HashMap<String, String>), Fault> {
    let reading = call.api.deps.store.read(|tx| -> Result<_, sql::Error> {
        Ok((db::hosts::services(tx)?, db::aggregates::zones(tx)?))
    });
    Ok(reading.await?)
}

/// `GET`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let (services, zones) = read(&call).await?;
    // An empty filter is none.
    let filter = |name: &str| call.query.get(name).filter(|text| !text.is_empty());
    let (host, binary) = (filter("host"), filter("binary"));
    let fits = |service: &&Service| {
        host.is_none_or(|host| service.host.as_str() == host)
            && binary.is_none_or(|binary| service.binary == binary)
    };
    let list: Vec<Value> = services
        .iter()
        .filter(fits)
        .map(|service| document(&call, service, &zones))
        .collect();
    Reply::ok(&json!({ "services": list }))
}

fn find_by_uuid<'a>(call: &Call, services: &'a [Service]) -> Result<&'a Service, Fault> {
    let text = call.param(0);
    if !formats::uuid(text) {
        return Err(Fault::bad_request(format!("Invalid uuid {text}")));
    }
    let id: Option<ServiceId> = text.parse().ok();
    let found = services.iter().find(|service| Some(service.uuid) == id);
    found.ok_or_else(|| Fault::not_found(format!("Service {text} could not be found.")))
}

/// `PUT /{...}`: below 2.53 the path is a verb and the body names the service, then the path is its id.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    if call.at_least(mv::UUIDS_OF_HOSTS) {
        update_by_uuid(call).await
    } else {
        update_by_verb(call).await
    }
}

async fn update_by_uuid(call: Call) -> Result<Reply, Fault> {
    let (services, _) = read(&call).await?;
    let service = find_by_uuid(&call, &services)?.clone();
    demand_compute(&service.binary)?;
    let text = |name: &str| call.body.get(name).and_then(Value::as_str);
    let (status, reason) = (text("status"), text("disabled_reason").map(str::to_owned));
    let forced = call.body.get("forced_down").map(is_true);
    if status == Some("enabled") && reason.is_some() {
        return Err(Fault::bad_request(
            "Specifying 'disabled_reason' with status 'enabled' is invalid.",
        ));
    }
    if status.is_none() && forced.is_none() {
        return Err(Fault::bad_request(
            "No updates were requested. Fields 'status' or 'forced_down' should be specified.",
        ));
    }
    let wanted = Wanted {
        disabled: status.map(|status| status == "disabled"),
        reason,
        forced_down: forced,
    };
    change(&call, &service, wanted).await?;
    let (services, zones) = read(&call).await?;
    Reply::ok(&json!({ "service": document(&call, find_by_uuid(&call, &services)?, &zones) }))
}

/// Only hosts can be told anything.
fn demand_compute(binary: &str) -> Result<(), Fault> {
    if binary == "nova-compute" {
        return Ok(());
    }
    Err(Fault::bad_request(format!(
        "Updating a {binary} service is not supported. Only nova-compute services can be updated."
    )))
}

/// What becomes of a service.
#[derive(Default)]
struct Wanted {
    disabled: Option<bool>,
    /// Why it is disabled.
    reason: Option<String>,
    forced_down: Option<bool>,
}

async fn change(call: &Call, service: &Service, wanted: Wanted) -> Result<(), Fault> {
    let (id, host, now) = (service.uuid, service.host.clone(), Timestamp::now());
    let writing = call.api.deps.store.write(move |tx| -> Result<(), Fault> {
        if wanted.forced_down == Some(false) && db::migrations::any_evacuated_from(tx, &host)? {
            return Err(Fault::bad_request(format!(
                "Unable to force up host {host} as `done` evacuation migration records remain associated with the host. \
                 Ensure the compute service has been restarted, allowing these records to move to `completed` before \
                 retrying this request."
            )));
        }
        if let Some(disabled) = wanted.disabled {
            let reason = wanted.reason.as_deref().filter(|_| disabled);
            db::hosts::set_disabled(tx, id, disabled, reason, now)?;
        }
        if let Some(forced) = wanted.forced_down {
            db::hosts::set_forced_down(tx, id, forced, now)?;
        }
        Ok(())
    });
    writing.await
}

async fn update_by_verb(call: Call) -> Result<Reply, Fault> {
    let text = |name: &str| call.body.get(name).and_then(Value::as_str);
    let (host, binary) = (
        text("host").unwrap_or_default(),
        text("binary").unwrap_or_default(),
    );
    let mut shown = json!({ "host": host, "binary": binary });
    let mut wanted = Wanted::default();
    match call.param(0) {
        "enable" => wanted.disabled = Some(false),
        "disable" => wanted.disabled = Some(true),
        "disable-log-reason" => {
            let reason = text("disabled_reason");
            let reason =
                reason.ok_or_else(|| Fault::bad_request("Missing disabled reason field"))?;
            wanted.disabled = Some(true);
            wanted.reason = Some(reason.to_owned());
            shown["disabled_reason"] = json!(reason);
        }
        "force-down" if call.at_least(mv::FORCED_DOWN) => {
            let forced = call.body.get("forced_down").map(is_true);
            let forced = forced.ok_or_else(|| Fault::bad_request("Missing forced_down field"))?;
            wanted.forced_down = Some(forced);
            shown["forced_down"] = json!(forced);
        }
        _ => return Err(Fault::not_found("Unknown action")),
    }
    if let Some(disabled) = wanted.disabled {
        shown["status"] = json!(if disabled { "disabled" } else { "enabled" });
    }
    demand_compute(binary)?;
    let (services, _) = read(&call).await?;
    let found = services
        .iter()
        .find(|service| service.host.as_str() == host && service.binary == binary)
        .ok_or_else(|| {
            Fault::not_found(format!("Could not find binary {binary} on host {host}."))
        })?;
    change(&call, found, wanted).await?;
    Reply::ok(&json!({ "service": shown }))
}

/// `DELETE /{id}`: forgets a service whose host is gone for good.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let (services, _) = read(&call).await?;
    let service = if call.at_least(mv::UUIDS_OF_HOSTS) {
        find_by_uuid(&call, &services)?
    } else {
        let text = call.param(0);
        let id: i64 = text.parse().map_err(|_| {
            Fault::bad_request(format!("Invalid input received: {text} is not a number"))
        })?;
        services
            .iter()
            .find(|service| service.id == id)
            .ok_or_else(|| Fault::not_found(format!("Service {id} could not be found.")))?
    };
    let service = service.clone();
    let store = &call.api.deps.store;
    let removing = store.write(move |tx| -> Result<(), Fault> {
        if service.binary == "nova-compute" {
            forget_host(tx, &service.host)?;
        }
        db::hosts::remove_service(tx, service.uuid)?;
        Ok(())
    });
    removing.await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Removes what is known of a host with its compute service, unless something there is still somebody's.
fn forget_host(tx: &mut sql::Tx<'_>, host: &HostName) -> Result<(), Fault> {
    if db::hosts::servers_on(tx, std::slice::from_ref(&host.0))? > 0 {
        return Err(Fault::conflict(
            "Unable to delete compute service that is hosting instances. Migrate or delete the instances first.",
        ));
    }
    if !db::migrations::open_of_host(tx, host)?.is_empty() {
        return Err(Fault::conflict(
            "Unable to delete compute service that has in-progress migrations. Complete the migrations or delete the \
             instances first.",
        ));
    }
    Ok(db::hosts::remove_node(tx, host, Timestamp::now())?)
}
