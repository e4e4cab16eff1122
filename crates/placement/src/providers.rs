//! Resource providers, their aggregates and traits.

use crate::dispatch::{Answer, Call};
use crate::fault::Fault;
use crate::query;
use crate::view::{self, ProviderView};
use db::placement::Provider;
use db::placement_api::{self, Refused};
use http::StatusCode;
use serde_json::{Map, Value, json};
use types::Timestamp;
use uuid::Uuid;

fn links(provider: &Provider, version: u16) -> Value {
    let own = format!("/resource_providers/{}", provider.uuid);
    let parts = [
        ("inventories", 0),
        ("usages", 0),
        ("aggregates", 1),
        ("traits", 6),
        ("allocations", 11),
    ];
    let parts = parts.into_iter().filter(|(_, since)| *since <= version);
    let parts = parts.map(|(part, _)| json!({"rel": part, "href": format!("{own}/{part}")}));
    std::iter::once(json!({"rel": "self", "href": own}))
        .chain(parts)
        .collect()
}

/// A provider as the version shows it. All providers are roots.
fn show_provider(provider: &Provider, version: u16) -> Value {
    let mut shown = json!({
        "uuid": provider.uuid.to_string(),
        "name": provider.name,
        "generation": provider.generation,
        "links": links(provider, version),
    });
    if version >= 14 {
        shown["parent_provider_uuid"] = Value::Null;
        shown["root_provider_uuid"] = provider.uuid.to_string().into();
    }
    shown
}

pub(crate) fn changed(provider: &Provider) -> Timestamp {
    provider.updated_at.unwrap_or(provider.created_at)
}

pub(crate) async fn list(call: Call) -> Result<Answer, Fault> {
    let version = call.version;
    let since = |name: &str| match name {
        "name" | "uuid" => 0,
        "member_of" => 3,
        "resources" => 4,
        "in_tree" => 14,
        "required" => 18,
        _ => u16::MAX,
    };
    let query = &call.query;
    query.only(|name| since(name) <= version)?;
    let (uuid, root) = (query.uuid("uuid")?, query.uuid("in_tree")?);
    let resources = query
        .get("resources")
        .map(query::resources)
        .transpose()?
        .unwrap_or_default();
    let traits = query::traits(&query.all("required"), version)?;
    let members = query::member_of(&query.all("member_of"), version)?;
    let matches = |view: &ProviderView| {
        let provider = &view.provider;
        members.fit(&view.aggregates)
            && query.get("name").is_none_or(|name| name == provider.name)
            && [uuid, root]
                .into_iter()
                .flatten()
                .all(|wanted| wanted == provider.uuid)
            && view.has_room(&resources)
            && view.has_traits(&traits.required, &traits.forbidden)
    };
    let found: Vec<ProviderView> = view::read(call.store())
        .await?
        .into_iter()
        .filter(matches)
        .collect();
    let shown: Vec<Value> = found
        .iter()
        .map(|view| show_provider(&view.provider, version))
        .collect();
    let latest = found.iter().map(|view| changed(&view.provider)).max();
    Ok(Answer::json(json!({"resource_providers": shown})).modified(latest))
}

pub(crate) async fn show(call: Call) -> Result<Answer, Fault> {
    let view = view::read_one(call.store(), call.capture(0)).await?;
    Ok(Answer::json(show_provider(&view.provider, call.version))
        .modified(Some(changed(&view.provider))))
}

/// The members of an object body, if it has no others than these.
pub(crate) fn object<'a>(body: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>, Fault> {
    let members = body
        .as_object()
        .ok_or_else(|| wrong("the body is not an object"))?;
    match members.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(wrong(&format!(
            "Additional properties are not allowed ('{name}' was unexpected)"
        ))),
        None => Ok(members),
    }
}

/// A body that does not fit.
pub(crate) fn wrong(problem: &str) -> Fault {
    Fault::bad_request(format!("JSON does not validate: {problem}"))
}

pub(crate) fn uuid_in(value: &Value) -> Result<Uuid, Fault> {
    let text = value.as_str().unwrap_or_default();
    Uuid::parse_str(text).map_err(|_| wrong(&format!("{value} is not a 'uuid'")))
}

fn read_name(body: &Value, version: u16, creating: bool) -> Result<String, Fault> {
    let known: &[&str] = match (creating, version >= 14) {
        (true, true) => &["name", "uuid", "parent_provider_uuid"],
        (true, false) => &["name", "uuid"],
        (false, true) => &["name", "parent_provider_uuid"],
        (false, false) => &["name"],
    };
    let members = object(body, known)?;
    if members
        .get("parent_provider_uuid")
        .is_some_and(|parent| !parent.is_null())
    {
        return Err(Fault::not_built("Nesting resource providers"));
    }
    let name = members
        .get("name")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("'name' is a required property"))?;
    if name.is_empty() || name.chars().count() > 200 {
        return Err(wrong("'name' must have 1 to 200 characters"));
    }
    Ok(name.to_owned())
}

fn in_use(refused: Refused, doing: &str) -> Fault {
    match refused {
        Refused::InUse { provider, .. } => Fault::conflict(
            format!(
                "Unable to {doing} resource provider {provider}: Resource provider has allocations."
            ),
            "placement.resource_provider.inuse",
        ),
        other => other.into(),
    }
}

pub(crate) async fn create(call: Call) -> Result<Answer, Fault> {
    let body = call.json()?;
    let name = read_name(&body, call.version, true)?;
    let uuid = body
        .get("uuid")
        .map_or_else(|| Ok(Uuid::new_v4()), uuid_in)?;
    let now = Timestamp::now();
    let made = call.store().write(move |tx| {
        placement_api::create_provider(tx, uuid, &name, now)?;
        placement_api::provider(tx, uuid)?.ok_or(Refused::NoProvider(uuid))
    });
    let made = made.await?;
    let answer = match call.version {
        20.. => Answer::json(show_provider(&made, call.version)).modified(Some(now)),
        _ => Answer::empty(StatusCode::CREATED),
    };
    Ok(answer.at(format!("/resource_providers/{uuid}")))
}

/// The provider that the path names.
pub(crate) fn path_uuid(call: &Call) -> Result<Uuid, Fault> {
    Uuid::parse_str(call.capture(0)).map_err(|_| Fault::no_provider(call.capture(0)))
}

pub(crate) async fn update(call: Call) -> Result<Answer, Fault> {
    let uuid = path_uuid(&call)?;
    let name = read_name(&call.json()?, call.version, false)?;
    let now = Timestamp::now();
    let changed = call.store().write(move |tx| {
        placement_api::rename_provider(tx, uuid, &name, now)?;
        placement_api::provider(tx, uuid)?.ok_or(Refused::NoProvider(uuid))
    });
    Ok(Answer::json(show_provider(&changed.await?, call.version)).modified(Some(now)))
}

pub(crate) async fn delete(call: Call) -> Result<Answer, Fault> {
    let uuid = path_uuid(&call)?;
    let gone = call
        .store()
        .write(move |tx| placement_api::delete_provider(tx, uuid))
        .await;
    gone.map_err(|refused| in_use(refused, "delete"))?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn aggregates(call: Call) -> Result<Answer, Fault> {
    let view = view::read_one(call.store(), call.capture(0)).await?;
    let mut shown = json!({"aggregates": view.aggregates});
    if call.version >= 19 {
        shown["resource_provider_generation"] = view.provider.generation.into();
    }
    Ok(Answer::json(shown).modified(Some(changed(&view.provider))))
}

pub(crate) async fn traits(call: Call) -> Result<Answer, Fault> {
    let view = view::read_one(call.store(), call.capture(0)).await?;
    let shown =
        json!({"traits": view.traits, "resource_provider_generation": view.provider.generation});
    Ok(Answer::json(shown).modified(Some(changed(&view.provider))))
}
