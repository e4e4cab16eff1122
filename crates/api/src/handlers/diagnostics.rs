//! `GET /servers/{id}/diagnostics`: counters of a running guest, in the words of the driver or, since 2.48, in Nova's own.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::server_actions::ask;
use crate::mv;
use db::instances::Instance;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use types::agent::Question;
use types::{PowerState, Timestamp};

/// What a host tells of a guest.
#[derive(Deserialize)]
struct Told {
    power: PowerState,
    driver: String,
    hypervisor: String,
    memory_maximum_mib: u64,
    memory_used_mib: Option<u64>,
    cpus: Vec<Cpu>,
    nics: Vec<Nic>,
    disks: Vec<Disk>,
}

#[derive(Deserialize)]
struct Cpu {
    id: u32,
    time_ns: u64,
}

#[derive(Deserialize)]
struct Nic {
    device: String,
    mac: String,
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: u64,
    rx_drop: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: u64,
    tx_drop: u64,
}

#[derive(Deserialize)]
struct Disk {
    device: String,
    read_bytes: u64,
    read_requests: u64,
    write_bytes: u64,
    write_requests: u64,
    errors: u64,
}

/// The fields of 2.48; what nobody counts is null.
fn standard(server: &Instance, told: &Told, now: Timestamp) -> Value {
    let cpu = |cpu: &Cpu| json!({ "id": cpu.id, "time": cpu.time_ns, "utilisation": null });
    let nic = |nic: &Nic| {
        json!({
            "mac_address": nic.mac, "rx_octets": nic.rx_bytes, "rx_packets": nic.rx_packets, "rx_errors": nic.rx_errors,
            "rx_drop": nic.rx_drop, "rx_rate": null, "tx_octets": nic.tx_bytes, "tx_packets": nic.tx_packets,
            "tx_errors": nic.tx_errors, "tx_drop": nic.tx_drop, "tx_rate": null,
        })
    };
    let disk = |disk: &Disk| {
        json!({
            "read_bytes": disk.read_bytes, "read_requests": disk.read_requests, "write_bytes": disk.write_bytes,
            "write_requests": disk.write_requests, "errors_count": disk.errors,
        })
    };
    let uptime = server
        .launched_at
        .map(|at| (now.0 - at.0).max(0) / 1_000_000);
    json!({
        "state": state(told.power), "driver": told.driver, "hypervisor": told.hypervisor, "hypervisor_os": "linux",
        "uptime": uptime, "config_drive": server.config_drive, "num_cpus": told.cpus.len(), "num_nics": told.nics.len(),
        "num_disks": told.disks.len(),
        "memory_details": { "maximum": told.memory_maximum_mib, "used": told.memory_used_mib },
        "cpu_details": told.cpus.iter().map(cpu).collect::<Vec<_>>(),
        "nic_details": told.nics.iter().map(nic).collect::<Vec<_>>(),
        "disk_details": told.disks.iter().map(disk).collect::<Vec<_>>(),
    })
}

fn state(power: PowerState) -> &'static str {
    match power {
        PowerState::NoState => "pending",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Shutdown => "shutdown",
        PowerState::Crashed => "crashed",
        PowerState::Suspended => "suspended",
    }
}

/// The flat fields below 2.48, named after devices; memory is in KiB.
fn of_driver(told: &Told) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: String, value: u64| fields.insert(name, value.into());
    for cpu in &told.cpus {
        put(format!("cpu{}_time", cpu.id), cpu.time_ns);
    }
    for disk in &told.disks {
        put(format!("{}_read", disk.device), disk.read_bytes);
        put(format!("{}_read_req", disk.device), disk.read_requests);
        put(format!("{}_write", disk.device), disk.write_bytes);
        put(format!("{}_write_req", disk.device), disk.write_requests);
        put(format!("{}_errors", disk.device), disk.errors);
    }
    for nic in &told.nics {
        put(format!("{}_rx", nic.device), nic.rx_bytes);
        put(format!("{}_rx_packets", nic.device), nic.rx_packets);
        put(format!("{}_rx_errors", nic.device), nic.rx_errors);
        put(format!("{}_rx_drop", nic.device), nic.rx_drop);
        put(format!("{}_tx", nic.device), nic.tx_bytes);
        put(format!("{}_tx_packets", nic.device), nic.tx_packets);
        put(format!("{}_tx_errors", nic.device), nic.tx_errors);
        put(format!("{}_tx_drop", nic.device), nic.tx_drop);
    }
    put("memory".to_owned(), told.memory_maximum_mib * 1024);
    if let Some(used) = told.memory_used_mib {
        put("memory-actual".to_owned(), used * 1024);
    }
    fields
}

/// `GET /servers/{id}/diagnostics`.
pub async fn diagnostics(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    // One without a host is not ready, which is found out when it is asked.
    if server.host.is_some() && server.power_state != PowerState::Running {
        let message = format!(
            "Cannot 'get_diagnostics' instance {} while it is in power state {}",
            server.id,
            state(server.power_state)
        );
        return Err(Fault::conflict(message));
    }
    let text = ask(&call, &server, Question::Diagnostics).await?;
    let told: Told = serde_json::from_str(&text).map_err(Fault::internal)?;
    if call.at_least(mv::DIAGNOSTICS) {
        Reply::ok(&standard(&server, &told, Timestamp::now()))
    } else {
        Reply::ok(&of_driver(&told))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As `virt::facts::Diagnostics` is written.
    fn told() -> Told {
        serde_json::from_value(json!({
            "power": "Paused", "driver": "libvirt", "hypervisor": "kvm", "memory_maximum_mib": 512, "memory_used_mib": null,
            "cpus": [{ "id": 0, "time_ns": 17 }],
            "nics": [{
                "device": "tap1", "mac": "fa:16:3e:00:00:01", "rx_bytes": 1, "rx_packets": 2, "rx_errors": 3, "rx_drop": 4,
                "tx_bytes": 5, "tx_packets": 6, "tx_errors": 7, "tx_drop": 8,
            }],
            "disks": [{
                "device": "vda", "read_bytes": 1, "read_requests": 2, "write_bytes": 3, "write_requests": 4, "errors": 5,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn old_names_hold_the_devices() {
        let fields = of_driver(&told());
        assert_eq!(fields["memory"], 524_288);
        assert_eq!(fields["cpu0_time"], 17);
        assert_eq!(fields["vda_write_req"], 4);
        assert_eq!(fields["tap1_tx_drop"], 8);
        assert!(!fields.contains_key("memory-actual"));
    }

    #[test]
    fn standard_fields_come_from_the_guest() {
        let mut server = crate::tests::server_history::instance();
        server.launched_at = Some(Timestamp(1_000_000));
        let shown = standard(&server, &told(), Timestamp(4_500_000));
        assert_eq!(shown["uptime"], 3);
        assert_eq!(shown["state"], "paused");
        assert_eq!(
            shown["memory_details"],
            json!({ "maximum": 512, "used": null })
        );
        assert_eq!(shown["nic_details"][0]["tx_octets"], 5);
        assert_eq!(shown["disk_details"][0]["errors_count"], 5);
        assert_eq!(shown["num_disks"], 1);
    }
}
