//! What this cloud has beside Nova's API: headers and a key of the query of some rows, and the stream of events. Each is asked
//! where it is served: by the predicates that requests go by, and with the keys that requests are read with.

use super::parameter;
use crate::events;
use crate::handlers::servers_create;
use crate::idempotency;
use crate::query::Key;
use crate::route::Route;
use serde_json::{Value, json};

/// Adds to the operation of these rows what they have.
pub fn add(operation: &mut Value, rows: &[&Route]) {
    let any = |has: fn(&Route) -> bool| rows.iter().any(|row| has(row));
    let mut parameters = Vec::new();
    let mut headers = serde_json::Map::new();
    if any(servers_create::has_dry_run) {
        let words = "Only says whether and where the servers would be placed, and writes nothing";
        let mut key = told(&servers_create::DRY_RUN, words);
        key["schema"] = json!({ "type": "string", "enum": ["true", "false"] });
        parameters.push(key);
        let schema = json!({
            "type": "object", "required": ["dry_run"], "properties": { "dry_run": { "type": "object" } },
        });
        operation["responses"]["200"] = json!({
            "description": "What would become of the servers, when that is all that was asked",
            "content": { "application/json": { "schema": schema } },
        });
    }
    if any(idempotency::takes_keys) {
        let words =
            "The same key and request get the first answer again for a day, another request 422";
        let schema = json!({ "type": "string", "minLength": 1, "maxLength": idempotency::LONGEST });
        parameters.push(header("Idempotency-Key", words, schema));
        let words = "This is the first answer to an earlier request";
        let replayed = json!({ "description": words, "schema": { "const": "true" } });
        headers.insert("Idempotency-Replayed".to_owned(), replayed);
    }
    if any(events::may_wait) {
        let words = "wait=60; for=ACTIVE: the answer comes when the server is in that state, in ERROR, or the seconds are over";
        parameters.push(header("Prefer", words, json!({ "type": "string" })));
        let words = "How the wait has ended";
        let applied = json!({ "description": words, "schema": { "enum": events::ENDS } });
        headers.insert("Preference-Applied".to_owned(), applied);
    }
    if !parameters.is_empty() {
        match &mut operation["parameters"] {
            Value::Array(list) => list.append(&mut parameters),
            other => *other = parameters.into(),
        }
    }
    let responses = operation["responses"].as_object_mut().into_iter().flatten();
    let done = responses.filter(|(status, _)| status.starts_with('2'));
    for (_, response) in done.filter(|_| !headers.is_empty()) {
        response["headers"] = headers.clone().into();
    }
}

fn told(key: &Key, words: &str) -> Value {
    let mut parameter = parameter(key);
    parameter["description"] = words.into();
    parameter
}

fn header(name: &str, words: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "header", "description": words, "schema": schema })
}

/// The stream of events, which is below no version.
pub fn events() -> Value {
    let mut parameters: Vec<Value> = events::KEYS
        .iter()
        .map(|(key, words)| told(key, words))
        .collect();
    let words = "The id of the last event that came: the stream goes on after it";
    parameters.push(header("Last-Event-ID", words, json!({ "type": "string" })));
    json!({
        "servers": [{ "url": "/" }],
        "get": {
            "operationId": "get_events",
            "tags": ["events"],
            "description": "What happens to the servers of the token's project, as it happens",
            "parameters": parameters,
            "responses": {
                "200": {
                    "description": "Server-Sent Events; each has a JSON document",
                    "content": { "text/event-stream": { "schema": { "type": "string" } } },
                },
                "default": { "$ref": "#/components/responses/fault" },
            },
            "x-policies": events::POLICIES,
        },
    })
}
