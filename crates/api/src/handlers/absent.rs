//! What asks for services that no cloud of ours has yet: bare metal, shares, consoles. The answers are Nova's
//! where Nova has one for such a cloud.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::verdict::{self, Rule};

/// 400 for everything that would change bare metal: Ironic's own client does that.
fn use_ironic(command: &str) -> Fault {
    Fault::bad_request(format!(
        "Command not supported. Please use Ironic command {command} to perform this action."
    ))
}

/// `POST /os-baremetal-nodes`.
pub async fn node_create(_: Call) -> Result<Reply, Fault> {
    Err(use_ironic("node-create"))
}

/// `DELETE /os-baremetal-nodes/{id}`.
pub async fn node_delete(_: Call) -> Result<Reply, Fault> {
    Err(use_ironic("node-delete"))
}

/// `add_interface` of `/os-baremetal-nodes/{id}/action`.
pub async fn node_add_interface(_: Call) -> Result<Reply, Fault> {
    Err(use_ironic("port-create"))
}

/// `remove_interface` of `/os-baremetal-nodes/{id}/action`.
pub async fn node_remove_interface(_: Call) -> Result<Reply, Fault> {
    Err(use_ironic("port-delete"))
}

/// `GET /os-baremetal-nodes` and one of them.
pub async fn nodes(_: Call) -> Result<Reply, Fault> {
    Err(Fault::not_implemented(
        "This cloud has no bare metal service.",
    ))
}

/// `/servers/{id}/shares`: the server is looked up without regard to the project, so that the policy decides.
pub async fn shares(call: Call) -> Result<Reply, Fault> {
    let id = call.param(0).to_owned();
    let unknown = || Fault::no_server(&id);
    let server: types::ServerId = id.parse().map_err(|_| unknown())?;
    let store = &call.api.deps.store;
    let found = store.read(move |tx| db::instances::get(tx, server)).await?;
    call.allowed_on(&found.ok_or_else(unknown)?)?;
    Err(Fault::not_implemented(
        "This cloud has no shared file system service yet, so servers have no shares.",
    ))
}

/// The rule of a protocol of consoles; none is one of a hypervisor that is gone.
fn rule_of(protocol: &str) -> Option<Rule> {
    match protocol {
        "vnc" => Some(verdict::VNC_CONSOLE),
        "spice" => Some(verdict::SPICE_CONSOLE),
        "serial" => Some(verdict::SERIAL_CONSOLE),
        "mks" => Some(verdict::MKS_CONSOLE),
        _ => None,
    }
}

/// The words of a cloud in which consoles of this kind are switched off, as all are here.
fn console_unavailable(kind: &str) -> Fault {
    Fault::bad_request(format!("Unavailable console type {kind}."))
}

/// `os-getVNCConsole`, `os-getSPICEConsole` and `os-getSerialConsole` (below 2.6).
async fn console(call: Call, rule: Rule) -> Result<Reply, Fault> {
    let server = call.server().await?;
    rule.check(&call, &server)?;
    let action = call.route.action.unwrap_or_default();
    let kind = call.text(action, "type").unwrap_or_default();
    Err(console_unavailable(kind))
}

/// `os-getVNCConsole`.
pub async fn vnc_console(call: Call) -> Result<Reply, Fault> {
    console(call, verdict::VNC_CONSOLE).await
}

/// `os-getSPICEConsole`.
pub async fn spice_console(call: Call) -> Result<Reply, Fault> {
    console(call, verdict::SPICE_CONSOLE).await
}

/// `os-getSerialConsole`.
pub async fn serial_console(call: Call) -> Result<Reply, Fault> {
    console(call, verdict::SERIAL_CONSOLE).await
}

/// `os-getRDPConsole` (below 2.6): gone with its hypervisor, whatever is asked of whatever server.
pub async fn rdp_console(_: Call) -> Result<Reply, Fault> {
    Err(malformed())
}

/// `POST /servers/{id}/remote-consoles`.
pub async fn remote_console(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let text = |name| call.text("remote_console", name).unwrap_or_default();
    let protocol = text("protocol");
    let Some(rule) = rule_of(protocol) else {
        return Err(console_unavailable(protocol));
    };
    rule.check(&call, &server)?;
    Err(console_unavailable(text("type")))
}

/// What is refused without a reason.
fn malformed() -> Fault {
    Fault::bad_request(
        "The server could not comply with the request since it is either malformed or otherwise incorrect.",
    )
}

/// `GET /os-console-auth-tokens/{token}`: no console was ever given out. Below 2.31 only a kind that is gone was shown.
pub async fn console_token(call: Call) -> Result<Reply, Fault> {
    if !call.at_least(mv::CONSOLE_TOKENS) {
        return Err(malformed());
    }
    if let Some(rule) = call.route.policy {
        call.require(rule)?;
    }
    Err(Fault::not_found("Token not found"))
}
