//! Events of servers as they happen, and answers that wait for a state.

use super::harness::{Answer, Cloud, DEMO};
use super::server_create::cloud;
use super::server_life::{finish, make};
use axum::body::{Body, BodyDataStream};
use db::instances::{Change, Expected};
use futures_util::StreamExt;
use http::{Request, StatusCode};
use serde_json::Value;
use std::time::Duration;
use tower::ServiceExt;
use types::{ServerId, TaskState, Timestamp, VmState};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

/// One event of a stream.
#[derive(Debug, Default)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// An open stream.
struct Events {
    body: BodyDataStream,
    text: String,
}

async fn ask(
    cloud: &Cloud,
    token: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, Body) {
    let mut request = Request::get(path);
    if !token.is_empty() {
        request = request.header("x-auth-token", token);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let answer = cloud.service.router().oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    if parts.status == 200 {
        assert_eq!(parts.headers["content-type"], "text/event-stream");
    }
    (parts.status, body)
}

async fn open(cloud: &Cloud, token: &str, path: &str, headers: &[(&str, &str)]) -> Events {
    let (status, body) = ask(cloud, token, path, headers).await;
    assert_eq!(status, 200);
    Events {
        body: body.into_data_stream(),
        text: String::new(),
    }
}

impl Events {
    /// The next event; none is the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((one, rest)) = self.text.split_once("\n\n") {
                let mut event = Event::default();
                for line in one.lines() {
                    match line.split_once(": ") {
                        Some(("event", name)) => event.name = name.to_owned(),
                        Some(("id", id)) => event.id = id.to_owned(),
                        Some(("data", text)) => event.data = serde_json::from_str(text).unwrap(),
                        _ => {}
                    }
                }
                self.text = rest.to_owned();
                if !event.name.is_empty() {
                    return Some(event);
                }
            }
            let more = tokio::time::timeout(LONG, self.body.next()).await.unwrap();
            self.text += std::str::from_utf8(&more?.unwrap()).unwrap();
        }
    }
}

async fn follow_to(cloud: &Cloud, id: &str, state: VmState, task: Option<TaskState>) {
    let id: ServerId = id.parse().unwrap();
    let moved = cloud.store.write(move |tx| {
        let server = db::instances::get(tx, id)?.unwrap();
        let change = Change {
            vm_state: Some(state),
            task_state: Some(task),
            task_id: Some(None),
            ..Change::default()
        };
        let expected = Expected::Generation(server.generation);
        db::instances::transition(tx, id, expected, &change, Timestamp::now())
    });
    assert!(moved.await.unwrap());
}

#[tokio::test]
async fn who_may_follow() {
    let cloud = Cloud::new().await;
    for (token, path, status) in [
        ("", "/events", 401),
        ("wrong", "/events", 401),
        ("nobody", "/events", 403),
        ("service", "/events", 403),
        ("reader", "/events", 200),
        ("member", "/events", 200),
        ("other", "/events", 200),
        ("admin", "/events", 200),
        ("reader", "/events?all_projects=true", 403),
        ("member", "/events?all_projects=1", 403),
        ("manager", "/events?all_projects=1", 403),
        ("member", "/events?all_projects=0", 200),
        ("admin", "/events?all_projects=true", 200),
        ("member", "/events?server=x", 400),
        ("member", "/events?last_event_id=x", 400),
        ("member", "/events?last_event_id=-1", 400),
    ] {
        assert_eq!(
            ask(&cloud, token, path, &[]).await.0,
            status,
            "{token} {path}"
        );
    }
}

#[tokio::test]
async fn a_failed_action_says_why() {
    let cloud = cloud().await;
    let mut stream = open(&cloud, "member", "/events", &[]).await;
    let id = make(&cloud, "member", "a").await;
    let server: ServerId = id.parse().unwrap();
    let fail = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        let now = Timestamp::now();
        let action = db::actions::of_server(tx, server)?[0].id;
        let event = db::actions::start_event(tx, action, "e", None, now)?;
        let details = "No valid host was found. 1 disabled [h1]";
        db::actions::finish_event(tx, event, Some(details), now)?;
        db::actions::fail(tx, action, "No valid host was found. 1 disabled", now)
    });
    fail.await.unwrap();
    let mut end = stream.next().await.unwrap();
    while end.name != "action.end" {
        assert!(end.data.get("message").is_none(), "{}", end.data);
        end = stream.next().await.unwrap();
    }
    let words = "Error: No valid host was found. 1 disabled";
    assert_eq!(end.data["message"], words);
    assert_eq!(end.data["result"], "Error");
    let request = end.data["request_id"].as_str().unwrap();
    let path = format!("/servers/{id}/os-instance-actions/{request}");
    let shown = cloud.get("member", 84, &path).await;
    assert_eq!(shown.json()["instanceAction"]["message"], words);
    assert!(!shown.text.contains("h1"), "{}", shown.text);
    let shown = cloud.get("admin", 84, &path).await.json();
    let event = &shown["instanceAction"]["events"][0];
    assert!(
        event["details"].as_str().unwrap().contains("[h1]"),
        "{event}"
    );
}

#[tokio::test]
async fn a_project_hears_of_its_servers() {
    let cloud = cloud().await;
    let mut own = open(&cloud, "reader", "/events", &[]).await;
    let mut others = open(&cloud, "other", "/events", &[]).await;
    let mut all = open(&cloud, "admin", "/events?all_projects=true", &[]).await;
    let id = make(&cloud, "member", "a").await;
    let first = own.next().await.unwrap();
    assert_eq!(first.name, "action.start");
    let data = &first.data;
    assert_eq!(data["server_id"], id.as_str());
    assert_eq!(
        (&data["action"], &data["vm_state"], &data["task_state"]),
        (&"create".into(), &"building".into(), &"scheduling".into())
    );
    assert_eq!(
        (&data["project_id"], &data["user_id"]),
        (&DEMO.into(), &"demo-user".into())
    );
    assert!(data["request_id"].as_str().unwrap().starts_with("req-"));
    assert!(
        data.get("host").is_none(),
        "hosts are for administrators: {data}"
    );
    finish(&cloud, &id, VmState::Active).await;
    let second = own.next().await.unwrap();
    assert_eq!(
        (&*second.name, &second.data["vm_state"]),
        ("state", &"active".into())
    );
    assert_eq!(second.data["task_state"], Value::Null);
    assert!(second.data.get("host").is_none());
    all.next().await.unwrap();
    let seen = all.next().await.unwrap();
    assert_eq!(
        (&seen.data["id"], &seen.data["host"]),
        (&second.data["id"], &"h1".into())
    );

    // Where one goes on from.
    let headers = [("last-event-id", first.id.as_str())];
    let mut again = open(&cloud, "member", "/events", &headers).await;
    assert_eq!(again.next().await.unwrap().data, second.data);
    let path = format!("/events?last_event_id=0&server={id}");
    let mut from_the_start = open(&cloud, "member", &path, &[]).await;
    assert_eq!(from_the_start.next().await.unwrap().data, first.data);
    assert_eq!(from_the_start.next().await.unwrap().data, second.data);
    let gone = cloud
        .send(
            "member",
            90,
            "DELETE",
            &format!("/servers/{id}"),
            Value::Null,
        )
        .await;
    assert_eq!(gone.status, 204);
    for stream in [&mut own, &mut again, &mut from_the_start] {
        let next = stream.next().await.unwrap();
        assert_eq!(next.data["task_state"], "deleting", "live after what was");
    }

    // The other project heard nothing of all that.
    let theirs = make(&cloud, "other", "b").await;
    assert_eq!(
        others.next().await.unwrap().data["server_id"],
        theirs.as_str()
    );
    let forgotten = cloud
        .store
        .write(|tx| db::outbox::forget(tx, Timestamp::now(), 1));
    assert!(forgotten.await.unwrap() > 0);
    let mut late = open(&cloud, "member", "/events", &headers).await;
    assert_eq!(late.next().await.unwrap().name, "lost");
}

/// Who comes with an event that the database has never had knows another one: this one was restored.
#[tokio::test]
async fn an_event_that_never_was_is_lost() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let (_, highest) = cloud.store.read(db::outbox::bounds).await.unwrap();
    assert!(highest > 0);
    let newest = highest.to_string();
    let later = (highest + 5).to_string();
    let mut known = open(&cloud, "member", "/events", &[("last-event-id", &newest)]).await;
    let mut ahead = open(&cloud, "member", "/events", &[("last-event-id", &later)]).await;
    let path = format!("/events?last_event_id={later}");
    let mut by_query = open(&cloud, "member", &path, &[]).await;
    for stream in [&mut ahead, &mut by_query] {
        let told = stream.next().await.unwrap();
        assert_eq!(told.name, "lost");
        assert_eq!(told.data["last_event_id"], highest + 5);
        assert!(told.id.is_empty() || told.id == newest, "{}", told.id);
    }
    let path = format!("/servers/{id}");
    let gone = cloud.send("member", 90, "DELETE", &path, Value::Null);
    assert_eq!(gone.await.status, 204);
    for stream in [&mut known, &mut ahead, &mut by_query] {
        let next = stream.next().await.unwrap();
        assert_eq!(next.data["server_id"], id.as_str(), "live from then on");
        assert!(next.data["id"].as_i64().unwrap() > highest);
    }
}

#[tokio::test]
async fn slow_clients_are_cut_and_go_on() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let mut slow = open(&cloud, "member", "/events", &[]).await;
    const CHANGES: usize = 600;
    let server: ServerId = id.parse().unwrap();
    let busy = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        for _ in 0..CHANGES {
            let generation = db::instances::get(tx, server)?.unwrap().generation;
            let change = Change {
                task_state: Some(Some(TaskState::Spawning)),
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
        }
        Ok(())
    });
    busy.await.unwrap();
    let mut heard = Vec::new();
    let mut last = String::new();
    while let Some(event) = slow.next().await {
        heard.push(event.data["id"].as_i64().unwrap());
        last = event.id;
    }
    assert!(
        !heard.is_empty() && heard.len() < CHANGES,
        "{}",
        heard.len()
    );
    while heard.len() < CHANGES {
        // Each time as far as the queue goes.
        let mut again = open(&cloud, "member", "/events", &[("last-event-id", &last)]).await;
        let event = again.next().await.unwrap();
        heard.push(event.data["id"].as_i64().unwrap());
        last = event.id;
    }
    assert!(
        heard.windows(2).all(|pair| pair[0] < pair[1]),
        "in order, none twice"
    );
}

#[tokio::test]
async fn streams_end_with_the_token_and_are_counted() {
    let cloud = Cloud::new().await;
    let mut brief = open(&cloud, "brief", "/events", &[]).await;
    assert!(brief.next().await.is_none(), "the token has ended");
    let mut many = Vec::new();
    loop {
        let (status, body) = ask(&cloud, "member", "/events", &[]).await;
        if status != 200 {
            assert_eq!(status, 429);
            break;
        }
        many.push(body);
        assert!(many.len() <= 64);
    }
    assert_eq!(
        ask(&cloud, "other", "/events", &[]).await.0,
        200,
        "another project"
    );
    many.pop();
    assert_eq!(
        ask(&cloud, "member", "/events", &[]).await.0,
        200,
        "given back"
    );
}

async fn wait(cloud: &Cloud, id: &str, prefer: &str) -> Answer {
    let headers = [("x-auth-token", "member"), ("prefer", prefer)];
    cloud
        .raw("GET", &format!("/v2.1/servers/{id}"), &headers, "")
        .await
}

fn applied(answer: &Answer) -> &str {
    let header = answer.headers.get("preference-applied");
    header.map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn answers_wait_for_states() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let over = wait(&cloud, &id, "wait=0; for=ACTIVE").await;
    assert_eq!(
        (over.status.as_u16(), applied(&over)),
        (200, "wait; result=timeout")
    );
    assert_eq!(over.json()["server"]["status"], "BUILD");
    let (active, idle, never, ()) = tokio::join!(
        wait(&cloud, &id, "wait=60; for=ACTIVE"),
        wait(&cloud, &id, "wait=60"),
        wait(&cloud, &id, "wait=5; for=shutoff"),
        async {
            let begun = std::time::Instant::now();
            while cloud.service.followers().1 < 3 {
                assert!(begun.elapsed() < LONG, "three wait");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            finish(&cloud, &id, VmState::Active).await;
        }
    );
    assert_eq!(applied(&active), "wait; result=reached");
    assert_eq!(active.json()["server"]["status"], "ACTIVE");
    assert_eq!(applied(&idle), "wait; result=reached");
    assert_eq!(applied(&never), "wait; result=timeout");
    assert_eq!(never.json()["server"]["status"], "ACTIVE");
    assert_eq!(cloud.service.followers(), (0, 0), "nobody waits any more");
    let at_once = wait(&cloud, &id, "wait=60; for=active").await;
    assert_eq!(applied(&at_once), "wait; result=reached");

    let (broken, ()) = tokio::join!(wait(&cloud, &id, "wait=60; for=SHUTOFF"), async {
        while cloud.service.followers().1 < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        follow_to(&cloud, &id, VmState::Error, None).await;
    });
    assert_eq!(applied(&broken), "wait; result=error");
    assert_eq!(broken.json()["server"]["status"], "ERROR");

    let uuid: ServerId = id.parse().unwrap();
    let (gone, ()) = tokio::join!(wait(&cloud, &id, "wait=60; for=deleted"), async {
        while cloud.service.followers().1 < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let deleted = cloud
            .store
            .write(move |tx| db::instances::mark_deleted(tx, uuid, Timestamp::now()));
        assert!(deleted.await.unwrap());
    });
    assert_eq!(gone.status, 404);
    for bad in ["wait=soon", "wait=5; for=LUNCH"] {
        assert_eq!(wait(&cloud, &id, bad).await.status, 400, "{bad}");
    }
    let headers = [("x-auth-token", "member"), ("prefer", "wait=soon")];
    let elsewhere = cloud.raw("GET", "/v2.1/servers", &headers, "").await;
    assert_eq!(elsewhere.status, 200, "only one server is waited for");
}
