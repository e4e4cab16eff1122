//! What the service says of itself: zones, services, hosts, pools, capabilities, extensions.

use super::unknown;
use crate::db::{self, ServiceState};
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::model::{Map, Snapshot, Volume};
use crate::service::Service;
use crate::storage::GIB;
use crate::view;
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use types::Timestamp;

/// The only backend.
const BACKEND: &str = "files";
const VENDOR: &str = "Kilonova";
const PROTOCOL: &str = "nbd";

/// Whether the only backend can do what the extra specs of a type ask (Cinder's capabilities filter).
pub fn offers(specs: &Map) -> bool {
    specs.iter().all(|(name, wanted)| {
        let name = name.strip_prefix("capabilities:").unwrap_or(name);
        let has = match name {
            "volume_backend_name" => BACKEND,
            "vendor_name" => VENDOR,
            "storage_protocol" => PROTOCOL,
            "multiattach" | "thin_provisioning_support" => "<is> True",
            // Names with another scope are for drivers.
            _ => return true,
        };
        let wanted = wanted.strip_prefix("<in> ").unwrap_or(wanted);
        wanted == has || (name == "multiattach" && wanted == "<is> False")
    })
}

/// The parts that Cinder would be made of.
const PARTS: &[&str] = &["cinder-scheduler", "cinder-volume"];

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    let method = call.method.clone();
    match (path, &method) {
        (["extensions"], &Method::GET) => Ok(Reply::ok(json!({"extensions": extensions()}))),
        (["extensions", alias], &Method::GET) => extension(alias),
        (["os-availability-zone"], &Method::GET) => zones(service).await,
        (["os-services"], &Method::GET) => services(service, call).await,
        (["os-services", act], &Method::PUT) => set_service(service, call, act).await,
        (["os-hosts"], &Method::GET) => hosts(service, call).await,
        (["os-hosts", "update"], &Method::PUT) => Err(Fault::bad("Name the host to change.")),
        (["os-hosts", host], &Method::GET) => host_usage(service, call, host).await,
        (["os-hosts", host], &Method::PUT) => set_host(service, call, host).await,
        (["scheduler-stats", "get_pools"], &Method::GET) => pools(service, call).await,
        (["capabilities", host], &Method::GET) => capabilities(service, &call, host),
        (["resource_filters"], &Method::GET) => filters(&call),
        (["clusters"] | ["clusters", "detail"], &Method::GET) => clusters(&call),
        (["clusters", name, ..], _) => {
            call.version.since(7)?;
            call.access.require_own("clusters:get")?;
            Err(Fault::missing("Cluster", name))
        }
        (["workers", "cleanup"], &Method::POST) => cleanup(&call),
        (["backups", rest @ ..], _) => backups(&call, rest),
        (
            ["consistencygroups" | "cgsnapshots"] | ["consistencygroups" | "cgsnapshots", "detail"],
            &Method::GET,
        ) => {
            let name = path.first().copied().unwrap_or_default();
            Ok(Reply::ok(json!({name: []})))
        }
        (
            [
                "os-volume-manage"
                | "manageable_volumes"
                | "os-snapshot-manage"
                | "manageable_snapshots",
                ..,
            ],
            _,
        ) => {
            call.access.require_own("volume_extension:volume_manage")?;
            Err(Fault::absent(
                "Volumes of this service are its own files; it does not take over foreign ones.",
            ))
        }
        _ => Err(unknown(&call, &[Method::GET])),
    }
}

/// (alias, name, description) of what is there.
const EXTENSIONS: &[(&str, &str, &str)] = &[
    (
        "OS-SCH-HNT",
        "SchedulerHints",
        "Pass arbitrary key/value pairs to the scheduler.",
    ),
    ("os-admin-actions", "AdminActions", "Enable admin actions."),
    (
        "os-availability-zone",
        "AvailabilityZones",
        "Describe Availability Zones.",
    ),
    (
        "os-extended-services",
        "ExtendedServices",
        "Extended services support.",
    ),
    (
        "os-extended-snapshot-attributes",
        "ExtendedSnapshotAttributes",
        "Extended SnapshotAttributes support.",
    ),
    ("os-hosts", "Hosts", "Admin-only host administration."),
    (
        "os-quota-class-sets",
        "QuotaClasses",
        "Quota classes management support.",
    ),
    ("os-quota-sets", "Quotas", "Quota management support."),
    ("os-services", "Services", "Services support."),
    (
        "os-snapshot-actions",
        "SnapshotActions",
        "Enable snapshot manager actions.",
    ),
    (
        "os-types-extra-specs",
        "TypesExtraSpecs",
        "Type extra specs support.",
    ),
    ("os-types-manage", "TypesManage", "Types manage support."),
    (
        "os-used-limits",
        "UsedLimits",
        "Provide data on limited resources that are being used.",
    ),
    (
        "os-vol-host-attr",
        "VolumeHostAttribute",
        "Expose host as an attribute of a volume.",
    ),
    (
        "os-vol-image-meta",
        "VolumeImageMetadata",
        "Show image metadata associated with the volume.",
    ),
    (
        "os-vol-mig-status-attr",
        "VolumeMigStatusAttribute",
        "Expose migration_status as an attribute of a volume.",
    ),
    (
        "os-vol-tenant-attr",
        "VolumeTenantAttribute",
        "Expose the internal project_id as an attribute of a volume.",
    ),
    (
        "os-volume-actions",
        "VolumeActions",
        "Enable volume actions.",
    ),
    (
        "os-volume-encryption-metadata",
        "VolumeEncryptionMetadata",
        "Volume encryption metadata retrieval support.",
    ),
    (
        "os-volume-transfer",
        "VolumeTransfer",
        "Volume transfer management support.",
    ),
    (
        "os-volume-type-access",
        "VolumeTypeAccess",
        "Volume type access support.",
    ),
    ("qos-specs", "Qos_specs_manage", "QoS specs support."),
    (
        "scheduler-stats",
        "Scheduler_stats",
        "Scheduler stats support.",
    ),
    ("capabilities", "Capabilities", "Capabilities support."),
];

fn described((alias, name, description): &(&str, &str, &str)) -> Value {
    json!({"alias": alias, "name": name, "description": description, "links": [], "updated": "2016-01-01T00:00:00+00:00"})
}

fn extensions() -> Vec<Value> {
    EXTENSIONS.iter().map(described).collect()
}

fn extension(alias: &str) -> Result<Reply> {
    let found = EXTENSIONS.iter().find(|(known, ..)| *known == alias);
    match found {
        Some(found) => Ok(Reply::ok(json!({"extension": described(found)}))),
        None => Err(Fault::no_route()),
    }
}

async fn state(service: &Service, part: &'static str) -> Result<ServiceState> {
    service
        .read(move |tx| Ok(db::service_state(tx, part)?))
        .await
}

async fn zones(service: &Service) -> Result<Reply> {
    let disabled = state(service, "cinder-volume").await?.disabled;
    Ok(Reply::ok(json!({"availabilityZoneInfo": [{
        "zoneName": service.inner.config.zone,
        "zoneState": {"available": !disabled},
    }]})))
}

fn host_of(service: &Service, part: &str) -> String {
    match part {
        "cinder-volume" => service.inner.config.backend(),
        _ => service.inner.config.host.clone(),
    }
}

async fn services(service: &Service, call: Call) -> Result<Reply> {
    call.access.require_own("volume_extension:services:index")?;
    let mut all = Vec::new();
    for part in PARTS {
        let host = host_of(service, part);
        let wanted = |name: &str| call.query.last(name);
        // A host stands for its backends too.
        let here = |name: &str| name == host || host.starts_with(&format!("{name}@"));
        if wanted("binary").is_some_and(|name| name != *part) || !wanted("host").is_none_or(here) {
            continue;
        }
        let state = state(service, part).await?;
        let mut shown = json!({
            "binary": part,
            "host": host,
            "zone": service.inner.config.zone,
            "status": if state.disabled { "disabled" } else { "enabled" },
            // It answers.
            "state": "up",
            "updated_at": view::time(Timestamp::now()),
            "disabled_reason": state.reason,
        });
        if *part == "cinder-volume" {
            shown["replication_status"] = json!("disabled");
            shown["active_backend_id"] = Value::Null;
            shown["frozen"] = json!(state.frozen);
            if call.version.0 >= 49 {
                shown["backend_state"] = json!("up");
            }
        }
        if call.version.0 >= 7 {
            shown["cluster"] = Value::Null;
        }
        all.push(shown);
    }
    Ok(Reply::ok(json!({"services": all})))
}

async fn set_service(service: &Service, call: Call, act: &str) -> Result<Reply> {
    call.access
        .require_own("volume_extension:services:update")?;
    let text = |name: &str| call.body[name].as_str().map(str::to_owned);
    let Some(host) = text("host") else {
        return Err(Fault::bad(
            "Invalid input for field/attribute body. 'host' is a required property",
        ));
    };
    let binary = text("binary").or_else(|| text("service"));
    if matches!(act, "freeze" | "thaw") {
        if host != service.inner.config.backend() {
            return Err(Fault::input(format!(
                "Service cinder-volume could not be found on host {host}."
            )));
        }
        let frozen = act == "freeze";
        service
            .write(move |tx| {
                let mut state = db::service_state(tx, "cinder-volume")?;
                state.frozen = frozen;
                Ok(db::set_service_state(tx, "cinder-volume", &state)?)
            })
            .await?;
        return Ok(Reply::empty(http::StatusCode::OK));
    }
    let disabled = match act {
        "enable" => false,
        "disable" | "disable-log-reason" => true,
        _ => {
            return Err(Fault::not_found(format!(
                "There is no action {act} of services."
            )));
        }
    };
    let reason = text("disabled_reason");
    if act == "disable-log-reason" && reason.as_deref().is_none_or(|text| text.trim().is_empty()) {
        return Err(Fault::bad(
            "Invalid input for field/attribute body. 'disabled_reason' is a required property",
        ));
    }
    let Some(binary) = binary else {
        return Err(Fault::bad(
            "Missing required element 'host' or 'binary' in request body.",
        ));
    };
    let part = PARTS
        .iter()
        .find(|part| **part == binary && host_of(service, part) == host);
    let Some(part) = part else {
        return Err(Fault::not_found(format!(
            "Service {binary} could not be found on host {host}."
        )));
    };
    let kept = reason.clone();
    service
        .write(move |tx| {
            let mut state = db::service_state(tx, part)?;
            state.disabled = disabled;
            state.reason = kept.clone().filter(|_| disabled);
            Ok(db::set_service_state(tx, part, &state)?)
        })
        .await?;
    let status = if disabled { "disabled" } else { "enabled" };
    let mut shown = json!({
        "host": host,
        "service": text("service").unwrap_or_default(),
        "binary": text("binary").unwrap_or_default(),
        "status": status,
        "disabled": disabled,
    });
    // `disable` alone says nothing of it.
    if act != "disable" {
        shown["disabled_reason"] = json!(reason.filter(|_| disabled));
    }
    Ok(Reply::ok(shown))
}

async fn hosts(service: &Service, call: Call) -> Result<Reply> {
    call.access.require_own("volume_extension:hosts")?;
    let mut all = Vec::new();
    for part in PARTS {
        let state = state(service, part).await?;
        all.push(json!({
            "host_name": host_of(service, part),
            "service": part,
            "zone": service.inner.config.zone,
            "service-status": "available",
            "service-state": if state.disabled { "disabled" } else { "enabled" },
            "last-update": view::time(Timestamp::now()),
        }));
    }
    Ok(Reply::ok(json!({"hosts": all})))
}

fn no_host(host: &str) -> Fault {
    Fault::missing("Host", host)
}

async fn set_host(service: &Service, call: Call, host: &str) -> Result<Reply> {
    call.access.require_own("volume_extension:hosts")?;
    if host != service.inner.config.backend() {
        return Err(no_host(host));
    }
    let disabled = match call.body["status"]
        .as_str()
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        Some("enable") => false,
        Some("disable") => true,
        _ => return Err(Fault::bad("Invalid status: it is 'enable' or 'disable'")),
    };
    service
        .write(move |tx| {
            let mut state = db::service_state(tx, "cinder-volume")?;
            state.disabled = disabled;
            Ok(db::set_service_state(tx, "cinder-volume", &state)?)
        })
        .await?;
    let status = if disabled { "disabled" } else { "enabled" };
    Ok(Reply::ok(json!({"host": host, "status": status})))
}

async fn host_usage(service: &Service, call: Call, host: &str) -> Result<Reply> {
    call.access.require_own("volume_extension:hosts")?;
    if host != service.inner.config.backend() {
        return Err(no_host(host));
    }
    let host = host.to_owned();
    let all = service
        .read(move |tx| {
            let mut projects: BTreeMap<String, [u64; 4]> = BTreeMap::new();
            for volume in db::find::<Volume>(tx, &[])? {
                let of = projects.entry(volume.project_id).or_default();
                of[0] += 1;
                of[1] += volume.size;
            }
            for snapshot in db::find::<Snapshot>(tx, &[])? {
                let of = projects.entry(snapshot.project_id).or_default();
                of[2] += 1;
                of[3] += snapshot.size;
            }
            let mut total = [0; 4];
            for of in projects.values() {
                for (sum, one) in total.iter_mut().zip(of) {
                    *sum += one;
                }
            }
            let one = |project: &str, of: &[u64; 4]| {
                json!({"resource": {
                    "host": host, "project": project, "volume_count": of[0].to_string(),
                    "total_volume_gb": of[1].to_string(), "snapshot_count": of[2].to_string(),
                    "total_snapshot_gb": of[3].to_string(),
                }})
            };
            let mut all = vec![one("(total)", &total)];
            all.extend(projects.iter().map(|(project, of)| one(project, of)));
            Ok(all)
        })
        .await?;
    Ok(Reply::ok(json!({"host": all})))
}

async fn pools(service: &Service, call: Call) -> Result<Reply> {
    call.access
        .require_own("scheduler_extension:scheduler_stats:get_pools")?;
    let name = service.inner.config.pool();
    let wanted = call.query.last("name").filter(|_| call.version.0 >= 28);
    if wanted.is_some_and(|wanted| wanted != name) {
        return Ok(Reply::ok(json!({"pools": []})));
    }
    if !call.query.yes("detail")? {
        return Ok(Reply::ok(json!({"pools": [{"name": name}]})));
    }
    let promised = service
        .read(|tx| Ok(db::sum::<Volume>(tx, &[])? + db::sum::<Snapshot>(tx, &[])?))
        .await?;
    let space = service.inner.files.space().map_err(|error| {
        tracing::error!(%error, "the disk of the volumes cannot be looked at");
        Fault::internal()
    })?;
    let gib = |bytes: u64| bytes / GIB;
    Ok(Reply::ok(json!({"pools": [{"name": name, "capabilities": {
        "total_capacity_gb": gib(space.total),
        "free_capacity_gb": gib(space.free),
        "allocated_capacity_gb": promised,
        "provisioned_capacity_gb": promised,
        "reserved_percentage": 0,
        "max_over_subscription_ratio": service.inner.config.over_subscription.to_string(),
        "thin_provisioning_support": true,
        "thick_provisioning_support": false,
        "QoS_support": false,
        "multiattach": true,
        "volume_backend_name": BACKEND,
        "vendor_name": VENDOR,
        "driver_version": env!("CARGO_PKG_VERSION"),
        "storage_protocol": PROTOCOL,
        "backend_state": "up",
        "timestamp": view::time(Timestamp::now()),
        "filter_function": null,
        "goodness_function": null,
    }}]})))
}

fn capabilities(service: &Service, call: &Call, host: &str) -> Result<Reply> {
    call.access.require_own("volume_extension:capabilities")?;
    let config = &service.inner.config;
    if host != config.backend() && host != config.pool() && host != config.host {
        return Err(Fault::not_found(format!(
            "Service cinder-volume could not be found on host {host}."
        )));
    }
    Ok(Reply::ok(json!({
        "namespace": format!("OS::Storage::Capabilities::{host}"),
        "vendor_name": VENDOR,
        "volume_backend_name": BACKEND,
        "pool_name": BACKEND,
        "driver_version": env!("CARGO_PKG_VERSION"),
        "storage_protocol": PROTOCOL,
        "display_name": "Files served by NBD",
        "description": "Sparse files, served by qemu-storage-daemon.",
        "visibility": null,
        "replication_targets": [],
        "properties": {
            "thin_provisioning": {"title": "Thin Provisioning", "description": "Sets thin provisioning.", "type": "boolean"},
        },
    })))
}

fn filters(call: &Call) -> Result<Reply> {
    call.version.since(33)?;
    let all: &[(&str, &[&str])] = &[
        (
            "volume",
            &[
                "name",
                "status",
                "metadata",
                "bootable",
                "migration_status",
                "availability_zone",
                "group_id",
                "size",
            ],
        ),
        (
            "snapshot",
            &[
                "name",
                "status",
                "volume_id",
                "metadata",
                "availability_zone",
            ],
        ),
        (
            "attachment",
            &["volume_id", "status", "instance_id", "attach_status"],
        ),
        (
            "message",
            &[
                "resource_uuid",
                "resource_type",
                "event_id",
                "request_id",
                "message_level",
            ],
        ),
        ("pool", &["name", "volume_type"]),
        ("volume_type", &["extra_specs"]),
    ];
    let wanted = call.query.last("resource");
    let shown: Vec<Value> = all
        .iter()
        .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name))
        .map(|(name, filters)| json!({"resource": name, "filters": filters}))
        .collect();
    Ok(Reply::ok(json!({"resource_filters": shown})))
}

/// There are no clusters of volume services.
fn clusters(call: &Call) -> Result<Reply> {
    call.version.since(7)?;
    call.access.require_own("clusters:get_all")?;
    Ok(Reply::ok(json!({"clusters": []})))
}

/// A start goes on with all that was begun, so there is nothing to clean up.
fn cleanup(call: &Call) -> Result<Reply> {
    call.version.since(24)?;
    call.access.require_own("workers:cleanup")?;
    Ok(Reply::accepted(json!({"cleaning": [], "unavailable": []})))
}

/// There is no backup service: lists are empty, everything else says so.
fn backups(call: &Call, path: &[&str]) -> Result<Reply> {
    call.access.require_own("backup:get_all")?;
    match (path, &call.method) {
        ([] | ["detail"], &Method::GET) => Ok(Reply::ok(json!({"backups": []}))),
        ([id], &Method::GET | &Method::DELETE) => Err(Fault::missing("Backup", id)),
        _ => Err(Fault::absent("There is no backup service in this cloud.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_ask_for_what_the_backend_has() {
        for (name, wanted, has) in [
            ("volume_backend_name", "files", true),
            ("volume_backend_name", "ceph", false),
            ("capabilities:storage_protocol", "<in> nbd", true),
            ("storage_protocol", "iSCSI", false),
            ("multiattach", "<is> True", true),
            ("multiattach", "<is> False", true),
            ("hw:something", "else", true),
        ] {
            let specs = [(name.to_owned(), wanted.to_owned())].into();
            assert_eq!(offers(&specs), has, "{name} {wanted}");
        }
    }
}
