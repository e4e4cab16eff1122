//! The key manager (Barbican's Key Manager API v1): small secrets, each with a payload of bytes.

use crate::{ClientError, headers};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use std::fmt;
use web::client::{Answer, Client};

const SERVICE: &str = "the key manager";
/// As which payloads are stored: any bytes.
const BYTES: &str = "application/octet-stream";
/// Secrets of one name that are looked at.
const SAME_NAME: usize = 100;

/// What kind of secret it is (Key Manager API, "Secret Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretType {
    /// A key for symmetric ciphers.
    Symmetric,
    /// The public half of a key.
    Public,
    /// The private half of a key.
    Private,
    /// A passphrase.
    Passphrase,
    /// A certificate.
    Certificate,
    /// Anything else.
    Opaque,
}

impl SecretType {
    fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Public => "public",
            Self::Private => "private",
            Self::Passphrase => "passphrase",
            Self::Certificate => "certificate",
            Self::Opaque => "opaque",
        }
    }
}

/// Why the key manager did not do what it was asked for. Messages name no payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such secret, or it has no payload.
    #[error("the key manager has no secret {0}")]
    NotFound(String),
    /// The token's holder may not do that.
    #[error("the key manager does not allow it: {0}")]
    NotAllowed(String),
    /// It does not answer, or has trouble of its own: later it may go well.
    #[error("{0}")]
    Unreachable(String),
    /// It answered what its API does not promise, or refused the request as wrong.
    #[error("the key manager answered something unexpected: {0}")]
    Unexpected(String),
}

impl From<ClientError> for KeyError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            ClientError::Unexpected { reason, .. } => Self::Unexpected(reason),
        }
    }
}

/// The bytes of a secret. They do not go into logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// A client of the key manager.
pub struct Keys {
    client: Client,
}

impl Keys {
    /// A client over this transport.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Stores a secret; the answer is its id. What was stored under the same name stays.
    pub async fn store(
        &self,
        token: &str,
        name: &str,
        kind: SecretType,
        payload: &[u8],
    ) -> Result<String, KeyError> {
        let document = json!({
            "name": name,
            "secret_type": kind.name(),
            "payload": STANDARD.encode(payload),
            "payload_content_type": BYTES,
            "payload_content_encoding": "base64",
        });
        let answer = self
            .client
            .call(Method::POST, "/v1/secrets", json_of(token), Some(&document))
            .await?;
        let document = fine(&answer, name)?;
        let id = document["secret_ref"].as_str().and_then(id_of);
        id.ok_or_else(|| KeyError::Unexpected("a secret that is stored without an id".to_owned()))
    }

    /// The bytes of a secret.
    pub async fn payload(&self, token: &str, id: &str) -> Result<Payload, KeyError> {
        let path = path(id)?;
        let answer = self
            .client
            .call(Method::GET, &path, json_of(token), None)
            .await?;
        // The payload is given as it was stored, and in no other type.
        let document = fine(&answer, id)?;
        let stored_as = document["content_types"]["default"].as_str();
        let stored_as = stored_as.ok_or_else(|| KeyError::NotFound(id.to_owned()))?;
        let wanted = HeaderValue::from_str(stored_as)
            .map_err(|_| KeyError::Unexpected(format!("secret {id} has no usable type")))?;
        let mut with = headers(token);
        with.insert(header::ACCEPT, wanted);
        let answer = self
            .client
            .call(Method::GET, &format!("{path}/payload"), with, None)
            .await?;
        refusal(&answer, id)?;
        Ok(Payload(answer.body.to_vec()))
    }

    /// The ids of the secrets with a name, newest first.
    pub async fn find(&self, token: &str, name: &str) -> Result<Vec<String>, KeyError> {
        let wanted: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let path = format!("/v1/secrets?name={wanted}&sort=created:desc&limit={SAME_NAME}");
        let answer = self
            .client
            .call(Method::GET, &path, json_of(token), None)
            .await?;
        let document = fine(&answer, name)?;
        let found = document["secrets"].as_array().into_iter().flatten();
        Ok(found
            .filter(|secret| secret["name"] == name)
            .filter_map(|secret| id_of(secret["secret_ref"].as_str()?))
            .collect())
    }

    /// Deletes a secret; one that is gone is fine.
    pub async fn delete(&self, token: &str, id: &str) -> Result<(), KeyError> {
        let path = path(id)?;
        let answer = self
            .client
            .call(Method::DELETE, &path, json_of(token), None)
            .await?;
        match refusal(&answer, id) {
            Err(KeyError::NotFound(_)) => Ok(()),
            other => other,
        }
    }
}

/// The path of a secret. Callers name secrets by any text: only what can be an id is asked for.
fn path(id: &str) -> Result<String, KeyError> {
    let usable = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-' || letter == b'_';
    if id.is_empty() || !id.bytes().all(usable) {
        return Err(KeyError::NotFound(id.to_owned()));
    }
    Ok(format!("/v1/secrets/{id}"))
}

/// The id at the end of a secret's reference.
fn id_of(reference: &str) -> Option<String> {
    let id = reference.trim_end_matches('/').rsplit('/').next()?;
    (!id.is_empty()).then(|| id.to_owned())
}

/// What an answer says, if it is none of refusal.
fn fine(answer: &Answer, what: &str) -> Result<serde_json::Value, KeyError> {
    refusal(answer, what)?;
    Ok(answer.json())
}

fn refusal(answer: &Answer, what: &str) -> Result<(), KeyError> {
    let said = || {
        let document = answer.json();
        let words = document["description"].as_str();
        let words = words.or(document["title"].as_str()).unwrap_or_default();
        let words: String = words.chars().take(200).collect();
        format!("{} {words}", answer.status).trim_end().to_owned()
    };
    match answer.status {
        status if status.is_success() => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(KeyError::NotFound(what.to_owned())),
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(KeyError::NotAllowed(said())),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Err(
            KeyError::Unreachable(format!("{SERVICE} has trouble: {}", said())),
        ),
        _ => Err(KeyError::Unexpected(said())),
    }
}

/// The headers of a request whose answer is a document.
fn json_of(token: &str) -> HeaderMap {
    let mut headers = headers(token);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
