//! Servers that do not hold what they use of their hosts: somebody took their claims away behind compute's back, for
//! example with Placement's `DELETE /allocations/{consumer}`. Nova's `nova-manage placement heal_allocations` makes such
//! claims anew, and leaves the servers alone that something is being done with. As there, a host that has not enough left
//! by now gives nothing, and amounts that are there are left as they are: somebody may have changed them on purpose.

use super::Finding;
use crate::instances::Kept;
use crate::{document, placement};
use sql::{Error, Row, Tx, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use types::server::Flavor;
use types::{HostName, ServerId, Timestamp, VmState};
use uuid::Uuid;

/// A server that holds nothing of some class that its flavor asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclaimed {
    /// The server.
    pub server: ServerId,
    /// Its project and user.
    pub owner: (String, String),
    /// Its host.
    pub host: HostName,
    /// The host's provider.
    pub provider: Uuid,
    /// The classes that it holds nothing of, and how much it should.
    pub amounts: Vec<(String, u64)>,
    /// A class of which the host has not enough left. Until it has, nothing is put back.
    pub full: Option<String>,
}

impl std::fmt::Display for Unclaimed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, host, .. } = self;
        let amounts: Vec<String> = self
            .amounts
            .iter()
            .map(|(class, wanted)| format!("0 of its {wanted} {class}"))
            .collect();
        let amounts = amounts.join(", ");
        write!(f, "server {server} is on host {host} and holds {amounts}")?;
        match &self.full {
            Some(class) => write!(
                f,
                "; the host has not enough {class} left to give it that: move servers away from it or raise what it gives \
                 out, and mend again"
            ),
            None => Ok(()),
        }
    }
}

// Asked for `deleted = 0` the database would go through all that are not deleted, for each part.
const PLACED: &str = "SELECT i.uuid, i.project_id, i.user_id, i.vm_state, i.flavor, i.kept, i.host, n.uuid, i.deleted FROM instances i \
     CROSS JOIN compute_nodes n WHERE n.host = i.host AND i.task_id IS NULL AND i.task_state IS NULL";
const HELD: &str = "SELECT a.consumer, a.provider, a.resource_class, a.amount FROM instances i CROSS JOIN allocations a \
     WHERE a.consumer = i.uuid";
/// What a provider may give out of each class, to one server at most, and gives out. Counters may be wrong themselves.
const GIVEN: &str = "SELECT n.resource_class, n.capacity, n.max_unit, COALESCE(SUM(a.amount), 0) FROM inventories n \
     LEFT JOIN allocations a ON a.provider = n.provider AND a.resource_class = n.resource_class WHERE n.provider = ? \
     GROUP BY n.resource_class, n.capacity, n.max_unit";

/// What servers hold, by server, provider and class.
type Held = BTreeMap<(ServerId, Uuid), BTreeMap<String, u64>>;
/// What one provider has of each class: capacity, most for one, given out.
type Given = BTreeMap<String, (u64, u64, u64)>;

/// Those among `these` servers (a condition with its parameters) that do not hold what they should.
pub(super) fn unclaimed(
    tx: &mut Tx<'_>,
    these: &str,
    params: &[Value],
) -> Result<Vec<Finding>, Error> {
    let placed = tx.query(&format!("{PLACED} AND {these}"), params)?;
    if placed.is_empty() {
        return Ok(Vec::new());
    }
    let mut held = Held::new();
    for row in tx.query(&format!("{HELD} AND {these}"), params)? {
        let its = held.entry((row.get(0)?, row.get(1)?)).or_default();
        its.insert(row.get(2)?, row.get(3)?);
    }
    let nothing = BTreeMap::new();
    let mut wishes = Wishes::default();
    let mut providers: BTreeMap<Uuid, Given> = BTreeMap::new();
    let mut found = Vec::new();
    for row in &placed {
        if row.get::<i64>(8)? != 0 {
            continue;
        }
        let (server, provider): (ServerId, Uuid) = (row.get(0)?, row.get(7)?);
        let Some(wanted) = wishes.of(row)? else {
            continue;
        };
        let holds = held.get(&(server, provider)).unwrap_or(&nothing);
        let amounts = missing(holds, wanted);
        if amounts.is_empty() {
            continue;
        }
        let given = match providers.entry(provider) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(given(tx, provider)?),
        };
        let full = give(given, &amounts);
        found.push(Finding::Unclaimed(Unclaimed {
            server,
            owner: (row.get(1)?, row.get(2)?),
            host: row.get(6)?,
            provider,
            amounts,
            full,
        }));
    }
    Ok(found)
}

/// What servers want of their hosts. Many have the same flavor.
#[derive(Default)]
struct Wishes {
    by_flavor: BTreeMap<(String, bool), Option<BTreeMap<String, u64>>>,
}

impl Wishes {
    /// `None`: that cannot be said for sure.
    fn of(&mut self, row: &Row) -> Result<Option<&BTreeMap<String, u64>>, Error> {
        let kept: Option<String> = row.get(5)?;
        let kept: Kept = kept
            .as_deref()
            .map(document)
            .transpose()?
            .unwrap_or_default();
        // A move that has failed on its way, or was abandoned, has left what was held somewhere between its two hosts.
        let state: String = row.get(3)?;
        if kept.unsettled.is_some() && state != VmState::Resized.as_str() {
            return Ok(None);
        }
        let key = (row.get::<String>(4)?, kept.boot_volume.is_some());
        if !self.by_flavor.contains_key(&key) {
            let mut flavor: Flavor = document(&key.0)?;
            if key.1 {
                // Its root disk is not on its host.
                flavor.root_gb = 0;
            }
            let wanted = flavor.claims().ok();
            self.by_flavor.insert(key.clone(), wanted);
        }
        Ok(self.by_flavor.get(&key).and_then(Option::as_ref))
    }
}

fn missing(holds: &BTreeMap<String, u64>, wanted: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let is_missing = |class: &String| holds.get(class).copied().unwrap_or(0) == 0;
    wanted
        .iter()
        .filter(|(class, wanted)| **wanted > 0 && is_missing(class))
        .map(|(class, wanted)| (class.clone(), *wanted))
        .collect()
}

fn given(tx: &mut Tx<'_>, provider: Uuid) -> Result<Given, Error> {
    let rows = tx.query(GIVEN, &[provider.into()])?;
    let one = |row: &Row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?)));
    rows.iter().map(one).collect()
}

/// Counts what is put back as given out, or says which class there is not enough of.
fn give(given: &mut Given, amounts: &[(String, u64)]) -> Option<String> {
    for (class, wanted) in amounts {
        let fits = given.get(class).is_some_and(|&(capacity, most, out)| {
            *wanted <= most && out.saturating_add(*wanted) <= capacity
        });
        if !fits {
            return Some(class.clone());
        }
    }
    for (class, wanted) in amounts {
        if let Some((_, _, out)) = given.get_mut(class) {
            *out = out.saturating_add(*wanted);
        }
    }
    None
}

/// The server holds again what it should.
pub(super) fn put_back(tx: &mut Tx<'_>, one: &Unclaimed, now: Timestamp) -> Result<(), Error> {
    if one.full.is_some() {
        return Ok(());
    }
    let owner = (one.owner.0.as_str(), one.owner.1.as_str());
    placement::restore(tx, one.server, owner, one.provider, &one.amounts, now)
}
