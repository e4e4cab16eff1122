//! What a server shows of the work that its host has begun: of a reboot that it has, and of a disk that becomes an image.

use bus::{Bell, Bus};
use db::instances::{self, Change, Expected};
use sql::{Store, Tx};
use types::agent::{Verb, Work};
use types::{HostName, ImageId, ServerId, TaskId, TaskState, Timestamp};

/// Work of a host that is looked at.
const MOST_WORK: u64 = 256;

/// A host is about to get this work. Nobody's work depends on what is shown, so a failure is only logged.
pub(crate) async fn handed(store: &Store, bus: &Bus, work: &Work) {
    let shows = matches!(
        work.verb,
        Verb::RebootOnce { .. } | Verb::SnapshotOnce { .. }
    );
    if !shows {
        return;
    }
    let (server, task) = (work.server, work.key.task);
    let showing = move |tx: &mut Tx<'_>| show(tx, server, task, begun, Timestamp::now());
    match store.write(showing).await {
        Ok(true) => bus.hint(&Bell::Servers),
        Ok(false) => {}
        Err(error) => tracing::warn!(%server, %error, "that a host has begun is not shown"),
    }
}

/// A host sends the data of an image.
pub(crate) async fn begins(store: &Store, bus: &Bus, host: HostName, image: ImageId) {
    let told = store.write(move |tx| sends(tx, &host, image, Timestamp::now()));
    match told.await {
        Ok(true) => bus.hint(&Bell::Servers),
        Ok(false) => {}
        Err(error) => tracing::warn!(%image, %error, "that a disk is being sent is not shown"),
    }
}

fn sends(
    tx: &mut Tx<'_>,
    host: &HostName,
    image: ImageId,
    now: Timestamp,
) -> Result<bool, sql::Error> {
    let pending = db::work::pending(tx, host, MOST_WORK)?;
    let sends = |verb: &Verb| matches!(verb, Verb::SnapshotOnce { image: of, .. } if *of == image);
    let Some((work, _)) = pending.work.into_iter().find(|(work, _)| sends(&work.verb)) else {
        return Ok(false);
    };
    show(tx, work.server, work.key.task, sent, now)
}

/// Shows what comes next, as long as the task works on the server.
fn show(
    tx: &mut Tx<'_>,
    server: ServerId,
    task: TaskId,
    next: fn(TaskState) -> Option<TaskState>,
    now: Timestamp,
) -> Result<bool, sql::Error> {
    let found = instances::get(tx, server)?;
    let Some(next) = found.and_then(|server| server.task_state).and_then(next) else {
        return Ok(false);
    };
    let change = Change {
        task_state: Some(Some(next)),
        ..Change::default()
    };
    instances::transition(tx, server, Expected::Task(task), &change, now)
}

fn begun(shown: TaskState) -> Option<TaskState> {
    match shown {
        TaskState::RebootPending => Some(TaskState::RebootStarted),
        TaskState::RebootPendingHard => Some(TaskState::RebootStartedHard),
        TaskState::ImageSnapshot | TaskState::ImageBackup => Some(TaskState::ImagePendingUpload),
        _ => None,
    }
}

fn sent(shown: TaskState) -> Option<TaskState> {
    match shown {
        TaskState::ImageSnapshot | TaskState::ImageBackup | TaskState::ImagePendingUpload => {
            Some(TaskState::ImageUploading)
        }
        TaskState::ShelvingImagePendingUpload => Some(TaskState::ShelvingImageUploading),
        _ => None,
    }
}
