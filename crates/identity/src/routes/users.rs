//! What users have besides their record: changing the own password, groups.

use super::call::{Call, no_content};
use super::lists;
use crate::auth::check_new_password;
use crate::db::kinds::GROUPS;
use crate::db::{access as rows, grants, records};
use crate::fault::Fault;
use axum::response::Response;
use serde_json::Value as Json;
use types::Timestamp;

/// POST /v3/users/{id}/password: needs the old password instead of a token.
pub async fn change_password(call: Call) -> Result<Response, Fault> {
    let user = call.object("user")?;
    let text = |name: &str| match user.get(name) {
        Some(Json::String(text)) => Ok(text.clone()),
        Some(other) => Err(Fault::field(
            name,
            format!("{other} is not of type 'string'"),
        )),
        None => Err(Fault::required(name)),
    };
    let (old, new) = (text("original_password")?, text("password")?);
    let id = call.param("id").to_owned();
    let wanted = id.clone();
    let person = call
        .service
        .read(move |tx| Ok(rows::person_by_id(tx, &wanted)?))
        .await?;
    let hash = person
        .as_ref()
        .and_then(|person| person.password_hash.clone());
    let right = call.service.inner.passwords.verify(&old, hash).await?;
    person
        .filter(|person| right && person.enabled)
        .ok_or(Fault::Unauthorized)?;
    check_new_password(&new)?;
    let hash = call.service.inner.passwords.hash(&new).await?;
    call.service
        .change(move |tx| Ok(rows::set_password(tx, &id, &hash, Timestamp::now())?))
        .await?;
    Ok(no_content())
}

/// GET /v3/users/{id}/groups
pub async fn groups(call: Call) -> Result<Response, Fault> {
    let user_id = call.param("id").to_owned();
    let found = call.service.read(move |tx| {
        super::crud::there(tx, &crate::db::kinds::USERS, &user_id)?;
        let mut found = Vec::new();
        for id in grants::groups_of(tx, &user_id)? {
            found.extend(records::find(tx, &GROUPS, &id)?);
        }
        Ok(found)
    });
    let found = found.await?;
    Ok(lists::answer(&call, &GROUPS, found))
}
