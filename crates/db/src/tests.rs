//! What guests leave, files for them, first answers, and what is said of hosts and to them, on every database there is.
#![allow(clippy::unwrap_used)]

use crate::idempotency::{self, ACCEPTED, Owner, Times};
use crate::{guest_passwords, hosts, injected_files, questions, tasks, work};
use std::time::Duration;
use types::agent::{FailureKind, Question, SERVICE_VERSION, WorkOutcome};
use types::{HostName, ServerId, TaskId, Timestamp};
use uuid::Uuid;

#[tokio::test]
async fn passwords_and_files_of_guests() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let server = ServerId::random();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let now = Timestamp::now();
            assert_eq!(guest_passwords::get(tx, server)?, None, "{name}");
            assert!(guest_passwords::put(tx, server, "one", now)?, "{name}");
            assert!(
                !guest_passwords::put(tx, server, "two", now)?,
                "{name}: the first stays"
            );
            assert_eq!(guest_passwords::get(tx, server)?.as_deref(), Some("one"));
            injected_files::put(tx, server, "sealed")?;
            assert_eq!(injected_files::get(tx, server)?.as_deref(), Some("sealed"));
            guest_passwords::remove(tx, server)?;
            injected_files::remove(tx, server)?;
            assert_eq!(guest_passwords::get(tx, server)?, None, "{name}");
            assert_eq!(injected_files::get(tx, server)?, None, "{name}");
            Ok(())
        });
        run.await.unwrap();
    }
}

#[tokio::test]
async fn first_answers() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let owner = |user: &str| Owner {
            project_id: "p".into(),
            user_id: user.into(),
            key: "k".into(),
        };
        let at = |oldest, stale, now| Times {
            oldest: Timestamp(oldest),
            stale: Timestamp(stale),
            now: Timestamp(now),
        };
        let (first, later) = (at(5, 8, 10), at(5, 11, 12));
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let u = owner("u");
            let mut begin =
                |owner: &Owner, hash: &str, times| idempotency::begin(tx, owner, hash, times);
            assert_eq!(begin(&u, "h", first)?, None, "{name}");
            let running = begin(&u, "h", first)?.unwrap();
            assert_eq!((running.status, &*running.request_hash), (0, "h"), "{name}");
            // Whoever has come to nothing for a while loses it, to the same request only.
            assert_eq!(begin(&u, "x", later)?.unwrap().status, 0, "{name}");
            assert_eq!(begin(&u, "h", later)?, None, "{name}");
            assert_eq!(
                begin(&u, "h", later)?.unwrap().created_at,
                later.now,
                "{name}"
            );
            Ok(())
        });
        run.await.unwrap();
        // A unit of work of its own: in one, PostgreSQL is believed to have changed the row until the end.
        let late = database.store.write(move |tx| -> Result<bool, sql::Error> {
            idempotency::release(tx, &owner("u"), first.now)?;
            idempotency::finish(tx, &owner("u"), first.now, 202, None, None)
        });
        assert!(!late.await.unwrap(), "{name}: it is another's");
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let (u, v) = (owner("u"), owner("v"));
            assert!(
                idempotency::finish(tx, &u, later.now, ACCEPTED, None, None)?,
                "{name}"
            );
            let accepted = idempotency::begin(tx, &u, "h", at(5, 20, 20))?.unwrap();
            assert_eq!(accepted.status, ACCEPTED, "{name}: never twice");
            assert!(idempotency::finish(
                tx,
                &u,
                later.now,
                202,
                Some("there"),
                Some("body")
            )?);
            let done = idempotency::begin(tx, &u, "x", at(5, 20, 20))?.unwrap();
            assert_eq!(
                (
                    done.status,
                    done.location.as_deref(),
                    done.sealed.as_deref()
                ),
                (202, Some("there"), Some("body")),
                "{name}"
            );
            // Another user's key of the same name is another key.
            assert_eq!(idempotency::begin(tx, &v, "h", first)?, None);
            idempotency::release(tx, &v, first.now)?;
            assert_eq!(idempotency::begin(tx, &v, "h", first)?, None);
            // Old keys are free again.
            assert_eq!(
                idempotency::begin(tx, &u, "h", at(13, 13, 13))?,
                None,
                "{name}"
            );
            Ok(())
        });
        run.await.unwrap();
    }
}

#[tokio::test]
async fn a_service_has_the_version_that_it_said_last() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let (host, now) = (HostName::from("h1"), Timestamp::now());
            let mut said = |version: u32, problem| {
                hosts::beat_heard(tx, &host, ("nova-compute", version), problem, now)?;
                Ok::<_, sql::Error>(hosts::services(tx)?[0].version)
            };
            for (version, problem) in [(1, None), (2, None), (3, Some("no libvirt")), (2, None)] {
                assert_eq!(said(version, problem)?, i64::from(version), "{name}");
            }
            hosts::beat(tx, &host, "nova-compute", None, now)?;
            let version = hosts::services(tx)?[0].version;
            assert_eq!(version, i64::from(SERVICE_VERSION), "{name}");
            Ok(())
        });
        run.await.unwrap();
    }
}

#[tokio::test]
async fn a_question_of_a_newer_release_keeps_no_work_from_its_host() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let (host, now) = (HostName::from("h1"), Timestamp::now());
            let (newer, known) = (Uuid::new_v4(), Uuid::new_v4());
            for id in [newer, known] {
                questions::ask(tx, id, &host, ServerId::random(), &Question::Uptime, now)?;
            }
            tx.execute(
                "UPDATE host_questions SET question = '{\"question\": \"temperature\"}' WHERE id = ?",
                &[newer.into()],
            )?;
            work::owe(tx, &host, ServerId::random(), "it was away", now)?;
            let told = work::for_host(tx, &host, 10)?;
            assert_eq!(told.pending.work.len(), 1, "{name}");
            let asked: Vec<Uuid> = told.asked.iter().map(|asked| asked.id).collect();
            assert_eq!(asked, [known], "{name}");
            Ok(())
        });
        run.await.unwrap();
    }
}

/// Hosts that were away may owe very much: it is paid some at a time.
#[tokio::test]
async fn debts_are_told_some_at_a_time_and_the_next_time_others() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let host = HostName::from("h1");
            let servers = [1, 2, 3].map(|number| (ServerId::random(), Timestamp(number)));
            for (server, at) in servers {
                work::owe(tx, &host, server, "it was away", at)?;
            }
            let told = work::for_host(tx, &host, 2)?;
            let named = told.pending.work.iter().map(|(work, _)| work.server);
            let named: Vec<ServerId> = named.collect();
            assert_eq!(named, [servers[0].0, servers[1].0], "{name}");
            assert!(told.more, "{name}");
            // What could not be paid is asked for again after the others.
            let (first, _) = &told.pending.work[0];
            let outcome = WorkOutcome::failed(FailureKind::Host, "no");
            work::finish(tx, &host, &first.key, 1, &outcome)?;
            let told = work::for_host(tx, &host, 2)?;
            let named = told.pending.work.iter().map(|(work, _)| work.server);
            let named: Vec<ServerId> = named.collect();
            assert_eq!(named, [servers[1].0, servers[2].0], "{name}");
            let told = work::for_host(tx, &host, 4)?;
            assert_eq!((told.pending.work.len(), told.more), (3, false), "{name}");
            Ok(())
        });
        run.await.unwrap();
    }
}

/// What a host was asked for fails with as many words as it likes.
#[tokio::test]
async fn a_debt_with_a_long_reason_is_a_debt() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let reason = "é".repeat(400);
            work::owe(
                tx,
                &"h1".into(),
                ServerId::random(),
                &reason,
                Timestamp::now(),
            )?;
            let owed = work::debts(tx)?;
            assert_eq!(owed[0].2, "é".repeat(255), "{name}");
            Ok(())
        });
        run.await.expect(name);
    }
}

/// A worker is in the way of a claim only with what is claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_does_not_wait_for_tasks_that_others_run() {
    for database in sql::testing::databases().await {
        if database.name == "sqlite" {
            continue;
        }
        crate::migrate(&database.store).await.unwrap();
        let (name, other) = (database.name, database.again().await);
        let run = database.store.write(|tx| -> Result<TaskId, sql::Error> {
            let mut first = None;
            for number in 0..300 {
                let id = TaskId::random();
                let task = tasks::NewTask {
                    id,
                    flow: "build",
                    server: ServerId::random(),
                    request_id: "r",
                    action: None,
                    state: "{}",
                    trace: None,
                };
                tasks::insert(tx, &task, Timestamp(number))?;
                first.get_or_insert(id);
            }
            let taken = "UPDATE tasks SET owner = 'other', incarnation = 1, epoch = 1 WHERE created_at < 297";
            tx.execute(taken, &[])?;
            Ok(first.unwrap())
        });
        let running = run.await.unwrap();
        let (told, begun) = tokio::sync::oneshot::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let mut told = Some(told);
        let held = database.store.write(move |tx| -> Result<(), sql::Error> {
            let sql = "UPDATE tasks SET updated_at = 1 WHERE id = ?";
            tx.execute(sql, &[running.into()])?;
            if let Some(told) = told.take() {
                told.send(()).unwrap();
                let _ = released.recv_timeout(Duration::from_secs(120));
            }
            Ok(())
        });
        let claiming = async {
            begun.await.unwrap();
            let claiming = other.write(|tx| {
                let flows = [("build", vec!["a"])];
                tasks::claim(tx, "w", 2, &[("dead".to_owned(), 1)], &flows, 10)
            });
            let claimed = tokio::time::timeout(Duration::from_secs(60), claiming).await;
            release.send(()).unwrap();
            claimed
        };
        let (held, claimed) = tokio::join!(held, claiming);
        held.unwrap();
        assert_eq!(claimed.expect(name).unwrap().len(), 3, "{name}");
    }
}
