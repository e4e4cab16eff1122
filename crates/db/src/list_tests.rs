//! Pages of servers hold what they should, whichever way they are looked for.
#![allow(clippy::unwrap_used)]

use crate::list::{Column, Condition, Query, page};
use sql::{Error, Tx, Value};
use types::ServerId;

/// More servers than are looked up one by one when they have changed.
const SERVERS: i64 = 2300;
const FLAVOR: &str = r#"{"id":"1","name":"f","memory_mb":1,"vcpus":1,"root_gb":1,"ephemeral_gb":0,"swap_mb":0,"rxtx_factor":1.0,"extra_specs":{}}"#;

/// A server: when it was created and changed, whose it is.
#[derive(Clone, Debug)]
struct One {
    id: ServerId,
    created: i64,
    updated: Option<i64>,
    project: &'static str,
}

fn fill(tx: &mut Tx<'_>) -> Result<Vec<One>, Error> {
    let mut all = Vec::new();
    for number in 0..SERVERS {
        let one = One {
            id: ServerId::random(),
            // Several of the same moment.
            created: 1000 + number / 7,
            updated: (number % 3 > 0).then_some(5000 - number),
            project: if number % 5 == 0 { "small" } else { "big" },
        };
        let text = |text: &str| Value::from(text);
        tx.execute(
            "INSERT INTO instances (uuid, project_id, user_id, display_name, hostname, vm_state, power_state, generation, flavor_id, \
             flavor, vcpus, memory_mb, config_drive, metadata, networks, network_info, security_groups, scheduler_hints, locked, \
             reservation_id, launch_index, progress, created_at, updated_at, deleted) \
             VALUES (?, ?, 'u', 'n', 'n', 'active', 1, 0, '1', ?, 1, 1, 0, '{}', '\"None\"', '[]', '[]', '{}', 0, 'r', 0, 0, ?, ?, 0)",
            &[
                one.id.into(),
                text(one.project),
                text(FLAVOR),
                one.created.into(),
                one.updated.into(),
            ],
        )?;
        all.push(one);
    }
    Ok(all)
}

/// All pages of what has changed since then.
fn listed(
    tx: &mut Tx<'_>,
    project: Option<&str>,
    since: i64,
    order: (Column, bool),
) -> Result<Vec<ServerId>, Error> {
    let mut query = Query {
        conditions: vec![Condition::AtLeast(Column::ChangedAt, since.into())],
        order: vec![order],
        limit: Some(700),
        brief: true,
        ..Query::default()
    };
    if let Some(project) = project {
        let whose = Condition::Is(Column::ProjectId, project.into());
        query.conditions.push(whose);
    }
    pages(tx, query)
}

/// All pages, one after the other.
fn pages(tx: &mut Tx<'_>, mut query: Query) -> Result<Vec<ServerId>, Error> {
    let limit = usize::try_from(query.limit.unwrap()).unwrap();
    let mut found = Vec::new();
    loop {
        let part = page(tx, &query)?.unwrap();
        found.extend(part.iter().map(|server| server.id));
        query.after = part.last().map(|server| server.id);
        if part.len() < limit {
            return Ok(found);
        }
    }
}

#[tokio::test]
async fn what_has_changed_is_listed_in_order_whether_it_is_little_or_much() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let all = database.store.write(fill).await.unwrap();
        for (project, since) in [
            (None, 0),
            (None, 2500),
            (None, 4990),
            (None, 9000),
            (Some("big"), 0),
            (Some("big"), 4000),
            (Some("small"), 1200),
        ] {
            for (column, descending) in [
                (Column::CreatedAt, true),
                (Column::CreatedAt, false),
                (Column::UpdatedAt, true),
            ] {
                let of_these = |one: &&One| {
                    one.updated.unwrap_or(one.created) >= since
                        && project.is_none_or(|project| one.project == project)
                };
                let mut wanted: Vec<(usize, &One)> = all.iter().enumerate().collect();
                wanted.retain(|(_, one)| of_these(one));
                wanted.sort_by_key(|(number, one)| match column {
                    Column::CreatedAt => (Some(one.created), *number),
                    _ => (one.updated, *number),
                });
                if descending {
                    wanted.reverse();
                }
                let wanted: Vec<ServerId> = wanted.iter().map(|(_, one)| one.id).collect();
                let reading = database.store.read(move |tx| -> Result<_, Error> {
                    listed(tx, project, since, (column, descending))
                });
                let found = reading.await.unwrap();
                let name = database.name;
                let what = format!("{name} {project:?} {since} {column:?} {descending}");
                assert_eq!(found.len(), wanted.len(), "{what}");
                assert!(found == wanted, "{what}");
            }
        }
    }
}

/// What is kept of servers: with a kernel and a RAM disk, with one of both, with neither, with nothing.
const KEPT: [Option<&str>; 5] = [
    Some(
        r#"{"kernel":{"id":"b","disk_format":"aki","size":1},"ramdisk":{"id":"x","disk_format":"ari","size":1}}"#,
    ),
    Some("{}"),
    Some(r#"{"kernel":{"id":"a","disk_format":"aki","size":1}}"#),
    None,
    Some(r#"{"ramdisk":{"id":"y","disk_format":"ari","size":1}}"#),
];

#[tokio::test]
async fn servers_are_in_the_order_of_their_kernels() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let all = database.store.write(fill).await.unwrap();
        let ids: Vec<ServerId> = all[..KEPT.len()].iter().map(|one| one.id).collect();
        let listed = move |tx: &mut Tx<'_>| -> Result<_, Error> {
            for (id, kept) in ids.iter().zip(KEPT) {
                let sql = "UPDATE instances SET kept = ?, key_name = 'these' WHERE uuid = ?";
                tx.execute(sql, &[kept.into(), (*id).into()])?;
            }
            let mut all = Vec::new();
            for column in [Column::KernelId, Column::RamdiskId] {
                for descending in [false, true] {
                    let query = Query {
                        conditions: vec![Condition::Is(Column::KeyName, "these".into())],
                        order: vec![(column, descending)],
                        limit: Some(2),
                        brief: true,
                        ..Query::default()
                    };
                    let found = pages(tx, query)?;
                    let place = |found| ids.iter().position(|id| id == found);
                    all.push(found.iter().filter_map(place).collect::<Vec<_>>());
                }
            }
            Ok(all)
        };
        let listed = database.store.write(listed).await.unwrap();
        let wanted = [
            [1, 3, 4, 2, 0],
            [0, 2, 4, 3, 1],
            [1, 2, 3, 0, 4],
            [4, 0, 3, 2, 1],
        ];
        assert_eq!(listed, wanted, "{}", database.name);
    }
}

/// Hosts are counted by the servers that they have, not by those that they ever had.
#[tokio::test]
async fn servers_are_counted_without_those_that_are_deleted() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let all = database.store.write(fill).await.unwrap();
        let run = database.store.write(move |tx| -> Result<(), Error> {
            for host in ["h1", "h2", "h3"] {
                tx.execute(
                    "INSERT INTO compute_nodes (uuid, host, hypervisor_hostname, facts, created_at) VALUES (?, ?, ?, '{}', 0)",
                    &[ServerId::random().into(), host.into(), host.into()],
                )?;
            }
            tx.execute("UPDATE instances SET host = 'h1', deleted = id", &[])?;
            for (one, host) in all.iter().zip(["h1", "h1", "h2"]) {
                let there = "UPDATE instances SET host = ?, deleted = 0 WHERE uuid = ?";
                tx.execute(there, &[host.into(), one.id.into()])?;
            }
            Ok(())
        });
        run.await.unwrap();
        let notes = sql::testing::Notes::default();
        let noting = database.store.noting(&notes);
        let mut counts = noting.read(crate::hosts::servers_per_host).await.unwrap();
        counts.retain(|(_, count)| *count > 0);
        counts.sort();
        assert_eq!(counts, [("h1".into(), 2), ("h2".into(), 1)], "{name}");
        if database.name != "sqlite" {
            continue;
        }
        let (sql, params) = notes.take().remove(0);
        let explaining = database.store.read(move |tx| {
            let rows = tx.query(&format!("EXPLAIN QUERY PLAN {sql}"), &params)?;
            rows.iter()
                .map(|row| row.get(3))
                .collect::<Result<Vec<String>, Error>>()
        });
        let plan = explaining.await.unwrap();
        assert!(
            plan.iter()
                .any(|line| line.contains("(host=? AND deleted=?)")),
            "{plan:?}"
        );
    }
}
