//! Volume types: what they are, who may use them, which one holds where nobody names one.

mod encryption;
pub mod qos;

use super::unknown;
use crate::Config;
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::{Map, Volume, VolumeType};
use crate::service::Service;
use crate::view;
use ::types::Timestamp;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    let method = call.method.clone();
    match (path, &method) {
        ([], &Method::GET) => list(service, call).await,
        ([], &Method::POST) => create(service, call).await,
        ([id], &Method::GET) => show(service, call, id).await,
        ([id], &Method::PUT) => update(service, call, id).await,
        ([id], &Method::DELETE) => remove(service, call, id).await,
        ([id, "action"], &Method::POST) => access(service, call, id).await,
        ([id, "os-volume-type-access"], &Method::GET) => list_access(service, call, id).await,
        ([id, "extra_specs", rest @ ..], _) => extra_specs(service, call, id, rest).await,
        ([id, "encryption", rest @ ..], _) => encryption::route(service, call, id, rest).await,
        ([] | [_], _) => Err(unknown(&call, &[Method::GET])),
        _ => Err(unknown(&call, &[])),
    }
}

fn missing(reference: &str) -> Fault {
    match uuid::Uuid::parse_str(reference) {
        Ok(_) => Fault::missing("Volume type", reference),
        Err(_) => Fault::not_found(format!(
            "Volume type with name {reference} could not be found."
        )),
    }
}

fn usable(tx: &mut Tx<'_>, call: &Call, kind: &VolumeType) -> Result<bool> {
    if kind.is_public || call.access.is_admin() {
        return Ok(true);
    }
    let granted = db::grant_list(tx, call.access.project())?;
    Ok(granted.contains(&kind.id))
}

/// The type of this id, if the caller may use it.
pub fn seen(tx: &mut Tx<'_>, call: &Call, id: &str) -> Result<VolumeType> {
    let kind = db::get::<VolumeType>(tx, id)?.ok_or_else(|| missing(id))?;
    match usable(tx, call, &kind)? {
        true => Ok(kind),
        false => Err(missing(id)),
    }
}

/// The type of this id or name, if the caller may use it.
pub fn find(tx: &mut Tx<'_>, call: &Call, reference: &str) -> Result<VolumeType> {
    let by_id = db::get::<VolumeType>(tx, reference)?;
    let kind = match by_id {
        Some(kind) => Some(kind),
        None => db::find_one::<VolumeType>(tx, &[("name", reference.into())])?,
    };
    let kind = kind.ok_or_else(|| missing(reference))?;
    match usable(tx, call, &kind)? {
        true => Ok(kind),
        false => Err(missing(reference)),
    }
}

/// The type that holds for the caller's project where nobody names one.
fn default_of(tx: &mut Tx<'_>, config: &Config, call: &Call) -> Result<VolumeType> {
    if let Some(id) = db::default_type(tx, call.access.project())?
        && let Some(kind) = db::get::<VolumeType>(tx, &id)?
    {
        return Ok(kind);
    }
    let name = config.default_type.as_str();
    db::find_one::<VolumeType>(tx, &[("name", name.into())])?.ok_or_else(|| {
        Fault::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(
                "The request cannot be fulfilled as the default volume type {name} cannot be found."
            ),
        )
    })
}

/// The type of a new volume: the named one, the one of what it is made of, the default.
pub fn for_new(
    tx: &mut Tx<'_>,
    config: &Config,
    call: &Call,
    named: Option<&str>,
    given: Option<String>,
) -> Result<VolumeType> {
    if let Some(reference) = named {
        return find(tx, call, reference);
    }
    if let Some(id) = given
        && let Some(kind) = db::get::<VolumeType>(tx, &id)?
    {
        return Ok(kind);
    }
    default_of(tx, config, call)
}

/// A type with all its fields, as some answers have it.
pub fn whole(kind: &VolumeType) -> Value {
    json!({
        "id": kind.id,
        "name": kind.name,
        "description": kind.description,
        "is_public": kind.is_public,
        "extra_specs": kind.extra_specs,
        "qos_specs_id": kind.qos_id,
        "projects": [],
        "created_at": view::time(kind.created_at),
        "updated_at": view::optional_time(kind.updated_at),
        "deleted": false,
        "deleted_at": null,
    })
}

/// With what only some answers say.
fn shown(call: &Call, kind: &VolumeType) -> Value {
    let mut shown = view::volume_type(call, kind);
    shown["os-volume-type-access:is_public"] = json!(kind.is_public);
    shown
}

async fn show(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let (id, config) = (id.to_owned(), service.inner.config.clone());
    let body = service
        .read(move |tx| {
            let kind = match id.as_str() {
                "default" => default_of(tx, &config, &call)
                    .map_err(|_| Fault::not_found("Default volume type can not be found."))?,
                id => seen(tx, &call, id)?,
            };
            call.access.require_own("volume_extension:type_get")?;
            Ok(json!({"volume_type": shown(&call, &kind)}))
        })
        .await?;
    Ok(Reply::ok(body))
}

const LIST: listing::Rules = listing::Rules {
    path: "types",
    links: "volume_type_links",
    filters: &["extra_specs", "name", "description"],
    sorts: &["created_at", "id", "name", "is_public"],
};

/// Administrators choose: the public ones (which they get when they do not say), the private ones, or `None` for all.
pub fn public_filter(call: &Call) -> Result<Option<bool>> {
    let Some(text) = call.query.last("is_public") else {
        return Ok(Some(true));
    };
    if !call.access.is_admin() {
        return Ok(Some(true));
    }
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    match check::truth_of(text) {
        Some(public) => Ok(Some(public)),
        None => Err(Fault::bad(format!("Invalid is_public filter [{text}]"))),
    }
}

async fn list(service: &Service, mut call: Call) -> Result<Reply> {
    call.access.require_own("volume_extension:type_get_all")?;
    let wanted = public_filter(&call)?;
    call.query.forget(&["is_public"]);
    if call.version.0 < 52 {
        call.query.forget(&["extra_specs"]);
    }
    let most = service.inner.config.max_limit;
    let body = service
        .read(move |tx| {
            let mut found = db::find::<VolumeType>(tx, &[])?;
            let granted = db::grant_list(tx, call.access.project())?;
            let admin = call.access.is_admin();
            found.retain(|kind| match wanted {
                None => true,
                Some(public) => kind.is_public == public || (!admin && granted.contains(&kind.id)),
            });
            let items = found
                .into_iter()
                .map(|kind| Item {
                    id: kind.id.clone(),
                    fields: json!({
                        "id": kind.id, "name": kind.name, "is_public": kind.is_public,
                        "description": kind.description, "extra_specs": kind.extra_specs,
                        "created_at": view::time(kind.created_at),
                    }),
                    item: kind,
                })
                .collect();
            let page = listing::page(&call, &LIST, most, items)?;
            let all: Vec<Value> = page.items.iter().map(|kind| shown(&call, kind)).collect();
            let mut body = json!({"volume_types": all});
            if let Some(links) = &page.links {
                body[LIST.links] = links.clone();
            }
            Ok(body)
        })
        .await?;
    Ok(Reply::ok(body))
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    call.access.require_own("volume_extension:type_create")?;
    const FIELDS: &[Field] = &[
        ("name", Kind::FullName, Need::Must),
        ("description", Kind::OptionalText, Need::May),
        ("extra_specs", Kind::OptionalTexts, Need::May),
        (
            "os-volume-type-access:is_public",
            Kind::OptionalBool,
            Need::May,
        ),
    ];
    let body = check::object(&call.body, "volume_type", FIELDS, false)?;
    let public = body.get("os-volume-type-access:is_public");
    let kind = VolumeType {
        id: uuid::Uuid::new_v4().to_string(),
        name: check::trimmed(body, "name").unwrap_or_default(),
        description: check::text(body, "description"),
        is_public: public.and_then(check::truth).unwrap_or(true),
        extra_specs: specs(body.get("extra_specs").unwrap_or(&Value::Null))?,
        qos_id: None,
        encryption: None,
        created_at: Timestamp::now(),
        updated_at: None,
    };
    let mut answer = shown(&call, &kind);
    if let Some(fields) = answer.as_object_mut() {
        // A new type has none, and its answer does not speak of them.
        fields.shift_remove("qos_specs_id");
    }
    // An administrator sees every type; anybody else sees a private one only with access to it.
    let own = match call.access.is_admin() {
        true => String::new(),
        false => call.access.project().to_owned(),
    };
    service
        .write(move |tx| {
            insert_named(tx, &kind)?;
            if !kind.is_public && !own.is_empty() {
                db::add_access(tx, &kind.id, &own)?;
            }
            Ok(())
        })
        .await?;
    Ok(Reply::ok(json!({"volume_type": answer})))
}

fn taken(error: sql::Error, kind: &VolumeType) -> Fault {
    if error.is_unique_violation() {
        return Fault::conflict(format!("Volume Type {} already exists.", kind.name));
    }
    error.into()
}

fn insert_named(tx: &mut Tx<'_>, kind: &VolumeType) -> Result<()> {
    db::insert(tx, kind).map_err(|error| taken(error, kind))
}

/// Extra specs: no blanks and slashes in their names.
fn specs(value: &Value) -> Result<Map> {
    let found = check::texts("extra_specs", value)?;
    if let Some(name) = found.keys().find(|name| name.contains(' ')) {
        return Err(Fault::bad(format!(
            "Key '{name}' is not valid for an extra spec"
        )));
    }
    if let Some(value) = found.get("multiattach")
        && value != "<is> True"
        && value != "<is> False"
    {
        return Err(Fault::bad(
            "Invalid input received: multiattach must be '<is> True' or '<is> False'",
        ));
    }
    Ok(found)
}

async fn update(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.access.require_own("volume_extension:type_update")?;
    const FIELDS: &[Field] = &[
        ("name", Kind::Name, Need::May),
        ("description", Kind::OptionalText, Need::May),
        ("is_public", Kind::OptionalBool, Need::May),
    ];
    let body = check::object(&call.body, "volume_type", FIELDS, false)?.clone();
    let name = check::trimmed(&body, "name");
    if name.as_deref() == Some("") {
        return Err(Fault::bad("Volume type name can not be empty."));
    }
    let description = check::text(&body, "description");
    let public = body.get("is_public").and_then(check::truth);
    if name.is_none() && description.is_none() && public.is_none() {
        return Err(Fault::bad(
            "Specify volume type name, description, is_public or a combination thereof.",
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
            kind.updated_at = Some(Timestamp::now());
            db::save(tx, &kind).map_err(|error| taken(error, &kind))?;
            let mut shown = view::volume_type(&call, &kind);
            if let Some(fields) = shown.as_object_mut() {
                fields.shift_remove("qos_specs_id");
            }
            Ok(shown)
        })
        .await?;
    Ok(Reply::ok(json!({"volume_type": answer})))
}

async fn remove(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.access.require_own("volume_extension:type_delete")?;
    let (id, config) = (id.to_owned(), service.inner.config.clone());
    service
        .write(move |tx| {
            let kind = seen(tx, &call, &id)?;
            if db::count::<Volume>(tx, &[("type_id", (&kind.id).into())])? > 0 {
                return Err(Fault::bad("Target volume type is still in use."));
            }
            let projects = db::default_types(tx)?;
            if kind.name == config.default_type || projects.iter().any(|(_, of)| *of == kind.id) {
                return Err(Fault::bad(format!(
                    "The volume type {} is a default volume type and cannot be deleted.",
                    kind.id
                )));
            }
            db::remove_access(tx, &kind.id, None)?;
            db::delete::<VolumeType>(tx, &kind.id)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn list_access(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.access
        .require_own("volume_extension:volume_type_access:get_all_for_type")?;
    let id = id.to_owned();
    let body = service
        .read(move |tx| {
            let kind = seen(tx, &call, &id)?;
            if kind.is_public {
                return Err(Fault::not_found(
                    "Access list not available for public volume types.",
                ));
            }
            let projects = db::projects_with_access(tx, &kind.id)?;
            let all: Vec<Value> = projects
                .into_iter()
                .map(|project| json!({"volume_type_id": kind.id, "project_id": project}))
                .collect();
            Ok(json!({"volume_type_access": all}))
        })
        .await?;
    Ok(Reply::ok(body))
}

async fn access(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[("project", Kind::FullName, Need::Must)];
    let add = call.body.get("addProjectAccess").is_some();
    let (name, rule) = match add {
        true => (
            "addProjectAccess",
            "volume_extension:volume_type_access:addProjectAccess",
        ),
        false => (
            "removeProjectAccess",
            "volume_extension:volume_type_access:removeProjectAccess",
        ),
    };
    if !add && call.body.get("removeProjectAccess").is_none() {
        return Err(Fault::bad("There is no such action."));
    }
    call.access.require_own(rule)?;
    let body = check::object(&call.body, name, FIELDS, false)?;
    let project = check::text(body, "project").unwrap_or_default();
    let id = id.to_owned();
    service
        .write(move |tx| {
            let kind = seen(tx, &call, &id)?;
            if kind.is_public {
                return Err(Fault::bad(
                    "Invalid volume type: Type access modification is not applicable to public volume type.",
                ));
            }
            if add {
                return db::add_access(tx, &kind.id, &project).map_err(|error| {
                    match error.is_unique_violation() {
                        true => Fault::conflict(format!(
                            "Volume type access for {} / {project} combination already exists.",
                            kind.id
                        )),
                        false => error.into(),
                    }
                });
            }
            if db::remove_access(tx, &kind.id, Some(&project))? {
                return Ok(());
            }
            Err(Fault::not_found(format!(
                "Volume type access not found for {} / {project} combination.",
                kind.id
            )))
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

fn no_spec(kind: &VolumeType, key: &str) -> Fault {
    Fault::not_found(format!(
        "Volume Type {} has no extra specs with key {key}.",
        kind.id
    ))
}

async fn extra_specs(service: &Service, call: Call, id: &str, path: &[&str]) -> Result<Reply> {
    let rule = match (path, &call.method) {
        ([], &Method::GET) => "volume_extension:types_extra_specs:index",
        ([_], &Method::GET) => "volume_extension:types_extra_specs:show",
        ([], &Method::POST) => "volume_extension:types_extra_specs:create",
        ([_], &Method::PUT) => "volume_extension:types_extra_specs:update",
        ([_], &Method::DELETE) => "volume_extension:types_extra_specs:delete",
        _ => return Err(unknown(&call, &[Method::GET])),
    };
    call.access.require_own(rule)?;
    let key = path.first().map(|key| (*key).to_owned());
    let id = id.to_owned();
    let new = new_specs(&call, key.as_deref())?;
    service
        .write(move |tx| {
            let mut kind = seen(tx, &call, &id)?;
            let answer = match (&key, &call.method) {
                (None, &Method::GET) => {
                    let specs = view::visible_specs(&call, &kind);
                    return Ok(Reply::ok(json!({"extra_specs": specs})));
                }
                (Some(key), &Method::GET) => {
                    let specs = view::visible_specs(&call, &kind);
                    let value = specs.get(key).ok_or_else(|| no_spec(&kind, key))?;
                    return Ok(Reply::ok(json!({key.as_str(): value})));
                }
                (Some(key), &Method::DELETE) => {
                    if kind.extra_specs.remove(key).is_none() {
                        return Err(no_spec(&kind, key));
                    }
                    Reply::empty(StatusCode::ACCEPTED)
                }
                (_, method) => {
                    let changes = new.get("multiattach") != kind.extra_specs.get("multiattach");
                    let of_type = [("type_id", sql::Value::from(&kind.id))];
                    if new.contains_key("multiattach")
                        && changes
                        && db::count::<Volume>(tx, &of_type)? > 0
                    {
                        return Err(Fault::bad("Volume Type is currently in use."));
                    }
                    kind.extra_specs.extend(new.clone());
                    Reply::ok(match *method {
                        Method::POST => json!({"extra_specs": new}),
                        _ => json!(new),
                    })
                }
            };
            kind.updated_at = Some(Timestamp::now());
            db::save(tx, &kind)?;
            Ok(answer)
        })
        .await
}

/// What a request sets.
fn new_specs(call: &Call, key: Option<&str>) -> Result<Map> {
    match (&call.method, key) {
        (&Method::POST, None) => {
            let body = call.body.as_object().filter(|body| body.len() == 1);
            match body.and_then(|body| body.get("extra_specs")) {
                Some(found) if found.is_object() => specs(found),
                _ => Err(Fault::bad(
                    "Invalid input for field/attribute body. 'extra_specs' is a required property",
                )),
            }
        }
        (&Method::PUT, Some(key)) => {
            let found = specs(&call.body)?;
            match (found.len(), found.contains_key(key)) {
                (1, true) => Ok(found),
                (1, false) => Err(Fault::bad("Request body and URI mismatch")),
                (0, _) => Err(Fault::bad(
                    "Invalid input for field/attribute body. {} does not have enough properties",
                )),
                _ => Err(Fault::bad(
                    "Invalid input for field/attribute body. too many properties",
                )),
            }
        }
        _ => Ok(Map::new()),
    }
}

/// Default types of projects (3.62).
pub async fn default_types(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    call.version.since(62)?;
    let rule = match (path, &call.method) {
        ([], &Method::GET) => "volume_extension:default_get_all",
        ([_], &Method::GET) => "volume_extension:default_get",
        ([_], &Method::PUT) => "volume_extension:default_set_or_update",
        ([_], &Method::DELETE) => "volume_extension:default_unset",
        _ => return Err(unknown(&call, &[Method::GET])),
    };
    call.access.require_own(rule)?;
    let project = path.first().map(|project| (*project).to_owned());
    service
        .write(move |tx| {
            let one =
                |project: &str, kind: &str| json!({"project_id": project, "volume_type_id": kind});
            let Some(project) = &project else {
                let all: Vec<Value> = db::default_types(tx)?
                    .iter()
                    .map(|(project, kind)| one(project, kind))
                    .collect();
                return Ok(Reply::ok(json!({"default_types": all})));
            };
            match call.method {
                Method::GET => match db::default_type(tx, project)? {
                    Some(kind) => Ok(Reply::ok(json!({"default_type": one(project, &kind)}))),
                    None => Err(Fault::not_found(format!(
                        "Default type for project {project} not found."
                    ))),
                },
                Method::PUT => {
                    const FIELDS: &[Field] = &[("volume_type", Kind::FullName, Need::Must)];
                    let body = check::object(&call.body, "default_type", FIELDS, false)?;
                    let kind = find(
                        tx,
                        &call,
                        &check::text(body, "volume_type").unwrap_or_default(),
                    )?;
                    db::set_default_type(tx, project, &kind.id)?;
                    Ok(Reply::ok(json!({"default_type": one(project, &kind.id)})))
                }
                _ => {
                    db::unset_default_type(tx, project)?;
                    Ok(Reply::empty(StatusCode::NO_CONTENT))
                }
            }
        })
        .await
}
