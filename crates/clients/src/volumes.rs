//! The volume service (Block Storage API v3).
//!
//! Attachments are those of microversion 3.27: made without a connector they reserve the volume, with one they say how
//! the host reaches it, and completed (3.44) they make it `in-use`.

use crate::{ClientError, unexpected};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use types::ServerId;
use url::form_urlencoded::byte_serialize;
use web::client::{Answer, Client};

const SERVICE: &str = "the volume service";
/// The version that requests are made at, unless they need a later one.
const VERSION: &str = "volume 3.44";
/// `volume_type` of in-use volumes can be extended since this one.
const EXTEND_VERSION: &str = "volume 3.42";
/// Images are written onto volumes since this one.
const REIMAGE_VERSION: &str = "volume 3.68";
/// The key of volumes' metadata by which one that was made for a server's disk is found again.
const MADE_FOR: &str = "block_device";

/// Who asks, and in which project.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The token.
    pub token: String,
    /// The token's project.
    pub project: String,
}

impl Scope {
    /// A token with its project.
    pub fn new(token: impl Into<String>, project: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            project: project.into(),
        }
    }
}

/// A volume as compute sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeRecord {
    /// The id.
    pub id: String,
    /// `available`, `in-use`, `reserved`, ...
    pub status: String,
    /// GiB.
    pub size: u64,
    /// Whether a server can boot from it.
    pub bootable: bool,
    /// Whether several servers can have it.
    pub multiattach: bool,
    /// Its zone.
    pub availability_zone: String,
    /// Servers that have it, with the ids of their attachments.
    pub attachments: Vec<(String, String)>,
    /// What it keeps of the image it was made of.
    pub image_metadata: BTreeMap<String, String>,
    /// Not empty while the volume service moves it.
    pub migration_status: String,
    /// The whole document, for views that need more of it.
    pub document: Value,
}

/// A snapshot as compute sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotRecord {
    /// The id.
    pub id: String,
    /// The volume it is of.
    pub volume_id: String,
    /// `available`, `creating`, ...
    pub status: String,
    /// GiB.
    pub size: u64,
    /// The whole document.
    pub document: Value,
}

/// An attachment as compute sees it.
#[derive(Clone, PartialEq)]
pub struct AttachmentRecord {
    /// The id.
    pub id: String,
    /// The volume.
    pub volume_id: String,
    /// The server.
    pub server: String,
    /// `reserved`, `attaching`, `attached`, ...
    pub status: String,
    /// How a host reaches the volume; empty before there is a connector.
    pub connection_info: Value,
}

/// How a volume is reached may hold passwords: it does not go into logs.
impl fmt::Debug for AttachmentRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachmentRecord")
            .field("id", &self.id)
            .field("volume_id", &self.volume_id)
            .field("server", &self.server)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// A volume to make for a server's disk.
#[derive(Clone, Debug, Default)]
pub struct NewVolume<'a> {
    /// GiB; none takes the snapshot's.
    pub size: Option<u64>,
    /// The name.
    pub name: &'a str,
    /// Of this image.
    pub image: Option<&'a str>,
    /// Of this snapshot.
    pub snapshot: Option<&'a str>,
    /// Of this type.
    pub volume_type: Option<&'a str>,
    /// In this zone.
    pub availability_zone: Option<&'a str>,
    /// The block device mapping that it is made for.
    pub block_device: &'a str,
}

/// What the service refused, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status of its answer.
    pub status: StatusCode,
    /// Why.
    pub message: String,
}

/// An answer that may be a refusal.
type Outcome<T> = Result<Result<T, Refused>, ClientError>;

/// A client of the volume service.
pub struct Volumes {
    client: Client,
}

impl Volumes {
    /// A client over this transport.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The list of versions, which needs no token: whether the service answers.
    pub async fn versions(&self) -> Result<Answer, ClientError> {
        let headers = http::HeaderMap::new();
        self.client.call(Method::GET, "/", headers, None).await
    }

    /// Any request below the project, for the proxies of old API versions and for what has no method here.
    pub async fn request(
        &self,
        scope: &Scope,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, ClientError> {
        self.request_at(scope, VERSION, method, path, body).await
    }

    async fn request_at(
        &self,
        scope: &Scope,
        version: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, ClientError> {
        let path = format!("/v3/{}{path}", escape(&scope.project));
        self.client
            .call(method, &path, headers(&scope.token, version), body)
            .await
    }

    async fn one(&self, scope: &Scope, path: &str) -> Result<Option<Value>, ClientError> {
        let answer = self.request(scope, Method::GET, path, None).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.json())),
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => Ok(None),
            _ => Err(unexpected(SERVICE, path, &answer)),
        }
    }

    async fn all(&self, scope: &Scope, path: &str, name: &str) -> Result<Vec<Value>, ClientError> {
        let answer = self.request(scope, Method::GET, path, None).await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(SERVICE, path, &answer));
        }
        match answer.part(name) {
            Value::Array(list) => Ok(list),
            _ => Err(unexpected(SERVICE, "a list without its name", &answer)),
        }
    }

    /// A request whose refusal is the inner `Err`.
    async fn ask(
        &self,
        scope: &Scope,
        version: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Outcome<Value> {
        let answer = self.request_at(scope, version, method, path, body).await?;
        match answer.status {
            status if status.is_success() => Ok(Ok(answer.json())),
            status if status.is_client_error() && status != StatusCode::UNAUTHORIZED => {
                Ok(Err(refused(&answer)))
            }
            _ => Err(unexpected(SERVICE, path, &answer)),
        }
    }

    async fn delete(&self, scope: &Scope, path: &str) -> Outcome<()> {
        let gone = self.ask(scope, VERSION, Method::DELETE, path, None).await?;
        Ok(match gone {
            Err(refused) if refused.status != StatusCode::NOT_FOUND => Err(refused),
            _ => Ok(()),
        })
    }

    async fn act(&self, scope: &Scope, volume: &str, action: &Value) -> Outcome<()> {
        let path = format!("/volumes/{}/action", escape(volume));
        let done = self
            .ask(scope, VERSION, Method::POST, &path, Some(action))
            .await?;
        Ok(done.map(drop))
    }

    /// A volume that the token's holder may see.
    pub async fn volume(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Option<VolumeRecord>, ClientError> {
        let found = self.one(scope, &format!("/volumes/{}", escape(id))).await?;
        Ok(found.map(|document| volume(&document["volume"])))
    }

    /// All volumes of the project.
    pub async fn volumes(&self, scope: &Scope) -> Result<Vec<VolumeRecord>, ClientError> {
        let found = self.all(scope, "/volumes/detail", "volumes").await?;
        Ok(found.iter().map(volume).collect())
    }

    /// Makes a volume for a server's disk. A refusal (quota, image gone, too small) is the inner `Err`.
    pub async fn create(&self, scope: &Scope, new: &NewVolume<'_>) -> Outcome<VolumeRecord> {
        let mut document = json!({
            "size": new.size, "name": new.name, "description": "", "volume_type": new.volume_type,
            "availability_zone": new.availability_zone, "imageRef": new.image, "snapshot_id": new.snapshot,
        });
        if !new.block_device.is_empty() {
            document["metadata"] = json!({ MADE_FOR: new.block_device });
        }
        if let Some(fields) = document.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        self.make(scope, &json!({ "volume": document })).await
    }

    /// Makes a volume from a document of the Block Storage API.
    pub async fn make(&self, scope: &Scope, body: &Value) -> Outcome<VolumeRecord> {
        let made = self
            .ask(scope, VERSION, Method::POST, "/volumes", Some(body))
            .await?;
        Ok(made.map(|document| volume(&document["volume"])))
    }

    /// The volumes that were made for a server's disk: one, or none.
    pub async fn made_for(
        &self,
        scope: &Scope,
        block_device: &str,
    ) -> Result<Vec<VolumeRecord>, ClientError> {
        let filter = escape(&format!("{{'{MADE_FOR}': '{block_device}'}}"));
        let path = format!("/volumes/detail?metadata={filter}");
        let mut found = self.all(scope, &path, "volumes").await?;
        found.retain(|volume| volume["metadata"][MADE_FOR] == block_device);
        Ok(found.iter().map(volume).collect())
    }

    /// Deletes a volume; one that is gone is fine.
    pub async fn delete_volume(&self, scope: &Scope, id: &str) -> Outcome<()> {
        self.delete(scope, &format!("/volumes/{}", escape(id)))
            .await
    }

    /// Makes an in-use volume larger.
    pub async fn extend(&self, scope: &Scope, id: &str, size: u64) -> Outcome<()> {
        let path = format!("/volumes/{}/action", escape(id));
        let body = json!({ "os-extend": { "new_size": size } });
        let done = self
            .ask(scope, EXTEND_VERSION, Method::POST, &path, Some(&body))
            .await?;
        Ok(done.map(drop))
    }

    /// Says that the volume is about to be detached (`detaching`), so that nobody else begins with it.
    pub async fn begin_detaching(&self, scope: &Scope, id: &str) -> Outcome<()> {
        self.act(scope, id, &json!({ "os-begin_detaching": null }))
            .await
    }

    /// Takes that back.
    pub async fn roll_detaching(&self, scope: &Scope, id: &str) -> Outcome<()> {
        self.act(scope, id, &json!({ "os-roll_detaching": null }))
            .await
    }

    /// Whether the service can write an image onto this volume: an old one refuses to speak that version.
    pub async fn can_reimage(&self, scope: &Scope, id: &str) -> Result<bool, ClientError> {
        let path = format!("/volumes/{}", escape(id));
        let asked = self.request_at(scope, REIMAGE_VERSION, Method::GET, &path, None);
        let answer = asked.await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_ACCEPTABLE => Ok(false),
            _ => Err(unexpected(SERVICE, &path, &answer)),
        }
    }

    /// Writes an image onto a volume anew (3.68), which destroys what is on it.
    pub async fn reimage(&self, scope: &Scope, id: &str, image: &str) -> Outcome<()> {
        let path = format!("/volumes/{}/action", escape(id));
        let body = json!({ "os-reimage": { "image_id": image, "reimage_reserved": true } });
        let done = self
            .ask(scope, REIMAGE_VERSION, Method::POST, &path, Some(&body))
            .await?;
        Ok(done.map(drop))
    }

    /// Ends a move that the volume service has begun: the server has the new volume now. Answers the id that remains.
    pub async fn migrate_completion(
        &self,
        scope: &Scope,
        old: &str,
        new: &str,
        failed: bool,
    ) -> Outcome<String> {
        let path = format!("/volumes/{}/action", escape(old));
        let body =
            json!({ "os-migrate_volume_completion": { "new_volume": new, "error": failed } });
        let done = self
            .ask(scope, VERSION, Method::POST, &path, Some(&body))
            .await?;
        Ok(done.map(|document| text(&document, "save_volume_id")))
    }

    /// Names and ids of the volume types.
    pub async fn types(&self, scope: &Scope) -> Result<Vec<(String, String)>, ClientError> {
        let found = self.all(scope, "/types", "volume_types").await?;
        Ok(found
            .iter()
            .map(|one| (text(one, "id"), text(one, "name")))
            .collect())
    }

    /// How many snapshots the project has and may have; -1 is no limit.
    pub async fn snapshot_limits(&self, scope: &Scope) -> Result<(i64, i64), ClientError> {
        let found = self.one(scope, "/limits").await?.unwrap_or_default();
        let limit = |name: &str| found["limits"]["absolute"][name].as_i64();
        Ok((
            limit("totalSnapshotsUsed").unwrap_or(0),
            limit("maxTotalSnapshots").unwrap_or(-1),
        ))
    }

    /// A snapshot that the token's holder may see.
    pub async fn snapshot(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Option<SnapshotRecord>, ClientError> {
        let found = self
            .one(scope, &format!("/snapshots/{}", escape(id)))
            .await?;
        Ok(found.map(|document| snapshot(&document["snapshot"])))
    }

    /// All snapshots of the project.
    pub async fn snapshots(&self, scope: &Scope) -> Result<Vec<SnapshotRecord>, ClientError> {
        let found = self.all(scope, "/snapshots/detail", "snapshots").await?;
        Ok(found.iter().map(snapshot).collect())
    }

    /// Makes a snapshot, also of a volume that is in use if `force`.
    pub async fn create_snapshot(
        &self,
        scope: &Scope,
        volume: &str,
        name: Option<&str>,
        description: Option<&str>,
        force: bool,
    ) -> Outcome<SnapshotRecord> {
        let body = json!({ "snapshot": {
            "volume_id": volume, "name": name, "description": description, "force": force,
        } });
        let made = self
            .ask(scope, VERSION, Method::POST, "/snapshots", Some(&body))
            .await?;
        Ok(made.map(|document| snapshot(&document["snapshot"])))
    }

    /// Makes a snapshot of a volume, in use or not, with a mark by which it is found again: the metadata `image`.
    pub async fn create_marked(
        &self,
        scope: &Scope,
        volume: &str,
        name: &str,
        image: &str,
    ) -> Outcome<SnapshotRecord> {
        let body = json!({ "snapshot": {
            "volume_id": volume, "name": name, "force": true, "metadata": { "image": image },
        } });
        let made = self
            .ask(scope, VERSION, Method::POST, "/snapshots", Some(&body))
            .await?;
        Ok(made.map(|document| snapshot(&document["snapshot"])))
    }

    /// Deletes a snapshot; one that is gone is fine.
    pub async fn delete_snapshot(&self, scope: &Scope, id: &str) -> Outcome<()> {
        self.delete(scope, &format!("/snapshots/{}", escape(id)))
            .await
    }

    /// The attachments of a server.
    pub async fn attachments_of(
        &self,
        scope: &Scope,
        server: ServerId,
    ) -> Result<Vec<AttachmentRecord>, ClientError> {
        let path = format!("/attachments/detail?all_tenants=1&instance_id={server}");
        let found = self.all(scope, &path, "attachments").await?;
        let mut found: Vec<AttachmentRecord> = found.iter().map(attachment).collect();
        found.retain(|one| one.server == server.to_string());
        Ok(found)
    }

    /// The attachments in a project.
    pub async fn attachments(&self, scope: &Scope) -> Result<Vec<AttachmentRecord>, ClientError> {
        let found = self
            .all(scope, "/attachments/detail", "attachments")
            .await?;
        Ok(found.iter().map(attachment).collect())
    }

    /// Reserves a volume for a server.
    pub async fn reserve(
        &self,
        scope: &Scope,
        volume: &str,
        server: ServerId,
    ) -> Outcome<AttachmentRecord> {
        let body = json!({ "attachment": {
            "volume_uuid": volume, "instance_uuid": server.to_string(), "connector": null,
        } });
        let made = self
            .ask(scope, VERSION, Method::POST, "/attachments", Some(&body))
            .await?;
        Ok(made.map(|document| attachment(&document["attachment"])))
    }

    /// Says from where the volume will be used, and learns how.
    pub async fn connect(
        &self,
        scope: &Scope,
        attachment_id: &str,
        connector: &Value,
    ) -> Outcome<AttachmentRecord> {
        let body = json!({ "attachment": { "connector": connector } });
        let path = format!("/attachments/{}", escape(attachment_id));
        let changed = self
            .ask(scope, VERSION, Method::PUT, &path, Some(&body))
            .await?;
        Ok(changed.map(|document| attachment(&document["attachment"])))
    }

    /// Says that the volume is in use now.
    pub async fn complete(&self, scope: &Scope, attachment_id: &str) -> Outcome<()> {
        let path = format!("/attachments/{}/action", escape(attachment_id));
        let body = json!({ "os-complete": null });
        let done = self
            .ask(scope, VERSION, Method::POST, &path, Some(&body))
            .await?;
        Ok(done.map(drop))
    }

    /// Gives a volume back; an attachment that is gone is fine.
    pub async fn release(&self, scope: &Scope, attachment_id: &str) -> Outcome<()> {
        self.delete(scope, &format!("/attachments/{}", escape(attachment_id)))
            .await
    }
}

fn headers(token: &str, version: &'static str) -> HeaderMap {
    let mut headers = crate::headers(token);
    headers.insert(
        HeaderName::from_static("openstack-api-version"),
        HeaderValue::from_static(version),
    );
    headers
}

fn escape(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

fn text(document: &Value, name: &str) -> String {
    document[name].as_str().unwrap_or_default().to_owned()
}

/// What a refusal says: the message within the one fault of the body.
fn refused(answer: &Answer) -> Refused {
    let document = answer.json();
    let fault = document.as_object().and_then(|map| map.values().next());
    let message = fault.and_then(|fault| fault["message"].as_str());
    Refused {
        status: answer.status,
        message: message.map_or_else(|| answer.status.to_string(), str::to_owned),
    }
}

/// A boolean as the API writes it: `"true"`, or `true`.
fn truth(value: &Value) -> bool {
    value.as_bool().unwrap_or(value == "true")
}

fn volume(document: &Value) -> VolumeRecord {
    let attachments = document["attachments"].as_array().into_iter().flatten();
    let image = document["volume_image_metadata"].as_object();
    let plain = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    VolumeRecord {
        id: text(document, "id"),
        status: text(document, "status"),
        size: document["size"].as_u64().unwrap_or(0),
        bootable: truth(&document["bootable"]),
        multiattach: truth(&document["multiattach"]),
        availability_zone: text(document, "availability_zone"),
        attachments: attachments
            .map(|one| (text(one, "server_id"), text(one, "attachment_id")))
            .collect(),
        image_metadata: image
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
        migration_status: text(document, "migration_status"),
        document: document.clone(),
    }
}

fn snapshot(document: &Value) -> SnapshotRecord {
    SnapshotRecord {
        id: text(document, "id"),
        volume_id: text(document, "volume_id"),
        status: text(document, "status"),
        size: document["size"].as_u64().unwrap_or(0),
        document: document.clone(),
    }
}

/// The form of one attachment calls the server `instance`.
fn attachment(document: &Value) -> AttachmentRecord {
    AttachmentRecord {
        id: text(document, "id"),
        volume_id: text(document, "volume_id"),
        server: text(document, "instance"),
        status: text(document, "status"),
        connection_info: document["connection_info"].clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read() {
        let read = volume(&json!({
            "id": "v", "status": "in-use", "size": 3, "bootable": "true", "multiattach": false,
            "attachments": [{ "server_id": "s", "attachment_id": "a", "device": "/dev/vdb" }],
            "volume_image_metadata": { "min_ram": 64, "hw_disk_bus": "scsi" }, "migration_status": null,
        }));
        assert_eq!(
            (read.size, read.bootable, read.multiattach),
            (3, true, false)
        );
        assert_eq!(read.attachments, [("s".to_owned(), "a".to_owned())]);
        assert_eq!(read.image_metadata["min_ram"], "64");
        assert_eq!(read.image_metadata["hw_disk_bus"], "scsi");
        assert_eq!(read.migration_status, "");
    }

    #[test]
    fn refusals_are_the_services_words() {
        let answer = Answer {
            status: StatusCode::BAD_REQUEST,
            headers: HeaderMap::new(),
            body: r#"{"badRequest": {"code": 400, "message": "Invalid volume: no"}}"#.into(),
        };
        assert_eq!(refused(&answer).message, "Invalid volume: no");
    }
}
