//! `/v1/secrets/{id}/acl`: who else may read a secret.

use super::found;
use crate::check::{self, WantedAcl};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::model::Acl;
use crate::service::Service;
use crate::view;
use http::Method;
use serde_json::{Value, json};
use types::Timestamp;

/// Finds and runs the handler.
pub async fn route(service: &Service, call: Call, id: String) -> Result<Reply> {
    match call.method {
        Method::GET => show(service, call, id).await,
        Method::PUT => change(service, call, id, true).await,
        Method::PATCH => change(service, call, id, false).await,
        Method::DELETE => remove(service, call, id).await,
        _ => Err(Fault::wrong_method()),
    }
}

async fn show(service: &Service, call: Call, id: String) -> Result<Reply> {
    let acl = service
        .inner
        .store
        .look(move |tx| {
            let (secret, acl) = found(tx, &id)?;
            let operation = "SecretACL(s) retrieval";
            call.access
                .require_acl("secret_acls:get", operation, &secret)?;
            Ok::<_, Fault>(acl)
        })
        .await?;
    Ok(Reply::ok(view::acl(acl.as_ref())))
}

/// `whole`: what the request does not name goes back to what it is by default.
async fn change(service: &Service, call: Call, id: String, whole: bool) -> Result<Reply> {
    let url = format!("{}/acl", view::secret_ref(&call.base, &id));
    service
        .write(move |tx| {
            let (secret, before) = found(tx, &id)?;
            let operation = "SecretACL(s) Update";
            call.access
                .require_acl("secret_acls:put_patch", operation, &secret)?;
            match check::wanted_acl(&call.object()?)? {
                Some(wanted) => db::set_acl(tx, &id, &after(before, wanted, whole))?,
                None if whole => db::remove_acl(tx, &id)?,
                None => {}
            }
            Ok(())
        })
        .await?;
    Ok(Reply::ok(json!({"acl_ref": url})))
}

fn after(before: Option<Acl>, wanted: WantedAcl, whole: bool) -> Acl {
    let now = Timestamp::now();
    let fresh = Acl {
        project_access: true,
        users: Vec::new(),
        created_at: before.as_ref().map_or(now, |before| before.created_at),
        updated_at: now,
    };
    let kept = match before {
        Some(before) if !whole => before,
        _ => fresh.clone(),
    };
    Acl {
        project_access: wanted.project_access.unwrap_or(kept.project_access),
        users: wanted.users.unwrap_or(kept.users),
        ..fresh
    }
}

async fn remove(service: &Service, call: Call, id: String) -> Result<Reply> {
    service
        .write(move |tx| {
            let (secret, _) = found(tx, &id)?;
            let operation = "SecretACL(s) deletion";
            call.access
                .require_acl("secret_acls:delete", operation, &secret)?;
            Ok(db::remove_acl(tx, &id)?)
        })
        .await?;
    Ok(Reply::ok(Value::Null))
}
