//! `/os-aggregates`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::idempotency;
use crate::mv;
use crate::neighbours::unavailable;
use db::aggregates::{Aggregate, ZONE};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt::Display;
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
        .map(|zone| zone.trim().to_owned());
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

/// Changes the aggregate in the path in one transaction, with the answer where that is kept under a key.
async fn change<F>(call: Call, mut how: F) -> Result<Reply, Fault>
where
    F: FnMut(&mut sql::Tx<'_>, &mut Aggregate, Timestamp) -> Result<(), Fault> + Send + 'static,
{
    let id = id(&call)?;
    let now = Timestamp::now();
    let missing = unknown(&call);
    let call = Arc::new(call);
    let asked = Arc::clone(&call);
    let changing = move |tx: &mut sql::Tx<'_>| {
        let mut aggregate = db::aggregates::get(tx, id)?.ok_or_else(|| missing.clone())?;
        let before = (aggregate.name.clone(), aggregate.metadata.clone());
        how(tx, &mut aggregate, now)?;
        // Hosts that come and go do not count as a change of it, as in Nova.
        if (&before.0, &before.1) != (&aggregate.name, &aggregate.metadata) {
            if !db::aggregates::update(tx, &aggregate, now)? {
                return Err(Fault::conflict(format!(
                    "Aggregate {} already exists.",
                    aggregate.name
                )));
            }
            aggregate.updated_at = Some(now);
        }
        Reply::ok(&json!({ "aggregate": document(&asked, &aggregate) }))
    };
    idempotency::keeping(&call, changing).await
}

/// What is done with an aggregate: each is refused in its own words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    AddHost,
    RemoveHost,
    Update,
    SetMetadata,
    Delete,
}

impl Act {
    fn refused(self, id: i64, reason: impl Display) -> Fault {
        let what = match self {
            Self::AddHost => "add host to aggregate",
            // Nova has no words of its own for a removal.
            Self::RemoveHost | Self::Delete => "remove host from aggregate",
            Self::Update => "update aggregate",
            Self::SetMetadata => "update metadata of aggregate",
        };
        let message = format!("Cannot {what} {id}. Reason: {reason}.");
        match self {
            Self::AddHost | Self::RemoveHost => Fault::conflict(message),
            Self::Update | Self::SetMetadata | Self::Delete => Fault::bad_request(message),
        }
    }
}

/// The zones in which these hosts are by other aggregates.
fn other_zones(
    tx: &mut sql::Tx<'_>,
    id: i64,
    hosts: &[String],
) -> Result<BTreeSet<String>, sql::Error> {
    let all = db::aggregates::all(tx)?;
    let others = all
        .iter()
        .filter(|other| other.id != id && other.hosts.iter().any(|theirs| hosts.contains(theirs)));
    Ok(others
        .filter_map(Aggregate::zone)
        .map(str::to_owned)
        .collect())
}

/// A host may be in aggregates of one zone only.
fn one_zone(
    tx: &mut sql::Tx<'_>,
    id: i64,
    zone: &str,
    hosts: &[String],
    act: Act,
) -> Result<(), Fault> {
    let mut zones = other_zones(tx, id, hosts)?;
    zones.remove(zone);
    if zones.is_empty() {
        return Ok(());
    }
    let zones: Vec<String> = zones.iter().map(|zone| format!("'{zone}'")).collect();
    let zones = zones.join(", ");
    let reason = format!("One or more hosts already in availability zone(s) [{zones}]");
    Err(act.refused(id, reason))
}

/// Gives an aggregate another zone, as far as its hosts are in no other and have no servers: servers do not change their
/// zone with their host. A zone once given is not taken away, either.
fn set_zone(
    tx: &mut sql::Tx<'_>,
    aggregate: &mut Aggregate,
    zone: &Value,
    act: Act,
) -> Result<(), Fault> {
    let id = aggregate.id;
    let Some(zone) = zone.as_str().filter(|zone| !zone.is_empty()) else {
        let name = &aggregate.name;
        let reason = format!("Aggregate {name} does not support empty named availability zone");
        return Err(act.refused(id, reason));
    };
    one_zone(tx, id, zone, &aggregate.hosts, act)?;
    if aggregate.zone() != Some(zone) && db::hosts::servers_on(tx, &aggregate.hosts)? > 0 {
        return Err(act.refused(id, "One or more hosts contain instances in this zone"));
    }
    aggregate.metadata.insert(ZONE.to_owned(), zone.to_owned());
    Ok(())
}

/// Refuses what would move a host with servers from one zone to another; none is the default zone.
fn servers_stay(
    tx: &mut sql::Tx<'_>,
    id: i64,
    host: &str,
    (from, to): (Option<&str>, Option<&str>),
    act: Act,
) -> Result<(), Fault> {
    if from == to {
        return Ok(());
    }
    let servers = db::hosts::servers_on(tx, &[host.to_owned()])?;
    if servers == 0 {
        return Ok(());
    }
    let done = match act {
        Act::AddHost => "added to",
        _ => "removed from",
    };
    let (from, to) = (from.unwrap_or("None"), to.unwrap_or("None"));
    Err(act.refused(
        id,
        format!(
            "The host cannot be {done} the aggregate as the availability zone of the host would change from '{from}' to \
             '{to}' but the host already has {servers} instance(s). A server changes its zone only when it is shelved and \
             unshelved: move the servers of this host away first"
        ),
    ))
}

/// `PUT /{id}`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let wanted = call.body.get("aggregate").cloned().unwrap_or_default();
    change(call, move |tx, aggregate, _| {
        if let Some(name) = wanted.get("name").and_then(Value::as_str) {
            name.trim().clone_into(&mut aggregate.name);
        }
        match wanted.get(ZONE) {
            Some(zone) => set_zone(tx, aggregate, zone, Act::Update),
            None => Ok(()),
        }
    })
    .await
}

/// `set_metadata`: null removes a key, but for the zone.
pub async fn set_metadata(call: Call) -> Result<Reply, Fault> {
    let wanted = call
        .field("set_metadata", "metadata")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    change(call, move |tx, aggregate, _| {
        for (name, value) in &wanted {
            match value.as_str() {
                _ if name == ZONE => set_zone(tx, aggregate, value, Act::SetMetadata)?,
                Some(text) => {
                    aggregate.metadata.insert(name.clone(), text.to_owned());
                }
                None => {
                    aggregate.metadata.remove(name);
                }
            }
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
        let id = aggregate.id;
        if !db::aggregates::add_host(tx, id, &host)? {
            return Err(Fault::conflict(format!(
                "Aggregate {id} already has host {host}."
            )));
        }
        aggregate.hosts.push(host.clone());
        aggregate.hosts.sort();
        let Some(zone) = aggregate.zone() else {
            return Ok(());
        };
        let alone = std::slice::from_ref(&host);
        one_zone(tx, id, zone, alone, Act::AddHost)?;
        let before = other_zones(tx, id, alone)?.pop_first();
        let zones = (before.as_deref(), Some(zone));
        servers_stay(tx, id, &host, zones, Act::AddHost)
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
        let id = aggregate.id;
        if !db::aggregates::remove_host(tx, id, &host)? {
            return Err(Fault::not_found(format!(
                "Cannot remove host {host} in aggregate {id}"
            )));
        }
        aggregate.hosts.retain(|other| *other != host);
        let Some(zone) = aggregate.zone() else {
            return Ok(());
        };
        let after = other_zones(tx, id, std::slice::from_ref(&host))?.pop_first();
        let zones = (Some(zone), after.as_deref());
        servers_stay(tx, id, &host, zones, Act::RemoveHost)
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
                return Err(Act::Delete.refused(id, "Host aggregate is not empty"));
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
            check: call.check_of(&record.image, None).await,
            ..GuestImage::from(&record.image)
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
