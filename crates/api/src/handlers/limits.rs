//! `/limits`: what a project may hold, and what it holds.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use serde_json::{Map, Value, json};
use types::{Microversion, ProjectId};

/// Shown name, quota name, the version that drops it.
const LIMITS: &[(&str, &str, Option<Microversion>)] = &[
    ("maxServerMeta", "metadata_items", None),
    ("maxTotalCores", "cores", None),
    ("maxTotalInstances", "instances", None),
    ("maxTotalRAMSize", "ram", None),
    ("maxTotalKeypairs", "key_pairs", None),
    ("maxServerGroups", "server_groups", None),
    ("maxServerGroupMembers", "server_group_members", None),
    ("maxPersonality", "injected_files", Some(mv::NO_PERSONALITY)),
    (
        "maxPersonalitySize",
        "injected_file_content_bytes",
        Some(mv::NO_PERSONALITY),
    ),
    (
        "maxImageMeta",
        "metadata_items",
        Some(mv::NO_IMAGE_METADATA),
    ),
    ("maxSecurityGroups", "security_groups", Some(mv::NO_PROXIES)),
    (
        "maxSecurityGroupRules",
        "security_group_rules",
        Some(mv::NO_PROXIES),
    ),
    ("maxTotalFloatingIps", "floating_ips", Some(mv::NO_PROXIES)),
];

/// `GET /limits`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let project = match call.query.get("tenant_id") {
        Some(project) if project != call.project() => {
            call.require_for(
                "os_compute_api:limits:other_project",
                project,
                &call.caller.user_id,
            )?;
            project.to_owned()
        }
        _ => call.project().to_owned(),
    };
    let (limits, held, groups) = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<_, sql::Error> {
            let held = db::usages::of_project(tx, &ProjectId(project.clone()))?;
            Ok((
                db::quotas::of_project(tx, &project)?,
                held,
                db::server_groups::count(tx, &project, None)?,
            ))
        })
        .await?;
    let mut absolute = Map::new();
    for (shown, name, until) in LIMITS {
        if until.is_none_or(|until| call.version < until) {
            absolute.insert(
                (*shown).to_owned(),
                limits.get(*name).copied().unwrap_or(-1).into(),
            );
        }
    }
    let mut used = vec![
        ("totalCoresUsed", held.cores),
        ("totalInstancesUsed", held.instances),
        ("totalRAMUsed", held.ram_mb),
        ("totalServerGroupsUsed", groups),
    ];
    if call.version < mv::NO_PROXIES {
        used.extend([("totalSecurityGroupsUsed", 0), ("totalFloatingIpsUsed", 0)]);
    }
    absolute.extend(
        used.into_iter()
            .map(|(name, amount)| (name.to_owned(), Value::from(amount))),
    );
    Reply::ok(&json!({ "limits": { "rate": [], "absolute": absolute } }))
}
