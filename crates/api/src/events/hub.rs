//! One reader of the outbox for all who follow it in this process: it runs while somebody does, looks when a bell rings
//! or a moment has passed, and hands each row to those whom it concerns. Nobody holds a thread or a connection while
//! waiting.

use bus::{Bell, Bus};
use db::outbox::{Entry, Tail};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use types::ServerId;

/// How often is looked when no bell rings.
const LOOK: Duration = Duration::from_millis(500);
/// Time in which bells gather.
const GATHER: Duration = Duration::from_millis(10);
/// How long the reader stays when nobody follows any more.
const LINGER: Duration = Duration::from_secs(10);
/// How long a new follower waits for the reader's begin.
const BEGIN: Duration = Duration::from_secs(10);
/// Rows read at once.
const BATCH: u64 = 1000;
/// Events that wait for one stream at most; whoever is slower is cut off.
const WAITING: usize = 256;
/// Streams at once, in all and of one project.
const STREAMS: (usize, usize) = (512, 64);
/// Requests that wait for a state at once, in all and of one project.
const WAITERS: (usize, usize) = (2048, 256);

/// Why nothing can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The project follows too much already.
    Project,
    /// Too much is followed in this process already.
    All,
    /// The database does not answer.
    Database,
}

/// An event on its way to a stream.
#[derive(Clone, Debug)]
pub struct Told {
    /// The row.
    pub entry: Arc<Entry>,
    /// Where a stream that breaks off after this event is to go on: nothing from before is still to come.
    pub cursor: i64,
}

struct Stream {
    /// None: of all projects.
    project: Option<String>,
    sender: mpsc::Sender<Told>,
}

struct Waiters {
    rung: watch::Sender<u64>,
    count: usize,
}

#[derive(Default)]
struct State {
    streams: HashMap<u64, Stream>,
    waiters: HashMap<String, Waiters>,
    /// Streams and waiters of each project of a caller.
    counts: HashMap<String, (usize, usize)>,
    waiting: usize,
    next: u64,
    runs: bool,
}

/// The followers of this process.
pub struct Hub {
    store: sql::Store,
    bus: Bus,
    state: Mutex<State>,
    /// The numbers up to which everything was told, once the reader has begun.
    begun: watch::Sender<Option<i64>>,
}

/// A stream's place in the hub, given back when it goes.
pub struct Following {
    hub: Arc<Hub>,
    number: u64,
    of: String,
    /// What is told from now on; ends when the stream is too slow.
    pub events: mpsc::Receiver<Told>,
    /// Everything up to this number was committed before.
    pub since: i64,
}

/// A waiter's place in the hub, given back when it goes.
pub struct Waiting {
    hub: Arc<Hub>,
    server: String,
    of: String,
    rung: watch::Receiver<u64>,
}

impl Hub {
    /// A hub over compute's database.
    pub fn new(store: sql::Store, bus: Bus) -> Arc<Self> {
        Arc::new(Self {
            store,
            bus,
            state: Mutex::default(),
            begun: watch::channel(None).0,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the maps is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams and waiters there are, for the metrics.
    pub fn followers(&self) -> (usize, usize) {
        let state = self.state();
        (state.streams.len(), state.waiting)
    }

    /// Follows the servers of a project, or all, on behalf of a caller of project `of`.
    pub async fn follow(
        self: &Arc<Self>,
        of: &str,
        project: Option<String>,
    ) -> Result<Following, Refusal> {
        let (sender, events) = mpsc::channel(WAITING);
        let number = {
            let mut state = self.state();
            if state.streams.len() >= STREAMS.0 {
                return Err(Refusal::All);
            }
            let count = state.counts.entry(of.to_owned()).or_default();
            if count.0 >= STREAMS.1 {
                return Err(Refusal::Project);
            }
            count.0 += 1;
            state.next += 1;
            let number = state.next;
            state.streams.insert(number, Stream { project, sender });
            self.run(&mut state);
            number
        };
        let mut following = Following {
            hub: Arc::clone(self),
            number,
            of: of.to_owned(),
            events,
            since: 0,
        };
        following.since = self.begun().await?;
        Ok(following)
    }

    /// Hears of a server's changes from now on, on behalf of a caller of project `of`.
    pub async fn watch(self: &Arc<Self>, of: &str, server: ServerId) -> Result<Waiting, Refusal> {
        let server = server.to_string();
        let rung = {
            let mut state = self.state();
            if state.waiting >= WAITERS.0 {
                return Err(Refusal::All);
            }
            let count = state.counts.entry(of.to_owned()).or_default();
            if count.1 >= WAITERS.1 {
                return Err(Refusal::Project);
            }
            count.1 += 1;
            state.waiting += 1;
            let waiters = state
                .waiters
                .entry(server.clone())
                .or_insert_with(|| Waiters {
                    rung: watch::channel(0).0,
                    count: 0,
                });
            waiters.count += 1;
            let rung = waiters.rung.subscribe();
            self.run(&mut state);
            rung
        };
        let waiting = Waiting {
            hub: Arc::clone(self),
            server,
            of: of.to_owned(),
            rung,
        };
        self.begun().await?;
        Ok(waiting)
    }

    fn run(self: &Arc<Self>, state: &mut State) {
        if !state.runs {
            state.runs = true;
            tokio::spawn(Arc::clone(self).read());
        }
    }

    /// Waits until the reader has begun: what is committed from then on is told.
    async fn begun(&self) -> Result<i64, Refusal> {
        let mut begun = self.begun.subscribe();
        let waited = tokio::time::timeout(BEGIN, begun.wait_for(Option::is_some)).await;
        match waited {
            Ok(Ok(number)) => number.ok_or(Refusal::Database),
            Ok(Err(_)) | Err(_) => Err(Refusal::Database),
        }
    }

    /// The reader.
    async fn read(self: Arc<Self>) {
        let mut bells = (self.bus.listen(Bell::Servers), self.bus.listen(Bell::Tasks));
        let mut tail: Option<Tail> = None;
        let mut followed = Instant::now();
        loop {
            let more = match self.look(&mut tail).await {
                Ok(more) => more,
                Err(error) => {
                    tracing::warn!(%error, "events of servers cannot be read now");
                    false
                }
            };
            if self.rest(&mut followed) {
                return;
            }
            if more {
                continue;
            }
            tokio::select! {
                () = bells.0.rung() => tokio::time::sleep(GATHER).await,
                () = bells.1.rung() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Whether nobody has followed for a while, so that the reader goes.
    fn rest(&self, followed: &mut Instant) -> bool {
        let mut state = self.state();
        if !state.streams.is_empty() || state.waiting > 0 {
            *followed = Instant::now();
            return false;
        }
        if followed.elapsed() < LINGER {
            return false;
        }
        state.runs = false;
        self.begun.send_replace(None);
        true
    }

    /// Reads what is new and tells it; whether there is more.
    async fn look(&self, tail: &mut Option<Tail>) -> Result<bool, sql::Error> {
        let current = match tail.take() {
            Some(tail) => tail,
            None => self.store.read(Tail::at_end).await?,
        };
        let mut reading = tail.insert(current).clone();
        let (mut next, batch) = self
            .store
            .read(move |tx| -> Result<_, sql::Error> {
                let batch = reading.read(tx, BATCH)?;
                Ok((std::mem::replace(&mut reading, Tail::after(0)), batch))
            })
            .await?;
        let more = batch.more;
        let told = next.take(batch, Instant::now());
        let cursor = next.low_water();
        *tail = Some(next);
        self.tell(told, cursor);
        self.begun.send_replace(Some(cursor));
        Ok(more)
    }

    fn tell(&self, entries: Vec<Entry>, cursor: i64) {
        if entries.is_empty() {
            return;
        }
        let mut state = self.state();
        for entry in entries {
            if !entry.kind.is_of_server() {
                continue;
            }
            if let Some(waiters) = state.waiters.get(&entry.subject) {
                waiters
                    .rung
                    .send_modify(|count| *count = count.wrapping_add(1));
            }
            let told = Told {
                // An event before the last one of the batch is not the place to go on from if the batch breaks off.
                cursor: cursor.min(entry.id),
                entry: Arc::new(entry),
            };
            state.streams.retain(|_, stream| {
                let concerns = stream
                    .project
                    .as_ref()
                    .is_none_or(|project| *project == told.entry.project_id);
                // A full queue: the client is too slow. Its stream ends, and it may go on from its cursor.
                !concerns || stream.sender.try_send(told.clone()).is_ok()
            });
        }
    }

    fn give_back(&self, of: &str, stream: usize, waiter: usize) {
        let mut state = self.state();
        if let Some(count) = state.counts.get_mut(of) {
            count.0 = count.0.saturating_sub(stream);
            count.1 = count.1.saturating_sub(waiter);
            if *count == (0, 0) {
                state.counts.remove(of);
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.hub.state().streams.remove(&self.number);
        self.hub.give_back(&self.of, 1, 0);
    }
}

impl Waiting {
    /// Waits until the server has changed since the last time.
    pub async fn changed(&mut self) {
        if self.rung.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        {
            let mut state = self.hub.state();
            state.waiting = state.waiting.saturating_sub(1);
            if let Some(waiters) = state.waiters.get_mut(&self.server) {
                waiters.count -= 1;
                if waiters.count == 0 {
                    state.waiters.remove(&self.server);
                }
            }
        }
        self.hub.give_back(&self.of, 0, 1);
    }
}
