//! What this process knows of the servers that it has just accepted: a flow that begins in it need not read it again.
//!
//! Only a short cut. What is not here is read from the database, and until the flow's first write the task is anybody's.

use db::placing::ToBePlaced;
use db::tasks::Task;
use journal::Intake;
use moka::sync::Cache;
use std::sync::Arc;
use std::time::Duration;
use types::TaskId;

/// Kept at most; a flow takes what is kept when it picks a host, which is soon.
const MOST: u64 = 1024;
/// A flow that has not begun by then does not begin here.
const KEPT: Duration = Duration::from_secs(10);

/// New servers by the task that builds them. Clones share it.
#[derive(Clone)]
pub struct Newcomers(Cache<TaskId, Arc<ToBePlaced>>);

impl Default for Newcomers {
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(MOST).time_to_live(KEPT);
        Self(cache.build())
    }
}

impl Newcomers {
    /// Hands the task of a new server over to a worker of this process, with what is known of the server. `false`: the
    /// worker does not take it.
    pub fn hand_over(&self, worker: &Intake, task: Task, server: ToBePlaced) -> bool {
        let id = task.id;
        self.0.insert(id, Arc::new(server));
        let taken = worker.hand_over(task);
        if !taken {
            self.0.invalidate(&id);
        }
        taken
    }

    /// What is known of the server of a task, once.
    pub(crate) fn take(&self, task: TaskId) -> Option<ToBePlaced> {
        self.0.remove(&task).map(Arc::unwrap_or_clone)
    }
}
