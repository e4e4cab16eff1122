//! All providers with what they have, read in one snapshot.

use crate::fault::Fault;
use db::placement::{self, Inventory, Provider};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A provider with all that filters look at.
#[derive(Clone, Debug)]
pub(crate) struct ProviderView {
    pub(crate) provider: Provider,
    pub(crate) inventories: BTreeMap<String, Inventory>,
    pub(crate) traits: BTreeSet<String>,
    /// The host aggregates that the node's host is in.
    pub(crate) aggregates: BTreeSet<Uuid>,
}

impl ProviderView {
    /// Whether it can give all these amounts to one consumer.
    pub(crate) fn has_room(&self, wanted: &BTreeMap<String, u64>) -> bool {
        wanted.iter().all(|(class, amount)| {
            self.inventories
                .get(class)
                .is_some_and(|inventory| fits(inventory, *amount))
        })
    }

    /// Whether it has the traits: of each set at least one, and none of the forbidden.
    pub(crate) fn has_traits(
        &self,
        required: &[BTreeSet<String>],
        forbidden: &BTreeSet<String>,
    ) -> bool {
        let has = |name: &String| self.traits.contains(name.as_str());
        required.iter().all(|any| any.iter().any(has)) && !forbidden.iter().any(has)
    }
}

fn fits(inventory: &Inventory, amount: u64) -> bool {
    let unit = amount >= inventory.min_unit
        && amount <= inventory.max_unit
        && amount.is_multiple_of(inventory.step_size.max(1));
    unit && inventory.used.saturating_add(amount) <= inventory.capacity()
}

/// Reads all providers, by name.
pub(crate) async fn read(store: &sql::Store) -> Result<Vec<ProviderView>, Fault> {
    let rows = store
        .read(|tx| {
            let providers = placement::providers(tx)?;
            let inventories = placement::all_inventories(tx)?;
            Ok::<_, sql::Error>((
                providers,
                inventories,
                db::hosts::nodes(tx)?,
                db::hosts::services(tx)?,
                db::aggregates::all(tx)?,
            ))
        })
        .await?;
    let (providers, inventories, nodes, services, aggregates) = rows;
    let mut of: BTreeMap<Uuid, BTreeMap<String, Inventory>> = BTreeMap::new();
    for (provider, inventory) in inventories {
        of.entry(provider)
            .or_default()
            .insert(inventory.resource_class.clone(), inventory);
    }
    let disabled: BTreeSet<_> = services
        .iter()
        .filter(|service| service.binary == "nova-compute" && service.disabled)
        .map(|service| &service.host)
        .collect();
    let traits_of: BTreeMap<Uuid, BTreeSet<String>> = nodes
        .iter()
        .map(|node| (node.uuid.0, node.traits(disabled.contains(&node.host))))
        .collect();
    let aggregates_of: BTreeMap<Uuid, BTreeSet<Uuid>> = nodes
        .iter()
        .map(|node| {
            let mine = aggregates
                .iter()
                .filter(|aggregate| aggregate.hosts.contains(&node.host.0));
            (node.uuid.0, mine.map(|aggregate| aggregate.uuid).collect())
        })
        .collect();
    let view = |provider: Provider| ProviderView {
        aggregates: aggregates_of
            .get(&provider.uuid)
            .cloned()
            .unwrap_or_default(),
        inventories: of.remove(&provider.uuid).unwrap_or_default(),
        traits: traits_of.get(&provider.uuid).cloned().unwrap_or_default(),
        provider,
    };
    Ok(providers.into_iter().map(view).collect())
}

/// One of them, or 404.
pub(crate) async fn read_one(store: &sql::Store, uuid: &str) -> Result<ProviderView, Fault> {
    let found = read(store)
        .await?
        .into_iter()
        .find(|view| view.provider.uuid.to_string() == uuid);
    found.ok_or_else(|| Fault::no_provider(uuid))
}
