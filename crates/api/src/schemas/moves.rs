//! Bodies of requests that take a server to another host.

use super::servers::host;
use super::{Range, Schema, boolean, null_action, object, wrapped};
use crate::mv;
use serde_json::{Value, json};
use types::Microversion;

const FIRST: Microversion = Microversion::MIN;

fn evacuate(more: &[&str], required: &[&str]) -> Value {
    let mut properties = json!({ "host": host(), "adminPass": { "type": "string" } });
    for name in more {
        properties[*name] = boolean();
    }
    wrapped("evacuate", object(required, properties))
}

/// `evacuate`.
pub static EVACUATE: Schema = Schema::new(&[
    Range::new(FIRST, || {
        evacuate(&["onSharedStorage"], &["onSharedStorage"])
    }),
    Range::new(mv::EVACUATE_FINDS_STORAGE, || evacuate(&[], &[])),
    Range::new(mv::EVACUATE_FORCE, || evacuate(&["force"], &[])),
    Range::new(mv::NO_FORCE, || evacuate(&[], &[])),
]);

fn migrate_live(finds_storage: bool, force: bool) -> Value {
    let mut host = host();
    host["type"] = json!(["string", "null"]);
    let mut block = boolean();
    let mut required = vec!["block_migration", "host"];
    if finds_storage {
        if let Some(values) = block["enum"].as_array_mut() {
            values.push("auto".into());
        }
    } else {
        required.insert(1, "disk_over_commit");
    }
    let mut properties = json!({ "host": host, "block_migration": block });
    if !finds_storage {
        properties["disk_over_commit"] = boolean();
    }
    if force {
        properties["force"] = boolean();
    }
    wrapped("os-migrateLive", object(&required, properties))
}

/// `os-migrateLive`.
pub static MIGRATE_LIVE: Schema = Schema::new(&[
    Range::new(FIRST, || migrate_live(false, false)),
    Range::new(mv::LIVE_FINDS_STORAGE, || migrate_live(true, false)),
    Range::new(mv::LIVE_FORCE, || migrate_live(true, true)),
    Range::new(mv::NO_FORCE, || migrate_live(true, false)),
]);
/// `force_complete` of a live migration.
pub static FORCE_COMPLETE: Schema =
    Schema::new(&[Range::new(FIRST, || null_action("force_complete"))]);
