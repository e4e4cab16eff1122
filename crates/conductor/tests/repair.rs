#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What an operator repairs behind the APIs.

use db::repair::{self, Finding, Look};
use journal::faults::{Fault, Point, Script, When};
use sql::{Error, Tx, Value};
use std::sync::Arc;
use testkit::{Cluster, Options};
use types::agent::Direction;
use types::{TaskId, Timestamp, VmState};

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
    let (whole, in_parts) = reading.await.unwrap();
    assert_eq!(in_parts, whole);
    whole
}

async fn mend(cluster: &Cluster) {
    let mended = cluster.store.write(|tx| -> Result<(), Error> {
        for finding in repair::audit(tx)? {
            repair::mend(tx, &finding, Timestamp::now())?;
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
                Finding::LeftOnHost(..) | Finding::UnknownGuest(..) => "left",
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
