//! Payloads of notifications, as Nova's documentation shows them: objects with a name and a version, and the flat ones
//! of old. Times, nulls and the words of power states are Nova's.

use db::block_devices::BlockDevice;
use db::hosts::Service;
use db::instances::{Instance, Interface};
use db::keypairs::KeyPair;
use db::outbox::{Entry, Kind};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use types::{PowerState, TaskState, Timestamp, VmState};

/// A server, with what belongs to it.
#[derive(Clone, Debug)]
pub struct Server {
    /// The server, with the states that the event tells of.
    pub instance: Instance,
    /// Its disks.
    pub devices: Vec<BlockDevice>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its key pair, if that is still there.
    pub key: Option<KeyPair>,
    /// The projects of those who asked for what is told, by request.
    pub askers: HashMap<String, String>,
}

impl Server {
    /// The project of whoever asked; the server's own, where nobody has written down another one.
    pub fn asker(&self, entry: &Entry) -> Option<&str> {
        entry.user_id.as_ref()?;
        let request = entry.request_id.as_ref();
        let project = request.and_then(|request| self.askers.get(request));
        Some(project.map_or(self.instance.project_id.as_str(), String::as_str))
    }

    /// The server as it was when the event happened, as far as the event tells.
    #[must_use]
    pub fn at(&self, entry: &Entry) -> Self {
        let mut server = self.clone();
        let instance = &mut server.instance;
        if let Some(state) = entry.vm_state.as_deref().and_then(VmState::parse) {
            instance.vm_state = state;
        }
        instance.task_state = entry.task_state.as_deref().and_then(TaskState::parse);
        if let Some(code) = entry.power_state {
            instance.power_state = PowerState::from_code(code);
        }
        if entry.kind != Kind::EventEnd {
            instance.host = entry.host.clone().map(types::HostName);
        }
        if instance.vm_state != VmState::Deleted {
            instance.terminated_at = None;
        }
        server
    }
}

/// States before and after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// The stable state.
    pub vm_state: Option<String>,
    /// The task state.
    pub task_state: Option<String>,
}

/// An object as Nova writes it.
pub fn object(name: &str, version: &str, data: Value) -> Value {
    json!({
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    })
}

fn power(state: PowerState) -> &'static str {
    match state {
        PowerState::NoState => "pending",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Shutdown => "shutdown",
        PowerState::Crashed => "crashed",
        PowerState::Suspended => "suspended",
    }
}

fn time(at: Option<Timestamp>) -> Option<String> {
    at.map(Timestamp::iso_seconds_z)
}

fn flavor(server: &Server) -> Value {
    let flavor = &server.instance.flavor;
    let data = json!({
        "flavorid": flavor.id.as_str(),
        "name": flavor.name,
        "memory_mb": flavor.memory_mb,
        "vcpus": flavor.vcpus,
        "root_gb": flavor.root_gb,
        "ephemeral_gb": flavor.ephemeral_gb,
        "swap": flavor.swap_mb,
        "rxtx_factor": flavor.rxtx_factor,
        "vcpu_weight": 0,
        "disabled": false,
        "is_public": true,
        "extra_specs": flavor.extra_specs,
        "projects": null,
        "description": null,
    });
    object("FlavorPayload", "1.4", data)
}

fn addresses(interfaces: &[Interface]) -> Value {
    let all = interfaces.iter().flat_map(|interface| {
        let fixed = interface.addresses.iter().filter(|one| one.kind == "fixed");
        fixed.map(move |address| {
            let data = json!({
                "label": interface.network_name,
                "mac": interface.mac,
                "meta": {},
                "port_uuid": interface.port_id,
                "version": address.version,
                "address": address.ip,
                "device_name": format!("tap{}", interface.port_id.get(..11).unwrap_or_default()),
            });
            object("IpPayload", "1.0", data)
        })
    });
    all.collect()
}

fn devices(devices: &[BlockDevice]) -> Value {
    let volumes = devices.iter().filter(|device| device.volume_id.is_some());
    let shown = volumes.map(|device| {
        let data = json!({
            "volume_id": device.volume_id,
            "device_name": device.device_name,
            "tag": device.tag,
            "delete_on_termination": device.delete_on_termination,
            "boot_index": device.boot_index,
        });
        object("BlockDevicePayload", "1.0", data)
    });
    shown.collect()
}

fn property<'a>(server: &'a Server, names: &[&str]) -> Option<&'a str> {
    let properties = server.instance.image_properties()?;
    let mut found = names.iter().filter_map(|name| properties.get(*name));
    found.next().map(String::as_str)
}

/// What every notification about a server has.
fn common(server: &Server, entry: &Entry) -> Map<String, Value> {
    let i = &server.instance;
    let deleted = (i.vm_state == VmState::Deleted).then_some(i.terminated_at);
    let data = json!({
        "uuid": i.id,
        "user_id": i.user_id,
        "tenant_id": i.project_id,
        "reservation_id": i.reservation_id,
        "display_name": i.display_name,
        "display_description": i.description,
        "host_name": i.hostname,
        "host": i.host,
        "node": i.host.as_ref().and(i.node.as_ref()),
        "os_type": property(server, &["os_type"]),
        "architecture": property(server, &["hw_architecture", "architecture"]),
        "availability_zone": i.availability_zone,
        "flavor": flavor(server),
        "image_uuid": i.image.as_ref().map(|image| image.id),
        "key_name": i.key_name,
        "kernel_id": i.kept.kernel.as_ref().map_or_else(String::new, |image| image.id.to_string()),
        "ramdisk_id": i.kept.ramdisk.as_ref().map_or_else(String::new, |image| image.id.to_string()),
        "created_at": i.created_at.iso_seconds_z(),
        "launched_at": time(i.launched_at),
        "terminated_at": time(i.terminated_at),
        "deleted_at": time(deleted.flatten()),
        "updated_at": time(i.updated_at),
        "state": i.vm_state.as_str(),
        "power_state": power(i.power_state),
        "task_state": i.task_state.map(TaskState::as_str),
        "progress": i.progress,
        "ip_addresses": addresses(&i.network_info),
        "block_devices": devices(&server.devices),
        "metadata": i.metadata,
        "locked": i.locked,
        "locked_reason": i.locked_reason,
        // As with Nova's `[notifications] include_share_mapping` off.
        "shares": null,
        "auto_disk_config": if i.kept.auto_disk_config { "AUTO" } else { "MANUAL" },
        "request_id": entry.request_id,
        "action_initiator_user": entry.user_id,
        "action_initiator_project": server.asker(entry),
    });
    match data {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn fault(server: &Server, entry: &Entry) -> Value {
    if entry.outcome.as_deref() != Some("Error") {
        return Value::Null;
    }
    let message = server.instance.fault.as_ref();
    let message = message.map_or("The operation failed.", |fault| &fault.message);
    let data = json!({
        "module_name": "nova.compute.manager",
        "function_name": entry.action,
        "exception": "NovaException",
        "exception_message": message,
        "traceback": "",
    });
    object("ExceptionPayload", "1.1", data)
}

/// The payload of a notification about an action, by the notification's name.
pub fn of_action(server: &Server, entry: &Entry, name: &str) -> Value {
    let mut data = common(server, entry);
    data.insert("fault".to_owned(), fault(server, entry));
    match name.split('.').next() {
        Some("create") => {
            let key = server.key.iter().map(|key| {
                let data = json!({
                    "user_id": key.user_id,
                    "name": key.name,
                    "public_key": key.public_key,
                    "fingerprint": key.fingerprint,
                    "type": key.kind,
                });
                object("KeypairPayload", "1.0", data)
            });
            data.insert("keypairs".to_owned(), key.collect());
            data.insert("tags".to_owned(), server.tags.clone().into());
            data.insert(
                "trusted_image_certificates".to_owned(),
                json!(server.instance.kept.trusted_certs),
            );
            let name = format!("instance-{:08x}", server.instance.number);
            data.insert("instance_name".to_owned(), name.into());
            object("InstanceCreatePayload", "1.13", data.into())
        }
        Some("rebuild" | "rebuild_scheduled") => {
            data.insert(
                "trusted_image_certificates".to_owned(),
                json!(server.instance.kept.trusted_certs),
            );
            object("InstanceActionRebuildPayload", "1.10", data.into())
        }
        _ => object("InstanceActionPayload", "1.9", data.into()),
    }
}

/// The hour that an update belongs to, as usage is counted.
fn audit_period(now: Timestamp) -> (Timestamp, Timestamp) {
    let hour = now.seconds() - now.seconds().rem_euclid(3600);
    (Timestamp::from_seconds(hour), now)
}

/// The payload about a change of states.
pub fn of_update(server: &Server, entry: &Entry, before: &Before) -> Value {
    let mut data = common(server, entry);
    let states = json!({
        "old_state": before.vm_state,
        "state": entry.vm_state,
        "old_task_state": before.task_state,
        "new_task_state": entry.task_state,
    });
    let (begin, end) = audit_period(entry.at);
    let period = json!({
        "audit_period_beginning": begin.iso_seconds_z(),
        "audit_period_ending": end.iso_seconds_z(),
    });
    for (name, value) in [
        (
            "state_update",
            object("InstanceStateUpdatePayload", "1.0", states),
        ),
        ("audit_period", object("AuditPeriodPayload", "1.0", period)),
        ("old_display_name", Value::Null),
        ("tags", server.tags.clone().into()),
    ] {
        data.insert(name.to_owned(), value);
    }
    object("InstanceUpdatePayload", "2.1", data.into())
}

/// The payload about a service.
pub fn of_service(service: &Service) -> Value {
    let topic = service.binary.strip_prefix("nova-");
    let data = json!({
        "host": service.host,
        "disabled": service.disabled,
        "binary": service.binary,
        "topic": topic.unwrap_or(&service.binary),
        "disabled_reason": service.disabled_reason,
        "forced_down": service.forced_down,
        "version": service.version,
        "availability_zone": null,
        "uuid": service.uuid,
        "last_seen_up": time(service.last_seen_up),
        "report_count": service.beats,
    });
    object("ServiceStatusPayload", "1.1", data)
}

/// What the event itself tells of a service that is gone.
pub fn of_gone_service(entry: &Entry) -> Value {
    let binary = entry.action.as_deref().unwrap_or_default();
    let data = json!({
        "host": entry.host,
        "binary": binary,
        "topic": binary.strip_prefix("nova-").unwrap_or(binary),
        "uuid": entry.subject,
        "disabled": null,
        "disabled_reason": null,
        "forced_down": null,
        "version": null,
        "availability_zone": null,
        "last_seen_up": null,
        "report_count": null,
    });
    object("ServiceStatusPayload", "1.1", data)
}

/// The flat payload of old about a server. `before` is there for changes of states.
pub fn of_old(server: &Server, entry: &Entry, before: Option<&Before>, images: &str) -> Value {
    let i = &server.instance;
    let text = |at: Option<Timestamp>| at.map(Timestamp::iso_micros).unwrap_or_default();
    let deleted = (i.vm_state == VmState::Deleted).then_some(i.terminated_at);
    let image = i.image.as_ref();
    let properties = i.image_properties().cloned().unwrap_or_default();
    let mut payload = json!({
        "tenant_id": i.project_id,
        "user_id": i.user_id,
        "instance_id": i.id,
        "display_name": i.display_name,
        "reservation_id": i.reservation_id,
        "hostname": i.hostname,
        "instance_type": i.flavor.name,
        "instance_type_id": 0,
        "instance_flavor_id": i.flavor.id,
        "architecture": property(server, &["hw_architecture", "architecture"]),
        "memory_mb": i.flavor.memory_mb,
        "disk_gb": u64::from(i.flavor.root_gb) + u64::from(i.flavor.ephemeral_gb),
        "vcpus": i.flavor.vcpus,
        "root_gb": i.flavor.root_gb,
        "ephemeral_gb": i.flavor.ephemeral_gb,
        "host": i.host,
        "node": i.host.as_ref().and(i.node.as_ref()),
        "availability_zone": i.availability_zone,
        "cell_name": "",
        "created_at": format!("{}+00:00", i.created_at.sql_seconds()),
        "terminated_at": text(i.terminated_at),
        "deleted_at": text(deleted.flatten()),
        "launched_at": text(i.launched_at),
        "image_ref_url": image.map(|image| format!("{images}/images/{}", image.id)),
        "os_type": property(server, &["os_type"]),
        "kernel_id": property(server, &["kernel_id"]).unwrap_or_default(),
        "ramdisk_id": property(server, &["ramdisk_id"]).unwrap_or_default(),
        "state": i.vm_state.as_str(),
        "state_description": i.task_state.map_or("", TaskState::as_str),
        "progress": if i.progress == 0 { Value::from("") } else { i.progress.into() },
        "access_ip_v4": i.access_ip_v4,
        "access_ip_v6": i.access_ip_v6,
        "image_meta": properties,
        "metadata": i.metadata,
    });
    let fixed: Vec<Value> = i
        .network_info
        .iter()
        .flat_map(|interface| {
            let fixed = interface.addresses.iter().filter(|one| one.kind == "fixed");
            fixed.map(|one| {
                json!({
                    "address": one.ip,
                    "version": one.version,
                    "type": "fixed",
                    "label": interface.network_name,
                    "vif_mac": interface.mac,
                    "floating_ips": [],
                    "meta": {},
                })
            })
        })
        .collect();
    payload["fixed_ips"] = fixed.into();
    if let Some(before) = before {
        let (begin, end) = audit_period(entry.at);
        for (name, value) in [
            ("old_state", before.vm_state.clone()),
            ("old_task_state", before.task_state.clone()),
            ("new_task_state", entry.task_state.clone()),
            ("audit_period_beginning", Some(begin.iso_micros())),
            ("audit_period_ending", Some(end.iso_micros())),
        ] {
            payload[name] = value.into();
        }
        payload["bandwidth"] = json!({});
    }
    if let Some(outcome) = &entry.outcome {
        let failed = outcome == "Error";
        let message = i.fault.as_ref().filter(|_| failed);
        let message = message.map_or(outcome.as_str(), |fault| &fault.message);
        payload["message"] = message.into();
        if failed {
            payload["exception"] = message.into();
            payload["code"] = 500.into();
        }
    }
    payload
}
