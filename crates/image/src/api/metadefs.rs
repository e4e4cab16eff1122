//! Metadata definitions (Image API v2, "Metadata definitions"): namespaces, and the objects, properties, tags and resource
//! types in them. Nothing in the cloud is ruled by them; they tell clients which metadata there may be.

use super::json_body;
use crate::access::Access;
use crate::db::metadefs::{self as rows, Item, Namespace};
use crate::fault::Fault;
use crate::service::Service;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};
use sql::Tx;
use std::collections::{BTreeSet, HashMap};
use types::Timestamp;

/// Resource types that OpenStack's own definitions speak of.
const KNOWN_TYPES: [&str; 5] = [
    "OS::Cinder::Volume",
    "OS::Glance::Image",
    "OS::Nova::Aggregate",
    "OS::Nova::Flavor",
    "OS::Nova::Server",
];
/// JSON types of a property.
const TYPES: [&str; 7] = [
    "array", "boolean", "integer", "null", "number", "object", "string",
];

/// A kind of item, by the last word of its path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Property,
    Tag,
    ResourceType,
}

impl Kind {
    fn of_path(word: &str) -> Result<Self, Fault> {
        match word {
            "objects" => Ok(Self::Object),
            "properties" => Ok(Self::Property),
            "tags" => Ok(Self::Tag),
            "resource_types" => Ok(Self::ResourceType),
            _ => Err(Fault::not_found("The resource could not be found.")),
        }
    }

    fn stored(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Property => "property",
            Self::Tag => "tag",
            Self::ResourceType => "resource_type",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Object => "objects",
            Self::Property => "properties",
            Self::Tag => "tags",
            Self::ResourceType => "resource_type_associations",
        }
    }
}

fn visible(access: &Access, namespace: &Namespace) -> bool {
    namespace.visibility == "public"
        || access.is_admin()
        || access.project() == Some(namespace.owner.as_str())
}

fn namespace(tx: &mut Tx<'_>, access: &Access, name: &str) -> Result<Namespace, Fault> {
    let found = rows::namespace_by_name(tx, name)?.filter(|found| visible(access, found));
    found.ok_or_else(|| {
        Fault::not_found(format!(
            "The metadata definition namespace {name} was not found."
        ))
    })
}

fn no_item(kind: Kind, namespace: &str, name: &str) -> Fault {
    Fault::not_found(format!(
        "The metadata definition {} with name={name} was not found in namespace={namespace}.",
        kind.stored()
    ))
}

/// A name that is taken, in words.
fn taken(error: sql::Error, what: &str, name: &str) -> Fault {
    if error.is_unique_violation() {
        Fault::conflict(format!(
            "The metadata definition {what} {name} already exists."
        ))
    } else {
        error.into()
    }
}

fn text(body: &Value, name: &str, most: usize) -> Result<Option<String>, Fault> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= most => Ok(Some(text.clone())),
        Some(_) => Err(Fault::bad_request(format!(
            "'{name}' must be a text of at most {most} characters"
        ))),
    }
}

fn required(body: &Value, name: &str) -> Result<String, Fault> {
    let found = text(body, name, 80)?.filter(|text| !text.is_empty());
    found.ok_or_else(|| Fault::bad_request(format!("'{name}' is a required property")))
}

fn flag(body: &Value, name: &str) -> Result<Option<bool>, Fault> {
    match body.get(name) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(Fault::bad_request(format!("'{name}' must be boolean"))),
    }
}

fn visibility(body: &Value) -> Result<Option<String>, Fault> {
    let found = text(body, "visibility", 16)?;
    if found
        .as_deref()
        .is_none_or(|one| matches!(one, "public" | "private"))
    {
        return Ok(found);
    }
    Err(Fault::bad_request(
        "'visibility' is not one of ['public', 'private']",
    ))
}

fn times(fields: &mut Map<String, Value>, created: Timestamp, updated: Timestamp) {
    fields.insert("created_at".to_owned(), created.iso_seconds_z().into());
    fields.insert("updated_at".to_owned(), updated.iso_seconds_z().into());
}

fn item_view(namespace: &str, kind: Kind, item: &Item) -> Value {
    let body = serde_json::from_str(&item.body).unwrap_or_default();
    let mut fields: Map<String, Value> = match body {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields.insert("name".to_owned(), item.name.as_str().into());
    if kind != Kind::Property {
        times(&mut fields, item.created_at, item.updated_at);
    }
    if kind == Kind::Object {
        let own = format!("/v2/metadefs/namespaces/{namespace}/objects/{}", item.name);
        fields.insert("self".to_owned(), own.into());
        fields.insert("schema".to_owned(), "/v2/schemas/metadefs/object".into());
    }
    fields.into()
}

/// The items of one kind: a list, or for properties an object by name.
fn items_view(namespace: &str, kind: Kind, items: &[Item]) -> Value {
    let own = items.iter().filter(|item| item.kind == kind.stored());
    if kind == Kind::Property {
        return own
            .map(|item| {
                let mut view = item_view(namespace, kind, item);
                if let Some(fields) = view.as_object_mut() {
                    fields.remove("name");
                }
                (item.name.clone(), view)
            })
            .collect::<Map<_, _>>()
            .into();
    }
    own.map(|item| item_view(namespace, kind, item)).collect()
}

/// A namespace; `items` are what of it is shown.
fn namespace_view(found: &Namespace, items: &[Item], kinds: &[Kind]) -> Value {
    let own = format!("/v2/metadefs/namespaces/{}", found.name);
    let mut fields = Map::new();
    fields.insert("namespace".to_owned(), found.name.as_str().into());
    for (name, text) in [
        ("display_name", &found.display_name),
        ("description", &found.description),
    ] {
        if let Some(text) = text {
            fields.insert(name.to_owned(), text.as_str().into());
        }
    }
    fields.insert("visibility".to_owned(), found.visibility.as_str().into());
    fields.insert("protected".to_owned(), found.protected.into());
    fields.insert("owner".to_owned(), found.owner.as_str().into());
    times(&mut fields, found.created_at, found.updated_at);
    fields.insert("self".to_owned(), own.into());
    fields.insert("schema".to_owned(), "/v2/schemas/metadefs/namespace".into());
    for kind in kinds {
        let view = items_view(&found.name, *kind, items);
        let empty = view.as_array().is_some_and(Vec::is_empty)
            || view.as_object().is_some_and(Map::is_empty);
        if !empty {
            fields.insert(kind.plural().to_owned(), view);
        }
    }
    fields.into()
}

/// An item out of a body. Names come with it, except those of tags in a path.
fn read_item(kind: Kind, body: &Value, name: Option<&str>) -> Result<Item, Fault> {
    let fields = body
        .as_object()
        .ok_or_else(|| Fault::bad_request("Malformed JSON in request body."))?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => required(body, "name")?,
    };
    let mut kept = fields.clone();
    for shown_only in ["name", "self", "schema", "created_at", "updated_at"] {
        kept.remove(shown_only);
    }
    match kind {
        Kind::Property => {
            required(body, "title")?;
            let of = required(body, "type")?;
            if !TYPES.contains(&of.as_str()) {
                return Err(Fault::bad_request(format!(
                    "'{of}' is not one of {TYPES:?}"
                )));
            }
        }
        Kind::Object => {
            text(body, "description", 500)?;
            kept.entry("required").or_insert_with(|| json!([]));
            kept.entry("properties").or_insert_with(|| json!({}));
        }
        Kind::Tag => kept.clear(),
        Kind::ResourceType => kept.retain(|key, _| key == "prefix" || key == "properties_target"),
    }
    let now = Timestamp::now();
    Ok(Item {
        kind: kind.stored().to_owned(),
        name,
        body: Value::from(kept).to_string(),
        created_at: now,
        updated_at: now,
    })
}

/// Everything that a namespace's body brings along.
fn nested(body: &Value) -> Result<Vec<Item>, Fault> {
    let mut all = Vec::new();
    for kind in [Kind::Object, Kind::Tag, Kind::ResourceType] {
        let list = body.get(kind.plural()).and_then(Value::as_array);
        for one in list.into_iter().flatten() {
            all.push(read_item(kind, one, None)?);
        }
    }
    let properties = body.get("properties").and_then(Value::as_object);
    for (name, one) in properties.into_iter().flatten() {
        all.push(read_item(Kind::Property, one, Some(name))?);
    }
    Ok(all)
}

/// `GET /v2/metadefs/namespaces`
pub(super) async fn list(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Fault> {
    access.require_in_project("get_metadef_namespaces")?;
    let limit = query.get("limit").map(|text| text.parse::<usize>());
    let limit = limit
        .transpose()
        .map_err(|_| Fault::bad_request("limit param must be an integer"))?
        .unwrap_or(service.inner.config.default_limit)
        .min(service.inner.config.max_limit);
    let found = service.inner.store.read(move |tx| {
        let types: Option<BTreeSet<String>> = query
            .get("resource_types")
            .map(|text| text.split(',').map(str::to_owned).collect());
        let tied = rows::associations(tx)?;
        let has_type = |namespace: &Namespace, types: &BTreeSet<String>| {
            tied.iter()
                .any(|(of, name)| *of == namespace.name && types.contains(name))
        };
        let mut all = rows::namespaces(tx)?;
        all.retain(|one| visible(&access, one));
        all.retain(|one| {
            query
                .get("visibility")
                .is_none_or(|wanted| *wanted == one.visibility)
        });
        all.retain(|one| types.as_ref().is_none_or(|types| has_type(one, types)));
        if let Some(marker) = query.get("marker") {
            let at = all.iter().position(|one| one.name == *marker);
            let at = at.ok_or_else(|| Fault::bad_request(format!("Invalid marker {marker}")))?;
            all.drain(..=at);
        }
        let more = all.len() > limit;
        all.truncate(limit);
        let mut views = Vec::new();
        for one in &all {
            let items = rows::items(tx, &one.name)?;
            views.push(namespace_view(one, &items, &[Kind::ResourceType]));
        }
        let next = all.last().filter(|_| more).map(|last| last.name.clone());
        Ok::<_, Fault>((views, next))
    });
    let (views, next) = found.await?;
    let mut answer = json!({
        "namespaces": views, "first": "/v2/metadefs/namespaces", "schema": "/v2/schemas/metadefs/namespaces",
    });
    if let Some(next) = next {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("marker", &next)
            .append_pair("limit", &limit.to_string())
            .finish();
        answer["next"] = format!("/v2/metadefs/namespaces?{query}").into();
    }
    Ok(Json(answer))
}

const WHOLE: [Kind; 4] = [Kind::Object, Kind::Property, Kind::Tag, Kind::ResourceType];

/// `POST /v2/metadefs/namespaces`
pub(super) async fn create(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Fault> {
    access.require_plain("add_metadef_namespace")?;
    let body = json_body(body).await?;
    let now = Timestamp::now();
    let owner = text(&body, "owner", 255)?;
    let new = Namespace {
        name: required(&body, "namespace")?,
        owner: owner.unwrap_or_else(|| access.project().unwrap_or_default().to_owned()),
        visibility: visibility(&body)?.unwrap_or_else(|| "private".to_owned()),
        protected: flag(&body, "protected")?.unwrap_or(false),
        display_name: text(&body, "display_name", 80)?,
        description: text(&body, "description", 500)?,
        created_at: now,
        updated_at: now,
    };
    let items = nested(&body)?;
    let view = namespace_view(&new, &items, &WHOLE);
    let written = service.inner.store.write(move |tx| {
        rows::add_namespace(tx, &new).map_err(|error| taken(error, "namespace", &new.name))?;
        for item in &items {
            rows::add_item(tx, &new.name, item)
                .map_err(|error| taken(error, &item.kind, &item.name))?;
        }
        Ok::<_, Fault>(())
    });
    written.await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// `GET /v2/metadefs/namespaces/{namespace}`
pub(super) async fn show(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Fault> {
    access.require_in_project("get_metadef_namespace")?;
    let found = service.inner.store.read(move |tx| {
        let found = namespace(tx, &access, &name)?;
        let items = rows::items(tx, &name)?;
        Ok::<_, Fault>(namespace_view(&found, &items, &WHOLE))
    });
    Ok(Json(found.await?))
}

/// `PUT /v2/metadefs/namespaces/{namespace}`
pub(super) async fn update(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Value>, Fault> {
    access.require_plain("modify_metadef_namespace")?;
    let body = json_body(body).await?;
    let (wanted, seen_by) = (required(&body, "namespace")?, visibility(&body)?);
    let protected = flag(&body, "protected")?;
    let words = (
        text(&body, "display_name", 80)?,
        text(&body, "description", 500)?,
    );
    let written = service.inner.store.write(move |tx| {
        let mut found = namespace(tx, &access, &name)?;
        found.name.clone_from(&wanted);
        if let Some(seen_by) = &seen_by {
            found.visibility.clone_from(seen_by);
        }
        found.protected = protected.unwrap_or(found.protected);
        (found.display_name, found.description) = words.clone();
        found.updated_at = Timestamp::now();
        rows::save_namespace(tx, &name, &found)
            .map_err(|error| taken(error, "namespace", &found.name))?;
        Ok::<_, Fault>(namespace_view(&found, &[], &[]))
    });
    Ok(Json(written.await?))
}

/// `DELETE /v2/metadefs/namespaces/{namespace}`
pub(super) async fn delete(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
) -> Result<StatusCode, Fault> {
    access.require_plain("delete_metadef_namespace")?;
    let written = service.inner.store.write(move |tx| {
        unprotected(&namespace(tx, &access, &name)?)?;
        rows::delete_namespace(tx, &name)?;
        Ok::<_, Fault>(())
    });
    written.await?;
    Ok(StatusCode::NO_CONTENT)
}

fn unprotected(found: &Namespace) -> Result<(), Fault> {
    if !found.protected {
        return Ok(());
    }
    Err(Fault::forbidden(format!(
        "Metadata definition namespace {} is protected and cannot be deleted.",
        found.name
    )))
}

/// `GET /v2/metadefs/namespaces/{namespace}/{objects|properties|tags|resource_types}`
pub(super) async fn list_items(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((name, word)): Path<(String, String)>,
) -> Result<Json<Value>, Fault> {
    access.require_in_project("get_metadef_namespace")?;
    let kind = Kind::of_path(&word)?;
    let found = service.inner.store.read(move |tx| {
        namespace(tx, &access, &name)?;
        let items = rows::items(tx, &name)?;
        Ok::<_, Fault>(json!({ kind.plural(): items_view(&name, kind, &items) }))
    });
    Ok(Json(found.await?))
}

/// `POST /v2/metadefs/namespaces/{namespace}/{objects|properties|tags|resource_types}`; tags come as a list, which takes
/// the place of the tags before unless the request says that it adds to them.
pub(super) async fn create_item(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((name, word)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Fault> {
    access.require_plain("modify_metadef_namespace")?;
    let kind = Kind::of_path(&word)?;
    let body = json_body(body).await?;
    let items = match (kind, body.get("tags").and_then(Value::as_array)) {
        (Kind::Tag, Some(list)) => list
            .iter()
            .map(|one| read_item(kind, one, None))
            .collect::<Result<Vec<_>, _>>()?,
        _ => vec![read_item(kind, &body, None)?],
    };
    let adds = super::header_text(&headers, "x-openstack-append")
        .is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let view = match (kind, items.first()) {
        (Kind::Tag, _) | (_, None) => json!({ kind.plural(): items_view(&name, kind, &items) }),
        (_, Some(item)) => item_view(&name, kind, item),
    };
    let written = service.inner.store.write(move |tx| {
        namespace(tx, &access, &name)?;
        if kind == Kind::Tag && !adds {
            rows::delete_items(tx, &name, kind.stored(), None)?;
        }
        for item in &items {
            rows::add_item(tx, &name, item)
                .map_err(|error| taken(error, kind.stored(), &item.name))?;
        }
        Ok::<_, Fault>(())
    });
    written.await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// `DELETE /v2/metadefs/namespaces/{namespace}/{objects|properties|tags}`
pub(super) async fn delete_items(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((name, word)): Path<(String, String)>,
) -> Result<StatusCode, Fault> {
    access.require_plain("modify_metadef_namespace")?;
    let kind = Kind::of_path(&word)?;
    let written = service.inner.store.write(move |tx| {
        unprotected(&namespace(tx, &access, &name)?)?;
        rows::delete_items(tx, &name, kind.stored(), None)?;
        Ok::<_, Fault>(())
    });
    written.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET` of one item
pub(super) async fn show_item(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((name, word, item)): Path<(String, String, String)>,
) -> Result<Json<Value>, Fault> {
    access.require_in_project("get_metadef_namespace")?;
    let kind = Kind::of_path(&word)?;
    let found = service.inner.store.read(move |tx| {
        namespace(tx, &access, &name)?;
        let found = rows::item_by_name(tx, &name, kind.stored(), &item)?;
        let found = found.ok_or_else(|| no_item(kind, &name, &item))?;
        Ok::<_, Fault>(item_view(&name, kind, &found))
    });
    Ok(Json(found.await?))
}

/// `POST` of a tag that the path names
pub(super) async fn create_tag(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((name, word, tag)): Path<(String, String, String)>,
) -> Result<(StatusCode, Json<Value>), Fault> {
    access.require_plain("modify_metadef_namespace")?;
    if Kind::of_path(&word)? != Kind::Tag {
        return Err(Fault::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "The method is not allowed for this resource.",
        ));
    }
    let tag = text(&json!({ "name": tag }), "name", 80)?.unwrap_or_default();
    let item = read_item(Kind::Tag, &json!({}), Some(&tag))?;
    let view = item_view(&name, Kind::Tag, &item);
    let written = service.inner.store.write(move |tx| {
        namespace(tx, &access, &name)?;
        rows::add_item(tx, &name, &item).map_err(|error| taken(error, "tag", &item.name))
    });
    written.await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// `PUT` of one item
pub(super) async fn update_item(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((name, word, item)): Path<(String, String, String)>,
    body: Body,
) -> Result<Json<Value>, Fault> {
    access.require_plain("modify_metadef_namespace")?;
    let kind = Kind::of_path(&word)?;
    let body = json_body(body).await?;
    let new = read_item(kind, &body, None)?;
    let written = service.inner.store.write(move |tx| {
        namespace(tx, &access, &name)?;
        let old = rows::item_by_name(tx, &name, kind.stored(), &item)?;
        let old = old.ok_or_else(|| no_item(kind, &name, &item))?;
        let mut new = new.clone();
        new.created_at = old.created_at;
        rows::save_item(tx, &name, &item, &new)
            .map_err(|error| taken(error, kind.stored(), &new.name))?;
        Ok::<_, Fault>(item_view(&name, kind, &new))
    });
    Ok(Json(written.await?))
}

/// `DELETE` of one item
pub(super) async fn delete_item(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((name, word, item)): Path<(String, String, String)>,
) -> Result<StatusCode, Fault> {
    access.require_plain("modify_metadef_namespace")?;
    let kind = Kind::of_path(&word)?;
    let written = service.inner.store.write(move |tx| {
        unprotected(&namespace(tx, &access, &name)?)?;
        match rows::delete_items(tx, &name, kind.stored(), Some(&item))? {
            0 => Err(no_item(kind, &name, &item)),
            _ => Ok(()),
        }
    });
    written.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v2/metadefs/resource_types`
pub(super) async fn resource_types(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
) -> Result<Json<Value>, Fault> {
    access.require_in_project("list_metadef_resource_types")?;
    let tied = service.inner.store.read(rows::associations).await?;
    let mut names: BTreeSet<&str> = KNOWN_TYPES.into();
    names.extend(tied.iter().map(|(_, name)| name.as_str()));
    let list: Vec<Value> = names
        .into_iter()
        .map(|name| json!({ "name": name }))
        .collect();
    Ok(Json(json!({ "resource_types": list })))
}
