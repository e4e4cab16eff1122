//! A volume service with as much of the Block Storage API v3 as compute speaks, and switches that break it.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The volume service of a test.
#[derive(Default)]
pub struct Volumes {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    volumes: BTreeMap<String, Value>,
    snapshots: BTreeMap<String, Value>,
    /// What was said of snapshots: id and status.
    told: Vec<(String, String)>,
    attachments: BTreeMap<String, Value>,
    down: bool,
    refusing: bool,
    failing: bool,
    /// The service does not know how to write images onto volumes.
    old: bool,
    /// Volumes that an image is being written onto, until they are looked at once, with the image.
    writing: BTreeMap<String, String>,
    /// That takes until this is false again.
    slow: bool,
    /// How often somebody has asked what is attached to a server.
    asked: usize,
}

impl Inner {
    /// The image is on the volume, or could not be written.
    fn end_writing(&mut self, id: &str) {
        if self.slow {
            return;
        }
        let Some(image) = self.writing.remove(id) else {
            return;
        };
        let held = self.attachments.values().any(|one| one["volume_id"] == id);
        if let Some(volume) = self.volumes.get_mut(id) {
            volume["status"] = match (self.failing, held) {
                (true, _) => "error".into(),
                (false, true) => "reserved".into(),
                (false, false) => "available".into(),
            };
            if !self.failing {
                volume["volume_image_metadata"] = json!({ "image_id": image });
            }
        }
    }
}

impl Volumes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The API.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(answer).with_state(Arc::clone(self))
    }

    /// The service answers 503 to everything, or works again.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// New volumes are over the quota.
    pub fn set_refusing(&self, refusing: bool) {
        self.lock().refusing = refusing;
    }

    /// New volumes, and volumes that get another image, end in `error`.
    pub fn set_failing(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// The service refuses to speak API versions above 3.44.
    pub fn set_old(&self, old: bool) {
        self.lock().old = old;
    }

    /// No image is whole on a volume as long as this is so.
    pub fn set_slow(&self, slow: bool) {
        self.lock().slow = slow;
    }

    /// How often somebody has asked what is attached to a server.
    pub fn asked(&self) -> usize {
        self.lock().asked
    }

    /// The image that is on a volume.
    pub fn image_on(&self, id: &str) -> Option<String> {
        let mut inner = self.lock();
        inner.end_writing(id);
        let metadata = &inner.volumes.get(id)?["volume_image_metadata"];
        metadata["image_id"].as_str().map(str::to_owned)
    }

    /// A volume that its owner made.
    pub fn make(&self) -> String {
        self.make_with(&json!({}))
    }

    /// The same with these fields.
    pub fn make_with(&self, fields: &Value) -> String {
        let mut inner = self.lock();
        let mut volume = new_volume(&mut inner, &json!({ "size": 1 }), "available");
        for (name, value) in fields.as_object().into_iter().flatten() {
            volume[name] = value.clone();
        }
        let id = volume["id"].as_str().unwrap().to_owned();
        inner.volumes.insert(id.clone(), volume);
        id
    }

    /// The volumes there are, with their status.
    pub fn all(&self) -> Vec<(String, String)> {
        let mut inner = self.lock();
        let writing: Vec<String> = inner.writing.keys().cloned().collect();
        writing.iter().for_each(|id| inner.end_writing(id));
        let status = |volume: &Value| text(volume, "status");
        inner
            .volumes
            .iter()
            .map(|(id, volume)| (id.clone(), status(volume)))
            .collect()
    }

    /// The attachments there are: volume, server, status.
    pub fn attachments(&self) -> Vec<(String, String, String)> {
        let inner = self.lock();
        let one = |a: &Value| (text(a, "volume_id"), text(a, "instance"), text(a, "status"));
        inner.attachments.values().map(one).collect()
    }

    /// From where volumes are used, as far as that was said: volume, server, host.
    pub fn hosts(&self) -> Vec<(String, String, String)> {
        let inner = self.lock();
        let one = |a: &Value| (text(a, "volume_id"), text(a, "instance"), text(a, "host"));
        let said = inner.attachments.values().map(one);
        said.filter(|(_, _, host)| !host.is_empty()).collect()
    }

    /// The volumes that were made for disks of servers: volume and disk.
    pub fn made(&self) -> Vec<(String, String)> {
        let inner = self.lock();
        let disk = |volume: &Value| {
            volume["metadata"]["block_device"]
                .as_str()
                .map(str::to_owned)
        };
        inner
            .volumes
            .iter()
            .filter_map(|(id, volume)| Some((id.clone(), disk(volume)?)))
            .collect()
    }

    /// The images for which snapshots were made.
    pub fn snapshots(&self) -> Vec<String> {
        let inner = self.lock();
        let image = |snapshot: &Value| text(&snapshot["metadata"], "image");
        inner.snapshots.values().map(image).collect()
    }

    /// What compute said of snapshots that it was asked for: snapshot and status.
    pub fn told(&self) -> Vec<(String, String)> {
        self.lock().told.clone()
    }

    /// Removes a volume and its attachments behind everybody's back.
    pub fn lose(&self, id: &str) {
        let mut inner = self.lock();
        inner.volumes.remove(id);
        inner.attachments.retain(|_, one| one["volume_id"] != id);
    }

    /// Changes a field of a volume behind everybody's back.
    pub fn set(&self, id: &str, field: &str, value: Value) {
        if let Some(volume) = self.lock().volumes.get_mut(id) {
            volume[field] = value;
        }
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn new_volume(inner: &mut Inner, wanted: &Value, status: &str) -> Value {
    let id = uuid::Uuid::new_v4().to_string();
    let volume = json!({
        "id": id, "name": wanted["name"], "description": wanted["description"], "size": wanted["size"], "status": status,
        "bootable": if wanted["imageRef"].is_string() { "true" } else { "false" }, "multiattach": false,
        "availability_zone": "nova", "metadata": wanted.get("metadata").filter(|all| all.is_object()).cloned().unwrap_or_else(|| json!({})),
        "volume_type": "lvm", "snapshot_id": wanted["snapshot_id"], "attachments": [], "migration_status": null,
        "created_at": "2026-01-01T00:00:00.000000",
    });
    inner.volumes.insert(id, volume.clone());
    volume
}

fn refusal(status: StatusCode, message: &str) -> Response {
    let name = match status.as_u16() {
        400 => "badRequest",
        404 => "itemNotFound",
        413 => "overLimit",
        _ => "computeFault",
    };
    let body = json!({ name: { "code": status.as_u16(), "message": message } });
    (status, axum::Json(body)).into_response()
}

async fn answer(State(service): State<Arc<Volumes>>, request: Request<Body>) -> Response {
    if service.lock().down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if request.uri().path() == "/" {
        // The versions are anybody's to see.
        return axum::Json(json!({ "versions": [] })).into_response();
    }
    assert!(
        request.headers().contains_key("x-auth-token"),
        "every request carries a token"
    );
    let (parts, body) = request.into_parts();
    let version = parts.headers.get("openstack-api-version").cloned();
    if service.lock().old && version.is_some_and(|version| version == "volume 3.68") {
        let words = "Version 3.68 is not supported by the API. Minimum is 3.0 and maximum is 3.44.";
        return refusal(StatusCode::NOT_ACCEPTABLE, words);
    }
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let project = parts.uri.path().split('/').nth(2).unwrap_or_default();
    // Behind the version and the project.
    let path: Vec<&str> = parts.uri.path().split('/').skip(3).collect();
    assert_eq!(parts.uri.path().split('/').nth(1), Some("v3"));
    let mut inner = service.lock();
    match path.first() {
        Some(&"attachments") => of_attachments(
            &mut inner,
            parts.method.as_str(),
            &path[1..],
            (project, query),
            &document,
        ),
        Some(&"snapshots") => {
            of_snapshots(&mut inner, parts.method.as_str(), &path[1..], &document)
        }
        Some(&"limits") => axum::Json(json!({ "limits": { "absolute": {
            "totalSnapshotsUsed": inner.snapshots.len(), "maxTotalSnapshots": 10,
        } } }))
        .into_response(),
        Some(&"types") => {
            axum::Json(json!({ "volume_types": [{ "id": "t", "name": "lvm" }] })).into_response()
        }
        _ => of_volumes(
            &mut inner,
            parts.method.as_str(),
            &path[1..],
            query,
            &document,
        ),
    }
}

fn of_volumes(
    inner: &mut Inner,
    method: &str,
    path: &[&str],
    query: &str,
    document: &Value,
) -> Response {
    let missing = || refusal(StatusCode::NOT_FOUND, "Volume could not be found.");
    match (method, path) {
        ("POST", []) if inner.refusing => {
            refusal(StatusCode::PAYLOAD_TOO_LARGE, "VolumeLimitExceeded")
        }
        ("POST", [])
            if !document["volume"]["metadata"]
                .as_object()
                .is_none_or(|all| all.values().all(Value::is_string)) =>
        {
            refusal(StatusCode::BAD_REQUEST, "Metadata are texts.")
        }
        ("POST", []) => {
            let status = if inner.failing { "error" } else { "available" };
            let volume = new_volume(inner, &document["volume"], status);
            (
                StatusCode::ACCEPTED,
                axum::Json(json!({ "volume": volume })),
            )
                .into_response()
        }
        ("GET", ["detail"]) => {
            let wanted = query.split('&').find_map(|pair| {
                let id = pair.strip_prefix("metadata=")?.rsplit("%27").nth(1)?;
                Some(id.to_owned())
            });
            let fits = |volume: &&Value| {
                wanted
                    .as_ref()
                    .is_none_or(|id| volume["metadata"]["block_device"] == **id)
            };
            let found: Vec<&Value> = inner.volumes.values().filter(fits).collect();
            axum::Json(json!({ "volumes": found })).into_response()
        }
        ("GET", [id]) => {
            let shown = inner.volumes.get(*id).cloned();
            inner.end_writing(id);
            match shown {
                Some(volume) => axum::Json(json!({ "volume": volume })).into_response(),
                None => missing(),
            }
        }
        ("DELETE", [id]) => {
            let Some(volume) = inner.volumes.get(*id) else {
                return missing();
            };
            if !["available", "error"].contains(&&text(volume, "status")[..]) {
                return refusal(StatusCode::BAD_REQUEST, "Invalid volume: it is in use");
            }
            inner.volumes.remove(*id);
            StatusCode::ACCEPTED.into_response()
        }
        ("POST", [id, "action"]) => {
            let moved = &document["os-migrate_volume_completion"]["new_volume"];
            if let Some(new) = moved.as_str() {
                return end_move(inner, id, new);
            }
            if let Some(image) = document["os-reimage"]["image_id"].as_str() {
                return reimage(inner, id, image);
            }
            match inner.volumes.get_mut(*id) {
                Some(volume) => act(volume, document),
                None => missing(),
            }
        }
        _ => missing(),
    }
}

/// What the new volume was goes by the id of the old one, which it replaces, if it was made for that. Else both stay.
fn end_move(inner: &mut Inner, old: &str, new: &str) -> Response {
    let made_for = format!("target:{old}");
    let moves = |volume: &Value| text(volume, "migration_status") == made_for;
    // A repeat finds it gone.
    if inner.volumes.get(new).is_some_and(|volume| !moves(volume)) {
        list_attachments(inner, old);
        list_attachments(inner, new);
        return axum::Json(json!({ "save_volume_id": new })).into_response();
    }
    inner.volumes.remove(new);
    for attachment in inner.attachments.values_mut() {
        if attachment["volume_id"] == new {
            attachment["volume_id"] = old.into();
        }
    }
    if let Some(volume) = inner.volumes.get_mut(old) {
        volume["status"] = "in-use".into();
        volume["migration_status"] = "success".into();
    }
    list_attachments(inner, old);
    axum::Json(json!({ "save_volume_id": old })).into_response()
}

/// A volume gets another image, which shows when it is looked at for the second time.
fn reimage(inner: &mut Inner, id: &str, image: &str) -> Response {
    let Some(volume) = inner.volumes.get_mut(id) else {
        return refusal(StatusCode::NOT_FOUND, "Volume could not be found.");
    };
    let status = text(volume, "status");
    if !["available", "error", "reserved"].contains(&&status[..]) {
        let words = format!(
            "Resource conflict: status must be available or error or reserved to re-image volume {id}, but current status is {status}."
        );
        return refusal(StatusCode::CONFLICT, &words);
    }
    volume["status"] = "downloading".into();
    inner.writing.insert(id.to_owned(), image.to_owned());
    StatusCode::ACCEPTED.into_response()
}

fn act(volume: &mut Value, action: &Value) -> Response {
    let name = action.as_object().and_then(|map| map.keys().next());
    match name.map(String::as_str) {
        Some("os-begin_detaching") if volume["status"] != "in-use" => {
            refusal(StatusCode::BAD_REQUEST, "Invalid volume: it is not in-use")
        }
        Some("os-begin_detaching") => {
            volume["status"] = "detaching".into();
            StatusCode::ACCEPTED.into_response()
        }
        Some("os-roll_detaching") => {
            if volume["status"] == "detaching" {
                volume["status"] = "in-use".into();
            }
            StatusCode::ACCEPTED.into_response()
        }
        _ => refusal(StatusCode::BAD_REQUEST, "no such action"),
    }
}

fn of_snapshots(inner: &mut Inner, method: &str, path: &[&str], document: &Value) -> Response {
    let missing = || refusal(StatusCode::NOT_FOUND, "Snapshot could not be found.");
    match (method, path) {
        ("POST", []) => {
            let id = uuid::Uuid::new_v4().to_string();
            let volume = &document["snapshot"]["volume_id"];
            let Some(of) = inner.volumes.get(volume.as_str().unwrap_or_default()) else {
                return refusal(StatusCode::NOT_FOUND, "Volume could not be found.");
            };
            let snapshot = json!({
                "id": id, "volume_id": volume, "status": "available", "name": document["snapshot"]["name"],
                "size": of["size"], "metadata": document["snapshot"]["metadata"],
                "description": document["snapshot"]["description"], "created_at": "2026-01-01T00:00:00.000000",
            });
            inner.snapshots.insert(id, snapshot.clone());
            (
                StatusCode::ACCEPTED,
                axum::Json(json!({ "snapshot": snapshot })),
            )
                .into_response()
        }
        ("GET", ["detail"]) => {
            let found: Vec<&Value> = inner.snapshots.values().collect();
            axum::Json(json!({ "snapshots": found })).into_response()
        }
        ("GET", [id]) => match inner.snapshots.get(*id) {
            Some(snapshot) => axum::Json(json!({ "snapshot": snapshot })).into_response(),
            None => missing(),
        },
        ("POST", [id, "action"]) => {
            let status = text(&document["os-update_snapshot_status"], "status");
            inner.told.push(((*id).to_owned(), status));
            StatusCode::ACCEPTED.into_response()
        }
        ("DELETE", [id]) => match inner.snapshots.remove(*id) {
            Some(_) => StatusCode::ACCEPTED.into_response(),
            None => missing(),
        },
        _ => missing(),
    }
}

fn of_attachments(
    inner: &mut Inner,
    method: &str,
    path: &[&str],
    (project, query): (&str, &str),
    document: &Value,
) -> Response {
    let missing = || refusal(StatusCode::NOT_FOUND, "Attachment could not be found.");
    match (method, path) {
        ("GET", ["detail"]) => {
            let asked: Vec<&str> = query.split('&').collect();
            let server = asked
                .iter()
                .find_map(|one| one.strip_prefix("instance_id="));
            // An attachment is its volume's project's.
            let seen = |one: &Value| {
                let volume = &inner.volumes[&text(one, "volume_id")];
                asked.contains(&"all_tenants=1")
                    || volume["project_id"].as_str().is_none_or(|of| of == project)
            };
            let of_server: Vec<&Value> = inner
                .attachments
                .values()
                .filter(|one| server.is_none_or(|server| one["instance"] == server) && seen(one))
                .collect();
            inner.asked += 1;
            axum::Json(json!({ "attachments": of_server })).into_response()
        }
        ("POST", []) => reserve(inner, &document["attachment"]),
        ("PUT", [id]) => {
            let Some(attachment) = inner.attachments.get_mut(*id) else {
                return missing();
            };
            let host = &document["attachment"]["connector"]["host"];
            assert!(host.is_string());
            attachment["host"] = host.clone();
            attachment["status"] = "attaching".into();
            attachment["connection_info"] = json!({ "driver_volume_type": "nbd", "data": { "path": "/nowhere", "export": id } });
            axum::Json(json!({ "attachment": attachment })).into_response()
        }
        ("POST", [id, "action"]) => {
            let Some(attachment) = inner.attachments.get_mut(*id) else {
                return missing();
            };
            attachment["status"] = "attached".into();
            let volume = text(attachment, "volume_id");
            inner.volumes.get_mut(&volume).unwrap()["status"] = "in-use".into();
            list_attachments(inner, &volume);
            StatusCode::NO_CONTENT.into_response()
        }
        ("DELETE", [id]) => {
            let Some(gone) = inner.attachments.remove(*id) else {
                return missing();
            };
            let volume = text(&gone, "volume_id");
            let left: Vec<String> = inner
                .attachments
                .values()
                .filter(|one| one["volume_id"] == *volume)
                .map(|one| text(one, "status"))
                .collect();
            let status = match left.iter().any(|status| status == "attached") {
                true => "in-use",
                false if left.is_empty() => "available",
                false => "reserved",
            };
            if !inner.writing.contains_key(&volume)
                && let Some(volume) = inner.volumes.get_mut(&volume)
            {
                volume["status"] = status.into();
            }
            list_attachments(inner, &volume);
            axum::Json(json!({ "attachments": [] })).into_response()
        }
        _ => missing(),
    }
}

fn reserve(inner: &mut Inner, wanted: &Value) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    let Some(volume) = inner.volumes.get_mut(&text(wanted, "volume_uuid")) else {
        return refusal(StatusCode::NOT_FOUND, "Volume could not be found.");
    };
    let its = |one: &Value| {
        one["volume_id"] == wanted["volume_uuid"] && one["instance"] == wanted["instance_uuid"]
    };
    // A server that has the volume may have it once more.
    let twice = inner.attachments.values().any(its);
    let free = volume["status"] == "available"
        || twice
        || (volume["multiattach"] == true && volume["status"] == "in-use");
    if !free {
        let words = format!(
            "Invalid volume: Volume {} status must be available or downloading to reserve, but the current status is {}.",
            text(volume, "id"),
            text(volume, "status")
        );
        return refusal(StatusCode::BAD_REQUEST, &words);
    }
    if !twice {
        volume["status"] = "reserved".into();
    }
    let attachment = json!({
        "id": id, "volume_id": wanted["volume_uuid"], "instance": wanted["instance_uuid"], "status": "reserved",
        "connection_info": {},
    });
    inner.attachments.insert(id, attachment.clone());
    axum::Json(json!({ "attachment": attachment })).into_response()
}

/// What a volume shows of its attachments.
fn list_attachments(inner: &mut Inner, volume: &str) {
    let of_volume: Vec<Value> = inner
        .attachments
        .values()
        .filter(|one| one["volume_id"] == volume && one["status"] == "attached")
        .map(|one| json!({ "server_id": one["instance"], "attachment_id": one["id"] }))
        .collect();
    if let Some(volume) = inner.volumes.get_mut(volume) {
        volume["attachments"] = of_volume.into();
    }
}
