//! `/servers/{id}/tags` (2.26).

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::schemas::python::quoted;
use crate::verdict;
use crate::views::server::is_visible;
use db::instances::Instance;
use http::StatusCode;
use serde_json::{Value, json};
use types::ServerId;

/// Tags of a server at most, and characters of a tag.
const MOST: usize = 50;
const LONGEST: usize = 60;

/// The server in the path. Unlike elsewhere the rule is checked for other projects' servers too, so they answer 403.
async fn server(call: &Call) -> Result<Instance, Fault> {
    let unknown = || Fault::no_server(call.param(0));
    let id: ServerId = call.param(0).parse().map_err(|_| unknown())?;
    let found = call
        .api
        .deps
        .store
        .read(move |tx| db::instances::get(tx, id))
        .await?;
    let server = found.filter(is_visible).ok_or_else(unknown)?;
    call.allowed_on(&server)?;
    Ok(server)
}

async fn tags(call: &Call, server: ServerId) -> Result<Vec<String>, Fault> {
    Ok(call
        .api
        .deps
        .store
        .read(move |tx| db::tags::of_server(tx, server))
        .await?)
}

fn missing(call: &Call) -> Fault {
    Fault::not_found(format!(
        "Server {} has no tag {}",
        call.param(0),
        quoted(call.param(1))
    ))
}

fn valid(tag: &str) -> Result<(), Fault> {
    let problem = if tag.is_empty() {
        format!("{} is too short", quoted(tag))
    } else if tag.chars().count() > LONGEST {
        format!("{} is too long", quoted(tag))
    } else if tag.contains([',', '/']) {
        format!("{} does not match '^[^,/]*$'", quoted(tag))
    } else {
        return Ok(());
    };
    Err(Fault::bad_request(format!(
        "Tag {} is invalid. It must be a non empty string without characters '/' and ','. Validation error message: {problem}",
        quoted(tag)
    )))
}

/// `GET`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let server = server(&call).await?;
    Reply::ok(&json!({ "tags": tags(&call, server.id).await? }))
}

/// `GET /{tag}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let server = server(&call).await?;
    if tags(&call, server.id)
        .await?
        .iter()
        .any(|tag| tag == call.param(1))
    {
        return Ok(Reply::empty(StatusCode::NO_CONTENT));
    }
    Err(missing(&call))
}

/// `PUT`: replaces all.
pub async fn replace(call: Call) -> Result<Reply, Fault> {
    let server = server(&call).await?;
    verdict::UPDATE_TAGS.check(&call, &server)?;
    let given = call
        .body
        .get("tags")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut tags: Vec<String> = given
        .filter_map(|tag| tag.as_str().map(str::to_owned))
        .collect();
    tags.sort();
    tags.dedup();
    let stored = tags.clone();
    call.api
        .deps
        .store
        .write(move |tx| db::tags::replace(tx, server.id, &stored))
        .await?;
    Reply::ok(&json!({ "tags": tags }))
}

/// `PUT /{tag}`: 201 for a new one, 204 for a known one.
pub async fn add(call: Call) -> Result<Reply, Fault> {
    let tag = call.param(1).to_owned();
    let server = server(&call).await?;
    verdict::UPDATE_TAG.check(&call, &server)?;
    valid(&tag)?;
    let id = server.id;
    let added = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<bool, Fault> {
            let tags = db::tags::of_server(tx, id)?;
            if tags.len() >= MOST && !tags.contains(&tag) {
                return Err(Fault::bad_request(format!(
                    "The number of tags exceeded the per-server limit {MOST}"
                )));
            }
            Ok(db::tags::add(tx, id, &tag)?)
        })
        .await?;
    if !added {
        return Ok(Reply::empty(StatusCode::NO_CONTENT));
    }
    let location = call
        .links
        .own(&format!("/servers/{id}/tags/{}", call.param(1)));
    Ok(Reply::empty(StatusCode::CREATED).at(location))
}

/// `DELETE /{tag}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let server = server(&call).await?;
    verdict::DELETE_TAG.check(&call, &server)?;
    let (id, tag) = (server.id, call.param(1).to_owned());
    if !call
        .api
        .deps
        .store
        .write(move |tx| db::tags::remove(tx, id, &tag))
        .await?
    {
        return Err(missing(&call));
    }
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// `DELETE`: all of them.
pub async fn clear(call: Call) -> Result<Reply, Fault> {
    let server = server(&call).await?;
    verdict::DELETE_TAGS.check(&call, &server)?;
    call.api
        .deps
        .store
        .write(move |tx| db::tags::replace(tx, server.id, &[]))
        .await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}
