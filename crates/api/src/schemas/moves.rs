//! Bodies of requests that take a server to another host.

use super::servers::host;
use super::{Range, Schema, boolean, object, wrapped};
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
