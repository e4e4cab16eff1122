//! How lists are read: with a number of statements that does not grow with what is listed, and by indexes; on every
//! database there is.

use super::harness::{Cloud, DEMO};
use super::samples::facts;
use super::server_create::body;
use crate::Config;
use crate::route::{Served, Table, Verb};
use crate::routes::ROUTES;
use db::hosts::Ratios;
use db::instances::Instance;
use db::migrations::{End, Kind, NewMigration, Status};
use serde_json::json;
use sql::testing::{Notes, Statement, TestStore, databases, scanned};
use std::collections::BTreeSet;
use types::{FlavorId, Microversion, MigrationId, NodeId, ServerId, Timestamp, VmState};

/// Tables that grow with the servers, or with what was ever done to them.
const GROWING: &[&str] = &[
    "instances",
    "instance_tags",
    "instance_actions",
    "instance_action_events",
    "migrations",
    "block_device_mappings",
    "key_pairs",
    "server_groups",
    "server_group_members",
    "consumers",
    "allocations",
    "idempotency_keys",
    "guest_passwords",
    "injected_files",
    "flavor_access",
    "server_usages",
];

/// Statements that count or show everything, and have to look at all of it.
const OF_EVERYTHING: &[(&str, &str)] = &[
    (
        "GROUP BY host",
        "the servers on each host, from the index alone",
    ),
    (
        "FROM server_groups ORDER BY id",
        "the groups of all projects, for administrators",
    ),
];

/// Every list, by path; `{}` is a server.
const LISTS: &[(&str, u16, &str)] = &[
    ("member", 104, "/servers"),
    ("member", 104, "/servers/detail"),
    (
        "member",
        104,
        "/servers/detail?limit=2&sort_key=display_name&sort_dir=asc",
    ),
    ("member", 104, "/servers/detail?name=a&limit=2"),
    ("member", 104, "/servers/detail?marker={}"),
    (
        "member",
        104,
        "/servers/detail?changes-since=2026-01-01T00:00:00Z",
    ),
    ("member", 104, "/servers/detail?status=ACTIVE"),
    ("member", 104, "/servers/detail?tags=t,u&not-tags-any=v"),
    (
        "member",
        104,
        "/servers/detail?image=70a599e0-31e7-49b7-b260-868f441e862b&flavor=1",
    ),
    ("admin", 104, "/servers/detail?all_tenants=1"),
    ("admin", 104, "/servers/detail?all_tenants=1&host=h1"),
    (
        "admin",
        104,
        "/servers/detail?all_tenants=1&changes-since=2026-01-01T00:00:00Z",
    ),
    ("admin", 104, "/servers/detail?all_tenants=1&deleted=1"),
    ("admin", 104, "/servers/detail?all_tenants=1&uuid={}"),
    ("admin", 104, "/servers/detail?all_tenants=1&tags-any=t"),
    ("member", 1, "/servers/detail"),
    ("member", 104, "/servers/{}"),
    ("member", 104, "/servers/{}/tags"),
    ("member", 104, "/servers/{}/metadata"),
    ("member", 104, "/servers/{}/os-instance-actions"),
    ("member", 104, "/servers/{}/os-volume_attachments"),
    ("admin", 104, "/servers/{}/migrations"),
    ("admin", 104, "/os-migrations"),
    (
        "admin",
        104,
        "/os-migrations?changes-since=2026-01-01T00:00:00Z",
    ),
    ("admin", 104, "/os-migrations?instance_uuid={}"),
    (
        "admin",
        104,
        "/os-migrations?status=done&migration_type=resize",
    ),
    ("member", 104, "/os-keypairs"),
    ("member", 104, "/os-server-groups"),
    ("admin", 104, "/os-server-groups?all_projects=1"),
    ("admin", 104, "/os-hypervisors/detail"),
    ("admin", 104, "/os-hypervisors/detail?with_servers=1"),
    ("admin", 80, "/os-hypervisors/statistics"),
    ("admin", 104, "/os-services"),
    ("admin", 104, "/os-aggregates"),
    ("admin", 104, "/os-availability-zone/detail"),
    ("member", 104, "/flavors/detail"),
    ("member", 104, "/limits"),
    (
        "member",
        104,
        "/os-quota-sets/0de30000000000000000000000000001",
    ),
    (
        "admin",
        104,
        "/os-quota-sets/0de30000000000000000000000000001/detail?user_id=demo-user",
    ),
    ("admin", 104, "/os-simple-tenant-usage?detailed=1"),
    (
        "member",
        104,
        "/os-simple-tenant-usage/0de30000000000000000000000000001",
    ),
    ("admin", 104, "/os-instance_usage_audit_log"),
    (
        "admin",
        104,
        "/os-instance_usage_audit_log/2026-01-01%2000:00:00",
    ),
    ("member", 102, "/os-volumes_boot"),
    ("member", 102, "/os-volumes_boot/detail"),
    ("member", 104, "/servers/{}/ips"),
    ("member", 104, "/servers/{}/os-interface"),
    ("member", 104, "/servers/{}/os-security-groups"),
    ("member", 104, "/servers/{}/os-server-password"),
    ("admin", 104, "/servers/{}/topology"),
    ("member", 104, "/flavors"),
    ("member", 104, "/flavors/1/os-extra_specs"),
    ("admin", 104, "/flavors/p/os-flavor-access"),
    ("member", 104, "/os-server-groups/{group}"),
    ("admin", 104, "/os-hypervisors"),
    (
        "admin",
        104,
        "/os-hypervisors/00000000-0000-0000-0000-000000000001?with_servers=1",
    ),
    ("admin", 52, "/os-hypervisors/h1/search"),
    ("admin", 52, "/os-hypervisors/h1/servers"),
    ("admin", 42, "/os-hosts"),
    ("admin", 42, "/os-hosts/h1"),
    ("admin", 104, "/os-aggregates/1"),
    ("member", 104, "/os-availability-zone"),
];

const NEIGHBOURS: &str = "asked of the service that has it: no table here";
const CONSTANT: &str = "the same for everybody, from no table";
const ABSENT: &str = "answers 501";
const ONE: &str = "one thing by its key";
const HOST: &str = "asked of the server's host";

/// Rows that are read, and are no list of [`LISTS`], each with the reason.
const NO_LISTS: &[(&str, &str)] = &[
    ("/extensions", CONSTANT),
    ("/extensions/{id}", CONSTANT),
    ("/versions/{id}", CONSTANT),
    ("/flavors/{id}", ONE),
    ("/flavors/{flavor_id}/os-extra_specs/{id}", ONE),
    ("/images", NEIGHBOURS),
    ("/images/detail", NEIGHBOURS),
    ("/images/{id}", NEIGHBOURS),
    ("/images/{image_id}/metadata", NEIGHBOURS),
    ("/images/{image_id}/metadata/{id}", NEIGHBOURS),
    ("/os-baremetal-nodes", ABSENT),
    ("/os-baremetal-nodes/{id}", ABSENT),
    ("/os-console-auth-tokens/{id}", ABSENT),
    ("/os-floating-ip-pools", NEIGHBOURS),
    ("/os-floating-ips", NEIGHBOURS),
    ("/os-floating-ips/{id}", NEIGHBOURS),
    ("/os-hosts/{id}/reboot", ABSENT),
    ("/os-hosts/{id}/shutdown", ABSENT),
    ("/os-hosts/{id}/startup", ABSENT),
    ("/os-hypervisors/{id}/uptime", HOST),
    ("/os-keypairs/{id}", ONE),
    ("/os-networks", NEIGHBOURS),
    ("/os-networks/{id}", NEIGHBOURS),
    ("/os-quota-class-sets/{id}", ONE),
    ("/os-quota-sets/{id}/defaults", ONE),
    ("/os-security-groups", NEIGHBOURS),
    ("/os-security-groups/{id}", NEIGHBOURS),
    ("/os-snapshots", NEIGHBOURS),
    ("/os-snapshots/detail", NEIGHBOURS),
    ("/os-snapshots/{id}", NEIGHBOURS),
    ("/os-tenant-networks", NEIGHBOURS),
    ("/os-tenant-networks/{id}", NEIGHBOURS),
    ("/os-volumes", NEIGHBOURS),
    ("/os-volumes/detail", NEIGHBOURS),
    ("/os-volumes/{id}", NEIGHBOURS),
    ("/os-volumes_boot/{id}", "as /servers/{id}"),
    ("/servers/{server_id}/diagnostics", HOST),
    ("/servers/{server_id}/ips/{id}", ONE),
    ("/servers/{server_id}/metadata/{id}", ONE),
    ("/servers/{server_id}/migrations/{id}", ONE),
    ("/servers/{server_id}/os-instance-actions/{id}", ONE),
    ("/servers/{server_id}/os-interface/{id}", ONE),
    ("/servers/{server_id}/os-volume_attachments/{id}", ONE),
    ("/servers/{server_id}/shares", ABSENT),
    ("/servers/{server_id}/shares/{id}", ABSENT),
    ("/servers/{server_id}/tags/{id}", ONE),
];

/// No list of the routing table is forgotten.
#[test]
fn every_row_that_is_read_is_a_list_or_has_its_reason() {
    let table = Table::new(ROUTES);
    let mut listed = BTreeSet::new();
    for (_, version, path) in LISTS {
        let path = path.split('?').next().unwrap();
        let found = table.find(Verb::Get, path).unwrap();
        let row = found.rows[0];
        assert!(row.exists_at(Microversion(*version)), "{path}");
        listed.insert(row.path);
    }
    let reasons: BTreeSet<&str> = NO_LISTS.iter().map(|(path, _)| *path).collect();
    assert_eq!(reasons.len(), NO_LISTS.len(), "a path stands there twice");
    let read = ROUTES.iter().filter(|row| {
        row.verb == Verb::Get && !matches!(row.served, Served::Gone | Served::NotYet)
    });
    let read: BTreeSet<&str> = read.map(|row| row.path).collect();
    let forgotten: Vec<_> = read
        .iter()
        .filter(|path| !listed.contains(*path) && !reasons.contains(*path))
        .collect();
    assert!(
        forgotten.is_empty(),
        "neither list nor reason: {forgotten:?}"
    );
    let stale: Vec<_> = reasons
        .iter()
        .filter(|path| listed.contains(*path) || !read.contains(*path))
        .collect();
    assert!(stale.is_empty(), "a reason for nothing: {stale:?}");
}

/// A host, the name of whose hypervisor is its own: the pattern `h1` fits all of them.
async fn add_host(cloud: &Cloud, number: u128, name: &'static str) {
    let write = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        let (now, node, host) = (Timestamp::now(), NodeId(uuid(number)), name.into());
        let mut facts = facts();
        facts.hypervisor_hostname = name.to_owned();
        db::hosts::beat(tx, &host, "nova-compute", None, now)?;
        db::hosts::put_node(tx, &host, node, &facts, &Ratios::default(), now)
    });
    write.await.unwrap();
}

async fn host(cloud: &Cloud) {
    add_host(cloud, 1, "h1").await;
    let flavor =
        json!({"flavor": {"name": "m1.tiny", "id": "1", "ram": 512, "vcpus": 1, "disk": 1}});
    assert_eq!(
        cloud
            .send("admin", 1, "POST", "/flavors", flavor)
            .await
            .status,
        200
    );
    let private = json!({"flavor": {"name": "p", "id": "p", "ram": 1, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": false}});
    let aggregate = json!({"aggregate": {"name": "a", "availability_zone": "z"}});
    for (path, body) in [("/flavors", private), ("/os-aggregates", aggregate)] {
        let made = cloud.send("admin", 1, "POST", path, body).await;
        assert_eq!(made.status, 200, "{}", made.text);
    }
    let limits = json!({"quota_set": {"instances": -1, "cores": -1, "ram": -1, "server_groups": -1, "key_pairs": -1}});
    let path = format!("/os-quota-sets/{DEMO}");
    assert_eq!(
        cloud.send("admin", 60, "PUT", &path, limits).await.status,
        200
    );
}

fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

/// Servers with tags, groups, moves and actions, each on the next of these hosts.
async fn fill(cloud: &Cloud, names: &[&str], hosts: &[&'static str]) -> ServerId {
    let mut last = None;
    for (name, host) in names.iter().zip(hosts.iter().cycle()) {
        let host = *host;
        let group = json!({"server_group": {"name": name, "policy": "soft-affinity"}});
        let group = cloud
            .send("member", 104, "POST", "/os-server-groups", group)
            .await;
        let group = group.json()["server_group"]["id"].clone();
        let mut made = body(json!({"name": name, "tags": ["t", "u", name], "networks": "none"}));
        made["os:scheduler_hints"] = json!({ "group": group });
        let made = cloud.send("member", 74, "POST", "/servers", made).await;
        assert_eq!(made.status, 202, "{}", made.text);
        let id: ServerId = made.json()["server"]["id"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        super::server_life::finish(cloud, &id.to_string(), VmState::Active).await;
        let place = cloud.store.write(move |tx| -> Result<(), sql::Error> {
            tx.execute(
                "UPDATE instances SET host = ? WHERE uuid = ?",
                &[host.into(), id.into()],
            )?;
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
                user_id: "demo-user",
            };
            db::migrations::insert(tx, &new, Timestamp::now()).map(|_| ())
        });
        place.await.unwrap();
        last = Some(id);
    }
    last.unwrap()
}

/// What each list runs.
async fn statements(cloud: &Cloud, notes: &Notes, server: ServerId) -> Vec<Vec<Statement>> {
    let mut all = Vec::new();
    let groups = cloud.get("member", 104, "/os-server-groups").await.json();
    let group = groups["server_groups"][0]["id"].as_str().unwrap();
    for (token, version, path) in LISTS {
        notes.take();
        let path = path
            .replace("{}", &server.to_string())
            .replace("{group}", group);
        let answer = cloud.get(token, *version, &path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        all.push(notes.take());
    }
    all
}

async fn on(database: &TestStore) -> Result<(), Vec<String>> {
    let notes = Notes::default();
    let cloud = Cloud::on(database.store.noting(&notes), Config::default()).await;
    host(&cloud).await;
    let server = fill(&cloud, &["a", "b"], &["h1"]).await;
    let few = statements(&cloud, &notes, server).await;
    for (number, name) in [(2, "h12"), (3, "h13"), (4, "h14")] {
        add_host(&cloud, number, name).await;
    }
    let hosts = ["h1", "h12", "h13", "h14"];
    let server = fill(&cloud, &["c", "d", "e", "f", "g"], &hosts).await;
    let many = statements(&cloud, &notes, server).await;
    let mut wrong = Vec::new();
    for (((_, _, path), few), many) in LISTS.iter().zip(&few).zip(&many) {
        if few.len() != many.len() {
            let last = many.last().map(|(sql, _)| sql.as_str()).unwrap_or_default();
            wrong.push(format!(
                "{path}: {} statements for a few, {} for more: {last}",
                few.len(),
                many.len()
            ));
        }
        for (sql, params) in many {
            let (asked, params) = (sql.clone(), params.clone());
            if !sql.starts_with("SELECT")
                || OF_EVERYTHING.iter().any(|(part, _)| sql.contains(part))
            {
                continue;
            }
            let read = database.store.read(move |tx| scanned(tx, &asked, &params));
            for table in read.await.unwrap() {
                let table = super::lists::table(&table, sql);
                if GROWING.contains(&table.as_str()) {
                    wrong.push(format!("{path}: all of {table} is read: {sql}"));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// The table of an alias.
fn table(alias: &str, sql: &str) -> String {
    let words: Vec<&str> = sql.split_whitespace().collect();
    let named = words
        .windows(2)
        .find(|pair| pair[1] == alias && GROWING.contains(&pair[0]));
    named.map_or(alias, |pair| pair[0]).to_owned()
}

#[tokio::test]
async fn lists_take_a_fixed_number_of_statements_and_use_indexes() {
    let mut wrong = Vec::new();
    for database in databases().await {
        if let Err(lines) = on(&database).await {
            wrong.extend(
                lines
                    .into_iter()
                    .map(|line| format!("{}: {line}", database.name)),
            );
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A pattern that nothing fits is held against every server, in parts, and pages join without a gap.
#[tokio::test]
async fn patterns_are_tried_in_parts() {
    let cloud = Cloud::new().await;
    host(&cloud).await;
    let write = cloud.store.write(|tx| -> Result<(), sql::Error> {
        for number in 0..2100_u128 {
            let server = Instance {
                id: ServerId(uuid(number + 1)),
                project_id: DEMO.into(),
                display_name: if number % 1000 == 0 {
                    "rare".into()
                } else {
                    format!("s{number}")
                },
                ..super::server_history::instance()
            };
            db::instances::insert(tx, &server)?;
        }
        Ok(())
    });
    write.await.unwrap();
    let names = |answer: &super::harness::Answer| -> Vec<String> {
        let list = answer.json()["servers"].as_array().cloned().unwrap();
        list.iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = names(&cloud.get("member", 104, "/servers?name=^rare$").await);
    assert_eq!(all.len(), 3);
    let mut paged = Vec::new();
    let mut path = "/servers?name=^rare$&limit=1".to_owned();
    loop {
        let answer = cloud.get("member", 104, &path).await;
        paged.extend(names(&answer));
        let Some(next) = answer.json()["servers_links"][0]["href"]
            .as_str()
            .map(str::to_owned)
        else {
            break;
        };
        path = next.split("/v2.1").nth(1).unwrap().to_owned();
    }
    assert_eq!(paged, all);
    assert!(names(&cloud.get("member", 104, "/servers?name=nothing").await).is_empty());
}
