//! `PUT /servers/{id}`.

use crate::call::{Call, Reply};
use crate::commands::editable;
use crate::faults::Fault;
use crate::handlers::servers::shown;
use crate::mv;
use db::instances::Instance;
use types::Timestamp;

/// What the owner wants changed.
#[derive(Clone, Default)]
struct Update {
    name: Option<String>,
    access_ip_v4: Option<String>,
    access_ip_v6: Option<String>,
    description: Option<Option<String>>,
    hostname: Option<String>,
    auto_disk_config: Option<bool>,
    /// The zone that the server shall stay in, or none (2.104).
    pinned_zone: Option<Option<String>>,
}

impl Update {
    fn read(call: &Call) -> Self {
        let text = |name: &str| call.text("server", name).map(str::to_owned);
        Self {
            name: text("name").map(|name| name.trim().to_owned()),
            access_ip_v4: editable::address(call, "server", "accessIPv4"),
            access_ip_v6: editable::address(call, "server", "accessIPv6"),
            description: call
                .field("server", "description")
                .map(|value| value.as_str().map(str::to_owned)),
            hostname: text("hostname"),
            auto_disk_config: editable::auto_disk_config(call, "server"),
            pinned_zone: call
                .field("server", "pinned_availability_zone")
                .map(|value| value.as_str().map(str::to_owned)),
        }
    }

    /// What the server as it is does not allow.
    fn check(&self, server: &Instance) -> Result<(), Fault> {
        editable::check_disk_config(server.image.as_ref(), self.auto_disk_config)?;
        let Some(Some(zone)) = &self.pinned_zone else {
            return Ok(());
        };
        // Pinning never moves a server: only the zone that it is in can be named, or the one it is pinned to already.
        let is = |known: &Option<String>| known.as_deref() == Some(zone.as_str());
        let here = server.host.is_some() && is(&server.availability_zone);
        if here || is(&server.pinned_zone) {
            return Ok(());
        }
        Err(Fault::conflict(format!(
            "Cannot pin instance {} to availability zone {zone}: it is not in that zone.",
            server.id
        )))
    }

    fn apply(&self, server: &mut Instance) {
        if let Some(auto) = self.auto_disk_config {
            server.kept.auto_disk_config = auto;
        }
        if let Some(zone) = &self.pinned_zone {
            server.pinned_zone.clone_from(zone);
        }
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

/// Changes what its owner may edit; a lock is none for this, as in Nova.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let id = call.server().await?.id;
    let (now, update) = (Timestamp::now(), Update::read(&call));
    let server = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<Instance, Fault> {
            let mut server =
                db::instances::get(tx, id)?.ok_or_else(|| Fault::no_server(&id.to_string()))?;
            update.check(&server)?;
            update.apply(&mut server);
            db::instances::update_editable(tx, &server, now)?;
            server.updated_at = Some(now);
            Ok(server)
        })
        .await?;
    let full = call.at_least(mv::STRICT);
    shown(&call, server, full).await
}
