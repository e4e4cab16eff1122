//! Messages for those who listen to a cloud from outside, published as oslo.messaging's driver `messagingv2` does: a topic
//! exchange, a queue for each topic and priority, an envelope around each message. Unlike bells they are confirmed by
//! the broker; who publishes keeps them until then.

use crate::rabbit::{Brokers, place};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

/// How long the broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that wait for their confirmation at once.
const UNCONFIRMED: usize = 64;
/// Written to the broker's disk where the queue is (AMQP 0-9-1, "delivery-mode").
const PERSISTENT: u8 = 2;

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The topic; the queue is `TOPIC.priority`.
    pub topic: String,
    /// `INFO` or `ERROR`.
    pub priority: &'static str,
    /// The message, before it is put into its envelope.
    pub message: Value,
}

/// Why messages were not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// The broker, or the way to it.
    #[error("{at}: {error}")]
    Broker {
        /// Host and port.
        at: String,
        /// What went wrong.
        error: lapin::Error,
    },
    /// No answer.
    #[error("{0} does not answer")]
    Slow(String),
    /// It said that it did not take one.
    #[error("{0} did not take a message")]
    Refused(String),
}

/// How to publish.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// Where.
    pub brokers: Brokers,
    /// The exchange (`control_exchange`).
    pub exchange: String,
    /// Whether exchange and queues outlive the broker (`amqp_durable_queues`); must be what its other users say.
    pub durable: bool,
}

struct Link {
    channel: Channel,
    known: HashSet<String>,
    _connection: Connection,
}

/// A publisher.
pub struct Notifier {
    how: Publishing,
    current: usize,
    link: Option<Link>,
}

impl Notifier {
    /// A publisher that has not connected yet.
    pub fn new(how: Publishing) -> Self {
        Self {
            how,
            current: 0,
            link: None,
        }
    }

    /// Publishes all of them, in order; `Ok` when the broker has confirmed each. After an error some may have been
    /// taken: publish all of them again.
    pub async fn publish(&mut self, notices: &[Notice]) -> Result<(), NotSent> {
        let url = self.how.brokers.one(self.current).to_owned();
        let at = place(&url);
        let sent = match self.link.take() {
            Some(link) if link.channel.status().connected() => Ok(link),
            _ => within(&at, connect(&url, &self.how)).await,
        };
        let mut link = match sent {
            Ok(link) => link,
            Err(error) => {
                self.current = self.current.wrapping_add(1);
                return Err(error);
            }
        };
        for some in notices.chunks(UNCONFIRMED) {
            let sending = send(&mut link, &self.how, some);
            if !within(&at, sending).await? {
                return Err(NotSent::Refused(at));
            }
        }
        // Kept only when all went well.
        self.link = Some(link);
        Ok(())
    }
}

async fn within<T>(
    at: &str,
    work: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, NotSent> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|error| NotSent::Broker {
            at: at.to_owned(),
            error,
        }),
        Err(_) => Err(NotSent::Slow(at.to_owned())),
    }
}

async fn connect(url: &str, how: &Publishing) -> Result<Link, lapin::Error> {
    let properties =
        ConnectionProperties::default().with_connection_name("kilonova notifications".into());
    let connection = Connection::connect(url, properties).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let options = ExchangeDeclareOptions {
        durable: how.durable,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(
            how.exchange.as_str().into(),
            ExchangeKind::Topic,
            options,
            FieldTable::default(),
        )
        .await?;
    Ok(Link {
        channel,
        known: HashSet::new(),
        _connection: connection,
    })
}

/// Makes the queue of a topic, so that what is published before anyone listens waits there.
async fn make_queue(link: &mut Link, how: &Publishing, queue: &str) -> Result<(), lapin::Error> {
    if link.known.contains(queue) {
        return Ok(());
    }
    let options = QueueDeclareOptions {
        durable: how.durable,
        ..QueueDeclareOptions::default()
    };
    link.channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await?;
    link.channel
        .queue_bind(
            queue.into(),
            how.exchange.as_str().into(),
            queue.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    link.known.insert(queue.to_owned());
    Ok(())
}

/// Whether the broker has taken all of them.
async fn send(link: &mut Link, how: &Publishing, notices: &[Notice]) -> Result<bool, lapin::Error> {
    let mut confirms = Vec::with_capacity(notices.len());
    for notice in notices {
        let queue = format!("{}.{}", notice.topic, notice.priority.to_ascii_lowercase());
        make_queue(link, how, &queue).await?;
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(PERSISTENT);
        let data = enveloped(&notice.message);
        let confirm = link
            .channel
            .basic_publish(
                how.exchange.as_str().into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                data.as_bytes(),
                properties,
            )
            .await?;
        confirms.push(confirm);
    }
    let mut taken = true;
    for confirm in confirms {
        taken &= confirm.await?.is_ack();
    }
    Ok(taken)
}

/// A message in oslo.messaging's envelope 2.0.
fn enveloped(message: &Value) -> String {
    json!({ "oslo.version": "2.0", "oslo.message": message.to_string() }).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn envelopes() {
        let text = enveloped(&json!({ "event_type": "instance.create.end" }));
        let outer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(outer["oslo.version"], "2.0");
        let inner: Value = serde_json::from_str(outer["oslo.message"].as_str().unwrap()).unwrap();
        assert_eq!(inner["event_type"], "instance.create.end");
    }
}
