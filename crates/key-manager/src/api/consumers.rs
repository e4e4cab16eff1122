//! `/v1/secrets/{id}/consumers`: who uses a secret.

use super::allowed;
use crate::check;
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::model::{Consumer, Secret};
use crate::service::Service;
use crate::version::Version;
use crate::view;
use http::{Method, StatusCode};
use serde_json::Value;
use types::Timestamp;

/// Consumers of one secret at most: each answer about it names all of them.
const MOST: usize = 1000;

/// Finds and runs the handler.
pub async fn route(service: &Service, call: Call, id: String) -> Result<Reply> {
    match call.method {
        Method::GET => list(service, call, id).await,
        Method::POST => add(service, call, id).await,
        Method::DELETE => remove(service, call, id).await,
        _ => Err(Fault::wrong_method()),
    }
}

async fn list(service: &Service, call: Call, id: String) -> Result<Reply> {
    let page = call.query.page(&service.inner.config);
    let url = format!("{}/consumers", view::secret_ref(&call.base, &id));
    let consumers = service
        .read(move |tx| {
            let operation = "SecretConsumers(s) retrieval";
            allowed(tx, &call, &id, "secret_consumers:get", operation)?;
            Ok(db::consumers(tx, &id)?)
        })
        .await?;
    let total = consumers.len();
    let shown = consumers.iter().skip(page.offset).take(page.limit);
    let shown: Vec<Value> = shown.map(view::consumer).collect();
    Ok(Reply::ok(view::page(
        "consumers",
        shown,
        total,
        page,
        &url,
        "",
    )))
}

async fn add(service: &Service, call: Call, id: String) -> Result<Reply> {
    let base = call.base.clone();
    let (secret, consumers) = service
        .write(move |tx| {
            let operation = "SecretConsumer creation";
            let secret = allowed(tx, &call, &id, "secret_consumers:post", operation)?;
            let new = check::consumer(&call.object()?, &call.access.project, Timestamp::now())?;
            let mut consumers = db::consumers(tx, &id)?;
            if consumers.len() >= MOST {
                let text = "Creation not allowed because a quota has been reached";
                return Err(Fault::new(StatusCode::FORBIDDEN, text).during(operation));
            }
            if !consumers.iter().any(|known| known.is_same(&new)) {
                db::add_consumer(tx, &id, &new)?;
                consumers.push(new);
            }
            Ok((secret, consumers))
        })
        .await?;
    Ok(answer(&base, &secret, &consumers))
}

async fn remove(service: &Service, call: Call, id: String) -> Result<Reply> {
    let base = call.base.clone();
    let (secret, consumers) = service
        .write(move |tx| {
            let operation = "SecretConsumer deletion";
            let secret = allowed(tx, &call, &id, "secret_consumers:delete", operation)?;
            let project = &call.access.project;
            let wanted = check::consumer(&call.object()?, project, Timestamp::now())?;
            let mut consumers = db::consumers(tx, &id)?;
            let Some(at) = consumers.iter().position(|known| known.is_same(&wanted)) else {
                return Err(Fault::not_found("Consumer not found."));
            };
            if consumers[at].project_id != *project && secret.project_id != *project {
                let text = "Not Allowed. The consumer is of another project.";
                return Err(Fault::new(StatusCode::FORBIDDEN, text));
            }
            db::remove_consumer(tx, &id, &wanted)?;
            consumers.remove(at);
            Ok((secret, consumers))
        })
        .await?;
    Ok(answer(&base, &secret, &consumers))
}

/// The secret with its consumers, whatever version was asked for.
fn answer(base: &str, secret: &Secret, consumers: &[Consumer]) -> Reply {
    Reply::ok(view::secret(base, Version::MOST, secret, consumers))
}
