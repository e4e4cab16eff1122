//! What a flow is made of.

use async_trait::async_trait;
use db::block_devices::BlockDevice;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::fmt::Debug;
use std::time::Duration;
use types::agent::{Direction, Verb, WorkOutcome};
use types::{HostName, ServerId, TaskId, Timestamp};

/// The names of a flow's steps, in order. Names are stored: a released name may not change its meaning.
pub trait StepName: Copy + Debug + PartialEq + Send + Sync + 'static {
    /// All steps, in the order they are done.
    const ALL: &'static [Self];
    /// The name stored.
    fn as_str(self) -> &'static str;
}

/// Which task a step belongs to.
#[derive(Clone, Debug)]
pub struct Context {
    /// The task.
    pub task: TaskId,
    /// The server it works on.
    pub server: ServerId,
    /// The API request behind it.
    pub request_id: String,
    /// The epoch under which it runs.
    pub epoch: i64,
    /// When the step counts as failed if it has not succeeded.
    pub until: tokio::time::Instant,
}

/// Why a flow is undone, and what the server shows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The fault's code, HTTP-like.
    pub code: u16,
    /// For everyone.
    pub message: String,
    /// For administrators.
    pub details: Option<String>,
    /// The step at which to begin again after undoing down to it; none means give up.
    pub redo_from: Option<String>,
}

impl Failure {
    /// A failure that ends the flow.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            redo_from: None,
        }
    }

    /// What operators are told of it.
    pub(crate) fn in_full(&self) -> String {
        match &self.details {
            Some(details) if *details != self.message => format!("{} ({details})", self.message),
            _ => self.message.clone(),
        }
    }

    /// With details for administrators.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }
}

/// Why a step did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StepError {
    /// It cannot succeed: unwind (or, behind the pivot, try again all the same).
    #[error("{}", .0.message)]
    Fail(Failure),
    /// It may succeed later: try again until the step's deadline.
    #[error("{0}")]
    Retry(String),
    /// The task was taken over.
    #[error("the task was taken over")]
    Fenced,
    /// The database failed.
    #[error(transparent)]
    Database(std::sync::Arc<sql::Error>),
}

impl From<sql::Error> for StepError {
    fn from(error: sql::Error) -> Self {
        Self::Database(std::sync::Arc::new(error))
    }
}

/// An effect on a host, as the flow wants it.
#[derive(Clone, Debug)]
pub struct HostWork {
    /// Where.
    pub host: HostName,
    /// What.
    pub verb: Verb,
}

/// How a flow ended.
#[derive(Clone, Debug)]
pub enum End<'a> {
    /// All steps are done.
    Done,
    /// Everything was undone because of this.
    Unwound(&'a Failure),
}

/// A long operation on a server. One flow is one file.
#[async_trait]
pub trait Flow: Send + Sync + 'static {
    /// The flow's name, stored with its tasks.
    const NAME: &'static str;
    /// What the flow must know to go on after any crash. Fields may be added with defaults, never removed.
    type State: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// Its steps.
    type Step: StepName;

    /// The last step that can be undone comes before this one; none means that every step can be.
    fn pivot(&self) -> Option<Self::Step> {
        None
    }

    /// The event that shows this step to users (Nova's name); steps after each other with the same are one event.
    fn event(&self, _step: Self::Step) -> Option<&'static str> {
        None
    }

    /// The same, where what the flow knows decides. Pure.
    fn event_in(&self, step: Self::Step, _state: &Self::State) -> Option<&'static str> {
        self.event(step)
    }

    /// The event that shows the failure of a step that had none open: one that only decides is not shown while it goes well.
    fn event_of_failure(&self, step: Self::Step) -> Option<&'static str> {
        self.event(step)
    }

    /// How long a step may take, retries included, before it counts as failed. Pure.
    fn deadline(&self, _step: Self::Step, _state: &Self::State) -> Duration {
        Duration::from_secs(300)
    }

    /// The host the step touches, for the event and for debts.
    fn host(&self, _step: Self::Step, _state: &Self::State) -> Option<HostName> {
        None
    }

    /// Whether a host that does not answer in this step may do it later: what the step should have removed becomes the
    /// host's debt, and the flow goes on.
    fn may_owe(&self, _step: Self::Step) -> bool {
        false
    }

    /// The host, if there is one, that the [`commit`](Flow::commit) of a step has left with a debt: it is rung. Pure.
    fn debtor(&self, _step: Self::Step, _state: &Self::State) -> Option<HostName> {
        None
    }

    /// Whether the flow goes on without a host that has not done its part in time, and that host owes nothing: what it
    /// should have done is made good otherwise, or not needed.
    fn may_pass(&self, _step: Self::Step, _state: &Self::State) -> bool {
        false
    }

    /// Whether the undo of a step waits for a host that does not answer, however long that takes: what it has to take back
    /// is the server's own, and nobody else could do it. Other undos are given up after a time.
    fn undo_waits(&self, _step: Self::Step) -> bool {
        false
    }

    /// Whether such an undo believes an administrator who says that the host is down, and goes on: what it takes back is only
    /// that the host may still do something, and nothing that is nowhere else. What the host has is its debt from then on.
    fn undo_believes_forced_down(&self, _step: Self::Step) -> bool {
        false
    }

    /// Whether what the host does in this step must not go on there when another host does it: a host that is only silent,
    /// or says that it cannot, may be at it still, so an administrator's word that it is down is needed to go on without it,
    /// and to go back without its answer, however long that takes.
    fn must_be_fenced(&self, _step: Self::Step, _state: &Self::State) -> bool {
        false
    }

    /// Whether the host is known to be away. An undo does not wait for such a host: what it should remove becomes its debt
    /// as soon as it could not be done.
    async fn is_away(&self, _host: &HostName) -> bool {
        false
    }

    /// Whether all that the step changes is in its [`commit`](Flow::commit), so that a flow which begins with it need not
    /// be on record as being in it.
    fn only_decides(&self, _step: Self::Step) -> bool {
        false
    }

    /// Whether there is nothing to do in a step that would come next. It is not begun then; what comes back from behind it
    /// undoes it like any other. Pure.
    fn skips(&self, _step: Self::Step, _state: &Self::State) -> bool {
        false
    }

    /// The work that a host has to do in this step. Pure.
    fn host_work(
        &self,
        _step: Self::Step,
        _direction: Direction,
        _state: &Self::State,
    ) -> Option<HostWork> {
        None
    }

    /// Does the step. `outcome` is how the step's host work ended, if it has any.
    async fn run(
        &self,
        cx: &Context,
        step: Self::Step,
        state: &mut Self::State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError>;

    /// Undoes the step, whatever of it has happened. Flows and steps that leave nothing behind need not.
    async fn undo(
        &self,
        _cx: &Context,
        _step: Self::Step,
        _state: &mut Self::State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        Ok(())
    }

    /// Writes that belong to the step, in the transaction that marks it as done (or, for `Undo`, as undone).
    fn commit(
        &self,
        _tx: &mut Tx<'_>,
        _cx: &Context,
        _step: Self::Step,
        _direction: Direction,
        _state: &mut Self::State,
    ) -> Result<(), StepError> {
        Ok(())
    }

    /// Whether what is written at the end of a step, by [`commit`](Flow::commit) and [`finish`](Flow::finish), rests on rows
    /// that are read there and not changed, such as those of other servers. Where it does not, the database need not watch
    /// over what is read ([`sql::Store::write_own`]). Pure.
    fn rests_on_others(&self, _step: Self::Step, _state: &Self::State) -> bool {
        true
    }

    /// The disks of the server as they are on record, if the flow knows them, for a step whose work needs nothing else of
    /// what is stored: it is handed to its host without being read again, should the host wait for it. Pure.
    fn disks(&self, _step: Self::Step, _state: &Self::State) -> Option<Vec<BlockDevice>> {
        None
    }

    /// Called when a failure asks to begin again at an earlier step, before anything is undone.
    fn note_failure(&self, _state: &mut Self::State, _failure: &Failure) {}

    /// Writes the end, in the transaction that ends the task.
    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &Self::State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error>;
}
