//! `/servers`: lists, one server, deletion; and how every other handler finds the server in its path.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::server_filters;
use crate::mv;
use crate::verdict;
use crate::views::server::{ServerName, ServerView, Sight, is_visible};
use crate::views::{All, At, Document, document};
use db::accept;
use db::actions::Requester;
use db::hosts::Service;
use db::instances::Instance;
use http::StatusCode;
use serde_json::Value;
use sql::Tx;
use std::collections::HashMap;
use std::sync::Arc;
use types::{ServerId, Timestamp, Trace};

const EXTENDED: &str = "os_compute_api:os-extended-server-attributes";
const EXTRA_SPECS: &str = "os_compute_api:servers:show:flavor-extra-specs";
const HOST_STATUS: &str = "os_compute_api:servers:show:host_status";
const HOST_STATUS_UNKNOWN: &str = "os_compute_api:servers:show:host_status:unknown-only";

/// How much of a host's status the caller may see.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HostSight {
    Nothing,
    UnknownOnly,
    All,
}

impl Call {
    /// The server a path's first parameter names, if the caller may know of it.
    pub async fn server(&self) -> Result<Instance, Fault> {
        let unknown = || Fault::no_server(self.param(0));
        let id: ServerId = self.param(0).parse().map_err(|_| unknown())?;
        let found = self
            .api
            .deps
            .store
            .read(move |tx| db::instances::get(tx, id))
            .await?;
        let server = found
            .filter(|server| self.knows(server))
            .ok_or_else(unknown)?;
        self.allowed_on(&server)?;
        Ok(server)
    }

    /// Whether the caller may know that the server exists: its project, and administrators.
    pub fn knows(&self, server: &Instance) -> bool {
        is_visible(server) && (server.project_id.as_str() == self.project() || self.is_admin())
    }

    /// Checks the row's rule against the server's owner.
    pub fn allowed_on(&self, server: &Instance) -> Result<(), Fault> {
        match self.route.policy {
            Some(rule) => {
                self.require_for(rule, server.project_id.as_str(), server.user_id.as_str())
            }
            None => Ok(()),
        }
    }

    /// Who asks, for the action that is recorded.
    pub fn requester(&self) -> Asker {
        Asker {
            request_id: self.request_id.to_string(),
            user_id: self.caller.user_id.clone(),
            project_id: self.project().to_owned(),
            trace: self.trace.clone(),
        }
    }

    fn sight(&self) -> Sight {
        Sight {
            extended: self.may(EXTENDED),
            extra_specs: self.may(EXTRA_SPECS),
            fault_details: self.is_admin(),
        }
    }

    fn host_sight(&self) -> HostSight {
        if !self.at_least(mv::HOST_STATUS) {
            HostSight::Nothing
        } else if self.may(HOST_STATUS) {
            HostSight::All
        } else if self.may(HOST_STATUS_UNKNOWN) {
            HostSight::UnknownOnly
        } else {
            HostSight::Nothing
        }
    }
}

/// The requester of an action, owned so that a unit of work may be run again.
#[derive(Clone)]
pub struct Asker {
    request_id: String,
    user_id: String,
    project_id: String,
    trace: Option<Arc<Trace>>,
}

impl Asker {
    /// As the database wants it.
    pub fn as_requester(&self) -> Requester<'_> {
        Requester {
            request_id: &self.request_id,
            user_id: &self.user_id,
            project_id: &self.project_id,
            trace: self.trace.as_deref(),
        }
    }
}

/// What the status of a server's host is (2.16).
fn host_status(call: &Call, server: &Instance, services: &[Service]) -> &'static str {
    let Some(host) = &server.host else { return "" };
    let Some(service) = services
        .iter()
        .find(|service| service.host == *host && service.binary == "nova-compute")
    else {
        return "UNKNOWN";
    };
    if service.forced_down {
        "DOWN"
    } else if service.disabled {
        "MAINTENANCE"
    } else if service.is_up(Timestamp::now(), call.api.config.service_down_micros) {
        "UP"
    } else {
        "UNKNOWN"
    }
}

/// What belongs to servers beside their rows.
#[derive(Default)]
struct Beside {
    tags: HashMap<ServerId, Vec<String>>,
    volumes: HashMap<ServerId, Vec<(String, bool)>>,
    services: Vec<Service>,
    group: Option<String>,
}

/// Reads what the views of these servers need: a fixed number of queries.
async fn beside(call: &Call, servers: &[Instance], one: bool) -> Result<Beside, Fault> {
    let with_tags = call.at_least(mv::TAGS);
    let with_group = one && call.at_least(mv::SERVER_GROUPS);
    let with_services = call.host_sight() != HostSight::Nothing
        && servers.iter().any(|server| server.host.is_some());
    let ids: Vec<ServerId> = servers.iter().map(|server| server.id).collect();
    let reading = call
        .api
        .deps
        .store
        .read(move |tx| -> Result<Beside, sql::Error> {
            let mut beside = Beside::default();
            for device in db::block_devices::of_servers(tx, &ids)? {
                if let Some(volume) = device.volume_id {
                    let shown = (volume, device.delete_on_termination);
                    beside.volumes.entry(device.server).or_default().push(shown);
                }
            }
            if with_tags {
                for (server, tag) in db::list::tags(tx, &ids)? {
                    beside.tags.entry(server).or_default().push(tag);
                }
            }
            if with_group && let Some(id) = ids.first() {
                beside.group =
                    db::server_groups::of_server(tx, *id)?.map(|group| group.to_string());
            }
            if with_services {
                beside.services = db::hosts::services(tx)?;
            }
            Ok(beside)
        });
    Ok(reading.await?)
}

fn view(call: &Call, server: Instance, beside: &mut Beside, one: bool) -> ServerView {
    let host_status = match call.host_sight() {
        HostSight::Nothing => None,
        HostSight::All => Some(host_status(call, &server, &beside.services)),
        HostSight::UnknownOnly => {
            Some(host_status(call, &server, &beside.services)).filter(|status| *status == "UNKNOWN")
        }
    };
    ServerView {
        links: call.links.clone(),
        sight: call.sight(),
        host_status,
        tags: beside.tags.remove(&server.id).unwrap_or_default(),
        volumes: beside.volumes.remove(&server.id).unwrap_or_default(),
        groups: one.then(|| beside.group.take().into_iter().collect()),
        full: true,
        instance: server,
    }
}

/// The answer that shows one server.
pub async fn shown(call: &Call, server: Instance, full: bool) -> Result<Reply, Fault> {
    let view = view_of_one(call, server, full).await?;
    Reply::ok(&document("server", At(&view, call.version)))
}

/// The same as a document, for answers that add to it.
pub async fn shown_document(call: &Call, server: Instance, full: bool) -> Result<Value, Fault> {
    let view = view_of_one(call, server, full).await?;
    serde_json::to_value(document("server", At(&view, call.version))).map_err(Fault::internal)
}

async fn view_of_one(call: &Call, server: Instance, full: bool) -> Result<ServerView, Fault> {
    let servers = [server];
    let mut beside = beside(call, &servers, true).await?;
    let [server] = servers;
    let mut view = view(call, server, &mut beside, true);
    view.full = full;
    Ok(view)
}

/// `GET /servers/{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    shown(&call, server, true).await
}

/// `GET /servers`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let page = server_filters::page(&call, false).await?;
    let next = page
        .next
        .as_ref()
        .map(|marker| call.links.next("/servers", call.query.pairs(), marker));
    let names: Vec<ServerName> = page
        .servers
        .into_iter()
        .map(|server| {
            let id = server.id.to_string();
            ServerName {
                links: call.links.pair("servers", &id),
                name: server.display_name,
                id,
            }
        })
        .collect();
    let links = next.as_ref().map(|next| ("servers_links", &next[..]));
    Reply::ok(&Document {
        name: "servers",
        inner: All(&names, call.version),
        links,
    })
}

/// `GET /servers/detail`.
pub async fn detail(call: Call) -> Result<Reply, Fault> {
    let page = server_filters::page(&call, true).await?;
    let next = page.next.as_ref().map(|marker| {
        call.links
            .next("/servers/detail", call.query.pairs(), marker)
    });
    let mut beside = beside(&call, &page.servers, false).await?;
    let sight = call.sight();
    let host_sight = call.host_sight();
    let views: Vec<ServerView> = page
        .servers
        .into_iter()
        .map(|server| ServerView {
            links: call.links.clone(),
            sight,
            host_status: match host_sight {
                HostSight::Nothing => None,
                HostSight::All => Some(host_status(&call, &server, &beside.services)),
                HostSight::UnknownOnly => Some(host_status(&call, &server, &beside.services))
                    .filter(|text| *text == "UNKNOWN"),
            },
            tags: beside.tags.remove(&server.id).unwrap_or_default(),
            volumes: beside.volumes.remove(&server.id).unwrap_or_default(),
            groups: None,
            full: true,
            instance: server,
        })
        .collect();
    let links = next.as_ref().map(|next| ("servers_links", &next[..]));
    Reply::ok(&Document {
        name: "servers",
        inner: All(&views, call.version),
        links,
    })
}

/// `DELETE /servers/{id}`: at once, or (`reclaim_instance_interval`) so that it can be restored for a while.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let soft = call.api.config.reclaim_seconds > 0;
    let how = if soft {
        accept::soft_delete
    } else {
        accept::delete
    };
    accept_deletion(&call, how).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Accepts a deletion that cannot be taken back.
pub async fn delete_now(call: &Call) -> Result<(), Fault> {
    accept_deletion(call, accept::delete).await
}

/// A way to accept a deletion.
type Deletion = fn(&mut Tx<'_>, ServerId, Requester<'_>, Timestamp) -> Result<bool, sql::Error>;

async fn accept_deletion(call: &Call, how: Deletion) -> Result<(), Fault> {
    let server = call.server().await?;
    verdict::DELETE.check(call, &server)?;
    let (id, asker, now) = (server.id, call.requester(), Timestamp::now());
    let accepting = call
        .api
        .deps
        .store
        .write(move |tx| how(tx, id, asker.as_requester(), now));
    if !accepting.await? {
        return Err(Fault::no_server(call.param(0)));
    }
    call.api.deps.bus.ring(bus::Bell::Tasks);
    Ok(())
}

/// Refuses changes of a locked server by those who may not override the lock.
pub fn unlocked(call: &Call, server: &Instance) -> Result<(), Fault> {
    if server.locked && !call.is_admin() {
        return Err(Fault::conflict(format!("Instance {} is locked", server.id)));
    }
    Ok(())
}
