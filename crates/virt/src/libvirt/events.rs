//! Follows domains as they change, on a connection of its own. When the connection was lost, the states seen before
//! are compared with those found afterwards, and what changed meanwhile is announced late rather than never.
//!
//! libvirtd sends no event for a guest whose end it finds out when it starts, and answers before it has looked at all of
//! them. So the comparison is repeated: soon after a connection was made, and now and then for ever. What is found in this
//! way is announced when it is found twice: a guest that starts is paused for a moment, say.

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
/// The first pause between comparisons; each is twice as long as the one before.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// The longest pause between comparisons.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

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
        doubted: HashMap::new(),
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
    /// What the last comparison has found, and no event has told.
    doubted: HashMap<ServerId, PowerState>,
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
        let mut pause = FIRST_LOOK;
        loop {
            let looks = tokio::time::sleep(pause);
            tokio::pin!(looks);
            loop {
                tokio::select! {
                    () = &mut looks => break,
                    message = messages.recv() => match message {
                        Some(message) => self.pass_on(&message),
                        None => return Ok(()),
                    },
                }
            }
            pause = (pause * 2).min(LONGEST_LOOK);
            if let Err(error) = self.compare_again().await {
                // Events may come all the same; whether they do, their own connection says.
                tracing::debug!(%error, "the states of guests cannot be compared");
            }
        }
    }

    async fn states(&self) -> Result<HashMap<ServerId, PowerState>, RpcError> {
        let domains = self.link.stats(&[], stats::STATE).await?;
        let states = domains
            .iter()
            .map(|domain| (domain.domain.id, domain.state().power()));
        Ok(states.collect())
    }

    async fn compare(&mut self) -> Result<(), RpcError> {
        let now = self.states().await?;
        self.doubted.clear();
        if let Some(before) = self.seen.replace(now.clone()) {
            for (id, kind) in changes(&before, &now) {
                self.events.send(GuestEvent { id, kind }).ok();
            }
        }
        Ok(())
    }

    async fn compare_again(&mut self) -> Result<(), RpcError> {
        let now = self.states().await?;
        let seen = self.seen.get_or_insert_default();
        let before = std::mem::take(&mut self.doubted);
        for (id, kind) in changes(seen, &now) {
            let state = now.get(&id).copied().unwrap_or(PowerState::Shutdown);
            if before.get(&id) == Some(&state) {
                seen.insert(id, state);
                self.events.send(GuestEvent { id, kind }).ok();
            } else {
                self.doubted.insert(id, state);
            }
        }
        seen.retain(|id, state| now.contains_key(id) || !is_off(*state));
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
        self.doubted.remove(&event.domain.id);
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::xdr::Encoder;
    use super::*;
    use GuestEventKind as Kind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

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

    /// A daemon with one domain, whose state it tells for each time it is asked; the last one holds. It sends no events.
    async fn daemon(id: ServerId, states: &'static [i32]) -> (tempfile::TempDir, PathBuf) {
        const STATS: u32 = 344;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let asked = Arc::clone(&asked);
                tokio::spawn(async move {
                    while let Ok(length) = socket.read_u32().await {
                        let mut call = vec![0; length as usize - 4];
                        socket.read_exact(&mut call).await.unwrap();
                        let word = |n: usize| {
                            u32::from_be_bytes(call[4 * n..4 * n + 4].try_into().unwrap())
                        };
                        let head = Encoder::default().u32(word(0)).u32(word(1)).u32(word(2));
                        let reply = head.u32(1).u32(word(4)).u32(0);
                        let reply = if word(2) == STATS {
                            let time = asked.fetch_add(1, Ordering::Relaxed);
                            let state = states.get(time).or(states.last()).unwrap();
                            let domain = reply.u32(1).string("one").fixed(id.0.as_bytes()).i32(-1);
                            domain.u32(1).string("state.state").u32(1).i32(*state)
                        } else {
                            reply.u32(0)
                        };
                        let reply = reply.finish();
                        socket.write_u32(reply.len() as u32 + 4).await.unwrap();
                        socket.write_all(&reply).await.unwrap();
                    }
                });
            }
        });
        (folder, path)
    }

    #[tokio::test]
    async fn what_the_daemon_does_not_tell_is_found() {
        let id = ServerId::random();
        // As after its start: it has not looked yet whether the guest's process is still there.
        // What shows for a moment only is not told.
        let (_folder, path) = daemon(id, &[1, 1, 3, 1, 5]).await;
        let (events, mut told) = broadcast::channel(4);
        let watching = watch(vec![path], "qemu:///system".into(), events);
        let event = tokio::time::timeout(Duration::from_secs(60), told.recv()).await;
        watching.abort();
        let event = event.unwrap().unwrap();
        assert_eq!((event.id, event.kind), (id, Kind::Stopped));
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
