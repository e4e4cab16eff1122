//! What the volume service asks of the image service (Image API v2).

use crate::fault::{Fault, Result};
use crate::model::Map;
use crate::service::Tokens;
use crate::storage::copy::write_sparse;
use axum::body::Body;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use web::client::{Answer, Client};

/// Fields of an image that are no properties of the user's.
const BASE: &[&str] = &[
    "id",
    "name",
    "status",
    "visibility",
    "owner",
    "size",
    "virtual_size",
    "checksum",
    "disk_format",
    "container_format",
    "min_disk",
    "min_ram",
    "protected",
    "tags",
    "created_at",
    "updated_at",
    "self",
    "file",
    "schema",
    "os_hash_algo",
    "os_hash_value",
    "os_hidden",
    "direct_url",
    "locations",
    "stores",
    "owner_specified",
    "block_device_mapping",
    "bdm_v2",
    "root_device_name",
];

/// The image service.
pub struct Images {
    client: Option<Arc<Client>>,
    tokens: Arc<dyn Tokens>,
}

/// What became of data that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// They are the image's.
    Taken,
    /// The image does not wait for data, at least not now.
    Conflict,
}

/// Why the data of an image did not come.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The image service does not answer, or stopped: another try may go well.
    #[error("{0}")]
    Broken(String),
    /// It has more data than it said, or than there is room for.
    #[error("the image has more than {0} bytes")]
    TooLarge(u64),
    /// The image service does not give them out.
    #[error("the image service answered {0}")]
    Refused(StatusCode),
    /// They cannot be written.
    #[error("{0}")]
    Disk(#[from] std::io::Error),
}

/// An image, as far as volumes care.
#[derive(Clone, Debug)]
pub struct Image {
    pub id: String,
    pub status: String,
    pub disk_format: String,
    pub min_disk: u64,
    pub size: u64,
    pub virtual_size: u64,
    /// What volumes made of it remember.
    pub metadata: Map,
    /// The snapshot that the image stands for, when compute made it of a server that boots from a volume.
    pub snapshot_id: Option<String>,
}

impl Image {
    fn read(document: &Value) -> Option<Self> {
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| document[name].as_u64().unwrap_or_default();
        let mut metadata = Map::new();
        metadata.insert("image_id".into(), document["id"].as_str()?.to_owned());
        metadata.insert("image_name".into(), text("name"));
        for name in ["checksum", "container_format", "disk_format"] {
            metadata.insert(name.into(), text(name));
        }
        for name in ["min_disk", "min_ram", "size"] {
            metadata.insert(name.into(), number(name).to_string());
        }
        let own = document.as_object()?.iter();
        for (name, value) in own.filter(|(name, _)| !BASE.contains(&name.as_str())) {
            if let Some(value) = value.as_str() {
                metadata.insert(name.clone(), value.to_owned());
            }
        }
        Some(Self {
            id: document["id"].as_str()?.to_owned(),
            status: text("status"),
            disk_format: text("disk_format"),
            min_disk: number("min_disk"),
            size: number("size"),
            virtual_size: number("virtual_size"),
            metadata,
            snapshot_id: boot_snapshot(&document["block_device_mapping"]),
        })
    }
}

/// Compute's block device mapping is JSON in a text.
fn boot_snapshot(mapping: &Value) -> Option<String> {
    let mapping: Value = match mapping {
        Value::String(text) => serde_json::from_str(text).ok()?,
        other => other.clone(),
    };
    let root = mapping.as_array()?.iter().find(|device| {
        device["source_type"] == "snapshot" && device["boot_index"].as_i64() == Some(0)
    })?;
    Some(root["snapshot_id"].as_str()?.to_owned())
}

fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(mut value) = HeaderValue::from_str(token) {
        value.set_sensitive(true);
        headers.insert("x-auth-token", value);
    }
    headers
}

impl Images {
    /// The image service behind a client; `None` where there is none.
    pub fn new(client: Option<Arc<Client>>, tokens: Arc<dyn Tokens>) -> Self {
        Self { client, tokens }
    }

    fn client(&self) -> std::result::Result<&Client, String> {
        self.client
            .as_deref()
            .ok_or_else(|| "there is no image service".to_owned())
    }

    async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> std::result::Result<Answer, String> {
        let answer = self.client()?.call(method, path, headers(token), body);
        answer.await.map_err(|error| error.to_string())
    }

    /// The image that a user means by an id, a URL or a name.
    ///
    /// # Errors
    /// 400 when the user sees no such image, 409 when the name stands for several.
    pub async fn find(&self, token: &str, reference: &str) -> Result<Image> {
        let invalid =
            || Fault::bad("Invalid image identifier or unable to access requested image.");
        let unreachable = |reason: String| {
            tracing::warn!(reason, "an image cannot be looked at");
            Fault::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The image service does not answer.",
            )
        };
        let id = reference.rsplit('/').next().unwrap_or_default();
        if uuid::Uuid::parse_str(id).is_ok() {
            let path = format!("/v2/images/{id}");
            let answer = self.call(token, Method::GET, &path, None).await;
            let answer = answer.map_err(unreachable)?;
            if answer.status == StatusCode::OK {
                return Image::read(&answer.json()).ok_or_else(invalid);
            }
        }
        let name: String = url::form_urlencoded::byte_serialize(reference.as_bytes()).collect();
        let path = format!("/v2/images?name={name}&limit=2");
        let answer = self.call(token, Method::GET, &path, None).await;
        let found = answer.map_err(unreachable)?.json();
        match found["images"].as_array().map(Vec::as_slice) {
            Some([one]) => Image::read(one).ok_or_else(invalid),
            Some([_, _, ..]) => Err(Fault::conflict(format!(
                "Multiple matches found for '{reference}', use an ID to be more specific."
            ))),
            _ => Err(invalid()),
        }
    }

    /// An image, seen by the service itself; `None` when there is none.
    pub async fn show(&self, id: &str) -> std::result::Result<Option<Image>, String> {
        let token = self.tokens.token().await?;
        let path = format!("/v2/images/{id}");
        let answer = self.call(&token, Method::GET, &path, None).await?;
        match answer.status {
            StatusCode::OK => match Image::read(&answer.json()) {
                Some(image) => Ok(Some(image)),
                None => Err(format!("the image service did not show image {id}")),
            },
            StatusCode::NOT_FOUND => Ok(None),
            other => Err(format!("the image service answered {other} for image {id}")),
        }
    }

    /// Makes an image record for the user.
    pub async fn create(&self, token: &str, body: &Value) -> Result<Value> {
        let answer = self
            .call(token, Method::POST, "/v2/images", Some(body))
            .await
            .map_err(|reason| Fault::bad(format!("The image service does not answer: {reason}")))?;
        if answer.status == StatusCode::CREATED {
            return Ok(answer.json());
        }
        Err(Fault::new(
            answer.status,
            format!("The image service refused the image ({}).", answer.status),
        ))
    }

    /// Downloads the data to a new file, at most so many bytes, without its zeros.
    pub async fn download(
        &self,
        id: &str,
        mut into: std::fs::File,
        most: u64,
    ) -> std::result::Result<u64, DownloadError> {
        let broken = DownloadError::Broken;
        let token = self.tokens.token().await.map_err(broken)?;
        let path = format!("/v2/images/{id}/file");
        let client = self.client().map_err(broken)?;
        let sent = client.send(Method::GET, &path, headers(&token), Body::empty());
        let answer = sent.await.map_err(|error| broken(error.to_string()))?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            return Err(match status.is_server_error() {
                true => broken(format!("the image service answered {status}")),
                false => DownloadError::Refused(status),
            });
        }
        let mut stream = answer.into_body().into_data_stream();
        let mut at: u64 = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| broken(format!("the download stopped: {error}")))?;
            let end = at + piece.len() as u64;
            if end > most {
                return Err(DownloadError::TooLarge(most));
            }
            let written = tokio::task::spawn_blocking(move || {
                write_sparse(&mut into, at, &piece).map(|()| into)
            });
            into = written.await.map_err(std::io::Error::other)??;
            at = end;
        }
        into.set_len(at)?;
        Ok(at)
    }

    /// Uploads a file as the data of an image.
    pub async fn upload(&self, id: &str, file: &Path) -> std::result::Result<Sent, String> {
        let token = self.tokens.token().await?;
        let open = tokio::fs::File::open(file).await;
        let open = open.map_err(|error| error.to_string())?;
        let size = open.metadata().await.map_err(|error| error.to_string())?;
        let pieces = tokio_util::io::ReaderStream::with_capacity(open, 256 * 1024);
        let mut headers = headers(&token);
        headers.insert(http::header::CONTENT_LENGTH, size.len().into());
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let path = format!("/v2/images/{id}/file");
        let body = Body::from_stream(pieces);
        let sent = self.client()?.send(Method::PUT, &path, headers, body);
        let answer = sent.await.map_err(|error| error.to_string())?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Sent::Taken);
        }
        if status == StatusCode::CONFLICT {
            return Ok(Sent::Conflict);
        }
        Err(format!(
            "the image service did not take the data ({status})"
        ))
    }

    /// Removes an image whose data never came.
    pub async fn remove(&self, id: &str) {
        let Ok(token) = self.tokens.token().await else {
            return;
        };
        let path = format!("/v2/images/{id}");
        let unprotect = json!([{"op": "replace", "path": "/protected", "value": false}]);
        let mut patch = headers(&token);
        patch.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/openstack-images-v2.1-json-patch"),
        );
        if let Ok(client) = self.client() {
            let body = Body::from(unprotect.to_string());
            // What cannot be unprotected can perhaps be removed all the same.
            let _ = client.send(Method::PATCH, &path, patch, body).await;
        }
        if let Err(error) = self.call(&token, Method::DELETE, &path, None).await {
            tracing::warn!(image = id, error, "an image without data is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_image_of_a_server_names_its_snapshot() {
        let mapping = json!([{"source_type": "snapshot", "boot_index": 0, "snapshot_id": "s"}]);
        let image = Image::read(&json!({
            "id": "i", "name": "n", "status": "active", "min_disk": 2, "size": 0, "disk_format": null,
            "block_device_mapping": mapping.to_string(), "os_type": "linux",
        }));
        let image = image.unwrap();
        assert_eq!(image.snapshot_id.as_deref(), Some("s"));
        assert_eq!(image.min_disk, 2);
        assert_eq!(image.metadata["os_type"], "linux");
        assert_eq!(image.metadata["image_name"], "n");
        assert!(!image.metadata.contains_key("block_device_mapping"));
    }
}
