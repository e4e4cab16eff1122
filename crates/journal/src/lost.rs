//! Whether the host that a step waits for is down for good.
//!
//! Time is this process's own: a host is down when its heartbeats stand still while a step waits for it. So no clock that
//! jumps, no restart of a conductor and no restart of an agent within that time makes work fail. Nothing is heard of any
//! host while no conductor listens; that time does not count.

use crate::flow::Flow;
use crate::worker::Shared;
use db::hosts::{AllHeard, Heard};
use sql::Store;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use types::HostName;
use types::agent::Direction;

/// How often a step looks at the host that it waits for.
const LOOK: Duration = Duration::from_secs(2);

/// What makes a host one that is down for good.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// An administrator says it.
    Forced,
    /// The same, or nothing was heard of it for so long.
    Silence(Duration),
}

impl Proof {
    /// What a step that waits for its host needs to go on without it: none where there is no way back nor one past it, as
    /// also where the host must be heard to undo the step.
    pub(crate) fn wanted<F: Flow>(
        flow: &F,
        (step, direction): (F::Step, Direction),
        state: &F::State,
        past_pivot: bool,
        after: Duration,
    ) -> Option<Self> {
        let doing = direction == Direction::Do;
        let passes = doing && (flow.may_owe(step) || flow.may_pass(step, state));
        if doing && !passes && past_pivot {
            return None;
        }
        if flow.undo_waits(step) && !passes {
            return (flow.undo_believes_forced_down(step)).then_some(Self::Forced);
        }
        if flow.must_be_fenced(step, state) {
            return Some(Self::Forced);
        }
        Some(Self::Silence(after))
    }
}

/// What is heard of all hosts, looked at once for all who wait.
#[derive(Debug, Default)]
pub(crate) struct Ear(Mutex<Option<(Instant, Arc<AllHeard>)>>);

impl Ear {
    async fn hear(&self, store: &Store, host: &HostName) -> Result<Heard, sql::Error> {
        let mut last = self.0.lock().await;
        if let Some((at, all)) = &*last
            && at.elapsed() < LOOK / 2
        {
            return Ok(all.of(host));
        }
        let all: Result<_, sql::Error> = store.look_once(db::hosts::heard).await;
        let all = Arc::new(all?);
        *last = Some((Instant::now(), Arc::clone(&all)));
        Ok(all.of(host))
    }

    /// The reason, for administrators, if one of them says that the host is down.
    pub(crate) async fn forced_down(&self, store: &Store, host: &HostName) -> Option<String> {
        match self.hear(store, host).await {
            Ok(heard) => said_to_be_down(host, heard),
            Err(error) => {
                tracing::debug!(%host, %error, "a host cannot be looked at");
                None
            }
        }
    }
}

/// The reason, if an administrator says that a host which is known is down.
fn said_to_be_down(host: &HostName, heard: Heard) -> Option<String> {
    let down = heard.beats.is_some() && heard.forced_down;
    down.then(|| format!("the compute service of {host} is forced down"))
}

/// What a task has seen of the hosts that it waited for.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    hosts: HashMap<HostName, Still>,
    conductors: Option<Still>,
}

/// A number that grows while somebody lives.
#[derive(Clone, Copy, Debug)]
struct Still {
    beats: i64,
    since: Instant,
}

impl Watch {
    /// Returns when the host is down for good, with the reason for administrators.
    pub(crate) async fn lost(&mut self, shared: &Shared, host: &HostName, proof: Proof) -> String {
        loop {
            tokio::time::sleep(LOOK).await;
            let heard = match shared.ear.hear(&shared.store, host).await {
                Ok(heard) => heard,
                Err(error) => {
                    // Heartbeats are not written down meanwhile, either.
                    tracing::debug!(%host, %error, "a host cannot be looked at");
                    *self = Self::default();
                    continue;
                }
            };
            if let Some(reason) = said_to_be_down(host, heard) {
                return reason;
            }
            let Proof::Silence(after) = proof else {
                continue;
            };
            if self.is_silent(host, heard, after, Instant::now()) {
                let seconds = after.as_secs();
                return format!(
                    "the compute service of {host} has not been heard of for {seconds} seconds"
                );
            }
        }
    }

    fn is_silent(&mut self, host: &HostName, heard: Heard, after: Duration, now: Instant) -> bool {
        if let Some(beats) = heard.conductors {
            let known = self.conductors.filter(|known| known.beats == beats);
            let before = self.conductors.map_or(now, |known| known.since);
            // The hosts had nobody to tell that they live, or this looks after a long time.
            if now - before > after / 2 {
                self.hosts.clear();
            }
            self.conductors = Some(known.unwrap_or(Still { beats, since: now }));
        }
        let Some(beats) = heard.beats else {
            self.hosts.remove(host);
            return false;
        };
        let still = self
            .hosts
            .entry(host.clone())
            .or_insert(Still { beats, since: now });
        if still.beats != beats {
            *still = Still { beats, since: now };
        }
        now - still.since >= after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(90);

    /// Looks, each a second, the beats of the host and of the conductors; whether the host is down then.
    fn silent(looks: &[(u64, Option<i64>, Option<i64>)]) -> Vec<bool> {
        let (start, mut watch) = (Instant::now(), Watch::default());
        let look = |&(at, beats, conductors): &(u64, Option<i64>, Option<i64>)| {
            let heard = Heard {
                beats,
                forced_down: false,
                conductors,
            };
            watch.is_silent(&"h".into(), heard, AFTER, start + Duration::from_secs(at))
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_host_is_down_when_it_was_silent_for_long_while_somebody_listened() {
        let alone = [(0, Some(7), None), (89, Some(7), None), (90, Some(7), None)];
        assert_eq!(silent(&alone), [false, false, true]);
        let late = [
            (0, Some(7), None),
            (80, Some(8), None),
            (100, Some(8), None),
            (170, Some(8), None),
        ];
        assert_eq!(silent(&late), [false, false, false, true]);
        let listened = [
            (0, Some(7), Some(1)),
            (40, Some(7), Some(2)),
            (80, Some(7), Some(3)),
            (91, Some(7), Some(3)),
        ];
        assert_eq!(silent(&listened), [false, false, false, true]);
        let deaf = [
            (0, Some(7), Some(1)),
            (40, Some(7), Some(1)),
            (100, Some(7), Some(1)),
            (101, Some(7), Some(2)),
            (140, Some(7), Some(3)),
            (180, Some(7), Some(4)),
            (192, Some(7), Some(4)),
        ];
        let told = [false, false, false, false, false, false, true];
        assert_eq!(silent(&deaf), told);
        let unknown = [(0, None, None), (500, None, None), (501, Some(1), None)];
        assert_eq!(silent(&unknown), [false; 3]);
    }
}
