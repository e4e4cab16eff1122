//! Bodies of requests about volumes.

use super::servers::tag;
use super::{Range, Schema, boolean, object, wrapped};
use crate::mv;
use serde_json::{Value, json};
use types::Microversion;

const FIRST: Microversion = Microversion::MIN;

/// Every schema of this module, for the test that compiles them.
#[cfg(test)]
pub const ALL: &[(&str, &Schema)] = &[
    ("attach volume", &ATTACH),
    ("change attachment", &UPDATE),
    ("create volume", &CREATE),
    ("create volume snapshot", &SNAPSHOT),
];

fn uuid() -> Value {
    json!({ "type": "string", "format": "uuid" })
}

fn device() -> Value {
    json!({ "type": ["string", "null"], "pattern": "(^/dev/x{0,1}[a-z]{0,1}d{0,1})([a-z]+)[0-9]*$" })
}

fn attach(version: Microversion) -> Value {
    let mut properties = json!({ "volumeId": uuid(), "device": device() });
    if version >= mv::ATTACHED_TAGS {
        properties["tag"] = tag();
    }
    if version >= mv::ATTACHED_GOES {
        properties["delete_on_termination"] = boolean();
    }
    wrapped("volumeAttachment", object(&["volumeId"], properties))
}

/// `POST /servers/{id}/os-volume_attachments`.
pub static ATTACH: Schema = Schema::new(&[
    Range::new(FIRST, || attach(FIRST)),
    Range::new(mv::ATTACHED_TAGS, || attach(mv::ATTACHED_TAGS)),
    Range::new(mv::ATTACHED_GOES, || attach(mv::ATTACHED_GOES)),
]);

fn update(version: Microversion) -> Value {
    let mut properties = json!({ "volumeId": uuid() });
    if version >= mv::CHANGE_ATTACHMENT {
        properties["id"] = uuid();
        properties["serverId"] = uuid();
        properties["device"] = device();
        properties["tag"] = tag();
        properties["delete_on_termination"] = boolean();
    }
    wrapped("volumeAttachment", object(&["volumeId"], properties))
}

/// `PUT /servers/{id}/os-volume_attachments/{volume}`.
pub static UPDATE: Schema = Schema::new(&[
    Range::new(FIRST, || update(FIRST)),
    Range::new(mv::CHANGE_ATTACHMENT, || update(mv::CHANGE_ATTACHMENT)),
]);

/// `POST /os-volumes`.
pub static CREATE: Schema = Schema::new(&[Range::new(FIRST, || {
    let text = json!({ "type": "string" });
    let properties = json!({
        "volume_type": text, "display_name": text, "display_description": text, "snapshot_id": text,
        "availability_zone": text,
        "metadata": { "type": "object" },
        "size": { "type": ["integer", "string"], "pattern": "^[0-9]+$", "minimum": 1 },
    });
    wrapped("volume", object(&["size"], properties))
})]);

/// `POST /os-snapshots`.
pub static SNAPSHOT: Schema = Schema::new(&[Range::new(FIRST, || {
    let text = json!({ "type": "string" });
    let properties = json!({
        "volume_id": text, "force": boolean(), "display_name": text, "display_description": text,
    });
    wrapped("snapshot", object(&["volume_id"], properties))
})]);
