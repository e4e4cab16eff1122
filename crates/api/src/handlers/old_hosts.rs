//! `/os-hosts` (until 2.43).

use crate::call::{Call, Reply};
use crate::faults::Fault;
use db::hosts::{Node, Service};
use db::instances::Instance;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use types::{HostName, Timestamp};

/// What no hypervisor here can do.
fn not_supported() -> Fault {
    Fault::not_implemented("The requested functionality is not supported.")
}

fn not_mapped(host: &str) -> Fault {
    Fault::not_found(format!("Host '{host}' is not mapped to any cell"))
}

/// `GET`: the enabled services that are not APIs.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let reading = call.api.deps.store.read(|tx| -> Result<_, sql::Error> {
        Ok((db::hosts::services(tx)?, db::aggregates::zones(tx)?))
    });
    let (services, zones) = reading.await?;
    let config = &call.api.config;
    let zone_of = |service: &Service| {
        if service.binary == "nova-compute" {
            let zone = zones.get(service.host.as_str());
            zone.unwrap_or(&config.scheduling.default_zone).clone()
        } else {
            config.internal_zone.clone()
        }
    };
    let wanted = call.query.get("zone").filter(|zone| !zone.is_empty());
    let list: Vec<Value> = services
        .iter()
        .filter(|service| !service.disabled)
        .filter(|service| !["nova-osapi_compute", "nova-metadata"].contains(&&*service.binary))
        .map(|service| (service, zone_of(service)))
        .filter(|(_, zone)| wanted.is_none_or(|wanted| zone == wanted))
        .map(|(service, zone)| {
            let kind = service.binary.trim_start_matches("nova-");
            json!({ "host_name": service.host, "service": kind, "zone": zone })
        })
        .collect();
    Reply::ok(&json!({ "hosts": list }))
}

/// Processors, memory in MiB, disk in GiB.
#[derive(Clone, Copy, Default)]
struct Amounts {
    cpu: u64,
    memory_mb: u64,
    disk_gb: u64,
}

impl Amounts {
    fn of(server: &Instance) -> Self {
        let flavor = &server.flavor;
        Self {
            cpu: flavor.vcpus.into(),
            memory_mb: flavor.memory_mb.into(),
            disk_gb: u64::from(flavor.root_gb) + u64::from(flavor.ephemeral_gb),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            memory_mb: self.memory_mb + other.memory_mb,
            disk_gb: self.disk_gb + other.disk_gb,
        }
    }

    fn shown(self, host: &str, project: &str) -> Value {
        json!({ "resource": {
            "host": host, "project": project, "cpu": self.cpu, "memory_mb": self.memory_mb, "disk_gb": self.disk_gb,
        } })
    }
}

/// All of a node, and what is used of it with the reserve.
fn of_node(inventories: &[db::placement::Inventory]) -> (Amounts, Amounts) {
    let (mut all, mut used) = (Amounts::default(), Amounts::default());
    for one in inventories {
        match one.resource_class.as_str() {
            "VCPU" => (all.cpu, used.cpu) = (one.total, one.used),
            "MEMORY_MB" => (all.memory_mb, used.memory_mb) = (one.total, one.used + one.reserved),
            "DISK_GB" => (all.disk_gb, used.disk_gb) = (one.total, one.used + one.reserved),
            _ => {}
        }
    }
    (all, used)
}

/// `GET /{host}`: what there is, what is used, and by whom.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let host = HostName(call.param(0).to_owned());
    let wanted = host.clone();
    let reading = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<_, sql::Error> {
            let nodes = db::hosts::nodes(tx)?;
            let Some(node) = nodes.into_iter().find(|node: &Node| node.host == wanted) else {
                return Ok(None);
            };
            let inventories = db::placement::inventories(tx, node.uuid.0)?;
            Ok(Some((inventories, db::instances::on_host(tx, &wanted)?)))
        });
    let found = reading.await?;
    let (inventories, servers) = found.ok_or_else(|| not_mapped(host.as_str()))?;
    let (all, used) = of_node(&inventories);
    let mut projects: BTreeMap<&str, Amounts> = BTreeMap::new();
    let mut sum = Amounts::default();
    for server in &servers {
        let one = Amounts::of(server);
        sum = sum.plus(one);
        let of_project = projects.entry(server.project_id.as_str()).or_default();
        *of_project = of_project.plus(one);
    }
    let name = host.as_str();
    let mut list = vec![
        all.shown(name, "(total)"),
        used.shown(name, "(used_now)"),
        sum.shown(name, "(used_max)"),
    ];
    list.extend(
        projects
            .into_iter()
            .map(|(project, amounts)| amounts.shown(name, project)),
    );
    Reply::ok(&json!({ "host": list }))
}

/// The compute service of the host in the path.
async fn service(call: &Call) -> Result<Service, Fault> {
    let services = call.api.deps.store.read(db::hosts::services).await?;
    let found = services
        .into_iter()
        .find(|service| service.binary == "nova-compute" && service.host.as_str() == call.param(0));
    found.ok_or_else(|| not_mapped(call.param(0)))
}

/// `PUT /{host}`: takes new servers or not. Maintenance mode, which would move servers away, no hypervisor has.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let service = service(&call).await?;
    let text = |name: &str| call.body.get(name).and_then(Value::as_str);
    let mut shown = Map::new();
    shown.insert("host".to_owned(), json!(call.param(0)));
    if let Some(status) = text("status") {
        let enabled = status.trim().eq_ignore_ascii_case("enable");
        let (id, now) = (service.uuid, Timestamp::now());
        call.api
            .deps
            .store
            .write(move |tx| db::hosts::set_disabled(tx, id, !enabled, None, now))
            .await?;
        let status = if enabled { "enabled" } else { "disabled" };
        shown.insert("status".to_owned(), json!(status));
    }
    if text("maintenance_mode").is_some() {
        return Err(not_supported());
    }
    Reply::ok(&Value::from(shown))
}

/// `GET /{host}/startup`, `/shutdown` and `/reboot`: hosts are not switched from here.
pub async fn power(call: Call) -> Result<Reply, Fault> {
    service(&call).await?;
    Err(not_supported())
}
