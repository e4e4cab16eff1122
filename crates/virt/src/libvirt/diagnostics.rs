//! Turns libvirt's statistics into the diagnostics of the API.

use super::calls::DomainStats;
use crate::facts::{CpuDiagnostics, Diagnostics, DiskDiagnostics, NicDiagnostics};
use crate::spec::GuestSpec;

/// Most devices of one kind that are read.
const MOST: u64 = 256;

/// Reads the counters; `spec` adds what libvirt does not say (MAC addresses).
pub fn read(stats: &DomainStats, spec: Option<&GuestSpec>, kvm: bool) -> Diagnostics {
    let number = |name: String| stats.number(&name).unwrap_or(0);
    let count = |name: &str| stats.number(name).unwrap_or(0).min(MOST);
    let nic = |n: u64| {
        let device = stats
            .text(&format!("net.{n}.name"))
            .unwrap_or_default()
            .to_owned();
        let vif = spec.and_then(|spec| spec.vifs.iter().find(|vif| vif.tap == device));
        let value = |what: &str| number(format!("net.{n}.{what}"));
        // libvirt counts at the tap, where what the guest sends arrives: it already turns the directions round.
        NicDiagnostics {
            mac: vif.map(|vif| vif.mac.clone()).unwrap_or_default(),
            device,
            rx_bytes: value("rx.bytes"),
            rx_packets: value("rx.pkts"),
            rx_errors: value("rx.errs"),
            rx_drop: value("rx.drop"),
            tx_bytes: value("tx.bytes"),
            tx_packets: value("tx.pkts"),
            tx_errors: value("tx.errs"),
            tx_drop: value("tx.drop"),
        }
    };
    let disk = |n: u64| {
        let value = |what: &str| number(format!("block.{n}.{what}"));
        DiskDiagnostics {
            device: stats
                .text(&format!("block.{n}.name"))
                .unwrap_or_default()
                .to_owned(),
            read_bytes: value("rd.bytes"),
            read_requests: value("rd.reqs"),
            write_bytes: value("wr.bytes"),
            write_requests: value("wr.reqs"),
            errors: value("errors"),
        }
    };
    let kib = |name: &str| stats.number(name);
    let used = kib("balloon.available")
        .zip(kib("balloon.unused"))
        .map(|(all, free)| all.saturating_sub(free) / 1024);
    let cpus = (0..count("vcpu.maximum")).filter_map(|n| {
        Some(CpuDiagnostics {
            id: u32::try_from(n).ok()?,
            time_ns: stats.number(&format!("vcpu.{n}.time"))?,
        })
    });
    Diagnostics {
        power: stats.state().power(),
        driver: "libvirt".into(),
        hypervisor: if kvm { "kvm" } else { "qemu" }.into(),
        memory_maximum_mib: kib("balloon.maximum").unwrap_or(0) / 1024,
        memory_used_mib: used,
        cpus: cpus.collect(),
        nics: (0..count("net.count")).map(nic).collect(),
        disks: (0..count("block.count")).map(disk).collect(),
    }
}
