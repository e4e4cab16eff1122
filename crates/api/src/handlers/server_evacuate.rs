//! `evacuate`: for administrators, when a host is gone for good.

use crate::call::{Call, Reply};
use crate::commands::password;
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow_and};
use crate::idempotency::Answer;
use crate::mv;
use crate::schemas::is_true;
use crate::verdict;
use crate::vtpm;
use db::accept;
use db::instances::Instance;
use db::migrations::{self, End, Kind, NewMigration, Status};
use http::StatusCode;
use serde_json::json;
use types::{HostName, MigrationId, TaskState, Timestamp};

/// The password that the new guest gets; none when it would keep its disk.
fn new_password(call: &Call, shared: bool) -> Result<Option<String>, Fault> {
    let given = call.text("evacuate", "adminPass").map(str::to_owned);
    match given {
        Some(_) if shared => Err(Fault::bad_request(
            "admin password can't be changed on existing disk",
        )),
        None if shared => Ok(None),
        given => Ok(Some(given.unwrap_or_else(password))),
    }
}

/// Refuses a host that is not there, or is the one to be left.
async fn check_host(call: &Call, server: &Instance, to: Option<&str>) -> Result<(), Fault> {
    let Some(to) = to else {
        return Ok(());
    };
    let services = call.api.deps.store.read(db::hosts::services).await?;
    let known = services
        .iter()
        .any(|service| service.host.as_str() == to && service.binary == "nova-compute");
    if !known {
        return Err(Fault::not_found(format!("Compute host {to} not found.")));
    }
    if server.host.as_ref().is_some_and(|host| host.as_str() == to) {
        return Err(Fault::bad_request("The target host can't be the same one."));
    }
    Ok(())
}

/// Refuses to take a server from a host that lives.
async fn must_be_gone(call: &Call, server: &Instance) -> Result<(), Fault> {
    let Some(host) = &server.host else {
        return Ok(());
    };
    let services = call.api.deps.store.read(db::hosts::services).await?;
    let (now, down_after) = (Timestamp::now(), call.api.config.service_down_micros);
    let lives = services.iter().any(|service| {
        service.host == *host && service.binary == "nova-compute" && service.is_up(now, down_after)
    });
    if lives {
        return Err(Fault::bad_request(format!(
            "Compute service of {host} is still in use."
        )));
    }
    Ok(())
}

/// `evacuate`: answers the new password below 2.14, and nothing from then on.
pub async fn evacuate(call: Call) -> Result<Reply, Fault> {
    let said = |name: &str| call.field("evacuate", name).map(is_true);
    let to = call.text("evacuate", "host").map(str::to_owned);
    let shared = said("onSharedStorage").unwrap_or(false);
    let forces = call.at_least(mv::EVACUATE_FORCE) && !call.at_least(mv::NO_FORCE);
    // Before one could ask for it, a host that was named was not checked by the scheduler.
    let force = match said("force") {
        Some(force) => force,
        None => !call.at_least(mv::EVACUATE_FORCE),
    };
    let server = call.server().await?;
    if forces && force && to.is_none() {
        return Err(Fault::bad_request(
            "Can't force to a non-provided destination",
        ));
    }
    let pass = new_password(&call, shared)?;
    check_host(&call, &server, to.as_deref()).await?;
    vtpm::refuse(&server, "evacuate")?;
    verdict::EVACUATE.check(&call, &server)?;
    must_be_gone(&call, &server).await?;
    let (migration, gone) = (MigrationId::random(), server.host.clone());
    let reply = answer(&call, pass.as_deref())?;
    let wanted = Wanted {
        rule: verdict::EVACUATE,
        action: "evacuate",
        flow: accept::EVACUATE,
        state: json!({
            "migration": migration,
            "to": to,
            "force": force,
            "stopped": call.at_least(mv::EVACUATE_STOPPED),
            "shared": shared,
            "told": !call.at_least(mv::EVACUATE_FINDS_STORAGE),
        }),
        task_state: Some(TaskState::Rebuilding),
        answer: Answer::Now(reply.clone()),
    };
    let sealed = pass.as_deref().map(|pass| call.api.deps.secrets.seal(pass));
    let (user, now) = (call.caller.user_id.clone(), Timestamp::now());
    start_flow_and(&call, wanted, move |tx, server| {
        if server.host != gone {
            // A move has ended meanwhile: nobody has asked whether this host is down.
            let words = "The server has moved to another host; look at it again.";
            return Err(Fault::conflict(words));
        }
        let new = NewMigration {
            id: migration,
            server: server.id,
            kind: Kind::Evacuation,
            status: Status::Accepted,
            source: End {
                compute: server.host.clone(),
                node: server.node.clone(),
            },
            dest: End {
                compute: to.clone().map(HostName),
                node: None,
            },
            old_flavor: &server.flavor.id,
            new_flavor: &server.flavor.id,
            project_id: server.project_id.as_str(),
            user_id: &user,
        };
        migrations::insert(tx, &new, now)?;
        if let Some(sealed) = &sealed {
            server.admin_pass = Some(sealed.clone());
            db::instances::rewrite(tx, server)?;
        }
        Ok(())
    })
    .await?;
    Ok(reply)
}

fn answer(call: &Call, pass: Option<&str>) -> Result<Reply, Fault> {
    if call.at_least(mv::EVACUATE_FINDS_STORAGE) {
        return Ok(Reply::empty(StatusCode::OK));
    }
    let mut shown = json!({});
    if let Some(pass) = pass {
        shown["adminPass"] = pass.into();
    }
    Reply::ok(&shown)
}
