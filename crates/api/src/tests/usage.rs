//! What projects have used: which servers count, and pages of them.

use super::harness::{Cloud, DEMO, OTHER};
use super::server_history::instance;
use crate::Config;
use db::instances::Instance;
use serde_json::{Value, json};
use types::{ServerId, Timestamp};
use uuid::Uuid;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// A server by its number: when it began and ended.
async fn lived(cloud: &Cloud, number: u128, project: &str, from: Option<&str>, to: Option<&str>) {
    let server = Instance {
        id: ServerId(Uuid::from_u128(number)),
        project_id: project.into(),
        // Later ones came earlier: the ids count.
        created_at: Timestamp::from_seconds(1_700_000_000 - i64::try_from(number).unwrap()),
        launched_at: from.map(at),
        ..instance()
    };
    let (id, ended) = (server.id, to.map(at));
    let write = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        db::instances::insert(tx, &server)?;
        tx.execute(
            "UPDATE instances SET terminated_at = ? WHERE uuid = ?",
            &[ended.into(), id.into()],
        )?;
        Ok(())
    });
    write.await.unwrap();
}

const PERIOD: &str = "start=2023-02-01T00:00:00&end=2023-03-01T00:00:00";

/// The numbers of the servers in an answer.
fn numbers(document: &Value) -> Vec<u128> {
    let mut found = Vec::new();
    for usage in document["tenant_usages"].as_array().unwrap() {
        for server in usage["server_usages"].as_array().unwrap() {
            let id: Uuid = server["instance_id"].as_str().unwrap().parse().unwrap();
            found.push(id.as_u128());
        }
    }
    found
}

async fn filled(config: Config) -> Cloud {
    let cloud = Cloud::with(config).await;
    // Gone before the period, gone as it begins, never started, begun as it ends: none of them counts.
    lived(
        &cloud,
        1,
        DEMO,
        Some("2023-01-01T00:00:00"),
        Some("2023-01-02T00:00:00"),
    )
    .await;
    lived(
        &cloud,
        2,
        DEMO,
        Some("2023-01-01T00:00:00"),
        Some("2023-02-01T00:00:00"),
    )
    .await;
    lived(&cloud, 3, DEMO, None, None).await;
    lived(&cloud, 4, DEMO, Some("2023-03-01T00:00:00"), None).await;
    // These do.
    lived(&cloud, 5, DEMO, Some("2023-01-01T00:00:00"), None).await;
    lived(
        &cloud,
        6,
        OTHER,
        Some("2023-02-03T00:00:00"),
        Some("2023-02-04T00:00:00"),
    )
    .await;
    lived(
        &cloud,
        7,
        DEMO,
        Some("2023-02-03T00:00:00"),
        Some("2023-03-04T00:00:00"),
    )
    .await;
    cloud
}

#[tokio::test]
async fn pages_are_full_of_what_counts() {
    let cloud = filled(Config::default()).await;
    let mut path = format!("/os-simple-tenant-usage?{PERIOD}&detailed=1&limit=1");
    let mut pages = Vec::new();
    loop {
        let answer = cloud.get("admin", 104, &path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let document = answer.json();
        pages.push(numbers(&document));
        let Some(next) = document["tenant_usages_links"][0]["href"].as_str() else {
            break;
        };
        path = next.split("/v2.1").nth(1).unwrap().to_owned();
    }
    // One project after the other, and a link as long as pages are full.
    assert_eq!(pages, [vec![6], vec![5], vec![7], vec![]]);
    let of_one = format!("/os-simple-tenant-usage/{DEMO}?{PERIOD}&limit=2");
    let shown = cloud.get("admin", 104, &of_one).await.json();
    let usage = &shown["tenant_usage"];
    assert_eq!(usage["server_usages"].as_array().unwrap().len(), 2);
    assert_eq!(usage["total_hours"], 28.0 * 24.0 + 26.0 * 24.0);
    assert!(shown["tenant_usage_links"].is_array(), "{shown}");
    let all = cloud
        .get(
            "admin",
            104,
            &format!("/os-simple-tenant-usage?{PERIOD}&detailed=1"),
        )
        .await;
    assert!(all.json().get("tenant_usages_links").is_none());
    let unknown = format!("/os-simple-tenant-usage?{PERIOD}&marker=x");
    assert_eq!(cloud.get("admin", 104, &unknown).await.status, 400);
}

#[tokio::test]
async fn without_pages_an_answer_ends_at_the_limit() {
    let cloud = filled(Config {
        max_limit: 2,
        ..Config::default()
    })
    .await;
    let path = format!("/os-simple-tenant-usage?{PERIOD}&detailed=1");
    let shown = cloud.get("admin", 39, &path).await.json();
    assert_eq!(numbers(&shown), [6, 5]);
    assert!(shown.get("tenant_usages_links").is_none());
}

/// No audit runs here; what Nova says of a cloud where none has run.
#[tokio::test]
async fn the_log_of_audits() {
    let cloud = Cloud::new().await;
    let path = "/os-instance_usage_audit_log";
    let log = cloud.get("admin", 1, path).await.json();
    let log = &log["instance_usage_audit_logs"];
    assert_eq!(log["overall_status"], "ALL hosts done. 0 errors.");
    let beat = |tx: &mut sql::Tx<'_>| {
        db::hosts::beat(tx, &"h1".into(), "nova-compute", None, Timestamp::now())
    };
    let beaten: Result<(), sql::Error> = cloud.store.write(beat).await;
    beaten.unwrap();
    for (time, end) in [
        ("2026-02-01%2000:00:00", "2026-01-01 00:00:00"),
        ("2026-02-01%2000:00:00.5", "2026-02-01 00:00:00"),
    ] {
        let log = cloud
            .get("admin", 1, &format!("{path}/{time}"))
            .await
            .json();
        let log = &log["instance_usage_audit_log"];
        assert_eq!(log["period_ending"], end);
        assert_eq!(log["overall_status"], "0 of 1 hosts done. 0 errors.");
        assert_eq!(log["hosts_not_run"], json!(["h1"]));
    }
    for bad in ["x", "2026-02-01", "2026-02-01T00:00:00"] {
        let refused = cloud.get("admin", 1, &format!("{path}/{bad}")).await;
        assert_eq!(refused.status, 400, "{bad}");
        assert_eq!(
            refused.fault().1,
            format!("Invalid timestamp for date {bad}")
        );
    }
}

#[tokio::test]
async fn periods() {
    let cloud = filled(Config::default()).await;
    let same = "/os-simple-tenant-usage?start=2023-02-01T00:00:00&end=2023-02-01T00:00:00";
    let refused = cloud.get("admin", 1, same).await;
    assert_eq!(
        refused.fault().1,
        "Invalid start time. The start time cannot occur after the end time."
    );
    let now = cloud
        .get("admin", 1, "/os-simple-tenant-usage?start=&end=")
        .await;
    assert_eq!(now.status, 200, "{}", now.text);
    let path = "/os-simple-tenant-usage?start=2023-02-01T00:00:00&end=2999-01-01T00:00:00";
    let ahead = cloud.get("admin", 1, path).await.json();
    let stop = ahead["tenant_usages"][0]["stop"].as_str().unwrap();
    assert!(
        at(stop) <= Timestamp::now(),
        "{stop}: nobody has used the future"
    );
    assert_eq!(
        ahead["tenant_usages"][0]["start"],
        json!("2023-02-01T00:00:00.000000")
    );
}
