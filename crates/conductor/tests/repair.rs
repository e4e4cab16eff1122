#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What an operator repairs behind the APIs.

use db::repair::{self, Finding, Look};
use journal::faults::{Fault, Point, Script, When};
use sql::{Error, Tx, Value};
use std::sync::Arc;
use testkit::{Cluster, Options};
use types::agent::Direction;
use types::{PowerState, ServerId, TaskId, Timestamp, VmState};
use virt::Hypervisor;

async fn audit(cluster: &Cluster) -> Vec<Finding> {
    let reading = cluster.store.read(|tx| -> Result<_, Error> {
        let mut in_parts = Vec::new();
        let mut look = Some(Look::in_parts_of(1));
        let mut parts = 0;
        while let Some(part) = look {
            look = part.go_on(tx, &mut in_parts)?;
            parts += 1;
            assert!(parts < 100, "more parts than there is to look at");
        }
        let whole = repair::audit(tx)?;
        for finding in &whole {
            assert_eq!(repair::still(tx, finding)?.as_ref(), Some(finding));
        }
        Ok((whole, in_parts))
    });
    let (whole, mut in_parts) = reading.await.unwrap();
    // Claims of several kinds are looked at part by part.
    let place = |finding: &Finding| whole.iter().position(|one| one == finding);
    in_parts.sort_by_key(place);
    assert_eq!(in_parts, whole);
    whole
}

async fn mend(cluster: &Cluster) {
    let mended = cluster.store.write(|tx| -> Result<(), Error> {
        for finding in repair::audit(tx)? {
            // What was mended before may have changed it.
            if let Some(finding) = repair::still(tx, &finding)? {
                repair::mend(tx, &finding, Timestamp::now())?;
            }
        }
        Ok(())
    });
    mended.await.unwrap();
}

async fn execute(cluster: &Cluster, sql: &'static str, params: Vec<Value>) {
    let done = cluster
        .store
        .write(move |tx: &mut Tx<'_>| -> Result<u64, Error> { tx.execute(sql, &params) });
    assert!(done.await.unwrap() > 0, "{sql}");
}

#[tokio::test]
async fn what_is_wrong_is_found_and_mended() {
    let cluster = Cluster::new(Options::default()).await;
    let (left, gone) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    assert_eq!(audit(&cluster).await, []);
    // Each cloud's numbers begin anywhere, so that its domains' names are its own.
    let numbers = "UPDATE instances SET id = id + 2000000000";
    execute(&cluster, numbers, vec![]).await;
    assert_eq!(audit(&cluster).await, []);

    // A server that nobody works on, work of nobody, and counters that are off.
    execute(
        &cluster,
        "UPDATE instances SET task_state = 'powering-off' WHERE uuid = ?",
        vec![left.into()],
    )
    .await;
    execute(
        &cluster,
        "INSERT INTO host_work (task_id, step, direction, epoch, host, instance_uuid, request_id, deadline_seconds, verb, created_at) \
         VALUES (?, 'x', 'do', 1, 'host-1', ?, '', 1, '{}', 0)",
        vec![TaskId::random().into(), left.into()],
    )
    .await;
    execute(
        &cluster,
        "UPDATE server_usages SET instances = instances + 3, cores = cores - 1",
        vec![],
    )
    .await;
    execute(&cluster, "UPDATE inventories SET used = used + 1", vec![]).await;
    let kinds = |found: &[Finding]| -> Vec<&'static str> {
        let mut kinds: Vec<_> = found
            .iter()
            .map(|one| match one {
                Finding::Stuck { .. } => "stuck",
                Finding::TaskWithoutServer(..) => "task",
                Finding::WorkWithoutTask(..) => "work",
                Finding::HeldByDeleted(..) => "held",
                Finding::HeldElsewhere { .. } => "held elsewhere",
                Finding::HeldByMigration(..) => "held by migration",
                Finding::Unreadable { .. } => "unreadable",
                Finding::Unclaimed(..) => "unclaimed",
                Finding::LeftOnHost(..) | Finding::UnknownGuest(..) => "left",
                Finding::Unsettled { .. } => "unsettled",
                Finding::WrongUse(..) => "use",
                Finding::WrongQuota(..) => "quota",
            })
            .collect();
        kinds.dedup();
        kinds
    };
    assert_eq!(
        kinds(&audit(&cluster).await),
        ["stuck", "work", "use", "quota"]
    );
    mend(&cluster).await;
    assert_eq!(audit(&cluster).await, []);
    let server = cluster.server(left).await;
    assert_eq!(
        (server.vm_state, server.task_state),
        (VmState::Active, None)
    );
    assert_eq!(cluster.audit().await, Vec::<String>::new());

    // A server that is deleted and holds on to its resources.
    execute(
        &cluster,
        "UPDATE instances SET deleted = 1 WHERE uuid = ?",
        vec![gone.into()],
    )
    .await;
    assert_eq!(kinds(&audit(&cluster).await), ["held", "quota"]);
    mend(&cluster).await;
    assert_eq!(audit(&cluster).await, []);
}

/// What Placement gives out of a class on a server's host, and what is noted of that.
async fn given_out(cluster: &Cluster, server: ServerId, class: &'static str) -> (i64, i64) {
    let node = cluster.server(server).await.node_id.unwrap();
    let reading = cluster.store.read(move |tx| -> Result<_, Error> {
        let of = [node.into(), class.into()];
        let noted = "SELECT used FROM inventories WHERE provider = ? AND resource_class = ?";
        let given = "SELECT COALESCE(SUM(amount), 0) FROM allocations WHERE provider = ? AND resource_class = ?";
        Ok((
            tx.query_opt(noted, &of)?.map_or(Ok(0), |row| row.get(0))?,
            tx.query_one(given, &of)?.get(0)?,
        ))
    });
    reading.await.unwrap()
}

async fn take_claim(cluster: &Cluster, server: ServerId) {
    let taking = cluster
        .store
        .write(move |tx| db::placement::release(tx, server, Timestamp::now()));
    let done: Result<(), Error> = taking.await;
    done.unwrap();
}

/// An operator takes a server's claim away at Placement: it runs, and its host may be given to others.
#[tokio::test]
async fn a_server_that_has_lost_its_claim_gets_it_back() {
    for kind in testkit::kinds() {
        let options = Options {
            hosts: 1,
            ..Options::default()
        };
        claims_come_back(&Cluster::on(&kind, options).await).await;
    }
}

async fn claims_come_back(cluster: &Cluster) {
    let (server, other) = (cluster.create().await, cluster.create().await);
    let volume_backed = cluster.create_from_volume().await;
    cluster.idle().await;
    assert_eq!(audit(cluster).await, []);
    let classes = ["VCPU", "MEMORY_MB", "DISK_GB"];
    let before = {
        let mut before = Vec::new();
        for class in classes {
            before.push(given_out(cluster, server, class).await);
        }
        before
    };
    for one in [server, volume_backed] {
        take_claim(cluster, one).await;
    }
    let found = audit(cluster).await;
    let mut names: Vec<String> = found.iter().map(ToString::to_string).collect();
    names.sort();
    let mut words = [
        format!(
            "server {server} is on host host-1 and holds 0 of its 1 DISK_GB, 0 of its 512 MEMORY_MB, 0 of its 1 VCPU"
        ),
        format!(
            "server {volume_backed} is on host host-1 and holds 0 of its 512 MEMORY_MB, 0 of its 1 VCPU"
        ),
    ];
    words.sort();
    assert_eq!(names, words);
    mend(cluster).await;
    assert_eq!(audit(cluster).await, []);
    for (class, before) in classes.into_iter().zip(&before) {
        let after = given_out(cluster, server, class).await;
        assert_eq!(after, *before, "{class}");
        assert_eq!(after.0, after.1, "{class}");
    }
    let reading = cluster
        .store
        .read(move |tx| db::placement::consumer(tx, server.0));
    let consumer: Result<_, Error> = reading.await;
    let consumer = consumer.unwrap().unwrap();
    let owner = cluster.server(server).await;
    assert_eq!(consumer.project_id, owner.project_id.0);
    assert_eq!(consumer.user_id, owner.user_id.0);

    // Its rows are gone, and the counters say nothing of that; somebody has another hold more than its flavor says.
    let sql = "DELETE FROM allocations WHERE consumer = ?";
    execute(cluster, sql, vec![server.into()]).await;
    let sql =
        "UPDATE allocations SET amount = amount + 2 WHERE consumer = ? AND resource_class = 'VCPU'";
    execute(cluster, sql, vec![other.into()]).await;
    // That, and a class of somebody else's making, is left alone.
    let sql = "INSERT INTO allocations (consumer, provider, resource_class, amount) \
               SELECT consumer, provider, 'CUSTOM_X', 1 FROM allocations WHERE consumer = ? AND resource_class = 'VCPU'";
    execute(cluster, sql, vec![other.into()]).await;
    assert!(!audit(cluster).await.is_empty());
    mend(cluster).await;
    assert_eq!(audit(cluster).await, []);
    assert_eq!(given_out(cluster, other, "CUSTOM_X").await.1, 1);
    let (used, given) = before[0];
    assert_eq!(
        given_out(cluster, other, "VCPU").await,
        (used + 2, given + 2)
    );
    let sql = "DELETE FROM allocations WHERE resource_class = 'CUSTOM_X'";
    execute(cluster, sql, vec![]).await;
    let sql = "UPDATE allocations SET amount = 1 WHERE resource_class = 'VCPU'";
    execute(cluster, sql, vec![]).await;
    mend(cluster).await;
    assert_eq!(given_out(cluster, other, "VCPU").await, before[0]);
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// As in Nova, whose Placement refuses a claim that there is no room for.
#[tokio::test]
async fn a_claim_is_not_put_back_where_the_host_is_full() {
    let cluster = Cluster::new(Options {
        hosts: 1,
        ..Options::default()
    })
    .await;
    let (server, _) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    take_claim(&cluster, server).await;
    let full = "UPDATE inventories SET capacity = used WHERE resource_class = 'VCPU'";
    execute(&cluster, full, vec![]).await;
    let found = audit(&cluster).await;
    let words = found[0].to_string();
    assert!(
        words.ends_with("; the host has not enough VCPU left to give it that: move servers away from it or raise what it gives out, and mend again"),
        "{words}"
    );
    assert_eq!(
        (found.len(), found[0].can_be_mended()),
        (1, false),
        "{found:?}"
    );
    mend(&cluster).await;
    assert_eq!(audit(&cluster).await, found);
    let room = "UPDATE inventories SET capacity = used + 1 WHERE resource_class = 'VCPU'";
    execute(&cluster, room, vec![]).await;
    assert!(audit(&cluster).await[0].can_be_mended());
    mend(&cluster).await;
    assert_eq!(audit(&cluster).await, []);
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// What a server holds while it is resized is its new flavor's, also where it came from; one that is shelved holds nothing.
#[tokio::test]
async fn claims_of_resized_servers_are_put_back_and_of_shelved_ones_not() {
    let cluster = Cluster::new(Options::default()).await;
    let (moved, shelved) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    let state = serde_json::json!({});
    cluster.resize(moved, false, state.clone()).await;
    let mut offload = cluster.first_state("shelve", shelved);
    offload["offload"] = true.into();
    cluster.act(shelved, "shelve", offload).await;
    cluster.idle().await;
    assert_eq!(cluster.server(moved).await.vm_state, VmState::Resized);
    assert_eq!(
        cluster.server(shelved).await.vm_state,
        VmState::ShelvedOffloaded
    );
    assert_eq!(audit(&cluster).await, []);
    take_claim(&cluster, moved).await;
    let found = audit(&cluster).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].to_string().contains("0 of its 2 VCPU"),
        "{found:?}"
    );
    mend(&cluster).await;
    assert_eq!(audit(&cluster).await, []);
    cluster.act(moved, "confirm_resize", state).await;
    cluster.idle().await;
    assert_eq!(audit(&cluster).await, []);
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// What a server leaves where it comes from is its migration's, as long as it may go back there.
#[tokio::test]
async fn claims_of_migrations_that_are_over_are_given_back() {
    for kind in testkit::kinds() {
        let cluster = Cluster::on(&kind, Options::default()).await;
        let (moved, gone) = (cluster.create().await, cluster.create().await);
        cluster.idle().await;
        let state = serde_json::json!({});
        for one in [moved, gone] {
            cluster.resize(one, false, state.clone()).await;
        }
        cluster.idle().await;
        assert_eq!(audit(&cluster).await, []);
        let migration = async |server| {
            let moving = cluster.server(server).await.kept.unsettled;
            moving.unwrap().migration
        };
        let (of_moved, of_gone) = (migration(moved).await, migration(gone).await);
        cluster.act(moved, "confirm_resize", state).await;
        cluster.idle().await;
        assert_eq!(audit(&cluster).await, []);
        let before = given_out(&cluster, moved, "VCPU").await;
        let leaving = cluster.store.write(move |tx| -> Result<(), Error> {
            db::moves::leave_claim(tx, moved, of_moved, Timestamp::now())
        });
        leaving.await.unwrap();
        let sql = "UPDATE instances SET deleted = 1 WHERE uuid = ?";
        execute(&cluster, sql, vec![gone.into()]).await;
        let found = audit(&cluster).await;
        for wanted in [
            Finding::HeldByMigration(of_moved, moved),
            Finding::HeldByMigration(of_gone, gone),
        ] {
            assert!(found.contains(&wanted), "{found:?}");
        }
        mend(&cluster).await;
        assert_eq!(audit(&cluster).await, []);
        let after = given_out(&cluster, moved, "VCPU").await;
        assert_eq!(after.0, after.1);
        assert!(after.0 <= before.0, "{before:?} {after:?}");
        let reading = cluster.store.read(move |tx| -> Result<_, Error> {
            Ok((
                db::placement::allocations_of(tx, of_moved.0)?.len(),
                db::placement::allocations_of(tx, moved.0)?.len(),
            ))
        });
        assert_eq!(reading.await.unwrap(), (0, 3));
    }
}

/// A task of another release, say, or one that somebody has changed by hand.
#[tokio::test]
async fn a_task_that_cannot_be_read_is_told_of() {
    let cluster = Cluster::new(Options::default()).await;
    let (server, task, script) = held(&cluster, When::Before).await;
    let reading = cluster
        .store
        .read(move |tx| -> Result<_, Error> { db::tasks::get(tx, task) });
    let state = reading.await.unwrap().unwrap().state;
    let put = async |state: String| {
        let sql = "UPDATE tasks SET state = ? WHERE id = ?";
        execute(&cluster, sql, vec![state.into(), task.into()]).await;
        let freed = cluster
            .store
            .write(move |tx| -> Result<bool, Error> { repair::retry(tx, task) });
        assert!(freed.await.unwrap());
    };
    put("[]".to_owned()).await;
    drop(cluster.start_worker("other").await);
    cluster
        .until("it is told of", async || !audit(&cluster).await.is_empty())
        .await;
    let found = audit(&cluster).await;
    let of_it = matches!(&found[..], [Finding::Unreadable { task: one, server: its, reason }]
        if (*one, *its) == (task, server) && reason.contains("cannot be read"));
    assert!(of_it && !found[0].can_be_mended(), "{found:?}");
    put(state).await;
    drop(cluster.start_worker("another").await);
    cluster.idle().await;
    script.release();
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    assert_eq!(audit(&cluster).await, []);
}

/// A build that stands still before its guest is made: the task, and what holds it.
async fn held(cluster: &Cluster, when: When) -> (types::ServerId, TaskId, Arc<Script>) {
    let point = Point {
        flow: "build",
        step: "spawn",
        direction: Direction::Do,
        when,
    };
    let script = Arc::new(Script::new([(point, Fault::Hold)]));
    cluster.set_faults(Arc::clone(&script) as Arc<dyn journal::faults::Faults>);
    let server = cluster.create().await;
    script.all_struck().await;
    let task = cluster.server(server).await.task_id.unwrap();
    (server, task, script)
}

/// A task whose worker stands still is another's after a retry, and comes to its end.
#[tokio::test]
async fn a_task_that_is_tried_again_ends() {
    let cluster = Cluster::new(Options::default()).await;
    let (server, task, script) = held(&cluster, When::Before).await;
    let freed = cluster
        .store
        .write(move |tx| -> Result<bool, Error> { repair::retry(tx, task) });
    assert!(freed.await.unwrap());
    drop(cluster.start_worker("other").await);
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    // The one that stood still finds itself fenced.
    script.release();
    let again = cluster
        .store
        .write(move |tx| -> Result<bool, Error> { repair::retry(tx, task) });
    assert!(!again.await.unwrap(), "it has ended");
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// A soft-deleted server counts as nothing; in ERROR it counts.
#[tokio::test]
async fn a_restoration_that_is_abandoned_counts_again() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    cluster.soft_delete(server).await;
    cluster.idle().await;
    let point = Point {
        flow: "restore",
        step: "act",
        direction: Direction::Do,
        when: When::After,
    };
    let script = Arc::new(Script::new([(point, Fault::Hold)]));
    cluster.set_faults(script.clone());
    cluster.act(server, "restore", serde_json::json!({})).await;
    script.all_struck().await;
    let task = cluster.server(server).await.task_id.unwrap();
    let abandon = move |tx: &mut Tx<'_>| -> Result<_, Error> {
        repair::abandon(tx, task, "Given up.", Timestamp::now())
    };
    assert!(cluster.store.write(abandon).await.unwrap().is_some());
    script.release();
    assert_eq!(cluster.server(server).await.vm_state, VmState::Error);
    assert_eq!(audit(&cluster).await, []);
    assert!(cluster.delete(server).await);
    cluster.idle().await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_server_of_a_task_that_is_abandoned_can_be_deleted() {
    for when in [When::Before, When::After] {
        let cluster = Cluster::new(Options::default()).await;
        let (server, task, script) = held(&cluster, when).await;
        let abandon = move |tx: &mut Tx<'_>| -> Result<_, Error> {
            repair::abandon(tx, task, "Given up.", Timestamp::now())
        };
        let ended = cluster.store.write(abandon).await.unwrap();
        assert_eq!(ended.unwrap().server, server);
        let left = cluster.server(server).await;
        assert_eq!((left.vm_state, left.task_state), (VmState::Error, None));
        assert_eq!(left.fault.unwrap().message, "Given up.");
        assert!(cluster.last_action_failed(server).await);
        assert_eq!(cluster.store.write(abandon).await.unwrap(), None);
        script.release();
        assert_eq!(audit(&cluster).await, []);
        assert!(cluster.delete(server).await);
        cluster.idle().await;
        cluster.paid().await;
        assert_eq!(cluster.audit().await, Vec::<String>::new());
    }
}

/// As in Nova, where it makes the guest anew from what is on record.
#[tokio::test]
async fn a_hard_reboot_brings_back_a_guest_that_its_host_has_forgotten() {
    for shared in [false, true] {
        let cluster = Cluster::new(Options {
            shared,
            ..Options::default()
        })
        .await;
        let server = cluster.create().await;
        cluster.idle().await;
        let state = cluster.first_state("attach_volume", server);
        cluster.act(server, "attach_volume", state).await;
        cluster.idle().await;
        let before = cluster.server(server).await;
        let sim = &cluster.host(before.host.as_ref().unwrap()).sim;
        let was = sim.stored_spec(server).await.unwrap().unwrap();
        assert_eq!((was.disks.len(), was.vifs.len()), (3, 1));
        // Its disk stays.
        sim.ensure_undefined(server).await.unwrap();
        cluster.look_again().await;
        cluster.reboot(server, false).await;
        cluster.idle().await;
        assert_eq!(cluster.server(server).await.vm_state, VmState::Error);
        cluster.reboot(server, true).await;
        cluster.idle().await;
        let after = cluster.server(server).await;
        let shown = (after.vm_state, after.power_state, after.fault);
        assert_eq!(shown, (VmState::Active, PowerState::Running, None));
        let mut made = sim.stored_spec(server).await.unwrap().unwrap();
        made.metadata
            .created_at
            .clone_from(&was.metadata.created_at);
        assert_eq!(made, was);
        assert_eq!(cluster.audit().await, Vec::<String>::new());
    }
}
