//! What reaches into a guest: a password set by its agent, and addresses of its ports (`os-multinic`, until 2.43).

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow};
use crate::idempotency::Answer;
use crate::verdict::{self, Rule};
use db::accept;
use db::instances::Instance;
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use types::TaskState;

/// How long the request waits for the guest; Nova's RPC waits as long.
const SETTING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// `changePassword`: answered when the guest has it.
pub async fn change_password(call: Call) -> Result<Reply, Fault> {
    let clear = call.text("changePassword", "adminPass").unwrap_or_default();
    let sealed = call.api.deps.secrets.seal(clear);
    let wanted = Wanted {
        rule: verdict::CHANGE_PASSWORD,
        action: "changePassword",
        flow: accept::CHANGE_PASSWORD,
        state: json!({ "password": sealed }),
        task_state: Some(TaskState::UpdatingPassword),
        answer: Answer::Later,
    };
    let server = start_flow(&call, wanted).await?;
    match ended(&call, &server).await?.fault {
        None => Ok(Reply::empty(StatusCode::ACCEPTED)),
        Some(fault) if fault.code == 501 => Err(Fault::not_implemented(fault.message)),
        Some(fault) if fault.code == 409 => Err(Fault::conflict(fault.message)),
        // What happened to the host is nothing for the client.
        Some(_) => Err(Fault::conflict(format!(
            "Failed to set admin password on {} because error setting admin password",
            server.id
        ))),
    }
}

/// The server when the flow that was just accepted has ended: it has a fault only if that failed.
async fn ended(call: &Call, before: &Instance) -> Result<Instance, Fault> {
    let id = before.id;
    let until = tokio::time::Instant::now() + SETTING;
    loop {
        let reading = call
            .api
            .deps
            .store
            .read(move |tx| db::instances::get(tx, id));
        let now = reading
            .await?
            .ok_or_else(|| Fault::no_server(&id.to_string()))?;
        if now.task_id.is_none() {
            return Ok(now);
        }
        if tokio::time::Instant::now() >= until {
            return Err(Fault::unavailable(format!(
                "The password of instance {id} is still being set."
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn change_addresses(
    call: &Call,
    rule: Rule,
    flow: &'static str,
    state: Value,
) -> Result<Reply, Fault> {
    let wanted = Wanted {
        rule,
        // Nova records no action.
        action: "",
        flow,
        state,
        task_state: None,
        answer: Answer::accepted(),
    };
    start_flow(call, wanted).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `addFixedIp`: one more address on a network that the server is on.
pub async fn add_fixed_ip(call: Call) -> Result<Reply, Fault> {
    let id = call.field("addFixedIp", "networkId");
    let network = match id {
        Some(Value::String(text)) => text.clone(),
        other => other.map(Value::to_string).unwrap_or_default(),
    };
    let state = json!({ "network": network });
    change_addresses(&call, verdict::ADD_FIXED_IP, accept::ADD_FIXED_IP, state).await
}

/// `removeFixedIp`.
pub async fn remove_fixed_ip(call: Call) -> Result<Reply, Fault> {
    let state = json!({ "address": call.text("removeFixedIp", "address") });
    change_addresses(
        &call,
        verdict::REMOVE_FIXED_IP,
        accept::REMOVE_FIXED_IP,
        state,
    )
    .await
}
