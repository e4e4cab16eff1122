//! `/v1/secrets/{id}/metadata`: what the owner noted of a secret.

use super::allowed;
use crate::check;
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Notes of one secret at most.
const MOST: usize = 1000;

/// `/v1/secrets/{id}/metadata`
pub async fn all(service: &Service, call: Call, id: String) -> Result<Reply> {
    match call.method {
        Method::GET => {
            let notes = notes(service, call, id).await?;
            Ok(Reply::ok(json!({"metadata": notes})))
        }
        Method::PUT => replace(service, call, id).await,
        Method::POST => add(service, call, id).await,
        _ => Err(Fault::wrong_method()),
    }
}

/// `/v1/secrets/{id}/metadata/{name}`
pub async fn one(service: &Service, call: Call, id: String, name: &str) -> Result<Reply> {
    match call.method {
        Method::GET => {
            let notes = notes(service, call, id).await?;
            let content = notes.get(name).ok_or_else(absent)?;
            Ok(Reply::ok(pair(name, content)))
        }
        Method::PUT => change(service, call, id, name.to_owned()).await,
        Method::DELETE => remove(service, call, id, name.to_owned()).await,
        _ => Err(Fault::wrong_method()),
    }
}

fn absent() -> Fault {
    Fault::not_found("Secret metadata not found.")
}

fn pair(name: &str, content: &str) -> Value {
    json!({"key": name, "value": content})
}

async fn notes(service: &Service, call: Call, id: String) -> Result<BTreeMap<String, String>> {
    service
        .read(move |tx| {
            let operation = "Secret metadata retrieval";
            allowed(tx, &call, &id, "secret_meta:get", operation)?;
            Ok(db::metadata(tx, &id)?)
        })
        .await
}

async fn replace(service: &Service, call: Call, id: String) -> Result<Reply> {
    let url = format!("{}/metadata", view::secret_ref(&call.base, &id));
    service
        .write(move |tx| {
            let operation = "Secret metadata creation";
            allowed(tx, &call, &id, "secret_meta:put", operation)?;
            let wanted = check::metadata(&call.object()?)?;
            if wanted.len() > MOST {
                return Err(Fault::too_large().during(operation));
            }
            Ok(db::set_metadata(tx, &id, &wanted)?)
        })
        .await?;
    Ok(Reply::made(url.clone(), json!({"metadata_ref": url})))
}

async fn add(service: &Service, call: Call, id: String) -> Result<Reply> {
    let url = format!("{}/metadata", view::secret_ref(&call.base, &id));
    let (name, content) = service
        .write(move |tx| {
            let operation = "Secret metadatum creation";
            allowed(tx, &call, &id, "secret_meta:post", operation)?;
            let (name, content) = check::metadatum(&call.object()?)?;
            let known = db::metadata(tx, &id)?;
            if known.contains_key(&name) {
                let text = "Conflict. Key in request is already in the secret metadata";
                return Err(Fault::new(StatusCode::CONFLICT, text));
            }
            if known.len() >= MOST {
                return Err(Fault::too_large().during(operation));
            }
            db::set_metadatum(tx, &id, &name, &content)?;
            Ok((name, content))
        })
        .await?;
    Ok(Reply::made(format!("{url}/{name}"), pair(&name, &content)))
}

async fn change(service: &Service, call: Call, id: String, name: String) -> Result<Reply> {
    let (name, content) = service
        .write(move |tx| {
            let operation = "Secret metadatum update";
            allowed(tx, &call, &id, "secret_meta:put", operation)?;
            let (wanted, content) = check::metadatum(&call.object()?)?;
            if !db::metadata(tx, &id)?.contains_key(&name) {
                return Err(absent());
            }
            if wanted != name {
                let text = "Key in request data does not match key in the request url.";
                return Err(Fault::new(StatusCode::CONFLICT, text));
            }
            db::set_metadatum(tx, &id, &name, &content)?;
            Ok((wanted, content))
        })
        .await?;
    Ok(Reply::ok(pair(&name, &content)))
}

async fn remove(service: &Service, call: Call, id: String, name: String) -> Result<Reply> {
    service
        .write(move |tx| {
            let operation = "Secret metadatum removal";
            allowed(tx, &call, &id, "secret_meta:delete", operation)?;
            match db::remove_metadatum(tx, &id, &name)? {
                true => Ok(()),
                false => Err(absent()),
            }
        })
        .await?;
    Ok(Reply::done())
}
