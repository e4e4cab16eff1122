//! Projects.

use super::auth::enabled_projects;
use super::call::{Call, no_content, ok};
use super::{crud, lists};
use crate::db::kinds::PROJECTS;
use crate::db::records::{self, Record};
use crate::fault::Fault;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value as Json, json};
use sql::Tx;

/// Most tags of a project (Identity API, "Project Tags").
const MOST_TAGS: usize = 80;

/// Adds what a project has outside its table.
pub fn complete(tx: &mut Tx<'_>, project: &mut Record) -> Result<(), Fault> {
    let id = project
        .get("id")
        .and_then(Json::as_str)
        .unwrap_or_default()
        .to_owned();
    project.insert("is_domain".to_owned(), Json::Bool(false));
    project.insert("tags".to_owned(), records::tags(tx, &id)?.into());
    project.entry("options").or_insert_with(|| json!({}));
    Ok(())
}

/// The projects where a user has a role.
pub async fn of_user(call: &Call, user_id: String) -> Result<Response, Fault> {
    let found = call
        .service
        .read(move |tx| enabled_projects(tx, &user_id))
        .await?;
    Ok(lists::answer(call, &PROJECTS, found))
}

/// GET /v3/users/{user_id}/projects
pub async fn list_of_user(call: Call) -> Result<Response, Fault> {
    let user_id = call.param("user_id").to_owned();
    of_user(&call, user_id).await
}

/// Every tag is short text without comma and slash.
pub fn checked_tags(tags: &Json) -> Result<Vec<String>, Fault> {
    let list = tags
        .as_array()
        .ok_or_else(|| Fault::field("tags", format!("{tags} is not of type 'array'")))?;
    if list.len() > MOST_TAGS {
        return Err(Fault::field(
            "tags",
            format!("a project has at most {MOST_TAGS} tags"),
        ));
    }
    let tag = |tag: &Json| match tag.as_str() {
        Some(text) => checked_tag(text),
        None => Err(Fault::field(
            "tags",
            format!("{tag} is not of type 'string'"),
        )),
    };
    list.iter().map(tag).collect()
}

fn checked_tag(tag: &str) -> Result<String, Fault> {
    let fits = !tag.is_empty() && tag.chars().count() <= 255 && !tag.contains([',', '/']);
    if fits {
        Ok(tag.to_owned())
    } else {
        Err(Fault::field("tags", format!("'{tag}' is not a valid tag")))
    }
}

async fn tags(call: &Call) -> Result<(String, Vec<String>), Fault> {
    let id = call.param("project_id").to_owned();
    let found = call.service.read(move |tx| {
        crud::there(tx, &PROJECTS, &id)?;
        Ok((id.clone(), records::tags(tx, &id)?))
    });
    found.await
}

async fn store_tags(call: &Call, id: String, tags: Vec<String>) -> Result<(), Fault> {
    call.service
        .change(move |tx| Ok(records::set_tags(tx, &id, &tags)?))
        .await
}

/// GET /v3/projects/{project_id}/tags
pub async fn list_tags(call: Call) -> Result<Response, Fault> {
    let (_, tags) = tags(&call).await?;
    Ok(ok(
        &json!({"tags": tags, "links": lists::links(&call, None)}),
    ))
}

/// PUT /v3/projects/{project_id}/tags
pub async fn replace_tags(call: Call) -> Result<Response, Fault> {
    let wanted = checked_tags(
        call.body
            .get("tags")
            .ok_or_else(|| Fault::required("tags"))?,
    )?;
    let (id, _) = tags(&call).await?;
    store_tags(&call, id, wanted.clone()).await?;
    Ok(ok(
        &json!({"tags": wanted, "links": lists::links(&call, None)}),
    ))
}

/// DELETE /v3/projects/{project_id}/tags
pub async fn delete_tags(call: Call) -> Result<Response, Fault> {
    let (id, _) = tags(&call).await?;
    store_tags(&call, id, Vec::new()).await?;
    Ok(no_content())
}

/// GET /v3/projects/{project_id}/tags/{tag}
pub async fn check_tag(call: Call) -> Result<Response, Fault> {
    let (_, tags) = tags(&call).await?;
    let tag = call.param("tag");
    if tags.iter().any(|held| held == tag) {
        Ok(no_content())
    } else {
        Err(Fault::NotFound("project tag", tag.to_owned()))
    }
}

/// PUT /v3/projects/{project_id}/tags/{tag}
pub async fn add_tag(call: Call) -> Result<Response, Fault> {
    let tag = checked_tag(call.param("tag"))?;
    let (id, mut tags) = tags(&call).await?;
    if !tags.contains(&tag) {
        tags.push(tag);
    }
    if tags.len() > MOST_TAGS {
        return Err(Fault::field(
            "tags",
            format!("a project has at most {MOST_TAGS} tags"),
        ));
    }
    store_tags(&call, id, tags).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// DELETE /v3/projects/{project_id}/tags/{tag}
pub async fn delete_tag(call: Call) -> Result<Response, Fault> {
    let (id, mut tags) = tags(&call).await?;
    let before = tags.len();
    tags.retain(|tag| tag != call.param("tag"));
    if tags.len() == before {
        return Err(Fault::NotFound("project tag", call.param("tag").to_owned()));
    }
    store_tags(&call, id, tags).await?;
    Ok(no_content())
}
