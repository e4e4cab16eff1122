//! What only the Placement API asks of inventories and allocations: sums by consumer type, and writes with generations.

use crate::placement::{self, Inventory, Provider};
use sql::{Error, Tx, Value};
use std::collections::{BTreeMap, BTreeSet};
use types::Timestamp;
use uuid::Uuid;

/// Why a write is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The database.
    #[error(transparent)]
    Sql(#[from] Error),
    /// There is no such provider.
    #[error("no such resource provider {0}")]
    NoProvider(Uuid),
    /// Another provider has the name or the id.
    #[error("the name or id is in use")]
    Duplicate,
    /// The provider changed since it was read.
    #[error("resource provider generation conflict")]
    Generation,
    /// The consumer changed since it was read.
    #[error("consumer generation conflict - expected {expected} but got {given}")]
    ConsumerGeneration {
        /// What it is; `null` for a consumer that does not exist.
        expected: String,
        /// What the request says.
        given: String,
    },
    /// Something of the class is allocated.
    #[error("Inventory for '{class}' on resource provider '{provider}' in use.")]
    InUse {
        /// The class.
        class: String,
        /// The provider.
        provider: Uuid,
    },
    /// The provider has none of the class.
    #[error("No inventory of class {class} on resource provider '{provider}'.")]
    NoInventory {
        /// The class.
        class: String,
        /// The provider.
        provider: Uuid,
    },
    /// Less is left than asked for.
    #[error(
        "Unable to create allocation for '{class}' on resource provider '{provider}'. The requested amount would exceed the capacity."
    )]
    Capacity {
        /// The class.
        class: String,
        /// The provider.
        provider: Uuid,
    },
    /// Not within the units that one consumer may take.
    #[error(
        "Unable to create allocation for '{class}' on resource provider '{provider}'. The requested amount would violate inventory constraints."
    )]
    Units {
        /// The class.
        class: String,
        /// The provider.
        provider: Uuid,
    },
}

/// One provider.
pub fn provider(tx: &mut Tx<'_>, id: Uuid) -> Result<Option<Provider>, Error> {
    let sql = "SELECT uuid, name, generation, created_at, updated_at FROM resource_providers WHERE uuid = ?";
    let row = tx.query_opt(sql, &[id.into()])?;
    row.map(|row| {
        Ok(Provider {
            uuid: row.get(0)?,
            name: row.get(1)?,
            generation: row.get(2)?,
            created_at: row.get(3)?,
            updated_at: row.get(4)?,
        })
    })
    .transpose()
}

fn owned_by(project: &str, user: Option<&str>) -> (&'static str, Vec<Value>) {
    match user {
        Some(user) => (
            "c.project_id = ? AND c.user_id = ?",
            vec![project.into(), user.into()],
        ),
        None => ("c.project_id = ?", vec![project.into()]),
    }
}

/// What a project (and one of its users) holds: consumer type, class, amount.
pub fn usages_by_type(
    tx: &mut Tx<'_>,
    project: &str,
    user: Option<&str>,
) -> Result<Vec<(String, String, u64)>, Error> {
    let (owner, params) = owned_by(project, user);
    let sql = format!(
        "SELECT c.consumer_type, a.resource_class, SUM(a.amount) FROM allocations a JOIN consumers c ON c.uuid = a.consumer \
         WHERE {owner} GROUP BY c.consumer_type, a.resource_class ORDER BY c.consumer_type, a.resource_class"
    );
    tx.query(&sql, &params)?
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .collect()
}

/// How many consumers of each type a project (and one of its users) has.
pub fn consumers_by_type(
    tx: &mut Tx<'_>,
    project: &str,
    user: Option<&str>,
) -> Result<Vec<(String, u64)>, Error> {
    let (owner, params) = owned_by(project, user);
    let sql = format!(
        "SELECT c.consumer_type, COUNT(*) FROM consumers c WHERE {owner} GROUP BY c.consumer_type"
    );
    tx.query(&sql, &params)?
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// The consumers that hold something of a provider, with their generations.
pub fn consumers_on(tx: &mut Tx<'_>, provider: Uuid) -> Result<BTreeMap<Uuid, i64>, Error> {
    let sql = "SELECT DISTINCT c.uuid, c.generation FROM consumers c JOIN allocations a ON a.consumer = c.uuid WHERE a.provider = ?";
    tx.query(sql, &[provider.into()])?
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Creates a provider without inventories.
pub fn create_provider(
    tx: &mut Tx<'_>,
    id: Uuid,
    name: &str,
    now: Timestamp,
) -> Result<(), Refused> {
    let taken = tx.query_opt(
        "SELECT uuid FROM resource_providers WHERE uuid = ? OR name = ?",
        &[id.into(), name.into()],
    )?;
    if taken.is_some() {
        return Err(Refused::Duplicate);
    }
    let row: [Value; 4] = [id.into(), name.into(), now.into(), now.into()];
    tx.post("INSERT INTO resource_providers (uuid, name, generation, created_at, updated_at) VALUES (?, ?, 0, ?, ?)", &row)?;
    Ok(())
}

/// Gives a provider another name. Does not change the generation (Placement API, "Update resource provider").
pub fn rename_provider(
    tx: &mut Tx<'_>,
    id: Uuid,
    name: &str,
    now: Timestamp,
) -> Result<(), Refused> {
    let taken = tx.query_opt(
        "SELECT uuid FROM resource_providers WHERE uuid <> ? AND name = ?",
        &[id.into(), name.into()],
    )?;
    if taken.is_some() {
        return Err(Refused::Duplicate);
    }
    let changed = tx.execute(
        "UPDATE resource_providers SET name = ?, updated_at = ? WHERE uuid = ?",
        &[name.into(), now.into(), id.into()],
    )?;
    if changed == 0 {
        Err(Refused::NoProvider(id))
    } else {
        Ok(())
    }
}

/// Removes a provider with its inventories, if nothing of it is allocated.
pub fn delete_provider(tx: &mut Tx<'_>, id: Uuid) -> Result<(), Refused> {
    if let Some(used) = placement::allocations_on(tx, id)?.into_iter().next() {
        return Err(Refused::InUse {
            class: used.resource_class,
            provider: id,
        });
    }
    tx.post("DELETE FROM inventories WHERE provider = ?", &[id.into()])?;
    let gone = tx.execute(
        "DELETE FROM resource_providers WHERE uuid = ?",
        &[id.into()],
    )?;
    if gone == 0 {
        Err(Refused::NoProvider(id))
    } else {
        Ok(())
    }
}

/// Counts the generation up, if it is still `generation`.
fn advance(
    tx: &mut Tx<'_>,
    id: Uuid,
    generation: Option<i64>,
    now: Timestamp,
) -> Result<(), Refused> {
    let known = provider(tx, id)?.ok_or(Refused::NoProvider(id))?;
    if generation.is_some_and(|expected| expected != known.generation) {
        return Err(Refused::Generation);
    }
    tx.post(
        "UPDATE resource_providers SET generation = generation + 1, updated_at = ? WHERE uuid = ?",
        &[now.into(), id.into()],
    )?;
    Ok(())
}

/// Makes these the inventories of a provider. What is allocated stays; a class of which something is cannot go.
pub fn set_inventories(
    tx: &mut Tx<'_>,
    id: Uuid,
    generation: Option<i64>,
    wanted: &[Inventory],
    now: Timestamp,
) -> Result<(), Refused> {
    advance(tx, id, generation, now)?;
    for old in placement::inventories(tx, id)? {
        if wanted
            .iter()
            .any(|new| new.resource_class == old.resource_class)
        {
            continue;
        }
        if old.used > 0 {
            return Err(Refused::InUse {
                class: old.resource_class,
                provider: id,
            });
        }
        tx.post(
            "DELETE FROM inventories WHERE provider = ? AND resource_class = ?",
            &[id.into(), old.resource_class.into()],
        )?;
    }
    for inventory in wanted {
        put_inventory(tx, id, inventory)?;
    }
    Ok(())
}

fn put_inventory(tx: &mut Tx<'_>, provider: Uuid, i: &Inventory) -> Result<(), Error> {
    let values: [Value; 9] = [
        i.total.into(),
        i.reserved.into(),
        i.min_unit.into(),
        i.max_unit.into(),
        i.step_size.into(),
        i.allocation_ratio.into(),
        i.capacity().into(),
        provider.into(),
        (&i.resource_class).into(),
    ];
    let changed = tx.execute(
        "UPDATE inventories SET total = ?, reserved = ?, min_unit = ?, max_unit = ?, step_size = ?, allocation_ratio = ?, capacity = ? \
         WHERE provider = ? AND resource_class = ?",
        &values,
    )?;
    if changed == 0 {
        tx.post(
            "INSERT INTO inventories (total, reserved, min_unit, max_unit, step_size, allocation_ratio, capacity, provider, resource_class, used) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            &values,
        )?;
    }
    Ok(())
}

/// What a consumer shall hold from now on.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The consumer.
    pub consumer: Uuid,
    /// Its project.
    pub project_id: String,
    /// Its user.
    pub user_id: String,
    /// Its type; `None` leaves it.
    pub consumer_type: Option<String>,
    /// What its generation must be: unchecked, or not there (`Some(None)`), or the number.
    pub generation: Option<Option<i64>>,
    /// Amounts by provider and class; nothing removes the consumer.
    pub amounts: BTreeMap<(Uuid, String), u64>,
}

/// Replaces what consumers hold, all or nothing: an error must roll the transaction back.
pub fn set_allocations(tx: &mut Tx<'_>, wanted: &[Wanted], now: Timestamp) -> Result<(), Refused> {
    let mut touched: BTreeSet<Uuid> = BTreeSet::new();
    // First give everything back, so that consumers can exchange what they hold.
    for consumer in wanted {
        check_consumer(tx, consumer)?;
        for held in placement::allocations_of(tx, consumer.consumer)? {
            touched.insert(held.provider);
            tx.post(
                "UPDATE inventories SET used = used - ? WHERE provider = ? AND resource_class = ?",
                &[
                    held.amount.into(),
                    held.provider.into(),
                    held.resource_class.into(),
                ],
            )?;
        }
        tx.post(
            "DELETE FROM allocations WHERE consumer = ?",
            &[consumer.consumer.into()],
        )?;
    }
    for consumer in wanted {
        for ((provider, class), amount) in &consumer.amounts {
            touched.insert(*provider);
            take(tx, consumer.consumer, *provider, class, *amount)?;
        }
        put_consumer(tx, consumer, now)?;
    }
    for provider in touched {
        advance(tx, provider, None, now)?;
    }
    Ok(())
}

fn check_consumer(tx: &mut Tx<'_>, wanted: &Wanted) -> Result<(), Refused> {
    let Some(given) = wanted.generation else {
        return Ok(());
    };
    let known = placement::consumer(tx, wanted.consumer)?.map(|consumer| consumer.generation);
    if known == given {
        return Ok(());
    }
    let text = |generation: Option<i64>| {
        generation.map_or_else(|| "null".to_owned(), |number| number.to_string())
    };
    Err(Refused::ConsumerGeneration {
        expected: text(known),
        given: text(given),
    })
}

fn take(
    tx: &mut Tx<'_>,
    consumer: Uuid,
    provider: Uuid,
    class: &str,
    amount: u64,
) -> Result<(), Refused> {
    if self::provider(tx, provider)?.is_none() {
        return Err(Refused::NoProvider(provider));
    }
    let inventories = placement::inventories(tx, provider)?;
    let class = class.to_owned();
    let Some(inventory) = inventories
        .iter()
        .find(|inventory| inventory.resource_class == class)
    else {
        return Err(Refused::NoInventory { class, provider });
    };
    if amount < inventory.min_unit
        || amount > inventory.max_unit
        || !amount.is_multiple_of(inventory.step_size.max(1))
    {
        return Err(Refused::Units { class, provider });
    }
    if inventory.used.saturating_add(amount) > inventory.capacity() {
        return Err(Refused::Capacity { class, provider });
    }
    tx.post(
        "UPDATE inventories SET used = used + ? WHERE provider = ? AND resource_class = ?",
        &[amount.into(), provider.into(), (&class).into()],
    )?;
    tx.post(
        "INSERT INTO allocations (consumer, provider, resource_class, amount) VALUES (?, ?, ?, ?)",
        &[
            consumer.into(),
            provider.into(),
            class.into(),
            amount.into(),
        ],
    )?;
    Ok(())
}

fn put_consumer(tx: &mut Tx<'_>, wanted: &Wanted, now: Timestamp) -> Result<(), Error> {
    let id = wanted.consumer;
    if wanted.amounts.is_empty() {
        tx.post("DELETE FROM consumers WHERE uuid = ?", &[id.into()])?;
        return Ok(());
    }
    if let Some(consumer_type) = &wanted.consumer_type {
        tx.post(
            "UPDATE consumers SET consumer_type = ? WHERE uuid = ?",
            &[consumer_type.into(), id.into()],
        )?;
    }
    let changed = tx.execute(
        "UPDATE consumers SET project_id = ?, user_id = ?, generation = generation + 1 WHERE uuid = ?",
        &[(&wanted.project_id).into(), (&wanted.user_id).into(), id.into()],
    )?;
    if changed == 0 {
        let consumer_type = wanted
            .consumer_type
            .clone()
            .unwrap_or_else(|| "unknown".to_owned());
        tx.post(
            "INSERT INTO consumers (uuid, project_id, user_id, consumer_type, generation, created_at) VALUES (?, ?, ?, ?, 1, ?)",
            &[id.into(), (&wanted.project_id).into(), (&wanted.user_id).into(), consumer_type.into(), now.into()],
        )?;
    }
    Ok(())
}
