//! Limits of projects. What is used is counted in the transaction that would use more, so no burst of requests gets
//! past a limit.

use crate::config::Config;
use crate::db;
use crate::fault::{Fault, Result};
use crate::model::{Group, Snapshot, Volume, VolumeType};
use sql::{Tx, Value};
use std::collections::BTreeMap;

/// The class whose limits hold where a project has none of its own.
pub const DEFAULT_CLASS: &str = "default";

/// The resources that have a limit in every project, with the limit of the configuration.
fn base(config: &Config) -> [(&'static str, i64); 7] {
    [
        ("volumes", config.quota_volumes),
        ("per_volume_gigabytes", config.quota_per_volume),
        ("snapshots", config.quota_snapshots),
        ("gigabytes", config.quota_gigabytes),
        ("backups", 10),
        ("backup_gigabytes", 1000),
        ("groups", config.quota_groups),
    ]
}

/// The limits of everybody: the configuration, then the default class.
pub fn defaults(tx: &mut Tx<'_>, config: &Config) -> Result<BTreeMap<String, i64>> {
    class(tx, config, DEFAULT_CLASS)
}

/// The limits of a class.
pub fn class(tx: &mut Tx<'_>, config: &Config, name: &str) -> Result<BTreeMap<String, i64>> {
    let mut limits: BTreeMap<String, i64> = base(config)
        .into_iter()
        .map(|(resource, amount)| (resource.to_owned(), amount))
        .collect();
    for one in db::find::<VolumeType>(tx, &[])? {
        for resource in ["volumes", "snapshots", "gigabytes"] {
            limits.insert(format!("{resource}_{}", one.name), -1);
        }
    }
    for (resource, amount) in db::quotas(tx, "class", name)? {
        if let Some(limit) = limits.get_mut(&resource) {
            *limit = amount;
        }
    }
    Ok(limits)
}

/// The limits of a project.
pub fn limits(tx: &mut Tx<'_>, config: &Config, project: &str) -> Result<BTreeMap<String, i64>> {
    let mut limits = defaults(tx, config)?;
    for (resource, amount) in db::quotas(tx, "project", project)? {
        if let Some(limit) = limits.get_mut(&resource) {
            *limit = amount;
        }
    }
    Ok(limits)
}

/// What a project uses of a resource.
pub fn used(tx: &mut Tx<'_>, project: &str, resource: &str) -> Result<i64> {
    let mut of = vec![("project_id", Value::from(project))];
    let mut kind = resource;
    for known in ["volumes", "snapshots", "gigabytes"] {
        let name = resource
            .strip_prefix(known)
            .and_then(|rest| rest.strip_prefix('_'));
        if let Some(name) = name {
            let found = db::find_one::<VolumeType>(tx, &[("name", name.into())])?;
            let Some(found) = found else { return Ok(0) };
            of.push(("type_id", found.id.into()));
            kind = known;
        }
    }
    Ok(match kind {
        "volumes" => db::count::<Volume>(tx, &of)?,
        "snapshots" => db::count::<Snapshot>(tx, &of)?,
        "gigabytes" => db::sum::<Volume>(tx, &of)? + db::sum::<Snapshot>(tx, &of)?,
        "groups" => db::count::<Group>(tx, &of)?,
        _ => 0,
    })
}

/// What a request would take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Take {
    /// Volumes.
    pub volumes: i64,
    /// Snapshots.
    pub snapshots: i64,
    /// GiB.
    pub gigabytes: i64,
}

/// Refuses what would be more than a project may have, in general or of a type.
pub fn check(
    tx: &mut Tx<'_>,
    config: &Config,
    project: &str,
    type_name: &str,
    take: Take,
) -> Result<()> {
    check_type(tx, config, project, type_name, take)?;
    check_names(tx, config, project, take, str::to_owned)
}

/// Refuses what would be more than a project may have of a type.
pub fn check_type(
    tx: &mut Tx<'_>,
    config: &Config,
    project: &str,
    type_name: &str,
    take: Take,
) -> Result<()> {
    check_names(tx, config, project, take, |resource| {
        format!("{resource}_{type_name}")
    })
}

fn check_names(
    tx: &mut Tx<'_>,
    config: &Config,
    project: &str,
    take: Take,
    name_of: impl Fn(&str) -> String,
) -> Result<()> {
    let limits = limits(tx, config, project)?;
    let limit = |resource: &str| limits.get(resource).copied().unwrap_or(-1);
    for (resource, wanted) in [
        ("gigabytes", take.gigabytes),
        ("volumes", take.volumes),
        ("snapshots", take.snapshots),
    ] {
        let name = name_of(resource);
        let most = limit(&name);
        if most < 0 || wanted <= 0 {
            continue;
        }
        let used = used(tx, project, &name)?;
        if used + wanted > most {
            return Err(refused(resource, &name, wanted, most, used));
        }
    }
    Ok(())
}

/// Refuses a volume that is bigger than any may be.
pub fn check_size(tx: &mut Tx<'_>, config: &Config, project: &str, size: u64) -> Result<()> {
    let limits = limits(tx, config, project)?;
    let most = limits.get("per_volume_gigabytes").copied().unwrap_or(-1);
    match u64::try_from(most) {
        Ok(most) if size > most => Err(Fault::over_quota(format!(
            "Requested volume size {size}G is larger than maximum allowed limit {most}G."
        ))),
        _ => Ok(()),
    }
}

fn refused(resource: &str, name: &str, wanted: i64, most: i64, used: i64) -> Fault {
    Fault::over_quota(match resource {
        "gigabytes" => format!(
            "Requested volume or snapshot exceeds allowed {name} quota. Requested {wanted}G, quota is {most}G and \
             {used}G has been consumed."
        ),
        "volumes" => {
            format!("Maximum number of volumes allowed ({most}) exceeded for quota '{name}'.")
        }
        _ => format!("Maximum number of snapshots allowed ({most}) exceeded"),
    })
}
