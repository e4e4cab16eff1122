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

/// Zones with those of their services that are enabled. One that has none is not available, and comes after those that are
/// (Nova's `get_availability_zones`).
fn grouped<'a>(
    call: &Call,
    services: &'a [Service],
    zones: &HashMap<String, String>,
) -> Vec<(String, Vec<&'a Service>)> {
    let mut grouped: BTreeMap<String, Vec<&Service>> = BTreeMap::new();
    for service in services {
        let zone = if service.binary == "nova-compute" {
            zones
                .get(service.host.as_str())
                .cloned()
                .unwrap_or_else(|| call.api.config.scheduling.default_zone.clone())
        } else {
            call.api.config.internal_zone.clone()
        };
        let enabled = grouped.entry(zone).or_default();
        if !service.disabled {
            enabled.push(service);
        }
    }
    let (mut first, mut last): (Vec<_>, Vec<_>) = grouped
        .into_iter()
        .partition(|(_, enabled)| !enabled.is_empty());
    first.append(&mut last);
    first
}

fn shown(zone: &str, enabled: &[&Service], hosts: Value) -> Value {
    let available = !enabled.is_empty();
    json!({ "zoneName": zone, "zoneState": { "available": available }, "hosts": hosts })
}

/// `GET`: names and whether they are available.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let (services, zones) = read(&call).await?;
    let list: Vec<Value> = grouped(&call, &services, &zones)
        .iter()
        .filter(|(zone, _)| *zone != call.api.config.internal_zone)
        .map(|(zone, enabled)| shown(zone, enabled, Value::Null))
        .collect();
    Reply::ok(&json!({ "availabilityZoneInfo": list }))
}

/// The enabled services of a zone by host, or nothing where there are none.
fn hosts(call: &Call, enabled: &[&Service]) -> Value {
    if enabled.is_empty() {
        return Value::Null;
    }
    let (now, down_after) = (Timestamp::now(), call.api.config.service_down_micros);
    let mut hosts: Map<String, Value> = Map::new();
    for service in enabled {
        let entry = hosts
            .entry(service.host.to_string())
            .or_insert_with(|| json!({}));
        entry[&service.binary] = json!({
            "active": true,
            "available": service.is_up(now, down_after),
            "updated_at": service.updated_at.map(Timestamp::iso_micros),
        });
    }
    hosts.into()
}

/// `GET /detail`: with hosts and services.
pub async fn detail(call: Call) -> Result<Reply, Fault> {
    let (services, zones) = read(&call).await?;
    let list: Vec<Value> = grouped(&call, &services, &zones)
        .iter()
        .map(|(zone, enabled)| shown(zone, enabled, hosts(&call, enabled)))
        .collect();
    Reply::ok(&json!({ "availabilityZoneInfo": list }))
}
