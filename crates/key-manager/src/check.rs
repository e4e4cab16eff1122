//! Request bodies against what they may hold. The words are Barbican's where clients look at them; none holds a payload.

use crate::fault::{Fault, Result};
use crate::model::{Consumer, ContentType, Payload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use types::Timestamp;

/// The kinds of secrets.
pub const KINDS: &[&str] = &[
    "symmetric",
    "passphrase",
    "private",
    "public",
    "certificate",
    "opaque",
];

/// Characters of a text at most.
const LONGEST: usize = 255;
/// The longest key, in bits.
const MOST_BITS: i64 = 32_767;
/// Users in an access control list at most.
const MOST_USERS: usize = 500;

/// What a new secret is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSecret {
    /// Its name.
    pub name: Option<String>,
    /// One of [`KINDS`].
    pub kind: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// The algorithm.
    pub algorithm: Option<String>,
    /// The length of the key.
    pub bit_length: Option<i64>,
    /// The mode of the algorithm.
    pub mode: Option<String>,
    /// The payload, unless it comes later.
    pub payload: Option<Payload>,
}

/// The object in a body; texts in it lose the blanks around them, as in Barbican.
pub fn object(body: &[u8]) -> Result<Map<String, Value>> {
    let malformed = || Fault::bad("Malformed JSON");
    let mut value: Value = serde_json::from_slice(body).map_err(|_| malformed())?;
    strip(&mut value);
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(malformed()),
    }
}

fn strip(value: &mut Value) {
    match value {
        Value::String(text) => {
            let trimmed = text.trim();
            if trimmed.len() < text.len() {
                *text = trimmed.to_owned();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        Value::Object(object) => object.values_mut().for_each(strip),
        _ => {}
    }
}

/// A text of at most so many characters. `null` is the same as nothing where that is said.
fn text(
    schema: &str,
    body: &Map<String, Value>,
    field: &str,
    most: usize,
    nullable: bool,
) -> Result<Option<String>> {
    match body.get(field) {
        None => Ok(None),
        Some(Value::Null) if nullable => Ok(None),
        Some(Value::String(text)) if text.chars().count() > most => {
            Err(Fault::schema(schema, "the text is too long", field))
        }
        Some(Value::String(text)) if text.contains('\0') => {
            Err(Fault::schema(schema, "the text holds a NUL", field))
        }
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Fault::schema(
            schema,
            "the value is not of type 'string'",
            field,
        )),
    }
}

/// The body of `POST /v1/secrets`.
pub fn new_secret(body: &Map<String, Value>, most: usize, now: Timestamp) -> Result<NewSecret> {
    const SCHEMA: &str = "Secret";
    let optional = |field| text(SCHEMA, body, field, LONGEST, false);
    let kind = optional("secret_type")?.unwrap_or_else(|| "opaque".to_owned());
    if !KINDS.contains(&kind.as_str()) {
        return Err(Fault::schema(
            SCHEMA,
            format!("the value is none of {}", KINDS.join(", ")),
            "secret_type",
        ));
    }
    let bit_length = match body.get("bit_length") {
        None => None,
        Some(value) => {
            let bits = value.as_i64().filter(|bits| (1..=MOST_BITS).contains(bits));
            let wrong = || {
                let reason = format!("the value is not a whole number from 1 to {MOST_BITS}");
                Fault::schema(SCHEMA, reason, "bit_length")
            };
            Some(bits.ok_or_else(wrong)?)
        }
    };
    if body.contains_key("transport_key_id")
        || body
            .get("transport_key_needed")
            .is_some_and(|needed| needed == "true")
    {
        return Err(Fault::bad("Transport keys are not supported."));
    }
    Ok(NewSecret {
        name: text(SCHEMA, body, "name", LONGEST, true)?,
        kind,
        expires_at: expiration(optional("expiration")?, now)?,
        algorithm: optional("algorithm")?,
        bit_length,
        mode: optional("mode")?,
        payload: new_payload(SCHEMA, body, most)?,
    })
}

fn expiration(text: Option<String>, now: Timestamp) -> Result<Option<Timestamp>> {
    let wrong = |reason: &str| Fault::schema("Secret", reason, "expiration");
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let time = Timestamp::parse(&text).ok_or_else(|| wrong("Invalid date for 'expiration'"))?;
    if time <= now {
        return Err(wrong("'expiration' is before current time"));
    }
    Ok(Some(time))
}

fn new_payload(schema: &str, body: &Map<String, Value>, most: usize) -> Result<Option<Payload>> {
    let content_type = text(schema, body, "payload_content_type", LONGEST, true)?;
    let encoding = text(schema, body, "payload_content_encoding", LONGEST, false)?;
    let Some(payload) = body.get("payload") else {
        if body.contains_key("payload_content_type") {
            let reason = "payload must be provided when payload_content_type is specified";
            return Err(Fault::schema(schema, reason, "payload"));
        }
        return Ok(None);
    };
    let wrong = |reason: &str, field: &str| Err(Fault::schema(schema, reason, field));
    let Value::String(payload) = payload else {
        return wrong("the value is not of type 'string'", "payload");
    };
    if payload.len() > most {
        return Err(Fault::too_large());
    }
    let Some(content_type) = content_type else {
        let reason = "If 'payload' is supplied, 'payload_content_type' must also be supplied.";
        return wrong(reason, "payload_content_type");
    };
    let Some(content_type) = ContentType::parse(&content_type) else {
        let reason = "payload_content_type is not one of text/plain, text/plain;charset=utf-8, \
            text/plain; charset=utf-8, application/octet-stream, application/pkcs8";
        return wrong(reason, "payload_content_type");
    };
    if payload.is_empty() {
        return wrong("If 'payload' specified, must be non empty", "payload");
    }
    let bytes = match (content_type, encoding.as_deref()) {
        (ContentType::Text, None) => payload.clone().into_bytes(),
        (ContentType::Text, Some(_)) => {
            let reason = "payload_content_encoding is for binary payloads only";
            return wrong(reason, "payload_content_encoding");
        }
        (_, Some("base64")) => match decoded(payload.as_bytes()) {
            Some(bytes) => bytes,
            None => return wrong("Invalid payload for payload_content_encoding", "payload"),
        },
        _ => {
            let reason = "payload_content_encoding is not one of base64";
            return wrong(reason, "payload_content_encoding");
        }
    };
    Ok(Some(Payload {
        content_type,
        bytes,
    }))
}

/// Base64, perhaps in lines; never empty.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let plain: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    STANDARD
        .decode(plain)
        .ok()
        .filter(|bytes| !bytes.is_empty())
}

/// The payload in `PUT /v1/secrets/{id}`.
pub fn later_payload(
    content_type: Option<&str>,
    encoding: Option<&str>,
    body: &[u8],
    most: usize,
) -> Result<Payload> {
    const OPERATION: &str = "Secret update";
    let known = content_type
        .and_then(ContentType::parse)
        .filter(|kind| *kind != ContentType::Pkcs8);
    let Some(content_type) = known else {
        let text = format!(
            "Content-Type of '{}' is not supported for PUT.",
            content_type.unwrap_or_default()
        );
        return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    };
    if body.is_empty() {
        return Err(Fault::bad("No data supplied to process").during(OPERATION));
    }
    if body.len() > most {
        return Err(Fault::too_large().during(OPERATION));
    }
    let bytes = match (content_type, encoding) {
        (ContentType::Text, _) => {
            let text = std::str::from_utf8(body);
            text.map_err(|_| Fault::bad("the text is not UTF-8").during(OPERATION))?
                .as_bytes()
                .to_vec()
        }
        (_, None) => body.to_vec(),
        (_, Some(encoding)) if encoding.eq_ignore_ascii_case("base64") => {
            decoded(body).ok_or_else(|| Fault::bad("Problem decoding payload").during(OPERATION))?
        }
        (_, Some(encoding)) => {
            let reason = format!("content-encoding of '{encoding}' not supported");
            return Err(Fault::bad(reason).during(OPERATION));
        }
    };
    Ok(Payload {
        content_type,
        bytes,
    })
}

/// What a request wants of an access control list; what it does not name is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedAcl {
    /// Whether members of the project may read the secret.
    pub project_access: Option<bool>,
    /// Who else may.
    pub users: Option<Vec<String>>,
}

/// The body of `PUT` and `PATCH /v1/secrets/{id}/acl`; none where it wants nothing about reading, which is all that there
/// is.
pub fn wanted_acl(body: &Map<String, Value>) -> Result<Option<WantedAcl>> {
    const SCHEMA: &str = "ACL";
    let wrong = |reason: &str, field: &str| Err(Fault::schema(SCHEMA, reason, field));
    if let Some(other) = body.keys().find(|name| *name != "read") {
        return wrong("Additional properties are not allowed", other);
    }
    let read = match body.get("read") {
        None => return Ok(None),
        Some(Value::Object(read)) => read,
        Some(_) => return wrong("the value is not of type 'object'", "read"),
    };
    let strange = |name: &String| !matches!(name.as_str(), "users" | "project-access");
    if read.keys().any(strange) {
        return wrong("Additional properties are not allowed", "read");
    }
    let project_access = match read.get("project-access") {
        None => None,
        Some(Value::Bool(access)) => Some(*access),
        Some(_) => return wrong("the value is not of type 'boolean'", "read"),
    };
    let users = match read.get("users") {
        None => None,
        Some(Value::Array(users)) if users.len() <= MOST_USERS => Some(users),
        Some(_) => return wrong("the users are not a list, or too many", "read"),
    };
    let users = match users {
        None => None,
        Some(users) => {
            let mut ids: Vec<String> = Vec::new();
            for user in users {
                match user.as_str() {
                    Some(id) if id.chars().count() <= LONGEST && !id.contains('\0') => {
                        ids.push(id.to_owned());
                    }
                    _ => return wrong("a user is not a text of at most 255 characters", "read"),
                }
            }
            ids.sort();
            ids.dedup();
            Some(ids)
        }
    };
    let wanted = WantedAcl {
        project_access,
        users,
    };
    Ok((!read.is_empty()).then_some(wanted))
}

/// The body of `POST` and `DELETE /v1/secrets/{id}/consumers`.
pub fn consumer(body: &Map<String, Value>, project_id: &str, now: Timestamp) -> Result<Consumer> {
    const SCHEMA: &str = "Secret Consumer";
    let wanted = |field: &str| {
        let found = text(SCHEMA, body, field, LONGEST, false)?.filter(|text| !text.is_empty());
        found.ok_or_else(|| {
            Fault::schema(SCHEMA, format!("'{field}' is a required property"), field)
        })
    };
    Ok(Consumer {
        service: wanted("service")?,
        resource_type: wanted("resource_type")?,
        resource_id: wanted("resource_id")?,
        project_id: project_id.to_owned(),
        created_at: now,
    })
}

/// A name of a note: part of URLs, in small letters.
fn note_name(name: &str) -> Result<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(fits) {
        return Err(Fault::bad("Invalid Key. Key must be URL safe."));
    }
    Ok(name.to_ascii_lowercase())
}

/// The body of `PUT /v1/secrets/{id}/metadata`.
pub fn metadata(body: &Map<String, Value>) -> Result<BTreeMap<String, String>> {
    const SCHEMA: &str = "SecretMetadata";
    let Some(Value::Object(notes)) = body.get("metadata") else {
        let reason = "'metadata' is a required property of type 'object'";
        return Err(Fault::schema(SCHEMA, reason, "metadata"));
    };
    let mut found = BTreeMap::new();
    for (name, value) in notes {
        if !value.is_string() {
            return Err(Fault::bad(
                "Invalid Metadata. Keys and Values must be Strings.",
            ));
        }
        let content = text(SCHEMA, notes, name, LONGEST, false)?.unwrap_or_default();
        found.insert(note_name(name)?, content);
    }
    Ok(found)
}

/// The body of `POST /v1/secrets/{id}/metadata` and of `PUT /v1/secrets/{id}/metadata/{name}`.
pub fn metadatum(body: &Map<String, Value>) -> Result<(String, String)> {
    const SCHEMA: &str = "SecretMetadatum";
    if let Some(other) = body.keys().find(|name| *name != "key" && *name != "value") {
        let reason = "Additional properties are not allowed";
        return Err(Fault::schema(SCHEMA, reason, other));
    }
    let wanted = |field: &str| {
        text(SCHEMA, body, field, LONGEST, false)?.ok_or_else(|| {
            Fault::schema(SCHEMA, format!("'{field}' is a required property"), field)
        })
    };
    Ok((note_name(&wanted("key")?)?, wanted("value")?))
}
