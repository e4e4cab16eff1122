//! The flavors of a fresh cloud.

use anyhow::Result;
use db::flavors::{self, Record};
use sql::Store;
use std::collections::BTreeMap;
use types::Timestamp;
use types::server::Flavor;

/// Id, name, MiB of memory, virtual CPUs, GiB of disk.
const FRESH: [(&str, &str, u32, u32, u32); 3] = [
    ("42", "m1.nano", 128, 1, 1),
    ("1", "m1.tiny", 512, 1, 1),
    ("2", "m1.small", 2048, 1, 20),
];

/// Makes the flavors of a fresh cloud, when there is none at all.
pub(crate) async fn fill(store: &Store) -> Result<()> {
    store
        .write(|tx| -> Result<(), flavors::InsertError> {
            if !flavors::all(tx)?.is_empty() {
                return Ok(());
            }
            for (id, name, memory_mb, vcpus, root_gb) in FRESH {
                flavors::insert(tx, &record(id, name, memory_mb, vcpus, root_gb))?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

fn record(id: &str, name: &str, memory_mb: u32, vcpus: u32, root_gb: u32) -> Record {
    let flavor = Flavor {
        id: id.into(),
        name: name.to_owned(),
        memory_mb,
        vcpus,
        root_gb,
        ephemeral_gb: 0,
        swap_mb: 0,
        rxtx_factor: 1.0,
        extra_specs: BTreeMap::new(),
    };
    Record {
        row: 0,
        flavor,
        description: None,
        is_public: true,
        disabled: false,
        created_at: Timestamp::now(),
        updated_at: None,
    }
}
