//! What asks for services that no cloud of ours has yet: bare metal, shares, consoles. The answers are Nova's
//! where Nova has one for such a cloud.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;

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

/// `GET /os-console-auth-tokens/{token}`: no console was ever given out. Below 2.31 only a kind that is gone was shown.
pub async fn console_token(call: Call) -> Result<Reply, Fault> {
    if !call.at_least(mv::CONSOLE_TOKENS) {
        return Err(Fault::bad_request(
            "The server could not comply with the request since it is either malformed or otherwise incorrect.",
        ));
    }
    if let Some(rule) = call.route.policy {
        call.require(rule)?;
    }
    Err(Fault::not_found("Token not found"))
}
