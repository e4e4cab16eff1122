//! Create, list, show, change and delete for every resource that is a plain record.

use super::call::{Call, json, no_content, ok};
use super::fields::{self, Field, Shape, may, must};
use super::{credentials, lists, projects};
use crate::auth::check_new_password;
use crate::db::access as rows;
use crate::db::grants;
use crate::db::kinds::{
    CREDENTIALS, DOMAINS, ENDPOINTS, GROUPS, Kind, PROJECTS, REGIONS, ROLES, SERVICES, USERS,
};
use crate::db::records::{self, Record};
use crate::fault::Fault;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value as Json, json};
use sql::Tx;
use types::Timestamp;

const DOMAIN_FIELDS: &[Field] = &[
    must("name", Shape::Name(64)),
    may("description", Shape::MaybeText),
    may("enabled", Shape::Bool),
];
const PROJECT_FIELDS: &[Field] = &[
    must("name", Shape::Name(64)),
    may("description", Shape::MaybeText),
    may("domain_id", Shape::MaybeId),
    may("parent_id", Shape::MaybeId),
    may("enabled", Shape::Bool),
    may("tags", Shape::Tags),
];
const USER_FIELDS: &[Field] = &[
    must("name", Shape::Name(255)),
    may("description", Shape::MaybeText),
    may("domain_id", Shape::Id),
    may("default_project_id", Shape::MaybeId),
    may("enabled", Shape::Bool),
    may("password", Shape::MaybeText),
];
const GROUP_FIELDS: &[Field] = &[
    must("name", Shape::Name(64)),
    may("description", Shape::MaybeText),
    may("domain_id", Shape::Id),
];
const ROLE_FIELDS: &[Field] = &[
    must("name", Shape::Name(255)),
    may("description", Shape::MaybeText),
    may("domain_id", Shape::MaybeId),
];
const REGION_FIELDS: &[Field] = &[
    may("id", Shape::Name(255)),
    may("description", Shape::MaybeText),
    may("parent_region_id", Shape::MaybeText),
];
const SERVICE_FIELDS: &[Field] = &[
    must("type", Shape::Name(255)),
    may("name", Shape::MaybeText),
    may("description", Shape::MaybeText),
    may("enabled", Shape::Bool),
];
const ENDPOINT_FIELDS: &[Field] = &[
    must("interface", Shape::Interface),
    must("service_id", Shape::Id),
    must("url", Shape::Url),
    may("region_id", Shape::MaybeText),
    may("enabled", Shape::Bool),
];
const POLICY_FIELDS: &[Field] = &[
    must("type", Shape::Name(255)),
    must("blob", Shape::Name(65_535)),
];
const CREDENTIAL_FIELDS: &[Field] = &[
    must("type", Shape::Name(255)),
    must("blob", Shape::Name(8192)),
    may("user_id", Shape::Id),
    may("project_id", Shape::MaybeId),
];

fn fields_of(kind: &Kind) -> &'static [Field] {
    match kind.single {
        "domain" => DOMAIN_FIELDS,
        "project" => PROJECT_FIELDS,
        "user" => USER_FIELDS,
        "group" => GROUP_FIELDS,
        "role" => ROLE_FIELDS,
        "region" => REGION_FIELDS,
        "service" => SERVICE_FIELDS,
        "endpoint" => ENDPOINT_FIELDS,
        "policy" => POLICY_FIELDS,
        _ => CREDENTIAL_FIELDS,
    }
}

/// A fresh id as Keystone makes them.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The record, or 404.
pub fn there(tx: &mut Tx<'_>, kind: &'static Kind, id: &str) -> Result<Record, Fault> {
    records::find(tx, kind, id)?.ok_or_else(|| Fault::NotFound(kind.single, id.to_owned()))
}

/// A text attribute of a record; empty when it has none.
pub fn text<'a>(record: &'a Map<String, Json>, name: &str) -> &'a str {
    record.get(name).and_then(Json::as_str).unwrap_or_default()
}

fn drop_null(record: &mut Record, names: &[&str]) {
    for name in names {
        if record.get(*name).is_some_and(Json::is_null) {
            record.shift_remove(*name);
        }
    }
}

/// A user as every list shows it.
pub fn complete_user(record: &mut Record) {
    drop_null(record, &["default_project_id", "description"]);
    record.entry("options").or_insert_with(|| json!({}));
    record.insert("password_expires_at".to_owned(), Json::Null);
}

/// Adds what a record has outside its table, and leaves out what the API does not show when it is not set.
fn complete(
    call_keys: &crate::keys::Keyring,
    tx: &mut Tx<'_>,
    kind: &Kind,
    record: &mut Record,
) -> Result<(), Fault> {
    match kind.single {
        "project" => projects::complete(tx, record)?,
        "domain" => {
            record.insert("tags".to_owned(), json!([]));
            record.entry("options").or_insert_with(|| json!({}));
        }
        "user" => complete_user(record),
        "role" => drop(record.entry("options").or_insert_with(|| json!({}))),
        "service" => drop_null(record, &["name", "description"]),
        "endpoint" => drop(record.insert("region".to_owned(), record["region_id"].clone())),
        "credential" => credentials::open(call_keys, record),
        _ => {}
    }
    Ok(())
}

fn one(call: &Call, kind: &Kind, record: Record) -> Json {
    let mut body = Map::new();
    body.insert(kind.single.to_owned(), lists::shown(call, kind, record));
    Json::Object(body)
}

/// Keystone's words for a name that is taken.
fn named_twice(kind: &'static Kind, record: &Record, fault: Fault) -> Fault {
    let Fault::Conflict("record", _) = fault else {
        return fault;
    };
    let (name, domain) = (text(record, "name"), text(record, "domain_id"));
    let details = match kind.single {
        "project" => {
            format!(
                "it is not permitted to have two projects with the same name in the same domain : {name}"
            )
        }
        "domain" => format!("it is not permitted to have two domains with the same name: {name}"),
        "user" | "group" => format!("Duplicate entry found with name {name} at domain ID {domain}"),
        "role" => format!("Duplicate entry found with name {name}"),
        _ => format!("Duplicate ID, {}", text(record, "id")),
    };
    Fault::Conflict(kind.single, details)
}

/// GET /v3/{plural}
pub async fn list(call: Call, kind: &'static Kind) -> Result<Response, Fault> {
    let inner = std::sync::Arc::clone(&call.service.inner);
    let mut filters: Vec<(&'static str, Json)> = Vec::new();
    let own_domain = call.held()?.caller.domain_id.clone();
    match (kind.single, own_domain) {
        ("user" | "group" | "project", Some(domain)) if call.asked("domain_id").is_none() => {
            filters.push(("domain_id", domain.into()));
        }
        ("role", _) if call.asked("domain_id").is_none() => filters.push(("domain_id", Json::Null)),
        _ => {}
    }
    let found = call.service.read(move |tx| {
        let mut found = records::list(tx, kind, &filters)?;
        for record in &mut found {
            complete(&inner.credential_keys, tx, kind, record)?;
        }
        Ok(found)
    });
    let mut found = found.await?;
    if kind.single == "project" {
        found.retain(|project| has_asked_tags(&call, project));
    }
    if kind.single == "credential" {
        found = credentials::visible(&call, found)?;
    }
    Ok(lists::answer(&call, kind, found))
}

/// `tags`, `tags-any`, `not-tags`, `not-tags-any` (Identity API, "Project Tags").
fn has_asked_tags(call: &Call, project: &Record) -> bool {
    let has = |tag: &str| {
        project["tags"]
            .as_array()
            .is_some_and(|tags| tags.iter().any(|held| held == tag))
    };
    let asked = |name: &str| {
        call.asked(name)
            .map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>())
    };
    asked("tags").is_none_or(|tags| tags.iter().all(|tag| has(tag)))
        && asked("tags-any").is_none_or(|tags| tags.iter().any(|tag| has(tag)))
        && asked("not-tags").is_none_or(|tags| !tags.iter().all(|tag| has(tag)))
        && asked("not-tags-any").is_none_or(|tags| !tags.iter().any(|tag| has(tag)))
}

/// GET /v3/{plural}/{id}
pub async fn show(call: Call, kind: &'static Kind) -> Result<Response, Fault> {
    let id = call.param("id").to_owned();
    let inner = std::sync::Arc::clone(&call.service.inner);
    let found = call.service.read(move |tx| {
        let mut record = there(tx, kind, &id)?;
        complete(&inner.credential_keys, tx, kind, &mut record)?;
        Ok(record)
    });
    let record = found.await?;
    Ok(ok(&one(&call, kind, record)))
}

/// The domain that a new record belongs to when its body names none.
pub fn own_domain(call: &Call) -> Result<String, Fault> {
    let caller = &call.held()?.caller;
    let domain = caller
        .domain_id
        .clone()
        .or_else(|| caller.project_domain_id.clone());
    Ok(domain.unwrap_or_else(|| crate::DEFAULT_DOMAIN.to_owned()))
}

/// POST /v3/{plural}
pub async fn create(call: Call, kind: &'static Kind) -> Result<Response, Fault> {
    let record = call.object(kind.single)?.clone();
    store(call, kind, record).await
}

/// PUT /v3/{plural}/{id}: a new record with an id that the client chose.
pub async fn create_named(call: Call, kind: &'static Kind) -> Result<Response, Fault> {
    let mut record = call.object(kind.single)?.clone();
    let id = call.param("id").to_owned();
    let said = text(&record, "id");
    if !said.is_empty() && said != id {
        return Err(Fault::BadRequest(format!(
            "Conflicting {} IDs specified: \"{id}\" != \"{said}\"",
            kind.single
        )));
    }
    record.insert("id".to_owned(), id.into());
    store(call, kind, record).await
}

async fn store(call: Call, kind: &'static Kind, mut record: Record) -> Result<Response, Fault> {
    fields::check(&record, fields_of(kind), true)?;
    let by_old_name = kind.single == "endpoint" && record.contains_key("region");
    fill_defaults(&call, kind, &mut record)?;
    let (password, tags) = set_apart(kind, &mut record)?;
    let hash = match password {
        Some(password) => Some(call.service.inner.passwords.hash(&password).await?),
        None => None,
    };
    if kind.single == "credential" {
        credentials::prepare(&call, &mut record)?;
    }
    let inner = std::sync::Arc::clone(&call.service.inner);
    let wanted = record.clone();
    let written = call.service.change(move |tx| {
        if by_old_name {
            ensure_region(tx, text(&wanted, "region_id"))?;
        }
        check_references(tx, kind, &wanted)?;
        records::insert(tx, kind, &wanted)?;
        let id = text(&wanted, "id");
        if let Some(hash) = &hash {
            rows::set_password(tx, id, hash, Timestamp(0))?;
        }
        if let Some(tags) = &tags {
            records::set_tags(tx, id, tags)?;
        }
        let mut record = there(tx, kind, id)?;
        complete(&inner.credential_keys, tx, kind, &mut record)?;
        Ok(record)
    });
    let record = written
        .await
        .map_err(|fault| named_twice(kind, &record, fault))?;
    Ok(json(StatusCode::CREATED, &one(&call, kind, record)))
}

fn fill_defaults(call: &Call, kind: &Kind, record: &mut Record) -> Result<(), Fault> {
    if kind.single != "region" || text(record, "id").is_empty() {
        record.insert("id".to_owned(), Json::String(new_id()));
    }
    let domain = own_domain(call)?;
    let unset = |record: &Record, name: &str| record.get(name).is_none_or(Json::is_null);
    if matches!(kind.single, "user" | "group") && unset(record, "domain_id") {
        record.insert("domain_id".to_owned(), Json::String(domain.clone()));
    }
    if kind.single == "project" {
        if record.get("is_domain") == Some(&Json::Bool(true)) {
            return Err(Fault::NotImplemented(
                "Create a domain through /v3/domains instead of a project.".to_owned(),
            ));
        }
        if unset(record, "domain_id") {
            record.insert("domain_id".to_owned(), Json::String(domain));
        }
        if unset(record, "parent_id") {
            record.insert("parent_id".to_owned(), record["domain_id"].clone());
        }
        record.shift_remove("is_domain");
    }
    if kind.column("enabled").is_some() {
        record.entry("enabled").or_insert(Json::Bool(true));
    }
    if matches!(kind.single, "project" | "domain" | "group" | "region") {
        record.entry("description").or_insert_with(|| json!(""));
    }
    if kind.single == "endpoint" {
        // The old name of the attribute.
        if let Some(region) = record.shift_remove("region") {
            record.entry("region_id").or_insert(region);
        }
    }
    Ok(())
}

/// Takes out of a record what is not stored in its table: a user's password, a project's tags.
fn set_apart(
    kind: &Kind,
    record: &mut Record,
) -> Result<(Option<String>, Option<Vec<String>>), Fault> {
    let mut password = None;
    let mut tags = None;
    if kind.single == "user"
        && let Some(Json::String(text)) = record.shift_remove("password")
    {
        check_new_password(&text)?;
        password = Some(text);
    }
    if kind.single == "project"
        && let Some(wanted) = record.shift_remove("tags")
    {
        tags = Some(projects::checked_tags(&wanted)?);
    }
    for shown_only in ["links", "password_expires_at", "original_password"] {
        record.shift_remove(shown_only);
    }
    Ok((password, tags))
}

/// Who names an endpoint's region as old clients do, by `region`, need not have made it before.
fn ensure_region(tx: &mut Tx<'_>, id: &str) -> Result<(), Fault> {
    if id.is_empty() || records::find(tx, &REGIONS, id)?.is_some() {
        return Ok(());
    }
    let mut region = Record::new();
    region.insert("id".to_owned(), id.into());
    region.insert("description".to_owned(), "".into());
    Ok(records::insert(tx, &REGIONS, &region)?)
}

fn check_references(tx: &mut Tx<'_>, kind: &Kind, record: &Record) -> Result<(), Fault> {
    match kind.single {
        "user" | "group" => drop(there(tx, &DOMAINS, text(record, "domain_id"))?),
        "role" if !text(record, "domain_id").is_empty() => {
            drop(there(tx, &DOMAINS, text(record, "domain_id"))?)
        }
        "project" => check_parent(tx, record)?,
        "region" if !text(record, "parent_region_id").is_empty() => {
            there(tx, &REGIONS, text(record, "parent_region_id"))?;
        }
        "endpoint" => {
            let unknown = |name: &str| {
                Fault::BadRequest(format!(
                    "Could not find {name}: {}.",
                    text(record, &format!("{name}_id"))
                ))
            };
            if records::find(tx, &SERVICES, text(record, "service_id"))?.is_none() {
                return Err(unknown("service"));
            }
            let region = text(record, "region_id");
            if !region.is_empty() && records::find(tx, &REGIONS, region)?.is_none() {
                return Err(unknown("region"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// A project lies in its domain, or in another project of that domain.
fn check_parent(tx: &mut Tx<'_>, record: &Record) -> Result<(), Fault> {
    let (domain, parent) = (text(record, "domain_id"), text(record, "parent_id"));
    there(tx, &DOMAINS, domain)?;
    if domain == parent {
        return Ok(());
    }
    let above = there(tx, &PROJECTS, parent)?;
    if text(&above, "domain_id") != domain {
        return Err(Fault::BadRequest(
            "Cannot create a project in another domain than its parent's.".to_owned(),
        ));
    }
    Ok(())
}

/// PATCH /v3/{plural}/{id}
pub async fn update(call: Call, kind: &'static Kind) -> Result<Response, Fault> {
    let id = call.param("id").to_owned();
    let mut changes = call.object(kind.single)?.clone();
    fields::check(&changes, fields_of(kind), false)?;
    let (password, tags) = set_apart(kind, &mut changes)?;
    let hash = match password {
        Some(password) => Some(call.service.inner.passwords.hash(&password).await?),
        None => None,
    };
    let mut by_old_name = false;
    if kind.single == "endpoint"
        && let Some(region) = changes.shift_remove("region")
    {
        by_old_name = true;
        changes.entry("region_id").or_insert(region);
    }
    if kind.single == "credential" {
        credentials::check_change(&call, &changes)?;
        credentials::seal(&call, &mut changes);
    }
    let inner = std::sync::Arc::clone(&call.service.inner);
    let merged_name = changes.clone();
    let written = call.service.change(move |tx| {
        let mut record = there(tx, kind, &id)?;
        merge(kind, &mut record, &changes)?;
        if by_old_name {
            ensure_region(tx, text(&record, "region_id"))?;
        }
        check_references(tx, kind, &record)?;
        records::replace(tx, kind, &record)?;
        if let Some(hash) = &hash {
            rows::set_password(tx, &id, hash, Timestamp::now())?;
        }
        if kind.single == "user" && changes.get("enabled") == Some(&Json::Bool(false)) {
            rows::end_tokens(tx, &id, Timestamp::now())?;
        }
        if let Some(tags) = &tags {
            records::set_tags(tx, &id, tags)?;
        }
        let mut record = there(tx, kind, &id)?;
        complete(&inner.credential_keys, tx, kind, &mut record)?;
        Ok(record)
    });
    let record = written
        .await
        .map_err(|fault| named_twice(kind, &merged_name, fault))?;
    Ok(ok(&one(&call, kind, record)))
}

fn merge(kind: &Kind, record: &mut Record, changes: &Record) -> Result<(), Fault> {
    for (name, value) in changes {
        let fixed = match name.as_str() {
            "id" => true,
            "domain_id" => kind.column("domain_id").is_some(),
            "parent_id" | "is_domain" => kind.single == "project",
            // Whoever may change a credential must not turn it into somebody else's.
            "user_id" | "type" => kind.single == "credential",
            _ => false,
        };
        if !fixed {
            record.insert(name.clone(), value.clone());
        } else if name != "is_domain" && record.get(name) != Some(value) {
            let what = if name == "domain_id" {
                "Domain ID"
            } else {
                name.as_str()
            };
            return Err(Fault::BadRequest(format!("Cannot change {what}")));
        }
    }
    Ok(())
}

/// DELETE /v3/{plural}/{id}
pub async fn delete(call: Call, kind: &'static Kind) -> Result<Response, Fault> {
    let id = call.param("id").to_owned();
    call.service.change(move |tx| remove(tx, kind, &id)).await?;
    Ok(no_content())
}

fn remove(tx: &mut Tx<'_>, kind: &'static Kind, id: &str) -> Result<(), Fault> {
    let record = there(tx, kind, id)?;
    match kind.single {
        "domain" => empty_domain(tx, &record)?,
        "project" if !records::list(tx, &PROJECTS, &[("parent_id", id.into())])?.is_empty() => {
            return Err(Fault::Forbidden(format!(
                "Cannot delete the project {id} since it is not a leaf in the hierarchy."
            )));
        }
        "region" => {
            let children = records::list(tx, &REGIONS, &[("parent_region_id", id.into())])?;
            let endpoints = records::list(tx, &ENDPOINTS, &[("region_id", id.into())])?;
            if !children.is_empty() || !endpoints.is_empty() {
                return Err(Fault::Forbidden(format!(
                    "Unable to delete region {id} because it or its child regions have associated endpoints."
                )));
            }
        }
        _ => {}
    }
    grants::forget(tx, kind.single, id)?;
    records::delete(tx, kind, id)?;
    Ok(())
}

/// A domain goes with everything it owns, but only after it was disabled.
fn empty_domain(tx: &mut Tx<'_>, domain: &Record) -> Result<(), Fault> {
    if domain.get("enabled") == Some(&Json::Bool(true)) {
        return Err(Fault::Forbidden(
            "Cannot delete a domain that is enabled, please disable it first.".to_owned(),
        ));
    }
    for kind in [&PROJECTS, &USERS, &GROUPS, &ROLES] {
        for record in records::list(tx, kind, &[("domain_id", text(domain, "id").into())])? {
            grants::forget(tx, kind.single, text(&record, "id"))?;
            records::delete(tx, kind, text(&record, "id"))?;
        }
    }
    Ok(())
}

/// The kinds that have policies on the domain of a record.
pub fn kind_of(single: &str) -> &'static Kind {
    match single {
        "domain" => &DOMAINS,
        "project" => &PROJECTS,
        "user" => &USERS,
        "group" => &GROUPS,
        "role" => &ROLES,
        _ => &CREDENTIALS,
    }
}
