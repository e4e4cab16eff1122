//! EC2 credentials: `/v3/users/{id}/credentials/OS-EC2` and `POST /v3/ec2tokens`, which checks the signature of a
//! request that an EC2 or S3 service received.

use super::call::{Call, json, no_content, ok};
use super::credentials::ec2_id;
use super::{crud, lists};
use crate::access;
use crate::db::kinds::{CREDENTIALS, PROJECTS};
use crate::db::records::{self, Record};
use crate::fault::Fault;
use crate::keys::Keyring;
use crate::signature::Signed;
use crate::token::{Basis, Payload, Scope, audit_id};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value as Json, json};
use sql::Tx;
use types::Timestamp;

fn view(call: &Call, keys: &Keyring, record: &Record) -> Json {
    let mut opened = record.clone();
    super::credentials::open(keys, &mut opened);
    let blob: Json = serde_json::from_str(crud::text(&opened, "blob")).unwrap_or(Json::Null);
    let user_id = crud::text(record, "user_id");
    let path = format!("users/{user_id}/credentials/OS-EC2");
    json!({
        "access": blob["access"],
        "secret": blob["secret"],
        "tenant_id": record["project_id"],
        "trust_id": null,
        "user_id": user_id,
        "links": {"self": call.link(&path, blob["access"].as_str().unwrap_or_default())},
    })
}

/// POST /v3/users/{user_id}/credentials/OS-EC2
pub async fn create(call: Call) -> Result<Response, Fault> {
    let project_id = call
        .body
        .get("tenant_id")
        .and_then(Json::as_str)
        .ok_or_else(|| Fault::required("tenant_id"))?
        .to_owned();
    let user_id = call.param("user_id").to_owned();
    let (access, secret) = (crud::new_id(), crud::new_id());
    // What is made with an application credential has no more rights than that.
    let maker = call
        .held()?
        .app_credential
        .as_ref()
        .map(|(id, _, _)| id.clone());
    let blob = json!({"access": access, "secret": secret, "trust_id": null, "app_cred_id": maker})
        .to_string();
    let sealed = call.service.inner.credential_keys.seal(blob.as_bytes());
    let mut record = Map::new();
    for (name, value) in [
        ("id", ec2_id(&access)),
        ("user_id", user_id),
        ("project_id", project_id),
        ("type", "ec2".to_owned()),
        ("blob", sealed),
    ] {
        record.insert(name.to_owned(), Json::String(value));
    }
    let new = record.clone();
    let work = move |tx: &mut Tx<'_>| {
        crud::there(tx, &crate::db::kinds::USERS, crud::text(&new, "user_id"))?;
        crud::there(tx, &PROJECTS, crud::text(&new, "project_id"))?;
        Ok(records::insert(tx, &CREDENTIALS, &new)?)
    };
    call.service.change(work).await?;
    let shown = view(&call, &call.service.inner.credential_keys, &record);
    Ok(json(StatusCode::CREATED, &json!({"credential": shown})))
}

/// GET /v3/users/{user_id}/credentials/OS-EC2
pub async fn list(call: Call) -> Result<Response, Fault> {
    let user_id = call.param("user_id").to_owned();
    let work = move |tx: &mut Tx<'_>| {
        let filters = [
            ("user_id", Json::from(user_id.as_str())),
            ("type", Json::from("ec2")),
        ];
        Ok(records::list(tx, &CREDENTIALS, &filters)?)
    };
    let found = call.service.read(work).await?;
    let keys = &call.service.inner.credential_keys;
    let shown: Vec<Json> = found
        .iter()
        .map(|record| view(&call, keys, record))
        .collect();
    Ok(ok(
        &json!({"credentials": shown, "links": lists::links(&call, None)}),
    ))
}

fn own(tx: &mut Tx<'_>, user_id: &str, access: &str) -> Result<Record, Fault> {
    let found = records::find(tx, &CREDENTIALS, &ec2_id(access))?
        .filter(|record| crud::text(record, "user_id") == user_id);
    found.ok_or_else(|| Fault::NotFound("credential", access.to_owned()))
}

/// GET /v3/users/{user_id}/credentials/OS-EC2/{access}
pub async fn show(call: Call) -> Result<Response, Fault> {
    let (user_id, access) = (
        call.param("user_id").to_owned(),
        call.param("access").to_owned(),
    );
    let found = call
        .service
        .read(move |tx| own(tx, &user_id, &access))
        .await?;
    Ok(ok(
        &json!({"credential": view(&call, &call.service.inner.credential_keys, &found)}),
    ))
}

/// DELETE /v3/users/{user_id}/credentials/OS-EC2/{access}
pub async fn delete(call: Call) -> Result<Response, Fault> {
    let (user_id, access) = (
        call.param("user_id").to_owned(),
        call.param("access").to_owned(),
    );
    let work = move |tx: &mut Tx<'_>| {
        let record = own(tx, &user_id, &access)?;
        Ok(records::delete(
            tx,
            &CREDENTIALS,
            crud::text(&record, "id"),
        )?)
    };
    call.service.change(work).await?;
    Ok(no_content())
}

/// POST /v3/ec2tokens: a token for whoever signed the request that an EC2 service received.
pub async fn tokens(call: Call) -> Result<Response, Fault> {
    let request = call
        .object("credentials")
        .or_else(|_| call.object("ec2Credentials"))?;
    let access = request
        .get("access")
        .and_then(Json::as_str)
        .ok_or_else(|| Fault::required("access"))?;
    if crud::text(request, "signature").is_empty() {
        return Err(Fault::required("signature"));
    }
    let id = ec2_id(access);
    let find = move |tx: &mut Tx<'_>| {
        let found = records::find(tx, &CREDENTIALS, &id)?;
        let owner = found.as_ref().map(|record| crud::text(record, "user_id"));
        let seen = access::tokens_from(tx, owner.unwrap_or_default())?;
        Ok((found, seen))
    };
    let (stored, seen) = call.service.read(find).await?;
    let mut record = stored
        .filter(|record| crud::text(record, "type") == "ec2")
        .ok_or(Fault::Unauthorized)?;
    super::credentials::open(&call.service.inner.credential_keys, &mut record);
    let blob: Json =
        serde_json::from_str(crud::text(&record, "blob")).map_err(|_| Fault::Unauthorized)?;
    let secret = blob["secret"]
        .as_str()
        .filter(|secret| !secret.is_empty())
        .ok_or(Fault::Unauthorized)?;
    let now = Timestamp::now();
    if !(Signed { request }).is_valid(secret, now) {
        return Err(Fault::Unauthorized);
    }
    let basis = match blob["app_cred_id"].as_str() {
        Some(id) => Basis::AppCredential(id.to_owned()),
        None => Basis::User,
    };
    let payload = Payload {
        user_id: crud::text(&record, "user_id").to_owned(),
        scope: Scope::Project(crud::text(&record, "project_id").to_owned()),
        basis,
        methods: vec!["ec2credential".to_owned()],
        audit_ids: vec![audit_id()],
        issued_at: now,
        expires_at: now.plus(call.service.inner.config.token_life),
    };
    super::auth::answer(&call, payload, seen, StatusCode::OK).await
}
