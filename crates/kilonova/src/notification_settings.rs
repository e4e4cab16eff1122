//! Whether and how notifications are published, under nova.conf's names.

use anyhow::{Context, Result};
use bus::Brokers;
use bus::notifier::Publishing;
use conductor::notifications::{Changes, Config, Style};
use serde::{Deserialize, Serialize};

/// The choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notification {
    /// `noop` or `messagingv2`.
    pub(crate) driver: String,
    /// `unversioned`, `versioned` or `both`.
    pub(crate) format: String,
    /// Empty, `vm_state` or `vm_and_task_state`.
    pub(crate) state_changes: String,
    pub(crate) topics: String,
    pub(crate) versioned_topics: String,
    pub(crate) transport_url: String,
    pub(crate) exchange: String,
    pub(crate) durable: bool,
}

impl Default for Notification {
    /// Nova's.
    fn default() -> Self {
        Self {
            driver: "noop".to_owned(),
            format: "unversioned".to_owned(),
            state_changes: String::new(),
            topics: "notifications".to_owned(),
            versioned_topics: "versioned_notifications".to_owned(),
            transport_url: String::new(),
            exchange: "nova".to_owned(),
            durable: false,
        }
    }
}

impl Notification {
    /// How to publish; none: not at all. `usual` is the broker of the bells.
    ///
    /// # Errors
    /// When there is no broker.
    pub(crate) fn config(&self, usual: &str, host: &str, images: &str) -> Result<Option<Config>> {
        if self.driver == "noop" {
            return Ok(None);
        }
        let url = match self.transport_url.as_str() {
            "" => usual,
            own => own,
        };
        let brokers = Brokers::parse(url).context(
            "[oslo_messaging_notifications] driver needs a broker: set its transport_url, or the one of [DEFAULT]",
        )?;
        let topics = |wanted: &str, text: &str| match self.format == wanted || self.format == "both"
        {
            true => listed(text),
            false => Vec::new(),
        };
        Ok(Some(Config {
            publishing: Publishing {
                brokers,
                exchange: self.exchange.clone(),
                durable: self.durable,
            },
            style: Style {
                versioned: topics("versioned", &self.versioned_topics),
                unversioned: topics("unversioned", &self.topics),
                changes: match self.state_changes.as_str() {
                    "vm_state" => Changes::VmState,
                    "vm_and_task_state" => Changes::VmAndTaskState,
                    _ => Changes::None,
                },
                host: host.to_owned(),
                images: images.to_owned(),
            },
        }))
    }
}

fn listed(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

fn one_of(value: &str, known: &[&str]) -> Result<String, String> {
    match known.contains(&value) {
        true => Ok(value.to_owned()),
        false => Err(format!("{value:?} is none of {}", known.join(", "))),
    }
}

/// `driver`; nova.conf's older names of the same are taken too.
pub(crate) fn driver(value: &str) -> Result<String, String> {
    match value {
        "" | "noop" => Ok("noop".to_owned()),
        "messaging" | "messagingv2" => Ok("messagingv2".to_owned()),
        other => Err(format!("{other:?} is none of messagingv2 and noop")),
    }
}

/// `notification_format`.
pub(crate) fn format(value: &str) -> Result<String, String> {
    one_of(value, &["unversioned", "versioned", "both"])
}

/// `notify_on_state_change`.
pub(crate) fn changes(value: &str) -> Result<String, String> {
    match value {
        "" => Ok(String::new()),
        other => one_of(other, &["vm_state", "vm_and_task_state"]),
    }
}

/// A choice of two.
pub(crate) fn yes_or_no(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn off_by_default_and_as_nova_has_it() {
        let mut wanted = Notification::default();
        assert!(wanted.config("rabbit://h/", "c", "").unwrap().is_none());
        wanted.driver = driver("messagingv2").unwrap();
        assert!(wanted.config("", "c", "").is_err(), "no broker");
        let old = wanted.config("rabbit://h/", "c", "").unwrap().unwrap();
        assert_eq!(old.style.unversioned, ["notifications"]);
        assert!(old.style.versioned.is_empty());
        wanted.format = format("both").unwrap();
        wanted.topics = "a, b".to_owned();
        wanted.transport_url = "rabbit://own/".to_owned();
        let both = wanted.config("", "c", "").unwrap().unwrap();
        assert_eq!(both.style.unversioned, ["a", "b"]);
        assert_eq!(both.style.versioned, ["versioned_notifications"]);
        assert!(driver("log").is_err() && format("x").is_err() && changes("x").is_err());
    }
}
