//! `/servers/{id}/metadata`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::verdict::{self, Rule};
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use types::Timestamp;

type Items = BTreeMap<String, String>;

fn items(value: Option<&Value>) -> Items {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn missing() -> Fault {
    Fault::not_found("Metadata item was not found")
}

/// Refuses more items than the quota allows.
pub fn within_quota(tx: &mut sql::Tx<'_>, project: &str, count: usize) -> Result<(), Fault> {
    if count == 0 {
        return Ok(());
    }
    let most = db::quotas::of_project(tx, project)?
        .get("metadata_items")
        .copied()
        .unwrap_or(-1);
    if most >= 0 && count as i64 > most {
        return Err(Fault::forbidden(format!(
            "Maximum number of metadata items exceeds {most}"
        )));
    }
    Ok(())
}

/// Whether a change counts against the quota: nobody is kept from taking items away, as in Nova.
#[derive(Clone, Copy, PartialEq)]
enum Quota {
    Counts,
    Spared,
}

/// Changes the metadata in one transaction and answers what it is then. What the change itself refuses comes before the
/// server's state, as in Nova.
async fn change<F>(call: &Call, rule: Rule, quota: Quota, mut how: F) -> Result<Items, Fault>
where
    F: FnMut(&mut Items) -> Result<(), Fault> + Send + 'static,
{
    let seen = call.server().await?;
    let (id, now, may_override) = (seen.id, Timestamp::now(), call.is_admin());
    call.api
        .deps
        .store
        .write(move |tx| -> Result<Items, Fault> {
            let mut server =
                db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
            how(&mut server.metadata)?;
            rule.check_as(&server, may_override)?;
            if quota == Quota::Counts {
                within_quota(tx, server.project_id.as_str(), server.metadata.len())?;
            }
            db::instances::update_editable(tx, &server, now)?;
            Ok(server.metadata)
        })
        .await
}

/// `GET`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    Reply::ok(&json!({ "metadata": call.server().await?.metadata }))
}

/// `GET /{key}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let value = server.metadata.get(call.param(1)).ok_or_else(missing)?;
    Reply::ok(&json!({ "meta": { call.param(1): value } }))
}

/// `POST`: adds and replaces.
pub async fn merge(call: Call) -> Result<Reply, Fault> {
    let new = items(call.body.get("metadata"));
    let all = change(
        &call,
        verdict::UPDATE_METADATA,
        Quota::Counts,
        move |metadata| {
            metadata.extend(new.clone());
            Ok(())
        },
    )
    .await?;
    Reply::ok(&json!({ "metadata": all }))
}

/// `PUT`: replaces all.
pub async fn replace(call: Call) -> Result<Reply, Fault> {
    let new = items(call.body.get("metadata"));
    let all = change(
        &call,
        verdict::UPDATE_METADATA,
        Quota::Counts,
        move |metadata| {
            metadata.clone_from(&new);
            Ok(())
        },
    )
    .await?;
    Reply::ok(&json!({ "metadata": all }))
}

/// `PUT /{key}`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let new = items(call.body.get("meta"));
    if !new.contains_key(call.param(1)) {
        return Err(Fault::bad_request("Request body and URI mismatch"));
    }
    let shown = new.clone();
    change(
        &call,
        verdict::UPDATE_METADATA,
        Quota::Counts,
        move |metadata| {
            metadata.extend(new.clone());
            Ok(())
        },
    )
    .await?;
    Reply::ok(&json!({ "meta": shown }))
}

/// `DELETE /{key}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let key = call.param(1).to_owned();
    change(
        &call,
        verdict::DELETE_METADATA,
        Quota::Spared,
        move |metadata| metadata.remove(&key).map(|_| ()).ok_or_else(missing),
    )
    .await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}
