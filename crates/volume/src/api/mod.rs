//! Handlers: what each route does.

pub(crate) mod attachments;
pub(crate) mod groups;
mod info;
mod messages;
mod metadata;
mod old_attach;
mod quotas;
mod snapshots;
mod transfers;
mod types;
mod volume_actions;
mod volumes;

use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::service::Service;
use http::{Method, StatusCode};

/// The first parts of paths; what else stands there is a project.
const COLLECTIONS: &[&str] = &[
    "volumes",
    "snapshots",
    "types",
    "qos-specs",
    "attachments",
    "os-volume-transfer",
    "volume-transfers",
    "messages",
    "groups",
    "group_types",
    "group_snapshots",
    "os-quota-sets",
    "os-quota-class-sets",
    "limits",
    "extensions",
    "os-availability-zone",
    "os-services",
    "os-hosts",
    "scheduler-stats",
    "capabilities",
    "default-types",
    "resource_filters",
    "clusters",
    "workers",
    "backups",
    "os-volume-manage",
    "manageable_volumes",
    "os-snapshot-manage",
    "manageable_snapshots",
    "consistencygroups",
    "cgsnapshots",
];

/// Whether this is the first part of a path without a project.
pub fn is_collection(name: &str) -> bool {
    COLLECTIONS.contains(&name)
}

/// Finds and runs the handler.
pub async fn dispatch(service: &Service, call: Call) -> Result<Reply> {
    let path = call.path.clone();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["volumes", rest @ ..] => volumes::route(service, call, rest).await,
        ["snapshots", rest @ ..] => snapshots::route(service, call, rest).await,
        ["types", rest @ ..] => types::route(service, call, rest).await,
        ["default-types", rest @ ..] => types::default_types(service, call, rest).await,
        ["qos-specs", rest @ ..] => types::qos::route(service, call, rest).await,
        ["attachments", rest @ ..] => attachments::route(service, call, rest).await,
        [
            first @ ("os-volume-transfer" | "volume-transfers"),
            rest @ ..,
        ] => transfers::route(service, call, first, rest).await,
        ["messages", rest @ ..] => messages::route(service, call, rest).await,
        ["groups", rest @ ..] => groups::route(service, call, rest).await,
        ["group_types", rest @ ..] => groups::types::route(service, call, rest).await,
        ["group_snapshots", rest @ ..] => groups::snapshots::route(service, call, rest).await,
        ["os-quota-sets", rest @ ..] => quotas::route(service, call, rest).await,
        ["os-quota-class-sets", rest @ ..] => quotas::classes(service, call, rest).await,
        ["limits"] => quotas::limits(service, call).await,
        rest => info::route(service, call, rest).await,
    }
}

/// 405 with what a route allows, or 404 where there is none.
pub(crate) fn unknown(call: &Call, allowed: &[Method]) -> Fault {
    if allowed.is_empty() || allowed.contains(&call.method) {
        return Fault::no_route();
    }
    Fault::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "The method specified is not allowed for this resource.",
    )
}
