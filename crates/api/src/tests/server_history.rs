//! How the view of a server grew, version by version: one fixture, and what changes where.

use crate::links::Links;
use crate::views::history;
use crate::views::server::{ServerView, Sight};
use db::instances::{Address, Fault, Instance, Interface, SecurityGroupRef};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::server::{Flavor, ImageRef, WantedNetworks};
use types::{PowerState, Timestamp, VmState};

/// A server with something in every field.
pub fn instance() -> Instance {
    let at = Timestamp::parse("2026-01-02T03:04:05.000006").unwrap();
    Instance {
        number: 10,
        id: "70a599e0-31e7-49b7-b260-868f441e862b".parse().unwrap(),
        project_id: "p".into(),
        user_id: "u".into(),
        display_name: "a".into(),
        description: Some("d".into()),
        hostname: "a".into(),
        vm_state: VmState::Error,
        task_state: None,
        power_state: PowerState::Running,
        generation: 3,
        task_id: None,
        host: Some("h".into()),
        node: Some("n".into()),
        node_id: None,
        availability_zone: Some("nova".into()),
        pinned_zone: None,
        launched_on: Some("h".into()),
        flavor: Flavor {
            id: "1".into(),
            name: "m1.tiny".into(),
            memory_mb: 512,
            vcpus: 1,
            root_gb: 1,
            ephemeral_gb: 0,
            swap_mb: 0,
            rxtx_factor: 1.0,
            extra_specs: BTreeMap::new(),
        },
        image: Some(ImageRef {
            id: "80a599e0-31e7-49b7-b260-868f441e862b".parse().unwrap(),
            name: "cirros".into(),
            disk_format: "qcow2".into(),
            container_format: "bare".into(),
            size: 1,
            min_disk: 0,
            min_ram: 0,
            sha512: None,
            properties: BTreeMap::from([("os_distro".to_owned(), "cirros".to_owned())]),
            check: None,
        }),
        key_name: None,
        key_data: None,
        user_data: None,
        config_drive: false,
        access_ip_v4: None,
        access_ip_v6: None,
        metadata: BTreeMap::new(),
        networks: WantedNetworks::None,
        network_info: vec![Interface {
            port_id: "x".into(),
            network_id: "y".into(),
            network_name: "private".into(),
            mac: "fa:16:3e:00:00:01".into(),
            mtu: 1500,
            addresses: vec![Address {
                ip: "10.0.0.5".into(),
                version: 4,
                kind: "fixed".into(),
            }],
            preexisting: false,
            tag: None,
        }],
        security_groups: vec![SecurityGroupRef {
            id: "g".into(),
            name: "default".into(),
        }],
        scheduler_hints: json!({"_host": "hidden", "same_host": "z"}),
        admin_pass: Some("sealed".into()),
        locked: false,
        locked_by: None,
        locked_reason: None,
        reservation_id: "r-12345678".into(),
        launch_index: 0,
        root_device_name: Some("/dev/vda".into()),
        progress: 0,
        fault: Some(Fault {
            code: 500,
            message: "No valid host was found.".into(),
            details: Some("secret".into()),
            created: at,
        }),
        created_at: at,
        updated_at: None,
        launched_at: Some(at),
        terminated_at: None,
        deleted: false,
        kept: db::instances::Kept::default(),
    }
}

fn view(sight: Sight, full: bool) -> ServerView {
    ServerView {
        volumes: Vec::new(),
        instance: instance(),
        links: Arc::new(Links {
            origin: "http://c".into(),
            version: "v2.1",
            project: None,
        }),
        sight,
        host_status: sight.extended.then_some("UP"),
        tags: vec!["t".into()],
        groups: Some(Vec::new()),
        full,
    }
}

/// Only names: the values are in the first block of the administrator's history.
fn names(history: &str) -> Vec<String> {
    history
        .lines()
        .map(|line| line.split(": ").next().unwrap_or(line).to_owned())
        .collect()
}

#[test]
fn history_for_administrators() {
    let everything = Sight {
        extended: true,
        extra_specs: true,
        fault_details: true,
    };
    let history = history(&view(everything, true));
    assert_eq!(
        history,
        include_str!("server_view.history.txt"),
        "\n{history}"
    );
}

#[test]
fn history_for_members() {
    let history = names(&history(&view(Sight::default(), true)));
    let added: Vec<&str> = history
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("2.1 "))
        .collect();
    assert_eq!(
        added,
        [
            "2.9 + locked",
            "2.19 + description",
            "2.26 + tags",
            "2.47 ~ flavor",
            "2.63 + trusted_image_certificates",
            "2.71 + server_groups",
            "2.73 + locked_reason",
            "2.90 + OS-EXT-SRV-ATTR:hostname",
            "2.96 + pinned_availability_zone",
            "2.98 ~ image",
            "2.100 + scheduler_hints",
        ]
    );
    assert!(
        !history
            .iter()
            .any(|line| line.contains("OS-EXT-SRV-ATTR:host ") || line.contains("host_status"))
    );
}

#[test]
fn the_short_answer_to_put_ends_with_2_75() {
    let history = names(&history(&view(Sight::default(), false)));
    assert!(
        !history.contains(&"2.1 + key_name".to_owned())
            && history.contains(&"2.75 + key_name".to_owned())
    );
    assert!(
        history.contains(&"2.75 ~ addresses".to_owned()),
        "{history:?}"
    );
}
