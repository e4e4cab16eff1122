//! Inventories of a provider.

use crate::dispatch::{Answer, Call};
use crate::fault::{CONCURRENT_UPDATE, Fault};
use crate::names;
use crate::providers::{changed, object, path_uuid, wrong};
use crate::view::{self, ProviderView};
use db::placement::Inventory;
use db::placement_api::{self, Refused};
use http::StatusCode;
use serde_json::{Map, Value, json};
use types::Timestamp;
use uuid::Uuid;

/// The largest amount that Placement knows.
const MOST: u64 = 2_147_483_647;

fn show_inventory(inventory: &Inventory) -> Value {
    json!({
        "total": inventory.total,
        "reserved": inventory.reserved,
        "min_unit": inventory.min_unit,
        "max_unit": inventory.max_unit,
        "step_size": inventory.step_size,
        "allocation_ratio": inventory.allocation_ratio,
    })
}

fn show_all(view: &ProviderView) -> Answer {
    let shown: Map<String, Value> = view
        .inventories
        .iter()
        .map(|(class, inventory)| (class.clone(), show_inventory(inventory)))
        .collect();
    Answer::json(
        json!({"inventories": shown, "resource_provider_generation": view.provider.generation}),
    )
    .modified(Some(changed(&view.provider)))
}

fn show_one(view: &ProviderView, class: &str) -> Result<Answer, Fault> {
    let inventory = view.inventories.get(class);
    let inventory = inventory.ok_or_else(|| {
        Fault::not_found(format!(
            "No inventory of class {class} for {}",
            view.provider.uuid
        ))
    })?;
    let mut shown = show_inventory(inventory);
    shown["resource_provider_generation"] = view.provider.generation.into();
    Ok(Answer::json(shown).modified(Some(changed(&view.provider))))
}

pub(crate) async fn list(call: Call) -> Result<Answer, Fault> {
    Ok(show_all(
        &view::read_one(call.store(), call.capture(0)).await?,
    ))
}

pub(crate) async fn show(call: Call) -> Result<Answer, Fault> {
    show_one(
        &view::read_one(call.store(), call.capture(0)).await?,
        call.capture(1),
    )
}

const FIELDS: [&str; 6] = [
    "total",
    "reserved",
    "min_unit",
    "max_unit",
    "step_size",
    "allocation_ratio",
];

/// One inventory of a request, with Placement's defaults.
fn read_inventory(
    class: &str,
    fields: &Map<String, Value>,
    version: u16,
) -> Result<Inventory, Fault> {
    let amount = |name: &str, least: u64, otherwise: Option<u64>| match fields.get(name) {
        None => otherwise.ok_or_else(|| wrong(&format!("'{name}' is a required property"))),
        Some(value) => {
            let amount = value
                .as_u64()
                .filter(|amount| (least..=MOST).contains(amount));
            amount.ok_or_else(|| {
                wrong(&format!(
                    "{value} is not an integer from {least} to {MOST} for '{name}'"
                ))
            })
        }
    };
    let ratio = match fields.get("allocation_ratio") {
        None => 1.0,
        Some(value) => {
            let ratio = value
                .as_f64()
                .filter(|ratio| *ratio >= 0.0 && ratio.is_finite());
            ratio.ok_or_else(|| {
                wrong(&format!(
                    "{value} is not a number of at least 0 for 'allocation_ratio'"
                ))
            })?
        }
    };
    if !names::is_class(class) {
        return Err(Fault::bad_request(format!(
            "Unknown resource class in inventory: No such resource class {class}."
        )));
    }
    let inventory = Inventory {
        resource_class: class.to_owned(),
        total: amount("total", 1, None)?,
        reserved: amount("reserved", 0, Some(0))?,
        min_unit: amount("min_unit", 1, Some(1))?,
        max_unit: amount("max_unit", 1, Some(MOST))?,
        step_size: amount("step_size", 1, Some(1))?,
        allocation_ratio: ratio,
        used: 0,
    };
    // From 1.26 all of it may be reserved.
    let enough = if version >= 26 {
        inventory.reserved <= inventory.total
    } else {
        inventory.reserved < inventory.total
    };
    if enough {
        return Ok(inventory);
    }
    Err(Fault::bad_request(format!(
        "Invalid inventory for '{class}': the reserved value is greater than {}total.",
        if version >= 26 { "" } else { "or equal to " }
    )))
}

fn generation(members: &Map<String, Value>) -> Result<i64, Fault> {
    let generation = members
        .get("resource_provider_generation")
        .and_then(Value::as_i64);
    generation.ok_or_else(|| {
        wrong("'resource_provider_generation' is a required property and an integer")
    })
}

async fn store(
    call: &Call,
    uuid: Uuid,
    generation: Option<i64>,
    change: Change,
) -> Result<ProviderView, Fault> {
    let now = Timestamp::now();
    let stored = call.store().write(move |tx| {
        let known = db::placement::inventories(tx, uuid)?;
        let wanted = change.apply(known);
        placement_api::set_inventories(tx, uuid, generation, &wanted, now)
    });
    stored.await?;
    view::read_one(call.store(), &uuid.to_string()).await
}

/// What becomes of a provider's inventories.
#[derive(Clone)]
enum Change {
    All(Vec<Inventory>),
    One(Inventory),
    Without(String),
}

impl Change {
    fn apply(&self, mut known: Vec<Inventory>) -> Vec<Inventory> {
        match self {
            Self::All(wanted) => return wanted.clone(),
            Self::One(wanted) => {
                known.retain(|inventory| inventory.resource_class != wanted.resource_class);
                known.push(wanted.clone());
            }
            Self::Without(class) => known.retain(|inventory| inventory.resource_class != *class),
        }
        known
    }
}

pub(crate) async fn replace(call: Call) -> Result<Answer, Fault> {
    let uuid = path_uuid(&call)?;
    let body = call.json()?;
    let members = object(&body, &["resource_provider_generation", "inventories"])?;
    let wanted = members
        .get("inventories")
        .and_then(Value::as_object)
        .ok_or_else(|| wrong("'inventories' is a required property"))?;
    let mut inventories = Vec::new();
    for (class, fields) in wanted {
        inventories.push(read_inventory(
            class,
            object(fields, &FIELDS)?,
            call.version,
        )?);
    }
    let view = store(
        &call,
        uuid,
        Some(generation(members)?),
        Change::All(inventories),
    )
    .await?;
    Ok(show_all(&view))
}

pub(crate) async fn update(call: Call) -> Result<Answer, Fault> {
    let uuid = path_uuid(&call)?;
    let class = call.capture(1).to_owned();
    let body = call.json()?;
    let known: Vec<&str> = FIELDS
        .iter()
        .copied()
        .chain(["resource_provider_generation"])
        .collect();
    let members = object(&body, &known)?;
    let inventory = read_inventory(&class, members, call.version)?;
    let view = view::read_one(call.store(), &uuid.to_string()).await?;
    if !view.inventories.contains_key(&class) {
        return Err(Fault::bad_request(format!(
            "No inventory record with resource class {class} for resource provider {uuid}"
        )));
    }
    let view = store(
        &call,
        uuid,
        Some(generation(members)?),
        Change::One(inventory),
    )
    .await?;
    show_one(&view, &class)
}

pub(crate) async fn create(call: Call) -> Result<Answer, Fault> {
    let uuid = path_uuid(&call)?;
    let body = call.json()?;
    let known: Vec<&str> = FIELDS
        .iter()
        .copied()
        .chain(["resource_class", "resource_provider_generation"])
        .collect();
    let members = object(&body, &known)?;
    let class = members.get("resource_class").and_then(Value::as_str);
    let class = class
        .ok_or_else(|| wrong("'resource_class' is a required property"))?
        .to_owned();
    let inventory = read_inventory(&class, members, call.version)?;
    let expected = members
        .get("resource_provider_generation")
        .and_then(Value::as_i64);
    let view = view::read_one(call.store(), &uuid.to_string()).await?;
    if view.inventories.contains_key(&class) {
        let detail = format!("Update conflict: inventory of class {class} exists for {uuid}");
        return Err(Fault::conflict(detail, CONCURRENT_UPDATE));
    }
    // So that two who create the same inventory at once do not both succeed.
    let expected = expected.unwrap_or(view.provider.generation);
    let view = store(&call, uuid, Some(expected), Change::One(inventory)).await?;
    let location = format!("/resource_providers/{uuid}/inventories/{class}");
    Ok(show_one(&view, &class)?
        .with_status(StatusCode::CREATED)
        .at(location))
}

pub(crate) async fn delete(call: Call) -> Result<Answer, Fault> {
    let uuid = path_uuid(&call)?;
    let class = call.capture(1);
    let view = view::read_one(call.store(), &uuid.to_string()).await?;
    if !view.inventories.contains_key(class) {
        return Err(Fault::not_found(format!(
            "No inventory of class {class} found for delete"
        )));
    }
    let now = Timestamp::now();
    let change = Change::Without(class.to_owned());
    let gone = call.store().write(move |tx| {
        let wanted = change.apply(db::placement::inventories(tx, uuid)?);
        placement_api::set_inventories(tx, uuid, None, &wanted, now)
    });
    gone.await?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn clear(call: Call) -> Result<Answer, Fault> {
    let uuid = path_uuid(&call)?;
    let now = Timestamp::now();
    let cleared = call.store().write(move |tx| -> Result<(), Refused> {
        placement_api::set_inventories(tx, uuid, None, &[], now)
    });
    cleared.await?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}
