//! The attributes of images: what users may write, and the JSON Schema documents that say so.

use crate::fault::Fault;
use serde_json::{Map, Value, json};

/// Values of `disk_format`.
pub const DISK_FORMATS: &[&str] = &[
    "ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop", "gpt",
];
/// Values of `container_format`.
pub const CONTAINER_FORMATS: &[&str] = &[
    "ami",
    "ari",
    "aki",
    "bare",
    "ovf",
    "ova",
    "docker",
    "compressed",
];
const STATUSES: &[&str] = &[
    "queued",
    "saving",
    "active",
    "killed",
    "deleted",
    "uploading",
    "importing",
    "pending_delete",
    "deactivated",
];
const VISIBILITIES: &[&str] = &["community", "public", "private", "shared"];

/// Attributes that the service alone writes.
pub const READ_ONLY: &[&str] = &[
    "created_at",
    "updated_at",
    "status",
    "checksum",
    "size",
    "virtual_size",
    "os_hash_algo",
    "os_hash_value",
];
/// Attributes that are made up for the answer.
pub const DERIVED: &[&str] = &["direct_url", "self", "file", "schema", "stores"];
/// Names that no property may have.
pub const RESERVED: &[&str] = &["location", "deleted", "deleted_at"];
/// Properties of the service's own.
pub const RESERVED_PREFIX: &str = "os_glance";
/// The attributes that are not properties.
pub const BASE: &[&str] = &[
    "id",
    "name",
    "status",
    "visibility",
    "protected",
    "os_hidden",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "owner",
    "size",
    "virtual_size",
    "container_format",
    "disk_format",
    "created_at",
    "updated_at",
    "tags",
    "direct_url",
    "min_ram",
    "min_disk",
    "self",
    "file",
    "stores",
    "schema",
    "locations",
];

fn nullable(names: &[&str]) -> Value {
    let mut all = vec![Value::Null];
    all.extend(names.iter().map(|name| json!(name)));
    Value::Array(all)
}

fn properties() -> Map<String, Value> {
    let text = |description: &str| json!({"type": "string", "description": description});
    let read_only = |kind: Value, description: &str| json!({"type": kind, "readOnly": true, "description": description});
    let pairs = [
        (
            "id",
            json!({
                "type": "string",
                "description": "An identifier for the image",
                "pattern": "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
            }),
        ),
        (
            "name",
            json!({"type": ["null", "string"], "description": "Descriptive name for the image", "maxLength": 255}),
        ),
        (
            "status",
            json!({"type": "string", "readOnly": true, "description": "Status of the image", "enum": STATUSES}),
        ),
        (
            "visibility",
            json!({"type": "string", "description": "Scope of image accessibility", "enum": VISIBILITIES}),
        ),
        (
            "protected",
            json!({"type": "boolean", "description": "If true, image will not be deletable."}),
        ),
        (
            "os_hidden",
            json!({"type": "boolean", "description": "If true, image will not appear in default image list response."}),
        ),
        (
            "checksum",
            json!({"type": ["null", "string"], "readOnly": true, "description": "md5 hash of image contents.", "maxLength": 32}),
        ),
        (
            "os_hash_algo",
            json!({
                "type": ["null", "string"], "readOnly": true,
                "description": "Algorithm to calculate the os_hash_value", "maxLength": 64
            }),
        ),
        (
            "os_hash_value",
            json!({
                "type": ["null", "string"], "readOnly": true,
                "description": "Hexdigest of the image contents using the algorithm specified by the os_hash_algo",
                "maxLength": 128
            }),
        ),
        (
            "owner",
            json!({"type": ["null", "string"], "description": "Owner of the image", "maxLength": 255}),
        ),
        (
            "size",
            read_only(json!(["null", "integer"]), "Size of image file in bytes"),
        ),
        (
            "virtual_size",
            read_only(json!(["null", "integer"]), "Virtual size of image in bytes"),
        ),
        (
            "container_format",
            json!({
                "type": ["null", "string"], "description": "Format of the container", "enum": nullable(CONTAINER_FORMATS)
            }),
        ),
        (
            "disk_format",
            json!({"type": ["null", "string"], "description": "Format of the disk", "enum": nullable(DISK_FORMATS)}),
        ),
        (
            "created_at",
            read_only(json!("string"), "Date and time of image registration"),
        ),
        (
            "updated_at",
            read_only(
                json!("string"),
                "Date and time of the last image modification",
            ),
        ),
        (
            "tags",
            json!({
                "type": "array", "description": "List of strings related to the image",
                "items": {"type": "string", "maxLength": 255}
            }),
        ),
        (
            "direct_url",
            read_only(
                json!("string"),
                "URL to access the image file kept in external store",
            ),
        ),
        (
            "min_ram",
            json!({"type": "integer", "description": "Amount of ram (in MB) required to boot image."}),
        ),
        (
            "min_disk",
            json!({"type": "integer", "description": "Amount of disk space (in GB) required to boot image."}),
        ),
        ("self", read_only(json!("string"), "An image self url")),
        ("file", read_only(json!("string"), "An image file url")),
        (
            "stores",
            read_only(
                json!("string"),
                "Store in which image data resides.  Only present when the operator has enabled multiple stores.  \
                 May be a comma-separated list of store identifiers.",
            ),
        ),
        ("schema", read_only(json!("string"), "An image schema url")),
        (
            "locations",
            json!({
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"url": {"type": "string", "maxLength": 255}, "metadata": {"type": "object"}},
                    "required": ["url", "metadata"]
                },
                "description": "A set of URLs to access the image file kept in external store"
            }),
        ),
        // Documented for clients that boot from an image made of a kernel and a ramdisk.
        (
            "kernel_id",
            optional(text(
                "ID of image stored in Glance that should be used as the kernel when booting an AMI-style image.",
            )),
        ),
        (
            "ramdisk_id",
            optional(text(
                "ID of image stored in Glance that should be used as the ramdisk when booting an AMI-style image.",
            )),
        ),
    ];
    pairs
        .into_iter()
        .map(|(name, one)| (name.to_owned(), one))
        .collect()
}

fn optional(mut property: Value) -> Value {
    property["type"] = json!(["null", "string"]);
    property["is_base"] = json!(false);
    property
}

/// `GET /v2/schemas/image`
pub fn image() -> Value {
    json!({
        "name": "image",
        "properties": properties(),
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"}
        ]
    })
}

/// `GET /v2/schemas/images`
pub fn images() -> Value {
    json!({
        "name": "images",
        "properties": {
            "images": {"type": "array", "items": image()},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"}
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"}
        ]
    })
}

/// `GET /v2/schemas/member`
pub fn member() -> Value {
    json!({
        "name": "member",
        "properties": {
            "member_id": {"type": "string", "description": "An identifier for the image member (tenantId)"},
            "image_id": {
                "type": "string",
                "description": "An identifier for the image",
                "pattern": "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
            },
            "created_at": {"type": "string", "description": "Date and time of image member creation"},
            "updated_at": {"type": "string", "description": "Date and time of last modification of image member"},
            "status": {
                "type": "string",
                "description": "The status of this image member",
                "enum": ["pending", "accepted", "rejected"]
            },
            "schema": {"readOnly": true, "type": "string"}
        }
    })
}

/// `GET /v2/schemas/members`
pub fn members() -> Value {
    json!({
        "name": "members",
        "properties": {
            "members": {"type": "array", "items": member()},
            "schema": {"type": "string"}
        },
        "links": [{"rel": "describedby", "href": "{schema}"}]
    })
}

/// `GET /v2/schemas/task`
pub fn task() -> Value {
    let text = |words: &str| json!({"type": "string", "description": words});
    let maybe = |words: &str| json!({"type": ["string", "null"], "description": words});
    json!({
        "name": "task",
        "properties": {
            "id": text("An identifier for the task"),
            "type": {"type": "string", "enum": ["import", "api_image_import"], "description": "The type of task"},
            "status": {
                "type": "string", "enum": ["pending", "processing", "success", "failure"],
                "description": "The current status of this task"
            },
            "input": {"type": ["object", "null"], "description": "What the task was asked to do"},
            "result": {"type": ["object", "null"], "description": "What the task made"},
            "owner": text("The project of the one who asked"),
            "user_id": text("The one who asked"),
            "request_id": text("The request that began the task"),
            "image_id": text("The image"),
            "message": text("What went wrong"),
            "expires_at": maybe("When the task is forgotten"),
            "created_at": text("When the task was created"),
            "updated_at": text("When the task last changed"),
            "self": {"type": "string", "readOnly": true},
            "schema": {"type": "string", "readOnly": true}
        }
    })
}

/// `GET /v2/schemas/tasks`
pub fn tasks() -> Value {
    json!({
        "name": "tasks",
        "properties": {
            "tasks": {"type": "array", "items": task()},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"}
        },
        "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, {"rel": "describedby", "href": "{schema}"}]
    })
}

fn refuse(name: &str, value: &Value, why: &str) -> Fault {
    Fault::bad_request(format!(
        "Provided object does not match schema 'image': {value} {why}\n\nOn instance['{name}']:\n    {value}"
    ))
}

/// The value must fit the attribute of this name; names that are no attribute are properties, which are texts.
pub fn validate(name: &str, value: &Value) -> Result<(), Fault> {
    let no = |why: &str| Err(refuse(name, value, why));
    let text_up_to = |most: usize| match value {
        Value::Null => Ok(()),
        Value::String(text) if text.chars().count() <= most => Ok(()),
        Value::String(_) => no("is too long"),
        _ => no("is not of type 'null', 'string'"),
    };
    let one_of = |names: &[&str], null: bool| match value {
        Value::Null if null => Ok(()),
        Value::String(text) if names.contains(&text.as_str()) => Ok(()),
        _ => no(&format!(
            "is not one of [{}{}]",
            if null { "None, " } else { "" },
            quoted(names)
        )),
    };
    // PostgreSQL has no such character in texts.
    if name.contains('\0') || value.as_str().is_some_and(|text| text.contains('\0')) {
        return no("contains a null character");
    }
    match name {
        "id" => match value.as_str() {
            Some(text) if is_uuid(text) => Ok(()),
            Some(_) => no("does not match the pattern of a UUID"),
            None => no("is not of type 'string'"),
        },
        "name" | "owner" | "os_hash_value" | "os_hash_algo" | "checksum" => text_up_to(255),
        "status" => one_of(STATUSES, false),
        "visibility" => one_of(VISIBILITIES, false),
        "disk_format" => one_of(DISK_FORMATS, true),
        "container_format" => one_of(CONTAINER_FORMATS, true),
        "protected" | "os_hidden" if !value.is_boolean() => no("is not of type 'boolean'"),
        "protected" | "os_hidden" => Ok(()),
        "min_ram" | "min_disk" => match value.as_i64() {
            Some(number) if i32::try_from(number).is_ok() => Ok(()),
            Some(_) => no("is out of range"),
            None => no("is not of type 'integer'"),
        },
        "size" | "virtual_size" if !(value.is_null() || value.is_i64() || value.is_u64()) => {
            no("is not of type 'null', 'integer'")
        }
        "size" | "virtual_size" => Ok(()),
        "tags" => {
            let Some(tags) = value.as_array() else {
                return no("is not of type 'array'");
            };
            tags.iter().try_for_each(validate_tag)
        }
        "locations" if !value.is_array() => no("is not of type 'array'"),
        "locations" => Ok(()),
        "kernel_id" | "ramdisk_id" if value.is_null() => Ok(()),
        _ if value.is_string() => Ok(()),
        _ => no("is not of type 'string'"),
    }
}

/// A tag is a text of at most 255 characters.
pub fn validate_tag(tag: &Value) -> Result<(), Fault> {
    match tag.as_str() {
        Some(text) if text.contains('\0') => Err(refuse("tags", tag, "contains a null character")),
        Some(text) if text.chars().count() <= 255 => Ok(()),
        Some(_) => Err(refuse("tags", tag, "is too long")),
        None => Err(refuse("tags", tag, "is not of type 'string'")),
    }
}

/// The 8-4-4-4-12 form.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("'{name}'"))
        .collect::<Vec<_>>()
        .join(", ")
}
