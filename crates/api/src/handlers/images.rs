//! `/images`: what older clients ask compute about images, answered by the image service (until 2.36, metadata until
//! 2.39).

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::neighbours::unavailable;
use crate::schemas::is_true;
use clients::Answer;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use types::Timestamp;

/// Their names here, and as the image service filters.
const FILTERS: [(&str, &str); 7] = [
    ("name", "name"),
    ("status", "status"),
    ("changes-since", "updated_at"),
    ("server", "instance_uuid"),
    ("type", "image_type"),
    ("minRam", "min_ram"),
    ("minDisk", "min_disk"),
];

fn missing() -> Fault {
    Fault::not_found("Image not found.")
}

fn unexpected(answer: &Answer) -> Fault {
    Fault::internal(format!("the image service answered {}", answer.status))
}

async fn ask(call: &Call, method: Method, path: &str) -> Result<Answer, Fault> {
    let images = &call.api.deps.images;
    images
        .forward(&call.token, method, path)
        .await
        .map_err(unavailable)
}

/// The query as the image service wants it.
fn filters(call: &Call) -> Vec<(String, String)> {
    let mut wanted = Vec::new();
    for (name, value) in call.query.pairs() {
        if let Some(property) = name.strip_prefix("property-") {
            wanted.push((property.to_owned(), value.clone()));
        }
        let Some((_, theirs)) = FILTERS.iter().find(|(ours, _)| ours == name) else {
            continue;
        };
        let value = match name.as_str() {
            "status" => value.to_lowercase(),
            "changes-since" => format!("gte:{value}"),
            // A server may be named by its link.
            "server" => value.rsplit('/').next().unwrap_or(value).to_owned(),
            _ => value.clone(),
        };
        wanted.push(((*theirs).to_owned(), value));
    }
    wanted
}

/// One page of images, and whether there may be more.
async fn page(call: &Call) -> Result<(Vec<Value>, bool), Fault> {
    let limit = call.limit_or_most()?;
    let mut wanted = filters(call);
    wanted.push(("limit".to_owned(), limit.to_string()));
    if let Some(marker) = call.query.get("marker") {
        wanted.push(("marker".to_owned(), marker.to_owned()));
    }
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&wanted)
        .finish();
    let answer = ask(call, Method::GET, &format!("/v2/images?{query}")).await?;
    match answer.status {
        StatusCode::OK => {
            let found = answer.json()["images"].as_array().cloned();
            let found = found.unwrap_or_default();
            let full = found.len() == limit;
            Ok((found, full))
        }
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
            Err(Fault::bad_request("Invalid filter or marker."))
        }
        _ => Err(unexpected(&answer)),
    }
}

fn links(call: &Call, id: &str) -> Vec<Value> {
    let [own, bookmark] = call.links.pair("images", id);
    let service = call.api.config.image_url.trim_end_matches('/');
    vec![
        json!(own),
        json!(bookmark),
        json!({ "rel": "alternate", "type": "application/vnd.openstack.image", "href": format!("{service}/images/{id}") }),
    ]
}

fn brief(call: &Call, image: &Value) -> Value {
    let id = image["id"].as_str().unwrap_or_default();
    json!({ "id": id, "name": image["name"], "links": links(call, id) })
}

fn time(image: &Value, name: &str) -> Value {
    let time = image[name].as_str().and_then(Timestamp::parse);
    json!(time.map(Timestamp::iso_seconds_z))
}

fn whole(call: &Call, image: &Value) -> Value {
    let (status, progress) = match image["status"].as_str().unwrap_or_default() {
        "active" => ("ACTIVE", 100),
        "queued" => ("SAVING", 25),
        "saving" => ("SAVING", 50),
        "deleted" | "pending_delete" => ("DELETED", 0),
        "killed" => ("ERROR", 0),
        _ => ("UNKNOWN", 0),
    };
    let properties = clients::properties(image);
    let mut shown = brief(call, image);
    shown["minRam"] = json!(image["min_ram"].as_i64().unwrap_or(0));
    shown["minDisk"] = json!(image["min_disk"].as_i64().unwrap_or(0));
    shown["created"] = time(image, "created_at");
    shown["updated"] = time(image, "updated_at");
    shown["status"] = json!(status);
    shown["progress"] = json!(progress);
    shown["OS-EXT-IMG-SIZE:size"] = json!(image["size"].as_u64().unwrap_or(0));
    if let Some(server) = properties.get("instance_uuid").and_then(Value::as_str) {
        shown["server"] = json!({ "id": server, "links": call.links.pair("servers", server) });
    }
    if let Some(auto) = properties.get("auto_disk_config") {
        shown["OS-DCF:diskConfig"] = json!(if is_true(auto) { "AUTO" } else { "MANUAL" });
    }
    shown["metadata"] = properties.into();
    shown
}

async fn answer_list(
    call: Call,
    path: &str,
    show: fn(&Call, &Value) -> Value,
) -> Result<Reply, Fault> {
    let (images, full) = page(&call).await?;
    let list: Vec<Value> = images.iter().map(|image| show(&call, image)).collect();
    let mut document = json!({ "images": list });
    let last = images.last().and_then(|image| image["id"].as_str());
    if let Some(last) = last.filter(|_| full) {
        document["images_links"] = json!(call.links.next(path, call.query.pairs(), last));
    }
    Reply::ok(&document)
}

/// `GET /images`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    answer_list(call, "/images", brief).await
}

/// `GET /images/detail`.
pub async fn detail(call: Call) -> Result<Reply, Fault> {
    answer_list(call, "/images/detail", whole).await
}

fn path(id: &str) -> String {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    format!("/v2/images/{id}")
}

/// The image in the path as the image service knows it.
async fn image(call: &Call) -> Result<Value, Fault> {
    let answer = ask(call, Method::GET, &path(call.param(0))).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.json()),
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(missing()),
        StatusCode::FORBIDDEN => Err(not_authorized(call)),
        _ => Err(unexpected(&answer)),
    }
}

fn not_authorized(call: &Call) -> Fault {
    Fault::forbidden(format!("Not authorized for image {}.", call.param(0)))
}

/// `GET /images/{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let image = image(&call).await?;
    Reply::ok(&json!({ "image": whole(&call, &image) }))
}

/// `DELETE /images/{id}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let answer = ask(&call, Method::DELETE, &path(call.param(0))).await?;
    match answer.status {
        status if status.is_success() => Ok(Reply::empty(StatusCode::NO_CONTENT)),
        StatusCode::NOT_FOUND => Err(missing()),
        StatusCode::FORBIDDEN => Err(Fault::forbidden("You are not allowed to delete the image.")),
        StatusCode::CONFLICT => Err(Fault::conflict(format!(
            "Conflict deleting image {}: it is in use.",
            call.param(0)
        ))),
        _ => Err(unexpected(&answer)),
    }
}

/// `GET /images/{id}/metadata`.
pub async fn metadata(call: Call) -> Result<Reply, Fault> {
    let image = image(&call).await?;
    Reply::ok(&json!({ "metadata": clients::properties(&image) }))
}

/// `GET /images/{id}/metadata/{key}`.
pub async fn metadata_item(call: Call) -> Result<Reply, Fault> {
    let properties = clients::properties(&image(&call).await?);
    let key = call.param(1);
    let value = properties.get(key).ok_or_else(Fault::no_such_resource)?;
    Reply::ok(&json!({ "meta": { key: value } }))
}

/// Brings the image's properties from `old` to `new`, within the caller's quota.
async fn write(
    call: &Call,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
) -> Result<Map<String, Value>, Fault> {
    let (project, user) = (call.project().to_owned(), call.caller.user_id.clone());
    let limits = call
        .api
        .deps
        .store
        .read(move |tx| db::quotas::of_user(tx, &project, &user))
        .await?;
    let most = limits.get("metadata_items").copied().unwrap_or(-1);
    if most >= 0 && i64::try_from(new.len()).unwrap_or(i64::MAX) > most {
        return Err(Fault::forbidden("Image metadata limit exceeded"));
    }
    let images = &call.api.deps.images;
    let answer = images
        .patch(&call.token, call.param(0), &patch(old, new))
        .await
        .map_err(unavailable)?;
    match answer.status {
        StatusCode::OK => Ok(clients::properties(&answer.json())),
        StatusCode::NOT_FOUND => Err(missing()),
        StatusCode::FORBIDDEN => Err(not_authorized(call)),
        StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::PAYLOAD_TOO_LARGE => Err(
            Fault::bad_request("The image service refuses these properties."),
        ),
        _ => Err(unexpected(&answer)),
    }
}

/// RFC 6902, as the Image API has it: `replace` and `add`, one level deep.
fn patch(old: &Map<String, Value>, new: &Map<String, Value>) -> Value {
    let pointer = |name: &str| format!("/{}", name.replace('~', "~0").replace('/', "~1"));
    let mut steps = Vec::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        steps.push(json!({ "op": "remove", "path": pointer(name) }));
    }
    for (name, value) in new {
        match old.get(name) {
            Some(same) if same == value => {}
            Some(_) => {
                steps.push(json!({ "op": "replace", "path": pointer(name), "value": value }));
            }
            None => steps.push(json!({ "op": "add", "path": pointer(name), "value": value })),
        }
    }
    steps.into()
}

fn given(call: &Call) -> Map<String, Value> {
    let metadata = call.body.get("metadata").and_then(Value::as_object);
    metadata.cloned().unwrap_or_default()
}

/// `POST /images/{id}/metadata`: adds and changes.
pub async fn merge(call: Call) -> Result<Reply, Fault> {
    let old = clients::properties(&image(&call).await?);
    let mut new = old.clone();
    new.extend(given(&call));
    let written = write(&call, &old, &new).await?;
    Reply::ok(&json!({ "metadata": written }))
}

/// `PUT /images/{id}/metadata`: replaces all.
pub async fn replace(call: Call) -> Result<Reply, Fault> {
    let old = clients::properties(&image(&call).await?);
    let new = given(&call);
    write(&call, &old, &new).await?;
    Reply::ok(&json!({ "metadata": new }))
}

/// `PUT /images/{id}/metadata/{key}`.
pub async fn update_item(call: Call) -> Result<Reply, Fault> {
    let meta = call.body.get("meta").cloned().unwrap_or_default();
    let key = call.param(1).to_owned();
    let Some(value) = meta.get(&key) else {
        return Err(Fault::bad_request("Request body and URI mismatch"));
    };
    let old = clients::properties(&image(&call).await?);
    let mut new = old.clone();
    new.insert(key, value.clone());
    write(&call, &old, &new).await?;
    Reply::ok(&json!({ "meta": meta }))
}

/// `DELETE /images/{id}/metadata/{key}`.
pub async fn delete_item(call: Call) -> Result<Reply, Fault> {
    let old = clients::properties(&image(&call).await?);
    let mut new = old.clone();
    if new.remove(call.param(1)).is_none() {
        return Err(Fault::not_found("Invalid metadata key"));
    }
    write(&call, &old, &new).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_what_differs() {
        let map = |value: Value| value.as_object().cloned().unwrap_or_default();
        let old = map(json!({"a": "1", "b": "2", "c/d": "3"}));
        let new = map(json!({"a": "1", "b": "9", "e~": "4"}));
        assert_eq!(
            patch(&old, &new),
            json!([
                {"op": "remove", "path": "/c~1d"},
                {"op": "replace", "path": "/b", "value": "9"},
                {"op": "add", "path": "/e~0", "value": "4"},
            ])
        );
    }
}
