//! Disks that become images: when a host begins to send one, the server shows that.

use bus::{Bell, Bus};
use db::instances::{self, Change, Expected};
use sql::{Store, Tx};
use types::agent::Verb;
use types::{HostName, ImageId, TaskState, Timestamp};

/// Work of a host that is looked at.
const MOST_WORK: u64 = 256;

/// A host sends the data of an image. Nobody's work depends on what is shown, so a failure is only logged.
pub(crate) async fn begins(store: &Store, bus: &Bus, host: HostName, image: ImageId) {
    let told = store
        .write(move |tx| show(tx, &host, image, Timestamp::now()))
        .await;
    match told {
        Ok(true) => bus.hint(&Bell::Servers),
        Ok(false) => {}
        Err(error) => tracing::warn!(%image, %error, "that a disk is being sent is not shown"),
    }
}

fn show(
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
    let server = instances::get(tx, work.server)?;
    let Some(next) = server.and_then(|server| server.task_state).and_then(next) else {
        return Ok(false);
    };
    let change = Change {
        task_state: Some(Some(next)),
        ..Change::default()
    };
    let expected = Expected::Task(work.key.task);
    instances::transition(tx, work.server, expected, &change, now)
}

fn next(shown: TaskState) -> Option<TaskState> {
    match shown {
        TaskState::ImagePendingUpload => Some(TaskState::ImageUploading),
        TaskState::ShelvingImagePendingUpload => Some(TaskState::ShelvingImageUploading),
        _ => None,
    }
}
