//! `/flavors/{id}/os-extra_specs`.

use crate::call::{Call, Reply};
use crate::extra_specs;
use crate::faults::Fault;
use crate::handlers::flavors::in_path;
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
    let record = in_path(call).await?;
    let mut all = record.flavor.extra_specs;
    all.extend(specs.clone());
    let now = Timestamp::now();
    call.api
        .deps
        .store
        .write(move |tx| db::flavors::set_extra_specs(tx, record.row, &all, now))
        .await?;
    Ok(())
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
    let record = in_path(&call).await?;
    let mut specs = record.flavor.extra_specs;
    specs.remove(call.param(1)).ok_or_else(|| missing(&call))?;
    let now = Timestamp::now();
    call.api
        .deps
        .store
        .write(move |tx| db::flavors::set_extra_specs(tx, record.row, &specs, now))
        .await?;
    Ok(Reply::empty(StatusCode::OK))
}
