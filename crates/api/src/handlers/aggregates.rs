//! `/os-aggregates`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::neighbours::unavailable;
use db::aggregates::{Aggregate, ZONE};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use types::agent::{GuestImage, Question};
use types::{HostName, ServerId, Timestamp};

fn document(call: &Call, aggregate: &Aggregate) -> Value {
    let mut map = Map::new();
    map.insert("id".to_owned(), json!(aggregate.id));
    if call.at_least(mv::AGGREGATE_UUID) {
        map.insert("uuid".to_owned(), json!(aggregate.uuid));
    }
    map.insert("name".to_owned(), json!(aggregate.name));
    map.insert("availability_zone".to_owned(), json!(aggregate.zone()));
    map.insert("hosts".to_owned(), json!(aggregate.hosts));
    map.insert("metadata".to_owned(), json!(aggregate.metadata));
    map.insert(
        "created_at".to_owned(),
        json!(aggregate.created_at.iso_micros()),
    );
    map.insert(
        "updated_at".to_owned(),
        json!(aggregate.updated_at.map(Timestamp::iso_micros)),
    );
    map.insert("deleted".to_owned(), json!(false));
    map.insert("deleted_at".to_owned(), Value::Null);
    map.into()
}

fn unknown(call: &Call) -> Fault {
    Fault::not_found(format!("Aggregate {} could not be found.", call.param(0)))
}

fn id(call: &Call) -> Result<i64, Fault> {
    call.param(0)
        .parse()
        .map_err(|_| Fault::bad_request("Invalid input received: id must be an integer"))
}

/// `GET`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let all = call.api.deps.store.read(db::aggregates::all).await?;
    let list: Vec<Value> = all
        .iter()
        .map(|aggregate| document(&call, aggregate))
        .collect();
    Reply::ok(&json!({ "aggregates": list }))
}

/// `GET /{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let id = id(&call)?;
    let found = call
        .api
        .deps
        .store
        .read(move |tx| db::aggregates::get(tx, id))
        .await?;
    let aggregate = found.ok_or_else(|| unknown(&call))?;
    Reply::ok(&json!({ "aggregate": document(&call, &aggregate) }))
}

/// `POST`.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let zone = call
        .text("aggregate", "availability_zone")
        .map(str::to_owned);
    let mut aggregate = Aggregate {
        id: 0,
        uuid: uuid::Uuid::new_v4(),
        name: call
            .text("aggregate", "name")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        metadata: zone
            .into_iter()
            .map(|zone| (ZONE.to_owned(), zone))
            .collect(),
        hosts: Vec::new(),
        created_at: Timestamp::now(),
        updated_at: None,
    };
    let stored = aggregate.clone();
    let id = call
        .api
        .deps
        .store
        .write(move |tx| db::aggregates::insert(tx, &stored))
        .await?;
    aggregate.id =
        id.ok_or_else(|| Fault::conflict(format!("Aggregate {} already exists.", aggregate.name)))?;
    let mut answer = document(&call, &aggregate);
    // The answer to a creation has neither members nor metadata.
    if let Some(map) = answer.as_object_mut() {
        map.remove("hosts");
        map.remove("metadata");
    }
    Reply::ok(&json!({ "aggregate": answer }))
}

/// Changes the aggregate in the path in one transaction and answers it.
async fn change<F>(call: Call, mut how: F) -> Result<Reply, Fault>
where
    F: FnMut(&mut sql::Tx<'_>, &mut Aggregate, Timestamp) -> Result<(), Fault> + Send + 'static,
{
    let id = id(&call)?;
    let now = Timestamp::now();
    let missing = unknown(&call);
    let aggregate = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<Aggregate, Fault> {
            let mut aggregate = db::aggregates::get(tx, id)?.ok_or_else(|| missing.clone())?;
            let before = (aggregate.name.clone(), aggregate.metadata.clone());
            how(tx, &mut aggregate, now)?;
            // Hosts that come and go do not count as a change of it, as in Nova.
            if (&before.0, &before.1) == (&aggregate.name, &aggregate.metadata) {
                return Ok(aggregate);
            }
            if !db::aggregates::update(tx, &aggregate, now)? {
                return Err(Fault::conflict(format!(
                    "Aggregate {} already exists.",
                    aggregate.name
                )));
            }
            aggregate.updated_at = Some(now);
            Ok(aggregate)
        })
        .await?;
    Reply::ok(&json!({ "aggregate": document(&call, &aggregate) }))
}

/// A host may be in aggregates of one zone only.
fn one_zone(tx: &mut sql::Tx<'_>, aggregate: &Aggregate) -> Result<(), Fault> {
    let Some(zone) = aggregate.zone() else {
        return Ok(());
    };
    for other in db::aggregates::all(tx)?
        .iter()
        .filter(|other| other.id != aggregate.id)
    {
        let Some(theirs) = other.zone().filter(|theirs| *theirs != zone) else {
            continue;
        };
        if let Some(host) = aggregate
            .hosts
            .iter()
            .find(|host| other.hosts.contains(host))
        {
            return Err(Fault::conflict(format!(
                "Cannot perform action on aggregate {}. Reason: One or more hosts already in availability zone(s) ['{theirs}']: {host}.",
                aggregate.id
            )));
        }
    }
    Ok(())
}

fn set(metadata: &mut BTreeMap<String, String>, name: &str, value: &Value) {
    match value.as_str() {
        Some(text) => metadata.insert(name.to_owned(), text.to_owned()),
        None => metadata.remove(name),
    };
}

/// `PUT /{id}`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let wanted = call.body.get("aggregate").cloned().unwrap_or_default();
    change(call, move |tx, aggregate, _| {
        if let Some(name) = wanted.get("name").and_then(Value::as_str) {
            name.trim().clone_into(&mut aggregate.name);
        }
        if let Some(zone) = wanted.get(ZONE) {
            set(&mut aggregate.metadata, ZONE, zone);
            one_zone(tx, aggregate)?;
        }
        Ok(())
    })
    .await
}

/// `set_metadata`: null removes a key.
pub async fn set_metadata(call: Call) -> Result<Reply, Fault> {
    let wanted = call
        .field("set_metadata", "metadata")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    change(call, move |tx, aggregate, _| {
        for (name, value) in &wanted {
            set(&mut aggregate.metadata, name, value);
        }
        if wanted.contains_key(ZONE) {
            one_zone(tx, aggregate)?;
        }
        Ok(())
    })
    .await
}

/// `add_host`.
pub async fn add_host(call: Call) -> Result<Reply, Fault> {
    let host = call.text("add_host", "host").unwrap_or_default().to_owned();
    change(call, move |tx, aggregate, _| {
        if !db::hosts::nodes(tx)?
            .iter()
            .any(|node| node.host.as_str() == host)
        {
            return Err(Fault::not_found(format!(
                "Compute host {host} could not be found."
            )));
        }
        if !db::aggregates::add_host(tx, aggregate.id, &host)? {
            return Err(Fault::conflict(format!(
                "Aggregate {} already has host {host}.",
                aggregate.id
            )));
        }
        aggregate.hosts.push(host.clone());
        aggregate.hosts.sort();
        one_zone(tx, aggregate)
    })
    .await
}

/// `remove_host`.
pub async fn remove_host(call: Call) -> Result<Reply, Fault> {
    let host = call
        .text("remove_host", "host")
        .unwrap_or_default()
        .to_owned();
    change(call, move |tx, aggregate, _| {
        if !db::aggregates::remove_host(tx, aggregate.id, &host)? {
            return Err(Fault::not_found(format!(
                "Aggregate {} has no host {host}.",
                aggregate.id
            )));
        }
        aggregate.hosts.retain(|other| *other != host);
        Ok(())
    })
    .await
}

/// `DELETE /{id}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let id = id(&call)?;
    let missing = unknown(&call);
    call.api
        .deps
        .store
        .write(move |tx| -> Result<(), Fault> {
            let aggregate = db::aggregates::get(tx, id)?.ok_or_else(|| missing.clone())?;
            if !aggregate.hosts.is_empty() {
                return Err(Fault::bad_request(format!(
                    "Cannot perform action on aggregate {id}. Reason: Host aggregate is not empty."
                )));
            }
            Ok(db::aggregates::delete(tx, id)?)
        })
        .await?;
    Ok(Reply::empty(StatusCode::OK))
}

/// The hosts of an aggregate that answer at the moment.
async fn hosts_that_are_up(call: &Call, aggregate: &Aggregate) -> Result<Vec<HostName>, Fault> {
    let services = call.api.deps.store.read(db::hosts::services).await?;
    let (now, down_after) = (Timestamp::now(), call.api.config.service_down_micros);
    let up = services.into_iter().filter(|service| {
        service.binary == "nova-compute"
            && service.is_up(now, down_after)
            && aggregate.hosts.contains(&service.host.0)
    });
    Ok(up.map(|service| service.host).collect())
}

/// `POST /{id}/images` (2.81): has the hosts fetch images before servers need them. A host that is down, or goes down
/// meanwhile, fetches the image when it needs it.
pub async fn cache_images(call: Call) -> Result<Reply, Fault> {
    let id = id(&call)?;
    let listed = call.body["cache"].as_array().into_iter().flatten();
    let ids: Vec<String> = listed
        .filter_map(|image| image["id"].as_str().map(str::to_owned))
        .collect();
    if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
        return Err(Fault::bad_request("Duplicate images in request"));
    }
    let store = &call.api.deps.store;
    let found = store.read(move |tx| db::aggregates::get(tx, id)).await?;
    let aggregate = found.ok_or_else(|| unknown(&call))?;
    let mut images = Vec::new();
    for id in ids {
        let found = call.api.deps.images.get(&call.token, &id).await;
        let record = found
            .map_err(unavailable)?
            .ok_or_else(|| Fault::bad_request(format!("Image {id} could not be found.")))?;
        images.push(GuestImage {
            id: record.image.id,
            disk_format: record.image.disk_format,
            size: record.image.size,
            sha512: record.image.sha512,
        });
    }
    let hosts = hosts_that_are_up(&call, &aggregate).await?;
    let questions = Arc::clone(&call.api.deps.questions);
    tokio::spawn(async move {
        for host in &hosts {
            for image in &images {
                let question = Question::CacheImage(image.clone());
                let nobody = ServerId(uuid::Uuid::nil());
                match questions.ask(host, nobody, question).await {
                    Ok(state) => tracing::info!(%host, image = %image.id, state, "an image ahead"),
                    Err((_, reason)) => {
                        tracing::warn!(%host, image = %image.id, reason, "no image ahead");
                    }
                }
            }
        }
    });
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
