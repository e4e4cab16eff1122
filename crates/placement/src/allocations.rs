//! What consumers hold of providers.

use crate::dispatch::{Answer, Call};
use crate::fault::Fault;
use crate::names;
use crate::providers::{object, uuid_in, wrong};
use crate::view;
use db::placement::{self, Allocation, Consumer};
use db::placement_api::{self, Refused, Wanted};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use types::Timestamp;
use uuid::Uuid;

/// Who owns consumers that were written before projects and users were asked for (below 1.8).
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

fn resources(
    allocations: &[Allocation],
    of: impl Fn(&Allocation) -> Uuid,
) -> BTreeMap<Uuid, Map<String, Value>> {
    let mut grouped: BTreeMap<Uuid, Map<String, Value>> = BTreeMap::new();
    for allocation in allocations {
        grouped
            .entry(of(allocation))
            .or_default()
            .insert(allocation.resource_class.clone(), allocation.amount.into());
    }
    grouped
}

pub(crate) async fn of_provider(call: Call) -> Result<Answer, Fault> {
    let view = view::read_one(call.store(), call.capture(0)).await?;
    let uuid = view.provider.uuid;
    let read = call.store().read(move |tx| {
        Ok::<_, sql::Error>((
            placement::allocations_on(tx, uuid)?,
            placement_api::consumers_on(tx, uuid)?,
        ))
    });
    let (held, generations) = read.await?;
    let mut shown = Map::new();
    for (consumer, resources) in resources(&held, |allocation| allocation.consumer) {
        let mut entry = json!({"resources": resources});
        if call.version >= 28 {
            entry["consumer_generation"] = generations.get(&consumer).copied().into();
        }
        shown.insert(consumer.to_string(), entry);
    }
    Ok(Answer::json(
        json!({"allocations": shown, "resource_provider_generation": view.provider.generation}),
    ))
}

pub(crate) async fn of_consumer(call: Call) -> Result<Answer, Fault> {
    let Ok(id) = Uuid::parse_str(call.capture(0)) else {
        return Ok(Answer::json(json!({"allocations": {}})));
    };
    let read = call.store().read(move |tx| {
        let held = placement::allocations_of(tx, id)?;
        let mut generations: BTreeMap<Uuid, i64> = BTreeMap::new();
        for allocation in &held {
            if let Some(provider) = placement_api::provider(tx, allocation.provider)? {
                generations.insert(provider.uuid, provider.generation);
            }
        }
        Ok::<_, sql::Error>((held, generations, placement::consumer(tx, id)?))
    });
    let (held, generations, consumer) = read.await?;
    let mut shown = Map::new();
    for (provider, resources) in resources(&held, |allocation| allocation.provider) {
        let generation = generations.get(&provider).copied();
        shown.insert(
            provider.to_string(),
            json!({"generation": generation, "resources": resources}),
        );
    }
    let mut body = json!({"allocations": shown});
    if let Some(consumer) = consumer.filter(|_| !held.is_empty()) {
        add_consumer(&mut body, &consumer, call.version);
    }
    Ok(Answer::json(body))
}

fn add_consumer(body: &mut Value, consumer: &Consumer, version: u16) {
    if version >= 12 {
        body["project_id"] = consumer.project_id.clone().into();
        body["user_id"] = consumer.user_id.clone().into();
    }
    if version >= 28 {
        body["consumer_generation"] = consumer.generation.into();
    }
    if version >= 38 {
        body["consumer_type"] = consumer.consumer_type.clone().into();
    }
}

fn text(members: &Map<String, Value>, name: &str) -> Result<String, Fault> {
    let text = members
        .get(name)
        .and_then(Value::as_str)
        .filter(|text| (1..=255).contains(&text.chars().count()));
    Ok(text
        .ok_or_else(|| {
            wrong(&format!(
                "'{name}' is a required property, a text of 1 to 255 characters"
            ))
        })?
        .to_owned())
}

/// `{"VCPU": 1}` of one provider.
fn read_resources(
    provider: Uuid,
    resources: Option<&Value>,
    into: &mut BTreeMap<(Uuid, String), u64>,
) -> Result<(), Fault> {
    let resources = resources
        .and_then(Value::as_object)
        .filter(|resources| !resources.is_empty());
    for (class, amount) in
        resources.ok_or_else(|| wrong("'resources' is a required property and not empty"))?
    {
        let amount = amount
            .as_u64()
            .filter(|amount| (1..=i64::MAX.unsigned_abs()).contains(amount));
        let amount = amount.ok_or_else(|| {
            wrong(&format!(
                "the amount of {class} must be an integer of at least 1"
            ))
        })?;
        if !names::is_class(class) {
            return Err(Fault::bad_request(format!(
                "Unable to allocate inventory: No such resource class {class}."
            )));
        }
        into.insert((provider, class.clone()), amount);
    }
    Ok(())
}

/// The list of providers, as it was before 1.12.
fn read_list(list: &Value) -> Result<BTreeMap<(Uuid, String), u64>, Fault> {
    let mut amounts = BTreeMap::new();
    let entries = list.as_array().filter(|entries| !entries.is_empty());
    for entry in entries.ok_or_else(|| wrong("'allocations' must be a list that is not empty"))? {
        let members = object(entry, &["resource_provider", "resources"])?;
        let provider = members
            .get("resource_provider")
            .and_then(|provider| provider.get("uuid"));
        let provider =
            uuid_in(provider.ok_or_else(|| wrong("'resource_provider' is a required property"))?)?;
        read_resources(provider, members.get("resources"), &mut amounts)?;
    }
    Ok(amounts)
}

/// The object by provider, from 1.12. It may be empty from 1.28, and in POST from the start.
fn read_object(
    allocations: &Value,
    may_be_empty: bool,
) -> Result<BTreeMap<(Uuid, String), u64>, Fault> {
    let mut amounts = BTreeMap::new();
    let entries = allocations
        .as_object()
        .filter(|entries| may_be_empty || !entries.is_empty());
    for (provider, entry) in
        entries.ok_or_else(|| wrong("'allocations' must be an object that is not empty"))?
    {
        let members = object(entry, &["generation", "resources"])?;
        read_resources(
            uuid_in(&Value::from(provider.as_str()))?,
            members.get("resources"),
            &mut amounts,
        )?;
    }
    Ok(amounts)
}

/// What one consumer shall hold, in the form of the version.
fn read_wanted(
    consumer: &str,
    body: &Value,
    version: u16,
    may_be_empty: bool,
) -> Result<Wanted, Fault> {
    let consumer = Uuid::parse_str(consumer)
        .map_err(|_| Fault::bad_request(format!("Malformed consumer_uuid: {consumer}")))?;
    let fields = [
        ("allocations", 0),
        ("project_id", 8),
        ("user_id", 8),
        ("consumer_generation", 28),
        ("mappings", 34),
        ("consumer_type", 38),
    ];
    let known: Vec<&str> = fields
        .iter()
        .filter(|(_, since)| *since <= version)
        .map(|(name, _)| *name)
        .collect();
    let members = object(body, &known)?;
    let allocations = members
        .get("allocations")
        .ok_or_else(|| wrong("'allocations' is a required property"))?;
    let amounts = if version >= 12 {
        read_object(allocations, may_be_empty || version >= 28)?
    } else {
        read_list(allocations)?
    };
    let owner = |name| {
        if version >= 8 {
            text(members, name)
        } else {
            Ok(NOBODY.to_owned())
        }
    };
    let generation = match members.get("consumer_generation") {
        _ if version < 28 => None,
        Some(Value::Null) => Some(None),
        Some(number) if number.is_i64() => Some(number.as_i64()),
        _ => {
            return Err(wrong(
                "'consumer_generation' is a required property, an integer or null",
            ));
        }
    };
    let consumer_type = if version >= 38 {
        Some(text(members, "consumer_type")?)
    } else {
        None
    };
    let valid = |name: &String| {
        name.bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    if consumer_type.as_ref().is_some_and(|name| !valid(name)) {
        return Err(wrong(
            "'consumer_type' may hold capital letters, digits and '_' only",
        ));
    }
    Ok(Wanted {
        consumer,
        project_id: owner("project_id")?,
        user_id: owner("user_id")?,
        consumer_type,
        generation,
        amounts,
    })
}

async fn store(call: &Call, wanted: Vec<Wanted>) -> Result<Answer, Fault> {
    let now = Timestamp::now();
    let stored = call
        .store()
        .write(move |tx| placement_api::set_allocations(tx, &wanted, now))
        .await;
    stored.map_err(|refused| match refused {
        Refused::NoProvider(uuid) => Fault::bad_request(format!(
            "Allocation for resource provider '{uuid}' that does not exist."
        )),
        other => other.into(),
    })?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn set(call: Call) -> Result<Answer, Fault> {
    let body = call.json()?;
    let wanted = read_wanted(call.capture(0), &body, call.version, false)?;
    store(&call, vec![wanted]).await
}

pub(crate) async fn set_many(call: Call) -> Result<Answer, Fault> {
    let body = call.json()?;
    let consumers = body.as_object().filter(|consumers| !consumers.is_empty());
    let mut wanted = Vec::new();
    for (consumer, body) in
        consumers.ok_or_else(|| wrong("the body must be an object that is not empty"))?
    {
        wanted.push(read_wanted(consumer, body, call.version, true)?);
    }
    store(&call, wanted).await
}

pub(crate) async fn delete(call: Call) -> Result<Answer, Fault> {
    let missing = || Fault::not_found(format!("No allocations for consumer '{}'", call.capture(0)));
    let id = Uuid::parse_str(call.capture(0)).map_err(|_| missing())?;
    let now = Timestamp::now();
    let gone = call.store().write(move |tx| -> Result<bool, Refused> {
        if placement::allocations_of(tx, id)?.is_empty() {
            return Ok(false);
        }
        let nothing = Wanted {
            consumer: id,
            project_id: String::new(),
            user_id: String::new(),
            consumer_type: None,
            generation: None,
            amounts: BTreeMap::new(),
        };
        placement_api::set_allocations(tx, &[nothing], now)?;
        Ok(true)
    });
    if gone.await? {
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    } else {
        Err(missing())
    }
}
