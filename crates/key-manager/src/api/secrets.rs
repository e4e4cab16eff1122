//! `/v1/secrets`, and the payload.

use super::allowed;
use crate::check;
use crate::db;
use crate::edge::{Call, Content, Reply};
use crate::fault::{Fault, Result};
use crate::model::{ContentType, Secret};
use crate::query::Page;
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use types::Timestamp;
use uuid::Uuid;

/// `/v1/secrets`
pub async fn all(service: &Service, call: Call) -> Result<Reply> {
    match call.method {
        Method::GET => list(service, call).await,
        Method::POST => create(service, call).await,
        _ => Err(Fault::wrong_method()),
    }
}

/// `/v1/secrets/{id}`
pub async fn one(service: &Service, call: Call, id: String) -> Result<Reply> {
    match call.method {
        // Before there was `/payload` this was where it is.
        Method::GET if !wants_json(&call) => read(service, call, id, "Secret retrieval").await,
        Method::GET => show(service, call, id).await,
        Method::PUT => fill(service, call, id).await,
        Method::DELETE => delete(service, call, id).await,
        _ => Err(Fault::wrong_method()),
    }
}

/// `/v1/secrets/{id}/payload`
pub async fn payload(service: &Service, call: Call, id: String) -> Result<Reply> {
    match call.method {
        Method::GET => read(service, call, id, "Secret payload retrieval").await,
        _ => Err(Fault::wrong_method()),
    }
}

fn wants_json(call: &Call) -> bool {
    call.header(header::ACCEPT)
        .is_none_or(|accepted| accepted.contains("application/json") || accepted.contains("*/*"))
}

async fn list(service: &Service, call: Call) -> Result<Reply> {
    call.access
        .require_own("secrets:get", "Secret(s) retrieval")?;
    let wanted = call.query.secrets(&call.access, &service.inner.config)?;
    let page = Page {
        offset: wanted.offset,
        limit: wanted.limit,
    };
    let (secrets, consumers, total) = service
        .read(move |tx| {
            let (secrets, total) = db::list(tx, &wanted)?;
            let ids: Vec<String> = secrets.iter().map(|secret| secret.id.clone()).collect();
            Ok((secrets, db::consumers_of(tx, &ids)?, total))
        })
        .await?;
    let shown = secrets.iter().map(|secret| {
        let using = consumers.get(&secret.id).map_or(&[][..], Vec::as_slice);
        view::secret(&call.base, call.version, secret, using)
    });
    let url = format!("{}/v1/secrets", call.base);
    let filters = call.query.filters();
    let shown: Vec<Value> = shown.collect();
    Ok(Reply::ok(view::page(
        "secrets", shown, total, page, &url, &filters,
    )))
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    call.access.require_own("secrets:post", "Secret creation")?;
    let now = Timestamp::now();
    let most = service.inner.config.max_secret_bytes;
    let new = check::new_secret(&call.object()?, most, now)?;
    let id = Uuid::new_v4().to_string();
    let sealed = new
        .payload
        .as_ref()
        .map(|payload| service.inner.vault.seal(&id, &payload.bytes));
    let secret = Secret {
        id: id.clone(),
        project_id: call.access.project.clone(),
        creator_id: call.access.caller.user_id.clone(),
        name: new.name,
        kind: new.kind,
        expires_at: new.expires_at,
        algorithm: new.algorithm,
        bit_length: new.bit_length,
        mode: new.mode,
        content_type: new.payload.map(|payload| payload.content_type),
        created_at: now,
        updated_at: now,
    };
    // Nobody else comes by to tidy up.
    service.tidy().await;
    service
        .write(move |tx| Ok(db::insert(tx, &secret, sealed.as_deref())?))
        .await?;
    let url = view::secret_ref(&call.base, &id);
    Ok(Reply::made(url.clone(), json!({"secret_ref": url})))
}

async fn show(service: &Service, call: Call, id: String) -> Result<Reply> {
    let (base, version) = (call.base.clone(), call.version);
    let (secret, consumers) = service
        .inner
        .store
        .look(move |tx| {
            let secret = allowed(tx, &call, &id, "secret:get", "Secret retrieval")?;
            Ok::<_, Fault>((secret, db::consumers(tx, &id)?))
        })
        .await?;
    Ok(Reply::ok(view::secret(&base, version, &secret, &consumers)))
}

async fn read(service: &Service, call: Call, id: String, operation: &'static str) -> Result<Reply> {
    let accepted = call.header(header::ACCEPT).map(str::to_owned);
    let asked = id.clone();
    let (secret, sealed) = service
        .inner
        .store
        .look(move |tx| {
            let secret = allowed(tx, &call, &asked, "secret:decrypt", operation)?;
            Ok::<_, Fault>((secret, db::sealed(tx, &asked)?))
        })
        .await?;
    let (Some(stored), Some(sealed)) = (secret.content_type, sealed) else {
        return Err(Fault::not_found(
            "Not Found. Sorry but your secret has no payload.",
        ));
    };
    let wanted = wanted(accepted.as_deref(), stored);
    let unacceptable =
        || Fault::new(StatusCode::NOT_ACCEPTABLE, "Wrong payload content-type").during(operation);
    let wanted = wanted.ok_or_else(unacceptable)?;
    let Some(bytes) = service.inner.vault.open(&id, &sealed) else {
        tracing::error!(
            secret = id,
            "a payload does not open: its master key is not in the file, or the database was changed"
        );
        return Err(Fault::internal());
    };
    if wanted == ContentType::Text && std::str::from_utf8(&bytes).is_err() {
        return Err(unacceptable());
    }
    let kind = match wanted {
        ContentType::Text => "text/plain; charset=UTF-8",
        other => other.name(),
    };
    Ok(Reply {
        status: StatusCode::OK,
        location: None,
        content: Content::Payload(kind, bytes),
    })
}

/// As what a payload is answered: bytes for who says nothing, as it is for who takes everything.
fn wanted(accepted: Option<&str>, stored: ContentType) -> Option<ContentType> {
    let Some(accepted) = accepted else {
        return Some(ContentType::Bytes);
    };
    accepted.split(',').find_map(|one| {
        let one = one.split(";q=").next().unwrap_or_default().trim();
        match one {
            "*/*" => Some(stored),
            one => ContentType::parse(one),
        }
    })
}

async fn fill(service: &Service, call: Call, id: String) -> Result<Reply> {
    const OPERATION: &str = "Secret update";
    let service_of = service.clone();
    service
        .write(move |tx| {
            let secret = allowed(tx, &call, &id, "secret:put", OPERATION)?;
            let payload = check::later_payload(
                call.header(header::CONTENT_TYPE),
                call.header(header::CONTENT_ENCODING),
                &call.body,
                service_of.inner.config.max_secret_bytes,
            )?;
            let sealed = service_of.inner.vault.seal(&id, &payload.bytes);
            let now = Timestamp::now();
            let taken = secret.content_type.is_some()
                || !db::fill(tx, &id, payload.content_type, &sealed, now)?;
            if taken {
                let text = "Secret already has data, cannot modify it.";
                return Err(Fault::new(StatusCode::CONFLICT, text));
            }
            Ok(())
        })
        .await?;
    Ok(Reply::done())
}

async fn delete(service: &Service, call: Call, id: String) -> Result<Reply> {
    const OPERATION: &str = "Secret deletion";
    service
        .write(move |tx| {
            allowed(tx, &call, &id, "secret:delete", OPERATION)?;
            if call.version.keeps_what_is_used()
                && !call.query.yes("force")?
                && !db::consumers(tx, &id)?.is_empty()
            {
                let text = "Secret cannot be deleted as it has consumers";
                return Err(Fault::bad(text).during(OPERATION));
            }
            Ok(db::delete(tx, &id)?)
        })
        .await?;
    Ok(Reply::done())
}
