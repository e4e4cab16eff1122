//! Follows domains as they change, on a connection of its own. When the connection was lost, the states seen before
//! are compared with those found afterwards, and what changed meanwhile is announced late rather than never.

use super::calls::{self, DomainState, Lifecycle, Link, stats};
use super::rpc::{Connection, EventMessage, RpcError};
use crate::facts::{GuestEvent, GuestEventKind};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;
use types::{PowerState, ServerId};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Starts following; ends when aborted.
pub fn watch(
    sockets: Vec<PathBuf>,
    uri: String,
    events: broadcast::Sender<GuestEvent>,
) -> AbortHandle {
    let watcher = Watcher {
        link: Link::new(sockets.clone(), uri.clone()),
        sockets,
        uri,
        events,
        seen: None,
    };
    tokio::spawn(watcher.run()).abort_handle()
}

struct Watcher {
    sockets: Vec<PathBuf>,
    uri: String,
    /// For the questions after a reconnect.
    link: Link,
    events: broadcast::Sender<GuestEvent>,
    seen: Option<HashMap<ServerId, PowerState>>,
}

impl Watcher {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            match self.follow().await {
                Ok(()) => {
                    tracing::warn!("the event connection to libvirt ended");
                    (pause, told) = (FIRST_PAUSE, false);
                }
                Err(error) if !told => {
                    tracing::warn!(%error, "libvirt is away, trying again");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connects, registers, compares, then passes events on until the connection ends.
    async fn follow(&mut self) -> Result<(), RpcError> {
        let (sender, mut messages) = mpsc::channel(256);
        let connection = Connection::open(&self.sockets, Some(sender)).await?;
        calls::greet(&connection, &self.uri).await?;
        calls::register_lifecycle(&connection).await?;
        self.compare().await?;
        while let Some(message) = messages.recv().await {
            self.pass_on(&message);
        }
        Ok(())
    }

    async fn compare(&mut self) -> Result<(), RpcError> {
        let domains = self.link.stats(&[], stats::STATE).await?;
        let now: HashMap<_, _> = domains
            .iter()
            .map(|domain| (domain.domain.id, domain.state().power()))
            .collect();
        if let Some(before) = self.seen.replace(now.clone()) {
            for (id, kind) in changes(&before, &now) {
                self.events.send(GuestEvent { id, kind }).ok();
            }
        }
        Ok(())
    }

    fn pass_on(&mut self, (procedure, body): &EventMessage) {
        let Some(event) = Lifecycle::decode(*procedure, body) else {
            return;
        };
        let Some(kind) = kind_of(event.event, event.detail) else {
            return;
        };
        let seen = self.seen.get_or_insert_default();
        seen.insert(event.domain.id, kind.power());
        self.events
            .send(GuestEvent {
                id: event.domain.id,
                kind,
            })
            .ok();
    }
}

/// `virDomainEventType` and its details. Definition changes and "shutting down" (the process still runs) say nothing.
fn kind_of(event: i32, detail: i32) -> Option<GuestEventKind> {
    const STOPPED_CRASHED: i32 = 2;
    const STOPPED_SAVED: i32 = 4;
    const STOPPED_FAILED: i32 = 5;
    match (event, detail) {
        (2, _) => Some(GuestEventKind::Started),
        (3, _) => Some(GuestEventKind::Paused),
        (4, _) => Some(GuestEventKind::Resumed),
        (5, STOPPED_CRASHED | STOPPED_FAILED) => Some(GuestEventKind::Crashed),
        (5, STOPPED_SAVED) | (7, _) => Some(GuestEventKind::Suspended),
        (5, _) => Some(GuestEventKind::Stopped),
        (8, _) => Some(GuestEventKind::Crashed),
        _ => None,
    }
}

fn changes(
    before: &HashMap<ServerId, PowerState>,
    now: &HashMap<ServerId, PowerState>,
) -> Vec<(ServerId, GuestEventKind)> {
    let off = DomainState(5).power();
    let mut changes = Vec::new();
    for (id, old) in before {
        let new = now.get(id).copied().unwrap_or(off);
        if is_off(*old) != is_off(new) || (!is_off(new) && *old != new) {
            changes.push((*id, kind_for(new)));
        }
    }
    for (id, new) in now {
        if !before.contains_key(id) && !is_off(*new) {
            changes.push((*id, kind_for(*new)));
        }
    }
    changes
}

/// Crashed and saved guests are listed as off afterwards, which is no news.
fn is_off(power: PowerState) -> bool {
    matches!(
        power,
        PowerState::Shutdown | PowerState::Crashed | PowerState::Suspended | PowerState::NoState
    )
}

fn kind_for(power: PowerState) -> GuestEventKind {
    match power {
        PowerState::Running => GuestEventKind::Started,
        PowerState::Paused => GuestEventKind::Paused,
        PowerState::Crashed => GuestEventKind::Crashed,
        PowerState::Suspended => GuestEventKind::Suspended,
        PowerState::Shutdown | PowerState::NoState => GuestEventKind::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GuestEventKind as Kind;

    #[test]
    fn kinds() {
        let table = [
            ((0, 0), None),
            ((1, 0), None),
            ((2, 0), Some(Kind::Started)),
            ((3, 0), Some(Kind::Paused)),
            ((4, 0), Some(Kind::Resumed)),
            ((5, 0), Some(Kind::Stopped)),
            ((5, 1), Some(Kind::Stopped)),
            ((5, 2), Some(Kind::Crashed)),
            ((5, 4), Some(Kind::Suspended)),
            ((6, 0), None),
            ((8, 0), Some(Kind::Crashed)),
        ];
        for ((event, detail), kind) in table {
            assert_eq!(kind_of(event, detail), kind, "{event} {detail}");
        }
    }

    #[test]
    fn what_changed_while_away() {
        use PowerState::{Crashed, Paused, Running, Shutdown};
        let ids: Vec<ServerId> = (0..6).map(|_| ServerId::random()).collect();
        let states = |list: &[(usize, PowerState)]| {
            list.iter().map(|(n, power)| (ids[*n], *power)).collect()
        };
        let before = states(&[
            (0, Running),
            (1, Running),
            (2, Shutdown),
            (3, Running),
            (4, Crashed),
        ]);
        let now = states(&[
            (0, Running),
            (1, Shutdown),
            (2, Running),
            (4, Shutdown),
            (5, Paused),
        ]);
        let mut found = changes(&before, &now);
        found.sort_by_key(|(id, _)| ids.iter().position(|known| known == id));
        let expected = [
            (ids[1], Kind::Stopped),
            (ids[2], Kind::Started),
            (ids[3], Kind::Stopped),
            (ids[5], Kind::Paused),
        ];
        assert_eq!(found, expected);
    }
}
