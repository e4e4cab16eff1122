//! Metadata of volumes and snapshots.

use super::{snapshots, unknown, volumes};
use crate::check;
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::model::{Map, Snapshot, Volume};
use crate::service::Service;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;
use types::Timestamp;

/// Whose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A volume's.
    Volume,
    /// A snapshot's.
    Snapshot,
}

impl Of {
    fn rule(self, method: &Method) -> &'static str {
        match (self, method) {
            (Self::Volume, &Method::GET) => "volume:get_volume_metadata",
            (Self::Volume, &Method::POST) => "volume:create_volume_metadata",
            (Self::Volume, &Method::PUT) => "volume:update_volume_metadata",
            (Self::Volume, _) => "volume:delete_volume_metadata",
            (Self::Snapshot, &Method::GET) => "volume:get_snapshot_metadata",
            (Self::Snapshot, &Method::DELETE) => "volume:delete_snapshot_metadata",
            (Self::Snapshot, _) => "volume:update_snapshot_metadata",
        }
    }

    fn absent(self, id: &str, key: &str) -> Fault {
        let what = match self {
            Self::Volume => "Volume",
            Self::Snapshot => "Snapshot",
        };
        Fault::not_found(format!("{what} {id} has no metadata with key {key}."))
    }
}

/// What has the metadata.
enum Owner {
    Volume(Box<Volume>),
    Snapshot(Box<Snapshot>),
}

impl Owner {
    fn metadata(&mut self) -> &mut Map {
        match self {
            Self::Volume(volume) => &mut volume.metadata,
            Self::Snapshot(snapshot) => &mut snapshot.metadata,
        }
    }

    fn save(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        let now = Some(Timestamp::now());
        match self {
            Self::Volume(volume) => {
                volume.updated_at = now;
                db::save(tx, volume.as_ref())?;
            }
            Self::Snapshot(snapshot) => {
                snapshot.updated_at = now;
                db::save(tx, snapshot.as_ref())?;
            }
        }
        Ok(())
    }
}

fn owner(tx: &mut Tx<'_>, call: &Call, of: Of, id: &str) -> Result<Owner> {
    let rule = of.rule(&call.method);
    Ok(match of {
        Of::Volume => Owner::Volume(Box::new(volumes::allowed(tx, call, id, rule)?)),
        Of::Snapshot => Owner::Snapshot(Box::new(snapshots::allowed(tx, call, id, rule)?)),
    })
}

/// What a request does with the metadata.
#[derive(Clone)]
enum Act {
    All,
    One(String),
    Add(Map),
    Replace(Map),
    Set(String, String),
    Remove(String),
}

fn one_entry(call: &Call, key: &str) -> Result<String> {
    let map = check::texts("meta", &call.body["meta"])?;
    match (map.len(), map.get(key)) {
        (1, Some(value)) => Ok(value.clone()),
        (0, _) => Err(Fault::bad(
            "Invalid input for field/attribute body. 'meta' is a required property",
        )),
        (1, None) => Err(Fault::bad("Request body and URI mismatch")),
        _ => Err(Fault::bad("Request body contains too many items")),
    }
}

fn whole(call: &Call) -> Result<Map> {
    let known = call
        .body
        .as_object()
        .is_some_and(|body| body.len() == 1 && body.get("metadata").is_some_and(Value::is_object));
    if !known {
        return Err(Fault::bad(
            "Invalid input for field/attribute body. 'metadata' is a required property",
        ));
    }
    check::texts("metadata", &call.body["metadata"])
}

pub async fn route(
    service: &Service,
    call: Call,
    of: Of,
    id: &str,
    path: &[&str],
) -> Result<Reply> {
    let act = match (path, &call.method) {
        ([], &Method::GET) => Act::All,
        ([], &Method::POST) => Act::Add(whole(&call)?),
        ([], &Method::PUT) => Act::Replace(whole(&call)?),
        ([key], &Method::GET) => Act::One((*key).to_owned()),
        ([key], &Method::PUT) => Act::Set((*key).to_owned(), one_entry(&call, key)?),
        ([key], &Method::DELETE) => Act::Remove((*key).to_owned()),
        _ => return Err(unknown(&call, &[Method::GET])),
    };
    let id = id.to_owned();
    service
        .write(move |tx| {
            let mut owner = owner(tx, &call, of, &id)?;
            let metadata = owner.metadata();
            let answer = match &act {
                Act::All => return Ok(Reply::ok(json!({"metadata": metadata}))),
                Act::One(key) => {
                    let value = metadata.get(key).ok_or_else(|| of.absent(&id, key))?;
                    return Ok(Reply::ok(json!({"meta": {key.as_str(): value}})));
                }
                Act::Add(more) => {
                    metadata.extend(more.clone());
                    Reply::ok(json!({"metadata": metadata}))
                }
                Act::Replace(new) => {
                    metadata.clone_from(new);
                    Reply::ok(json!({"metadata": metadata}))
                }
                Act::Set(key, value) => {
                    metadata.insert(key.clone(), value.clone());
                    Reply::ok(json!({"meta": {key.as_str(): value}}))
                }
                Act::Remove(key) => {
                    metadata.remove(key).ok_or_else(|| of.absent(&id, key))?;
                    Reply::empty(StatusCode::OK)
                }
            };
            owner.save(tx)?;
            Ok(answer)
        })
        .await
}
