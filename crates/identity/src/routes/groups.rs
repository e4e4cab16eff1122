//! Who is in a group.

use super::call::{Call, no_content};
use super::{crud, lists};
use crate::db::kinds::{GROUPS, USERS};
use crate::db::{grants, records};
use crate::fault::Fault;
use axum::response::Response;
use sql::Tx;

async fn both<T, F>(call: &Call, changes: bool, mut work: F) -> Result<T, Fault>
where
    T: Send + 'static,
    F: FnMut(&mut Tx<'_>, &str, &str) -> Result<T, Fault> + Send + 'static,
{
    let (group, user) = (
        call.param("id").to_owned(),
        call.param("user_id").to_owned(),
    );
    let checked = move |tx: &mut Tx<'_>| {
        crud::there(tx, &GROUPS, &group)?;
        crud::there(tx, &USERS, &user)?;
        work(tx, &group, &user)
    };
    if changes {
        call.service.change(checked).await
    } else {
        call.service.read(checked).await
    }
}

fn not_in(user: &str, group: &str) -> Fault {
    Fault::NotFound("user in group", format!("{user} in {group}"))
}

/// PUT /v3/groups/{id}/users/{user_id}
pub async fn join(call: Call) -> Result<Response, Fault> {
    both(&call, true, |tx, group, user| {
        Ok(grants::join(tx, group, user)?)
    })
    .await?;
    Ok(no_content())
}

/// DELETE /v3/groups/{id}/users/{user_id}
pub async fn leave(call: Call) -> Result<Response, Fault> {
    let left = |tx: &mut Tx<'_>, group: &str, user: &str| match grants::leave(tx, group, user)? {
        true => Ok(()),
        false => Err(not_in(user, group)),
    };
    both(&call, true, left).await?;
    Ok(no_content())
}

/// GET and HEAD /v3/groups/{id}/users/{user_id}
pub async fn check(call: Call) -> Result<Response, Fault> {
    let is_in = |tx: &mut Tx<'_>, group: &str, user: &str| match grants::is_member(tx, group, user)?
    {
        true => Ok(()),
        false => Err(not_in(user, group)),
    };
    both(&call, false, is_in).await?;
    Ok(no_content())
}

/// GET /v3/groups/{id}/users
pub async fn members(call: Call) -> Result<Response, Fault> {
    let group = call.param("id").to_owned();
    let found = call.service.read(move |tx| {
        crud::there(tx, &GROUPS, &group)?;
        let mut found = Vec::new();
        for id in grants::members(tx, &group)? {
            if let Some(mut user) = records::find(tx, &USERS, &id)? {
                crud::complete_user(&mut user);
                found.push(user);
            }
        }
        Ok(found)
    });
    let found = found.await?;
    Ok(lists::answer(&call, &USERS, found))
}
