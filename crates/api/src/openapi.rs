//! The API as an OpenAPI 3.1 document, one for each microversion, made of the table that routes requests and of the
//! schemas that check them. It can therefore not say anything else than what the API does.

mod answers;
mod beside;

use crate::call::Reply;
use crate::faults::Fault;
use crate::policy_rules;
use crate::query::{Key, Kind};
use crate::route::{Route, Served};
use crate::routes::ROUTES;
use axum::extract::RawQuery;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
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
            "properties": { "code": { "type": "integer" }, "message": { "type": "string" } },
        },
    });
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
        "responses": {
            "fault": {
                "description": "A fault: one key that names its kind",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/fault" } } },
            },
        },
    })
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
    operation["description"] = guards.join("\n").into();
    if built {
        operation["responses"]["2XX"] = json!({ "description": "Done, or accepted" });
        if let Some(schema) = answers::schema(path, version).filter(|_| verb == "get") {
            operation["responses"]["2XX"]["content"] =
                json!({ "application/json": { "schema": schema } });
        }
    } else {
        operation["responses"]["501"] = json!({ "description": "Not built yet in this cloud" });
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
pub use answers::schema as of_answer;

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
            at(version)["paths"]["/flavors/{id}"]["get"]["responses"]["2XX"]["content"]["application/json"]["schema"]
                ["properties"]["flavor"]["properties"]["swap"]["type"]
                .clone()
        };
        assert_eq!(swap("2.74"), json!(["null", "string"]));
        assert_eq!(swap("2.75"), json!(["null", "number"]));
        assert_eq!(
            (document("2.105"), document("2.0"), document("x")),
            (None, None, None)
        );
    }
}
