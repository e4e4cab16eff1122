//! Answers next to Nova's own samples of the same request and version: the same keys, types and formats.
//!
//! The samples are no part of this repository: where `KILONOVA_ORACLE` names no folder, the test says so and passes.

use super::harness::{Answer, Cloud, DEMO, FLOATING, GROUPS, IMAGE, NETWORK, PORT};
use super::policies::oracle;
use super::server_create::body;
use super::server_life::{finish, host_is_up};
use super::server_volumes::ATTACHMENT;
use super::shape::{Comparison, Unlike, table, wrong_headers};
use db::hosts::Ratios;
use db::instances::{Address, Interface};
use db::migrations::{Bytes, End, Kind, NewMigration, Status};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use types::agent::HostFacts;
use types::{FlavorId, MigrationId, NodeId, ServerId, Timestamp, VmState};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILKtINNmdMwrgtzsI5Z0wKWrdk0rjNl1Hi4SvhMRdpg a@b";

/// Samples that this cloud answers differently on purpose, or that need what is not there; each with its reason.
const DIFFERENT: &[(&str, &str)] = &[
    ("v2.69/", "there are no cells that can be down"),
    ("floating-ips-list-empty", "there is one"),
    ("down-cell", "there are no cells that can be down"),
    (
        "hypervisors-without-servers",
        "the host of the test has a server",
    ),
    ("servers-topology", "guests are given no NUMA topology"),
    ("host-get-reboot", "hosts are not switched from here"),
    ("host-get-shutdown", "hosts are not switched from here"),
    ("host-get-startup", "hosts are not switched from here"),
    ("audit-log", "the hosts are the keys of the document"),
];

/// Where answers differ on purpose, or because the test's cloud has something else; each with its reason.
const EXCUSED: &str = "samples.txt";

/// Paths whose samples are not compared, each with its reason.
const SKIPPED_PATHS: &[(&str, &str)] = &[
    ("/os-baremetal-nodes", "there is no bare metal service"),
    ("/os-console-auth-tokens", "there are no console proxies"),
    ("/servers/{server_id}/shares", "there is no share service"),
];

const PERIOD: &str = "?start=2026-01-01T00:00:00&end=2099-01-01T00:00:00";
const DETAILED_PERIOD: &str = "?detailed=1&start=2026-01-01T00:00:00&end=2099-01-01T00:00:00";

/// A cloud with one of everything.
pub struct Fixture {
    pub cloud: Cloud,
    pub server: String,
    pub group: String,
    aggregate: String,
    node: (String, String),
    pub request: String,
    /// A volume, and a snapshot of it.
    pub volume: String,
    pub snapshot: String,
    /// The number of a live migration, if there is one.
    pub migration: Option<i64>,
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
        cpu_info: json!({"arch": "x86_64", "model": "m", "vendor": "v", "features": ["pge"], "topology": {"cores": 8, "sockets": 1, "threads": 1}}),
        host_ip: "10.0.0.1".into(),
        supported: vec![],
        traits: Vec::new(),
        storage: None,
        healthy: true,
        problem: None,
    }
}

pub fn interface() -> Interface {
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
        tag: Some("nic".into()),
    }
}

/// What the server of a sample has that others lack, by the names of the fields.
pub type Has = BTreeSet<&'static str>;

/// Fields that a server may have or lack, each with what a request for a server says to have it.
pub fn optional(group: &str, volume: &str) -> Vec<(&'static str, Value)> {
    let mapping = json!([
        { "boot_index": 0, "uuid": IMAGE, "source_type": "image", "destination_type": "local" },
        { "boot_index": -1, "uuid": volume, "source_type": "volume", "destination_type": "volume" },
    ]);
    vec![
        ("key_name", json!({ "key_name": "k" })),
        ("description", json!({ "description": "d" })),
        ("tags", json!({ "tags": ["t"] })),
        (
            "OS-EXT-SRV-ATTR:user_data",
            json!({ "user_data": "aGFsbG8=" }),
        ),
        (
            "pinned_availability_zone",
            json!({ "availability_zone": "z" }),
        ),
        ("server_groups", json!({ "hints": { "group": group } })),
        (
            "scheduler_hints",
            json!({ "hints": { "same_host": [PORT] } }),
        ),
        (
            "trusted_image_certificates",
            json!({ "trusted_image_certificates": [PORT] }),
        ),
        (
            "os-extended-volumes:volumes_attached",
            json!({ "block_device_mapping_v2": mapping }),
        ),
        ("locked_reason", json!({})),
        ("extra_specs", json!({})),
    ]
}

/// What a server has where nobody says otherwise.
pub fn usual() -> Has {
    let names = [
        "key_name",
        "description",
        "tags",
        "OS-EXT-SRV-ATTR:user_data",
        "extra_specs",
    ];
    names.into()
}

/// What the server of a sample has; the usual if the sample is of something else.
pub fn has(sample: &Value) -> Has {
    let server = sample.get("server").unwrap_or(&sample["servers"][0]);
    if server.get("addresses").is_none() {
        return usual();
    }
    let is_there = |name: &str| match server.get(name).unwrap_or(&server["flavor"][name]) {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => false,
    };
    let names = optional("", "").into_iter().map(|(name, _)| name);
    names.filter(|name| is_there(name)).collect()
}

/// A cloud with one of everything, all of it the administrator's.
pub async fn fixture() -> Fixture {
    fixture_with(&usual()).await
}

/// The same, with a server that has just this.
pub async fn fixture_with(has: &Has) -> Fixture {
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
    if has.contains("extra_specs") {
        let specs = json!({"extra_specs": {"hw:numa_nodes": "1"}});
        send(&cloud, 90, "POST", "/flavors/1/os-extra_specs", specs).await;
    }
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
    let group = group["server_group"]["id"].as_str().unwrap().to_owned();
    let mut wanted =
        json!({ "metadata": { "a": "b" }, "accessIPv4": "1.2.3.4", "accessIPv6": "80fe::" });
    let mut hints = json!({});
    let volume = cloud
        .volumes
        .make_with(&json!({ "name": "v", "description": "d" }));
    for (name, more) in optional(&group, &volume) {
        let (to, more) = match more.get("hints") {
            Some(hint) => (&mut hints, hint),
            None => (&mut wanted, &more),
        };
        let more = more.as_object().filter(|_| has.contains(name));
        for (key, value) in more.into_iter().flatten() {
            to[key] = value.clone();
        }
    }
    let mut server = body(wanted);
    server["os:scheduler_hints"] = hints;
    let made = send(&cloud, 94, "POST", "/servers", server).await;
    let server = made["server"]["id"].as_str().unwrap().to_owned();
    finish(&cloud, &server, VmState::Active).await;
    let id: ServerId = server.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let action = db::actions::of_server(tx, id)?[0].id;
        let event =
            db::actions::start_event(tx, action, "compute_x", Some("h1"), Timestamp::now())?;
        db::actions::finish_event(tx, event, None, Timestamp::now())?;
        db::guest_passwords::put(tx, id, "c2VhbGVk", Timestamp::now())?;
        db::instances::set_network_info(tx, id, &[interface()])
    };
    cloud.store.write(write).await.unwrap();
    if has.contains("locked_reason") {
        let lock = json!({"lock": {"locked_reason": "why"}});
        send(
            &cloud,
            73,
            "POST",
            &format!("/servers/{server}/action"),
            lock,
        )
        .await;
    }
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
    let snapshot =
        json!({"snapshot": {"volume_id": volume, "display_name": "s", "display_description": "d"}});
    let snapshot = send(&cloud, 30, "POST", "/os-snapshots", snapshot).await;
    let snapshot = snapshot["snapshot"]["id"].as_str().unwrap().to_owned();
    if has.contains("os-extended-volumes:volumes_attached") {
        cloud.volumes.set(&volume, "status", "in-use".into());
    }
    Fixture {
        request,
        volume,
        snapshot,
        migration: None,
        cloud,
        server,
        group,
        aggregate,
        node: (number, uuid),
    }
}

/// The same with a story: a server with a volume that was attached, and under way to another host.
pub async fn storied() -> Fixture {
    let mut fixture = super::microversions::prepared().await;
    fixture.attach().await;
    fixture.set_out().await;
    fixture
}

impl Fixture {
    /// The volume is attached to the server.
    pub async fn attach(&self) {
        let (cloud, server, volume) = (&self.cloud, &self.server, &self.volume);
        let path = format!("/servers/{server}/os-volume_attachments");
        let wanted = json!({"volumeAttachment": {"volumeId": volume, "tag": "t", "delete_on_termination": true}});
        send(cloud, 79, "POST", &path, wanted).await;
        super::server_volumes::attached(cloud, server, volume).await;
        let attachment = json!([{ "id": volume, "attachment_id": ATTACHMENT, "server_id": server, "volume_id": volume,
            "device": "/dev/vdb", "host_name": null, "attached_at": "2026-01-01T00:00:00.000000" }]);
        cloud.volumes.set(volume, "attachments", attachment);
        cloud.volumes.set(volume, "status", "in-use".into());
    }

    /// A live migration of the server runs.
    pub async fn set_out(&mut self) {
        let id: ServerId = self.server.parse().unwrap();
        let write = self
            .cloud
            .store
            .write(move |tx| -> Result<i64, sql::Error> {
                let now = Timestamp::now();
                let end = || End {
                    compute: Some("h1".into()),
                    node: Some("h1".to_owned()),
                };
                let flavor = FlavorId("1".to_owned());
                let new = NewMigration {
                    id: MigrationId::random(),
                    server: id,
                    kind: Kind::LiveMigration,
                    status: Status::Running,
                    source: end(),
                    dest: end(),
                    old_flavor: &flavor,
                    new_flavor: &flavor,
                    project_id: DEMO,
                    user_id: "u",
                };
                let number = db::migrations::insert(tx, &new, now)?;
                let some = || Bytes {
                    total: Some(3),
                    processed: Some(2),
                    remaining: Some(1),
                };
                db::migrations::set_progress(tx, new.id, some(), some(), now)?;
                Ok(number)
            });
        self.migration = Some(write.await.unwrap());
    }

    /// What a request gets while a host does what the request waits for.
    pub async fn with_host(&self, asked: impl Future<Output = Answer>) -> Answer {
        let mut asked = std::pin::pin!(asked);
        tokio::select! {
            answer = &mut asked => answer,
            () = self.host_works() => asked.await,
        }
    }

    /// What a host does of a flow: guests move, have an interface more, and nothing works on the server any longer.
    async fn host_works(&self) {
        let id: ServerId = self.server.parse().unwrap();
        loop {
            let reading = self.cloud.store.read(move |tx| db::instances::get(tx, id));
            if reading.await.unwrap().unwrap().task_id.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
            let begun = "UPDATE migrations SET status = 'running' WHERE status = 'queued'";
            tx.execute(begun, &[])?;
            db::instances::set_network_info(tx, id, &[interface()])
        };
        self.cloud.store.write(write).await.unwrap();
        finish(&self.cloud, &self.server, VmState::Active).await;
    }

    /// The server has no interface.
    pub async fn unplug(&self) {
        let id: ServerId = self.server.parse().unwrap();
        let take = move |tx: &mut sql::Tx<'_>| db::instances::set_network_info(tx, id, &[]);
        self.cloud.store.write(take).await.unwrap();
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
            "versions" => "v2.1",
            "os-volumes" => &self.volume,
            "os-snapshots" => &self.snapshot,
            "os-floating-ips" => FLOATING.0,
            "os-security-groups" => GROUPS[0],
            "os-networks" | "os-tenant-networks" => NETWORK,
            _ => "ad000000000000000000000000000000",
        };
        let migration = self.migration.unwrap_or_default().to_string();
        let second = match pattern.split('/').nth(3).unwrap_or_default() {
            "os-instance-actions" => self.request.as_str(),
            "os-interface" => PORT,
            "ips" => "private",
            "os-extra_specs" => "hw:numa_nodes",
            "metadata" if word == "images" => "os_distro",
            "os-volume_attachments" => self.volume.as_str(),
            "migrations" => migration.as_str(),
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

#[tokio::test]
async fn answers_have_the_shape_of_the_samples() {
    let Some(folder) = oracle() else {
        eprintln!("KILONOVA_ORACLE is not set: answers are not compared with Nova's samples");
        return;
    };
    let read = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(path)).unwrap()).unwrap()
    };
    let moved = Rc::new(super::microversions::prepared().await);
    let storied = Rc::new(storied().await);
    let mut alike: BTreeMap<Has, Rc<Fixture>> = BTreeMap::new();
    let index = read("samples-index.json");
    let (mut wrong, mut compared) = (BTreeMap::new(), 0);
    let mut comparison = Comparison::new(&table(EXCUSED));
    let mut skipped = BTreeSet::new();
    for sample in index["samples"].as_array().unwrap() {
        let text = |name: &str| sample[name].as_str().unwrap_or_default();
        let (name, pattern) = (text("sample"), text("path"));
        let functional = text("source") == "functional test run" && text("kind") == "response";
        if !functional || text("method") != "GET" || sample["status"] != 200 || pattern == "/" {
            continue;
        }
        let different = DIFFERENT.iter().find(|(part, _)| name.contains(part));
        let path = SKIPPED_PATHS
            .iter()
            .find(|(path, _)| pattern.starts_with(path));
        if let Some((reason, _)) = different.or(path) {
            skipped.insert(*reason);
            continue;
        }
        let version: u16 = text("microversion")[2..].parse().unwrap();
        let gone = crate::routes::ROUTES
            .iter()
            .any(|row| row.path == pattern && matches!(row.served, crate::route::Served::Gone));
        if gone {
            continue;
        }
        let query = [
            ("with-servers", "?with_servers=1"),
            ("tenant-usage-get-detail", DETAILED_PERIOD),
            ("tenant-usage-get-all", DETAILED_PERIOD),
            ("actions-list-with-limit", "?limit=1"),
            ("tenant-usage-get", PERIOD),
            ("keypairs-list-user2", "?user_id=admin-user"),
            ("servers-list-status", "?status=active"),
        ];
        let asked = query.iter().find(|(part, _)| name.contains(part));
        let asked = asked.filter(|(part, _)| *part != "with-servers" || version >= 53);
        let mut query = asked.map_or_else(String::new, |(_, query)| (*query).to_owned());
        let theirs = read(&format!("samples/{name}"));
        // Only a page that is full has a link to the next one.
        let paged = theirs.as_object().into_iter().flat_map(|map| map.keys());
        if paged.into_iter().any(|key| key.ends_with("_links")) {
            query.push(if query.is_empty() { '?' } else { '&' });
            query.push_str("limit=1");
        }
        let wanted = has(&theirs);
        let like = match alike.get(&wanted) {
            Some(like) => like.clone(),
            None => Rc::new(fixture_with(&wanted).await),
        };
        alike.insert(wanted, like.clone());
        let state = match name.ends_with("-rescue.json") {
            true => VmState::Rescued,
            false => VmState::Active,
        };
        finish(&like.cloud, &like.server, state).await;
        // Some samples are an administrator's, some are not; in some something has moved or failed.
        let mut answers = Vec::new();
        let asked = [
            (&like, "plain"),
            (&like, "admin"),
            (&moved, "admin"),
            (&storied, "admin"),
        ];
        for (fixture, token) in asked {
            let path = format!("{}{query}", fixture.path(pattern, version));
            host_is_up(&fixture.cloud).await;
            let answer = fixture.cloud.get(token, version, &path).await;
            if answer.status != 200 {
                let said = format!("{path} answers {}: {}", answer.status, answer.text);
                answers.push(Unlike::refused(said));
                continue;
            }
            let mut said = wrong_headers(&answer, Some(version));
            if answer.headers.contains_key("location") {
                said.push("it has a Location".to_owned());
            }
            answers.push(Unlike::answered(said, &theirs, &answer.json()));
        }
        let found = comparison.best(name, &answers);
        compared += 1;
        if !found.is_empty() {
            wrong.insert(name.to_owned(), found);
        }
    }
    assert!(compared >= 255, "only {compared} samples were compared");
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
    let unused = comparison.unused();
    assert!(unused.is_empty(), "excuse nothing: {unused:?}");
    let reasons = DIFFERENT.iter().chain(SKIPPED_PATHS);
    let stale: Vec<_> = reasons
        .filter(|(part, _)| !skipped.contains(part))
        .collect();
    assert!(stale.is_empty(), "skip nothing: {stale:?}");
}
