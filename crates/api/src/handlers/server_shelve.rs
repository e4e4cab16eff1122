//! `shelve`, `shelveOffload` and `unshelve`.

use crate::call::{Call, Reply};
use crate::commands::{available_zone, known_host, zone_of};
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow, start_flow_and};
use crate::handlers::server_images::shelve_into;
use crate::idempotency::Answer;
use crate::mv;
use crate::verdict;
use crate::vtpm;
use db::accept;
use db::instances::Instance;
use http::StatusCode;
use serde_json::json;
use types::{TaskState, VmState};

/// `shelve`: the image is made here, so that its owner's quota and policies count.
pub async fn shelve(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    vtpm::refuse(&server, "shelve")?;
    verdict::SHELVE.check(&call, &server)?;
    let offload = call.api.config.offload_at_once;
    let wanted = |flow, state| Wanted {
        rule: verdict::SHELVE,
        action: "shelve",
        flow,
        state,
        task_state: Some(TaskState::Shelving),
        answer: Answer::accepted(),
    };
    if server.image.is_none() {
        // Its disk is a volume, which stays: there is nothing to wait for.
        let state = json!({ "offload": true });
        start_flow(&call, wanted(accept::SHELVE_OFFLOAD, state)).await?;
    } else {
        let filled = |image| {
            let state = json!({ "image": image, "offload": offload });
            wanted(accept::SHELVE, state)
        };
        shelve_into(&call, &server, filled).await?;
    }
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `shelveOffload`.
pub async fn shelve_offload(call: Call) -> Result<Reply, Fault> {
    let wanted = Wanted {
        rule: verdict::SHELVE_OFFLOAD,
        action: "shelveOffload",
        flow: accept::SHELVE_OFFLOAD,
        state: json!({ "offload": true }),
        task_state: Some(TaskState::ShelvingOffloading),
        answer: Answer::accepted(),
    };
    start_flow(&call, wanted).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// Where an unshelved server shall be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Place {
    /// The zone it is pinned to from now on; `Some(None)` pins it to none.
    zone: Option<Option<String>>,
    host: Option<String>,
}

impl Place {
    fn of(call: &Call) -> Self {
        let text = |name| call.text("unshelve", name).map(str::to_owned);
        let says_zone = call.field("unshelve", "availability_zone").is_some();
        Self {
            zone: (says_zone && call.at_least(mv::UNSHELVE_ZONE))
                .then(|| text("availability_zone")),
            host: text("host").filter(|_| call.at_least(mv::UNSHELVE_HOST)),
        }
    }

    /// Refuses a place that a server which is still on its host cannot choose, or that is not there.
    async fn check(&self, call: &Call, server: &Instance) -> Result<(), Fault> {
        if self.zone.is_none() && self.host.is_none() {
            return Ok(());
        }
        if server.vm_state != VmState::ShelvedOffloaded {
            return Err(Fault::conflict(format!(
                "Specifying an availability zone or a host when unshelving server \"{}\" with status \"{}\" is not \
                 supported. The server status must be SHELVED_OFFLOADED.",
                server.id,
                server.vm_state.as_str()
            )));
        }
        let zone = match &self.zone {
            Some(zone) => zone.clone(),
            None => server.pinned_zone.clone(),
        };
        if self.host.is_some() {
            let (project, user) = (server.project_id.as_str(), server.user_id.as_str());
            call.require_for("os_compute_api:os-shelve:unshelve_to_host", project, user)?;
        }
        let (config, place) = (call.api.config.clone(), self.clone());
        let checking = call.api.deps.store.read(move |tx| {
            if let Some(Some(wanted)) = &place.zone {
                available_zone(tx, &config, wanted)?;
            }
            let Some(host) = &place.host else {
                return Ok(());
            };
            known_host(tx, host)?;
            match &zone {
                Some(zone) if zone_of(tx, &config, host)? != *zone => Err(Fault::conflict(
                    format!("Host \"{host}\" is not in the availability zone \"{zone}\"."),
                )),
                _ => Ok(()),
            }
        });
        checking.await
    }
}

/// `unshelve`: on its host, or (from 2.77 in a zone, from 2.91 on a host that the request names) on another.
pub async fn unshelve(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    verdict::UNSHELVE.check(&call, &server)?;
    let place = Place::of(&call);
    place.check(&call, &server).await?;
    let (flow, state) = match (server.vm_state, &place.host) {
        (VmState::Shelved, _) => (accept::UNSHELVE_IN_PLACE, json!({})),
        (_, None) => (accept::UNSHELVE, json!({})),
        (_, Some(host)) => (accept::UNSHELVE, json!({ "to": host })),
    };
    let wanted = Wanted {
        rule: verdict::UNSHELVE,
        action: "unshelve",
        flow,
        state,
        task_state: Some(TaskState::Unshelving),
        answer: Answer::accepted(),
    };
    let seen = server.vm_state;
    start_flow_and(&call, wanted, move |tx, server| {
        if server.vm_state != seen {
            // It left its host between the look and the acceptance.
            let id = server.id;
            return Err(Fault::conflict(format!(
                "Instance {id} has changed meanwhile; try again"
            )));
        }
        if let Some(zone) = &place.zone {
            db::instances::set_pinned_zone(tx, server.id, zone.as_deref())?;
        }
        Ok(())
    })
    .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
