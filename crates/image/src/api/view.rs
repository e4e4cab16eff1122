//! How images and members look.

use crate::model::{Image, Member};
use serde_json::{Map, Value, json};

/// An image, its properties among its attributes.
pub(super) fn image(image: &Image) -> Value {
    let mut view = Map::new();
    for (name, content) in &image.properties {
        view.insert(name.clone(), json!(content));
    }
    let path = format!("/v2/images/{}", image.id);
    let attributes = json!({
        "name": image.name,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "visibility": image.visibility.name(),
        "size": image.size,
        "virtual_size": image.virtual_size,
        "status": image.status.name(),
        "checksum": image.checksum,
        "protected": image.protected,
        "min_ram": image.min_ram,
        "min_disk": image.min_disk,
        "owner": image.owner,
        "os_hidden": image.os_hidden,
        "os_hash_algo": image.os_hash_algo,
        "os_hash_value": image.os_hash_value,
        "id": image.id,
        "created_at": image.created_at.iso_seconds_z(),
        "updated_at": image.updated_at.iso_seconds_z(),
        "tags": image.tags,
        "self": path,
        "file": format!("{path}/file"),
        "schema": "/v2/schemas/image",
    });
    if let Value::Object(attributes) = attributes {
        view.extend(attributes);
    }
    Value::Object(view)
}

/// A member.
pub(super) fn member(member: &Member) -> Value {
    json!({
        "member_id": member.member_id,
        "image_id": member.image_id,
        "status": member.status,
        "created_at": member.created_at.iso_seconds_z(),
        "updated_at": member.updated_at.iso_seconds_z(),
        "schema": "/v2/schemas/member",
    })
}
