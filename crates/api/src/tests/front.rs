//! `OPTIONS`, and the line in the log that each request has.

use super::harness::Cloud;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps the lines of requests, of this level and above.
struct Lines(Arc<Mutex<Vec<String>>>, Level);

struct Words<'a>(&'a mut String);

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "kilonova::requests" && *metadata.level() <= self.1
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut Words(&mut line));
        self.0.lock().unwrap().push(line);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

async fn told(level: Level, path: &str) -> (Vec<String>, String) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let cloud = Cloud::new().await;
    let guard = tracing::subscriber::set_default(Lines(Arc::clone(&lines), level));
    let member = [("x-auth-token", "member")];
    let answer = cloud.raw("GET", path, &member, "").await;
    drop(guard);
    let id = answer.headers.get("x-openstack-request-id");
    let id = id.map_or("", |id| id.to_str().unwrap()).to_owned();
    let lines = lines.lock().unwrap().clone();
    (lines, id)
}

/// Where clients come through something that changes URLs.
#[tokio::test]
async fn links_begin_where_they_are_told_to() {
    let prefix = "https://cloud.example.org/compute";
    let config = crate::Config {
        compute_link_prefix: Some(prefix.to_owned()),
        ..super::harness::config()
    };
    let cloud = Cloud::with(config).await;
    let link = |answer: serde_json::Value| answer["links"][0]["href"].as_str().unwrap().to_owned();
    let versions = cloud.raw("GET", "/", &[], "").await.json();
    assert_eq!(
        link(versions["versions"][1].clone()),
        format!("{prefix}/v2.1/")
    );
    let flavor =
        serde_json::json!({"flavor": {"name": "a", "id": "1", "ram": 1, "vcpus": 1, "disk": 0}});
    let made = cloud.send("admin", 1, "POST", "/flavors", flavor).await;
    assert_eq!(
        link(made.json()["flavor"].clone()),
        format!("{prefix}/v2.1/flavors/1")
    );
}

#[tokio::test]
async fn a_line_for_each_request() {
    let (lines, id) = told(Level::INFO, "/v2.1/servers?name=secret").await;
    let [line] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert!(line.starts_with("INFO "), "{line}");
    let words =
        format!("message=GET /v2.1/servers request_id=\"{id}\" status=200 length=14 seconds=0.");
    assert!(line.contains(&words), "{line}");
    assert!(id.starts_with("req-") && !line.contains("secret"), "{line}");

    for path in ["/v2.1/none", "/openapi.json", "/"] {
        let (lines, _) = told(Level::INFO, path).await;
        assert_eq!(lines.len(), 1, "{path}: {lines:?}");
    }
    let (lines, _) = told(Level::INFO, "/healthcheck").await;
    assert!(lines.is_empty(), "{lines:?}");
    let (lines, _) = told(Level::DEBUG, "/healthcheck").await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (lines, _) = told(Level::WARN, "/v2.1/servers").await;
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn options_of_any_path() {
    let cloud = Cloud::new().await;
    for path in [
        "/",
        "/v2.1",
        "/v2.1/servers",
        "/v2/x/y",
        "/v3",
        "/healthcheck",
        "/openapi.json",
        "/events",
    ] {
        let answer = cloud.raw("OPTIONS", path, &[], "").await;
        assert_eq!(
            (answer.status.as_u16(), answer.text.as_str()),
            (200, ""),
            "{path}"
        );
        assert!(answer.headers.get("content-type").is_none(), "{path}");
    }
}
