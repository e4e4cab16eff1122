//! `/v3/auth`: tokens, and what a token can be scoped to.

use super::call::{Call, json, no_content, ok};
use super::{lists, projects};
use crate::db::kinds::{DOMAINS, PROJECTS};
use crate::db::{access as rows, records};
use crate::fault::Fault;
use crate::service::Held;
use crate::token::{Basis, Payload, Scope};
use crate::{access, auth};
use axum::response::Response;
use http::{HeaderValue, StatusCode};
use policy::Target;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use types::Timestamp;

/// POST /v3/auth/tokens
pub async fn issue(call: Call) -> Result<Response, Fault> {
    let (payload, seen) = auth::authenticate(&call.service, &call.body).await?;
    answer(&call, payload, seen, StatusCode::CREATED).await
}

/// Answers with a new token and what it means; `seen` is for [`Service::begin`](crate::Service).
pub async fn answer(
    call: &Call,
    payload: Payload,
    seen: Timestamp,
    status: StatusCode,
) -> Result<Response, Fault> {
    let held = Arc::new(call.service.begin(payload, seen).await?);
    let text = held.payload.seal(&call.service.inner.keys);
    let body = view(call, &held, !call.flag("nocatalog")).await?;
    with_token(json(status, &body), &text)
}

/// GET and HEAD /v3/auth/tokens
pub async fn validate(call: Call) -> Result<Response, Fault> {
    let (text, held) = subject(&call, call.flag("allow_expired")).await?;
    let target = Target::new().with("target.token.user_id", &held.payload.user_id);
    call.enforce("identity:validate_token", &target)?;
    let body = view(&call, &held, !call.flag("nocatalog")).await?;
    with_token(ok(&body), &text)
}

/// DELETE /v3/auth/tokens
pub async fn revoke(call: Call) -> Result<Response, Fault> {
    let (_, held) = subject(&call, false).await?;
    let target = Target::new().with("target.token.user_id", &held.payload.user_id);
    call.enforce("identity:revoke_token", &target)?;
    let (audit_id, end) = (held.payload.audit_ids[0].clone(), held.payload.expires_at);
    call.service
        .change(move |tx| Ok(rows::revoke(tx, &audit_id, end, Timestamp::now())?))
        .await?;
    Ok(no_content())
}

/// GET /v3/auth/catalog
pub async fn catalog(call: Call) -> Result<Response, Fault> {
    let caller = Arc::clone(&call.held()?.caller);
    if caller.project_id.is_none() && caller.domain_id.is_none() && !caller.system_scope {
        return Err(Fault::Forbidden(
            "A project-scoped token is required to produce a service catalog.".to_owned(),
        ));
    }
    let find = move |tx: &mut sql::Tx<'_>| {
        access::catalog(tx, &caller.user_id, caller.project_id.as_deref())
    };
    let services = call.service.read(find).await?;
    Ok(ok(
        &json!({"catalog": services, "links": lists::links(&call, None)}),
    ))
}

/// GET /v3/auth/projects
pub async fn scopable_projects(call: Call) -> Result<Response, Fault> {
    let user_id = call.held()?.payload.user_id.clone();
    projects::of_user(&call, user_id).await
}

/// GET /v3/auth/domains
pub async fn scopable_domains(call: Call) -> Result<Response, Fault> {
    let user_id = call.held()?.payload.user_id.clone();
    let found = call.service.read(move |tx| {
        let (_, ids, _) = access::scopes(tx, &user_id)?;
        let mut found = Vec::new();
        for id in ids {
            found.extend(
                records::find(tx, &DOMAINS, &id)?.filter(|domain| domain["enabled"] == true),
            );
        }
        Ok(found)
    });
    let found = found.await?;
    Ok(lists::answer(&call, &DOMAINS, found))
}

/// GET /v3/auth/system
pub async fn scopable_system(call: Call) -> Result<Response, Fault> {
    let user_id = call.held()?.payload.user_id.clone();
    let (_, _, system) = call
        .service
        .read(move |tx| access::scopes(tx, &user_id))
        .await?;
    let scopes: &[Json] = if system { &[json!({"all": true})] } else { &[] };
    Ok(ok(
        &json!({"system": scopes, "links": lists::links(&call, None)}),
    ))
}

/// The token that a request is about, which for most is not its own.
async fn subject(call: &Call, expired_too: bool) -> Result<(String, Arc<Held>), Fault> {
    let text = call
        .headers
        .get("x-subject-token")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim()
        .to_owned();
    let unknown = |_| Fault::NotFound("token", String::new());
    let held = match call.service.held(&text).await {
        Err(Fault::Unauthorized) if expired_too => call.service.held_lately(&text).await,
        other => other,
    };
    Ok((
        text,
        held.map_err(|fault| {
            if fault == Fault::Unauthorized {
                unknown(())
            } else {
                fault
            }
        })?,
    ))
}

fn with_token(mut response: Response, token: &str) -> Result<Response, Fault> {
    let value = HeaderValue::from_str(token).map_err(|_| Fault::Internal)?;
    response.headers_mut().insert("x-subject-token", value);
    Ok(response)
}

/// The document that describes a token (Identity API, "Password authentication with scoped authorization").
async fn view(call: &Call, held: &Arc<Held>, with_catalog: bool) -> Result<Json, Fault> {
    let (payload, caller) = (&held.payload, &held.caller);
    let mut token = json!({
        "methods": payload.methods,
        "user": {
            "domain": {"id": caller.user_domain_id, "name": caller.user_domain_name},
            "id": caller.user_id,
            "name": caller.user_name,
            "password_expires_at": null,
        },
        "audit_ids": payload.audit_ids,
        "expires_at": payload.expires_at.iso_micros_z(),
        "issued_at": payload.issued_at.iso_micros_z(),
    });
    match payload.scope {
        Scope::Unscoped => return Ok(json!({"token": token})),
        Scope::Project(_) => {
            token["project"] = json!({
                "domain": {"id": caller.project_domain_id, "name": caller.project_domain_name},
                "id": caller.project_id,
                "name": caller.project_name,
            });
            token["is_domain"] = Json::Bool(false);
        }
        Scope::Domain(_) => {
            token["domain"] = json!({"id": caller.domain_id, "name": caller.domain_name})
        }
        Scope::System => token["system"] = json!({"all": true}),
    }
    token["roles"] = held
        .roles
        .iter()
        .map(|(id, name)| json!({"id": id, "name": name}))
        .collect();
    if let (Basis::AppCredential(_), Some((id, name, restricted))) =
        (&payload.basis, &held.app_credential)
    {
        token["application_credential"] = json!({"id": id, "name": name, "restricted": restricted});
    }
    if with_catalog {
        let caller = Arc::clone(caller);
        let find = move |tx: &mut sql::Tx<'_>| {
            access::catalog(tx, &caller.user_id, caller.project_id.as_deref())
        };
        token["catalog"] = Json::Array(call.service.read(find).await?);
    }
    Ok(json!({"token": token}))
}

/// The enabled projects of a user, for `/auth/projects` and `/users/{id}/projects`.
pub fn enabled_projects(
    tx: &mut sql::Tx<'_>,
    user_id: &str,
) -> Result<Vec<records::Record>, Fault> {
    let (ids, _, _) = access::scopes(tx, user_id)?;
    let mut found = Vec::new();
    for id in ids {
        if let Some(mut project) =
            records::find(tx, &PROJECTS, &id)?.filter(|project| project["enabled"] == true)
        {
            projects::complete(tx, &mut project)?;
            found.push(project);
        }
    }
    Ok(found)
}
