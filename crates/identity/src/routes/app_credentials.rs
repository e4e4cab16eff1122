//! Application credentials: passwords of programs, for one project and some roles.

use super::call::{Call, json, no_content, ok};
use super::fields::{self, Field, Shape, may, must};
use super::{crud, lists};
use crate::access;
use crate::db::access as rows;
use crate::db::app_credentials::{self, AppCredential};
use crate::fault::Fault;
use crate::token::Basis;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value as Json, json};
use sql::Tx;
use types::Timestamp;

const FIELDS: &[Field] = &[
    must("name", Shape::Name(255)),
    may("description", Shape::MaybeText),
    may("secret", Shape::MaybeText),
    may("expires_at", Shape::MaybeText),
    may("unrestricted", Shape::Bool),
    may("project_id", Shape::MaybeId),
];

fn view(
    call: &Call,
    credential: &AppCredential,
    names: &[(String, String)],
    secret: Option<&str>,
) -> Json {
    let name = |id: &String| {
        names
            .iter()
            .find(|(role, _)| role == id)
            .map(|(_, name)| name.clone())
    };
    let roles: Vec<Json> = credential
        .roles
        .iter()
        .map(|id| json!({"id": id, "name": name(id), "domain_id": null}))
        .collect();
    let path = format!("users/{}/application_credentials", credential.user_id);
    let mut shown = json!({
        "id": credential.id,
        "name": credential.name,
        "description": credential.description,
        "project_id": credential.project_id,
        "user_id": credential.user_id,
        "expires_at": credential.expires_at.map(Timestamp::iso_micros),
        "unrestricted": credential.unrestricted,
        "system": null,
        "roles": roles,
        "links": {"self": call.link(&path, &credential.id)},
    });
    if let Some(secret) = secret {
        shown["secret"] = json!(secret);
    }
    shown
}

/// A program with a restricted credential must not make itself more of them.
fn check_unrestricted(call: &Call) -> Result<(), Fault> {
    let held = call.held()?;
    if matches!(held.payload.basis, Basis::AppCredential(_)) && held.caller.restricted {
        let message = "Using method 'application_credential' is not allowed for managing additional application credentials.";
        return Err(Fault::Forbidden(message.to_owned()));
    }
    Ok(())
}

fn role_names(tx: &mut Tx<'_>) -> Result<Vec<(String, String)>, Fault> {
    Ok(rows::role_names(tx)?.into_iter().collect())
}

/// GET /v3/users/{user_id}/application_credentials
pub async fn list(call: Call) -> Result<Response, Fault> {
    let user_id = call.param("user_id").to_owned();
    let (mut found, names) = call
        .service
        .read(move |tx| Ok((app_credentials::of_user(tx, &user_id)?, role_names(tx)?)))
        .await?;
    if let Some(name) = call.asked("name") {
        found.retain(|credential| credential.name == name);
    }
    let shown: Vec<Json> = found
        .iter()
        .map(|credential| view(&call, credential, &names, None))
        .collect();
    Ok(ok(
        &json!({"application_credentials": shown, "links": lists::links(&call, None)}),
    ))
}

fn own(tx: &mut Tx<'_>, user_id: &str, id: &str) -> Result<AppCredential, Fault> {
    let found = app_credentials::find(tx, id)?.filter(|credential| credential.user_id == user_id);
    found.ok_or_else(|| Fault::NotFound("application credential", id.to_owned()))
}

/// GET /v3/users/{user_id}/application_credentials/{id}
pub async fn show(call: Call) -> Result<Response, Fault> {
    let (user_id, id) = (
        call.param("user_id").to_owned(),
        call.param("id").to_owned(),
    );
    let (found, names) = call
        .service
        .read(move |tx| Ok((own(tx, &user_id, &id)?, role_names(tx)?)))
        .await?;
    Ok(ok(
        &json!({"application_credential": view(&call, &found, &names, None)}),
    ))
}

/// DELETE /v3/users/{user_id}/application_credentials/{id}
pub async fn delete(call: Call) -> Result<Response, Fault> {
    check_unrestricted(&call)?;
    let (user_id, id) = (
        call.param("user_id").to_owned(),
        call.param("id").to_owned(),
    );
    let work = move |tx: &mut Tx<'_>| {
        own(tx, &user_id, &id)?;
        Ok(app_credentials::delete_where(
            tx,
            "id = ?",
            &[(&id).into()],
        )?)
    };
    call.service.change(work).await?;
    Ok(no_content())
}

/// POST /v3/users/{user_id}/application_credentials
pub async fn create(call: Call) -> Result<Response, Fault> {
    check_unrestricted(&call)?;
    let body = call.object("application_credential")?;
    fields::check(body, FIELDS, true)?;
    if body
        .get("access_rules")
        .is_some_and(|rules| rules.as_array().is_none_or(|rules| !rules.is_empty()))
    {
        return Err(Fault::NotImplemented(
            "Access rules of application credentials are not supported.".to_owned(),
        ));
    }
    let held = call.held()?;
    let project_id = held.caller.project_id.clone().ok_or_else(|| {
        Fault::BadRequest(
            "Application credentials can only be created with a project-scoped token.".to_owned(),
        )
    })?;
    let expires_at = expiry(crud::text(body, "expires_at"))?;
    let secret = match crud::text(body, "secret") {
        "" => random_secret(),
        secret => secret.to_owned(),
    };
    let secret_hash = call.service.inner.passwords.hash(&secret).await?;
    let new = AppCredential {
        id: crud::new_id(),
        user_id: call.param("user_id").to_owned(),
        project_id,
        name: crud::text(body, "name").to_owned(),
        description: body
            .get("description")
            .and_then(Json::as_str)
            .map(str::to_owned),
        secret_hash,
        expires_at,
        unrestricted: body.get("unrestricted") == Some(&Json::Bool(true)),
        roles: Vec::new(),
    };
    let wanted = body.get("roles").cloned().unwrap_or(Json::Null);
    let holds = held.roles.clone();
    let taken = format!("Duplicate entry found with name {}", new.name);
    let written = call.service.change(move |tx| {
        let mut new = new.clone();
        let names = role_names(tx)?;
        new.roles = chosen(&wanted, &names, &holds)?;
        access::person(tx, &new.user_id)?;
        app_credentials::insert(tx, &new)?;
        Ok((new, names))
    });
    let (new, names) = written.await.map_err(|fault| match fault {
        Fault::Conflict(..) => Fault::Conflict("application_credential", taken),
        other => other,
    })?;
    Ok(json(
        StatusCode::CREATED,
        &json!({"application_credential": view(&call, &new, &names, Some(&secret))}),
    ))
}

fn expiry(text: &str) -> Result<Option<Timestamp>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let at = Timestamp::parse(text)
        .ok_or_else(|| Fault::field("expires_at", format!("'{text}' is not a 'date-time'")))?;
    if at <= Timestamp::now() {
        return Err(Fault::field("expires_at", "is in the past"));
    }
    Ok(Some(at))
}

/// The roles a credential carries: those asked for, which the caller must hold, or all that it holds.
fn chosen(
    wanted: &Json,
    names: &[(String, String)],
    holds: &[(String, String)],
) -> Result<Vec<String>, Fault> {
    let Some(wanted) = wanted.as_array().filter(|wanted| !wanted.is_empty()) else {
        return Ok(holds.iter().map(|(id, _)| id.clone()).collect());
    };
    let mut chosen = Vec::new();
    for role in wanted {
        let (id, name) = (role["id"].as_str(), role["name"].as_str());
        let asked = id
            .or(name)
            .ok_or_else(|| Fault::field("roles", format!("{role} names no role")))?;
        let known = names
            .iter()
            .find(|(known, held)| id.map_or(Some(held.as_str()) == name, |id| known == id));
        let (id, _) = known.ok_or_else(|| Fault::NotFound("role", asked.to_owned()))?;
        if !holds.iter().any(|(held, _)| held == id) {
            let message = format!(
                "Invalid application credential: Could not find role assignment with role: {id}."
            );
            return Err(Fault::BadRequest(message));
        }
        if !chosen.contains(id) {
            chosen.push(id.clone());
        }
    }
    Ok(chosen)
}

fn random_secret() -> String {
    let bytes: [u8; 64] = rand::random();
    URL_SAFE_NO_PAD.encode(bytes)
}
