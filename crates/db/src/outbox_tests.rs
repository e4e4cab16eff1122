//! The outbox on every database there is.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::actions::{self, Requester};

fn entry(tx: &mut Tx<'_>, id: i64, at: i64) {
    tx.execute(
        "INSERT INTO outbox (id, kind, project_id, subject, created_at) VALUES (?, 'state', 'p', 's', ?)",
        &[id.into(), at.into()],
    )
    .unwrap();
}

fn ids(entries: &[Entry]) -> Vec<i64> {
    entries.iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn old_rows_go_and_the_newest_stays() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), Error> {
            assert_eq!(forget(tx, Timestamp(100), 10)?, 0, "{name}: an empty table");
            for id in 1..=6 {
                entry(tx, id, id * 10);
            }
            assert_eq!(forget(tx, Timestamp(30), 10)?, 2, "{name}: before a time");
            assert_eq!(bounds(tx)?, (3, 6), "{name}");
            assert_eq!(forget(tx, Timestamp(30), 2)?, 2, "{name}: no more than two");
            assert_eq!(bounds(tx)?, (5, 6), "{name}");
            assert_eq!(forget(tx, Timestamp(1000), 10)?, 1, "{name}");
            assert_eq!(bounds(tx)?, (6, 6), "{name}: numbers never begin anew");
            Ok(())
        });
        run.await.unwrap();
    }
}

/// Numbers that commit late are told once, when they come; those that never come are given up.
#[tokio::test]
async fn what_commits_late_is_told() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), Error> {
            let begin = Instant::now();
            entry(tx, 10, 0);
            entry(tx, 12, 0);
            let mut tail = Tail::at_end(tx)?;
            let batch = tail.read(tx, 9)?;
            assert!(tail.take(batch, begin).is_empty(), "{name}: what was");
            assert_eq!(tail.low_water(), 10, "{name}: 11 may still come");
            entry(tx, 15, 0);
            let batch = tail.read(tx, 9)?;
            assert_eq!(ids(&tail.take(batch, begin)), [15], "{name}");
            entry(tx, 11, 0);
            entry(tx, 14, 0);
            let batch = tail.read(tx, 9)?;
            assert_eq!(ids(&tail.take(batch, begin)), [11, 14], "{name}");
            assert_eq!(tail.low_water(), 12, "{name}: 13 may still come");
            let batch = tail.read(tx, 9)?;
            assert!(tail.take(batch, begin).is_empty(), "{name}: once");
            let batch = tail.read(tx, 9)?;
            assert!(tail.take(batch, begin + PATIENCE).is_empty());
            assert_eq!(tail.low_water(), 15, "{name}: 13 never came");
            let mut resumed = Tail::after(11);
            let batch = resumed.read(tx, 9)?;
            assert_eq!(ids(&resumed.take(batch, begin)), [12, 14, 15], "{name}");
            assert_eq!(ids(&of_project_after(tx, "p", 12, 1)?), [14], "{name}");
            assert!(of_project_after(tx, "q", 0, 9)?.is_empty(), "{name}");
            Ok(())
        });
        run.await.unwrap();
    }
}

#[tokio::test]
async fn one_process_reads_for_a_reader() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), Error> {
            entry(tx, 7, 0);
            let at = Timestamp;
            assert_eq!(lease(tx, "r", "a", at(20), at(10))?, Some(7), "{name}");
            assert_eq!(lease(tx, "r", "b", at(25), at(15))?, None, "{name}");
            assert!(advance(tx, "r", "a", 9)?, "{name}");
            assert_eq!(lease(tx, "r", "a", at(30), at(19))?, Some(9), "{name}");
            assert_eq!(lease(tx, "r", "b", at(50), at(31))?, Some(9), "{name}");
            assert!(!advance(tx, "r", "a", 10)?, "{name}: another has it");
            Ok(())
        });
        run.await.unwrap();
    }
}

#[tokio::test]
async fn actions_are_told_with_the_server_they_are_of() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), Error> {
            let server = ServerId::random();
            tx.execute(
                "INSERT INTO instances (uuid, project_id, user_id, display_name, hostname, vm_state, task_state, power_state, \
                 generation, host, flavor_id, flavor, vcpus, memory_mb, config_drive, metadata, networks, network_info, \
                 security_groups, scheduler_hints, locked, reservation_id, launch_index, progress, created_at, deleted) \
                 VALUES (?, 'owner', 'u', 'n', 'n', 'active', 'powering-off', 1, 0, 'h1', 'f', '{}', 1, 1, 0, '{}', '[]', '[]', \
                 '[]', '{}', 0, 'r', 0, 0, 0, 0)",
                &[server.into()],
            )?;
            let by = Requester {
                request_id: "req-1",
                user_id: "admin",
                project_id: "admins",
                trace: None,
            };
            let now = Timestamp(5);
            let action = actions::start(tx, server, "stop", &by, now)?;
            let event = actions::start_event(tx, action, "compute_stop_instance", Some("h1"), now)?;
            actions::finish_event(tx, event, Some("broken"), now)?;
            actions::fail(tx, action, "It broke.", now)?;
            let told = of_project_after(tx, "owner", 0, 9)?;
            let shown: Vec<_> = told
                .iter()
                .map(|one| {
                    (
                        one.kind,
                        one.event.as_deref(),
                        one.outcome.as_deref(),
                        one.message.as_deref(),
                    )
                })
                .collect();
            assert_eq!(
                shown,
                [
                    (Kind::ActionStart, None, None, None),
                    (
                        Kind::EventEnd,
                        Some("compute_stop_instance"),
                        Some("Error"),
                        None
                    ),
                    (
                        Kind::ActionEnd,
                        None,
                        Some("Error"),
                        Some("Error: It broke.")
                    ),
                ],
                "{name}"
            );
            for one in told {
                assert_eq!(
                    (one.subject, one.action.as_deref(), one.user_id.as_deref(), one.power_state),
                    (server.to_string(), Some("stop"), Some("admin"), Some(1)),
                    "{name}"
                );
                assert_eq!((one.host.as_deref(), one.at), (Some("h1"), now), "{name}");
            }
            Ok(())
        });
        run.await.unwrap();
    }
}
