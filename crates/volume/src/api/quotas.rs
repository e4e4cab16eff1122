//! Limits: of projects, of classes, absolute ones.

use super::unknown;
use crate::check;
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::quota;
use crate::service::Service;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    let method = call.method.clone();
    match (path, &method) {
        ([project], &Method::GET) => show(service, call, project).await,
        ([project, "defaults"], &Method::GET) => defaults(service, call, project).await,
        ([project], &Method::PUT) => update(service, call, project).await,
        ([project], &Method::DELETE) => reset(service, call, project).await,
        _ => Err(unknown(&call, &[Method::GET])),
    }
}

fn with_id(limits: &BTreeMap<String, i64>, id: &str) -> Value {
    let mut shown = json!(limits);
    shown["id"] = id.into();
    shown
}

async fn show(service: &Service, call: Call, project: &str) -> Result<Reply> {
    call.access
        .require("volume_extension:quotas:show", project)?;
    let usage = call.query.yes("usage")?;
    let (project, config) = (project.to_owned(), service.inner.config.clone());
    let body = service
        .read(move |tx| {
            let limits = quota::limits(tx, &config, &project)?;
            if !usage {
                return Ok(with_id(&limits, &project));
            }
            let mut shown = json!({"id": project});
            for (resource, limit) in limits {
                let used = quota::used(tx, &project, &resource)?;
                shown[&resource] =
                    json!({"limit": limit, "in_use": used, "reserved": 0, "allocated": 0});
            }
            Ok(shown)
        })
        .await?;
    Ok(Reply::ok(json!({"quota_set": body})))
}

async fn defaults(service: &Service, call: Call, project: &str) -> Result<Reply> {
    call.access
        .require("volume_extension:quotas:show", project)?;
    let (project, config) = (project.to_owned(), service.inner.config.clone());
    let body = service
        .read(move |tx| Ok(with_id(&quota::defaults(tx, &config)?, &project)))
        .await?;
    Ok(Reply::ok(json!({"quota_set": body})))
}

/// The limits in a body, each a whole number from -1 on.
fn wanted(call: &Call, name: &str) -> Result<Vec<(String, i64)>> {
    let body = check::object(&call.body, name, &[], true)?;
    let mut found = Vec::new();
    for (resource, value) in body {
        if matches!(resource.as_str(), "tenant_id" | "id") {
            continue;
        }
        let limit = check::whole(value).filter(|limit| (-1..=i64::from(i32::MAX)).contains(limit));
        let Some(limit) = limit else {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute {resource}. Value: {value}. It is no whole number from -1 on"
            )));
        };
        found.push((resource.clone(), limit));
    }
    Ok(found)
}

fn check_known(limits: &BTreeMap<String, i64>, resource: &str) -> Result<()> {
    if limits.contains_key(resource) {
        return Ok(());
    }
    Err(Fault::bad(format!(
        "Additional properties are not allowed ('{resource}' was unexpected)"
    )))
}

async fn update(service: &Service, call: Call, project: &str) -> Result<Reply> {
    call.access
        .require("volume_extension:quotas:update", project)?;
    let wanted = wanted(&call, "quota_set")?;
    let (project, config) = (project.to_owned(), service.inner.config.clone());
    let body = service
        .write(move |tx| {
            let limits = quota::limits(tx, &config, &project)?;
            for (resource, limit) in &wanted {
                check_known(&limits, resource)?;
                let used = quota::used(tx, &project, resource)?;
                if *limit >= 0 && used > *limit && resource != "per_volume_gigabytes" {
                    return Err(Fault::bad(format!(
                        "Quota {resource} limit must be equal or greater than existing resources. Current usage is \
                         {used} and the requested limit is {limit}."
                    )));
                }
                db::set_quota(tx, "project", &project, resource, *limit)?;
            }
            Ok(json!(quota::limits(tx, &config, &project)?))
        })
        .await?;
    Ok(Reply::ok(json!({"quota_set": body})))
}

async fn reset(service: &Service, call: Call, project: &str) -> Result<Reply> {
    call.access
        .require("volume_extension:quotas:delete", project)?;
    let project = project.to_owned();
    service
        .write(move |tx| Ok(db::reset_quotas(tx, "project", &project)?))
        .await?;
    Ok(Reply::empty(StatusCode::OK))
}

/// `os-quota-class-sets`
pub async fn classes(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    let [name] = path else {
        return Err(unknown(&call, &[]));
    };
    let (name, config) = ((*name).to_owned(), service.inner.config.clone());
    let body = match call.method {
        Method::GET => {
            call.access
                .require_own("volume_extension:quota_classes:get")?;
            service
                .read(move |tx| Ok(with_id(&quota::class(tx, &config, &name)?, &name)))
                .await?
        }
        Method::PUT => {
            call.access
                .require_own("volume_extension:quota_classes:update")?;
            let wanted = wanted(&call, "quota_class_set")?;
            service
                .write(move |tx| {
                    let limits = quota::class(tx, &config, &name)?;
                    for (resource, limit) in &wanted {
                        check_known(&limits, resource)?;
                        db::set_quota(tx, "class", &name, resource, *limit)?;
                    }
                    Ok(json!(quota::class(tx, &config, &name)?))
                })
                .await?
        }
        _ => return Err(unknown(&call, &[Method::GET])),
    };
    Ok(Reply::ok(json!({"quota_class_set": body})))
}

/// `GET /limits`
pub async fn limits(service: &Service, call: Call) -> Result<Reply> {
    if call.method != Method::GET {
        return Err(unknown(&call, &[Method::GET]));
    }
    let other = call
        .query
        .last("project_id")
        .filter(|_| call.version.0 >= 39 && call.access.is_admin());
    let project = other.unwrap_or(call.access.project()).to_owned();
    let config = service.inner.config.clone();
    let body = service
        .read(move |tx| {
            let limits = quota::limits(tx, &config, &project)?;
            let mut absolute = json!({});
            for (name, resource) in [
                ("maxTotalVolumeGigabytes", "gigabytes"),
                ("maxTotalBackupGigabytes", "backup_gigabytes"),
                ("maxTotalVolumes", "volumes"),
                ("maxTotalSnapshots", "snapshots"),
                ("maxTotalBackups", "backups"),
            ] {
                absolute[name] = json!(limits.get(resource));
            }
            if call.access.allows("limits_extension:used_limits", &project) {
                for (name, resource) in [
                    ("totalVolumesUsed", "volumes"),
                    ("totalGigabytesUsed", "gigabytes"),
                    ("totalSnapshotsUsed", "snapshots"),
                    ("totalBackupsUsed", "backups"),
                    ("totalBackupGigabytesUsed", "backup_gigabytes"),
                ] {
                    absolute[name] = json!(quota::used(tx, &project, resource)?);
                }
            }
            Ok(json!({"limits": {"rate": [], "absolute": absolute}}))
        })
        .await?;
    Ok(Reply::ok(body))
}
