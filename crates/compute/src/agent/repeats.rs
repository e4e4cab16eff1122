//! Work that is handed over again, as after a poll whose answer was lost: it is not done twice, and not done once more after it
//! has failed, when nobody may want it any longer.

use super::lock;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use types::Timestamp;
use types::agent::{Work, WorkKey, WorkOutcome, WorkReport};

/// Outcomes that are kept after a conductor has taken them: copies of their work may be on their way still.
const KEPT: usize = 1024;

/// What was handed over since this process began. After its death what it was at is done again.
#[derive(Default)]
pub(super) struct Repeats(Mutex<Known>);

#[derive(Default)]
struct Known {
    pieces: HashMap<WorkKey, Piece>,
    /// Those whose outcomes were taken, the oldest first.
    taken: VecDeque<WorkKey>,
}

struct Piece {
    epoch: u64,
    /// What is stored anew under the same key and epoch is other work.
    stored: Timestamp,
    /// How often it is to be done still: such other work waits for its turn behind what it was before.
    turns: u32,
    outcome: Option<WorkOutcome>,
    taken: bool,
}

/// What work is to those that were handed over before.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Another one: it is to be done.
    New,
    /// A copy of what is queued or under way, of which will be heard.
    UnderWay,
    /// A copy of what has ended so.
    Ended(WorkOutcome),
}

impl Repeats {
    /// Takes work in; an older conductor does not say when it was stored.
    pub(super) fn admit(&self, work: &Work, stored: Option<Timestamp>) -> Admitted {
        let Some(stored) = stored else {
            return Admitted::New;
        };
        let mut known = lock(&self.0);
        let mut turns = 1;
        match known.pieces.get(&work.key) {
            // It is too late, as the ledger says when its turn has come.
            Some(before) if before.epoch > work.epoch => return Admitted::New,
            Some(before) if before.epoch == work.epoch && before.stored == stored => {
                let outcome = before.outcome.clone();
                return outcome.map_or(Admitted::UnderWay, Admitted::Ended);
            }
            Some(before) if before.epoch == work.epoch => turns += before.turns,
            _ => {}
        }
        let piece = Piece {
            epoch: work.epoch,
            stored,
            turns,
            outcome: None,
            taken: false,
        };
        known.pieces.insert(work.key.clone(), piece);
        Admitted::New
    }

    /// Notes how work has ended, before that is reported.
    pub(super) fn ended(&self, report: &WorkReport) {
        let mut known = lock(&self.0);
        let piece = known.pieces.get_mut(&report.key);
        let Some(piece) = piece.filter(|piece| piece.epoch == report.epoch) else {
            return;
        };
        piece.turns = piece.turns.saturating_sub(1);
        if piece.turns == 0 {
            piece.outcome = Some(report.outcome.clone());
        }
    }

    /// A conductor has taken the report: it may be forgotten when there are many of them.
    pub(super) fn taken(&self, report: &WorkReport) {
        let mut known = lock(&self.0);
        let Some(piece) = known.pieces.get_mut(&report.key) else {
            return;
        };
        if piece.epoch != report.epoch || piece.outcome.is_none() || piece.taken {
            return;
        }
        piece.taken = true;
        known.taken.push_back(report.key.clone());
        if known.taken.len() <= KEPT {
            return;
        }
        let Some(oldest) = known.taken.pop_front() else {
            return;
        };
        // It may be under way again.
        if known.pieces.get(&oldest).is_some_and(|piece| piece.taken) {
            known.pieces.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::agent::scripted::{self, Scripted};
    use crate::peers::Neighbourhood;
    use std::sync::Arc;
    use types::agent::{FailureKind, Verb};
    use types::{PowerState, ServerId};
    use virt::{GuestSpec, Hypervisor, Power};

    fn work(server: ServerId, epoch: u64) -> Work {
        scripted::work(server, epoch, Verb::EnsureRunning)
    }

    fn report(work: &Work, outcome: WorkOutcome) -> WorkReport {
        WorkReport {
            key: work.key.clone(),
            epoch: work.epoch,
            outcome,
        }
    }

    fn failed() -> WorkOutcome {
        WorkOutcome::failed(FailureKind::Host, "no")
    }

    fn done() -> WorkOutcome {
        WorkOutcome::done(PowerState::Running)
    }

    #[test]
    fn a_copy_is_told_from_new_work_of_the_same_key() {
        let repeats = Repeats::default();
        let (first, later) = (Some(Timestamp(1)), Some(Timestamp(2)));
        let work = work(ServerId::random(), 7);
        assert_eq!(repeats.admit(&work, first), Admitted::New);
        assert_eq!(repeats.admit(&work, first), Admitted::UnderWay);
        repeats.ended(&report(&work, failed()));
        repeats.taken(&report(&work, failed()));
        assert_eq!(repeats.admit(&work, first), Admitted::Ended(failed()));
        // Its conductor wants it done again.
        assert_eq!(repeats.admit(&work, later), Admitted::New);
        assert_eq!(repeats.admit(&work, later), Admitted::UnderWay);
        // Nobody says of an old conductor's work what it is.
        assert_eq!(repeats.admit(&work, None), Admitted::New);
    }

    #[test]
    fn what_was_stored_anew_has_not_ended_with_what_it_was_before() {
        let repeats = Repeats::default();
        let (first, later) = (Some(Timestamp(1)), Some(Timestamp(2)));
        let work = work(ServerId::random(), 7);
        assert_eq!(repeats.admit(&work, first), Admitted::New);
        assert_eq!(repeats.admit(&work, later), Admitted::New);
        repeats.ended(&report(&work, failed()));
        assert_eq!(repeats.admit(&work, later), Admitted::UnderWay);
        repeats.ended(&report(&work, done()));
        assert_eq!(repeats.admit(&work, later), Admitted::Ended(done()));
    }

    #[test]
    fn whoever_has_taken_the_task_over_is_not_answered_for_the_one_before() {
        let repeats = Repeats::default();
        let stored = Some(Timestamp(1));
        let before = work(ServerId::random(), 7);
        let now = Work {
            epoch: 8,
            ..before.clone()
        };
        assert_eq!(repeats.admit(&before, stored), Admitted::New);
        assert_eq!(repeats.admit(&now, stored), Admitted::New);
        repeats.ended(&report(&before, failed()));
        assert_eq!(repeats.admit(&now, stored), Admitted::UnderWay);
        // What comes late is nothing new of this.
        assert_eq!(repeats.admit(&before, stored), Admitted::New);
        repeats.ended(&report(&now, done()));
        assert_eq!(repeats.admit(&now, stored), Admitted::Ended(done()));
    }

    #[test]
    fn what_was_taken_is_forgotten_some_time_and_nothing_else() {
        let repeats = Repeats::default();
        let stored = Some(Timestamp(1));
        let waits = work(ServerId::random(), 1);
        repeats.admit(&waits, stored);
        for _ in 0..2 * KEPT {
            let work = work(ServerId::random(), 1);
            repeats.admit(&work, stored);
            repeats.ended(&report(&work, done()));
            repeats.taken(&report(&work, done()));
        }
        let known = lock(&repeats.0);
        assert_eq!((known.pieces.len(), known.taken.len()), (KEPT + 1, KEPT));
        assert!(known.pieces.contains_key(&waits.key));
    }

    /// The first copy has failed, and what it was about has changed since: what is handed over again would not fail.
    #[tokio::test]
    async fn what_has_failed_is_not_done_after_all() {
        let mut host = Scripted::start(Arc::new(Neighbourhood::default()));
        let server = ServerId::random();
        let work = work(server, 1);
        host.hand(&work, 1);
        let first = host.reported().await.outcome;
        assert!(matches!(first, WorkOutcome::Failed { .. }), "{first:?}");

        let spec = GuestSpec::from_plan(server, &scripted::plan(), None).unwrap();
        host.sim.ensure_guest(&spec, Power::Off).await.unwrap();
        host.hand(&work, 1);
        assert_eq!(host.reported().await.outcome, first);
        let guest = host.sim.guest(server).await.unwrap().unwrap();
        assert!(!guest.active, "{guest:?}");

        // Its conductor wants it done again.
        host.hand(&work, 2);
        assert_eq!(host.reported().await.outcome, done());
    }
}
