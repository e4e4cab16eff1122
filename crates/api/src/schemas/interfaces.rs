//! Bodies of requests about the interfaces of servers.

use super::servers::{address, tag};
use super::{Range, Schema, object};
use crate::mv;
use serde_json::{Value, json};
use types::Microversion;

fn attach(tagged: bool) -> Value {
    let fixed = object(&["ip_address"], json!({ "ip_address": address() }));
    let mut properties = json!({
        "net_id": { "type": "string", "format": "uuid" },
        "port_id": { "type": "string", "format": "uuid" },
        "fixed_ips": { "type": "array", "minItems": 1, "maxItems": 1, "items": fixed },
    });
    if tagged {
        properties["tag"] = tag();
    }
    object(
        &[],
        json!({ "interfaceAttachment": object(&[], properties) }),
    )
}

/// `POST /servers/{id}/os-interface`.
pub static ATTACH: Schema = Schema::new(&[
    Range::new(Microversion::MIN, || attach(false)),
    Range::new(mv::ATTACHED_TAGS, || attach(true)),
]);

fn group(action: &str) -> Value {
    let inner = object(
        &["name"],
        json!({ "name": { "type": "string", "minLength": 1 } }),
    );
    let mut properties = serde_json::Map::new();
    properties.insert(action.to_owned(), inner);
    let mut body = object(&[action], properties.into());
    body["additionalProperties"] = true.into();
    body
}

/// `addSecurityGroup`.
pub static ADD_GROUP: Schema =
    Schema::new(&[Range::new(Microversion::MIN, || group("addSecurityGroup"))]);
/// `removeSecurityGroup`.
pub static REMOVE_GROUP: Schema = Schema::new(&[Range::new(Microversion::MIN, || {
    group("removeSecurityGroup")
})]);
