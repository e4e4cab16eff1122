//! Version documents: what is served where, for clients that look before they ask.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use http::StatusCode;
use serde_json::{Value, json};
use types::Microversion;

/// Updated dates are part of the documents' contract.
const V2_UPDATED: &str = "2025-07-04T12:00:00Z";
const V21_UPDATED: &str = "2013-07-23T11:33:21Z";

fn v2(origin: &str) -> Value {
    json!({
        "id": "v2.0", "status": "DEPRECATED", "version": "", "min_version": "", "updated": V2_UPDATED,
        "links": [{ "rel": "self", "href": format!("{origin}/v2/") }],
    })
}

fn v21(origin: &str) -> Value {
    json!({
        "id": "v2.1", "status": "CURRENT", "version": Microversion::MAX.to_string(), "min_version": Microversion::MIN.to_string(),
        "updated": V21_UPDATED,
        "links": [{ "rel": "self", "href": format!("{origin}/v2.1/") }],
    })
}

fn media_types(version: &str) -> Value {
    json!([{ "base": "application/json", "type": format!("application/vnd.openstack.compute+json;version={version}") }])
}

/// `GET /`: every version.
pub fn all(origin: &str) -> Result<Reply, Fault> {
    Reply::ok(&json!({ "versions": [v2(origin), v21(origin)] }))
}

/// `GET /v2` and `GET /v2.1`: one version.
pub fn one(origin: &str, legacy: bool) -> Result<Reply, Fault> {
    let (mut document, number) = if legacy {
        (v2(origin), "2")
    } else {
        (v21(origin), "2.1")
    };
    if let Some(links) = document["links"].as_array_mut() {
        links.push(json!({ "rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/" }));
    }
    document["media-types"] = media_types(number);
    Reply::ok(&json!({ "version": document }))
}

/// `GET /versions/{id}`. Below `/v2` there is only that version, whatever is asked for.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let below_v2 = call.links.version == "v2";
    match call.param(0) {
        _ if below_v2 => one(&call.links.origin, true),
        "v2.0" => one(&call.links.origin, true),
        "v2.1" => one(&call.links.origin, false),
        _ => Err(Fault::no_such_resource()),
    }
}

/// A path without a version: 300 with the choices.
pub fn choices(origin: &str, path: &str) -> Result<Reply, Fault> {
    let choice = |id: &str, status: &str, prefix: &str, number: &str| {
        json!({
            "id": id, "status": status,
            "links": [{ "rel": "self", "href": format!("{origin}/{prefix}{path}") }],
            "media-types": media_types(number),
        })
    };
    let document = json!({ "choices": [choice("v2.0", "DEPRECATED", "v2", "2"), choice("v2.1", "CURRENT", "v2.1", "2.1")] });
    Reply::json(StatusCode::MULTIPLE_CHOICES, &document)
}
