//! From a row of the outbox to messages: which event type, from whom, with which payload, to which topics. Pure.

use super::names::{self, Name, Source};
use super::payloads::{self, Before, Server};
use bus::notifier::Notice;
use db::hosts::Service;
use db::outbox::{Entry, Kind};
use serde_json::{Value, json};
use std::collections::HashMap;
use uuid::Uuid;

/// Which changes of states are told as `instance.update` (`notify_on_state_change`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Changes {
    /// None.
    #[default]
    None,
    /// Those of the stable state.
    VmState,
    /// Those of the task state, too.
    VmAndTaskState,
}

/// What notifications look like.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// The topics of versioned notifications; empty is none.
    pub versioned: Vec<String>,
    /// The topics of those of old; empty is none.
    pub unversioned: Vec<String>,
    /// Which changes of states are told.
    pub changes: Changes,
    /// This host, for what no host does.
    pub host: String,
    /// Where the image service is.
    pub images: String,
}

/// Servers whose last states are remembered.
const REMEMBERED: usize = 10_000;

/// Makes messages, and remembers the states of servers for what was before.
pub struct Teller {
    style: Style,
    states: HashMap<String, Before>,
}

/// One notification before it goes to its topics.
struct Told {
    event_type: String,
    priority: &'static str,
    publisher: String,
    payload: Value,
}

/// The part of an action that is told.
fn phase(entry: &Entry) -> Option<(&'static str, &'static str)> {
    match (entry.kind, entry.outcome.as_deref()) {
        (Kind::ActionStart, _) => Some(("start", "INFO")),
        (Kind::ActionEnd | Kind::EventEnd, Some("Success")) => Some(("end", "INFO")),
        (Kind::ActionEnd, Some("Error")) => Some(("error", "ERROR")),
        // An action that another one ended has no end of its own.
        _ => None,
    }
}

impl Teller {
    /// One without memory.
    pub fn new(style: Style) -> Self {
        Self {
            style,
            states: HashMap::new(),
        }
    }

    /// The messages about a server.
    pub fn of_server(&mut self, server: &Server, entry: &Entry) -> Vec<Notice> {
        let now = Before {
            vm_state: entry.vm_state.clone(),
            task_state: entry.task_state.clone(),
        };
        if self.states.len() >= REMEMBERED {
            self.states.clear();
        }
        let before = self.states.insert(entry.subject.clone(), now.clone());
        if entry.vm_state.as_deref() == Some("deleted") {
            self.states.remove(&entry.subject);
        }
        let server = server.at(entry);
        match entry.kind {
            Kind::State => self.update(&server, entry, &before.unwrap_or(now)),
            Kind::ActionStart | Kind::ActionEnd | Kind::EventEnd => self.action(&server, entry),
            _ => Vec::new(),
        }
    }

    fn update(&self, server: &Server, entry: &Entry, before: &Before) -> Vec<Notice> {
        let stable = before.vm_state != entry.vm_state;
        let told = match self.style.changes {
            Changes::None => false,
            Changes::VmState => stable,
            Changes::VmAndTaskState => stable || before.task_state != entry.task_state,
        };
        if !told {
            return Vec::new();
        }
        let (host, asker) = (self.host(server), server.asker(entry));
        let mut notices = self.spread(entry, asker, true, || Told {
            event_type: "instance.update".to_owned(),
            priority: "INFO",
            publisher: format!("nova-compute:{host}"),
            payload: payloads::of_update(server, entry, before),
        });
        notices.extend(self.spread(entry, asker, false, || Told {
            event_type: "compute.instance.update".to_owned(),
            priority: "INFO",
            publisher: format!("compute.{host}"),
            payload: payloads::of_old(server, entry, Some(before), &self.style.images),
        }));
        notices
    }

    fn action(&self, server: &Server, entry: &Entry) -> Vec<Notice> {
        let Some((phase, priority)) = phase(entry) else {
            return Vec::new();
        };
        let told = names::told(&server.instance, entry, phase);
        let notices = told
            .iter()
            .flat_map(|name| self.named(server, entry, name, priority));
        notices.collect()
    }

    fn named(
        &self,
        server: &Server,
        entry: &Entry,
        name: &Name,
        priority: &'static str,
    ) -> Vec<Notice> {
        let host = match name.from {
            Source::Compute => self.host(server),
            Source::Api | Source::Conductor => &self.style.host,
        };
        let asker = server.asker(entry);
        let mut notices = self.spread(entry, asker, true, || Told {
            event_type: format!("instance.{}", name.new),
            priority,
            publisher: format!("{}:{host}", name.from.as_str()),
            payload: payloads::of_action(server, entry, &name.new),
        });
        if let Some(old) = &name.old {
            notices.extend(self.spread(entry, asker, false, || Told {
                event_type: format!("compute.instance.{old}"),
                priority,
                publisher: format!("compute.{host}"),
                payload: payloads::of_old(server, entry, None, &self.style.images),
            }));
        }
        notices
    }

    /// The messages about a service; there were none of old.
    pub fn of_service(&self, services: &[Service], entry: &Entry) -> Vec<Notice> {
        let event_type = match entry.kind {
            Kind::ServiceCreate => "service.create",
            Kind::ServiceUpdate => "service.update",
            _ => "service.delete",
        };
        let service = services
            .iter()
            .find(|service| service.uuid.to_string() == entry.subject);
        let payload = match service {
            Some(service) => payloads::of_service(service),
            None => payloads::of_gone_service(entry),
        };
        self.spread(entry, None, true, || {
            let binary = entry.action.as_deref().unwrap_or("nova-compute");
            Told {
                event_type: event_type.to_owned(),
                priority: "INFO",
                publisher: format!("{binary}:{}", entry.host.as_deref().unwrap_or_default()),
                payload,
            }
        })
    }

    fn host<'a>(&'a self, server: &'a Server) -> &'a str {
        let host = server.instance.host.as_ref();
        host.map_or(&self.style.host, |host| host.as_str())
    }

    /// One notification for each topic of its kind; `asker` is the project of whoever asked.
    fn spread(
        &self,
        entry: &Entry,
        asker: Option<&str>,
        versioned: bool,
        told: impl FnOnce() -> Told,
    ) -> Vec<Notice> {
        let topics = match versioned {
            true => &self.style.versioned,
            false => &self.style.unversioned,
        };
        if topics.is_empty() {
            return Vec::new();
        }
        let told = told();
        // The same row gives the same id, so that whoever gets it twice can tell.
        let name = format!("{}/{}/{}", entry.subject, entry.id, told.event_type);
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
        let message = json!({
            "message_id": id,
            "_unique_id": id.simple().to_string(),
            "publisher_id": told.publisher,
            "event_type": told.event_type,
            "priority": told.priority,
            "timestamp": entry.at.iso_micros().replacen('T', " ", 1),
            "payload": told.payload,
            "_context_request_id": entry.request_id,
            "_context_user_id": entry.user_id,
            "_context_project_id": asker.unwrap_or(&entry.project_id),
        });
        let notices = topics.iter().map(|topic| Notice {
            topic: topic.clone(),
            priority: told.priority,
            message: message.clone(),
        });
        notices.collect()
    }
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
