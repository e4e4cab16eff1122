//! What is measured of a guest, and why it is not.

use super::server_create::cloud;
use super::server_life::{finish, make};
use serde_json::json;
use types::{ServerId, VmState};

#[tokio::test]
async fn diagnostics_say_why_there_are_none() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let path = format!("/servers/{id}/diagnostics");
    let refusal = async || {
        let answer = cloud.get("admin", 48, &path).await;
        (answer.status.as_u16(), answer.fault().1)
    };
    let wanted = format!("Instance {id} is not ready");
    assert_eq!(refusal().await, (409, wanted));
    finish(&cloud, &id, VmState::Stopped).await;
    let server: ServerId = id.parse().unwrap();
    let stop = move |tx: &mut sql::Tx<'_>| {
        let sql = "UPDATE instances SET power_state = 4 WHERE uuid = ?";
        tx.execute(sql, &[server.into()])
    };
    cloud.store.write(stop).await.unwrap();
    let wanted =
        format!("Cannot 'get_diagnostics' instance {id} while it is in power state shutdown");
    assert_eq!(refusal().await, (409, wanted));
}

/// In Nova's own words since 2.48, in the driver's before.
#[tokio::test]
async fn diagnostics_of_a_guest_that_runs() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let path = format!("/servers/{id}/diagnostics");
    let old = cloud.get("admin", 47, &path).await;
    assert_eq!(old.status, 200, "{}", old.text);
    let told = json!({
        "cpu0_time": 17_300_000_000_u64, "memory": 524_288, "memory-actual": 262_144,
        "vda_read": 1, "vda_read_req": 1, "vda_write": 1, "vda_write_req": 1, "vda_errors": 0,
        "vnet1_rx": 1, "vnet1_rx_packets": 1, "vnet1_rx_errors": 0, "vnet1_rx_drop": 0,
        "vnet1_tx": 1, "vnet1_tx_packets": 1, "vnet1_tx_errors": 0, "vnet1_tx_drop": 0,
    });
    assert_eq!(old.json(), told);
    let new = cloud.get("admin", 48, &path).await;
    assert_eq!(new.status, 200, "{}", new.text);
    let mut new = new.json();
    assert!(new["uptime"].take().is_u64(), "since it was launched");
    let told = json!({
        "state": "running", "driver": "libvirt", "hypervisor": "kvm", "hypervisor_os": "linux", "uptime": null,
        "config_drive": false, "num_cpus": 1, "num_nics": 1, "num_disks": 1,
        "memory_details": { "maximum": 512, "used": 256 },
        "cpu_details": [{ "id": 0, "time": 17_300_000_000_u64, "utilisation": null }],
        "nic_details": [{
            "mac_address": "01:23:45:67:89:ab", "rx_octets": 1, "rx_packets": 1, "rx_errors": 0, "rx_drop": 0, "rx_rate": null,
            "tx_octets": 1, "tx_packets": 1, "tx_errors": 0, "tx_drop": 0, "tx_rate": null,
        }],
        "disk_details": [{ "read_bytes": 1, "read_requests": 1, "write_bytes": 1, "write_requests": 1, "errors_count": 0 }],
    });
    assert_eq!(new, told);
    let words = "Policy doesn't allow os_compute_api:os-server-diagnostics to be performed.";
    let denied = cloud.get("member", 48, &path).await;
    assert_eq!(denied.fault(), ("forbidden".to_owned(), words.to_owned()));
}
