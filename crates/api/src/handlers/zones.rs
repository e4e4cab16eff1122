//! `/os-availability-zone`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use db::hosts::Service;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use types::Timestamp;

/// Services and the zones of hosts.
async fn read(call: &Call) -> Result<(Vec<Service>, HashMap<String, String>), Fault> {
    let reading = call.api.deps.store.read(|tx| -> Result<_, sql::Error> {
        Ok((db::hosts::services(tx)?, db::aggregates::zones(tx)?))
    });
    Ok(reading.await?)
}

/// Zones with their services; a zone is available while one of its hosts is enabled.
fn grouped<'a>(
    call: &Call,
    services: &'a [Service],
    zones: &HashMap<String, String>,
) -> BTreeMap<String, Vec<&'a Service>> {
    let mut grouped: BTreeMap<String, Vec<&Service>> = BTreeMap::new();
    for service in services {
        let zone = if service.binary == "nova-compute" {
            zones
                .get(service.host.as_str())
                .cloned()
                .unwrap_or_else(|| call.api.config.default_zone.clone())
        } else {
            call.api.config.internal_zone.clone()
        };
        grouped.entry(zone).or_default().push(service);
    }
    grouped
}

/// `GET`: names and whether they are available.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let (services, zones) = read(&call).await?;
    let grouped = grouped(&call, &services, &zones);
    let list: Vec<Value> = grouped
        .iter()
        .filter(|(zone, _)| **zone != call.api.config.internal_zone)
        .map(|(zone, services)| {
            let available = services.iter().any(|service| !service.disabled);
            json!({ "zoneName": zone, "zoneState": { "available": available }, "hosts": null })
        })
        .collect();
    Reply::ok(&json!({ "availabilityZoneInfo": list }))
}

/// `GET /detail`: with hosts and services.
pub async fn detail(call: Call) -> Result<Reply, Fault> {
    let (services, zones) = read(&call).await?;
    let now = Timestamp::now();
    let down_after = call.api.config.service_down_micros;
    let list: Vec<Value> = grouped(&call, &services, &zones)
        .iter()
        .map(|(zone, services)| {
            let mut hosts: Map<String, Value> = Map::new();
            for service in services {
                let entry = hosts
                    .entry(service.host.to_string())
                    .or_insert_with(|| json!({}));
                entry[&service.binary] = json!({
                    "active": !service.disabled,
                    "available": service.is_up(now, down_after),
                    "updated_at": service.updated_at.map(Timestamp::iso_micros),
                });
            }
            let available = services.iter().any(|service| !service.disabled);
            json!({ "zoneName": zone, "zoneState": { "available": available }, "hosts": hosts })
        })
        .collect();
    Reply::ok(&json!({ "availabilityZoneInfo": list }))
}
