//! What is asked again and again in the background finds its rows by an index, on every database there is.
#![allow(clippy::unwrap_used)]

use crate::idempotency::{self, Owner, Times};
use crate::migrations::{self, Status};
use crate::repair::Finding;
use crate::usages::Held;
use crate::{
    actions, block_devices, grown, hosts, instances, placement, purge, questions, repair,
    server_groups, tags, tasks, usages, work,
};
use sql::testing::{Notes, databases, scanned};
use sql::{Error, Tx};
use types::agent::{Direction, WorkKey};
use types::{GroupId, HostName, MigrationId, ServerId, TaskId, Timestamp, VmState};
use uuid::Uuid;

/// Tables that grow with the servers, or with what was ever done to them. What waits in a queue (`tasks`, `host_work`,
/// `host_debts`, `host_questions`, `grown_volumes`) is short by nature, and there are few hosts.
const GROWING: &[&str] = &[
    "instances",
    "instance_tags",
    "instance_actions",
    "instance_action_events",
    "migrations",
    "block_device_mappings",
    "server_group_members",
    "consumers",
    "allocations",
    "idempotency_keys",
    "server_usages",
];

/// What conductors, agents and the clean-up ask by the clock, what each step of each task asks, and what is asked of hosts.
fn everything(tx: &mut Tx<'_>) -> Result<(), Error> {
    let (host, server) = (HostName("h1".to_owned()), ServerId::random());
    let (task, now) = (TaskId::random(), Timestamp::now());
    // By the clock.
    tasks::any_new(tx)?;
    tasks::claim(
        tx,
        "w",
        1,
        &[("v".to_owned(), 1)],
        &[("build", vec!["choose_host"])],
        10,
    )?;
    tasks::workers(tx)?;
    work::hosts_with_work(tx)?;
    work::pending(tx, &host, 10)?;
    questions::open(tx, &host)?;
    questions::forget_older(tx, now)?;
    instances::on_host(tx, &host)?;
    instances::standing_on(tx, &host)?;
    instances::standing_among(tx, &host, &[server])?;
    hosts::servers_per_host(tx)?;
    hosts::busy_per_host(tx)?;
    hosts::places_of(tx, &[server])?;
    hosts::servers_on(tx, &["h1".to_owned()])?;
    hosts::servers_of(tx, std::slice::from_ref(&host))?;
    migrations::open_of_host(tx, &host)?;
    migrations::any_evacuated_from(tx, &host)?;
    grown::waiting(tx)?;
    instances::at_rest_in(tx, VmState::Shelved)?;
    instances::projects_of_deleted(tx, now)?;
    instances::interfaces_of(tx, &[server])?;
    tasks::of_worker(tx, "w", 1)?;
    migrations::at_rest_since(tx, Status::Finished, now)?;
    let owner = Owner {
        project_id: "p".into(),
        user_id: "u".into(),
        key: "k".into(),
    };
    let times = Times {
        oldest: now,
        stale: now,
        now,
    };
    idempotency::begin(tx, &owner, "h", times)?;
    idempotency::finish(tx, &owner, now, 202, None, None)?;
    idempotency::release(tx, &owner, now)?;
    repair::known_without_task(tx, &[server])?;
    let mut found = repair::audit(tx)?;
    found.extend([
        Finding::Stuck {
            server,
            task_state: String::new(),
            generation: 0,
            building: false,
        },
        Finding::HeldByDeleted(server),
        Finding::HeldElsewhere {
            server,
            provider: Uuid::new_v4(),
            host: host.clone(),
        },
        Finding::Unreadable {
            task,
            server,
            reason: String::new(),
        },
        Finding::HeldByMigration(MigrationId::random(), server),
        Finding::Unclaimed(repair::Unclaimed {
            server,
            owner: ("p".into(), "u".into()),
            host: host.clone(),
            provider: Uuid::new_v4(),
            amounts: Vec::new(),
            full: None,
        }),
        Finding::LeftOnHost(host.clone(), server),
        Finding::WrongUse("p".into(), "VCPU".into(), 0, 0),
        Finding::WrongQuota("p".into(), "u".into(), Held::default(), Held::default()),
    ]);
    for finding in &found {
        repair::still(tx, finding)?;
    }
    // In each step.
    let key = WorkKey {
        task,
        step: "s".into(),
        direction: Direction::Do,
    };
    work::outcome(tx, &key, 1)?;
    work::remove_of_task(tx, task)?;
    work::debtors(tx, server)?;
    tasks::get(tx, task)?;
    instances::find(tx, server)?;
    instances::mark_deleted(tx, server, now)?;
    actions::of_server(tx, server)?;
    actions::by_request(tx, server, "req-1")?;
    actions::events(tx, 1)?;
    tags::of_server(tx, server)?;
    block_devices::of_servers(tx, &[server])?;
    block_devices::of_volume(tx, server, "v")?;
    block_devices::holders(tx, "v")?;
    migrations::of_server_in(tx, server, Status::Running)?;
    migrations::live_in_progress(tx, server)?;
    migrations::cancel_open(tx, server, now)?;
    placement::allocations_of(tx, server.0)?;
    placement::allocations_on(tx, Uuid::new_v4())?;
    placement::consumer(tx, server.0)?;
    placement::release(tx, server, now)?;
    usages::of_project(tx, &"p".into())?;
    usages::of_user(tx, &"p".into(), &"u".into())?;
    server_groups::of_server(tx, server)?;
    server_groups::members(tx, &[GroupId::random()])?;
    server_groups::members_of_user(tx, GroupId::random(), &"u".into())?;
    // When an operator removes what was deleted.
    let old = purge::Purge::new(now, 10);
    old.servers(tx)?;
    old.clone().count(tx)?;
    old.clone().remove(tx)?;
    old.remove_all_of(tx, &[server], &mut purge::Batch::default())?;
    purge::remove_of(tx, "instance_action_events", "action_id", &[1_i64])?;
    purge::remove_of(tx, "instance_actions", "id", &[1_i64])?;
    purge::remove_of(tx, "migrations", "id", &[1_i64])?;
    purge::count_all_of(tx, &[server])?;
    Ok(())
}

#[tokio::test]
async fn polls_use_indexes() {
    let mut wrong = Vec::new();
    for database in databases().await {
        crate::migrate(&database.store).await.unwrap();
        let notes = Notes::default();
        let noting = database.store.noting(&notes);
        noting.write(everything).await.unwrap();
        let statements = notes.take();
        assert!(statements.len() > 30, "{}", statements.len());
        for (sql, params) in statements {
            // The counters of all users are as few as they are short, and are held against their servers at once.
            if sql.starts_with("INSERT") || sql.ends_with("FROM server_usages") {
                continue;
            }
            let asked = sql.clone();
            let read = database.store.write(move |tx| scanned(tx, &asked, &params));
            for table in read.await.unwrap() {
                // An alias of one letter is told apart by the word before it.
                let words: Vec<&str> = sql.split_whitespace().collect();
                let named = words
                    .windows(2)
                    .find(|pair| pair[1] == table && GROWING.contains(&pair[0]));
                let table = named.map_or(table.as_str(), |pair| pair[0]);
                if GROWING.contains(&table) {
                    wrong.push(format!("{}: all of {table} is read: {sql}", database.name));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
