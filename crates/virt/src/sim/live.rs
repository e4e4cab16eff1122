//! Simulated guests on their way to other hosts: it takes as long as a test wants, and can be called off or forced.

use super::Sim;
use crate::facts::{GuestEventKind, GuestInfo};
use crate::hypervisor::{HypervisorError, Result};
use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use types::agent::Moving;
use types::{PowerState, ServerId};

/// How often one that is under way looks around.
const LOOK: Duration = Duration::from_millis(10);

/// A guest that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    begun: Instant,
    time: Duration,
    memory: u64,
    end: Option<Ending>,
    /// Since when it runs on the other host already.
    follows: Option<Instant>,
}

impl Live {
    fn is_over(&self, rest: Duration, converges: bool, ends: bool) -> bool {
        match self.follows {
            Some(since) => since.elapsed() >= rest,
            None => converges && (ends || self.begun.elapsed() >= self.time),
        }
    }
}

/// How somebody else ended it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ending {
    Aborted,
    Forced,
}

impl Sim {
    /// Takes the guest away when its time is over.
    pub(super) async fn send_away(&self, id: ServerId) -> Result<GuestInfo> {
        // Whoever was told before a restart asks again. One that goes on here after all is active.
        if self.sent(id).exists() && !self.info(id)?.active {
            return self.info(id);
        }
        let guest = self.active(id)?;
        if self.is_torn(id) {
            return Err(HypervisorError::PostCopyBroke);
        }
        let switched = Duration::from_millis(self.switches.now().live_ms);
        let live = Live {
            begun: Instant::now(),
            time: self.controls.live_time().max(switched),
            memory: guest.memory_mib << 20,
            end: None,
            follows: None,
        };
        self.change_live(|all| all.insert(id, live));
        let ended = self.until_over(id).await;
        let was = self.change_live(|all| all.remove(&id));
        if ended == Ending::Aborted {
            return Err(HypervisorError::Cancelled);
        }
        if was.is_some_and(|was| was.follows.is_some()) && self.controls.post_copy_breaks() {
            self.torn().insert(id);
            self.change_power(id, PowerState::Paused, GuestEventKind::Paused)?;
            return Err(HypervisorError::PostCopyBroke);
        }
        let sent = self.sent(id);
        std::fs::write(&sent, "").map_err(|error| HypervisorError::disk(sent.display(), &error))?;
        self.change_power(id, PowerState::Shutdown, GuestEventKind::Stopped)?;
        self.info(id)
    }

    async fn until_over(&self, id: ServerId) -> Ending {
        loop {
            let live = self.change_live(|all| all.get(&id).copied());
            let (rest, ends) = (self.controls.post_copy_time(), self.controls.live_ends());
            match live {
                Some(Live {
                    end: Some(ending), ..
                }) => return ending,
                Some(live) if !live.is_over(rest, self.converges(), ends) => {
                    tokio::time::sleep(LOOK).await;
                }
                _ => return Ending::Forced,
            }
        }
    }

    /// Whether memory is sent faster than the guest changes it. Who may go on by post-copy is not slowed down, as with
    /// libvirt.
    fn converges(&self) -> bool {
        let choices = self.config.live;
        !self.controls.restless() || (choices.auto_converge && !choices.post_copy)
    }

    /// `false`: it is not on its way.
    pub(super) fn call_off(&self, id: ServerId) -> Result<bool> {
        self.change_live(|all| match all.get_mut(&id) {
            Some(live) if live.follows.is_some() => Err(HypervisorError::InPostCopy),
            Some(live) => {
                live.end.get_or_insert(Ending::Aborted);
                Ok(true)
            }
            None => Ok(false),
        })
    }

    /// `false`: it is not on its way. With post-copy the rest of its memory takes a time of its own.
    pub(super) fn hurry(&self, id: ServerId) -> bool {
        let post_copy = self.config.live.post_copy || self.controls.post_copy();
        self.change_live(|all| match all.get_mut(&id) {
            Some(live) if post_copy => {
                live.follows.get_or_insert_with(Instant::now);
                true
            }
            Some(live) => {
                live.end.get_or_insert(Ending::Forced);
                true
            }
            None => false,
        })
    }

    /// A part of its memory is elsewhere.
    pub(super) fn is_torn(&self, id: ServerId) -> bool {
        let stands = self
            .info(id)
            .is_ok_and(|guest| guest.power == PowerState::Paused);
        stands && self.torn().contains(&id)
    }

    pub(super) fn torn(&self) -> MutexGuard<'_, HashSet<ServerId>> {
        self.torn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory goes over evenly; the disk does with it.
    pub(super) fn under_way(&self) -> Vec<Moving> {
        let part = |live: &Live| {
            let whole = live.time.as_millis().max(1);
            let gone = live.begun.elapsed().as_millis().min(whole);
            let sent = u128::from(live.memory) * gone / whole;
            u64::try_from(sent).unwrap_or(live.memory)
        };
        self.change_live(|all| {
            all.iter()
                .map(|(id, live)| Moving {
                    server: *id,
                    memory: (live.memory, part(live), live.memory - part(live)),
                    disk: (0, 0, 0),
                    post_copy: live.follows.is_some(),
                })
                .collect()
        })
    }

    fn change_live<T>(
        &self,
        how: impl FnOnce(&mut std::collections::HashMap<ServerId, Live>) -> T,
    ) -> T {
        how(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
