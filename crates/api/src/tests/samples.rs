//! Answers next to Nova's own samples of the same request and version: the same keys, types and formats.
//!
//! The samples are no part of this repository: where `KILONOVA_ORACLE` names no folder, the test says so and passes.

use super::harness::{Cloud, DEMO, IMAGE, PORT};
use super::policies::oracle;
use super::server_create::body;
use super::server_life::finish;
use db::hosts::Ratios;
use db::instances::{Address, Interface};
use regex::Regex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use types::agent::HostFacts;
use types::{NodeId, ServerId, Timestamp, VmState};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILKtINNmdMwrgtzsI5Z0wKWrdk0rjNl1Hi4SvhMRdpg a@b";

/// Objects whose keys are data.
const FREE: &[&str] = &[
    "metadata",
    "meta",
    "extra_specs",
    "addresses",
    "properties",
    "hosts",
    "scheduler_hints",
    "policies",
    "cpu_info",
];

/// Samples that this cloud answers differently on purpose, or that need what is not there; each with its reason.
const DIFFERENT: &[(&str, &str)] = &[
    ("v2.69/", "there are no cells that can be down"),
    ("down-cell", "there are no cells that can be down"),
    (
        "hypervisors-without-servers",
        "the host of the test has a server",
    ),
    ("-rescue", "a rescued server is another state"),
    (
        "server-diagnostics-get-resp",
        "counters of the guest, by name below 2.48",
    ),
    ("get-rdp-console", "gone"),
    ("-user.json", "asked by an administrator here"),
    ("servers-topology", "guests are given no NUMA topology"),
    ("floating", "the test's network service has none"),
    ("security-groups-get", "the test's network service has none"),
    ("host-get-reboot", "hosts are not switched from here"),
    ("host-get-shutdown", "hosts are not switched from here"),
    ("host-get-startup", "hosts are not switched from here"),
    (
        "server-migrations/",
        "no server of the test is on its way: see the tests of migrations",
    ),
    ("audit-log", "the hosts are the keys of the document"),
];

const SKIPPED_PATHS: &[&str] = &[
    "/os-volumes",
    "/os-snapshots",
    "/os-baremetal-nodes",
    "/os-console-auth-tokens",
    "/servers/{server_id}/os-volume_attachments",
    "/servers/{server_id}/shares",
];

/// A cloud with one of everything.
pub struct Fixture {
    pub cloud: Cloud,
    pub server: String,
    pub group: String,
    aggregate: String,
    node: (String, String),
    pub request: String,
}

async fn send(cloud: &Cloud, version: u16, method: &str, path: &str, body: Value) -> Value {
    let answer = cloud.send("admin", version, method, path, body).await;
    assert!(
        answer.status.is_success(),
        "{method} {path}: {}",
        answer.text
    );
    answer.json()
}

pub fn facts() -> HostFacts {
    HostFacts {
        hypervisor_type: "QEMU".into(),
        hypervisor_version: 7_002_000,
        hypervisor_hostname: "h1".into(),
        vcpus: 8,
        memory_mb: 16_384,
        disk_gb: 100,
        free_disk_gb: 90,
        memory_mb_used: 512,
        cpu_info: json!({"arch": "x86_64", "model": "m", "vendor": "v", "features": [], "topology": {}}),
        host_ip: "10.0.0.1".into(),
        supported: vec![],
        traits: Vec::new(),
        storage: None,
        healthy: true,
        problem: None,
    }
}

fn interface() -> Interface {
    Interface {
        port_id: PORT.into(),
        network_id: "11111111-31e7-49b7-b260-868f441e862b".into(),
        network_name: "private".into(),
        mac: "fa:16:3e:00:00:01".into(),
        mtu: 1500,
        addresses: vec![Address {
            ip: "192.168.1.30".into(),
            version: 4,
            kind: "fixed".into(),
        }],
        preexisting: false,
        tag: None,
    }
}

/// A cloud with one of everything, all of it the administrator's.
pub async fn fixture() -> Fixture {
    let cloud = Cloud::new().await;
    let node = NodeId::random();
    cloud
        .store
        .write(move |tx| -> Result<(), sql::Error> {
            let now = Timestamp::now();
            for binary in ["nova-compute", "nova-scheduler", "nova-conductor"] {
                db::hosts::beat(tx, &"h1".into(), binary, None, now)?;
                db::hosts::beat(tx, &"h1".into(), binary, None, now)?;
            }
            db::hosts::put_node(tx, &"h1".into(), node, &facts(), &Ratios::default(), now)
        })
        .await
        .unwrap();
    let flavor = json!({"flavor": {"name": "m1.tiny", "id": "1", "ram": 512, "vcpus": 1, "disk": 1, "description": "d"}});
    send(&cloud, 90, "POST", "/flavors", flavor).await;
    let specs = json!({"extra_specs": {"hw:numa_nodes": "1"}});
    send(&cloud, 90, "POST", "/flavors/1/os-extra_specs", specs).await;
    let private = json!({"flavor": {"name": "p", "id": "2", "ram": 512, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": false}});
    send(&cloud, 90, "POST", "/flavors", private).await;
    let access = json!({"addTenantAccess": {"tenant": DEMO}});
    send(&cloud, 90, "POST", "/flavors/2/action", access).await;
    let key = json!({"keypair": {"name": "k", "public_key": KEY}});
    send(&cloud, 92, "POST", "/os-keypairs", key).await;
    let group = json!({"server_group": {"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": 3}}});
    let group = send(&cloud, 90, "POST", "/os-server-groups", group).await;
    let aggregate = json!({"aggregate": {"name": "a", "availability_zone": "z"}});
    let aggregate = send(&cloud, 90, "POST", "/os-aggregates", aggregate).await;
    let aggregate = aggregate["aggregate"]["id"].to_string();
    let host = json!({"add_host": {"host": "h1"}});
    let path = format!("/os-aggregates/{aggregate}/action");
    send(&cloud, 90, "POST", &path, host).await;
    let server = body(json!({
        "key_name": "k", "metadata": {"a": "b"}, "user_data": "aGFsbG8=", "tags": ["t"], "description": "d",
    }));
    let made = send(&cloud, 94, "POST", "/servers", server).await;
    let server = made["server"]["id"].as_str().unwrap().to_owned();
    finish(&cloud, &server, VmState::Active).await;
    let id: ServerId = server.parse().unwrap();
    cloud
        .store
        .write(move |tx| db::instances::set_network_info(tx, id, &[interface()]))
        .await
        .unwrap();
    let group = group["server_group"]["id"].as_str().unwrap().to_owned();
    let list = |version| {
        let cloud = &cloud;
        async move {
            cloud.get("admin", version, "/os-hypervisors").await.json()["hypervisors"][0]["id"]
                .clone()
        }
    };
    let (number, uuid) = (list(1).await.to_string(), list(90).await);
    let uuid = uuid.as_str().unwrap().to_owned();
    let path = format!("/servers/{server}/os-instance-actions");
    let actions = cloud.get("admin", 90, &path).await.json();
    let request = actions["instanceActions"][0]["request_id"].as_str();
    let request = request.unwrap().to_owned();
    Fixture {
        request,
        cloud,
        server,
        group,
        aggregate,
        node: (number, uuid),
    }
}

impl Fixture {
    /// The path with things that are there.
    pub fn path(&self, pattern: &str, version: u16) -> String {
        let word = pattern.split('/').nth(1).unwrap_or_default();
        let node = if version < 53 {
            &self.node.0
        } else {
            &self.node.1
        };
        let id = match word {
            "servers" => self.server.as_str(),
            "os-server-groups" => &self.group,
            "os-aggregates" => &self.aggregate,
            "os-hypervisors" if pattern.ends_with("search") || pattern.ends_with("servers") => "h1",
            "os-hypervisors" => node,
            "os-hosts" => "h1",
            "os-keypairs" => "k",
            "images" => IMAGE,
            "flavors" if pattern.ends_with("os-flavor-access") => "2",
            "flavors" => "1",
            "os-quota-class-sets" => "default",
            "extensions" => "os-agents",
            _ => "ad000000000000000000000000000000",
        };
        let second = match pattern.split('/').nth(3).unwrap_or_default() {
            "os-instance-actions" => self.request.as_str(),
            "os-interface" => PORT,
            "ips" => "private",
            "os-extra_specs" => "hw:numa_nodes",
            "metadata" if word == "images" => "os_distro",
            _ => "a",
        };
        let mut ids = [id, second].into_iter();
        let segments: Vec<&str> = pattern
            .split('/')
            .map(|one| {
                if one.starts_with('{') {
                    ids.next().unwrap_or("a")
                } else {
                    one
                }
            })
            .collect();
        segments.join("/")
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// The format of a time, if the text is one.
fn format(text: &str) -> Option<&'static str> {
    [
        ("seconds and Z", r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"),
        ("microseconds", r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$"),
        ("seconds", r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"),
    ]
    .into_iter()
    .find(|(_, pattern)| Regex::new(pattern).unwrap().is_match(text))
    .map(|(name, _)| name)
}

/// Says where `ours` has another shape than `theirs`.
pub fn compare(at: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(a), Value::Object(b)) => {
            if FREE.iter().any(|free| at.ends_with(&format!(".{free}"))) {
                return;
            }
            for (name, value) in a {
                match b.get(name) {
                    Some(other) => compare(&format!("{at}.{name}"), value, other, found),
                    None if name.ends_with("_links") => {}
                    None => found.push(format!("{at}.{name} is missing")),
                }
            }
            for name in b
                .keys()
                .filter(|name| !a.contains_key(*name) && !name.ends_with("_links"))
            {
                found.push(format!("{at}.{name} is too much"));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let Some(ours) = b.first() else { return };
            // Which fields an item has may depend on the item: one of the sample's must be alike.
            let mut fewest: Option<Vec<String>> = None;
            for theirs in a {
                let mut differs = Vec::new();
                compare(&format!("{at}[]"), theirs, ours, &mut differs);
                if fewest
                    .as_ref()
                    .is_none_or(|found| differs.len() < found.len())
                {
                    fewest = Some(differs);
                }
            }
            found.extend(fewest.unwrap_or_default());
        }
        (Value::String(a), Value::String(b)) => {
            // Samples have times of any format where the test that made them wrote texts of its own.
            if let (Some(a), Some(b)) = (format(a), format(b))
                && a != b
            {
                found.push(format!("{at} has {b}, not {a}"));
            }
        }
        _ if kind(theirs) != kind(ours) => {
            found.push(format!("{at} is {}, not {}", kind(ours), kind(theirs)));
        }
        _ => {}
    }
}

#[tokio::test]
async fn answers_have_the_shape_of_the_samples() {
    let Some(folder) = oracle() else {
        eprintln!("KILONOVA_ORACLE is not set: answers are not compared with Nova's samples");
        return;
    };
    let read = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(path)).unwrap()).unwrap()
    };
    let fixture = fixture().await;
    let index = read("samples-index.json");
    let (mut wrong, mut compared) = (BTreeMap::new(), 0);
    for sample in index["samples"].as_array().unwrap() {
        let text = |name: &str| sample[name].as_str().unwrap_or_default();
        let (name, pattern) = (text("sample"), text("path"));
        let functional = text("source") == "functional test run" && text("kind") == "response";
        let skipped = DIFFERENT.iter().any(|(part, _)| name.contains(part))
            || SKIPPED_PATHS.iter().any(|path| pattern.starts_with(path))
            || pattern == "/";
        if !functional || text("method") != "GET" || sample["status"] != 200 || skipped {
            continue;
        }
        let version: u16 = text("microversion")[2..].parse().unwrap();
        let gone = crate::routes::ROUTES
            .iter()
            .any(|row| row.path == pattern && matches!(row.served, crate::route::Served::Gone));
        if gone {
            continue;
        }
        let mut path = fixture.path(pattern, version);
        let query = [
            ("with-servers", "?with_servers=1"),
            ("tenant-usage-get-detail", "?detailed=1"),
            ("tenant-usage-get-all", "?detailed=1"),
            ("actions-list-with-limit", "?limit=1"),
        ];
        let asked = query.iter().find(|(part, _)| name.contains(part));
        let asked = asked.filter(|(part, _)| *part != "with-servers" || version >= 53);
        if let Some((_, query)) = asked {
            path.push_str(query);
        }
        let theirs = read(&format!("samples/{name}"));
        let mut found = Vec::new();
        // Some samples are an administrator's, some are not.
        for token in ["plain", "admin"] {
            found.clear();
            let answer = fixture.cloud.get(token, version, &path).await;
            if answer.status == 200 {
                compare("", &theirs, &answer.json(), &mut found);
            } else {
                found.push(format!("{path} answers {}: {}", answer.status, answer.text));
            }
            if found.is_empty() {
                break;
            }
        }
        compared += 1;
        if !found.is_empty() {
            wrong.insert(name.to_owned(), found);
        }
    }
    assert!(compared > 100, "only {compared} samples were compared");
    let lines: Vec<String> = wrong
        .iter()
        .map(|(name, found)| format!("{name}: {}", found.join("; ")))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {compared} differ:\n{}",
        wrong.len(),
        lines.join("\n")
    );
}
