//! Group types and their specs (3.11).

use crate::api::unknown;
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::{Group, GroupType, Map};
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;
use types::Timestamp;

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    call.version.since(11)?;
    let method = call.method.clone();
    match (path, &method) {
        ([], &Method::GET) => list(service, call).await,
        ([], &Method::POST) => create(service, call).await,
        ([id], &Method::GET) => show(service, call, id).await,
        ([id], &Method::PUT) => update(service, call, id).await,
        ([id], &Method::DELETE) => remove(service, call, id).await,
        ([id, "group_specs", rest @ ..], _) => specs(service, call, id, rest).await,
        _ => Err(unknown(&call, &[Method::GET])),
    }
}

/// The type of this id or name.
pub fn find(tx: &mut Tx<'_>, reference: &str) -> Result<GroupType> {
    if let Some(kind) = db::get::<GroupType>(tx, reference)? {
        return Ok(kind);
    }
    let by_name = db::find_one::<GroupType>(tx, &[("name", reference.into())])?;
    by_name.ok_or_else(|| Fault::missing("Group type", reference))
}

fn seen(tx: &mut Tx<'_>, call: &Call, id: &str) -> Result<GroupType> {
    let found = db::get::<GroupType>(tx, id)?;
    found
        .filter(|kind| kind.is_public || call.access.is_admin())
        .ok_or_else(|| Fault::missing("Group type", id))
}

fn shown(call: &Call, kind: &GroupType) -> Value {
    let mut shown = json!({
        "id": kind.id, "name": kind.name, "description": kind.description, "is_public": kind.is_public,
    });
    if call
        .access
        .allows("group:access_group_types_specs", call.access.project())
    {
        shown["group_specs"] = json!(kind.specs);
    }
    shown
}

const LIST: listing::Rules = listing::Rules {
    path: "group_types",
    links: "group_type_links",
    filters: &["name"],
    sorts: &["created_at", "id", "name", "is_public"],
};

async fn list(service: &Service, mut call: Call) -> Result<Reply> {
    let wanted = crate::api::types::public_filter(&call)?;
    call.query.forget(&["is_public"]);
    let most = service.inner.config.max_limit;
    let body = service
        .read(move |tx| {
            let items = db::find::<GroupType>(tx, &[])?
                .into_iter()
                .filter(|kind| wanted.is_none_or(|public| kind.is_public == public))
                .map(|kind| Item {
                    id: kind.id.clone(),
                    fields: json!({
                        "id": kind.id, "name": kind.name, "is_public": kind.is_public,
                        "created_at": view::time(kind.created_at),
                    }),
                    item: kind,
                })
                .collect();
            let page = listing::page(&call, &LIST, most, items)?;
            let all: Vec<Value> = page.items.iter().map(|kind| shown(&call, kind)).collect();
            let mut body = json!({"group_types": all});
            if let Some(links) = &page.links {
                body[LIST.links] = links.clone();
            }
            Ok(body)
        })
        .await?;
    Ok(Reply::ok(body))
}

async fn show(service: &Service, call: Call, id: &str) -> Result<Reply> {
    if id == "default" {
        return Err(Fault::not_found("Default group type can not be found."));
    }
    let id = id.to_owned();
    let body = service
        .read(move |tx| Ok(json!({"group_type": shown(&call, &seen(tx, &call, &id)?)})))
        .await?;
    Ok(Reply::ok(body))
}

fn taken(error: sql::Error, kind: &GroupType) -> Fault {
    match error.is_unique_violation() {
        true => Fault::conflict(format!("Group Type {} already exists.", kind.name)),
        false => error.into(),
    }
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("name", Kind::FullName, Need::Must),
        ("description", Kind::OptionalText, Need::May),
        ("is_public", Kind::OptionalBool, Need::May),
        ("group_specs", Kind::OptionalTexts, Need::May),
    ];
    call.access.require_own("group:group_types:create")?;
    let body = check::object(&call.body, "group_type", FIELDS, false)?;
    let kind = GroupType {
        id: uuid::Uuid::new_v4().to_string(),
        name: check::trimmed(body, "name").unwrap_or_default(),
        description: check::text(body, "description"),
        is_public: body.get("is_public").and_then(check::truth).unwrap_or(true),
        specs: check::texts(
            "group_specs",
            body.get("group_specs").unwrap_or(&Value::Null),
        )?,
        created_at: Timestamp::now(),
    };
    let answer = json!({"group_type": shown(&call, &kind)});
    service
        .write(move |tx| db::insert(tx, &kind).map_err(|error| taken(error, &kind)))
        .await?;
    Ok(Reply::accepted(answer))
}

async fn update(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("name", Kind::Name, Need::May),
        ("description", Kind::OptionalText, Need::May),
        ("is_public", Kind::OptionalBool, Need::May),
    ];
    call.access.require_own("group:group_types:update")?;
    let body = check::object(&call.body, "group_type", FIELDS, false)?.clone();
    let (name, description) = (
        check::trimmed(&body, "name"),
        check::text(&body, "description"),
    );
    let public = body.get("is_public").and_then(check::truth);
    if name.as_deref() == Some("") {
        return Err(Fault::bad("Group type name can not be empty."));
    }
    if name.is_none() && description.is_none() && public.is_none() {
        return Err(Fault::bad(
            "Specify group type name, description or a combination thereof.",
        ));
    }
    let id = id.to_owned();
    let answer = service
        .write(move |tx| {
            let mut kind = seen(tx, &call, &id)?;
            if let Some(name) = &name {
                kind.name.clone_from(name);
            }
            if description.is_some() {
                kind.description.clone_from(&description);
            }
            kind.is_public = public.unwrap_or(kind.is_public);
            db::save(tx, &kind).map_err(|error| taken(error, &kind))?;
            Ok(json!({"group_type": shown(&call, &kind)}))
        })
        .await?;
    Ok(Reply::ok(answer))
}

async fn remove(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.access.require_own("group:group_types:delete")?;
    let id = id.to_owned();
    service
        .write(move |tx| {
            let kind = seen(tx, &call, &id)?;
            if db::count::<Group>(tx, &[("type_id", (&kind.id).into())])? > 0 {
                return Err(Fault::bad("Target group type is still in use."));
            }
            db::delete::<GroupType>(tx, &kind.id)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// What a request sets.
fn new_specs(call: &Call, key: Option<&str>) -> Result<Map> {
    match (&call.method, key) {
        (&Method::POST, None) => match &call.body["group_specs"] {
            found if found.is_object() => check::texts("group_specs", found),
            _ => Err(Fault::bad(
                "Invalid input for field/attribute body. 'group_specs' is a required property",
            )),
        },
        (&Method::PUT, Some(key)) => {
            let found = check::texts("group_specs", &call.body)?;
            match found.len() == 1 && found.contains_key(key) {
                true => Ok(found),
                false => Err(Fault::bad("Request body and URI mismatch")),
            }
        }
        _ => Ok(Map::new()),
    }
}

async fn specs(service: &Service, call: Call, id: &str, path: &[&str]) -> Result<Reply> {
    let rule = match (path, &call.method) {
        ([], &Method::GET) => "group:group_types_specs:get_all",
        ([_], &Method::GET) => "group:group_types_specs:get",
        ([], &Method::POST) => "group:group_types_specs:create",
        ([_], &Method::PUT) => "group:group_types_specs:update",
        ([_], &Method::DELETE) => "group:group_types_specs:delete",
        _ => return Err(unknown(&call, &[Method::GET])),
    };
    call.access.require_own(rule)?;
    let key = path.first().map(|key| (*key).to_owned());
    let new = new_specs(&call, key.as_deref())?;
    let id = id.to_owned();
    service
        .write(move |tx| {
            let mut kind = seen(tx, &call, &id)?;
            let absent = |key: &str| {
                Fault::not_found(format!("Group Type {id} has no specs with key {key}."))
            };
            let answer = match (&key, &call.method) {
                (None, &Method::GET) => return Ok(Reply::ok(json!({"group_specs": kind.specs}))),
                (Some(key), &Method::GET) => {
                    let value = kind.specs.get(key).ok_or_else(|| absent(key))?;
                    return Ok(Reply::ok(json!({key.as_str(): value})));
                }
                (Some(key), &Method::DELETE) => {
                    kind.specs.remove(key).ok_or_else(|| absent(key))?;
                    Reply::empty(StatusCode::ACCEPTED)
                }
                (key, _) => {
                    kind.specs.extend(new.clone());
                    match key {
                        None => Reply::accepted(json!({"group_specs": new})),
                        Some(_) => Reply::ok(json!(new)),
                    }
                }
            };
            db::save(tx, &kind)?;
            Ok(answer)
        })
        .await
}
