//! How volumes of a type are to be encrypted. It is kept and shown; this cloud keeps no keys, so volumes of such a type
//! are refused.

use super::seen;
use crate::api::unknown;
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::model::{Encryption, Volume, VolumeType};
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;
use types::Timestamp;

const FIELDS: &[Field] = &[
    ("provider", Kind::FullName, Need::Must),
    (
        "control_location",
        Kind::OneOf(&["front-end", "back-end"]),
        Need::Must,
    ),
    ("cipher", Kind::OptionalText, Need::May),
    ("key_size", Kind::OptionalSize, Need::May),
];

pub async fn route(service: &Service, call: Call, id: &str, path: &[&str]) -> Result<Reply> {
    let verb = match (path, &call.method) {
        ([] | [_], &Method::GET) => "get",
        ([], &Method::POST) => "create",
        ([_], &Method::PUT) => "update",
        ([_], &Method::DELETE) => "delete",
        _ => return Err(unknown(&call, &[Method::GET])),
    };
    call.access
        .require_own(&format!("volume_extension:volume_type_encryption:{verb}"))?;
    let (id, key) = (id.to_owned(), path.first().map(|key| (*key).to_owned()));
    service
        .write(move |tx| {
            let kind = seen(tx, &call, &id)?;
            match (&call.method, &key) {
                (&Method::GET, None) => Ok(Reply::ok(whole(&kind))),
                (&Method::GET, Some(key)) => match whole(&kind).get(key) {
                    Some(value) => Ok(Reply::ok(json!({key.as_str(): value}))),
                    None => Err(absent(&kind)),
                },
                (&Method::POST, _) => create(tx, &call, kind),
                (&Method::PUT, _) => update(tx, &call, kind),
                _ => remove(tx, kind),
            }
        })
        .await
}

fn absent(kind: &VolumeType) -> Fault {
    Fault::not_found(format!(
        "Volume type encryption for type {} does not exist.",
        kind.id
    ))
}

fn whole(kind: &VolumeType) -> Value {
    let Some(encryption) = &kind.encryption else {
        return json!({});
    };
    json!({
        "volume_type_id": kind.id,
        "encryption_id": encryption.id,
        "provider": encryption.provider,
        "control_location": encryption.control_location,
        "cipher": encryption.cipher,
        "key_size": encryption.key_size,
        "created_at": view::time(encryption.created_at),
        "updated_at": null,
        "deleted": false,
        "deleted_at": null,
    })
}

fn unused(tx: &mut Tx<'_>, kind: &VolumeType, verb: &str) -> Result<()> {
    if db::count::<Volume>(tx, &[("type_id", (&kind.id).into())])? == 0 {
        return Ok(());
    }
    Err(Fault::bad(format!(
        "Cannot {verb} encryption specs. Volume type in use."
    )))
}

fn create(tx: &mut Tx<'_>, call: &Call, mut kind: VolumeType) -> Result<Reply> {
    let body = check::object(&call.body, "encryption", FIELDS, false)?;
    unused(tx, &kind, "create")?;
    if kind.encryption.is_some() {
        return Err(Fault::bad(format!(
            "Volume type encryption for type {} already exists.",
            kind.id
        )));
    }
    let encryption = Encryption {
        id: uuid::Uuid::new_v4().to_string(),
        provider: check::text(body, "provider").unwrap_or_default(),
        control_location: check::text(body, "control_location").unwrap_or_default(),
        cipher: check::text(body, "cipher"),
        key_size: body.get("key_size").and_then(check::whole),
        created_at: Timestamp::now(),
    };
    let answer = json!({"encryption": {
        "volume_type_id": kind.id,
        "encryption_id": encryption.id,
        "provider": encryption.provider,
        "control_location": encryption.control_location,
        "cipher": encryption.cipher,
        "key_size": encryption.key_size,
    }});
    kind.encryption = Some(encryption);
    db::save(tx, &kind)?;
    Ok(Reply::ok(answer))
}

fn update(tx: &mut Tx<'_>, call: &Call, mut kind: VolumeType) -> Result<Reply> {
    let optional: Vec<Field> = FIELDS
        .iter()
        .map(|(name, kind, _)| (*name, *kind, Need::May))
        .collect();
    let body = check::object(&call.body, "encryption", &optional, false)?;
    unused(tx, &kind, "update")?;
    let mut encryption = kind.encryption.take().ok_or_else(|| absent(&kind))?;
    if let Some(provider) = check::text(body, "provider") {
        encryption.provider = provider;
    }
    if let Some(place) = check::text(body, "control_location") {
        encryption.control_location = place;
    }
    if body.contains_key("cipher") {
        encryption.cipher = check::text(body, "cipher");
    }
    if let Some(size) = body.get("key_size") {
        encryption.key_size = check::whole(size);
    }
    kind.encryption = Some(encryption);
    db::save(tx, &kind)?;
    Ok(Reply::ok(call.body.clone()))
}

fn remove(tx: &mut Tx<'_>, mut kind: VolumeType) -> Result<Reply> {
    unused(tx, &kind, "delete")?;
    if kind.encryption.take().is_none() {
        return Err(absent(&kind));
    }
    db::save(tx, &kind)?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
