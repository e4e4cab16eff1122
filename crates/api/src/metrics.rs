//! `/metrics` in Prometheus' text format: requests of this process, and the cloud under the names of the common
//! OpenStack exporter. It needs no token, so it is served apart from the API, where only the operator can reach it.

mod servers;

use crate::Inner;
use crate::route::Route;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use db::hosts::{Node, Service};
use db::placement::Inventory;
use http::{StatusCode, header};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use types::Timestamp;
use uuid::Uuid;

/// Upper bounds of the classes of durations, in seconds.
const BOUNDS: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// What is counted of the requests of one row.
#[derive(Default)]
struct Row {
    statuses: BTreeMap<u16, u64>,
    classes: [u64; BOUNDS.len()],
    count: u64,
    seconds: f64,
}

/// Requests by method and route; those that lead nowhere are one route.
#[derive(Default)]
pub struct Requests {
    rows: Mutex<BTreeMap<(&'static str, &'static str, &'static str), Row>>,
}

impl Requests {
    /// Counts one.
    pub fn count(&self, route: Option<&'static Route>, status: StatusCode, took: Duration) {
        let key = route.map_or(("", "", ""), |route| {
            (
                route.verb.as_str(),
                route.path,
                route.action.unwrap_or_default(),
            )
        });
        let seconds = took.as_secs_f64();
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry(key).or_default();
        *row.statuses.entry(status.as_u16()).or_default() += 1;
        row.count += 1;
        row.seconds += seconds;
        for (class, bound) in row.classes.iter_mut().zip(BOUNDS) {
            if seconds <= bound {
                *class += 1;
            }
        }
    }

    fn write(&self, page: &mut Page) {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        page.kind(
            "kilonova_api_requests_total",
            "counter",
            "Requests answered.",
        );
        for ((method, route, action), row) in rows.iter() {
            for (status, count) in &row.statuses {
                let status = status.to_string();
                let labels = [
                    ("method", *method),
                    ("route", *route),
                    ("action", *action),
                    ("status", status.as_str()),
                ];
                page.value("kilonova_api_requests_total", &labels, *count as f64);
            }
        }
        page.kind(
            "kilonova_api_request_seconds",
            "histogram",
            "How long requests took.",
        );
        for ((method, route, action), row) in rows.iter() {
            let labels = [("method", *method), ("route", *route), ("action", *action)];
            let [a, b, c] = labels;
            for (class, bound) in row.classes.iter().zip(BOUNDS) {
                let bound = bound.to_string();
                let labels = [a, b, c, ("le", bound.as_str())];
                page.value(
                    "kilonova_api_request_seconds_bucket",
                    &labels,
                    *class as f64,
                );
            }
            let all = [a, b, c, ("le", "+Inf")];
            page.value(
                "kilonova_api_request_seconds_bucket",
                &all,
                row.count as f64,
            );
            page.value("kilonova_api_request_seconds_sum", &labels, row.seconds);
            page.value(
                "kilonova_api_request_seconds_count",
                &labels,
                row.count as f64,
            );
        }
    }
}

/// A page in the text format 0.0.4.
#[derive(Default)]
struct Page(String);

impl Page {
    fn kind(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let shown: Vec<String> = labels
                .iter()
                .map(|(label, text)| format!("{label}=\"{}\"", escape(text)))
                .collect();
            let _ = write!(self.0, "{{{}}}", shown.join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, values: &[(Vec<(&str, &str)>, f64)]) {
        self.kind(name, "gauge", help);
        for (labels, value) in values {
            self.value(name, labels, *value);
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Everything that is shown of the cloud, read at once.
struct Cloud {
    services: Vec<Service>,
    nodes: Vec<Node>,
    inventories: HashMap<Uuid, Vec<Inventory>>,
    servers: servers::Servers,
    /// How many servers there are on each host.
    on_hosts: HashMap<String, i64>,
    zones: HashMap<String, String>,
    aggregates: Vec<db::aggregates::Aggregate>,
    flavors: Vec<db::flavors::Record>,
    tasks: usize,
    held: Vec<(String, db::usages::Held)>,
    /// How many server groups each project has.
    groups: HashMap<String, i64>,
    /// What holds for a project for which nothing was set, and what was set: `(project, resource, limit)`.
    limits: (db::quotas::Limits, Vec<(String, String, i64)>),
}

async fn cloud(api: &Inner) -> Result<Cloud, sql::Error> {
    let reading = api.deps.store.read(|tx| -> Result<Cloud, sql::Error> {
        let mut inventories: HashMap<Uuid, Vec<Inventory>> = HashMap::new();
        for (provider, inventory) in db::placement::all_inventories(tx)? {
            inventories.entry(provider).or_default().push(inventory);
        }
        let on_hosts = db::hosts::servers_per_host(tx)?.into_iter();
        let mut groups = HashMap::new();
        for group in db::server_groups::list(tx, None)? {
            *groups.entry(group.project_id).or_default() += 1;
        }
        Ok(Cloud {
            services: db::hosts::services(tx)?,
            nodes: db::hosts::nodes(tx)?,
            inventories,
            servers: servers::Servers::read(tx)?,
            on_hosts: on_hosts.map(|(host, n)| (host.0, n)).collect(),
            groups,
            zones: db::aggregates::zones(tx)?,
            aggregates: db::aggregates::all(tx)?,
            flavors: db::flavors::all(tx)?,
            tasks: db::tasks::open(tx)?.len(),
            held: db::usages::of_projects(tx)?,
            limits: (db::quotas::defaults(tx)?, db::quotas::of_projects(tx)?),
        })
    });
    reading.await
}

/// How long the network service has to say how many security groups there are.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many security groups there are: the network service's, as behind Nova's old proxy. None when it does not answer.
async fn security_groups(api: &Inner) -> Option<usize> {
    let counting = async {
        let token = api.deps.tokens.token().await?;
        api.deps.networks.count_security_groups(&token).await
    };
    match tokio::time::timeout(PATIENCE, counting).await {
        Ok(Ok(count)) => Some(count),
        Ok(Err(error)) => {
            tracing::warn!(%error, "security groups cannot be counted");
            None
        }
        Err(_) => {
            tracing::warn!("security groups are not counted in time");
            None
        }
    }
}

/// `GET /metrics`.
pub async fn show(State(api): State<Arc<Inner>>) -> Response {
    let mut page = Page::default();
    api.requests.write(&mut page);
    let (streams, waiting) = api.hub.followers();
    for (name, help, count) in [
        (
            "kilonova_event_streams",
            "Event streams that are open.",
            streams,
        ),
        (
            "kilonova_waiting_requests",
            "Requests that wait for a state of a server.",
            waiting,
        ),
    ] {
        page.gauge(name, help, &[(vec![], count as f64)]);
    }
    let (cloud, groups) = tokio::join!(cloud(&api), security_groups(&api));
    if let Some(groups) = groups {
        let name = "openstack_nova_security_groups";
        page.gauge(name, "security_groups", &[(vec![], groups as f64)]);
    }
    match cloud {
        Ok(cloud) => {
            page.gauge("openstack_nova_up", "up", &[(vec![], 1.0)]);
            cloud.write(&api, &mut page);
        }
        Err(error) => {
            tracing::warn!(%error, "metrics of the cloud cannot be read");
            page.gauge("openstack_nova_up", "up", &[(vec![], 0.0)]);
        }
    }
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    page.0.push_str(&web::figures::page("api"));
    (kind, page.0).into_response()
}

impl Cloud {
    fn zone<'a>(&'a self, api: &'a Inner, service: &Service) -> &'a str {
        if service.binary == "nova-compute" {
            let zone = self.zones.get(service.host.as_str());
            zone.unwrap_or(&api.config.scheduling.default_zone)
        } else {
            &api.config.internal_zone
        }
    }

    fn write(&self, api: &Inner, page: &mut Page) {
        let count = |number: usize| vec![(vec![], number as f64)];
        page.gauge(
            "openstack_nova_flavors",
            "flavors",
            &count(self.flavors.len()),
        );
        self.write_flavors(page);
        self.write_limits(page);
        self.write_quotas(page);
        let mut zones: Vec<&str> = self
            .services
            .iter()
            .map(|one| self.zone(api, one))
            .collect();
        zones.sort_unstable();
        zones.dedup();
        page.gauge(
            "openstack_nova_availability_zones",
            "availability_zones",
            &count(
                zones
                    .iter()
                    .filter(|zone| **zone != api.config.internal_zone)
                    .count(),
            ),
        );
        page.gauge(
            "openstack_nova_total_vms",
            "total_vms",
            &count(self.servers.count),
        );
        page.gauge(
            "kilonova_tasks_open",
            "Flows that are accepted and have not ended.",
            &count(self.tasks),
        );
        self.write_services(api, page);
        self.write_hosts(api, page);
        self.servers.write(page);
    }

    fn write_flavors(&self, page: &mut Page) {
        page.kind("openstack_nova_flavor", "gauge", "flavor");
        for record in &self.flavors {
            let flavor = &record.flavor;
            let [disk, ram, vcpus] =
                [flavor.root_gb, flavor.memory_mb, flavor.vcpus].map(|size| size.to_string());
            let labels = [
                ("id", flavor.id.as_str()),
                ("name", flavor.name.as_str()),
                ("vcpus", vcpus.as_str()),
                ("ram", ram.as_str()),
                ("disk", disk.as_str()),
                ("is_public", if record.is_public { "true" } else { "false" }),
            ];
            page.value("openstack_nova_flavor", &labels, 1.0);
        }
    }

    /// By project; its name is the identity service's, so its id stands for it. Memory in MiB.
    fn write_limits(&self, page: &mut Page) {
        type Used = fn(&db::usages::Held) -> i64;
        let resources: [(&str, &str, Used); 3] = [
            ("instances", "instances", |held| held.instances),
            ("vcpus", "cores", |held| held.cores),
            ("memory", "ram", |held| held.ram_mb),
        ];
        let (defaults, set) = &self.limits;
        for (name, resource, used) in resources {
            let default = defaults.get(resource).copied().unwrap_or(-1);
            let own: HashMap<&str, i64> = set
                .iter()
                .filter(|(_, of, _)| of == resource)
                .map(|(project, _, limit)| (project.as_str(), *limit))
                .collect();
            let of_all = |value: &dyn Fn(&str, &db::usages::Held) -> i64| -> Vec<_> {
                let one =
                    |(project, held): &'_ (String, db::usages::Held)| value(project, held) as f64;
                let labels = |project| vec![("tenant", project), ("tenant_id", project)];
                self.held
                    .iter()
                    .map(|of| (labels(of.0.as_str()), one(of)))
                    .collect()
            };
            let (max, in_use) = (format!("limits_{name}_max"), format!("limits_{name}_used"));
            let most = of_all(&|project, _| own.get(project).copied().unwrap_or(default));
            page.gauge(&format!("openstack_nova_{max}"), &max, &most);
            let held = of_all(&|_, held| used(held));
            page.gauge(&format!("openstack_nova_{in_use}"), &in_use, &held);
        }
    }

    fn write_services(&self, api: &Inner, page: &mut Page) {
        let now = Timestamp::now();
        page.kind("openstack_nova_agent_state", "counter", "agent_state");
        for service in &self.services {
            let id = service.uuid.to_string();
            let labels = [
                ("id", id.as_str()),
                ("hostname", service.host.as_str()),
                ("service", service.binary.as_str()),
                (
                    "adminState",
                    if service.disabled {
                        "disabled"
                    } else {
                        "enabled"
                    },
                ),
                ("zone", self.zone(api, service)),
                (
                    "disabledReason",
                    service.disabled_reason.as_deref().unwrap_or_default(),
                ),
            ];
            let up = service.is_up(now, api.config.service_down_micros);
            page.value(
                "openstack_nova_agent_state",
                &labels,
                f64::from(u8::from(up)),
            );
        }
    }

    fn write_hosts(&self, api: &Inner, page: &mut Page) {
        const MIB: f64 = 1_048_576.0;
        const GIB: f64 = 1_073_741_824.0;
        type Amount = fn(&Cloud, &Node) -> f64;
        let gauges: [(&str, Amount); 9] = [
            ("free_disk_bytes", |cloud, node| {
                let (all, used) = cloud.amount(node, "DISK_GB");
                (all - used).max(0.0) * GIB
            }),
            ("running_vms", |cloud, node| {
                let on = cloud.on_hosts.get(node.host.as_str());
                on.copied().unwrap_or(0) as f64
            }),
            ("current_workload", |cloud, node| {
                let on = cloud.servers.at_work.get(node.host.as_str());
                on.copied().unwrap_or(0) as f64
            }),
            ("vcpus_available", |cloud, node| {
                cloud.amount(node, "VCPU").0
            }),
            ("vcpus_used", |cloud, node| cloud.amount(node, "VCPU").1),
            ("memory_available_bytes", |cloud, node| {
                cloud.amount(node, "MEMORY_MB").0 * MIB
            }),
            ("memory_used_bytes", |cloud, node| {
                cloud.amount(node, "MEMORY_MB").1 * MIB
            }),
            ("local_storage_available_bytes", |cloud, node| {
                cloud.amount(node, "DISK_GB").0 * GIB
            }),
            ("local_storage_used_bytes", |cloud, node| {
                cloud.amount(node, "DISK_GB").1 * GIB
            }),
        ];
        for (name, amount) in gauges {
            let whole = format!("openstack_nova_{name}");
            page.kind(&whole, "gauge", name);
            for node in &self.nodes {
                let host = node.host.as_str();
                let zone = self
                    .zones
                    .get(host)
                    .unwrap_or(&api.config.scheduling.default_zone);
                let within = self
                    .aggregates
                    .iter()
                    .filter(|aggregate| aggregate.hosts.iter().any(|other| other.as_str() == host));
                let aggregates: Vec<&str> = within.map(|one| one.name.as_str()).collect();
                let aggregates = aggregates.join(",");
                let labels = [
                    ("hostname", node.hypervisor_hostname.as_str()),
                    ("availability_zone", zone.as_str()),
                    ("aggregates", aggregates.as_str()),
                ];
                page.value(&whole, &labels, amount(self, node));
            }
        }
    }

    /// All of a resource on a node, and what is used of it with the reserve.
    fn amount(&self, node: &Node, class: &str) -> (f64, f64) {
        let all = self.inventories.get(&node.uuid.0);
        let one = all.and_then(|all| all.iter().find(|one| one.resource_class == class));
        one.map_or((0.0, 0.0), |one| {
            let used = if class == "VCPU" {
                one.used
            } else {
                one.used + one.reserved
            };
            (one.total as f64, used as f64)
        })
    }
}
