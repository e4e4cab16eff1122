#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Stories of servers with emulated TPMs, each ended by the audit. Simulated guests do not start without the passphrase of
//! what their TPM remembers, nor with another one.

use serde_json::json;
use testkit::{Cluster, Options};
use types::{PowerState, ServerId, VmState};

async fn clean(cluster: &Cluster) {
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

async fn cluster() -> Cluster {
    Cluster::new(Options {
        hosts: 2,
        ..Options::default()
    })
    .await
}

/// What requests bring from now on.
fn bring(cluster: &Cluster, passphrase: Option<&'static str>) {
    *cluster.passphrase.lock().unwrap() = passphrase;
}

async fn running(cluster: &Cluster, security: &str) -> ServerId {
    let made = cluster.create_with(|server| Cluster::with_tpm(server, security));
    let server = made.await;
    cluster.idle().await;
    let now = cluster.server(server).await;
    assert_eq!(now.vm_state, VmState::Active, "{security}: {:?}", now.fault);
    server
}

async fn act(cluster: &Cluster, server: ServerId, flow: &'static str) -> VmState {
    let state = cluster.first_state(flow, server);
    cluster.act(server, flow, state).await;
    cluster.idle().await;
    cluster.server(server).await.vm_state
}

async fn failed(cluster: &Cluster, server: ServerId) -> bool {
    cluster.last_action_failed(server).await
}

#[tokio::test]
async fn a_guest_starts_only_with_its_own_passphrase() {
    for security in ["user", "deployment"] {
        let cluster = cluster().await;
        let server = running(&cluster, security).await;
        for wrong in [None, Some("another")] {
            bring(&cluster, Some("secret"));
            assert_eq!(act(&cluster, server, "stop").await, VmState::Stopped);
            bring(&cluster, wrong);
            assert_eq!(act(&cluster, server, "start").await, VmState::Stopped);
            assert!(failed(&cluster, server).await);
            let fault = cluster.server(server).await.fault.unwrap();
            if wrong.is_none() {
                assert!(fault.message.contains("passphrase"), "{}", fault.message);
            } else {
                // What is wrong with one is between the key manager and the host.
                assert_eq!(fault.message, "The host could not do it.");
                assert!(fault.details.unwrap().contains("passphrase"));
            }
            bring(&cluster, Some("secret"));
            assert_eq!(act(&cluster, server, "start").await, VmState::Active);
            for hard in [false, true] {
                cluster.reboot(server, hard).await;
                cluster.idle().await;
                assert!(!failed(&cluster, server).await, "{hard}");
            }
            assert_eq!(act(&cluster, server, "suspend").await, VmState::Suspended);
            assert_eq!(act(&cluster, server, "resume").await, VmState::Active);
        }
        bring(&cluster, None);
        cluster.reboot(server, true).await;
        cluster.idle().await;
        assert!(failed(&cluster, server).await);
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn a_server_that_never_got_a_passphrase_is_not_built() {
    let cluster = cluster().await;
    bring(&cluster, None);
    let made = cluster.create_with(|server| Cluster::with_tpm(server, "user"));
    let server = made.await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Error);
    clean(&cluster).await;
}

#[tokio::test]
async fn what_a_tpm_remembers_goes_where_its_guest_goes_and_back() {
    let cluster = cluster().await;
    let server = running(&cluster, "user").await;
    let home = cluster.server(server).await.host;
    for back in [true, false] {
        cluster.resize(server, true, json!({})).await;
        cluster.idle().await;
        let there = cluster.server(server).await;
        assert_eq!(there.vm_state, VmState::Resized, "{:?}", there.fault);
        assert_ne!(there.host, home);
        let end = if back {
            "revert_resize"
        } else {
            "confirm_resize"
        };
        assert_eq!(act(&cluster, server, end).await, VmState::Active);
        assert_eq!(cluster.server(server).await.host == home, back);
        bring(&cluster, Some("another"));
        cluster.reboot(server, true).await;
        cluster.idle().await;
        assert!(failed(&cluster, server).await, "it remembers: {back}");
        bring(&cluster, Some("secret"));
        cluster.reboot(server, true).await;
        cluster.idle().await;
        assert!(!failed(&cluster, server).await, "{back}");
    }
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_that_keeps_the_passphrase_gives_it_to_the_next() {
    let cluster = cluster().await;
    let server = running(&cluster, "host").await;
    bring(&cluster, None);
    assert_eq!(act(&cluster, server, "stop").await, VmState::Stopped);
    assert_eq!(act(&cluster, server, "start").await, VmState::Active);
    for _ in 0..2 {
        let from = cluster.server(server).await.host;
        assert_eq!(
            act(&cluster, server, "live_migration").await,
            VmState::Active
        );
        let there = cluster.server(server).await;
        assert!(!failed(&cluster, server).await, "{:?}", there.fault);
        assert_ne!(there.host, from);
        cluster.reboot(server, true).await;
        cluster.idle().await;
        assert!(!failed(&cluster, server).await);
    }
    // The one that it goes to while it is off has never had it.
    let home = cluster.server(server).await.host;
    cluster.resize(server, true, json!({})).await;
    cluster.idle().await;
    assert!(failed(&cluster, server).await);
    let stayed = cluster.server(server).await;
    assert_eq!(
        (stayed.host, stayed.power_state),
        (home, PowerState::Running)
    );
    clean(&cluster).await;
}

#[tokio::test]
async fn a_server_is_opened_for_live_migration_by_a_resize() {
    for security in ["user", "deployment"] {
        let cluster = cluster().await;
        let server = running(&cluster, security).await;
        let home = cluster.server(server).await.host;
        // The API refuses that; hosts could not do it.
        assert_eq!(
            act(&cluster, server, "live_migration").await,
            VmState::Active
        );
        assert!(failed(&cluster, server).await);
        assert_eq!(cluster.server(server).await.host, home);
        let mut flavor = Cluster::twice(&cluster.server(server).await.flavor);
        let opened = ("hw:tpm_secret_security".to_owned(), "host".to_owned());
        flavor.extra_specs.extend([opened]);
        cluster.resize_to(server, flavor, json!({})).await;
        cluster.idle().await;
        assert_eq!(
            act(&cluster, server, "confirm_resize").await,
            VmState::Active
        );
        bring(&cluster, None);
        assert_eq!(
            act(&cluster, server, "live_migration").await,
            VmState::Active
        );
        assert!(!failed(&cluster, server).await);
        assert_eq!(cluster.server(server).await.host, home);
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn the_secret_goes_with_the_server_where_the_cloud_may_delete_it() {
    for security in ["deployment", "user"] {
        let cluster = cluster().await;
        let keys = &cluster.neighbours().keys;
        let kind = clients::SecretType::Passphrase;
        let token = if security == "user" {
            "member"
        } else {
            "service"
        };
        let id = keys.store(token, "s", kind, b"secret").await.unwrap();
        let made = cluster.create_with(|server| {
            Cluster::with_tpm(server, security);
            let secret = server.kept.vtpm_secret.as_mut().unwrap();
            secret.id = id.parse().unwrap();
        });
        let server = made.await;
        cluster.idle().await;
        cluster.keys.set_down(true);
        assert!(cluster.delete(server).await);
        cluster
            .until("it waits for the key manager", async || {
                cluster.tasks_at(Some("ports")).await == 1
            })
            .await;
        cluster.keys.set_down(false);
        cluster.idle().await;
        let left = cluster.keys.stored().len();
        // This key manager leaves a user's to the user alone.
        assert_eq!(left, usize::from(security == "user"));
        clean(&cluster).await;
    }
}
