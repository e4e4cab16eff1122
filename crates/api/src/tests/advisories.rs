//! Nova's security advisories (`docs/security-advisories.md`): the table is whole and names tests that are there; and
//! regression tests that have no better place.

use super::harness::{FOREIGN, IMAGE, OTHER};
use super::samples::facts;
use super::server_create::{body, cloud, cloud_with};
use super::server_life::{finish, host_is_up, make};
use db::hosts::Ratios;
use db::instances::{Change, Expected, Fault};
use serde_json::{Value, json};
use std::path::Path;
use types::{NodeId, ServerId, Timestamp, VmState};

/// The rows of the table: number, reason, tests.
fn rows() -> Vec<(String, String, Vec<String>)> {
    let text = include_str!("../../../../docs/security-advisories.md");
    let lines = text.lines().filter(|line| line.starts_with("| OSSA-"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, number, _, why, tests, _] = cells[..] else {
                panic!("five cells: {line}");
            };
            let tests = tests.split('`').filter(|part| part.contains("::"));
            (
                number.to_owned(),
                why.to_owned(),
                tests.map(str::to_owned).collect(),
            )
        })
        .collect()
}

/// Whether the file has a test of this name, not only a function.
fn is_test(file: &str, name: &str, source: &str) -> bool {
    if file.ends_with(".py") {
        return name.starts_with("test_") && source.contains(&format!("\ndef {name}("));
    }
    let mut before: Vec<&str> = Vec::new();
    for line in source.lines().map(str::trim) {
        let line = line.strip_prefix("async ").unwrap_or(line);
        if line.starts_with(&format!("fn {name}(")) {
            return before
                .iter()
                .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
        }
        if line.starts_with("#[") || line.starts_with("///") {
            before.push(line);
        } else {
            before.clear();
        }
    }
    false
}

#[test]
fn every_advisory_has_its_reason() {
    let rows = rows();
    assert_eq!(rows.len(), 58);
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0), "in order, each once");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (number, why, tests) in rows {
        assert!(!why.is_empty(), "{number}");
        assert!(!tests.is_empty(), "{number}: no test proves it");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap();
            let source = std::fs::read_to_string(root.join(file));
            let source = source.unwrap_or_else(|error| panic!("{number}: {file}: {error}"));
            assert!(is_test(file, name, &source), "{number}: no test {test}");
        }
    }
}

/// OSSA-2011-001: images are not registered through an EC2 API.
#[tokio::test]
async fn there_is_no_ec2_api() {
    let of_ec2 = |path: &str| path.to_lowercase().contains("ec2");
    assert!(!crate::routes::ROUTES.iter().any(|row| of_ec2(row.path)));
    let cloud = cloud().await;
    let asked = "Action=RegisterImage&ImageLocation=../../bucket/image.manifest.xml";
    for (path, status) in [
        ("/services/Cloud", 300),
        ("/services/Cloud/", 300),
        ("/v2.1/services/Cloud", 404),
        ("/v2.1/ec2", 404),
    ] {
        for method in ["GET", "POST"] {
            let path = format!("{path}?{asked}");
            let headers = [("x-auth-token", "admin")];
            let answer = cloud.raw(method, &path, &headers, "").await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        }
    }
}

/// OSSA-2013-010: a token is not taken apart and believed for its signature; whoever issues tokens is asked.
#[tokio::test]
async fn tokens_that_sign_themselves_are_refused() {
    let cloud = cloud().await;
    // The beginnings of PKI and PKIZ tokens.
    for token in [
        "MIIC3wYJKoZIhvcNAQcCoIIC0DCCAswCAQExCTAHBgUrDgMCGjCCAfYGCSqGSIb3DQEHAaCCAecEggHj",
        "PKIZ_eJydUktvozAYvOd3vOWwJ4QAAAAAElFTkSuQmCC",
    ] {
        let headers = [("x-auth-token", token)];
        let answer = cloud.raw("GET", "/v2.1/flavors", &headers, "").await;
        assert_eq!(answer.status, 401, "{}", answer.text);
    }
}

/// OSSA-2012-009.
#[tokio::test]
async fn hints_cost_no_queries() {
    let notes = sql::testing::Notes::default();
    let store = sql::Store::temporary().await.unwrap();
    let cloud = super::harness::Cloud::on(store.noting(&notes), crate::Config::default()).await;
    let flavor = json!({"flavor": {"name": "f", "id": "1", "ram": 512, "vcpus": 1, "disk": 1}});
    assert_eq!(
        cloud
            .send("admin", 1, "POST", "/flavors", flavor)
            .await
            .status,
        200
    );
    let mut counts = Vec::new();
    // The first one makes rows that the others change.
    for hints in [1, 1, 2000] {
        let servers: Vec<Value> = (0..hints)
            .map(|_| ServerId::random().to_string().into())
            .collect();
        let mut new = body(json!({ "networks": "none" }));
        new["os:scheduler_hints"] = json!({ "different_host": servers });
        notes.take();
        let path = "/servers?dry_run=true";
        let tried = cloud.send("member", 74, "POST", path, new.clone()).await;
        assert_eq!(tried.status, 200, "{}", tried.text);
        let made = cloud.send("member", 74, "POST", "/servers", new).await;
        assert_eq!(made.status, 202, "{}", made.text);
        counts.push(notes.take().len());
    }
    assert_eq!(counts[1], counts[2]);
}

/// OSSA-2013-019 and OSSA-2013-024.
#[tokio::test]
async fn private_flavors_are_not_booted() {
    let cloud = cloud().await;
    let private = json!({"flavor": {"name": "p", "id": "p", "ram": 64, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": false}});
    let made = cloud.send("admin", 1, "POST", "/flavors", private).await;
    assert_eq!(made.status, 200);
    let access = json!({"addTenantAccess": {"tenant": OTHER}});
    let added = cloud
        .send("admin", 7, "POST", "/flavors/p/action", access)
        .await;
    assert_eq!(added.status, 200, "{}", added.text);
    let new = body(json!({ "flavorRef": "p", "networks": "none" }));
    let refused = cloud
        .send("member", 40, "POST", "/servers", new.clone())
        .await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(!refused.text.contains("64"), "{}", refused.text);
    let made = cloud.send("other", 40, "POST", "/servers", new).await;
    assert_eq!(made.status, 202, "{}", made.text);
    // Nor reached by a resize.
    host_is_up(&cloud).await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let action = format!("/servers/{id}/action");
    let resize = json!({ "resize": { "flavorRef": "p" } });
    let refused = cloud.send("member", 40, "POST", &action, resize).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
}

/// OSSA-2017-005.
#[tokio::test]
async fn a_rebuild_does_not_go_round_the_filters() {
    let cloud = cloud_with(crate::Config::default()).await;
    let host = cloud.store.write(|tx| -> Result<(), sql::Error> {
        let now = Timestamp::now();
        let mut facts = facts();
        facts.supported = vec![("x86_64".into(), "kvm".into(), "hvm".into())];
        db::hosts::beat(tx, &"h1".into(), "nova-compute", None, now)?;
        db::hosts::put_node(
            tx,
            &"h1".into(),
            NodeId::random(),
            &facts,
            &Ratios::default(),
            now,
        )
    });
    host.await.unwrap();
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let action = format!("/servers/{id}/action");
    let rebuild = async |image: &str| {
        let wanted = json!({ "rebuild": { "imageRef": image } });
        cloud.send("member", 40, "POST", &action, wanted).await
    };
    let refused = rebuild(FOREIGN).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    let words = refused.fault().1;
    assert!(
        words.starts_with("No valid host was found.") && !words.contains("h1"),
        "{words}"
    );
    let server = cloud
        .get("member", 40, &format!("/servers/{id}"))
        .await
        .json();
    assert_eq!(server["server"]["status"], "ACTIVE");
    assert_eq!(rebuild(IMAGE).await.status, 202);
}

/// OSSA-2019-003.
#[tokio::test]
async fn details_of_faults_are_for_administrators() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let server: ServerId = id.parse().unwrap();
    let fail = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        let generation = db::instances::get(tx, server)?.unwrap().generation;
        let fault = Fault {
            code: 500,
            message: "Build of the server failed: The host could not do it.".into(),
            details: Some("the hypervisor refused: cannot open /srv/secret".into()),
            created: Timestamp::now(),
        };
        let change = Change {
            vm_state: Some(VmState::Error),
            task_state: Some(None),
            fault: Some(Some(fault)),
            ..Change::default()
        };
        let expected = Expected::Generation(generation);
        assert!(db::instances::transition(
            tx,
            server,
            expected,
            &change,
            Timestamp::now()
        )?);
        Ok(())
    });
    fail.await.unwrap();
    for path in [format!("/servers/{id}"), "/servers/detail".to_owned()] {
        let shown = cloud.get("member", 104, &path).await.text;
        assert!(shown.contains("could not do it"), "{shown}");
        assert!(
            !shown.contains("hypervisor") && !shown.contains("secret"),
            "{shown}"
        );
    }
    let shown = cloud
        .get("admin", 104, &format!("/servers/{id}"))
        .await
        .text;
    assert!(shown.contains("/srv/secret"), "{shown}");
}

/// OSSA-2026-022, CVE-2026-46448.
#[tokio::test]
async fn hints_of_the_clouds_own_are_not_the_users() {
    let cloud = cloud().await;
    let host = cloud.store.write(|tx| -> Result<(), sql::Error> {
        let (now, h1) = (Timestamp::now(), types::HostName::from("h1"));
        db::hosts::beat(tx, &h1, "nova-compute", None, now)?;
        let mut facts = facts();
        facts.vcpus = 1;
        let ratios = Ratios {
            cpu: 1.0,
            ..Ratios::default()
        };
        db::hosts::put_node(tx, &h1, NodeId::random(), &facts, &ratios, now)
    });
    host.await.unwrap();
    let secret = json!({ "_nova_check_type": ["rebuild"], "_host": "h9", "_x": "y" });
    for key in ["os:scheduler_hints", "OS-SCH-HNT:scheduler_hints"] {
        let new = |count: u64, hints: &Value| {
            let mut new = body(json!({ "networks": "none", "min_count": count }));
            new[key] = hints.clone();
            new
        };
        for (count, fits) in [(1, true), (2, false)] {
            for hints in [json!({}), secret.clone()] {
                let asked = new(count, &hints);
                let path = "/servers?dry_run=true";
                let tried = cloud.send("member", 74, "POST", path, asked).await;
                let placed = &tried.json()["dry_run"]["would_be_placed"];
                assert_eq!(*placed, fits, "{count} {hints}: {}", tried.text);
            }
        }
        let made = cloud
            .send("member", 74, "POST", "/servers", new(1, &secret))
            .await;
        assert_eq!(made.status, 202, "{}", made.text);
        let id = made.json()["server"]["id"].as_str().unwrap().to_owned();
        for token in ["member", "admin"] {
            let shown = cloud.get(token, 104, &format!("/servers/{id}")).await;
            assert_eq!(shown.json()["server"]["scheduler_hints"], json!({}));
            assert!(!shown.text.contains("_nova_check_type"), "{}", shown.text);
        }
        let id: ServerId = id.parse().unwrap();
        let stored = cloud.store.read(move |tx| db::instances::get(tx, id)).await;
        let stored: Result<_, sql::Error> = stored;
        assert_eq!(stored.unwrap().unwrap().scheduler_hints, json!({}));
    }
}
