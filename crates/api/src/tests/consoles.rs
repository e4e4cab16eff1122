//! Consoles, where there are no proxies for them: refused as where they are switched off, after everything else was
//! looked at.

use super::harness::Cloud;
use super::server_create::cloud;
use super::server_life::{finish, make};
use serde_json::{Value, json};
use types::{ServerId, Timestamp, VmState};

const OLD: &[(&str, &str, &str)] = &[
    ("os-getVNCConsole", "novnc", "get_vnc_console"),
    ("os-getVNCConsole", "xvpvnc", "get_vnc_console"),
    ("os-getSPICEConsole", "spice-html5", "get_spice_console"),
    ("os-getSerialConsole", "serial", "get_serial_console"),
];

/// Version, protocol, type, and the kind that is unavailable.
const NEW: &[(u16, &str, &str, &str)] = &[
    (6, "vnc", "novnc", "novnc"),
    (6, "spice", "spice-html5", "spice-html5"),
    (6, "serial", "serial", "serial"),
    (6, "rdp", "rdp-html5", "rdp"),
    (8, "mks", "webmks", "webmks"),
    (99, "spice", "spice-direct", "spice-direct"),
];

async fn ask(cloud: &Cloud, token: &str, version: u16, path: &str, body: Value) -> (u16, String) {
    let answer = cloud.send(token, version, "POST", path, body).await;
    (answer.status.as_u16(), answer.fault().1)
}

fn remote(protocol: &str, kind: &str) -> Value {
    json!({"remote_console": {"protocol": protocol, "type": kind}})
}

#[tokio::test]
async fn consoles_are_unavailable() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let (action, consoles) = (
        format!("/servers/{id}/action"),
        format!("/servers/{id}/remote-consoles"),
    );
    // Not on a host yet.
    let not_ready = (409, format!("Instance {id} is not ready"));
    let vnc = json!({"os-getVNCConsole": {"type": "novnc"}});
    assert_eq!(
        ask(&cloud, "member", 5, &action, vnc.clone()).await,
        not_ready
    );
    let body = remote("vnc", "novnc");
    assert_eq!(ask(&cloud, "member", 6, &consoles, body).await, not_ready);
    finish(&cloud, &id, VmState::Active).await;

    for (name, kind, _) in OLD {
        let body = json!({ *name: { "type": kind } });
        let wanted = (400, format!("Unavailable console type {kind}."));
        assert_eq!(
            ask(&cloud, "member", 1, &action, body.clone()).await,
            wanted
        );
        assert_eq!(ask(&cloud, "reader", 1, &action, body.clone()).await.0, 403);
        assert_eq!(ask(&cloud, "other", 1, &action, body).await.0, 404);
        let (status, message) = ask(
            &cloud,
            "member",
            1,
            &action,
            json!({ *name: { "type": "x" } }),
        )
        .await;
        assert_eq!(status, 400);
        assert!(message.contains("is not one of"), "{message}");
    }
    for (version, protocol, kind, unavailable) in NEW {
        let body = remote(protocol, kind);
        let wanted = (400, format!("Unavailable console type {unavailable}."));
        for version in [*version, 104] {
            let asked = ask(&cloud, "member", version, &consoles, body.clone()).await;
            assert_eq!(asked, wanted, "2.{version}");
        }
        assert_eq!(
            ask(&cloud, "reader", *version, &consoles, body.clone())
                .await
                .0,
            403
        );
        assert_eq!(
            ask(&cloud, "other", *version, &consoles, body.clone())
                .await
                .0,
            404
        );
        if *version > 6 {
            let (status, message) = ask(&cloud, "member", version - 1, &consoles, body).await;
            assert_eq!(status, 400);
            assert!(message.contains("is not one of"), "{message}");
        }
    }
    let nowhere = "/servers/no-such/remote-consoles";
    assert_eq!(
        ask(&cloud, "member", 6, nowhere, remote("vnc", "novnc"))
            .await
            .0,
        404
    );
}

/// Whatever is asked for, and whoever asks, of whatever server.
#[tokio::test]
async fn rdp_is_gone() {
    let cloud = cloud().await;
    for (token, body) in [
        ("nobody", json!({"os-getRDPConsole": {"type": "rdp-html5"}})),
        ("member", json!({"os-getRDPConsole": 1})),
    ] {
        let (status, message) = ask(&cloud, token, 5, "/servers/x/action", body.clone()).await;
        assert_eq!(status, 400);
        assert!(
            message.starts_with("The server could not comply"),
            "{message}"
        );
        assert_eq!(
            ask(&cloud, token, 6, "/servers/x/action", body).await.0,
            404
        );
    }
}

#[tokio::test]
async fn servers_on_their_way_have_no_console() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let server: ServerId = id.parse().unwrap();
    for (task, refused) in [
        ("migrating", true),
        ("deleting", true),
        ("rebooting", false),
    ] {
        let set = move |tx: &mut sql::Tx<'_>| {
            let sql = "UPDATE instances SET task_state = ?, updated_at = ? WHERE uuid = ?";
            tx.execute(sql, &[task.into(), Timestamp::now().into(), server.into()])
        };
        let set: Result<u64, sql::Error> = cloud.store.write(set).await;
        set.unwrap();
        for (name, kind, method) in OLD {
            let path = format!("/servers/{id}/action");
            let body = json!({ *name: { "type": kind } });
            let asked = ask(&cloud, "member", 5, &path, body).await;
            let wanted = if refused {
                let words =
                    format!("Cannot '{method}' instance {id} while it is in task_state {task}");
                (409, words)
            } else {
                (400, format!("Unavailable console type {kind}."))
            };
            assert_eq!(asked, wanted);
        }
        let path = format!("/servers/{id}/remote-consoles");
        let asked = ask(&cloud, "member", 8, &path, remote("mks", "webmks")).await;
        assert_eq!(asked.0, if refused { 409 } else { 400 }, "{}", asked.1);
    }
}
