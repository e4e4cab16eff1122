//! Giving a volume to another project: an offer with a secret key, and its acceptance.

use super::unknown;
use super::volumes::{self, in_scope, scope};
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::{Snapshot, Status, Transfer, VolumeType};
use crate::quota::{self, Take};
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sql::Tx;
use subtle::ConstantTimeEq;
use types::Timestamp;

const LIST: listing::Rules = listing::Rules {
    path: "os-volume-transfer",
    links: "transfers_links",
    filters: &["name", "id", "volume_id", "source_project_id"],
    sorts: &["created_at", "id", "name", "volume_id"],
};

pub async fn route(service: &Service, call: Call, place: &str, path: &[&str]) -> Result<Reply> {
    if place == "volume-transfers" {
        call.version.since(55)?;
    }
    let method = call.method.clone();
    let place = place.to_owned();
    match (path, &method) {
        ([], &Method::GET) => list(service, call, place, false).await,
        (["detail"], &Method::GET) => list(service, call, place, true).await,
        ([], &Method::POST) => create(service, call, place).await,
        ([id], &Method::GET) => show(service, call, place, id).await,
        ([id], &Method::DELETE) => remove(service, call, id).await,
        ([id, "accept"], &Method::POST) => accept(service, call, place, id).await,
        _ => Err(unknown(&call, &[Method::GET])),
    }
}

fn find(tx: &mut Tx<'_>, id: &str) -> Result<Transfer> {
    let found = db::get::<Transfer>(tx, id)?;
    found.ok_or_else(|| Fault::missing("Transfer", id))
}

fn seen(tx: &mut Tx<'_>, call: &Call, id: &str, rule: &str) -> Result<Transfer> {
    let transfer = find(tx, id)?;
    if !call.access.sees(&transfer.project_id) {
        return Err(Fault::missing("Transfer", id));
    }
    call.access.require(rule, &transfer.project_id)?;
    Ok(transfer)
}

async fn list(service: &Service, call: Call, place: String, detailed: bool) -> Result<Reply> {
    call.access.require_own("volume:get_all_transfers")?;
    let most = service.inner.config.max_limit;
    let body = service
        .read(move |tx| {
            let mut found: Vec<Transfer> = in_scope(tx, scope(&call)?.as_deref())?;
            found.retain(|transfer| !transfer.accepted);
            let items = found
                .into_iter()
                .map(|one| Item {
                    id: one.id.clone(),
                    fields: json!({
                        "id": one.id, "name": one.name, "volume_id": one.volume_id,
                        "source_project_id": one.project_id, "created_at": view::time(one.created_at),
                    }),
                    item: one,
                })
                .collect();
            let page = listing::page(&call, &LIST, most, items)?;
            let one = |transfer: &Transfer| match detailed {
                true => view::transfer(&call, transfer, &place, None),
                false => json!({
                    "id": transfer.id, "volume_id": transfer.volume_id, "name": transfer.name,
                    "links": call.links(&place, &transfer.id),
                }),
            };
            let all: Vec<Value> = page.items.iter().map(one).collect();
            let mut body = json!({"transfers": all});
            if let Some(links) = &page.links {
                body[LIST.links] = links.clone();
            }
            Ok(body)
        })
        .await?;
    Ok(Reply::ok(body))
}

async fn show(service: &Service, call: Call, place: String, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    let body = service
        .read(move |tx| {
            let transfer = seen(tx, &call, &id, "volume:get_transfer")?;
            Ok(json!({"transfer": view::transfer(&call, &transfer, &place, None)}))
        })
        .await?;
    Ok(Reply::ok(body))
}

fn hash(salt: &str, key: &str) -> String {
    hex::encode(Sha256::digest(format!("{salt}:{key}")))
}

async fn create(service: &Service, call: Call, place: String) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("volume_id", Kind::Id, Need::Must),
        ("name", Kind::Name, Need::May),
        ("no_snapshots", Kind::OptionalBool, Need::May),
    ];
    let fields = if call.version.0 >= 55 {
        FIELDS
    } else {
        &FIELDS[..2]
    };
    let body = check::object(&call.body, "transfer", fields, false)?.clone();
    let volume_id = check::text(&body, "volume_id").unwrap_or_default();
    let no_snapshots = call.version.0 < 55 || check::yes(&body, "no_snapshots");
    let (salt, key): ([u8; 8], [u8; 8]) = (rand::random(), rand::random());
    let (salt, key) = (hex::encode(salt), hex::encode(key));
    let secret = hash(&salt, &key);
    let answer = service
        .write(move |tx| {
            let mut volume = volumes::allowed(tx, &call, &volume_id, "volume:create_transfer")?;
            if volume.status != Status::Available {
                return Err(Fault::volume("status must be available"));
            }
            let of_volume = [("volume_id", sql::Value::from(&volume.id))];
            let snapshots = db::find::<Snapshot>(tx, &of_volume)?;
            if snapshots.iter().any(|one| one.status != Status::Available) {
                return Err(Fault::snapshot("status must be available"));
            }
            let transfer = Transfer {
                id: uuid::Uuid::new_v4().to_string(),
                volume_id: volume.id.clone(),
                project_id: volume.project_id.clone(),
                name: check::trimmed(&body, "name"),
                salt: salt.clone(),
                hash: secret.clone(),
                no_snapshots,
                accepted: false,
                destination: None,
                created_at: Timestamp::now(),
            };
            db::insert(tx, &transfer)?;
            volume.status = Status::AwaitingTransfer;
            volume.updated_at = Some(Timestamp::now());
            db::save(tx, &volume)?;
            Ok(json!({"transfer": view::transfer(&call, &transfer, &place, Some(&key))}))
        })
        .await?;
    Ok(Reply::accepted(answer))
}

async fn remove(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    service
        .write(move |tx| {
            let transfer = seen(tx, &call, &id, "volume:delete_transfer")?;
            if let Some(mut volume) = db::get::<crate::model::Volume>(tx, &transfer.volume_id)?
                && volume.status == Status::AwaitingTransfer
            {
                volume.status = Status::Available;
                volume.updated_at = Some(Timestamp::now());
                db::save(tx, &volume)?;
            }
            db::delete::<Transfer>(tx, &id)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn accept(service: &Service, call: Call, place: String, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[("auth_key", Kind::FullName, Need::Must)];
    call.access.require_own("volume:accept_transfer")?;
    let body = check::object(&call.body, "accept", FIELDS, false)?;
    let key = check::text(body, "auth_key").unwrap_or_default();
    let (id, config) = (id.to_owned(), service.inner.config.clone());
    let answer = service
        .write(move |tx| {
            let mut transfer = find(tx, &id)?;
            let given = hash(&transfer.salt, &key);
            if transfer.accepted || !bool::from(given.as_bytes().ct_eq(transfer.hash.as_bytes())) {
                return Err(Fault::bad(format!(
                    "Invalid auth key: Attempt to transfer {id} with invalid auth key."
                )));
            }
            let found = db::get::<crate::model::Volume>(tx, &transfer.volume_id)?;
            let mut volume = found.ok_or_else(|| Fault::missing("Volume", &transfer.volume_id))?;
            if volume.status != Status::AwaitingTransfer {
                return Err(Fault::volume(format!(
                    "Transfer {id}: Volume id {} in unexpected state {}, expected awaiting-transfer",
                    volume.id, volume.status
                )));
            }
            let project = call.access.project().to_owned();
            let of_volume = [("volume_id", sql::Value::from(&volume.id))];
            let mut snapshots = db::find::<Snapshot>(tx, &of_volume)?;
            if transfer.no_snapshots {
                snapshots.clear();
            }
            let kind = db::get::<VolumeType>(tx, &volume.type_id)?;
            let gigabytes = volume.size + snapshots.iter().map(|one| one.size).sum::<u64>();
            let take = Take {
                volumes: 1,
                snapshots: i64::try_from(snapshots.len()).unwrap_or(i64::MAX),
                gigabytes: i64::try_from(gigabytes).unwrap_or(i64::MAX),
            };
            let type_name = kind.map(|kind| kind.name).unwrap_or_default();
            quota::check(tx, &config, &project, &type_name, take)?;
            for mut snapshot in snapshots {
                snapshot.project_id.clone_from(&project);
                snapshot.user_id.clone_from(&call.access.caller.user_id);
                db::save(tx, &snapshot)?;
            }
            volume.project_id.clone_from(&project);
            volume.user_id.clone_from(&call.access.caller.user_id);
            volume.status = Status::Available;
            volume.updated_at = Some(Timestamp::now());
            db::save(tx, &volume)?;
            transfer.accepted = true;
            transfer.destination = Some(project);
            db::save(tx, &transfer)?;
            Ok(json!({"transfer": {
                "id": transfer.id, "volume_id": transfer.volume_id, "name": transfer.name,
                "links": call.links(&place, &transfer.id),
            }}))
        })
        .await?;
    Ok(Reply::accepted(answer))
}
