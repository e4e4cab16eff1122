//! `resize`, `migrate`, `confirmResize` and `revertResize`.

use crate::Config;
use crate::call::{Call, Reply};
use crate::commands::{editable, holds, within_limits};
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow_and, start_flow_with};
use crate::idempotency::Answer;
use crate::mv;
use crate::verdict::{self, Rule};
use crate::vtpm;
use db::accept;
use db::instances::Instance;
use db::migrations::{self, Status};
use db::moves::{self, Unsettled};
use http::StatusCode;
use serde_json::{Value, json};
use sql::Tx;
use std::collections::BTreeMap;
use types::server::Flavor;
use types::{FlavorId, HostName, TaskState, Timestamp};

const TO_HOST: &str = "os_compute_api:os-migrate-server:migrate:host";

/// Whether a server may be resized on the host that it is on (`[DEFAULT] allow_resize_to_same_host`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameHost {
    /// Never.
    Never,
    /// When no other host will do.
    #[default]
    Last,
    /// Like any other host.
    Always,
}

impl SameHost {
    /// As the flow knows it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Last => "last",
            Self::Always => "always",
        }
    }
}

/// Refuses what a host would have to do that is down. Its name is not told.
async fn must_be_up(call: &Call, host: &HostName) -> Result<(), Fault> {
    let services = call.api.deps.store.read(db::hosts::services).await?;
    let now = Timestamp::now();
    let down_after = call.api.config.service_down_micros;
    let up = services.iter().any(|service| {
        service.host == *host && service.binary == "nova-compute" && service.is_up(now, down_after)
    });
    if up {
        return Ok(());
    }
    Err(Fault::conflict("Service is unavailable at this time."))
}

/// The server, in a state that allows the move, on a host that is up.
async fn movable(call: &Call, rule: Rule) -> Result<Instance, Fault> {
    let server = call.server().await?;
    rule.check(call, &server)?;
    let Some(host) = &server.host else {
        return Err(Fault::conflict(format!(
            "Instance {} is not ready",
            server.id
        )));
    };
    must_be_up(call, host).await?;
    Ok(server)
}

/// The flavor asked for, if the caller may use it.
async fn flavor(call: &Call) -> Result<Flavor, Fault> {
    let id = match call.field("resize", "flavorRef") {
        Some(Value::String(id)) => id.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let project = (!call.is_admin()).then(|| call.project().to_owned());
    let wanted = FlavorId(id.clone());
    let found = call
        .api
        .deps
        .store
        .read(move |tx| db::flavors::visible(tx, &wanted, project.as_deref()))
        .await?;
    found
        .filter(|record| !record.disabled)
        .map(|record| record.flavor)
        .ok_or_else(|| Fault::bad_request(format!("Flavor {id} could not be found.")))
}

fn suits(call: &Call, server: &Instance, flavor: &Flavor) -> Result<(), Fault> {
    if flavor.id == server.flavor.id {
        return Err(Fault::bad_request(
            "When resizing, instances must change flavor!",
        ));
    }
    if let Some(image) = &server.image {
        holds(call, flavor, image)?;
    }
    // Of an image that became a volume, the memory is all that counts.
    let volume = server.kept.boot_volume.as_ref();
    if volume.is_some_and(|volume| flavor.memory_mb < volume.min_ram) {
        return Err(Fault::bad_request(
            "Flavor's memory is too small for requested image.",
        ));
    }
    let nothing = BTreeMap::new();
    let properties = server.image_properties().unwrap_or(&nothing);
    scheduler::demands(flavor, properties).map_err(Fault::unmeant)?;
    vtpm::refuse_flavor(server, flavor)
}

/// What belongs to the acceptance of a move, in its transaction.
fn accepted(
    tx: &mut Tx<'_>,
    server: &mut Instance,
    flavor: &Flavor,
    (user, auto_disk): (&str, bool),
) -> Result<(), Fault> {
    if server.kept.unsettled.is_some() {
        // Its state was reset by hand while it waited for confirmation.
        return Err(Fault::conflict(format!(
            "Instance {} has a resize that is neither confirmed nor reverted; confirm or revert it first",
            server.id
        )));
    }
    let more = moves::counts_more(server, flavor);
    within_limits(tx, &server.project_id, &server.user_id, more)?;
    server.kept.auto_disk_config = auto_disk;
    Ok(moves::accept(tx, server, flavor, user, Timestamp::now())?)
}

async fn start(
    call: &Call,
    server: &Instance,
    rule: Rule,
    action: &'static str,
    state: Value,
    flavor: Option<Flavor>,
) -> Result<Reply, Fault> {
    let wanted = Wanted {
        rule,
        action,
        flow: accept::RESIZE,
        state,
        task_state: Some(TaskState::ResizePrep),
        answer: Answer::accepted(),
    };
    let user = call.caller.user_id.clone();
    // Not said is MANUAL, whatever it was before, as in Nova.
    let auto_disk = call.text("resize", "OS-DCF:diskConfig") == Some("AUTO");
    let handed = vtpm::for_move(call, server, flavor.as_ref().unwrap_or(&server.flavor)).await?;
    start_flow_with(call, server.id, wanted, handed, move |tx, server| {
        let flavor = flavor.clone().unwrap_or_else(|| server.flavor.clone());
        accepted(tx, server, &flavor, (&user, auto_disk))
    })
    .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// The quota is looked at before the image, as in Nova, and again when the resize is accepted.
async fn has_quota(call: &Call, server: &Instance, flavor: &Flavor) -> Result<(), Fault> {
    let more = moves::counts_more(server, flavor);
    let (project, user) = (server.project_id.clone(), server.user_id.clone());
    let store = &call.api.deps.store;
    store
        .read(move |tx| within_limits(tx, &project, &user, more))
        .await
}

/// `resize`.
pub async fn resize(call: Call) -> Result<Reply, Fault> {
    let server = movable(&call, verdict::RESIZE).await?;
    let auto_disk = editable::auto_disk_config(&call, "resize");
    editable::check_disk_config(server.image.as_ref(), auto_disk)?;
    let flavor = flavor(&call).await?;
    if flavor.root_gb == 0 && server.flavor.root_gb != 0 && server.image.is_some() {
        return Err(Fault::bad_request(
            "Server disk was unable to be resized because: Resize to zero disk flavor is not allowed.",
        ));
    }
    if flavor.id != server.flavor.id {
        has_quota(&call, &server, &flavor).await?;
    }
    suits(&call, &server, &flavor)?;
    let Config {
        resize_on_same_host,
        ..
    } = &call.api.config;
    let state = json!({ "same_host": resize_on_same_host.as_str() });
    let rule = verdict::RESIZE;
    start(&call, &server, rule, "resize", state, Some(flavor)).await
}

/// `migrate`: with the same flavor to another host, which an administrator may name (2.56).
pub async fn migrate(call: Call) -> Result<Reply, Fault> {
    let named = call.text("migrate", "host").map(str::to_owned);
    let to = named.filter(|_| call.at_least(mv::MIGRATE_HOST));
    if to.is_some() {
        let owner = call.server().await?;
        let (project, user) = (owner.project_id.as_str(), owner.user_id.as_str());
        call.require_for(TO_HOST, project, user)?;
    }
    let server = movable(&call, verdict::MIGRATE).await?;
    if let Some(to) = &to {
        if server.host.as_ref().is_some_and(|host| host.as_str() == to) {
            return Err(Fault::bad_request(
                "Cannot migrate to the host where the server exists.",
            ));
        }
        let nodes = call.api.deps.store.read(db::hosts::nodes).await?;
        if !nodes.iter().any(|node| node.host.as_str() == to) {
            return Err(Fault::bad_request(format!(
                "Compute host {to} could not be found."
            )));
        }
    }
    let state = json!({ "to": to, "same_host": SameHost::Never.as_str() });
    start(&call, &server, verdict::MIGRATE, "migrate", state, None).await
}

fn not_resized() -> Fault {
    Fault::bad_request("Instance has not been resized.")
}

/// What the server remembers of its move, if it waits for its end. One that was abandoned on its way, or on its way back, can
/// only be taken back, one that was abandoned while it was confirmed only be confirmed.
fn waiting(tx: &mut Tx<'_>, server: &Instance, end: Status) -> Result<Unsettled, Fault> {
    let moving = server.kept.unsettled.clone().ok_or_else(not_resized)?;
    let record = migrations::get(tx, moving.migration)?;
    match record.map(|record| record.status) {
        Some(Status::Finished) => Ok(moving),
        Some(Status::Error) if end == Status::Reverting => Ok(moving),
        Some(Status::Confirming) if end == Status::Confirming => Ok(moving),
        _ => Err(not_resized()),
    }
}

/// A server whose state was reset by hand, or whose resize was abandoned, waits for its end in another state.
fn ending(rule: Rule, server: &Instance) -> Rule {
    match server.kept.unsettled {
        Some(_) => Rule {
            vm_states: Some(moves::UNSETTLED),
            ..rule
        },
        None => rule,
    }
}

/// Starts one of the two ends of a move.
async fn end(call: &Call, wanted: Wanted, status: Status) -> Result<(), Fault> {
    start_flow_and(call, wanted, move |tx, server| {
        let moving = waiting(tx, server, status)?;
        migrations::set_status(tx, moving.migration, status, Timestamp::now())?;
        Ok(())
    })
    .await?;
    Ok(())
}

/// `confirmResize`: what was kept on the host that the server left goes, so that host must be up.
pub async fn confirm(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let rule = ending(verdict::CONFIRM_RESIZE, &server);
    rule.check(&call, &server)?;
    let moving = server.kept.unsettled.as_ref().ok_or_else(not_resized)?;
    must_be_up(&call, &moving.source.host).await?;
    let wanted = Wanted {
        rule,
        action: "confirmResize",
        flow: accept::CONFIRM_RESIZE,
        state: json!({}),
        task_state: Some(TaskState::ResizeConfirming),
        answer: Answer::Now(Reply::empty(StatusCode::NO_CONTENT)),
    };
    end(&call, wanted, Status::Confirming).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// `revertResize`. The server counts as both flavors until its end, so it needs no quota.
pub async fn revert(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let wanted = Wanted {
        rule: ending(verdict::REVERT_RESIZE, &server),
        action: "revertResize",
        flow: accept::REVERT_RESIZE,
        state: json!({}),
        task_state: Some(TaskState::ResizeReverting),
        answer: Answer::accepted(),
    };
    end(&call, wanted, Status::Reverting).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
