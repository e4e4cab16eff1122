//! Inventories and allocations: what hosts have and who uses it. Claims are atomic.

use crate::hosts;
use sql::{Error, Row, Tx, Value};
use types::server::Resources;
use types::{HostName, NodeId, ServerId, Timestamp};
use uuid::Uuid;

/// An amount of one resource class on a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Inventory {
    /// For example `VCPU`.
    pub resource_class: String,
    /// All of it.
    pub total: u64,
    /// Not for consumers.
    pub reserved: u64,
    /// The least that one consumer may take.
    pub min_unit: u64,
    /// The most that one consumer may take.
    pub max_unit: u64,
    /// Consumers take multiples of this.
    pub step_size: u64,
    /// How often each unit may be given out.
    pub allocation_ratio: f64,
    /// Given out.
    pub used: u64,
}

impl Inventory {
    /// All of a host's amount, in steps of one.
    pub fn whole(resource_class: &str, total: u64, reserved: u64, allocation_ratio: f64) -> Self {
        Self {
            resource_class: resource_class.to_owned(),
            total,
            reserved: reserved.min(total),
            min_unit: 1,
            max_unit: total.max(1),
            step_size: 1,
            allocation_ratio,
            used: 0,
        }
    }

    /// What may be given out: `(total - reserved) * allocation_ratio`, rounded down.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub fn capacity(&self) -> u64 {
        (self.total.saturating_sub(self.reserved) as f64 * self.allocation_ratio) as u64
    }
}

/// A resource provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The id.
    pub uuid: Uuid,
    /// The name.
    pub name: String,
    /// Grows with each change of its inventories or allocations.
    pub generation: i64,
    /// Created.
    pub created_at: Timestamp,
    /// Last changed.
    pub updated_at: Option<Timestamp>,
}

/// An amount that a consumer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Who.
    pub consumer: Uuid,
    /// Of which provider.
    pub provider: Uuid,
    /// Of which class.
    pub resource_class: String,
    /// How much.
    pub amount: u64,
}

/// Who holds allocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// The id; a server's.
    pub uuid: Uuid,
    /// Its project.
    pub project_id: String,
    /// Its user.
    pub user_id: String,
    /// `INSTANCE`, `MIGRATION`.
    pub consumer_type: String,
    /// Grows with each change.
    pub generation: i64,
}

const INVENTORY: &str =
    "resource_class, total, reserved, min_unit, max_unit, step_size, allocation_ratio, used";

fn inventory_from(row: &Row, from: usize) -> Result<Inventory, Error> {
    Ok(Inventory {
        resource_class: row.get(from)?,
        total: row.get(from + 1)?,
        reserved: row.get(from + 2)?,
        min_unit: row.get(from + 3)?,
        max_unit: row.get(from + 4)?,
        step_size: row.get(from + 5)?,
        allocation_ratio: row.get(from + 6)?,
        used: row.get(from + 7)?,
    })
}

/// Creates or updates a provider and its inventories; what is given out stays given out, and an allocation ratio stays that
/// was there, for an operator may have set it.
pub fn put_provider(
    tx: &mut Tx<'_>,
    id: NodeId,
    name: &str,
    inventories: &[Inventory],
    now: Timestamp,
) -> Result<(), Error> {
    let exists = tx
        .query_opt(
            "SELECT generation FROM resource_providers WHERE uuid = ?",
            &[id.into()],
        )?
        .is_some();
    let known = self::inventories(tx, id.0)?;
    let inventories = with_ratios_of(&known, sorted(inventories));
    if exists {
        if known
            .iter()
            .map(without_use)
            .eq(inventories.iter().map(without_use))
        {
            return Ok(());
        }
        tx.post(
            "UPDATE resource_providers SET name = ?, generation = generation + 1, updated_at = ? WHERE uuid = ?",
            &[name.into(), now.into(), id.into()],
        )?;
    } else {
        tx.post(
            "INSERT INTO resource_providers (uuid, name, generation, created_at) VALUES (?, ?, 1, ?)",
            &[id.into(), name.into(), now.into()],
        )?;
    }
    for inventory in &inventories {
        put_inventory(tx, id.0, inventory)?;
    }
    Ok(())
}

fn with_ratios_of(known: &[Inventory], mut new: Vec<Inventory>) -> Vec<Inventory> {
    for one in &mut new {
        let mut known = known.iter();
        if let Some(old) = known.find(|old| old.resource_class == one.resource_class) {
            one.allocation_ratio = old.allocation_ratio;
        }
    }
    new
}

fn sorted(inventories: &[Inventory]) -> Vec<Inventory> {
    let mut sorted = inventories.to_vec();
    sorted.sort_by(|a, b| a.resource_class.cmp(&b.resource_class));
    sorted
}

fn without_use(inventory: &Inventory) -> Inventory {
    Inventory {
        used: 0,
        ..inventory.clone()
    }
}

fn put_inventory(tx: &mut Tx<'_>, provider: Uuid, inventory: &Inventory) -> Result<(), Error> {
    let i = inventory;
    let changed = tx.execute(
        "UPDATE inventories SET total = ?, reserved = ?, min_unit = ?, max_unit = ?, step_size = ?, allocation_ratio = ?, capacity = ? \
         WHERE provider = ? AND resource_class = ?",
        &[
            i.total.into(),
            i.reserved.into(),
            i.min_unit.into(),
            i.max_unit.into(),
            i.step_size.into(),
            i.allocation_ratio.into(),
            i.capacity().into(),
            provider.into(),
            (&i.resource_class).into(),
        ],
    )?;
    if changed == 1 {
        return Ok(());
    }
    tx.post(
        "INSERT INTO inventories (provider, resource_class, total, reserved, min_unit, max_unit, step_size, allocation_ratio, capacity, used) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        &[
            provider.into(),
            (&i.resource_class).into(),
            i.total.into(),
            i.reserved.into(),
            i.min_unit.into(),
            i.max_unit.into(),
            i.step_size.into(),
            i.allocation_ratio.into(),
            i.capacity().into(),
        ],
    )?;
    Ok(())
}

/// Gives a server what it needs on a node, all of it or nothing. `false`: the node has not enough any more (the
/// transaction must then be rolled back by the caller). A claim that the server already holds there is kept.
pub fn claim(
    tx: &mut Tx<'_>,
    consumer: ServerId,
    owner: (&str, &str),
    node: NodeId,
    wanted: &Resources,
    now: Timestamp,
) -> Result<bool, Error> {
    claim_amounts(tx, consumer, owner, node, &wanted.by_class(), now)
}

/// The same for amounts of any resource class, as the extra specs `resources:CLASS` of a flavor name them.
pub fn claim_amounts(
    tx: &mut Tx<'_>,
    consumer: ServerId,
    owner: (&str, &str),
    node: NodeId,
    wanted: &[(&str, u64)],
    now: Timestamp,
) -> Result<bool, Error> {
    let [held, left] = tx.queries([(HELD, &[consumer.into()]), (LEFT, &[node.into()])])?;
    settle(tx, consumer, owner, node, wanted, (&held, &left), now)
}

/// The same at a host, if administrators let servers go there; see [`crate::hosts`].
pub fn claim_at(
    tx: &mut Tx<'_>,
    consumer: ServerId,
    owner: (&str, &str),
    (host, node): (&HostName, NodeId),
    wanted: &[(&str, u64)],
    forced: bool,
    now: Timestamp,
) -> Result<bool, Error> {
    let [said, held, left] = tx.queries([
        (hosts::SAID_OF, &[host.into()]),
        (HELD, &[consumer.into()]),
        (LEFT, &[node.into()]),
    ])?;
    Ok(hosts::takes_servers(&said, forced)?
        && settle(tx, consumer, owner, node, wanted, (&held, &left), now)?)
}

/// Where a consumer holds something.
const HELD: &str = "SELECT provider FROM allocations WHERE consumer = ?";
/// What a node has.
const LEFT: &str =
    "SELECT resource_class, capacity, used, max_unit FROM inventories WHERE provider = ?";

/// Claims what fits, by what is `held` and what is `left`.
fn settle(
    tx: &mut Tx<'_>,
    consumer: ServerId,
    owner: (&str, &str),
    node: NodeId,
    wanted: &[(&str, u64)],
    (providers, left): (&[Row], &[Row]),
    now: Timestamp,
) -> Result<bool, Error> {
    for row in providers {
        if row.get::<NodeId>(0)? == node {
            return Ok(true);
        }
    }
    if wanted.is_empty() {
        // Whoever forgets the host meanwhile has to find out.
        touch_provider(tx, node.0, now)?;
        return Ok(true);
    }
    if !fits(left, wanted)? {
        return Ok(false);
    }
    let mut used = "UPDATE inventories SET used = CASE resource_class".to_owned();
    let mut params: Vec<Value> = Vec::new();
    for (class, amount) in wanted {
        used.push_str(" WHEN ? THEN used + ?");
        params.extend([(*class).into(), (*amount).into()]);
    }
    let classes = wanted.iter().map(|(class, _)| Value::from(*class));
    params.push(node.into());
    params.extend(classes);
    let marks = sql::placeholders(wanted.len());
    used.push_str(&format!(
        " ELSE used END WHERE provider = ? AND resource_class IN ({marks})"
    ));
    let used_params = params;
    let rows = vec!["(?, ?, ?, ?)"; wanted.len()].join(", ");
    let held = format!(
        "INSERT INTO allocations (consumer, provider, resource_class, amount) VALUES {rows}"
    );
    let row = |(class, amount): &(&str, u64)| -> [Value; 4] {
        [
            consumer.into(),
            node.into(),
            (*class).into(),
            (*amount).into(),
        ]
    };
    let held_params: Vec<Value> = wanted.iter().flat_map(row).collect();
    let (holds, holds_params) = if providers.is_empty() {
        let (sql, row) = newly_holding(tx, consumer, owner, now);
        (sql, row.to_vec())
    } else {
        let sql = "UPDATE consumers SET generation = generation + 1 WHERE uuid = ?";
        (sql.to_owned(), vec![consumer.into()])
    };
    tx.post_all(&[
        (&used, &used_params),
        (&held, &held_params),
        (TOUCH_PROVIDER, &[now.into(), node.into()]),
        (&holds, &holds_params),
    ])?;
    Ok(true)
}

/// Notes who holds something from now on. One that holds nothing begins anew, should there be a row of it.
fn newly_holding(
    tx: &Tx<'_>,
    consumer: ServerId,
    owner: (&str, &str),
    now: Timestamp,
) -> (String, [Value; 6]) {
    let row = [
        ("uuid", consumer.into()),
        ("project_id", owner.0.into()),
        ("user_id", owner.1.into()),
        ("consumer_type", "INSTANCE".into()),
        ("generation", 1i64.into()),
        ("created_at", now.into()),
    ];
    let sql = tx.dialect().upsert("consumers", &["uuid"], &row, &[]);
    (sql, row.map(|(_, value)| value))
}

/// Whether a node has as much left as is wanted.
fn fits(left: &[Row], wanted: &[(&str, u64)]) -> Result<bool, Error> {
    let mut fitting = 0;
    for row in left {
        let class: String = row.get(0)?;
        let (capacity, used, most): (u64, u64, u64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let amount = wanted.iter().find(|(name, _)| *name == class);
        if amount
            .is_some_and(|&(_, amount)| amount <= most && used.saturating_add(amount) <= capacity)
        {
            fitting += 1;
        }
    }
    Ok(fitting == wanted.len())
}

const TOUCH_PROVIDER: &str =
    "UPDATE resource_providers SET generation = generation + 1, updated_at = ? WHERE uuid = ?";

fn touch_provider(tx: &mut Tx<'_>, provider: Uuid, now: Timestamp) -> Result<(), Error> {
    tx.post(TOUCH_PROVIDER, &[now.into(), provider.into()])
}

/// Has a server hold these amounts at a provider, of classes that it holds nothing of there, whether there is room for them
/// or not; all else that it holds stays. Whoever calls has looked whether they fit.
pub fn restore(
    tx: &mut Tx<'_>,
    server: ServerId,
    owner: (&str, &str),
    provider: Uuid,
    amounts: &[(String, u64)],
    now: Timestamp,
) -> Result<(), Error> {
    let held = allocations_of(tx, server.0)?;
    for (class, amount) in amounts {
        tx.post(
            "UPDATE inventories SET used = used + ? WHERE provider = ? AND resource_class = ?",
            &[(*amount).into(), provider.into(), class.into()],
        )?;
        tx.post(
            "INSERT INTO allocations (consumer, provider, resource_class, amount) VALUES (?, ?, ?, ?)",
            &[
                server.into(),
                provider.into(),
                class.into(),
                (*amount).into(),
            ],
        )?;
    }
    touch_provider(tx, provider, now)?;
    if held.is_empty() {
        let (sql, row) = newly_holding(tx, server, owner, now);
        return tx.post(&sql, &row);
    }
    let sql = "UPDATE consumers SET generation = generation + 1 WHERE uuid = ?";
    tx.post(sql, &[server.into()])
}

/// Makes everything that `from` holds the holding of `to`, which held nothing: a server that moves leaves what it had
/// to its migration, until it is settled which of the two is given back. `kind` is the type of `to`.
pub fn hand_over(
    tx: &mut Tx<'_>,
    from: Uuid,
    to: Uuid,
    kind: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(owner) = consumer(tx, from)? else {
        return Ok(());
    };
    let sql = "UPDATE allocations SET consumer = ? WHERE consumer = ?";
    tx.post(sql, &[to.into(), from.into()])?;
    tx.post("DELETE FROM consumers WHERE uuid = ?", &[from.into()])?;
    let row: [Value; 5] = [
        to.into(),
        owner.project_id.into(),
        owner.user_id.into(),
        kind.into(),
        now.into(),
    ];
    tx.post(
        "INSERT INTO consumers (uuid, project_id, user_id, consumer_type, generation, created_at) VALUES (?, ?, ?, ?, 1, ?)",
        &row,
    )?;
    Ok(())
}

/// Takes back everything a server holds; nothing held is fine.
pub fn release(tx: &mut Tx<'_>, server: ServerId, now: Timestamp) -> Result<(), Error> {
    release_consumer(tx, server.0, now)
}

/// Takes back what a server holds of one provider, and leaves it what it holds of others.
pub fn release_at(
    tx: &mut Tx<'_>,
    server: ServerId,
    provider: Uuid,
    now: Timestamp,
) -> Result<(), Error> {
    let (here, elsewhere): (Vec<_>, Vec<_>) = allocations_of(tx, server.0)?
        .into_iter()
        .partition(|allocation| allocation.provider == provider);
    for allocation in here {
        tx.post(
            "UPDATE inventories SET used = used - ? WHERE provider = ? AND resource_class = ?",
            &[
                allocation.amount.into(),
                provider.into(),
                allocation.resource_class.into(),
            ],
        )?;
    }
    tx.post(
        "DELETE FROM allocations WHERE consumer = ? AND provider = ?",
        &[server.into(), provider.into()],
    )?;
    if elsewhere.is_empty() {
        tx.post("DELETE FROM consumers WHERE uuid = ?", &[server.into()])?;
    }
    touch_provider(tx, provider, now)
}

/// The same for any consumer.
pub fn release_consumer(tx: &mut Tx<'_>, consumer: Uuid, now: Timestamp) -> Result<(), Error> {
    let held = allocations_of(tx, consumer)?;
    for allocation in &held {
        tx.post(
            "UPDATE inventories SET used = used - ? WHERE provider = ? AND resource_class = ?",
            &[
                allocation.amount.into(),
                allocation.provider.into(),
                (&allocation.resource_class).into(),
            ],
        )?;
    }
    let mut providers: Vec<Uuid> = held.iter().map(|allocation| allocation.provider).collect();
    providers.dedup();
    for provider in providers {
        touch_provider(tx, provider, now)?;
    }
    tx.post(
        "DELETE FROM allocations WHERE consumer = ?",
        &[consumer.into()],
    )?;
    tx.post("DELETE FROM consumers WHERE uuid = ?", &[consumer.into()])?;
    Ok(())
}

/// Removes a provider with its inventories, and takes back what is held of it.
pub fn remove_provider(tx: &mut Tx<'_>, provider: Uuid, now: Timestamp) -> Result<(), Error> {
    let mut consumers: Vec<Uuid> = allocations_on(tx, provider)?
        .into_iter()
        .map(|allocation| allocation.consumer)
        .collect();
    consumers.dedup();
    for consumer in consumers {
        release_at(tx, ServerId(consumer), provider, now)?;
    }
    tx.post(
        "DELETE FROM inventories WHERE provider = ?",
        &[provider.into()],
    )?;
    tx.post(
        "DELETE FROM resource_providers WHERE uuid = ?",
        &[provider.into()],
    )?;
    Ok(())
}

/// Everything a consumer holds.
pub fn allocations_of(tx: &mut Tx<'_>, consumer: Uuid) -> Result<Vec<Allocation>, Error> {
    let sql = "SELECT consumer, provider, resource_class, amount FROM allocations WHERE consumer = ? ORDER BY provider, resource_class";
    tx.query(sql, &[consumer.into()])?
        .iter()
        .map(allocation_from)
        .collect()
}

/// Everything held of a provider.
pub fn allocations_on(tx: &mut Tx<'_>, provider: Uuid) -> Result<Vec<Allocation>, Error> {
    let sql = "SELECT consumer, provider, resource_class, amount FROM allocations WHERE provider = ? ORDER BY consumer, resource_class";
    tx.query(sql, &[provider.into()])?
        .iter()
        .map(allocation_from)
        .collect()
}

fn allocation_from(row: &Row) -> Result<Allocation, Error> {
    Ok(Allocation {
        consumer: row.get(0)?,
        provider: row.get(1)?,
        resource_class: row.get(2)?,
        amount: row.get(3)?,
    })
}

/// A consumer.
pub fn consumer(tx: &mut Tx<'_>, id: Uuid) -> Result<Option<Consumer>, Error> {
    let row = tx.query_opt(
        "SELECT uuid, project_id, user_id, consumer_type, generation FROM consumers WHERE uuid = ?",
        &[id.into()],
    )?;
    row.map(|row| {
        Ok(Consumer {
            uuid: row.get(0)?,
            project_id: row.get(1)?,
            user_id: row.get(2)?,
            consumer_type: row.get(3)?,
            generation: row.get(4)?,
        })
    })
    .transpose()
}

/// What a project (and one of its users) holds, by class.
pub fn usages(
    tx: &mut Tx<'_>,
    project_id: &str,
    user_id: Option<&str>,
) -> Result<Vec<(String, u64)>, Error> {
    let mut sql = "SELECT a.resource_class, SUM(a.amount) FROM allocations a JOIN consumers c ON c.uuid = a.consumer WHERE c.project_id = ?".to_owned();
    let mut params: Vec<Value> = vec![project_id.into()];
    if let Some(user) = user_id {
        sql.push_str(" AND c.user_id = ?");
        params.push(user.into());
    }
    sql.push_str(" GROUP BY a.resource_class ORDER BY a.resource_class");
    tx.query(&sql, &params)?
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// All providers, by name.
pub fn providers(tx: &mut Tx<'_>) -> Result<Vec<Provider>, Error> {
    let sql = "SELECT uuid, name, generation, created_at, updated_at FROM resource_providers ORDER BY name";
    tx.query(sql, &[])?
        .iter()
        .map(|row| {
            Ok(Provider {
                uuid: row.get(0)?,
                name: row.get(1)?,
                generation: row.get(2)?,
                created_at: row.get(3)?,
                updated_at: row.get(4)?,
            })
        })
        .collect()
}

/// The inventories of a provider, by class.
pub fn inventories(tx: &mut Tx<'_>, provider: Uuid) -> Result<Vec<Inventory>, Error> {
    let sql =
        format!("SELECT {INVENTORY} FROM inventories WHERE provider = ? ORDER BY resource_class");
    tx.query(&sql, &[provider.into()])?
        .iter()
        .map(|row| inventory_from(row, 0))
        .collect()
}

/// The inventories of all providers.
pub fn all_inventories(tx: &mut Tx<'_>) -> Result<Vec<(Uuid, Inventory)>, Error> {
    let sql =
        format!("SELECT provider, {INVENTORY} FROM inventories ORDER BY provider, resource_class");
    tx.query(&sql, &[])?
        .iter()
        .map(|row| Ok((row.get(0)?, inventory_from(row, 1)?)))
        .collect()
}

/// Takes back what a consumer holds of one provider; what it holds of others stays.
pub fn release_on(
    tx: &mut Tx<'_>,
    consumer: ServerId,
    provider: NodeId,
    now: Timestamp,
) -> Result<(), Error> {
    let held = allocations_of(tx, consumer.0)?;
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|one| one.provider == provider.0);
    if here.is_empty() {
        return Ok(());
    }
    if elsewhere.is_empty() {
        return release(tx, consumer, now);
    }
    for one in &here {
        let params = [
            one.amount.into(),
            one.provider.into(),
            (&one.resource_class).into(),
        ];
        let sql =
            "UPDATE inventories SET used = used - ? WHERE provider = ? AND resource_class = ?";
        tx.post(sql, &params)?;
    }
    let sql = "DELETE FROM allocations WHERE consumer = ? AND provider = ?";
    tx.post(sql, &[consumer.into(), provider.into()])?;
    touch_provider(tx, provider.0, now)
}
