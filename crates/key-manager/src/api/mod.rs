//! Handlers: what each route does.

mod acl;
mod consumers;
mod metadata;
mod secrets;

use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::model::{Acl, Secret};
use crate::service::Service;
use http::StatusCode;
use sql::Tx;
use types::Timestamp;
use uuid::Uuid;

/// What Barbican has and this key manager has not.
const ABSENT: &[&str] = &[
    "containers",
    "orders",
    "quotas",
    "project-quotas",
    "secret-stores",
    "transport_keys",
    "cas",
];

/// Finds and runs the handler.
pub async fn dispatch(service: &Service, call: Call) -> Result<Reply> {
    let path = call.path.clone();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["secrets"] => secrets::all(service, call).await,
        ["secrets", id, rest @ ..] => {
            let id = canonical(id)?;
            match rest {
                [] => secrets::one(service, call, id).await,
                ["payload"] => secrets::payload(service, call, id).await,
                ["acl"] => acl::route(service, call, id).await,
                ["consumers"] => consumers::route(service, call, id).await,
                ["metadata"] => metadata::all(service, call, id).await,
                ["metadata", name] => metadata::one(service, call, id, name).await,
                _ => Err(Fault::no_route()),
            }
        }
        [first, ..] if ABSENT.contains(first) => Err(Fault::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("This key manager keeps secrets only; there are no {first}."),
        )),
        _ => Err(Fault::no_route()),
    }
}

/// An id as it is stored; what cannot be one is not there.
fn canonical(id: &str) -> Result<String> {
    let id = Uuid::parse_str(id);
    let id = id.map_err(|_| Fault::not_found("Not Found. Provided secret id is invalid."))?;
    Ok(id.to_string())
}

/// A secret that has not expired, with its access control list.
fn found(tx: &mut Tx<'_>, id: &str) -> Result<(Secret, Option<Acl>)> {
    let secret = db::get(tx, id, Timestamp::now())?.ok_or_else(Fault::no_secret)?;
    let acl = db::acl(tx, id)?;
    Ok((secret, acl))
}

/// The same, when a rule allows the operation for it.
fn allowed(tx: &mut Tx<'_>, call: &Call, id: &str, rule: &str, operation: &str) -> Result<Secret> {
    let (secret, acl) = found(tx, id)?;
    call.access
        .require(rule, operation, &secret, acl.as_ref())?;
    Ok(secret)
}
