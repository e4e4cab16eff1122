//! `/flavors/{id}/os-extra_specs`.

use crate::call::{Call, Reply};
use crate::extra_specs;
use crate::faults::Fault;
use crate::handlers::flavors::{Named, in_path};
use crate::mv;
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use types::Timestamp;

fn missing(call: &Call) -> Fault {
    Fault::not_found(format!(
        "Flavor {} has no extra specs with key {}.",
        call.param(0),
        call.param(1)
    ))
}

/// `GET`: all.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    Reply::ok(&json!({ "extra_specs": in_path(&call).await?.flavor.extra_specs }))
}

/// `GET /{key}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let record = in_path(&call).await?;
    let value = record
        .flavor
        .extra_specs
        .get(call.param(1))
        .ok_or_else(|| missing(&call))?;
    Reply::ok(&json!({ call.param(1): value }))
}

/// The texts of a checked object; numbers become texts.
fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs
        .map(|(key, value)| {
            (
                key.clone(),
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            )
        })
        .collect()
}

async fn merge(call: &Call, specs: &BTreeMap<String, String>) -> Result<(), Fault> {
    if call.at_least(mv::CHECKED_EXTRA_SPECS) {
        specs
            .iter()
            .try_for_each(|(key, value)| extra_specs::check(key, value))
            .map_err(Fault::bad_request)?;
    }
    let specs = specs.clone();
    change(call, move |all| {
        all.extend(specs.clone());
        Ok(())
    })
    .await
}

/// Changes the specs of the flavor in the path as they are then: nothing that others change meanwhile is lost.
async fn change<F>(call: &Call, how: F) -> Result<(), Fault>
where
    F: Fn(&mut BTreeMap<String, String>) -> Result<(), Fault> + Send + 'static,
{
    let (named, now) = (Named::of(call), Timestamp::now());
    let store = &call.api.deps.store;
    let changing = store.write(move |tx| -> Result<(), Fault> {
        let record = named.find(tx)?;
        let mut specs = record.flavor.extra_specs;
        how(&mut specs)?;
        Ok(db::flavors::set_extra_specs(tx, record.row, &specs, now)?)
    });
    changing.await
}

/// `POST`: adds and replaces.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let specs = texts(call.body.get("extra_specs"));
    merge(&call, &specs).await?;
    Reply::ok(&json!({ "extra_specs": specs }))
}

/// `PUT /{key}`.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let specs = texts(Some(&call.body));
    if !specs.contains_key(call.param(1)) {
        return Err(Fault::bad_request("Request body and URI mismatch"));
    }
    merge(&call, &specs).await?;
    Reply::ok(&specs)
}

/// `DELETE /{key}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let (key, missing) = (call.param(1).to_owned(), missing(&call));
    change(&call, move |specs| {
        let gone = specs.remove(&key);
        gone.map(drop).ok_or_else(|| missing.clone())
    })
    .await?;
    Ok(Reply::empty(StatusCode::OK))
}
