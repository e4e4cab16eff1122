//! Bodies of requests about servers.

use super::{
    Range, Schema, any_action, boolean, integer, loose, null_action, object, positive, text,
    wrapped,
};
use crate::mv;
use serde_json::{Value, json};
use types::Microversion;

const FIRST: Microversion = Microversion::MIN;
const MOST: i64 = 2_147_483_647;

/// Every schema of this module, for the test that compiles them.
#[cfg(test)]
pub const ALL: &[(&str, &Schema)] = &[
    ("create", &CREATE),
    ("update", &UPDATE),
    ("start", &START),
    ("stop", &STOP),
    ("reboot", &REBOOT),
    ("attach interface", &super::interfaces::ATTACH),
    ("add security group", &super::interfaces::ADD_GROUP),
    ("remove security group", &super::interfaces::REMOVE_GROUP),
    ("create image", &CREATE_IMAGE),
    ("create backup", &CREATE_BACKUP),
    ("resize", &RESIZE),
    ("confirm resize", &CONFIRM_RESIZE),
    ("revert resize", &REVERT_RESIZE),
    ("migrate", &MIGRATE),
    ("rescue", &RESCUE),
    ("unrescue", &UNRESCUE),
    ("rebuild", &super::rebuild::REBUILD),
    ("pause", &PAUSE),
    ("unpause", &UNPAUSE),
    ("suspend", &SUSPEND),
    ("resume", &RESUME),
    ("restore", &RESTORE),
    ("crash dump", &CRASH_DUMP),
    ("lock", &LOCK),
    ("unlock", &UNLOCK),
    ("reset state", &RESET_STATE),
    ("change password", &CHANGE_PASSWORD),
    ("add fixed ip", &ADD_FIXED_IP),
    ("remove fixed ip", &REMOVE_FIXED_IP),
    ("evacuate", &super::moves::EVACUATE),
    ("migrate live", &super::moves::MIGRATE_LIVE),
    ("force complete", &super::moves::FORCE_COMPLETE),
    ("shelve", &SHELVE),
    ("shelve offload", &SHELVE_OFFLOAD),
    ("unshelve", &UNSHELVE),
    ("console output", &CONSOLE_OUTPUT),
    ("inject network info", &INJECT_NETWORK_INFO),
    ("force delete", &FORCE_DELETE),
    ("metadata merge", &METADATA_MERGE),
    ("metadata replace", &METADATA_REPLACE),
    ("metadata item", &METADATA_ITEM),
    ("tags", &TAGS_REPLACE),
    ("tag", &TAG_ADD),
];

pub(super) fn name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "format": "name" })
}

pub(super) fn metadata() -> Value {
    json!({
        "type": "object",
        "patternProperties": { "^[a-zA-Z0-9-_:. ]{1,255}$": { "type": "string", "maxLength": 255 } },
        "additionalProperties": false
    })
}

pub(super) fn host() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9-._]*$" })
}

pub(super) fn tag() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$" })
}

pub(super) fn address() -> Value {
    json!({ "type": "string", "oneOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
}

fn hints() -> Value {
    let ids = json!({ "oneOf": [
        { "type": "string", "format": "uuid" },
        { "type": "array", "items": { "type": "string", "format": "uuid" } }
    ] });
    json!({
        "type": "object",
        "properties": {
            "group": ids,
            "different_host": ids,
            "same_host": { "type": ["string", "array"], "items": { "type": "string", "format": "uuid" } },
            "query": { "type": ["string", "object"] },
            "target_cell": name(),
            "different_cell": { "type": ["string", "array"], "items": { "type": "string" } },
            "build_near_host_ip": address(),
            "cidr": { "type": "string", "pattern": "^/[0-9a-f.:]+$" }
        },
        "additionalProperties": true
    })
}

fn volume(version: Microversion) -> Value {
    let mut properties = json!({
        "device_name": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9._/-]*$" },
        "delete_on_termination": boolean(),
        "no_device": {},
        "connection_info": { "type": "string", "maxLength": 16_777_215 },
        "source_type": { "type": "string", "enum": ["volume", "image", "snapshot", "blank"] },
        "uuid": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9._-]*$" },
        "virtual_name": { "type": "string", "maxLength": 255 },
        "image_id": { "type": "string", "format": "uuid" },
        "volume_id": { "type": "string", "format": "uuid" },
        "snapshot_id": { "type": "string", "format": "uuid" },
        "destination_type": { "type": "string", "enum": ["local", "volume"] },
        "guest_format": { "type": "string", "maxLength": 255 },
        "device_type": { "type": "string", "maxLength": 255 },
        "disk_bus": { "type": "string", "maxLength": 255 },
        "boot_index": { "type": ["integer", "string", "null"], "pattern": "^-?[0-9]+$" },
        "volume_size": integer(1, MOST),
    });
    let tagged = (mv::DEVICE_TAGS <= version && version < mv::HYPERVISOR_PAGES)
        || version >= mv::DEVICE_TAGS_AGAIN;
    if tagged {
        properties["tag"] = tag();
    }
    if version >= mv::VOLUME_TYPE {
        properties["volume_type"] = json!({ "type": ["string", "null"], "maxLength": 255 });
    }
    json!({ "type": "array", "items": object(&[], properties) })
}

fn networks(version: Microversion) -> Value {
    let id = if version >= mv::NETWORKS_REQUIRED {
        json!({ "type": "string", "format": "uuid" })
    } else {
        json!({ "type": "string" })
    };
    let mut one = json!({ "fixed_ip": address(), "port": { "type": ["string", "null"], "format": "uuid" }, "uuid": id });
    let tagged = (mv::DEVICE_TAGS <= version && version < mv::NETWORKS_REQUIRED)
        || version >= mv::DEVICE_TAGS_AGAIN;
    if tagged {
        one["tag"] = tag();
    }
    let list = json!({ "type": "array", "items": object(&[], one) });
    if version < mv::NETWORKS_REQUIRED {
        return list;
    }
    json!({ "type": ["array", "string"], "items": list["items"], "pattern": "^(none|auto)$" })
}

/// A volume of the first form, which names its device.
fn old_volume() -> Value {
    object(
        &[],
        json!({
            "device_name": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9._/-]*$" },
            "delete_on_termination": boolean(),
            "no_device": {},
            "connection_info": { "type": "string", "maxLength": 16_777_215 },
            "virtual_name": { "type": "string", "maxLength": 255 },
            "volume_id": { "type": "string", "format": "uuid" },
            "snapshot_id": { "type": "string", "format": "uuid" },
            "volume_size": integer(1, MOST),
        }),
    )
}

pub(super) fn description() -> Value {
    json!({ "type": ["string", "null"], "minLength": 0, "maxLength": 255, "format": "printable" })
}

fn create(version: Microversion) -> Value {
    let mut properties = json!({
        "name": name(),
        "imageRef": { "type": "string", "oneOf": [{ "format": "uuid" }, { "maxLength": 0 }] },
        "flavorRef": { "type": ["string", "integer"], "minLength": 1 },
        "adminPass": { "type": "string" },
        "metadata": metadata(),
        "networks": networks(version),
        "OS-DCF:diskConfig": { "type": "string", "enum": ["AUTO", "MANUAL"] },
        "accessIPv4": { "type": "string", "format": "ipv4" },
        "accessIPv6": { "type": "string", "format": "ipv6" },
        "availability_zone": name(),
        "block_device_mapping": { "type": "array", "items": old_volume() },
        "block_device_mapping_v2": volume(version),
        "config_drive": boolean(),
        "key_name": name(),
        "min_count": positive(),
        "max_count": positive(),
        "return_reservation_id": boolean(),
        "security_groups": { "type": "array", "items": object(&[], json!({ "name": name() })) },
        "user_data": { "type": "string", "maxLength": 65535, "format": "base64" },
    });
    if version < mv::NO_PERSONALITY {
        let file = object(
            &[],
            json!({ "path": { "type": "string" }, "contents": { "type": "string", "format": "base64" } }),
        );
        properties["personality"] = json!({ "type": "array", "items": file });
    }
    let added = [
        (mv::DESCRIPTION, "description", description()),
        (
            mv::CREATE_TAGS,
            "tags",
            json!({ "type": "array", "items": tag(), "maxItems": 50 }),
        ),
        (
            mv::TRUSTED_CERTS,
            "trusted_image_certificates",
            json!({ "type": ["array", "null"], "minItems": 1, "maxItems": 50, "uniqueItems": true, "items": { "type": "string", "minLength": 1 } }),
        ),
        (mv::REQUESTED_HOST, "host", host()),
        (mv::REQUESTED_HOST, "hypervisor_hostname", host()),
    ];
    for (since, field, schema) in added {
        if version >= since {
            properties[field] = schema;
        }
    }
    if version >= mv::HOSTNAME {
        properties["hostname"] = hostname(version);
    }
    let required: &[&str] = if version >= mv::NETWORKS_REQUIRED {
        &["name", "flavorRef", "networks"]
    } else {
        &["name", "flavorRef"]
    };
    let mut body = object(
        &["server"],
        json!({ "server": object(required, properties), "os:scheduler_hints": hints() }),
    );
    body["properties"]["OS-SCH-HNT:scheduler_hints"] = hints();
    body
}

pub(super) fn hostname(version: Microversion) -> Value {
    if version >= mv::HOSTNAME_FQDN {
        return host();
    }
    json!({ "type": "string", "minLength": 2, "maxLength": 63, "pattern": "^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+$" })
}

/// `POST /servers`.
pub static CREATE: Schema = Schema::new(&[
    Range::new(FIRST, || create(FIRST)),
    Range::new(mv::DESCRIPTION, || create(mv::DESCRIPTION)),
    Range::new(mv::DEVICE_TAGS, || create(mv::DEVICE_TAGS)),
    Range::new(mv::HYPERVISOR_PAGES, || create(mv::HYPERVISOR_PAGES)),
    Range::new(mv::NETWORKS_REQUIRED, || create(mv::NETWORKS_REQUIRED)),
    Range::new(mv::DEVICE_TAGS_AGAIN, || create(mv::DEVICE_TAGS_AGAIN)),
    Range::new(mv::CREATE_TAGS, || create(mv::CREATE_TAGS)),
    Range::new(mv::NO_PERSONALITY, || create(mv::NO_PERSONALITY)),
    Range::new(mv::TRUSTED_CERTS, || create(mv::TRUSTED_CERTS)),
    Range::new(mv::VOLUME_TYPE, || create(mv::VOLUME_TYPE)),
    Range::new(mv::REQUESTED_HOST, || create(mv::REQUESTED_HOST)),
    Range::new(mv::HOSTNAME, || create(mv::HOSTNAME)),
    Range::new(mv::HOSTNAME_FQDN, || create(mv::HOSTNAME_FQDN)),
])
.legacy(|| {
    let mut body = create(FIRST);
    let server = &mut body["properties"]["server"];
    *server = loose(server.take());
    server["properties"]["user_data"]["type"] = json!(["string", "null"]);
    body
});

fn update(version: Microversion) -> Value {
    let mut properties = json!({
        "name": name(),
        "OS-DCF:diskConfig": { "type": "string", "enum": ["AUTO", "MANUAL"] },
        "accessIPv4": { "type": "string", "format": "ipv4" },
        "accessIPv6": { "type": "string", "format": "ipv6" },
    });
    if version >= mv::DESCRIPTION {
        properties["description"] = description();
    }
    if version >= mv::HOSTNAME {
        properties["hostname"] = hostname(version);
    }
    if version >= mv::PIN_ZONE {
        properties["pinned_availability_zone"] =
            json!({ "type": ["string", "null"], "minLength": 1, "maxLength": 255 });
    }
    wrapped("server", object(&[], properties))
}

/// `PUT /servers/{id}`.
pub static UPDATE: Schema = Schema::new(&[
    Range::new(FIRST, || update(FIRST)),
    Range::new(mv::DESCRIPTION, || update(mv::DESCRIPTION)),
    Range::new(mv::HOSTNAME, || update(mv::HOSTNAME)),
    Range::new(mv::HOSTNAME_FQDN, || update(mv::HOSTNAME_FQDN)),
    Range::new(mv::PIN_ZONE, || update(mv::PIN_ZONE)),
])
.legacy(|| loose(update(FIRST)));

/// `os-start`.
pub static START: Schema = Schema::new(&[Range::new(FIRST, || any_action("os-start"))]);
/// `os-stop`.
pub static STOP: Schema = Schema::new(&[Range::new(FIRST, || any_action("os-stop"))]);
/// `pause`.
pub static PAUSE: Schema = Schema::new(&[Range::new(FIRST, || any_action("pause"))]);
/// `unpause`.
pub static UNPAUSE: Schema = Schema::new(&[Range::new(FIRST, || any_action("unpause"))]);
/// `suspend`.
pub static SUSPEND: Schema = Schema::new(&[Range::new(FIRST, || any_action("suspend"))]);
/// `resume`.
pub static RESUME: Schema = Schema::new(&[Range::new(FIRST, || any_action("resume"))]);
/// `restore`.
pub static RESTORE: Schema = Schema::new(&[Range::new(FIRST, || any_action("restore"))]);
/// `trigger_crash_dump`.
pub static CRASH_DUMP: Schema =
    Schema::new(&[Range::new(FIRST, || null_action("trigger_crash_dump"))]);
/// `createImage`.
pub static CREATE_IMAGE: Schema = Schema::new(&[Range::new(FIRST, || {
    let image = object(&["name"], json!({ "name": name(), "metadata": metadata() }));
    wrapped("createImage", image)
})]);
/// `createBackup`.
pub static CREATE_BACKUP: Schema =
    Schema::new(&[Range::new(FIRST, create_backup)]).legacy(|| loose(create_backup()));

fn create_backup() -> Value {
    let rotation = json!({ "type": ["integer", "string"], "pattern": "^[0-9]*$", "minLength": 1, "minimum": 0 });
    let backup = object(
        &["backup_type", "name", "rotation"],
        json!({ "name": name(), "metadata": metadata(), "backup_type": { "type": "string" }, "rotation": rotation }),
    );
    wrapped("createBackup", backup)
}

/// `rescue`.
pub static RESCUE: Schema = Schema::new(&[Range::new(FIRST, || {
    let mut how = object(
        &[],
        json!({ "adminPass": { "type": "string" }, "rescue_image_ref": { "type": "string", "format": "uuid" } }),
    );
    how["type"] = json!(["object", "null"]);
    wrapped("rescue", how)
})]);
/// `unrescue`.
pub static UNRESCUE: Schema = Schema::new(&[Range::new(FIRST, || any_action("unrescue"))]);
/// `resize`.
pub static RESIZE: Schema = Schema::new(&[Range::new(FIRST, || {
    let fields = json!({
        "flavorRef": { "type": ["string", "integer"], "minLength": 1 },
        "OS-DCF:diskConfig": { "type": "string", "enum": ["AUTO", "MANUAL"] },
    });
    wrapped("resize", object(&["flavorRef"], fields))
})]);
/// `confirmResize`.
pub static CONFIRM_RESIZE: Schema =
    Schema::new(&[Range::new(FIRST, || any_action("confirmResize"))]);
/// `revertResize`.
pub static REVERT_RESIZE: Schema = Schema::new(&[Range::new(FIRST, || any_action("revertResize"))]);
/// `migrate`; looked at since it can name a host.
pub static MIGRATE: Schema = Schema::new(&[Range::new(mv::MIGRATE_HOST, || {
    let host = json!({
        "type": ["string", "null"], "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9-._]*$",
    });
    let mut how = object(&[], json!({ "host": host }));
    how["type"] = json!(["object", "null"]);
    wrapped("migrate", how)
})]);
/// `changePassword`.
pub static CHANGE_PASSWORD: Schema = Schema::new(&[Range::new(FIRST, || {
    let pass = json!({ "adminPass": { "type": "string" } });
    wrapped("changePassword", object(&["adminPass"], pass))
})]);
/// `addFixedIp`.
pub static ADD_FIXED_IP: Schema = Schema::new(&[Range::new(FIRST, || {
    let id = json!({ "type": ["string", "number"], "minLength": 1, "maxLength": 36 });
    wrapped(
        "addFixedIp",
        object(&["networkId"], json!({ "networkId": id })),
    )
})]);
/// `removeFixedIp`.
pub static REMOVE_FIXED_IP: Schema = Schema::new(&[Range::new(FIRST, || {
    wrapped(
        "removeFixedIp",
        object(&["address"], json!({ "address": address() })),
    )
})]);
/// `shelve`.
pub static SHELVE: Schema = Schema::new(&[Range::new(FIRST, || any_action("shelve"))]);
/// `shelveOffload`.
pub static SHELVE_OFFLOAD: Schema =
    Schema::new(&[Range::new(FIRST, || any_action("shelveOffload"))]);
/// `unshelve`.
pub static UNSHELVE: Schema = Schema::new(&[
    Range::new(FIRST, || any_action("unshelve")),
    Range::new(mv::UNSHELVE_ZONE, || {
        let zone = json!({ "availability_zone": name() });
        let mut place = object(&["availability_zone"], zone);
        place["type"] = json!(["object", "null"]);
        wrapped("unshelve", place)
    }),
    Range::new(mv::UNSHELVE_HOST, || {
        let mut place = object(
            &[],
            json!({ "availability_zone": { "type": ["string", "null"] }, "host": { "type": "string" } }),
        );
        place["type"] = json!(["object", "null"]);
        wrapped("unshelve", place)
    }),
]);
/// `unlock`.
pub static UNLOCK: Schema = Schema::new(&[Range::new(FIRST, || any_action("unlock"))]);
/// `injectNetworkInfo`.
pub static INJECT_NETWORK_INFO: Schema =
    Schema::new(&[Range::new(FIRST, || any_action("injectNetworkInfo"))]);
/// `forceDelete`.
pub static FORCE_DELETE: Schema = Schema::new(&[Range::new(FIRST, || any_action("forceDelete"))]);

/// `reboot`.
pub static REBOOT: Schema = Schema::new(&[Range::new(FIRST, || {
    let kind =
        json!({ "type": "string", "enum": ["HARD", "Hard", "hard", "SOFT", "Soft", "soft"] });
    wrapped("reboot", object(&["type"], json!({ "type": kind })))
})]);

/// `lock`.
pub static LOCK: Schema = Schema::new(&[
    Range::new(FIRST, || any_action("lock")),
    Range::new(mv::LOCKED_REASON, || {
        let mut reason = object(&[], json!({ "locked_reason": text(1, 255) }));
        reason["type"] = json!(["object", "null"]);
        wrapped("lock", reason)
    }),
]);

/// `os-resetState`.
pub static RESET_STATE: Schema = Schema::new(&[Range::new(FIRST, || {
    wrapped(
        "os-resetState",
        object(
            &["state"],
            json!({ "state": { "type": "string", "enum": ["active", "error"] } }),
        ),
    )
})]);

/// `os-getConsoleOutput`.
pub static CONSOLE_OUTPUT: Schema = Schema::new(&[Range::new(FIRST, || {
    let length =
        json!({ "type": ["integer", "string", "null"], "pattern": "^-?[0-9]+$", "minimum": -1 });
    wrapped(
        "os-getConsoleOutput",
        object(&[], json!({ "length": length })),
    )
})]);

/// `POST /servers/{id}/metadata`.
pub static METADATA_MERGE: Schema =
    Schema::new(&[Range::new(FIRST, || wrapped("metadata", metadata()))]);
/// `PUT /servers/{id}/metadata`.
pub static METADATA_REPLACE: Schema =
    Schema::new(&[Range::new(FIRST, || wrapped("metadata", metadata()))]);
/// `PUT /servers/{id}/metadata/{key}`.
pub static METADATA_ITEM: Schema = Schema::new(&[Range::new(FIRST, || {
    let mut item = metadata();
    item["minProperties"] = 1.into();
    item["maxProperties"] = 1.into();
    wrapped("meta", item)
})]);

/// `PUT /servers/{id}/tags/{tag}`: no body.
pub static TAG_ADD: Schema = Schema::new(&[Range::new(FIRST, || json!({ "type": "null" }))]);

/// `PUT /servers/{id}/tags`.
pub static TAGS_REPLACE: Schema = Schema::new(&[Range::new(FIRST, || {
    object(
        &["tags"],
        json!({ "tags": { "type": "array", "items": tag(), "maxItems": 50 } }),
    )
})]);
