//! Snapshots and backups: the server's disk becomes the data of an image that the API made.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `locate` | finds the host | deletes the image |
//! | `upload` | the host copies the disk and sends it | - |
//! | `rotate` | backups: deletes the oldest of their kind | - |

use super::{end_quietly, power_after, transition};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use db::accept;
use db::instances::Change;
use journal::{Context, End, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::marker::PhantomData;
use std::time::Duration;
use types::agent::{Direction, Quiesce, Verb, WorkOutcome};
use types::{HostName, ImageId, TaskState, Timestamp};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host.
    Locate,
    /// Copy and send.
    Upload,
    /// Delete what is too old.
    Rotate,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Locate, Self::Upload, Self::Rotate];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Upload => "upload",
            Self::Rotate => "rotate",
        }
    }
}

/// Which backups to keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rotation {
    /// `backup_type`.
    kind: String,
    /// How many of them.
    keep: usize,
    /// Whose: the project that asked for this one. A task of an older release does not say it, but its image does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

/// What the flow knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The image that waits for its data.
    pub image: ImageId,
    #[serde(default)]
    rotation: Option<Rotation>,
    #[serde(default)]
    host: Option<HostName>,
    #[serde(default)]
    quiesce: Quiesce,
}

/// One of the two.
pub trait Kind: Send + Sync + 'static {
    /// The flow's name.
    const NAME: &'static str;
    /// The event shown.
    const EVENT: &'static str;
    /// What the server shows until its host begins; none leaves it as the request did.
    const LOCATED: Option<TaskState>;
}

/// `createImage`.
pub struct Snapshot;
/// `createBackup`.
pub struct Backup;

impl Kind for Snapshot {
    const NAME: &'static str = accept::SNAPSHOT;
    const EVENT: &'static str = "compute_snapshot_instance";
    const LOCATED: Option<TaskState> = Some(TaskState::ImageSnapshot);
}

impl Kind for Backup {
    const NAME: &'static str = accept::BACKUP;
    const EVENT: &'static str = "compute_backup_instance";
    const LOCATED: Option<TaskState> = None;
}

/// The flow.
pub struct Copy<K> {
    with: Neighbours,
    kind: PhantomData<K>,
}

impl<K: Kind> Copy<K> {
    /// The flow.
    pub fn new(with: &Neighbours) -> Self {
        Self {
            with: with.clone(),
            kind: PhantomData,
        }
    }

    async fn locate(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        let properties = server.image_properties();
        state.quiesce = properties.map(Quiesce::of).unwrap_or_default();
        let host = server.host.ok_or_else(super::nowhere)?;
        super::must_be_up(&self.with, &host).await?;
        state.host = Some(host);
        Ok(())
    }

    /// The newest are kept. What cannot be deleted now is too old the next time, too.
    ///
    /// Only of the project that asked, as it could by itself: anybody may give an image these properties, and the service's
    /// own token may delete everybody's.
    async fn rotate(
        &self,
        cx: &Context,
        image: ImageId,
        rotation: &Rotation,
    ) -> Result<(), StepError> {
        let token = self.with.token().await?;
        let images = &self.with.images;
        let owner = match &rotation.owner {
            Some(owner) => Some(owner.clone()),
            None => {
                let found = images.get(&token, &image.to_string()).await;
                found.map_err(retry)?.and_then(|found| found.owner)
            }
        };
        let Some(owner) = owner else {
            tracing::warn!(%image, "nobody knows whose backup this is: none that is too old is deleted");
            return Ok(());
        };
        let server = cx.server.to_string();
        let of_kind = [
            ("owner", &owner[..]),
            ("instance_uuid", &server[..]),
            ("image_type", "backup"),
            ("backup_type", &rotation.kind[..]),
        ];
        let found = images
            .with_properties(&token, &of_kind)
            .await
            .map_err(retry)?;
        let own = found
            .into_iter()
            .filter(|one| one.owner.as_deref() == Some(&owner[..]));
        for old in own.skip(rotation.keep) {
            if let Err(error) = images.delete(&token, old.image.id).await {
                tracing::warn!(image = %old.image.id, %error, "a backup that is too old cannot be deleted");
            }
        }
        Ok(())
    }
}

/// Deletes an image that got no data. `false`: it has them, and is of use. Repeatable.
pub(super) async fn forget(with: &Neighbours, image: ImageId) -> Result<bool, StepError> {
    let token = with.token().await?;
    let found = with.images.get(&token, &image.to_string()).await;
    match found.map_err(retry)? {
        Some(found) if found.status == "active" => Ok(false),
        Some(_) => {
            let deleting = with.images.delete(&token, image);
            deleting.await.map(|()| true).map_err(retry)
        }
        None => Ok(true),
    }
}

#[async_trait]
impl<K: Kind> Flow for Copy<K> {
    const NAME: &'static str = K::NAME;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Rotate)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        (step == Step::Upload).then_some(K::EVENT)
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        state.host.clone().filter(|_| step == Step::Upload)
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::Locate => Duration::from_secs(60),
            Step::Upload => Duration::from_secs(4 * 3600),
            Step::Rotate => Duration::from_secs(120),
        }
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if step != Step::Upload || direction == Direction::Undo {
            return None;
        }
        Some(HostWork {
            host: state.host.clone()?,
            verb: Verb::SnapshotOnce {
                image: state.image,
                quiesce: state.quiesce,
            },
        })
    }

    async fn run(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match (step, &state.rotation) {
            (Step::Locate, _) => self.locate(cx, state).await,
            (Step::Upload, _) => power_after(outcome).map(drop),
            (Step::Rotate, Some(rotation)) => self.rotate(cx, state.image, rotation).await,
            (Step::Rotate, None) => Ok(()),
        }
    }

    async fn undo(
        &self,
        _cx: &Context,
        step: Step,
        state: &mut State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        if step != Step::Locate {
            return Ok(());
        }
        // Also one that has its data: the action failed, and shows that.
        let token = self.with.token().await?;
        let deleting = self.with.images.delete(&token, state.image);
        deleting.await.map_err(retry)
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: Step,
        direction: Direction,
        _state: &mut State,
    ) -> Result<(), StepError> {
        if (step, direction) != (Step::Locate, Direction::Do) {
            return Ok(());
        }
        let Some(shown) = K::LOCATED else {
            return Ok(());
        };
        let change = Change {
            task_state: Some(Some(shown)),
            ..Change::default()
        };
        transition(tx, cx, &change, Timestamp::now())
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        _state: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        end_quietly(tx, cx, end, now)
    }
}
