//! Nova's notifications, published from the outbox: what was committed is published at least once, however long the
//! broker is away, as long as the outbox keeps it. One process publishes at a time; any other takes over when it dies.

mod messages;
mod names;
mod payloads;

pub use messages::{Changes, Style};

use bus::notifier::{Notice, Notifier, Publishing};
use bus::{Bell, Bus};
use db::outbox::{Entry, Tail};
use messages::Teller;
use payloads::Server;
use sql::{Store, Tx};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use types::{ServerId, Timestamp};

/// The reader's name in the database.
const READER: &str = "notifications";
/// For how long a process may publish until it says so again.
const LEASE: Duration = Duration::from_secs(30);
/// How often is looked when no bell rings.
const LOOK: Duration = Duration::from_secs(1);
/// Pauses while the broker is away.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Rows published at once.
const BATCH: u64 = 100;

/// How notifications are told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where, and in which way.
    pub publishing: Publishing,
    /// What they look like.
    pub style: Style,
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Database(#[from] sql::Error),
    #[error("the broker: {0}")]
    Broker(#[from] bus::notifier::NotSent),
}

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// All is published.
    Done,
    /// There is more.
    More,
    /// Another process publishes.
    Elsewhere,
}

/// Publishes what happens until `stop`. `owner` is this process among all.
pub async fn publish(
    store: Store,
    bus: Bus,
    config: Config,
    owner: String,
    stop: CancellationToken,
) {
    let mut publisher = Publisher {
        store,
        owner,
        notifier: Notifier::new(config.publishing),
        teller: Teller::new(config.style),
        tail: None,
    };
    let mut bells = (bus.listen(Bell::Servers), bus.listen(Bell::Tasks));
    let mut pause = PAUSE.0;
    while !stop.is_cancelled() {
        let wait = match publisher.round().await {
            Ok(Round::More) => {
                pause = PAUSE.0;
                continue;
            }
            Ok(Round::Done) => {
                pause = PAUSE.0;
                LOOK
            }
            Ok(Round::Elsewhere) => LEASE / 3,
            Err(error) => {
                tracing::warn!(%error, "notifications wait in the database");
                // Whether it has taken some is not known: begin again where all was confirmed.
                publisher.tail = None;
                let now = pause;
                pause = (pause * 2).min(PAUSE.1);
                if stop
                    .run_until_cancelled(tokio::time::sleep(now))
                    .await
                    .is_none()
                {
                    return;
                }
                continue;
            }
        };
        tokio::select! {
            () = bells.0.rung() => tokio::time::sleep(Duration::from_millis(50)).await,
            () = bells.1.rung() => tokio::time::sleep(Duration::from_millis(50)).await,
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Publisher {
    store: Store,
    owner: String,
    notifier: Notifier,
    teller: Teller,
    tail: Option<Tail>,
}

impl Publisher {
    async fn round(&mut self) -> Result<Round, Trouble> {
        let Some(position) = self.lease().await? else {
            self.tail = None;
            return Ok(Round::Elsewhere);
        };
        let tail = self
            .tail
            .take()
            .filter(|tail| tail.low_water() == position)
            .unwrap_or_else(|| Tail::after(position));
        let reading = tail.clone();
        let batch = self.store.read(move |tx| reading.read(tx, BATCH)).await?;
        let mut next = tail;
        let more = batch.more;
        let told = next.take(batch, Instant::now());
        if !told.is_empty() {
            let notices = self.notices(told).await?;
            if !notices.is_empty() {
                self.notifier.publish(&notices).await?;
            }
        }
        let reached = next.low_water();
        if reached != position && !self.advance(reached).await? {
            return Ok(Round::Elsewhere);
        }
        self.tail = Some(next);
        Ok(if more { Round::More } else { Round::Done })
    }

    async fn lease(&self) -> Result<Option<i64>, sql::Error> {
        let owner = self.owner.clone();
        let leasing = self.store.write(move |tx| {
            let now = Timestamp::now();
            db::outbox::lease(tx, READER, &owner, now.plus(LEASE), now)
        });
        match leasing.await {
            // Two processes at once on a fresh cloud.
            Err(error) if error.is_unique_violation() => Ok(None),
            other => other,
        }
    }

    async fn advance(&self, position: i64) -> Result<bool, sql::Error> {
        let owner = self.owner.clone();
        let advancing = self
            .store
            .write(move |tx| db::outbox::advance(tx, READER, &owner, position));
        advancing.await
    }

    async fn notices(&mut self, told: Vec<Entry>) -> Result<Vec<Notice>, sql::Error> {
        let ids: BTreeSet<ServerId> = told
            .iter()
            .filter(|entry| entry.kind.is_of_server())
            .filter_map(|entry| entry.subject.parse().ok())
            .collect();
        let ids: Vec<ServerId> = ids.into_iter().collect();
        let requests: BTreeSet<String> = told
            .iter()
            .filter_map(|entry| entry.request_id.clone())
            .collect();
        let requests: Vec<String> = requests.into_iter().collect();
        let services = told.iter().any(|entry| !entry.kind.is_of_server());
        let reading = self.store.read(move |tx| -> Result<_, sql::Error> {
            let services = match services {
                true => db::hosts::services(tx)?,
                false => Vec::new(),
            };
            Ok((servers(tx, &ids, &requests)?, services))
        });
        let (servers, services) = reading.await?;
        let notices = told
            .iter()
            .flat_map(|entry| match entry.kind.is_of_server() {
                true => servers
                    .get(&entry.subject)
                    .map(|server| self.teller.of_server(server, entry))
                    .unwrap_or_default(),
                false => self.teller.of_service(&services, entry),
            });
        Ok(notices.collect())
    }
}

/// These servers with what belongs to them and who asked for what, by id: a fixed number of queries.
fn servers(
    tx: &mut Tx<'_>,
    ids: &[ServerId],
    requests: &[String],
) -> Result<HashMap<String, Server>, sql::Error> {
    let mut found = HashMap::new();
    for (instance, key) in db::outbox::servers(tx, ids)? {
        let server = Server {
            instance,
            devices: Vec::new(),
            tags: Vec::new(),
            key,
            askers: HashMap::new(),
        };
        found.insert(server.instance.id.to_string(), server);
    }
    for device in db::block_devices::of_servers(tx, ids)? {
        if let Some(server) = found.get_mut(&device.server.to_string()) {
            server.devices.push(device);
        }
    }
    for asker in db::actions::askers(tx, ids, requests)? {
        if let Some(server) = found.get_mut(&asker.server.to_string()) {
            server.askers.insert(asker.request_id, asker.project_id);
        }
    }
    for (server, tag) in db::list::tags(tx, ids)? {
        if let Some(server) = found.get_mut(&server.to_string()) {
            server.tags.push(tag);
        }
    }
    Ok(found)
}
