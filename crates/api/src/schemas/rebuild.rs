//! The body of `rebuild`.

use super::servers::{description, hostname, metadata, name};
use super::{Range, Schema, boolean, loose, object, wrapped};
use crate::mv;
use serde_json::{Value, json};
use types::Microversion;

fn rebuild(version: Microversion) -> Value {
    let mut properties = json!({
        "name": name(),
        "imageRef": { "type": "string", "format": "uuid" },
        "adminPass": { "type": "string" },
        "metadata": metadata(),
        "preserve_ephemeral": boolean(),
        "OS-DCF:diskConfig": { "type": "string", "enum": ["AUTO", "MANUAL"] },
        "accessIPv4": { "type": "string", "format": "ipv4" },
        "accessIPv6": { "type": "string", "format": "ipv6" },
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
            mv::REBUILD_KEY,
            "key_name",
            json!({ "oneOf": [{ "type": "string", "minLength": 1, "maxLength": 255 }, { "type": "null" }] }),
        ),
        (
            mv::NO_PERSONALITY,
            "user_data",
            json!({ "type": ["string", "null"], "maxLength": 65535, "format": "base64" }),
        ),
        (
            mv::TRUSTED_CERTS,
            "trusted_image_certificates",
            json!({ "type": ["array", "null"], "minItems": 1, "maxItems": 50, "uniqueItems": true, "items": { "type": "string", "minLength": 1 } }),
        ),
    ];
    for (since, field, schema) in added {
        if version >= since {
            properties[field] = schema;
        }
    }
    if version >= mv::HOSTNAME {
        properties["hostname"] = hostname(version);
    }
    wrapped("rebuild", object(&["imageRef"], properties))
}

/// `rebuild`.
pub static REBUILD: Schema = Schema::new(&[
    Range::new(Microversion::MIN, || rebuild(Microversion::MIN)),
    Range::new(mv::DESCRIPTION, || rebuild(mv::DESCRIPTION)),
    Range::new(mv::REBUILD_KEY, || rebuild(mv::REBUILD_KEY)),
    Range::new(mv::NO_PERSONALITY, || rebuild(mv::NO_PERSONALITY)),
    Range::new(mv::TRUSTED_CERTS, || rebuild(mv::TRUSTED_CERTS)),
    Range::new(mv::HOSTNAME, || rebuild(mv::HOSTNAME)),
    Range::new(mv::HOSTNAME_FQDN, || rebuild(mv::HOSTNAME_FQDN)),
])
.legacy(|| loose(rebuild(Microversion::MIN)));
