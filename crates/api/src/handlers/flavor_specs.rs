//! `/flavors/{id}/os-extra_specs`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::flavors::in_path;
use crate::mv;
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use types::Timestamp;

fn missing(call: &Call) -> Fault {
    Fault::not_found(format!(
        "Flavor {} has no extra specs with key {}.",
        call.param(0),
        call.param(1)
    ))
}

/// `GET`: all.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    Reply::ok(&json!({ "extra_specs": in_path(&call).await?.flavor.extra_specs }))
}

/// `GET /{key}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let record = in_path(&call).await?;
    let value = record
        .flavor
        .extra_specs
        .get(call.param(1))
        .ok_or_else(|| missing(&call))?;
    Reply::ok(&json!({ call.param(1): value }))
}

/// The texts of a checked object; numbers become texts.
fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs
        .map(|(key, value)| {
            (
                key.clone(),
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            )
        })
        .collect()
}

async fn merge(call: &Call, specs: &BTreeMap<String, String>) -> Result<(), Fault> {
    if call.at_least(mv::CHECKED_EXTRA_SPECS) {
        specs
            .iter()
            .try_for_each(|(key, value)| check(key, value))?;
    }
    let record = in_path(call).await?;
    let mut all = record.flavor.extra_specs;
    all.extend(specs.clone());
    let now = Timestamp::now();
    call.api
        .deps
        .store
        .write(move |tx| db::flavors::set_extra_specs(tx, record.row, &all, now))
        .await?;
    Ok(())
}

/// The namespaces whose keys are known; others are free.
const KNOWN: [(&str, &[&str]); 3] = [
    (
        "hw:",
        &[
            "boot_menu",
            "cpu_cores",
            "cpu_dedicated_mask",
            "cpu_emulator_threads",
            "cpu_emulator_threads_policy",
            "cpu_max_cores",
            "cpu_max_sockets",
            "cpu_max_threads",
            "cpu_policy",
            "cpu_realtime",
            "cpu_realtime_mask",
            "cpu_sockets",
            "cpu_thread_policy",
            "cpu_threads",
            "ephemeral_encryption",
            "ephemeral_encryption_format",
            "hide_hypervisor_id",
            "locked_memory",
            "maxphysaddr_bits",
            "maxphysaddr_mode",
            "mem_encryption",
            "mem_encryption_model",
            "mem_page_size",
            "numa_nodes",
            "pci_numa_affinity_policy",
            "pmem",
            "serial_port_count",
            "sound_model",
            "tpm_model",
            "tpm_secret_security",
            "tpm_version",
            "usb_model",
            "viommu_model",
            "virtio_packed_ring",
            "vif_multiqueue_enabled",
            "watchdog_action",
        ],
    ),
    (
        "quota:",
        &[
            "cpu_limit",
            "cpu_period",
            "cpu_quota",
            "cpu_reservation",
            "cpu_shares",
            "cpu_shares_level",
            "cpu_shares_share",
            "disk_io_limit",
            "disk_io_reservation",
            "disk_io_shares_level",
            "disk_io_shares_share",
            "disk_read_bytes_sec",
            "disk_read_iops_sec",
            "disk_total_bytes_sec",
            "disk_total_iops_sec",
            "disk_write_bytes_sec",
            "disk_write_iops_sec",
            "memory_limit",
            "memory_reservation",
            "memory_shares_level",
            "memory_shares_share",
            "vif_inbound_average",
            "vif_inbound_burst",
            "vif_inbound_peak",
            "vif_limit",
            "vif_outbound_average",
            "vif_outbound_burst",
            "vif_outbound_peak",
            "vif_reservation",
            "vif_shares_level",
            "vif_shares_share",
        ],
    ),
    ("hw_rng:", &["allowed", "rate_bytes", "rate_period"]),
];

/// From 2.86 a misspelt key of a known namespace is refused, and some values are checked.
fn check(key: &str, value: &str) -> Result<(), Fault> {
    let Some((namespace, names)) = KNOWN
        .iter()
        .find(|(namespace, _)| key.starts_with(namespace))
    else {
        return Ok(());
    };
    let name = &key[namespace.len()..];
    let numbered = name.starts_with("numa_cpus.") || name.starts_with("numa_mem.");
    if !names.contains(&name) && !numbered {
        return Err(Fault::bad_request(format!(
            "Validation failed; extra spec '{key}' does not appear to be a valid extra spec."
        )));
    }
    let allowed: &[&str] = match key {
        "hw:cpu_policy" => &["dedicated", "shared", "mixed"],
        "hw:cpu_thread_policy" => &["prefer", "isolate", "require"],
        "hw:watchdog_action" => &["none", "pause", "poweroff", "reset", "disabled"],
        _ => return Ok(()),
    };
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(Fault::bad_request(format!(
        "Validation failed; '{value}' is not one of: {}.",
        allowed.join(", ")
    )))
}

/// `POST`: adds and replaces.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let specs = texts(call.body.get("extra_specs"));
    merge(&call, &specs).await?;
    Reply::ok(&json!({ "extra_specs": specs }))
}

/// `PUT /{key}`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let specs = texts(Some(&call.body));
    if !specs.contains_key(call.param(1)) {
        return Err(Fault::bad_request("Request body and URI mismatch"));
    }
    merge(&call, &specs).await?;
    Reply::ok(&specs)
}

/// `DELETE /{key}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let record = in_path(&call).await?;
    let mut specs = record.flavor.extra_specs;
    specs.remove(call.param(1)).ok_or_else(|| missing(&call))?;
    let now = Timestamp::now();
    call.api
        .deps
        .store
        .write(move |tx| db::flavors::set_extra_specs(tx, record.row, &specs, now))
        .await?;
    Ok(Reply::empty(StatusCode::OK))
}
