//! The documents that describe the API, as a client gets them: they are OpenAPI 3.1, and have every row of the routing
//! table that is alive at their version, and no other.

use super::harness::Cloud;
use crate::query::Keys;
use crate::route::Served;
use crate::routes::ROUTES;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use types::Microversion;

/// An object of OpenAPI: its fields, which of them must be there, and what must hold beyond that.
fn object(required: &[&str], fields: &[(&str, Value)]) -> Value {
    let fields: serde_json::Map<String, Value> = fields
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()))
        .collect();
    // What begins with x- is anybody's.
    json!({
        "type": "object", "required": required, "properties": fields, "patternProperties": { "^x-": true },
        "additionalProperties": false,
    })
}

fn map_of(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

fn list_of(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// What a document must look like (OpenAPI Specification 3.1.0, section 4.8), as far as ours go: what is not named here may
/// be right, but none of ours has it.
fn specification() -> Value {
    let text = || json!({ "type": "string" });
    let flag = || json!({ "type": "boolean" });
    let to = |name: &str| json!({ "$ref": format!("#/$defs/{name}") });
    let or_reference = |name: &str| json!({ "if": { "type": "object", "required": ["$ref"] }, "then": to("reference"), "else": to(name) });
    let responses = json!({
        "type": "object", "minProperties": 1, "additionalProperties": false,
        "patternProperties": { "^([1-5][0-9][0-9]|[1-5]XX|default)$": or_reference("response") },
    });
    let verbs = [
        "get", "put", "post", "delete", "options", "head", "patch", "trace",
    ];
    let mut item = vec![
        ("parameters", list_of(or_reference("parameter"))),
        ("servers", list_of(object(&["url"], &[("url", text())]))),
    ];
    item.extend(verbs.map(|verb| (verb, to("operation"))));
    let mut parameter = object(
        &["name", "in", "schema"],
        &[
            ("name", text()),
            (
                "in",
                json!({ "enum": ["query", "header", "path", "cookie"] }),
            ),
            ("description", text()),
            ("required", flag()),
            ("explode", flag()),
            ("schema", to("schema")),
        ],
    );
    // A part of a path cannot be left out.
    parameter["if"] = json!({ "properties": { "in": { "const": "path" } } });
    parameter["then"] =
        json!({ "required": ["required"], "properties": { "required": { "const": true } } });
    let content = json!({ "type": "object", "minProperties": 1, "additionalProperties": to("media"),
        "propertyNames": { "pattern": "^[^/]+/[^/]+$" } });
    let key = "^[a-zA-Z0-9._-]+$";
    let components = |values: Value| json!({ "type": "object", "propertyNames": { "pattern": key }, "additionalProperties": values });
    let mut document = object(
        &["openapi", "info", "paths"],
        &[
            (
                "openapi",
                json!({ "type": "string", "pattern": r"^3\.1\.\d+$" }),
            ),
            (
                "info",
                object(
                    &["title", "version"],
                    &[
                        ("title", text()),
                        ("version", text()),
                        ("description", text()),
                    ],
                ),
            ),
            (
                "servers",
                list_of(object(
                    &["url"],
                    &[
                        ("url", text()),
                        ("description", text()),
                        (
                            "variables",
                            map_of(object(
                                &["default"],
                                &[("default", text()), ("description", text())],
                            )),
                        ),
                    ],
                )),
            ),
            ("security", list_of(map_of(list_of(text())))),
            (
                "paths",
                json!({ "type": "object", "propertyNames": { "pattern": "^/" }, "additionalProperties": to("item") }),
            ),
            (
                "components",
                object(
                    &[],
                    &[
                        ("securitySchemes", components(to("scheme"))),
                        ("parameters", components(to("parameter"))),
                        ("schemas", components(to("schema"))),
                        ("responses", components(to("response"))),
                    ],
                ),
            ),
        ],
    );
    document["$defs"] = json!({
        "reference": { "type": "object", "required": ["$ref"], "maxProperties": 1, "properties": { "$ref": { "type": "string", "pattern": "^#/components/" } } },
        "schema": { "type": ["object", "boolean"] },
        "media": object(&["schema"], &[("schema", to("schema"))]),
        "response": object(&["description"], &[("description", text()), ("content", content.clone()),
            ("headers", map_of(object(&["schema"], &[("description", text()), ("schema", to("schema"))])))]),
        "scheme": object(&["type", "name", "in"], &[
            ("type", json!({ "const": "apiKey" })),
            ("name", text()),
            ("in", json!({ "enum": ["query", "header", "cookie"] })),
            ("description", text()),
        ]),
        "parameter": parameter,
        "item": object(&[], &item),
        "operation": object(&["responses"], &[
            ("operationId", text()),
            ("tags", list_of(text())),
            ("summary", text()),
            ("description", text()),
            ("parameters", list_of(or_reference("parameter"))),
            ("requestBody", object(&["content"], &[("description", text()), ("required", flag()), ("content", content)])),
            ("responses", responses),
            ("deprecated", flag()),
            ("security", list_of(map_of(list_of(text())))),
        ]),
    });
    document
}

/// What is behind the references of a list, in the document.
fn resolved<'a>(document: &'a Value, list: &'a Value) -> Vec<&'a Value> {
    let items = list.as_array().into_iter().flatten();
    items
        .map(|one| match one["$ref"].as_str() {
            Some(to) => document.pointer(to.strip_prefix('#').unwrap()).unwrap(),
            None => one,
        })
        .collect()
}

/// What a schema cannot say: references lead somewhere, names are unique, the parameters of a path are those in it.
fn beyond_the_schema(document: &Value) {
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        for part in path.split('{').skip(1) {
            assert!(wanted.insert(part.split_once('}').unwrap().0), "{path}");
        }
        for (verb, operation) in item.as_object().unwrap() {
            if ["parameters", "servers"].contains(&verb.as_str()) {
                continue;
            }
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id} is there twice");
            let mut parameters = resolved(document, &item["parameters"]);
            parameters.extend(resolved(document, &operation["parameters"]));
            let mut named = BTreeSet::new();
            for one in &parameters {
                let key = (one["in"].as_str().unwrap(), one["name"].as_str().unwrap());
                assert!(named.insert(key), "{verb} {path} has {key:?} twice");
            }
            let in_path: BTreeSet<&str> = named
                .iter()
                .filter(|(place, _)| *place == "path")
                .map(|(_, name)| *name)
                .collect();
            assert_eq!(in_path, wanted, "{verb} {path}");
            resolved(
                document,
                &json!(
                    operation["responses"]
                        .as_object()
                        .unwrap()
                        .values()
                        .cloned()
                        .collect::<Vec<_>>()
                )
                .clone(),
            );
            assert!(
                verb != "get" || operation.get("requestBody").is_none(),
                "{path}"
            );
        }
    }
    for requirement in document["security"].as_array().unwrap() {
        for name in requirement.as_object().unwrap().keys() {
            assert!(
                document["components"]["securitySchemes"]
                    .get(name)
                    .is_some(),
                "{name}"
            );
        }
    }
}

/// Every schema of the document, by its place.
fn schemas<'a>(at: &str, value: &'a Value, found: &mut BTreeMap<String, &'a Value>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let place = format!("{at}/{name}");
                if name == "schema" {
                    found.insert(place, inner);
                } else {
                    schemas(&place, inner, found);
                }
            }
        }
        Value::Array(list) => {
            for (number, inner) in list.iter().enumerate() {
                schemas(&format!("{at}/{number}"), inner, found);
            }
        }
        _ => {}
    }
}

/// The keys of a query that a version knows.
fn keys(keys: Option<&Keys>, version: Microversion) -> BTreeSet<&'static str> {
    let all = keys.map(|keys| keys.keys.iter()).into_iter().flatten();
    all.filter(|key| key.since <= version && version < key.until)
        .map(|key| key.name)
        .collect()
}

/// The document has what lives at the version, and nothing else.
fn has_every_row(document: &Value, version: Microversion) {
    let events = ("/events".to_owned(), "get".to_owned());
    let mut expected = BTreeSet::from([events]);
    for row in ROUTES {
        if !row.exists_at(version) || matches!(row.served, Served::Gone) {
            continue;
        }
        let verb = row.verb.as_str().to_lowercase();
        expected.insert((row.path.to_owned(), verb.clone()));
        let operation = &document["paths"][row.path][&verb];
        let at = format!("{verb} {} {:?}", row.path, row.action);
        assert!(operation.is_object(), "{at} is missing");
        if let Some(rule) = row.policy {
            let policies = operation["x-policies"].as_array().unwrap();
            assert!(policies.contains(&rule.into()), "{at}: {rule}");
        }
        for status in row.successes(version) {
            let told = operation["responses"].get(status.to_string());
            assert!(told.is_some(), "{at} does not say {status}");
        }
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let named: BTreeSet<&str> = parameters
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        let known = keys(row.query, version);
        assert!(known.is_subset(&named), "{at}: {known:?} and {named:?}");
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        match row.action {
            // One body for each action of a path.
            Some(action) => {
                let bodies = schema["oneOf"].as_array().unwrap();
                let titled = bodies.iter().filter(|body| body["title"] == action);
                let [body] = titled.collect::<Vec<_>>()[..] else {
                    panic!("{at} is not there once");
                };
                assert!(body["properties"].get(action).is_some(), "{at}: {body}");
            }
            None => {
                let ours = row.body.and_then(|schema| schema.document(version));
                assert_eq!(schema, &ours.unwrap_or_default(), "{at}");
            }
        }
    }
    let told: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let verbs = item.as_object().unwrap().keys();
            let verbs = verbs.filter(|verb| !["parameters", "servers"].contains(&verb.as_str()));
            verbs.map(|verb| (path.clone(), verb.clone()))
        })
        .collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn the_documents_are_openapi_and_have_every_route() {
    let cloud = Cloud::new().await;
    let specification = jsonschema::draft202012::new(&specification()).unwrap();
    for minor in [Microversion::MIN.0, 52, Microversion::MAX.0] {
        let path = format!("/openapi.json?version=2.{minor}");
        // It needs no token.
        let answer = cloud.raw("GET", &path, &[], "").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/json");
        let document = answer.json();
        assert_eq!(document["info"]["version"], format!("2.{minor}"));
        let wrong: Vec<String> = specification
            .iter_errors(&document)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .map(|text| text.chars().take(300).collect())
            .collect();
        assert!(wrong.is_empty(), "2.{minor}:\n{}", wrong.join("\n"));
        beyond_the_schema(&document);
        let mut found = BTreeMap::new();
        schemas("", &document, &mut found);
        assert!(found.len() > 100, "2.{minor}: {} schemas", found.len());
        for (place, schema) in found {
            jsonschema::draft202012::meta::validate(schema)
                .unwrap_or_else(|error| panic!("2.{minor}: {place}: {error}"));
        }
        has_every_row(&document, Microversion(minor));
    }
    let latest = cloud.raw("GET", "/openapi.json", &[], "").await.json();
    assert_eq!(latest["info"]["version"], Microversion::MAX.to_string());
    let refused = cloud
        .raw("GET", "/openapi.json?version=2.105", &[], "")
        .await;
    assert_eq!(
        (refused.status.as_u16(), refused.fault().0),
        (400, "badRequest".to_owned())
    );
}

/// What there is beside Nova's API stands where it is served, and nowhere else.
#[test]
fn what_is_beside_nova_is_told() {
    let document = crate::openapi("2.90").unwrap();
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (verb, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            for one in parameters {
                let name = one["name"].as_str().unwrap();
                if one["in"] == "header" || name == "dry_run" {
                    found.insert(format!("{verb} {path} {name}"));
                }
            }
        }
    }
    let wanted = [
        "get /events Last-Event-ID",
        "get /servers/{id} Prefer",
        "post /flavors/{id}/action Idempotency-Key",
        "post /os-aggregates/{id}/action Idempotency-Key",
        "post /os-volumes_boot Idempotency-Key",
        "post /os-volumes_boot dry_run",
        "post /os-volumes_boot/{id}/action Idempotency-Key",
        "post /servers Idempotency-Key",
        "post /servers dry_run",
        "post /servers/{id}/action Idempotency-Key",
        "post /servers/{server_id}/migrations/{id}/action Idempotency-Key",
    ];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    let create = &document["paths"]["/servers"]["post"]["responses"]["202"]["headers"];
    assert!(create.get("Idempotency-Replayed").is_some());
    let keys = &document["paths"]["/events"]["get"]["parameters"];
    for name in ["all_projects", "server", "last_event_id"] {
        assert!(
            keys.as_array()
                .unwrap()
                .iter()
                .any(|key| key["name"] == name),
            "{name}"
        );
    }
}

/// What is wrong with a document is found.
#[test]
fn broken_documents_are_told() {
    let specification = jsonschema::draft202012::new(&specification()).unwrap();
    let good = crate::openapi("2.52").unwrap();
    assert!(specification.is_valid(&good));
    let breaks: &[(&str, Value)] = &[
        ("/openapi", json!("3.0.0")),
        ("/info", json!({ "title": "x" })),
        ("/paths/~1servers/get/responses", json!({})),
        (
            "/paths/~1servers/get/responses",
            json!({ "2xx": { "description": "" } }),
        ),
        ("/paths/~1servers/get/tags", json!("servers")),
        ("/paths/~1servers~1{id}/parameters/1/required", json!(false)),
        ("/paths/~1servers/post/requestBody", json!({ "schema": {} })),
        ("/components/responses/fault", json!({})),
        (
            "/paths/~1servers/get/responses/200/content",
            json!({ "json": { "schema": {} } }),
        ),
    ];
    for (place, value) in breaks {
        let mut broken = good.clone();
        *broken.pointer_mut(place).unwrap() = value.clone();
        assert!(!specification.is_valid(&broken), "{place}: {value}");
    }
}
