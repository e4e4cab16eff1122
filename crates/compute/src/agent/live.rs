//! Guests on their way to other hosts: for how long, and how somebody else ends it.

use super::{Agent, failure};
use crate::images::Failure;
use std::sync::Arc;
use std::time::Duration;
use types::agent::FailureKind;
use types::{HostName, ServerId};
use virt::{GuestInfo, GuestSpec, HypervisorError, Passage, RootDisk};

/// How often, and how many times, a guest that is about to leave is looked for.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: u32 = 100;
/// Before whoever waits for the move gives up, it is called off, so that both sides know how it ended.
const IN_TIME: Duration = Duration::from_secs(60);
/// What the answer to [`types::agent::Question::ForceLive`] says when the guest runs on the other host already.
const POST_COPY: &str = "post_copy";

/// How a live migration is ended before it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveAction {
    /// The guest stays.
    Abort,
    /// The guest goes at once, with post-copy where that is permitted, else standing still until it is there.
    ForceComplete,
}

/// How long a live migration may take (Nova's `live_migration_completion_timeout` and `live_migration_timeout_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveLimit {
    /// For each GiB of memory and disks that are sent.
    pub for_each_gib: Duration,
    /// What happens then.
    pub action: LiveAction,
}

impl LiveLimit {
    /// For this guest. As in Nova memory counts as 2 GiB at least, and so does each disk.
    fn of(&self, guest: &GuestSpec, with_disks: bool) -> Duration {
        const LEAST_MIB: u64 = 2 * 1024;
        let root = (guest.root != RootDisk::Volume).then(|| guest.root.local_gib());
        let others = guest.disks.iter().filter(|disk| disk.volume_id().is_none());
        let disks = root.into_iter().chain(others.map(|disk| disk.local_gib()));
        let disks = disks.map(|gib| (gib * 1024).max(LEAST_MIB));
        let sent = if with_disks { disks.sum() } else { 0 };
        let mib = guest.memory_mib.max(LEAST_MIB) + sent;
        let millis = self.for_each_gib.as_millis() * u128::from(mib) / 1024;
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

impl Agent {
    /// Sends a guest, and ends that when it takes too long: longer than the operator wants, or than anybody waits for it.
    pub(super) async fn send_live(
        &self,
        id: ServerId,
        to: &HostName,
        way: Option<Arc<dyn Passage>>,
        (most, shared): (Duration, bool),
    ) -> Result<GuestInfo, Failure> {
        let spec = self.stored(id).await?;
        let limit = self.settings.live_limit;
        let wanted = limit.map(|limit| (limit.of(&spec, !shared), limit.action));
        let last = (most - IN_TIME.min(most / 4), LiveAction::Abort);
        let (time, action) = wanted.filter(|(time, _)| *time < last.0).unwrap_or(last);
        let sending = self.hypervisor.migrate_live(id, to, way, shared);
        tokio::pin!(sending);
        let late = tokio::select! {
            sent = &mut sending => return sent.map_err(|error| on_the_way(to, error)),
            () = tokio::time::sleep(time) => self.end_live(id, action),
        };
        tracing::warn!(server = %id, %to, seconds = time.as_secs(), ?action, "a live migration takes too long");
        let ending = async {
            if let Err((_, reason)) = late.await {
                tracing::warn!(server = %id, reason, ?action, "a live migration cannot be ended");
            }
        };
        let (sent, ()) = tokio::join!(sending, ending);
        sent.map_err(|error| on_the_way(to, error))
    }

    /// The guest may be about to leave: it is given a moment to be on its way.
    pub(super) async fn end_live(
        &self,
        id: ServerId,
        action: LiveAction,
    ) -> Result<String, Failure> {
        for _ in 0..LOOKS {
            let ended = match action {
                LiveAction::ForceComplete => self.hypervisor.force_live(id).await,
                LiveAction::Abort => self.hypervisor.abort_live(id).await,
            };
            if ended.map_err(failure)? {
                return Ok(self.mode(id).await);
            }
            tokio::time::sleep(LOOK).await;
        }
        let words = format!("Instance {id} is not on its way to another host.");
        Err((FailureKind::Request, words))
    }

    async fn mode(&self, id: ServerId) -> String {
        let moving = self.hypervisor.moving().await;
        let follows = moving.iter().any(|one| one.server == id && one.post_copy);
        if follows { POST_COPY } else { "" }.to_owned()
    }
}

/// The hypervisor's words do not say which host they are about: a full disk is the other one's.
fn on_the_way(to: &HostName, error: HypervisorError) -> Failure {
    match failure(error) {
        (kind @ FailureKind::Host, words) => (
            kind,
            format!("while the guest was sent to host {to}: {words}"),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::agent::GuestPlan;

    #[test]
    fn time_is_for_each_gib_and_small_guests_count_as_two() {
        let plan = |memory: u32, root: u32| -> GuestSpec {
            let plan: GuestPlan = serde_json::from_value(serde_json::json!({
                "number": 1, "name": "n", "project_id": "p", "user_id": "u", "flavor_name": "f", "vcpus": 1,
                "memory_mb": memory, "root_gb": root, "ephemeral_gb": 0, "swap_mb": 0, "image": null, "vifs": [],
                "config_drive": null, "hardware": {}
            }))
            .unwrap();
            GuestSpec::from_plan(ServerId::random(), &plan, None).unwrap()
        };
        let limit = LiveLimit {
            for_each_gib: Duration::from_secs(800),
            action: LiveAction::Abort,
        };
        for (memory, root, with_disks, wanted) in [
            (128, 1, false, 1600),
            (128, 1, true, 3200),
            (3072, 10, true, 13 * 800),
            (3072, 10, false, 3 * 800),
            (2560, 0, false, 2000),
        ] {
            let found = limit.of(&plan(memory, root), with_disks);
            assert_eq!(found.as_secs(), wanted, "{memory} {root}");
        }
    }
}
