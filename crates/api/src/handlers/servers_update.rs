//! `PUT /servers/{id}`.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::servers::{shown, unlocked};
use crate::mv;
use db::instances::Instance;
use serde_json::Value;
use types::Timestamp;

/// What the owner wants changed.
#[derive(Clone, Default)]
struct Update {
    name: Option<String>,
    access_ip_v4: Option<String>,
    access_ip_v6: Option<String>,
    description: Option<Option<String>>,
    hostname: Option<String>,
}

impl Update {
    fn read(call: &Call) -> Self {
        let text = |name: &str| call.text("server", name).map(str::to_owned);
        Self {
            name: text("name").map(|name| name.trim().to_owned()),
            access_ip_v4: text("accessIPv4"),
            access_ip_v6: text("accessIPv6"),
            description: call
                .field("server", "description")
                .map(|value| value.as_str().map(str::to_owned)),
            hostname: text("hostname"),
        }
    }

    fn apply(&self, server: &mut Instance) {
        if let Some(name) = &self.name {
            server.display_name.clone_from(name);
        }
        if self.access_ip_v4.is_some() {
            server.access_ip_v4.clone_from(&self.access_ip_v4);
        }
        if self.access_ip_v6.is_some() {
            server.access_ip_v6.clone_from(&self.access_ip_v6);
        }
        if let Some(description) = &self.description {
            server.description.clone_from(description);
        }
        if let Some(hostname) = &self.hostname {
            server.hostname.clone_from(hostname);
        }
    }
}

/// Changes what its owner may edit.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let seen = call.server().await?;
    unlocked(&call, &seen)?;
    if let Some(pinned) = call.field("server", "pinned_availability_zone") {
        let same = pinned.as_str() == seen.pinned_zone.as_deref()
            && (pinned.is_string() || *pinned == Value::Null);
        if !same {
            return Err(Fault::not_implemented(
                "Changing the pinned availability zone is not built yet in this cloud.",
            ));
        }
    }
    let (id, now, update) = (seen.id, Timestamp::now(), Update::read(&call));
    let server = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<Instance, Fault> {
            let mut server =
                db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
            update.apply(&mut server);
            db::instances::update_editable(tx, &server, now)?;
            server.updated_at = Some(now);
            Ok(server)
        })
        .await?;
    let full = call.at_least(mv::STRICT);
    shown(&call, server, full).await
}
