//! Which role implies which.

use super::call::{Call, json, no_content, ok};
use super::{crud, lists};
use crate::db::grants;
use crate::db::kinds::ROLES;
use crate::db::records::Record;
use crate::fault::Fault;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value as Json, json};

fn role(call: &Call, record: &Record) -> Json {
    let id = crud::text(record, "id");
    json!({"id": id, "name": record.get("name"), "links": {"self": call.link("roles", id)}})
}

fn inference(call: &Call, prior: &Record, implied: &[Record]) -> Json {
    let implied: Vec<Json> = implied.iter().map(|record| role(call, record)).collect();
    json!({"prior_role": role(call, prior), "implies": implied})
}

/// GET /v3/role_inferences
pub async fn inferences(call: Call) -> Result<Response, Fault> {
    let found = call.service.read(|tx| {
        let mut found = Vec::new();
        for (prior, implied) in grants::implications(tx)? {
            let prior = crud::there(tx, &ROLES, &prior)?;
            let implied: Vec<Record> = implied
                .iter()
                .map(|id| crud::there(tx, &ROLES, id))
                .collect::<Result<_, _>>()?;
            found.push((prior, implied));
        }
        Ok(found)
    });
    let all: Vec<Json> = found
        .await?
        .iter()
        .map(|(prior, implied)| inference(&call, prior, implied))
        .collect();
    Ok(ok(
        &json!({"role_inferences": all, "links": lists::links(&call, None)}),
    ))
}

/// GET /v3/roles/{id}/implies
pub async fn implied(call: Call) -> Result<Response, Fault> {
    let id = call.param("id").to_owned();
    let found = call.service.read(move |tx| {
        let prior = crud::there(tx, &ROLES, &id)?;
        let ids = grants::implications(tx)?.remove(&id).unwrap_or_default();
        let implied: Vec<Record> = ids
            .iter()
            .map(|id| crud::there(tx, &ROLES, id))
            .collect::<Result<_, _>>()?;
        Ok((prior, implied))
    });
    let (prior, implied) = found.await?;
    Ok(ok(
        &json!({"role_inference": inference(&call, &prior, &implied), "links": lists::links(&call, None)}),
    ))
}

async fn pair(call: &Call) -> Result<(Record, Record, bool), Fault> {
    let (prior, implied) = (
        call.param("id").to_owned(),
        call.param("implied_id").to_owned(),
    );
    let found = call.service.read(move |tx| {
        let there = grants::implications(tx)?
            .get(&prior)
            .is_some_and(|all| all.contains(&implied));
        Ok((
            crud::there(tx, &ROLES, &prior)?,
            crud::there(tx, &ROLES, &implied)?,
            there,
        ))
    });
    found.await
}

fn one(call: &Call, prior: &Record, implied: &Record) -> Json {
    json!({
        "role_inference": {"prior_role": role(call, prior), "implies": role(call, implied)},
        "links": lists::links(call, None),
    })
}

fn not_implied(call: &Call) -> Fault {
    Fault::NotFound(
        "implied role",
        format!("{} implies {}", call.param("id"), call.param("implied_id")),
    )
}

/// GET /v3/roles/{id}/implies/{implied_id}
pub async fn check(call: Call) -> Result<Response, Fault> {
    let (prior, implied, there) = pair(&call).await?;
    if there {
        Ok(ok(&one(&call, &prior, &implied)))
    } else {
        Err(not_implied(&call))
    }
}

/// HEAD /v3/roles/{id}/implies/{implied_id}
pub async fn exists(call: Call) -> Result<Response, Fault> {
    check(call).await.map(|_| no_content())
}

/// PUT /v3/roles/{id}/implies/{implied_id}
pub async fn imply(call: Call) -> Result<Response, Fault> {
    let (prior, implied, _) = pair(&call).await?;
    let of_domain = |role: &Record| !crud::text(role, "domain_id").is_empty();
    // What a global role implies must mean the same everywhere.
    if crud::text(&implied, "name") == "admin" || of_domain(&implied) && !of_domain(&prior) {
        let name = crud::text(&implied, "name");
        return Err(Fault::Forbidden(format!(
            "{name} cannot be an implied roles."
        )));
    }
    let (first, second) = (
        call.param("id").to_owned(),
        call.param("implied_id").to_owned(),
    );
    call.service
        .change(move |tx| Ok(grants::imply(tx, &first, &second)?))
        .await?;
    Ok(json(StatusCode::CREATED, &one(&call, &prior, &implied)))
}

/// DELETE /v3/roles/{id}/implies/{implied_id}
pub async fn unimply(call: Call) -> Result<Response, Fault> {
    let (first, second) = (
        call.param("id").to_owned(),
        call.param("implied_id").to_owned(),
    );
    let removed = call
        .service
        .change(move |tx| Ok(grants::unimply(tx, &first, &second)?))
        .await?;
    if removed {
        Ok(no_content())
    } else {
        Err(not_implied(&call))
    }
}
