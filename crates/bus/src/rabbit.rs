//! Bells that ring in every process of the cloud, over RabbitMQ.
//!
//! Each process has a queue of its own that goes with its connection, on one fanout exchange. Messages are not kept, not
//! confirmed and not repeated: whoever misses one looks into the database a little later anyway. While the broker is
//! away nothing waits for it.

use crate::{Bell, Bus};
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

/// The exchange of all processes of a cloud.
const EXCHANGE: &str = "kilonova.bells";
/// Rings that may wait for the broker; more are lost.
pub(crate) const WAITING: usize = 1024;
/// How long the broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before it is tried again; doubles.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Bytes of a message at most.
const LARGEST: usize = 64 * 1024;

/// Where brokers are, in oslo.messaging's form: `rabbit://user:password@host:port,user:password@host:port/vhost`. One of
/// them is used, the next one when that does not answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Brokers(Vec<String>);

/// A transport URL that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTransport {
    /// Another broker or protocol.
    #[error("{0}:// is not supported; there is rabbit://")]
    Scheme(String),
    /// It asks for TLS.
    #[error(
        "TLS to the broker (ssl=1) is not built yet, and without it the password would go in the clear; leave ssl out where \
         the way to the broker is safe, as through a tunnel"
    )]
    Tls,
    /// Not a URL.
    #[error("it is not of the form rabbit://user:password@host:5672/vhost")]
    Form,
}

impl Brokers {
    /// Reads a transport URL.
    ///
    /// # Errors
    /// Another scheme than `rabbit` (or `amqp`), a wish for TLS, or no host.
    pub fn parse(text: &str) -> Result<Self, BadTransport> {
        let (scheme, rest) = text.split_once("://").ok_or(BadTransport::Form)?;
        if !matches!(scheme.split('+').next(), Some("rabbit" | "amqp" | "kombu")) {
            return Err(BadTransport::Scheme(scheme.to_owned()));
        }
        // What else follows is for drivers in Python.
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.split('&').any(asks_for_tls) {
            return Err(BadTransport::Tls);
        }
        let (hosts, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        // The AMQP URI specification writes the virtual host "/" as %2f; oslo.messaging as nothing.
        let vhost = if vhost.is_empty() { "%2f" } else { vhost };
        let urls = hosts.split(',').map(str::trim).map(|host| {
            let url = format!("amqp://{host}/{vhost}");
            let parsed = Url::parse(&url).map_err(|_| BadTransport::Form)?;
            match parsed.host_str() {
                Some(host) if !host.is_empty() => Ok(url),
                _ => Err(BadTransport::Form),
            }
        });
        Ok(Self(urls.collect::<Result<_, _>>()?))
    }

    /// One of them, whatever the number.
    pub(crate) fn one(&self, number: usize) -> &str {
        let index = number % self.0.len().max(1);
        self.0.get(index).map_or("", String::as_str)
    }
}

fn asks_for_tls(pair: &str) -> bool {
    let value = pair.strip_prefix("ssl=").unwrap_or_default();
    ["1", "true", "yes", "on", "t", "y"].contains(&value.to_lowercase().as_str())
}

impl std::fmt::Debug for Brokers {
    /// Without passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|url| place(url)))
            .finish()
    }
}

/// The host and port of a URL, for logs.
pub(crate) fn place(url: &str) -> String {
    let parsed = Url::parse(url).ok();
    let host = parsed.as_ref().and_then(Url::host_str).unwrap_or_default();
    let port = parsed.as_ref().and_then(Url::port).unwrap_or(5672);
    format!("{host}:{port}")
}

#[derive(Serialize, Deserialize)]
struct Message {
    from: Uuid,
    bell: Bell,
}

/// What a bus hands to its connection.
pub(crate) type Outgoing = mpsc::Sender<Bell>;

/// A bus whose bells also ring in the other processes at these brokers, until `stop`.
pub(crate) fn join(brokers: Brokers, stop: CancellationToken) -> Bus {
    let (outgoing, waiting) = mpsc::channel(WAITING);
    let bus = Bus {
        outgoing: Some(outgoing),
        ..Bus::new()
    };
    // The connection must not keep the bus, and the channel to itself, alive.
    let link = Link {
        bus: Bus {
            outgoing: None,
            ..bus.clone()
        },
        me: Uuid::new_v4(),
        waiting,
    };
    tokio::spawn(async move { stop.run_until_cancelled(link.keep(brokers)).await });
    bus
}

struct Link {
    bus: Bus,
    me: Uuid,
    waiting: mpsc::Receiver<Bell>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("the broker does not answer")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("the broker ended the connection")]
    Ended,
    #[error("a message cannot be written: {0}")]
    Message(#[from] serde_json::Error),
}

impl Link {
    async fn keep(mut self, brokers: Brokers) {
        let mut pause = PAUSE.0;
        for url in brokers.0.iter().cycle() {
            let at = place(url);
            let lost = match self.connect(url).await {
                Ok((connection, channel, consumer)) => {
                    tracing::info!(broker = at, "bells ring over the broker");
                    pause = PAUSE.0;
                    // What rang elsewhere meanwhile was not heard here.
                    self.bus.ring_all_here();
                    let lost = self.talk(&channel, consumer).await;
                    drop(connection);
                    lost
                }
                Err(error) => error,
            };
            if matches!(lost, Lost::Ended) && self.waiting.is_closed() {
                return;
            }
            tracing::warn!(broker = at, error = %lost, "the broker is away; work goes on without it");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn connect(&self, url: &str) -> Result<(Connection, Channel, Consumer), Lost> {
        let properties = ConnectionProperties::default().with_connection_name("kilonova".into());
        let connecting = async {
            let connection = Connection::connect(url, properties).await?;
            let channel = connection.create_channel().await?;
            let consumer = listen(&channel).await?;
            Ok::<_, Lost>((connection, channel, consumer))
        };
        tokio::time::timeout(PATIENCE, connecting).await?
    }

    async fn talk(&mut self, channel: &Channel, mut consumer: Consumer) -> Lost {
        loop {
            let told = tokio::select! {
                heard = consumer.next() => match heard {
                    Some(Ok(delivery)) => {
                        self.hear(&delivery.data);
                        Ok(())
                    }
                    Some(Err(error)) => Err(error.into()),
                    None => Err(Lost::Ended),
                },
                bell = self.waiting.recv() => match bell {
                    Some(bell) => self.tell(channel, bell).await,
                    None => Err(Lost::Ended),
                },
            };
            if let Err(lost) = told {
                return lost;
            }
        }
    }

    fn hear(&self, data: &[u8]) {
        if data.len() > LARGEST {
            return;
        }
        // A bell that only a newer release knows is none of ours.
        let Ok(message) = serde_json::from_slice::<Message>(data) else {
            return;
        };
        if message.from != self.me {
            self.bus.ring_here(&message.bell);
        }
    }

    /// Tells a bell and what else waits, each once.
    async fn tell(&mut self, channel: &Channel, first: Bell) -> Result<(), Lost> {
        let mut bells = HashSet::from([first]);
        while bells.len() < WAITING
            && let Ok(bell) = self.waiting.try_recv()
        {
            bells.insert(bell);
        }
        for bell in bells {
            let from = self.me;
            let data = serde_json::to_vec(&Message { from, bell })?;
            let sending = channel.basic_publish(
                EXCHANGE.into(),
                "".into(),
                BasicPublishOptions::default(),
                &data,
                BasicProperties::default(),
            );
            // Not confirmed: the answer only says that it was written.
            tokio::time::timeout(PATIENCE, sending).await??;
        }
        Ok(())
    }
}

/// Makes the exchange and a queue of this connection's own, and listens.
async fn listen(channel: &Channel) -> Result<Consumer, lapin::Error> {
    channel
        .exchange_declare(
            EXCHANGE.into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let own = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), own, FieldTable::default())
        .await?;
    channel
        .queue_bind(
            queue.name().clone(),
            EXCHANGE.into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let no_answers = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    channel
        .basic_consume(
            queue.name().clone(),
            "".into(),
            no_answers,
            FieldTable::default(),
        )
        .await
}

#[cfg(test)]
#[path = "rabbit_tests.rs"]
mod tests;
