//! Which services live, by this process's own clock: a wall clock that jumps must not take all hosts down, nor keep one
//! up that is gone.

use db::hosts::Service;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use types::{ServiceId, Timestamp};

/// What was seen of the beats of services.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    seen: HashMap<ServiceId, Pulse>,
    looked: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Pulse {
    beats: i64,
    /// When the last of them was, as far as it can be told. None: too long ago to be told.
    at: Option<Instant>,
}

impl Pulses {
    /// Looks at all services; those that beat within `most` are marked as seen now, the others as never seen.
    pub(crate) fn mark(
        &mut self,
        services: &mut [Service],
        (wall, now): (Timestamp, Instant),
        most: Duration,
    ) {
        // A new beat came after the last look, whatever the wall clock says of it.
        let unseen = self.looked.replace(now).map(|looked| now - looked);
        let mut seen = HashMap::with_capacity(services.len());
        for service in services {
            let known = self.seen.get(&service.uuid);
            let pulse = match known.filter(|known| known.beats == service.beats) {
                Some(known) => *known,
                None => {
                    let said = age(service, wall);
                    let most_age = known.and(unseen);
                    let age = match (said, most_age) {
                        (Some(said), Some(most)) => Some(said.min(most)),
                        (said, most) => said.or(most),
                    };
                    Pulse {
                        beats: service.beats,
                        at: age.and_then(|age| now.checked_sub(age)),
                    }
                }
            };
            let lives = pulse.at.is_some_and(|at| now - at <= most);
            service.last_seen_up = lives.then_some(wall);
            seen.insert(service.uuid, pulse);
        }
        self.seen = seen;
    }
}

/// How old the last beat is by the wall clock; one of the future is of now.
fn age(service: &Service, wall: Timestamp) -> Option<Duration> {
    let micros = wall.micros().saturating_sub(service.last_seen_up?.micros());
    Some(Duration::from_micros(
        u64::try_from(micros).unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(60);

    fn service(beats: i64, last_seen: i64) -> Service {
        Service {
            id: 1,
            uuid: ServiceId(uuid::Uuid::from_u128(1)),
            host: "h".into(),
            binary: "nova-compute".into(),
            beats,
            last_seen_up: Some(Timestamp(last_seen * 1_000_000)),
            disabled: false,
            disabled_reason: None,
            forced_down: false,
            version: 1,
            problem: None,
            created_at: Timestamp(0),
            updated_at: None,
        }
    }

    /// Looks, each a moment of the process, the wall clock then, and the last beat: its number and its time.
    fn lives(looks: &[(u64, i64, i64, i64)]) -> Vec<bool> {
        let start = Instant::now();
        let mut pulses = Pulses::default();
        let look = |&(at, wall, beats, seen): &(u64, i64, i64, i64)| {
            let mut services = [service(beats, seen)];
            let now = (
                Timestamp(wall * 1_000_000),
                start + Duration::from_secs(1000 + at),
            );
            pulses.mark(&mut services, now, MOST);
            services[0].last_seen_up.is_some()
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_clock_that_jumps_changes_nothing() {
        let hour = 3600;
        let (begin, day) = (1_000_000, 24 * hour);
        // At first only the wall clock tells.
        assert_eq!(lives(&[(0, begin, 7, begin - 5)]), [true]);
        assert_eq!(lives(&[(0, begin, 7, begin - 61)]), [false]);
        // Forward: one that beats stays up, one that does not goes down after its time, and no sooner.
        let forward = [
            (0, begin, 7, begin),
            (5, begin + 5 + hour, 7, begin),
            (10, begin + 10 + hour, 8, begin + 6),
            (64, begin + 64 + hour, 8, begin + 6),
            (75, begin + 75 + hour, 8, begin + 6),
        ];
        assert_eq!(lives(&forward), [true, true, true, true, false]);
        // Back: one that is gone goes down in time.
        let back = [
            (0, begin, 7, begin),
            (30, begin - day, 7, begin),
            (61, begin - day + 31, 7, begin),
        ];
        assert_eq!(lives(&back), [true, true, false]);
    }

    #[test]
    fn a_beat_between_two_looks_that_are_far_apart_is_as_old_as_it_says() {
        let begin = 1_000_000;
        let looks = [
            (0, begin, 7, begin),
            (300, begin + 300, 8, begin + 5),
            (310, begin + 310, 9, begin + 309),
        ];
        assert_eq!(lives(&looks), [true, false, true]);
    }
}
