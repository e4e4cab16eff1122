//! `/servers`: lists, one server, deletion; and how every other handler finds the server in its path.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::{server_actions, server_filters};
use crate::links::Links;
use crate::mv;
use crate::verdict;
use crate::views::server::{ServerName, ServerView, Sight, is_visible};
use crate::views::{All, At, Document, Each, View, document};
use db::accept::{self, Accepted};
use db::actions::Requester;
use db::hosts::Service;
use db::instances::Instance;
use http::StatusCode;
use serde_json::Value;
use sql::Tx;
use std::cell::RefCell;
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
        let id = self.server_id()?;
        let found = self
            .api
            .deps
            .store
            .look_once(move |tx| db::instances::get(tx, id))
            .await?;
        self.permitted(found)
    }

    fn server_id(&self) -> Result<ServerId, Fault> {
        let unknown = |_| Fault::no_server(self.param(0));
        self.param(0).parse().map_err(unknown)
    }

    /// What was found under the id, if the caller may know of it, and may do what the row is about.
    fn permitted(&self, found: Option<Instance>) -> Result<Instance, Fault> {
        let server = found
            .filter(|server| self.knows(server))
            .ok_or_else(|| Fault::no_server(self.param(0)))?;
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

/// What is to be read for views and shown in them: decided once for each request, not for each server.
#[derive(Clone, Copy)]
struct Looks {
    sight: Sight,
    host: HostSight,
    with_tags: bool,
    with_group: bool,
}

impl Looks {
    /// What the caller may see of one server, or of those of a list.
    fn of(call: &Call, one: bool) -> Self {
        Self {
            sight: call.sight(),
            host: call.host_sight(),
            with_tags: call.at_least(mv::TAGS),
            with_group: one && call.at_least(mv::SERVER_GROUPS),
        }
    }

    /// Reads what the views of these servers need: a fixed number of queries.
    fn read(self, tx: &mut Tx<'_>, servers: &[(ServerId, bool)]) -> Result<Beside, sql::Error> {
        let mut beside = Beside::default();
        let ids: Vec<ServerId> = servers.iter().map(|(id, _)| *id).collect();
        for (server, volume, goes) in db::block_devices::volumes_of(tx, &ids)? {
            beside
                .volumes
                .entry(server)
                .or_default()
                .push((volume, goes));
        }
        if self.with_tags {
            for (server, tag) in db::list::tags(tx, &ids)? {
                beside.tags.entry(server).or_default().push(tag);
            }
        }
        if self.with_group
            && let Some(id) = ids.first()
        {
            beside.group = db::server_groups::of_server(tx, *id)?.map(|group| group.to_string());
        }
        if self.host != HostSight::Nothing && servers.iter().any(|(_, placed)| *placed) {
            beside.services = db::hosts::services(tx)?;
        }
        Ok(beside)
    }

    fn view(
        self,
        call: &Call,
        links: &Arc<Links>,
        server: Instance,
        beside: &mut Beside,
        one: bool,
    ) -> ServerView {
        let host_status = match self.host {
            HostSight::Nothing => None,
            HostSight::All => Some(host_status(call, &server, &beside.services)),
            HostSight::UnknownOnly => Some(host_status(call, &server, &beside.services))
                .filter(|status| *status == "UNKNOWN"),
        };
        ServerView {
            links: Arc::clone(links),
            sight: self.sight,
            host_status,
            tags: beside.tags.remove(&server.id).unwrap_or_default(),
            volumes: beside.volumes.remove(&server.id).unwrap_or_default(),
            groups: one.then(|| beside.group.take().into_iter().collect()),
            full: true,
            instance: server,
        }
    }
}

fn placed(server: &Instance) -> (ServerId, bool) {
    (server.id, server.host.is_some())
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
    let (looks, about) = (Looks::of(call, true), [placed(&server)]);
    let reading = call.api.deps.store.read(move |tx| looks.read(tx, &about));
    let mut beside: Beside = reading
        .await
        .map_err(|error: sql::Error| Fault::from(error))?;
    let links = Arc::new(call.links.clone());
    let mut view = looks.view(call, &links, server, &mut beside, true);
    view.full = full;
    Ok(view)
}

/// `GET /servers/{id}`. One unit of work reads and renders.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let id = call.server_id()?;
    let store = call.api.deps.store.clone();
    let reading = store.look(move |tx| {
        let server = call.permitted(db::instances::get(tx, id)?)?;
        let looks = Looks::of(&call, true);
        let mut beside = looks.read(tx, &[placed(&server)])?;
        let links = Arc::new(call.links.clone());
        let view = looks.view(&call, &links, server, &mut beside, true);
        Reply::ok(&document("server", At(&view, call.version)))
    });
    reading.await
}

/// `GET /servers`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    listed(call, "/servers", false, |call, page, _| {
        let named = |server: Instance| {
            let id = server.id.to_string();
            ServerName {
                links: call.links.pair("servers", &id),
                name: server.display_name,
                id,
            }
        };
        Ok(Box::new(page.into_iter().map(named)))
    })
    .await
}

/// `GET /servers/detail`.
pub async fn detail(call: Call) -> Result<Reply, Fault> {
    listed(call, "/servers/detail", true, |call, page, tx| {
        let looks = Looks::of(call, false);
        let about: Vec<(ServerId, bool)> = page.iter().map(placed).collect();
        let mut beside = looks.read(tx, &about)?;
        let links = Arc::new(call.links.clone());
        let view = move |server| looks.view(call, &links, server, &mut beside, false);
        Ok(Box::new(page.into_iter().map(view)))
    })
    .await
}

/// Bytes of JSON of one server in a list, without and with details: room that is made beforehand.
const SHOWN: (usize, usize) = (384, 1536);

/// The views of servers, made one after the other.
type Views<'a, V> = Box<dyn Iterator<Item = V> + 'a>;

/// A page of servers. It is rendered where it was read: what a long list is made of is given back by the thread that has
/// taken it, and the threads that serve requests are free meanwhile.
async fn listed<V: View + 'static>(
    call: Call,
    path: &'static str,
    detail: bool,
    views: impl for<'a> Fn(&'a Call, Vec<Instance>, &mut Tx<'_>) -> Result<Views<'a, V>, Fault>
    + Send
    + 'static,
) -> Result<Reply, Fault> {
    let Some(plan) = server_filters::plan(&call, detail)? else {
        return Reply::ok(&document("servers", All::<V>(&[], call.version)));
    };
    let store = call.api.deps.store.clone();
    let reading = store.read(move |tx| {
        let page = plan.read(tx, &call)?;
        let next = page.next.as_ref();
        let next = next.map(|marker| call.links.next(path, call.query.pairs(), marker));
        let room = page.servers.len() * if detail { SHOWN.1 } else { SHOWN.0 };
        let views = views(&call, page.servers, tx)?;
        let shown = Document {
            name: "servers",
            inner: Each(RefCell::new(Some(views)), call.version),
            links: next.as_ref().map(|next| ("servers_links", &next[..])),
        };
        Reply::json_in(StatusCode::OK, &shown, room)
    });
    reading.await
}

/// `DELETE /servers/{id}`: at once, or (`reclaim_instance_interval`) so that it can be restored for a while. What works on
/// such a server ends first, or the deletion is refused: it would be one for good.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    if call.api.config.reclaim_seconds == 0 {
        return accept_deletion(&call, for_good, StatusCode::NO_CONTENT).await;
    }
    accept_deletion(&call, accept::soft_delete, StatusCode::NO_CONTENT).await
}

/// Accepts a deletion that cannot be taken back.
pub async fn delete_now(call: &Call) -> Result<Reply, Fault> {
    accept_deletion(call, for_good, StatusCode::ACCEPTED).await
}

/// A way to accept a deletion; none where there is no server.
type Deletion =
    fn(&mut Tx<'_>, ServerId, Requester<'_>, Timestamp) -> Result<Option<Accepted>, sql::Error>;

fn for_good(
    tx: &mut Tx<'_>,
    id: ServerId,
    by: Requester<'_>,
    now: Timestamp,
) -> Result<Option<Accepted>, sql::Error> {
    Ok(accept::delete(tx, id, by, now)?.then_some(Accepted::Yes))
}

async fn accept_deletion(call: &Call, how: Deletion, status: StatusCode) -> Result<Reply, Fault> {
    let until = tokio::time::Instant::now() + server_actions::PATIENCE;
    loop {
        if let Some(reply) = try_deletion(call, how, status).await? {
            return Ok(reply);
        }
        if tokio::time::Instant::now() >= until {
            let server = call.server().await?;
            let or = ", or delete it for good with the action forceDelete";
            return Err(server_actions::busy(call, &server, or).await?);
        }
        tokio::time::sleep(server_actions::LOOK_AGAIN).await;
    }
}

/// None while something works on the server that must end before.
async fn try_deletion(
    call: &Call,
    how: Deletion,
    status: StatusCode,
) -> Result<Option<Reply>, Fault> {
    let server = call.server().await?;
    verdict::DELETE.check(call, &server)?;
    let (id, asker, now) = (server.id, call.requester(), Timestamp::now());
    let (reply, key) = (Reply::empty(status), call.key.clone());
    let kept = reply.clone();
    let has_secret = server.kept.vtpm_secret.is_some();
    let accepting = call.api.deps.store.write(move |tx| -> Result<_, Fault> {
        let accepted = how(tx, id, asker.as_requester(), now)?;
        if let Some(key) = key.as_ref().filter(|_| accepted == Some(Accepted::Yes)) {
            key.keep(tx, &kept)?;
        }
        Ok((accepted, has_secret && goes_for_good(tx, id)?))
    });
    let (accepted, goes) = accepting.await?;
    match accepted {
        None => return Err(Fault::no_server(call.param(0))),
        Some(Accepted::Busy | Accepted::Changed) => return Ok(None),
        Some(Accepted::Yes) => {}
    }
    if let Some(key) = &call.key {
        key.mark_kept();
    }
    call.api.deps.bus.ring(bus::Bell::Tasks);
    if goes {
        crate::vtpm::forget_with_server(call, &server).await;
    }
    Ok(Some(reply))
}

/// Whether the server cannot be restored.
fn goes_for_good(tx: &mut Tx<'_>, id: ServerId) -> Result<bool, sql::Error> {
    let task = db::instances::get(tx, id)?.and_then(|server| server.task_id);
    let task = task.map(|task| db::tasks::get(tx, task)).transpose()?;
    Ok(task
        .flatten()
        .is_some_and(|task| task.flow == accept::DELETE))
}
