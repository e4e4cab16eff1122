//! Simulated guests on their way to other hosts: it takes as long as a test wants, and can be called off or forced.

use super::Sim;
use crate::facts::{GuestEventKind, GuestInfo};
use crate::hypervisor::{HypervisorError, Result};
use std::sync::PoisonError;
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
        let guest = self.active(id)?;
        let switched = Duration::from_millis(self.switches.now().live_ms);
        let live = Live {
            begun: Instant::now(),
            time: self.controls.live_time().max(switched),
            memory: guest.memory_mib << 20,
            end: None,
        };
        self.change_live(|all| all.insert(id, live));
        let ended = self.until_over(id).await;
        self.change_live(|all| all.remove(&id));
        if ended == Ending::Aborted {
            return Err(HypervisorError::Cancelled);
        }
        self.change_power(id, PowerState::Shutdown, GuestEventKind::Stopped)?;
        self.info(id)
    }

    async fn until_over(&self, id: ServerId) -> Ending {
        loop {
            let live = self.change_live(|all| all.get(&id).copied());
            match live {
                Some(Live {
                    end: Some(ending), ..
                }) => return ending,
                Some(live) if live.begun.elapsed() < live.time => tokio::time::sleep(LOOK).await,
                _ => return Ending::Forced,
            }
        }
    }

    /// `false`: it is not on its way.
    pub(super) fn end_live(&self, id: ServerId, ending: Ending) -> bool {
        self.change_live(|all| match all.get_mut(&id) {
            Some(live) => {
                live.end.get_or_insert(ending);
                true
            }
            None => false,
        })
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
