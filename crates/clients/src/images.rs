//! The image service (Image API v2).

use crate::{Answer, ClientError, headers, unexpected};
use axum::body::Body;
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;
use std::collections::BTreeMap;
use types::ImageId;
use types::server::ImageRef;
use web::client::Client;

const SERVICE: &str = "the image service";
/// Bytes of an image's document at most.
const PATCHED_BYTES: usize = 1 << 20;

/// An image as compute sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRecord {
    /// What a server keeps of it.
    pub image: ImageRef,
    /// `active`, `queued`, `deactivated`, ...
    pub status: String,
    /// `public`, `private`, `shared`, `community`.
    pub visibility: String,
    /// The owning project.
    pub owner: Option<String>,
    /// The whole document, for views that need more of it.
    pub document: Value,
}

/// A client of the image service.
pub struct Images {
    client: Client,
}

impl Images {
    /// A client over this transport.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// An image that the token's holder may see.
    pub async fn get(&self, token: &str, id: &str) -> Result<Option<ImageRecord>, ClientError> {
        if id.parse::<ImageId>().is_err() {
            return Ok(None);
        }
        let answer = self
            .client
            .call(
                Method::GET,
                &format!("/v2/images/{id}"),
                headers(token),
                None,
            )
            .await?;
        match answer.status {
            StatusCode::OK => {
                let document = answer.json();
                record(&document)
                    .map(Some)
                    .ok_or_else(|| unexpected(SERVICE, "an image without an id", &answer))
            }
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(None),
            _ => Err(unexpected(SERVICE, "GET image", &answer)),
        }
    }

    /// A request as it is, for the proxies of old API versions: they show whole documents and pass refusals on.
    pub async fn forward(
        &self,
        token: &str,
        method: Method,
        path: &str,
    ) -> Result<Answer, ClientError> {
        self.client.call(method, path, headers(token), None).await
    }

    /// Changes an image by a JSON patch (Image API, "Update image").
    pub async fn patch(&self, token: &str, id: &str, patch: &Value) -> Result<Answer, ClientError> {
        let mut headers = headers(token);
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/openstack-images-v2.1-json-patch"),
        );
        let path = format!("/v2/images/{}", escape(id));
        let body = Body::from(patch.to_string());
        let answer = self
            .client
            .send(Method::PATCH, &path, headers, body)
            .await?;
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, PATCHED_BYTES)
            .await
            .map_err(|error| ClientError::Unreachable {
                service: SERVICE,
                reason: error.to_string(),
            })?;
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    /// Makes an image without data from a document of the Image API; a refusal is the inner `Err`, in the service's words.
    pub async fn create(
        &self,
        token: &str,
        document: &Value,
    ) -> Result<Result<ImageId, String>, ClientError> {
        let answer = self
            .client
            .call(Method::POST, "/v2/images", headers(token), Some(document))
            .await?;
        if answer.status.is_client_error() {
            return Ok(Err(words(&answer)));
        }
        let id = answer.json()["id"].as_str().and_then(|id| id.parse().ok());
        id.filter(|_| answer.status.is_success())
            .map(Ok)
            .ok_or_else(|| unexpected(SERVICE, "create image", &answer))
    }

    /// Lets a project see an image that is shared.
    pub async fn add_member(
        &self,
        token: &str,
        id: ImageId,
        project: &str,
    ) -> Result<(), ClientError> {
        let path = format!("/v2/images/{id}/members");
        let member = serde_json::json!({ "member": project });
        let answer = self
            .client
            .call(Method::POST, &path, headers(token), Some(&member))
            .await?;
        match answer.status {
            status if status.is_success() || status == StatusCode::CONFLICT => Ok(()),
            _ => Err(unexpected(SERVICE, "add member", &answer)),
        }
    }

    /// Sends the data of an image that waits for it. A refusal is the inner `Err`; one because the image has its data
    /// already is none.
    pub async fn upload(
        &self,
        token: &str,
        id: ImageId,
        data: Body,
    ) -> Result<Result<(), String>, ClientError> {
        let mut with = headers(token);
        let kind = HeaderValue::from_static("application/octet-stream");
        with.insert(http::header::CONTENT_TYPE, kind);
        let path = format!("/v2/images/{id}/file");
        let answer = self.client.send(Method::PUT, &path, with, data).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Ok(()));
        }
        if status == StatusCode::CONFLICT
            && let Some(found) = self.get(token, &id.to_string()).await?
            && found.status == "active"
        {
            return Ok(Ok(()));
        }
        if status.is_client_error() {
            return Ok(Err(format!("upload: {status}")));
        }
        Err(ClientError::Unexpected {
            service: SERVICE,
            reason: format!("upload: {status}"),
        })
    }

    /// Deletes an image; one that is gone is fine.
    pub async fn delete(&self, token: &str, id: ImageId) -> Result<(), ClientError> {
        let path = format!("/v2/images/{id}");
        let answer = self
            .client
            .call(Method::DELETE, &path, headers(token), None)
            .await?;
        match answer.status {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            _ => Err(unexpected(SERVICE, "delete image", &answer)),
        }
    }

    /// Images with these properties that have their data, newest first; a hundred at most.
    pub async fn with_properties(
        &self,
        token: &str,
        properties: &[(&str, &str)],
    ) -> Result<Vec<ImageRecord>, ClientError> {
        let (found, _) = self.page(token, "active", properties, None).await?;
        Ok(found)
    }

    /// All images of this status with these properties, newest first.
    pub async fn of_status(
        &self,
        token: &str,
        status: &str,
        properties: &[(&str, &str)],
    ) -> Result<Vec<ImageRecord>, ClientError> {
        let mut all: Vec<ImageRecord> = Vec::new();
        loop {
            let last = all.last().map(|record| record.image.id);
            let (found, more) = self.page(token, status, properties, last).await?;
            let ended = !more || found.is_empty();
            all.extend(found);
            if ended {
                return Ok(all);
            }
        }
    }

    /// A part of a list, and whether there is more of it.
    async fn page(
        &self,
        token: &str,
        status: &str,
        properties: &[(&str, &str)],
        after: Option<ImageId>,
    ) -> Result<(Vec<ImageRecord>, bool), ClientError> {
        let mut path =
            format!("/v2/images?status={status}&sort_key=created_at&sort_dir=desc&limit=100");
        for (name, value) in properties {
            let value = escape(value);
            path.extend(["&", name, "=", &value]);
        }
        if let Some(after) = after {
            path.push_str(&format!("&marker={after}"));
        }
        let answer = self
            .client
            .call(Method::GET, &path, headers(token), None)
            .await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(SERVICE, "list images", &answer));
        }
        let document = answer.json();
        let found = document["images"].as_array().into_iter().flatten();
        Ok((
            found.filter_map(record).collect(),
            document["next"].is_string(),
        ))
    }

    /// The bytes of an image, as a stream.
    pub async fn download(&self, token: &str, id: ImageId) -> Result<Option<Body>, ClientError> {
        let answer = self
            .client
            .send(
                Method::GET,
                &format!("/v2/images/{id}/file"),
                headers(token),
                Body::empty(),
            )
            .await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer.into_body())),
            StatusCode::NOT_FOUND | StatusCode::NO_CONTENT | StatusCode::FORBIDDEN => Ok(None),
            other => Err(ClientError::Unexpected {
                service: SERVICE,
                reason: format!("download: {other}"),
            }),
        }
    }
}

/// What a refusal says.
fn words(answer: &web::client::Answer) -> String {
    let document = answer.json();
    let said = document["message"].as_str().map(str::to_owned);
    let text = said.unwrap_or_else(|| String::from_utf8_lossy(&answer.body).into_owned());
    text.chars().take(200).collect()
}

/// Attributes of an image that are not properties (Image API, "Show image").
const BASE: &[&str] = &[
    "id",
    "name",
    "status",
    "visibility",
    "owner",
    "size",
    "virtual_size",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "os_hidden",
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
    "stores",
    "locations",
    "direct_url",
];

/// The attributes that are properties of the image rather than of the Image API.
pub fn properties(document: &Value) -> serde_json::Map<String, Value> {
    let all = document.as_object().into_iter().flatten();
    all.filter(|(name, _)| !BASE.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn escape(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn record(document: &Value) -> Option<ImageRecord> {
    let text = |name: &str| document[name].as_str().map(str::to_owned);
    let number = |name: &str| document[name].as_u64().unwrap_or(0);
    let properties: BTreeMap<String, String> = document
        .as_object()?
        .iter()
        .filter(|(name, _)| !BASE.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let sha512 = (document["os_hash_algo"] == "sha512")
        .then(|| text("os_hash_value"))
        .flatten();
    let image = ImageRef {
        id: text("id")?.parse().ok()?,
        name: text("name").unwrap_or_default(),
        disk_format: text("disk_format").unwrap_or_default(),
        container_format: text("container_format").unwrap_or_default(),
        size: number("size"),
        min_disk: u32::try_from(number("min_disk")).unwrap_or(u32::MAX),
        min_ram: u32::try_from(number("min_ram")).unwrap_or(u32::MAX),
        sha512,
        properties,
        check: None,
    };
    Some(ImageRecord {
        image,
        status: text("status").unwrap_or_default(),
        visibility: text("visibility").unwrap_or_default(),
        owner: text("owner"),
        document: document.clone(),
    })
}
