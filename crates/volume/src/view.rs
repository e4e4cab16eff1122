//! Resources as the API shows them.

use crate::config::Config;
use crate::edge::Call;
use crate::model::{Attachment, Snapshot, Transfer, Volume, VolumeType};
use serde_json::{Value, json};
use types::Timestamp;

/// A time as Cinder writes it.
pub fn time(at: Timestamp) -> String {
    at.iso_micros()
}

/// A time that may be none.
pub fn optional_time(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, |at| time(at).into())
}

/// A volume in a list without details.
pub fn volume_summary(call: &Call, volume: &Volume) -> Value {
    json!({"id": volume.id, "name": volume.name, "links": call.links("volumes", &volume.id)})
}

fn attachment_of_volume(call: &Call, attachment: &Attachment) -> Value {
    let sees_host = call.access.is_admin() || call.access.caller.has_role("service");
    json!({
        "id": attachment.volume_id,
        "attachment_id": attachment.id,
        "volume_id": attachment.volume_id,
        "server_id": attachment.server_id,
        "host_name": if sees_host { json!(attachment.host) } else { Value::Null },
        "device": attachment.device,
        "attached_at": optional_time(attachment.attached_at),
    })
}

/// A volume with all that the caller may see.
pub fn volume(
    call: &Call,
    config: &Config,
    volume: &Volume,
    kind: Option<&VolumeType>,
    attachments: &[Attachment],
) -> Value {
    let mut metadata = volume.metadata.clone();
    metadata.extend(volume.admin_metadata.clone());
    let attached: Vec<Value> = attachments
        .iter()
        .filter(|attachment| attachment.status == "attached")
        .map(|attachment| attachment_of_volume(call, attachment))
        .collect();
    let mut shown = json!({
        "id": volume.id,
        "status": volume.status.name(),
        "size": volume.size,
        "availability_zone": volume.zone,
        "created_at": time(volume.created_at),
        "updated_at": optional_time(volume.updated_at),
        "name": volume.name,
        "description": volume.description,
        "volume_type": kind.map(|kind| kind.name.as_str()),
        "snapshot_id": volume.snapshot_id,
        "source_volid": volume.source_id,
        "metadata": metadata,
        "links": call.links("volumes", &volume.id),
        "user_id": volume.user_id,
        "bootable": volume.bootable.to_string(),
        "encrypted": false,
        "replication_status": null,
        "consistencygroup_id": null,
        "multiattach": volume.multiattach,
        "attachments": attached,
    });
    if call.access.allows(
        "volume_extension:volume_tenant_attribute",
        &volume.project_id,
    ) {
        shown["os-vol-tenant-attr:tenant_id"] = json!(volume.project_id);
    }
    if call.access.is_admin() {
        shown["migration_status"] = json!(volume.migration_status);
        shown["os-vol-host-attr:host"] = json!(config.pool());
        shown["os-vol-mig-status-attr:migstat"] = json!(volume.migration_status);
        shown["os-vol-mig-status-attr:name_id"] = Value::Null;
    }
    if !volume.image_metadata.is_empty() {
        shown["volume_image_metadata"] = json!(volume.image_metadata);
    }
    later_fields(call, volume, kind, &mut shown);
    shown
}

fn later_fields(call: &Call, volume: &Volume, kind: Option<&VolumeType>, shown: &mut Value) {
    let (version, admin) = (call.version.0, call.access.is_admin());
    if version >= 13 {
        shown["group_id"] = json!(volume.group_id);
    }
    if version >= 21 && admin {
        shown["provider_id"] = Value::Null;
    }
    if version >= 48 {
        shown["shared_targets"] = json!(false);
        shown["service_uuid"] = json!(service_uuid());
    }
    if version >= 61 && admin {
        shown["cluster_name"] = Value::Null;
    }
    if version >= 63 {
        shown["volume_type_id"] = json!(kind.map(|kind| kind.id.as_str()));
    }
    if version >= 65 {
        shown["consumes_quota"] = json!(true);
    }
}

/// The one volume service's id.
pub fn service_uuid() -> String {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, b"kilonova-volume").to_string()
}

/// A snapshot.
pub fn snapshot(call: &Call, snapshot: &Snapshot, detailed: bool) -> Value {
    let mut shown = json!({
        "id": snapshot.id,
        "created_at": time(snapshot.created_at),
        "updated_at": optional_time(snapshot.updated_at),
        "name": snapshot.name,
        "description": snapshot.description,
        "volume_id": snapshot.volume_id,
        "status": snapshot.status.name(),
        "size": snapshot.size,
        "metadata": snapshot.metadata,
    });
    if !detailed {
        return shown;
    }
    let version = call.version.0;
    if version >= 14 {
        shown["group_snapshot_id"] = json!(snapshot.group_snapshot_id);
    }
    if version >= 41 {
        shown["user_id"] = json!(snapshot.user_id);
    }
    if version >= 65 {
        shown["consumes_quota"] = json!(true);
    }
    shown["os-extended-snapshot-attributes:progress"] = json!(snapshot.progress);
    shown["os-extended-snapshot-attributes:project_id"] = json!(snapshot.project_id);
    shown
}

/// Extra specs that everybody may see.
const VISIBLE_SPECS: &[&str] = &[
    "RESKEY:availability_zones",
    "multiattach",
    "replication_enabled",
];

/// A volume type as the caller may see it.
pub fn volume_type(call: &Call, kind: &VolumeType) -> Value {
    let own = call.access.project();
    let mut shown = json!({
        "id": kind.id,
        "name": kind.name,
        "is_public": kind.is_public,
        "description": kind.description,
    });
    if call
        .access
        .allows("volume_extension:access_types_extra_specs", own)
    {
        shown["extra_specs"] = json!(visible_specs(call, kind));
    }
    if call
        .access
        .allows("volume_extension:access_types_qos_specs_id", own)
    {
        shown["qos_specs_id"] = json!(kind.qos_id);
    }
    shown
}

/// The extra specs that the caller may see.
pub fn visible_specs(call: &Call, kind: &VolumeType) -> crate::model::Map {
    let all = call.access.allows(
        "volume_extension:types_extra_specs:read_sensitive",
        call.access.project(),
    );
    let seen = |name: &String| all || VISIBLE_SPECS.contains(&name.as_str());
    kind.extra_specs
        .iter()
        .filter(|(name, _)| seen(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// An attachment in a list.
pub fn attachment_summary(attachment: &Attachment) -> Value {
    json!({
        "id": attachment.id,
        "status": attachment.status,
        "instance": attachment.server_id,
        "volume_id": attachment.volume_id,
    })
}

/// An attachment with its connection.
pub fn attachment(attachment: &Attachment, connection: Value) -> Value {
    let mut shown = attachment_summary(attachment);
    shown["attached_at"] = attachment
        .attached_at
        .map_or_else(|| json!(""), |at| time(at).into());
    shown["detached_at"] = json!("");
    shown["attach_mode"] = json!(attachment.mode);
    shown["connection_info"] = connection;
    shown
}

/// A transfer; the key is only known when it is made.
pub fn transfer(call: &Call, transfer: &Transfer, path: &str, key: Option<&str>) -> Value {
    let mut shown = json!({
        "id": transfer.id,
        "created_at": time(transfer.created_at),
        "name": transfer.name,
        "volume_id": transfer.volume_id,
        "links": call.links(path, &transfer.id),
    });
    if let Some(key) = key {
        shown["auth_key"] = json!(key);
    }
    if call.version.0 >= 55 {
        shown["no_snapshots"] = json!(transfer.no_snapshots);
    }
    if call.version.0 >= 57 {
        shown["source_project_id"] = json!(transfer.project_id);
        shown["destination_project_id"] = json!(transfer.destination);
        shown["accepted"] = json!(transfer.accepted);
    }
    shown
}
