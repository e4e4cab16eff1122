//! The API as an OpenAPI 3.1 document, one for each microversion, made of the table that routes requests, of the schemas that
//! check them, and of answers that were seen (`answers.rs`), against which every test holds what it gets. It can therefore not
//! say anything else than what the API does.

mod answers;
mod beside;

use crate::call::Reply;
use crate::faults::Fault;
use crate::idempotency;
use crate::policy_rules;
use crate::query::{Key, Kind};
use crate::route::{Route, Served};
use crate::routes::ROUTES;
use axum::extract::RawQuery;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use types::Microversion;
use types::microversion::AskedVersion;

/// The document of a version (`2.79` or `latest`); none if the API does not have it.
pub fn document(version: &str) -> Option<Value> {
    Some(build(version_of(version)?))
}

fn version_of(text: &str) -> Option<Microversion> {
    if text.eq_ignore_ascii_case("latest") {
        return Some(Microversion::MAX);
    }
    text.parse::<AskedVersion>().ok()?.served()
}

/// `GET /openapi.json?version=2.79`. Like the version documents it needs no token.
pub async fn serve(RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let asked = url::form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "version")
        .last();
    let asked = asked.map_or_else(|| "latest".into(), |(_, value)| value);
    let Some(version) = version_of(&asked) else {
        let (min, max) = (Microversion::MIN, Microversion::MAX);
        let shown: String = asked.chars().take(20).collect();
        return Fault::bad_request(format!(
            "Invalid input for query parameters version. Value: {shown}. It must be latest or a version from {min} to {max}"
        ))
        .into_response();
    };
    let reply = Reply {
        status: StatusCode::OK,
        body: Some(rendered(version)),
        location: None,
        replayed: false,
        waited: None,
    };
    reply.into_response()
}

/// Every document is rendered once.
fn rendered(version: Microversion) -> Bytes {
    static ALL: OnceLock<Vec<OnceLock<Bytes>>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..=Microversion::MAX.0).map(|_| OnceLock::new()).collect());
    all[usize::from(version.0)]
        .get_or_init(|| build(version).to_string().into())
        .clone()
}

fn build(version: Microversion) -> Value {
    let mut paths: BTreeMap<&str, BTreeMap<String, Vec<&Route>>> = BTreeMap::new();
    let alive = ROUTES
        .iter()
        .filter(|row| row.exists_at(version) && !matches!(row.served, Served::Gone));
    for row in alive {
        let verb = row.verb.as_str().to_ascii_lowercase();
        paths
            .entry(row.path)
            .or_default()
            .entry(verb)
            .or_default()
            .push(row);
    }
    let mut paths: Map<String, Value> = paths
        .into_iter()
        .map(|(path, verbs)| (path.to_owned(), path_item(path, verbs, version)))
        .collect();
    paths.insert(crate::events::PATH.to_owned(), beside::events());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OpenStack Compute API of Kilonova",
            "description": "What this cloud serves at one microversion. Ask for it in the header OpenStack-API-Version.",
            "version": version.to_string(),
        },
        "servers": [
            { "url": "/v2.1" },
            { "url": "/v2.1/{project_id}", "variables": { "project_id": { "default": "PROJECT", "description": "The token's project" } } },
        ],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": components(version),
    })
}

fn components(version: Microversion) -> Value {
    let fault = json!({
        "type": "object", "minProperties": 1, "maxProperties": 1,
        "additionalProperties": {
            "type": "object", "required": ["code", "message"],
            "properties": {
                "code": { "type": "integer" }, "message": { "type": "string" }, "retryAfter": { "type": "string" },
            },
        },
    });
    let content =
        json!({ "application/json": { "schema": { "$ref": "#/components/schemas/fault" } } });
    let unexpected = "Anything else: a fault of the cloud itself, or a service that it needs and that does not answer";
    let mut responses = Map::new();
    responses.insert(
        "fault".to_owned(),
        json!({ "description": unexpected, "content": content }),
    );
    for (status, words) in REFUSALS {
        let mut response = json!({ "description": words, "content": content });
        if let Some((name, words)) = header_of(*status) {
            response["headers"] =
                json!({ name: { "description": words, "schema": { "type": "string" } } });
        }
        responses.insert(format!("fault{status}"), response);
    }
    json!({
        "securitySchemes": {
            "token": { "type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "A token of the Identity API" },
        },
        "parameters": {
            "microversion": {
                "name": "OpenStack-API-Version", "in": "header", "description": "The microversion",
                "schema": { "type": "string", "default": format!("compute {version}") },
            },
        },
        "schemas": { "fault": fault },
        "responses": responses,
    })
}

/// Statuses with which requests are refused, each with why.
const REFUSALS: &[(u16, &str)] = &[
    (400, "The request is malformed, or asks for what cannot be"),
    (401, "There is no valid token"),
    (403, "The policy or a quota forbids it"),
    (404, "It is not there, or not at this version"),
    (406, "There is no such microversion"),
    (408, "The body did not arrive in time"),
    (409, "The state of what is asked for does not allow it"),
    (413, "The body is too large"),
    (415, "The body is of a type that is not read"),
    (422, "The Idempotency-Key was used for another request"),
    (429, "Too many requests by this token or from this address"),
    (501, "This cloud has not what it takes"),
];

/// What any request can get, before its row counts.
const ALWAYS: [u16; 7] = [400, 401, 406, 408, 413, 415, 429];

/// A header that comes with a refusal, with what it says.
fn header_of(status: u16) -> Option<(&'static str, &'static str)> {
    match status {
        401 => Some(("WWW-Authenticate", "Where tokens are given out")),
        413 | 429 => Some(("Retry-After", "Seconds until it may be tried again")),
        _ => None,
    }
}

/// The statuses with which these rows refuse.
fn refusals(rows: &[&Route]) -> BTreeSet<u16> {
    let mut all = BTreeSet::from(ALWAYS);
    for row in rows {
        all.extend(
            answers::faults(row)
                .iter()
                .filter(|status| **status < 500 || **status == 501),
        );
        if row.policy.is_some() {
            all.insert(403);
        }
        if idempotency::takes_keys(row) {
            all.extend([409, 422]);
        }
    }
    all
}

/// The statuses of success of these rows, each with what is answered: a body for each action, or none.
fn successes(rows: &[&Route], version: Microversion) -> Map<String, Value> {
    #[derive(Default)]
    struct Told {
        bodies: Vec<Value>,
        with: Vec<&'static str>,
        without: Vec<&'static str>,
    }
    let mut all: BTreeMap<u16, Told> = BTreeMap::new();
    for row in rows {
        let action = row.action.unwrap_or_default();
        for status in row.successes(version) {
            let told = all.entry(status).or_default();
            let answer = answers::answer(row, status, version, false).unwrap_or_default();
            if answer.empty || answer.schema.is_none() {
                told.without.push(action);
            }
            if let Some(mut schema) = answer.schema {
                if !action.is_empty() {
                    schema["title"] = action.into();
                }
                told.with.push(action);
                told.bodies.push(schema);
            }
        }
    }
    let responses = all.into_iter().map(|(status, told)| {
        let mut words = match status {
            201 => "Made".to_owned(),
            202 => "Accepted".to_owned(),
            207 => "Done in part".to_owned(),
            _ => "Done".to_owned(),
        };
        for (how, actions) in [
            ("Without a body", &told.without),
            ("With a body", &told.with),
        ] {
            let named: Vec<&str> = actions
                .iter()
                .copied()
                .filter(|one| !one.is_empty())
                .collect();
            if !named.is_empty() {
                words.push_str(&format!(". {how}: {}", named.join(", ")));
            }
        }
        let mut response = json!({ "description": words });
        let mut bodies = told.bodies;
        let schema = match bodies.len() {
            0 => None,
            1 => bodies.pop(),
            _ => Some(json!({ "anyOf": bodies })),
        };
        if let Some(schema) = schema {
            response["content"] = json!({ "application/json": { "schema": schema } });
        }
        (status.to_string(), response)
    });
    responses.collect()
}

fn path_item(path: &str, verbs: BTreeMap<String, Vec<&Route>>, version: Microversion) -> Value {
    let mut item: Map<String, Value> = verbs
        .into_iter()
        .map(|(verb, rows)| {
            let operation = operation(&verb, path, &rows, version);
            (verb, operation)
        })
        .collect();
    let mut parameters = vec![json!({ "$ref": "#/components/parameters/microversion" })];
    let names = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    parameters.extend(names.map(|name| {
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
    }));
    item.insert("parameters".to_owned(), parameters.into());
    item.into()
}

fn operation(verb: &str, path: &str, rows: &[&Route], version: Microversion) -> Value {
    let name: String = path
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let built = rows.iter().any(|row| matches!(row.served, Served::By(_)));
    let mut operation = json!({
        "operationId": format!("{verb}{name}"),
        "tags": [path.split('/').nth(1).unwrap_or_default()],
        "responses": { "default": { "$ref": "#/components/responses/fault" } },
        "x-policies": rows.iter().filter_map(|row| row.policy).collect::<Vec<_>>(),
    });
    let guards: Vec<&str> = policy_rules::defaults()
        .filter(|rule| rows.iter().any(|row| row.policy == Some(rule.name)))
        .map(|rule| rule.description)
        .collect();
    let mut words = guards.join("\n");
    let succeeds = successes(rows, version);
    if built && succeeds.is_empty() {
        words.push_str("\nThis cloud has not what is asked for: it is always refused.");
    }
    operation["description"] = words.trim().into();
    for (status, response) in succeeds {
        operation["responses"][status] = response;
    }
    for status in refusals(rows) {
        operation["responses"][status.to_string()] =
            json!({ "$ref": format!("#/components/responses/fault{status}") });
    }
    if !built {
        operation["responses"]["501"] = json!({ "$ref": "#/components/responses/fault501" });
    }
    let keys = rows.iter().filter_map(|row| row.query);
    let keys = keys.flat_map(|keys| keys.keys.iter());
    let parameters: Vec<Value> = keys
        .filter(|key| key.since <= version && version < key.until)
        .map(parameter)
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = body(rows, version) {
        let required = body["type"] != "null" && body["type"] != json!(["object", "null"]);
        operation["requestBody"] =
            json!({ "required": required, "content": { "application/json": { "schema": body } } });
    }
    beside::add(&mut operation, rows);
    operation
}

/// The schema of the body: that of the row, or one of those of the actions.
fn body(rows: &[&Route], version: Microversion) -> Option<Value> {
    let of = |row: &Route| row.body.and_then(|schema| schema.document(version));
    if let [only] = rows
        && only.action.is_none()
    {
        return of(only);
    }
    let actions: Vec<Value> = rows
        .iter()
        .map(|row| {
            let name = row.action.unwrap_or_default();
            let mut schema = of(row).unwrap_or_else(
                || json!({ "type": "object", "required": [name], "properties": { name: {} } }),
            );
            schema["title"] = name.into();
            schema["maxProperties"] = 1.into();
            schema
        })
        .collect();
    Some(json!({ "oneOf": actions }))
}

fn parameter(key: &Key) -> Value {
    let one = match key.kind {
        Kind::Any => json!({ "type": "string" }),
        Kind::Digits => json!({ "type": "string", "minLength": 1, "pattern": "^[0-9]*$" }),
        Kind::Positive => json!({ "type": "string", "pattern": "^0*[1-9][0-9]*$" }),
        Kind::Host => {
            json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9-._]*$" })
        }
        Kind::Time => json!({ "type": "string", "format": "date-time" }),
        Kind::Regex => json!({ "type": "string", "minLength": 1, "format": "regex" }),
        Kind::OneOf(list) => json!({ "type": "string", "enum": list }),
    };
    let mut parameter = json!({ "name": key.name, "in": "query", "schema": one });
    if key.many {
        parameter["schema"] = json!({ "type": "array", "items": parameter["schema"] });
        parameter["explode"] = true.into();
    }
    parameter
}

#[cfg(test)]
pub use answers::{answer as of_answer, name as name_of};

/// Whether the document says that the row refuses with this status.
#[cfg(test)]
pub fn refuses(row: &Route, status: u16) -> bool {
    (500..600).contains(&status) && status != 501 || refusals(&[row]).contains(&status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    /// Every schema in the document, and every reference.
    fn walk(value: &Value, schemas: &mut Vec<Value>, references: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    match (name.as_str(), inner) {
                        ("schema", schema) => schemas.push(schema.clone()),
                        ("$ref", Value::String(to)) => references.push(to.clone()),
                        _ => {}
                    }
                    walk(inner, schemas, references);
                }
            }
            Value::Array(list) => list.iter().for_each(|one| walk(one, schemas, references)),
            _ => {}
        }
    }

    #[test]
    fn every_version_has_a_sound_document() {
        for minor in 1..=Microversion::MAX.0 {
            let document = build(Microversion(minor));
            assert_eq!(document["info"]["version"], format!("2.{minor}"));
            let size = document.to_string().len();
            assert!(size < 1 << 20, "2.{minor} has {size} bytes");
            let (mut schemas, mut references) = (Vec::new(), Vec::new());
            walk(&document, &mut schemas, &mut references);
            for to in references {
                let pointer = to.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{to}");
            }
            if minor % 20 == 1 || minor == Microversion::MAX.0 {
                for schema in schemas.iter().filter(|schema| schema.get("$ref").is_none()) {
                    jsonschema::draft202012::meta::validate(schema)
                        .unwrap_or_else(|error| panic!("2.{minor}: {error} in {schema}"));
                }
            }
            let mut ids = HashSet::new();
            for (path, item) in document["paths"].as_object().unwrap() {
                for (verb, operation) in item.as_object().unwrap() {
                    if ["parameters", "servers"].contains(&verb.as_str()) {
                        continue;
                    }
                    let id = operation["operationId"].as_str().unwrap().to_owned();
                    assert!(ids.insert(id), "{verb} {path}");
                    let mut names = HashSet::new();
                    for one in operation["parameters"].as_array().into_iter().flatten() {
                        assert!(
                            names.insert(one["name"].as_str().unwrap().to_owned()),
                            "{verb} {path}: {one}"
                        );
                    }
                }
            }
            assert!(ids.len() > 100, "2.{minor}: {}", ids.len());
        }
    }

    #[test]
    fn documents_differ_by_version() {
        let at = |version: &str| document(version).unwrap();
        let tags = "/servers/{server_id}/tags";
        assert!(at("2.25")["paths"].get(tags).is_none() && at("2.26")["paths"].get(tags).is_some());
        assert!(
            at("2.1")["paths"].get("/images").is_some()
                && at("2.36")["paths"].get("/images").is_none()
        );
        let create = |version| {
            at(version)["paths"]["/servers"]["post"]["requestBody"]["content"]["application/json"]["schema"]
                ["properties"]["server"]["required"]
                .clone()
        };
        assert_eq!(create("2.36"), json!(["name", "flavorRef"]));
        assert_eq!(create("latest"), json!(["name", "flavorRef", "networks"]));
        let swap = |version| {
            at(version)["paths"]["/flavors/{id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
                ["properties"]["flavor"]["properties"]["swap"]["type"]
                .clone()
        };
        assert_eq!(swap("2.74"), json!(["integer", "string"]));
        assert_eq!(swap("2.75"), "integer");
        assert_eq!(
            (document("2.105"), document("2.0"), document("x")),
            (None, None, None)
        );
    }
}
