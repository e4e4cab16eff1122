//! Work of servers that was handed over and has not ended, and what ends it before its time: a guest that is to be gone, or to
//! be switched off hard, is not waited for, neither by the work that is under way nor by what is queued behind that.

use super::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use types::ServerId;
use types::agent::{Direction, Verb, Work, WorkKey};

/// What was handed over, for each server in the order in which it is done.
#[derive(Default)]
pub(super) struct Handed(Mutex<Queues>);

#[derive(Default)]
struct Queues {
    last: u64,
    of_server: HashMap<ServerId, Vec<Piece>>,
}

struct Piece {
    number: u64,
    key: WorkKey,
    kind: Kind,
    stop: CancellationToken,
}

/// What matters of a verb to those behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The guest goes: that is done whatever comes next.
    Removes,
    /// The guest is to let go of something, and may never do it.
    LetsGo,
    Other,
}

/// The place of one piece of work, until this is dropped.
pub(super) struct Place {
    handed: Arc<Handed>,
    server: ServerId,
    number: u64,
    stop: CancellationToken,
}

impl Handed {
    /// Puts work at the end of its server's queue, and calls off what is in front of it and nobody wants any more.
    pub(super) fn queue(self: &Arc<Self>, work: &Work) -> Place {
        let stop = CancellationToken::new();
        let mut queues = lock(&self.0);
        queues.last += 1;
        let number = queues.last;
        let queue = queues.of_server.entry(work.server).or_default();
        for earlier in queue.iter().filter(|one| calls_off(work, one)) {
            earlier.stop.cancel();
        }
        queue.push(Piece {
            number,
            key: work.key.clone(),
            kind: Kind::of(&work.verb),
            stop: stop.clone(),
        });
        Place {
            handed: Arc::clone(self),
            server: work.server,
            number,
            stop,
        }
    }

    /// Rings when nobody wants any more what a server's work waits for that is being done.
    pub(super) fn waits(&self, server: ServerId) -> CancellationToken {
        let queues = lock(&self.0);
        let queue = queues.of_server.get(&server);
        let first = queue.and_then(|queue| queue.first());
        first.map(|piece| piece.stop.clone()).unwrap_or_default()
    }
}

impl Place {
    /// Whether nobody wants the work any more.
    pub(super) fn is_called_off(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = lock(&self.handed.0);
        let Some(queue) = queues.of_server.get_mut(&self.server) else {
            return;
        };
        queue.retain(|piece| piece.number != self.number);
        if queue.is_empty() {
            queues.of_server.remove(&self.server);
        }
    }
}

impl Kind {
    fn of(verb: &Verb) -> Self {
        match verb {
            Verb::EnsureAbsent | Verb::EnsureUndefined => Self::Removes,
            Verb::EnsureNoVolume { .. } | Verb::EnsureNoInterface { .. } => Self::LetsGo,
            _ => Self::Other,
        }
    }
}

/// Whether `work` does not wait for what is in front of it. The same work again is no other.
fn calls_off(work: &Work, earlier: &Piece) -> bool {
    if work.key == earlier.key || earlier.kind == Kind::Removes {
        return false;
    }
    match work.verb {
        Verb::EnsureAbsent
        | Verb::EnsureUndefined
        | Verb::EnsureStayed { .. }
        | Verb::RebootOnce { hard: true, .. } => true,
        // What the guest has not let go of by now it is to keep.
        _ => {
            let (its, now) = (&earlier.key, &work.key);
            let same_step = (its.task, &its.step) == (now.task, &now.step);
            let undone = same_step && now.direction == Direction::Undo;
            undone && earlier.kind == Kind::LetsGo
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::TaskId;
    use uuid::Uuid;

    const SERVER: Uuid = Uuid::from_u128(1);

    fn work(task: u128, direction: Direction, verb: Verb) -> Work {
        Work {
            key: WorkKey {
                task: TaskId(Uuid::from_u128(task)),
                step: "step".to_owned(),
                direction,
            },
            epoch: 1,
            server: ServerId::from(SERVER),
            request: String::new(),
            trace: None,
            deadline_seconds: 60,
            verb,
            passphrase: None,
        }
    }

    fn detach() -> Verb {
        Verb::EnsureNoVolume {
            volume_id: "v".to_owned(),
        }
    }

    fn attach() -> Verb {
        Verb::EnsureVolume {
            volume_id: "v".to_owned(),
            disk: None,
        }
    }

    fn reboot(hard: bool) -> Verb {
        Verb::RebootOnce {
            plan: None,
            hard,
            grace_seconds: 60,
        }
    }

    /// Also what has not begun: it would keep the deletion waiting when its turn comes.
    #[test]
    fn a_deletion_waits_for_nothing_in_front_of_it() {
        let handed = Arc::new(Handed::default());
        let running = handed.queue(&work(1, Direction::Do, Verb::EnsureRunning));
        let queued = handed.queue(&work(1, Direction::Undo, detach()));
        let token = handed.waits(SERVER.into());
        assert!(!token.is_cancelled() && !queued.is_called_off());
        let absent = work(2, Direction::Do, Verb::EnsureAbsent);
        let deletion = handed.queue(&absent);
        assert!(token.is_cancelled() && running.is_called_off() && queued.is_called_off());
        // It is handed over again, as after a poll whose answer was lost.
        let again = handed.queue(&absent);
        assert!(!deletion.is_called_off() && !again.is_called_off());
        // Nor does anything else keep it from being done.
        let other = handed.queue(&work(3, Direction::Do, reboot(true)));
        assert!(!deletion.is_called_off());
        drop((running, queued, deletion, again));
        assert!(!handed.waits(SERVER.into()).is_cancelled());
        drop(other);
        assert!(lock(&handed.0).of_server.is_empty());
    }

    #[test]
    fn what_is_called_off() {
        let (forward, back) = (Direction::Do, Direction::Undo);
        for (first, second, wanted) in [
            // A hard reboot takes the place of what waits for the guest.
            (
                (1, forward, reboot(false)),
                (2, forward, reboot(true)),
                true,
            ),
            (
                (1, forward, reboot(true)),
                (1, forward, reboot(true)),
                false,
            ),
            ((1, forward, detach()), (2, forward, reboot(false)), false),
            // What is given back need not have been let go.
            ((1, forward, detach()), (1, back, attach()), true),
            ((1, forward, detach()), (2, back, attach()), false),
            ((1, forward, attach()), (1, back, detach()), false),
            // Two that wait their turn.
            (
                (1, forward, Verb::EnsureRunning),
                (2, forward, Verb::EnsurePaused),
                false,
            ),
        ] {
            let handed = Arc::new(Handed::default());
            let case = format!("{first:?} {second:?}");
            let place = handed.queue(&work(first.0, first.1, first.2));
            let _behind = handed.queue(&work(second.0, second.1, second.2));
            assert_eq!(place.is_called_off(), wanted, "{case}");
        }
    }

    #[test]
    fn servers_have_queues_of_their_own() {
        let handed = Arc::new(Handed::default());
        let place = handed.queue(&work(1, Direction::Do, detach()));
        let other = Work {
            server: ServerId::from(Uuid::from_u128(2)),
            ..work(2, Direction::Do, Verb::EnsureAbsent)
        };
        let _other = handed.queue(&other);
        assert!(!place.is_called_off());
    }
}
