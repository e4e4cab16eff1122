//! What is removed of deleted servers and what stays, on every database there is.
#![allow(clippy::unwrap_used)]

use crate::actions::{self, Requester};
use crate::migrations::{self, End, Kind, NewMigration, Status};
use crate::purge::{Batch, Purge, Rows};
use crate::{guest_passwords, leftovers, tags, work};
use sql::{Error, Store, Tx};
use types::{FlavorId, MigrationId, PowerState, ServerId, Timestamp};
use uuid::Uuid;

const FLAVOR: &str = r#"{"id":"1","name":"f","memory_mb":1,"vcpus":1,"root_gb":1,"ephemeral_gb":0,"swap_mb":0,"rxtx_factor":1.0,"extra_specs":{}}"#;
/// Actions of one transaction.
const MOST: u32 = 40;
/// Servers that are deleted at the same moment: more than are looked at in one batch.
const TOGETHER: usize = 130;
/// Actions of a server.
const ACTIONS: u64 = 2;
/// The time before which all goes.
const BEFORE: Timestamp = Timestamp(3000);

/// A server with something in each table; `deleted` is when it was.
fn server(tx: &mut Tx<'_>, deleted: Option<i64>, actions: u64) -> Result<ServerId, Error> {
    let id = ServerId::random();
    tx.execute(
        "INSERT INTO instances (uuid, project_id, user_id, display_name, hostname, vm_state, power_state, generation, flavor_id, \
         flavor, vcpus, memory_mb, config_drive, metadata, networks, network_info, security_groups, scheduler_hints, locked, \
         reservation_id, launch_index, progress, created_at, terminated_at, deleted) \
         VALUES (?, 'p', 'u', 'n', 'n', 'active', 1, 0, '1', ?, 1, 1, 0, '{}', '\"None\"', '[]', '[]', '{}', 0, 'r', 0, 0, 5, ?, ?)",
        &[
            id.into(),
            FLAVOR.into(),
            deleted.map(Timestamp).into(),
            deleted.is_some().into(),
        ],
    )?;
    let by = Requester {
        request_id: "req-1",
        user_id: "u",
        project_id: "p",
        trace: None,
    };
    for _ in 0..actions {
        let action = actions::start(tx, id, "reboot", &by, Timestamp(7))?;
        for event in ["one", "two"] {
            actions::start_event(tx, action, event, None, Timestamp(7))?;
        }
    }
    moved(tx, id)?;
    tags::add(tx, id, "blue")?;
    guest_passwords::put(tx, id, "secret", Timestamp(7))?;
    Ok(id)
}

fn moved(tx: &mut Tx<'_>, server: ServerId) -> Result<MigrationId, Error> {
    let (id, flavor) = (MigrationId::random(), FlavorId("gone".to_owned()));
    let new = NewMigration {
        id,
        server,
        kind: Kind::Migration,
        status: Status::Confirmed,
        source: End::default(),
        dest: End::default(),
        old_flavor: &flavor,
        new_flavor: &flavor,
        project_id: "p",
        user_id: "u",
    };
    migrations::insert(tx, &new, Timestamp(7))?;
    Ok(id)
}

fn claim(tx: &mut Tx<'_>, consumer: Uuid) -> Result<(), Error> {
    let sql = "INSERT INTO allocations (consumer, provider, resource_class, amount) VALUES (?, ?, 'VCPU', 1)";
    tx.execute(sql, &[consumer.into(), Uuid::new_v4().into()])
        .map(drop)
}

/// Servers that were deleted long ago, of each of which something is still to be done.
fn needed(tx: &mut Tx<'_>) -> Result<Vec<ServerId>, Error> {
    let mut all = Vec::new();
    // Some are among those that go together, so that they are passed by in the middle.
    for at in [900, 1000, 1000, 1000, 2000] {
        all.push(server(tx, Some(at), ACTIONS)?);
    }
    let (host, now) = ("h1".into(), Timestamp(7));
    work::owe(tx, &host, all[0], "it was away", now)?;
    leftovers::replace(tx, &host, &[(all[1], PowerState::Running)], now)?;
    claim(tx, all[2].0)?;
    let migration = moved(tx, all[3])?;
    claim(tx, migration.0)?;
    let sql = "INSERT INTO tasks (id, flow, instance_uuid, request_id, state, phase, epoch, incarnation, created_at, updated_at) \
        VALUES (?, 'delete', ?, 'req-1', '{}', 'running', 1, 0, 0, 0)";
    tx.execute(sql, &[Uuid::new_v4().into(), all[4].into()])?;
    Ok(all)
}

/// One transaction of a purge, and what is left of that.
type Step = fn(Purge, &mut Tx<'_>) -> Result<(Batch, Option<Purge>), Error>;

/// Goes through all of it; what came together, and the most actions of one transaction.
async fn all(store: &Store, go_on: Step) -> (Batch, u64) {
    let (mut sum, mut most) = (Batch::default(), 0);
    let mut next = Some(Purge::new(BEFORE, MOST));
    while let Some(purge) = next {
        let one = store.write(move |tx| go_on(purge.clone(), tx)).await;
        let (batch, more) = one.unwrap();
        most = most.max(batch.rows.get("instance_actions").copied().unwrap_or(0));
        for (table, count) in batch.rows {
            *sum.rows.entry(table).or_default() += count;
        }
        sum.servers += batch.servers;
        sum.kept += batch.kept;
        next = more;
    }
    (sum, most)
}

/// The rows that there are.
async fn left(store: &Store) -> Rows {
    let count = |tx: &mut Tx<'_>| -> Result<Rows, Error> {
        let mut rows = Rows::new();
        for table in [
            "guest_passwords",
            "instance_action_events",
            "instance_actions",
            "instance_tags",
            "instances",
            "migrations",
        ] {
            let sql = format!("SELECT COUNT(*) FROM {table}");
            let count: i64 = tx.query_one(&sql, &[])?.get(0)?;
            rows.insert(table, count.unsigned_abs());
        }
        Ok(rows)
    };
    store.read(count).await.unwrap()
}

/// What is recorded of so many servers, with so many actions beyond the usual ones, and so many more moves.
fn rows(servers: u64, more_actions: u64, more_moves: u64) -> Rows {
    let actions = servers * ACTIONS + more_actions;
    Rows::from([
        ("guest_passwords", servers),
        ("instance_action_events", actions * 2),
        ("instance_actions", actions),
        ("instance_tags", servers),
        ("instances", servers),
        ("migrations", servers + more_moves),
    ])
}

#[tokio::test]
async fn what_was_deleted_long_ago_goes_and_all_else_stays() {
    for database in sql::testing::databases().await {
        let (name, store) = (database.name, &database.store);
        crate::migrate(store).await.unwrap();
        let long = u64::from(MOST) * 2 + 1;
        let fill = move |tx: &mut Tx<'_>| -> Result<Vec<ServerId>, Error> {
            for number in 0..TOGETHER {
                server(tx, Some(1000), ACTIONS)?;
                if number % 50 == 0 {
                    server(tx, Some(500), ACTIONS)?;
                }
            }
            // More was done with this one than one transaction removes.
            server(tx, Some(2500), ACTIONS + long)?;
            // These stay: they live, or were deleted later.
            server(tx, None, ACTIONS)?;
            server(tx, Some(BEFORE.0), ACTIONS)?;
            needed(tx)
        };
        let kept = store.write(fill).await.unwrap();
        let going = (TOGETHER + TOGETHER.div_ceil(50) + 1) as u64;
        let staying = 2 + kept.len() as u64;
        assert_eq!(left(store).await, rows(going + staying, long, 1), "{name}");
        let counting = Purge::new(BEFORE, MOST);
        let servers = store.read(move |tx| counting.servers(tx)).await.unwrap();
        assert_eq!(servers, going + kept.len() as u64, "{name}");

        let (counted, _) = all(store, Purge::count).await;
        assert_eq!(left(store).await, rows(going + staying, long, 1), "{name}");
        let expected = Batch {
            rows: rows(going, long, 0),
            servers: going,
            kept: kept.len() as u64,
        };
        assert_eq!(counted, expected, "{name}");
        let (removed, most) = all(store, Purge::remove).await;
        assert_eq!(removed, expected, "{name}");
        assert_eq!(most, u64::from(MOST), "{name}: in one transaction");
        assert_eq!(left(store).await, rows(staying, 0, 1), "{name}");

        // Once nothing is to be done for them any more, they go as well.
        let settled = |tx: &mut Tx<'_>| -> Result<(), Error> {
            for table in ["tasks", "host_debts", "host_leftovers", "allocations"] {
                tx.execute(&format!("DELETE FROM {table}"), &[])?;
            }
            Ok(())
        };
        store.write(settled).await.unwrap();
        let (removed, _) = all(store, Purge::remove).await;
        let going = kept.len() as u64;
        assert_eq!((removed.servers, removed.kept), (going, 0), "{name}");
        assert_eq!(left(store).await, rows(2, 0, 0), "{name}");
        let (again, _) = all(store, Purge::remove).await;
        assert_eq!(again, Batch::default(), "{name}");
    }
}
