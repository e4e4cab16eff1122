//! JSON schemas of metadata definitions, as `/v2/schemas/metadefs/...` shows them.

use serde_json::{Value, json};

fn text(most: usize) -> Value {
    json!({"type": "string", "maxLength": most})
}

fn shown() -> Value {
    json!({"type": "string", "readOnly": true})
}

fn property() -> Value {
    json!({
        "name": "property",
        "required": ["title", "type"],
        "additionalProperties": true,
        "properties": {
            "name": text(80), "title": text(80), "description": {"type": "string"},
            "type": {"type": "string", "enum": ["array", "boolean", "integer", "number", "object", "string", null]},
            "operators": {"type": "array", "items": {"type": "string"}},
            "enum": {"type": "array"}, "items": {"type": "object"}, "default": {},
            "minimum": {"type": "number"}, "maximum": {"type": "number"},
            "minLength": {"type": "integer"}, "maxLength": {"type": "integer"},
            "pattern": {"type": "string"}, "readonly": {"type": "boolean"}
        }
    })
}

fn object() -> Value {
    json!({
        "name": "object",
        "required": ["name"],
        "properties": {
            "name": text(80), "description": text(500),
            "required": {"type": "array", "items": {"type": "string"}},
            "properties": {"type": "object", "additionalProperties": property()},
            "created_at": shown(), "updated_at": shown(), "self": shown(), "schema": shown()
        }
    })
}

fn tag() -> Value {
    json!({
        "name": "tag",
        "required": ["name"],
        "properties": {"name": text(80), "created_at": shown(), "updated_at": shown()}
    })
}

fn resource_type() -> Value {
    json!({
        "name": "resource_type_association",
        "required": ["name"],
        "properties": {
            "name": text(80), "prefix": text(80), "properties_target": text(80),
            "created_at": shown(), "updated_at": shown()
        }
    })
}

fn namespace() -> Value {
    json!({
        "name": "namespace",
        "required": ["namespace"],
        "properties": {
            "namespace": text(80), "display_name": text(80), "description": text(500), "owner": text(255),
            "visibility": {"type": "string", "enum": ["public", "private"]},
            "protected": {"type": "boolean"},
            "objects": {"type": "array", "items": object()},
            "properties": {"type": "object", "additionalProperties": property()},
            "tags": {"type": "array", "items": tag()},
            "resource_type_associations": {"type": "array", "items": resource_type()},
            "created_at": shown(), "updated_at": shown(), "self": shown(), "schema": shown()
        }
    })
}

fn list(name: &str, key: &str, items: &Value) -> Value {
    json!({
        "name": name,
        "properties": {
            key: {"type": "array", "items": items},
            "first": {"type": "string"}, "next": {"type": "string"}, "schema": {"type": "string"}
        }
    })
}

/// The schema of this name.
pub fn named(name: &str) -> Option<Value> {
    Some(match name {
        "namespace" => namespace(),
        "namespaces" => list("namespaces", "namespaces", &namespace()),
        "object" => object(),
        "objects" => list("objects", "objects", &object()),
        "property" => property(),
        "properties" => json!({
            "name": "properties",
            "properties": {"properties": {"type": "object", "additionalProperties": property()}}
        }),
        "resource_type" => resource_type(),
        "resource_types" => list(
            "resource_type_associations",
            "resource_type_associations",
            &resource_type(),
        ),
        "tag" => tag(),
        "tags" => list("tags", "tags", &tag()),
        _ => return None,
    })
}
