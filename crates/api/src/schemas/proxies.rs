//! Bodies of the requests that compute passes on to other services, and of what other services ask of it.

use super::{Range, Schema, object, wrapped};
use crate::mv;
use serde_json::{Value, json};
use types::Microversion;

const FIRST: Microversion = Microversion::MIN;

/// Every schema of this module, for the test that compiles them.
#[cfg(test)]
pub const ALL: &[(&str, &Schema)] = &[
    ("image metadata merge", &METADATA_MERGE),
    ("image metadata replace", &METADATA_REPLACE),
    ("image metadata item", &METADATA_ITEM),
    ("floating ip create", &FLOATING_IP_CREATE),
    ("add floating ip", &ADD_FLOATING_IP),
    ("remove floating ip", &REMOVE_FLOATING_IP),
    ("security group", &SECURITY_GROUP),
    ("security group rule", &SECURITY_GROUP_RULE),
    ("host update", &HOST_UPDATE),
    ("external events", &EXTERNAL_EVENTS),
    ("assisted snapshot", &SNAPSHOT_CREATE),
    ("share create", &SHARE_CREATE),
    ("aggregate images", &AGGREGATE_IMAGES),
];

fn metadata() -> Value {
    json!({
        "type": "object",
        "patternProperties": { "^[a-zA-Z0-9-_:. ]{1,255}$": { "type": "string", "maxLength": 255 } },
        "additionalProperties": false
    })
}

fn all_metadata() -> Value {
    wrapped("metadata", metadata())
}

/// `POST /images/{id}/metadata`.
pub static METADATA_MERGE: Schema = Schema::new(&[Range::new(FIRST, all_metadata)]);
/// `PUT /images/{id}/metadata`.
pub static METADATA_REPLACE: Schema = Schema::new(&[Range::new(FIRST, all_metadata)]);
/// `PUT /images/{id}/metadata/{key}`.
pub static METADATA_ITEM: Schema = Schema::new(&[Range::new(FIRST, || {
    let mut one = metadata();
    one["minProperties"] = 1.into();
    one["maxProperties"] = 1.into();
    wrapped("meta", one)
})]);

/// `POST /os-floating-ips`.
pub static FLOATING_IP_CREATE: Schema = Schema::new(&[Range::new(
    FIRST,
    || json!({ "type": ["object", "null"], "properties": { "pool": { "type": ["string", "null"] } } }),
)]);

fn address() -> Value {
    json!({ "type": "string", "oneOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
}

/// `addFloatingIp`.
pub static ADD_FLOATING_IP: Schema = Schema::new(&[Range::new(FIRST, || {
    let properties = json!({ "address": address(), "fixed_address": address() });
    wrapped("addFloatingIp", object(&["address"], properties))
})]);

/// `removeFloatingIp`.
pub static REMOVE_FLOATING_IP: Schema = Schema::new(&[Range::new(FIRST, || {
    let properties = json!({ "address": address() });
    wrapped("removeFloatingIp", object(&["address"], properties))
})]);

/// An object that may have more than these properties.
fn open(required: &[&str], properties: Value) -> Value {
    let mut schema = object(required, properties);
    schema["additionalProperties"] = true.into();
    schema
}

/// `POST /os-security-groups` and `PUT /os-security-groups/{id}`.
pub static SECURITY_GROUP: Schema = Schema::new(&[Range::new(FIRST, || {
    let text = json!({ "type": "string", "minLength": 0, "maxLength": 255 });
    let group = open(
        &["name", "description"],
        json!({ "name": text, "description": text }),
    );
    open(&["security_group"], json!({ "security_group": group }))
})]);

/// `POST /os-security-group-rules`: the ports and the range are checked later, in words of their own.
pub static SECURITY_GROUP_RULE: Schema = Schema::new(&[Range::new(FIRST, || {
    let rule = open(
        &["parent_group_id"],
        json!({
            "parent_group_id": { "type": "string", "format": "uuid" },
            "group_id": { "type": ["string", "null"], "format": "uuid" },
            "ip_protocol": {},
            "from_port": {},
            "to_port": {},
            "cidr": {},
        }),
    );
    open(
        &["security_group_rule"],
        json!({ "security_group_rule": rule }),
    )
})]);

/// `PUT /os-hosts/{host}`.
pub static HOST_UPDATE: Schema = Schema::new(&[Range::new(FIRST, || {
    let either = json!({
        "type": "string", "enum": ["enable", "disable", "Enable", "Disable", "ENABLE", "DISABLE"]
    });
    let mut schema = object(&[], json!({ "status": either, "maintenance_mode": either }));
    schema["anyOf"] = json!([{ "required": ["status"] }, { "required": ["maintenance_mode"] }]);
    schema
})]);

/// Events, and the versions that brought them.
const EVENTS: [(&str, Microversion); 8] = [
    ("network-changed", FIRST),
    ("network-vif-plugged", FIRST),
    ("network-vif-unplugged", FIRST),
    ("network-vif-deleted", FIRST),
    ("volume-extended", mv::EVENTS_FOR_ALL),
    ("power-update", mv::POWER_UPDATE),
    ("accelerator-request-bound", mv::ACCELERATOR_BOUND),
    ("volume-reimaged", mv::VOLUME_REIMAGED),
];

fn events(version: Microversion) -> Value {
    let names: Vec<&str> = EVENTS
        .iter()
        .filter(|(_, since)| *since <= version)
        .map(|(name, _)| *name)
        .collect();
    let event = object(
        &["server_uuid", "name"],
        json!({
            "server_uuid": { "type": "string", "format": "uuid" },
            "name": { "type": "string", "enum": names },
            "status": { "type": "string", "enum": ["failed", "completed", "in-progress"] },
            "tag": { "type": "string", "maxLength": 255 },
        }),
    );
    wrapped(
        "events",
        json!({ "type": "array", "minItems": 1, "items": event }),
    )
}

/// `POST /os-server-external-events`.
pub static EXTERNAL_EVENTS: Schema = Schema::new(&[
    Range::new(FIRST, || events(FIRST)),
    Range::new(mv::EVENTS_FOR_ALL, || events(mv::EVENTS_FOR_ALL)),
    Range::new(mv::POWER_UPDATE, || events(mv::POWER_UPDATE)),
    Range::new(mv::ACCELERATOR_BOUND, || events(mv::ACCELERATOR_BOUND)),
    Range::new(mv::VOLUME_REIMAGED, || events(mv::VOLUME_REIMAGED)),
]);

/// `POST /os-assisted-volume-snapshots`.
pub static SNAPSHOT_CREATE: Schema = Schema::new(&[Range::new(FIRST, || {
    let text = json!({ "type": "string", "minLength": 1 });
    let info = object(
        &["snapshot_id", "type", "new_file"],
        json!({
            "snapshot_id": text, "type": { "type": "string", "enum": ["qcow2"] }, "new_file": text, "id": text,
        }),
    );
    let snapshot = object(
        &["volume_id", "create_info"],
        json!({ "volume_id": text, "create_info": info }),
    );
    wrapped("snapshot", snapshot)
})]);

/// `POST /servers/{id}/shares` (2.97).
pub static SHARE_CREATE: Schema = Schema::new(&[Range::new(FIRST, || {
    let share = object(
        &["share_id"],
        json!({
            "share_id": { "type": "string", "format": "uuid" },
            "tag": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9-]*$" },
        }),
    );
    wrapped("share", share)
})]);

/// `POST /os-aggregates/{id}/images` (2.81).
pub static AGGREGATE_IMAGES: Schema = Schema::new(&[Range::new(FIRST, || {
    let image = object(
        &["id"],
        json!({ "id": { "type": "string", "format": "uuid" } }),
    );
    wrapped(
        "cache",
        json!({ "type": ["array"], "minItems": 1, "items": image }),
    )
})]);
