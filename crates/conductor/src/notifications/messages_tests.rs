#![allow(clippy::unwrap_used)]
use super::*;
use crate::notifications::payloads::Server;
use db::instances::{Address, Instance, Interface};
use types::Timestamp;

fn server() -> Server {
    let instance: Instance = serde_json::from_str(
        r#"{
        "number": 5, "id": "178b0921-8f85-4257-88b6-2e743b5a975c", "project_id": "p", "user_id": "u",
        "display_name": "n", "description": null, "hostname": "n", "vm_state": "active", "task_state": null,
        "power_state": "Running", "generation": 1, "task_id": null, "host": "h1", "node": "n1", "node_id": null,
        "availability_zone": "nova", "pinned_zone": null, "launched_on": "h1",
        "flavor": { "id": "1", "name": "m1.tiny", "memory_mb": 512, "vcpus": 1, "root_gb": 1, "ephemeral_gb": 2,
            "swap_mb": 0, "rxtx_factor": 1.0, "extra_specs": {} },
        "image": null, "key_name": "k", "key_data": null, "user_data": "c2VjcmV0", "config_drive": false,
        "access_ip_v4": null, "access_ip_v6": null, "metadata": { "a": "b" }, "networks": "None", "network_info": [],
        "security_groups": [], "scheduler_hints": {}, "admin_pass": "sealed", "locked": false, "locked_by": null,
        "locked_reason": null, "reservation_id": "r-1", "launch_index": 0, "root_device_name": "/dev/vda",
        "progress": 0, "fault": null, "created_at": 1000000, "updated_at": null, "launched_at": 2000000,
        "terminated_at": null, "deleted": false
    }"#,
    )
    .unwrap();
    Server {
        instance: Instance {
            network_info: vec![Interface {
                port_id: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee".to_owned(),
                network_id: "net".to_owned(),
                network_name: "private".to_owned(),
                mac: "fa:16:3e:00:00:01".to_owned(),
                mtu: 1500,
                addresses: vec![Address {
                    ip: "10.0.0.3".to_owned(),
                    version: 4,
                    kind: "fixed".to_owned(),
                }],
                preexisting: false,
                tag: None,
            }],
            ..instance
        },
        devices: Vec::new(),
        tags: vec!["t".to_owned()],
        key: None,
        askers: [("req-1".to_owned(), "asker".to_owned())].into(),
    }
}

fn entry(kind: Kind, action: Option<&str>, outcome: Option<&str>) -> Entry {
    Entry {
        id: 7,
        kind,
        project_id: "p".to_owned(),
        subject: "178b0921-8f85-4257-88b6-2e743b5a975c".to_owned(),
        vm_state: Some("active".to_owned()),
        task_state: None,
        power_state: Some(1),
        host: Some("h1".to_owned()),
        action: action.map(str::to_owned),
        event: None,
        outcome: outcome.map(str::to_owned),
        message: None,
        request_id: Some("req-1".to_owned()),
        user_id: Some("u".to_owned()),
        at: Timestamp(3_600_000_000),
    }
}

fn teller(changes: Changes) -> Teller {
    Teller::new(Style {
        versioned: vec!["versioned_notifications".to_owned()],
        unversioned: vec!["notifications".to_owned()],
        changes,
        host: "control".to_owned(),
        images: "http://images".to_owned(),
    })
}

#[test]
fn actions_have_novas_names_and_payloads() {
    let created = entry(Kind::ActionEnd, Some("create"), Some("Success"));
    let [new, old] = &teller(Changes::None).of_server(&server(), &created)[..] else {
        panic!("two notices");
    };
    assert_eq!(
        (&*new.topic, new.priority),
        ("versioned_notifications", "INFO")
    );
    let message = &new.message;
    assert_eq!(message["event_type"], "instance.create.end");
    assert_eq!(message["publisher_id"], "nova-compute:h1");
    assert_eq!(message["timestamp"], "1970-01-01 01:00:00.000000");
    let payload = &message["payload"];
    assert_eq!(payload["nova_object.name"], "InstanceCreatePayload");
    let data = &payload["nova_object.data"];
    assert_eq!(
        (&data["state"], &data["power_state"], &data["instance_name"]),
        (
            &"active".into(),
            &"running".into(),
            &"instance-00000005".into()
        )
    );
    assert_eq!(
        data["ip_addresses"][0]["nova_object.data"]["address"],
        "10.0.0.3"
    );
    assert_eq!(data["flavor"]["nova_object.data"]["flavorid"], "1");
    assert_eq!(
        (&data["tags"], &data["fault"]),
        (&json!(["t"]), &Value::Null)
    );
    assert_eq!(
        (&*old.topic, &old.message["event_type"]),
        ("notifications", &"compute.instance.create.end".into())
    );
    let flat = &old.message["payload"];
    assert_eq!(
        (&flat["instance_id"], &flat["disk_gb"], &flat["message"]),
        (&data["uuid"], &3.into(), &"Success".into())
    );
    assert_eq!(
        (&flat["launched_at"], &flat["created_at"]),
        (
            &"1970-01-01T00:00:02.000000".into(),
            &"1970-01-01 00:00:01+00:00".into()
        )
    );
    for text in [new.message.to_string(), old.message.to_string()] {
        assert!(
            !text.contains("c2VjcmV0") && !text.contains("sealed"),
            "no secrets: {text}"
        );
    }
}

#[test]
fn every_action_that_nova_tells_of_is_told() {
    let told = |action: &str, kind, outcome| -> Vec<String> {
        let notices =
            teller(Changes::None).of_server(&server(), &entry(kind, Some(action), outcome));
        let types = notices
            .iter()
            .map(|one| one.message["event_type"].as_str().unwrap().to_owned());
        types.collect()
    };
    assert_eq!(
        told("stop", Kind::ActionStart, None),
        [
            "instance.power_off.start",
            "compute.instance.power_off.start"
        ]
    );
    assert_eq!(
        told("reboot", Kind::ActionEnd, Some("Error")),
        ["instance.reboot.error", "compute.instance.reboot.error"]
    );
    assert_eq!(
        told("attach_volume", Kind::ActionEnd, Some("Success")),
        [
            "instance.volume_attach.end",
            "compute.instance.volume.attach.end"
        ]
    );
    assert_eq!(told("lock", Kind::ActionStart, None), ["instance.lock"]);
    assert_eq!(
        told("shelve", Kind::ActionEnd, Some("Success")),
        ["instance.shelve.end", "compute.instance.shelve.end"]
    );
    assert_eq!(told("lock", Kind::ActionEnd, Some("Success")), [""; 0]);
    assert_eq!(
        told("live-migration", Kind::ActionEnd, Some("Success"))[0],
        "instance.live_migration_post.end"
    );
    assert_eq!(told("create", Kind::ActionEnd, Some("Superseded")), [""; 0]);
    assert_eq!(told("resetState", Kind::ActionStart, None), [""; 0]);
    let failed = teller(Changes::None).of_server(
        &server(),
        &entry(Kind::ActionEnd, Some("stop"), Some("Error")),
    );
    assert_eq!(failed[0].priority, "ERROR");
    assert_eq!(
        failed[0].message["payload"]["nova_object.data"]["fault"]["nova_object.name"],
        "ExceptionPayload"
    );
}

#[test]
fn a_deletion_is_soft_or_for_good() {
    let told = |states: (&str, Option<&str>), action: &str, end: Option<&str>| {
        let kind = end.map_or(Kind::ActionStart, |_| Kind::ActionEnd);
        let mut row = entry(kind, Some(action), end);
        row.vm_state = Some(states.0.to_owned());
        row.task_state = states.1.map(str::to_owned);
        let notices = teller(Changes::None).of_server(&server(), &row);
        notices[0].message["event_type"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let ended = Some("Success");
    for (states, action, end, wanted) in [
        (
            ("active", Some("soft-deleting")),
            "delete",
            None,
            "soft_delete.start",
        ),
        (("soft-delete", None), "delete", ended, "soft_delete.end"),
        (
            ("soft-delete", Some("deleting")),
            "delete",
            None,
            "delete.start",
        ),
        (
            ("soft-delete", Some("deleting")),
            "forceDelete",
            None,
            "delete.start",
        ),
        (("deleted", None), "delete", ended, "delete.end"),
        (("active", Some("deleting")), "delete", None, "delete.start"),
    ] {
        let told = told(states, action, end);
        assert_eq!(told, format!("instance.{wanted}"), "{states:?} {action}");
    }
}

#[test]
fn an_evacuation_is_a_rebuild_elsewhere() {
    let told = |kind, event: Option<&str>, outcome| {
        let mut row = entry(kind, Some("evacuate"), outcome);
        row.event = event.map(str::to_owned);
        let notices = teller(Changes::None).of_server(&server(), &row);
        let told = notices.iter().map(|one| {
            let text = |name: &str| one.message[name].as_str().unwrap().to_owned();
            format!("{} {}", text("publisher_id"), text("event_type"))
        });
        told.collect::<Vec<String>>()
    };
    let done = Some("Success");
    assert_eq!(
        told(Kind::ActionStart, None, None),
        [
            "nova-api:control instance.evacuate",
            "compute.control compute.instance.evacuate"
        ]
    );
    assert_eq!(
        told(Kind::EventEnd, Some("rebuild_server"), done),
        [
            "nova-conductor:control instance.rebuild_scheduled",
            "compute.control compute.instance.rebuild.scheduled",
            "nova-compute:h1 instance.rebuild.start",
            "compute.h1 compute.instance.rebuild.start"
        ]
    );
    let nothing: [String; 0] = [];
    let other = Some("compute_rebuild_instance");
    assert_eq!(told(Kind::EventEnd, other, done), nothing);
    let failed = Some("Error");
    let chosen = Some("rebuild_server");
    assert_eq!(told(Kind::EventEnd, chosen, failed), nothing);
    assert_eq!(
        told(Kind::ActionEnd, None, done)[0],
        "nova-compute:h1 instance.rebuild.end"
    );
    assert_eq!(
        told(Kind::ActionEnd, None, failed)[0],
        "nova-compute:h1 instance.rebuild.error"
    );
}

#[test]
fn a_server_that_leaves_its_host_tells_that() {
    let told = |server: &Server, kind, vm_state: &str, outcome| {
        let mut row = entry(kind, Some("shelve"), outcome);
        row.vm_state = Some(vm_state.to_owned());
        let mut notices = teller(Changes::None).of_server(server, &row);
        notices.retain(|one| one.topic == "versioned_notifications");
        let types = notices
            .iter()
            .map(|one| one.message["event_type"].as_str().unwrap().to_owned());
        types.collect::<Vec<String>>()
    };
    let done = Some("Success");
    let [start, end] = ["start", "end"].map(|phase| format!("instance.shelve_offload.{phase}"));
    let plain = server();
    assert_eq!(
        told(&plain, Kind::ActionEnd, "shelved_offloaded", done),
        ["instance.shelve.end", &start, &end]
    );
    assert_eq!(
        told(&plain, Kind::ActionStart, "active", None),
        ["instance.shelve.start"]
    );
    let mut on_volume = server();
    on_volume.instance.kept.boot_volume = Some(db::instances::BootVolume::default());
    assert_eq!(told(&on_volume, Kind::ActionStart, "active", None), [start]);
    assert_eq!(
        told(&on_volume, Kind::ActionEnd, "shelved_offloaded", done),
        [end]
    );
}

#[test]
fn whoever_asked_is_named_with_the_own_project() {
    let mut row = entry(Kind::ActionStart, Some("stop"), None);
    for (request, project) in [("req-1", "asker"), ("req-2", "p")] {
        row.request_id = Some(request.to_owned());
        let notices = teller(Changes::None).of_server(&server(), &row);
        let message = &notices[0].message;
        let data = &message["payload"]["nova_object.data"];
        assert_eq!(data["action_initiator_project"], project);
        assert_eq!(message["_context_project_id"], project);
        assert_eq!(data["tenant_id"], "p");
    }
}

#[test]
fn changes_of_states_are_told_when_they_are_wanted() {
    let mut change = entry(Kind::State, None, None);
    for (changes, tasks, states) in [
        (Changes::None, 0, 0),
        (Changes::VmState, 0, 2),
        (Changes::VmAndTaskState, 2, 2),
    ] {
        let mut teller = teller(changes);
        change.vm_state = Some("active".to_owned());
        change.task_state = None;
        assert_eq!(
            teller.of_server(&server(), &change).len(),
            0,
            "what was before is not known"
        );
        change.task_state = Some("powering-off".to_owned());
        assert_eq!(
            teller.of_server(&server(), &change).len(),
            tasks,
            "{changes:?}"
        );
        change.vm_state = Some("stopped".to_owned());
        change.task_state = None;
        let stopped = teller.of_server(&server(), &change);
        assert_eq!(stopped.len(), states, "{changes:?}");
        if let Some(first) = stopped.first() {
            let data = &first.message["payload"]["nova_object.data"];
            assert_eq!(data["state"], "stopped", "as it was then");
            let update = &data["state_update"]["nova_object.data"];
            assert_eq!(
                (
                    &update["old_state"],
                    &update["state"],
                    &update["old_task_state"]
                ),
                (&"active".into(), &"stopped".into(), &"powering-off".into())
            );
            assert_eq!(stopped[1].message["payload"]["old_state"], "active");
        }
    }
}

#[test]
fn the_same_row_has_the_same_id() {
    let row = entry(Kind::ActionStart, Some("stop"), None);
    let id = |row: &Entry| {
        teller(Changes::None).of_server(&server(), row)[0].message["message_id"].clone()
    };
    assert_eq!(id(&row), id(&row));
    assert_ne!(
        id(&row),
        id(&Entry {
            id: 8,
            ..row.clone()
        })
    );
}
