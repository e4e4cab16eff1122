//! Every row of the routing table against every kind of caller, by Nova's default policies.
//!
//! `policies.txt` is the project's own table. Where `KILONOVA_ORACLE` names a folder with facts about Nova, the table
//! and the rules are held against those as well.

use super::harness::{Answer, Cloud, DEMO, IMAGE};
use super::server_create::{body, cloud};
use crate::route::Served;
use crate::{policy_rules, routes};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

const TABLE: &str = include_str!("policies.txt");

/// The folder with facts about Nova, if there is one.
pub fn oracle() -> Option<PathBuf> {
    std::env::var_os("KILONOVA_ORACLE").map(PathBuf::from)
}

struct Line {
    role: &'static str,
    verb: &'static str,
    path: &'static str,
    action: Option<&'static str>,
    body: &'static str,
}

fn lines() -> Vec<Line> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.splitn(5, ' ');
            let mut next = || words.next().unwrap_or_default();
            Line {
                role: next(),
                verb: next(),
                path: next(),
                action: Some(next()).filter(|action| *action != "-"),
                body: next(),
            }
        })
        .collect()
}

fn row(line: &Line) -> &'static crate::route::Route {
    routes::ROUTES
        .iter()
        .find(|row| {
            row.verb.as_str() == line.verb && row.path == line.path && row.action == line.action
        })
        .unwrap_or_else(|| panic!("no row for {} {} {:?}", line.verb, line.path, line.action))
}

/// Token; whether it is of the project that owns what the paths name; its strongest role.
const CALLERS: [(&str, bool, &str); 9] = [
    ("reader", true, "reader"),
    ("member", true, "member"),
    ("manager", true, "manager"),
    ("padmin", true, "admin"),
    ("other", false, "member"),
    ("service", false, "service"),
    ("admin", false, "admin"),
    // Administrators whose tokens are for no project.
    ("system", false, "no project"),
    ("domain", false, "no project"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Not a word about policy.
    Pass,
    /// 403 that names the row's rule.
    Denied,
    /// 404: the caller may not know that the server is there.
    Hidden,
}

fn strength(role: &str) -> u8 {
    match role {
        "reader" => 1,
        "member" => 2,
        "manager" => 3,
        "admin" => 4,
        _ => 0,
    }
}

/// What Nova's defaults say.
fn verdict(line: &Line, (_, owner, role): (&str, bool, &str)) -> Verdict {
    let admin = role == "admin";
    // Looked up by the address first, and there is none; refused before anything is looked up.
    if matches!(line.action, Some("removeFloatingIp" | "os-getRDPConsole")) {
        return Verdict::Pass;
    }
    if role == "no project" && row(line).policy.is_some() {
        return Verdict::Denied;
    }
    let is_server =
        line.path.starts_with("/servers/{") || line.path.starts_with("/os-volumes_boot/{");
    // Tags are looked up without regard to the project, and so are shares.
    let says_403 = line.path.contains("/tags") || line.path.contains("/shares");
    if is_server && !owner && !admin && !says_403 {
        return Verdict::Hidden;
    }
    if line.path.starts_with("/os-server-groups/{") && !owner && !admin {
        return Verdict::Hidden;
    }
    let named = ["/os-quota-sets/{id}", "/os-simple-tenant-usage/{id}"];
    let others = named.iter().any(|path| line.path.starts_with(path)) || (is_server && says_403);
    let passes = match line.role {
        "any" | "self-or-admin" => true,
        "service_or_admin" => admin || role == "service",
        least => admin || ((owner || !others) && strength(role) >= strength(least)),
    };
    if passes {
        Verdict::Pass
    } else {
        Verdict::Denied
    }
}

fn seen(answer: &Answer) -> Verdict {
    let (_, message) = answer.fault();
    match answer.status.as_u16() {
        403 if message.starts_with("Policy doesn't allow ") => Verdict::Denied,
        404 if message.starts_with("Instance ") && message.ends_with(" could not be found.") => {
            Verdict::Hidden
        }
        404 if message.starts_with("Instance group ") => Verdict::Hidden,
        _ => Verdict::Pass,
    }
}

async fn made(cloud: &Cloud, path: &str, key: &str, body: Value) -> String {
    let answer = cloud.send("member", 90, "POST", path, body).await;
    assert!(answer.status.is_success(), "{}", answer.text);
    answer.json()[key]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The path with things that are there, owned by the demo project.
async fn path_of(cloud: &Cloud, line: &Line) -> String {
    let id = match line.path.split('/').nth(1).unwrap_or_default() {
        "servers" | "os-volumes_boot" if line.path.contains('{') => {
            made(
                cloud,
                "/servers",
                "server",
                body(json!({"networks": "none"})),
            )
            .await
        }
        "os-server-groups" if line.path.contains('{') => {
            let group = json!({"server_group": {"name": "g", "policy": "affinity"}});
            made(cloud, "/os-server-groups", "server_group", group).await
        }
        "os-quota-sets" | "os-simple-tenant-usage" => DEMO.to_owned(),
        "flavors" => "2".to_owned(),
        "images" => IMAGE.to_owned(),
        "os-services" => "11111111-2222-4333-8444-555555555555".to_owned(),
        _ => "1".to_owned(),
    };
    let mut first = Some(id);
    // The volume that the line's body names: another one would be an exchange, for services only.
    let second = if line.path.contains("/os-volume_attachments/") {
        "11111111-2222-4333-8444-555555555555"
    } else {
        "a"
    };
    let segments: Vec<String> = line
        .path
        .split('/')
        .map(|segment| {
            if segment.starts_with('{') {
                first.take().unwrap_or_else(|| second.to_owned())
            } else {
                segment.to_owned()
            }
        })
        .collect();
    let path = segments.join("/");
    if line.path == "/os-migrations" {
        // Those of all projects are for administrators.
        return format!("{path}?project_id={DEMO}");
    }
    path
}

/// The demo project may have any number of things.
async fn lift_limits(cloud: &Cloud) {
    let limits = json!({ "instances": -1, "cores": -1, "ram": -1, "server_groups": -1 });
    let path = format!("/os-quota-sets/{DEMO}");
    let body = json!({ "quota_set": limits });
    let answer = cloud.send("admin", 90, "PUT", &path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// Below the version that refuses unknown keys of queries, and where the row exists.
fn version_of(row: &crate::route::Route) -> u16 {
    row.until.map_or(104, |until| until.0 - 1)
}

#[tokio::test]
async fn every_row_and_every_caller() {
    let cloud = cloud().await;
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for line in lines() {
        let row = row(&line);
        if !matches!(row.served, Served::By(_)) {
            continue;
        }
        tried += 1;
        lift_limits(&cloud).await;
        let version = version_of(row);
        let body: Value = serde_json::from_str(line.body).unwrap_or(Value::Null);
        let path = path_of(&cloud, &line).await;
        let nobody = cloud
            .send("", version, line.verb, &path, body.clone())
            .await;
        assert_eq!(nobody.status, 401, "{} {path}", line.verb);
        for caller in CALLERS {
            let path = if line.verb == "GET" {
                path.clone()
            } else {
                path_of(&cloud, &line).await
            };
            let wanted = verdict(&line, caller);
            let answer = cloud
                .send(caller.0, version, line.verb, &path, body.clone())
                .await;
            let got = seen(&answer);
            let names_the_rule = got != Verdict::Denied
                || row.policy.is_none_or(|rule| {
                    answer.fault().1 == format!("Policy doesn't allow {rule} to be performed.")
                });
            if got != wanted || !names_the_rule {
                wrong.push(format!(
                    "{} {} {} by {}: wanted {wanted:?}, got {} {}",
                    line.verb,
                    line.path,
                    line.action.unwrap_or_default(),
                    caller.0,
                    answer.status,
                    answer.fault().1
                ));
            }
        }
    }
    assert!(tried > 100, "only {tried} rows are served");
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_table_names_every_row() {
    let lines = lines();
    for row in routes::ROUTES
        .iter()
        .filter(|row| !matches!(row.served, Served::Gone))
    {
        let named = lines.iter().filter(|line| {
            row.verb.as_str() == line.verb && row.path == line.path && row.action == line.action
        });
        assert_eq!(
            named.count(),
            1,
            "{} {} {:?}",
            row.verb.as_str(),
            row.path,
            row.action
        );
    }
    for line in &lines {
        row(line);
    }
}

/// What each role of the table is as a check string.
fn checks(role: &str) -> &'static [&'static str] {
    match role {
        "any" => &["@"],
        "self-or-admin" => &["(rule:context_is_admin) or user_id:%(user_id)s"],
        "service_or_admin" => &["rule:service_or_admin"],
        "reader" => &["rule:project_reader_or_admin"],
        "member" => &["rule:project_member_or_admin"],
        "manager" => &["rule:project_manager_or_admin"],
        "admin" => &["rule:context_is_admin"],
        _ => &[],
    }
}

#[test]
fn rules_have_the_checks_of_the_table() {
    let rules: BTreeMap<&str, &str> = policy_rules::defaults()
        .map(|rule| (rule.name, rule.check))
        .collect();
    for line in lines() {
        let Some(rule) = row(&line).policy else {
            assert_eq!(line.role, "any", "{} {}", line.verb, line.path);
            continue;
        };
        assert!(
            checks(line.role).contains(&rules[rule]),
            "{} {} {:?}: {rule} is {}",
            line.verb,
            line.path,
            line.action,
            rules[rule]
        );
    }
}

#[test]
fn held_against_nova() {
    let Some(folder) = oracle() else {
        eprintln!("KILONOVA_ORACLE is not set: policies are not compared with Nova's");
        return;
    };
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let theirs = read("policies.json");
    let theirs: BTreeMap<String, String> = theirs["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
            (text("name"), text("check_str"))
        })
        .collect();
    let ours: BTreeMap<String, String> = policy_rules::defaults()
        .filter(|rule| !rule.name.starts_with("kilonova:"))
        .map(|rule| (rule.name.to_owned(), rule.check.to_owned()))
        .collect();
    assert_eq!(ours, theirs);
    let old: Vec<(String, String)> = crate::policy_renames::all()
        .iter()
        .map(|old| (old.name.to_owned(), old.successor.to_owned()))
        .collect();
    for rule in read("policies.json")["policies"].as_array().unwrap() {
        let (new, name) = (&rule["name"], &rule["deprecated_rule"]["name"]);
        let Some(name) = name.as_str().filter(|name| !name.starts_with("rule:")) else {
            continue;
        };
        let pair = (name.to_owned(), new.as_str().unwrap().to_owned());
        assert!(new == name || old.contains(&pair), "{pair:?}");
    }

    let lines = lines();
    let routes = read("routes.json");
    let mut rows = 0;
    for theirs in routes["routes"].as_array().unwrap() {
        let text = |name: &str| theirs[name].as_str().unwrap_or_default();
        let outside = ["", "/"].contains(&text("path"));
        if text("status") == "gone" || outside {
            continue;
        }
        let ours = lines.iter().find(|line| {
            line.verb == text("method")
                && line.path == text("path")
                && line.action == theirs["action"].as_str()
        });
        let ours = ours.unwrap_or_else(|| panic!("no line for {theirs}"));
        assert_eq!(ours.role, text("default_role"), "{theirs}");
        assert_eq!(
            row(ours).policy,
            theirs["primary_policy"].as_str(),
            "{theirs}"
        );
        rows += 1;
    }
    assert_eq!(rows, lines.len());
}
