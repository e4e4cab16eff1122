//! `/os-migrations`: there are no migrations until resize and live migration are built, so the lists are empty.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use serde_json::json;

/// `GET /os-migrations`.
pub async fn list(_call: Call) -> Result<Reply, Fault> {
    Reply::ok(&json!({ "migrations": [] }))
}

/// `GET /servers/{id}/migrations`.
pub async fn of_server(call: Call) -> Result<Reply, Fault> {
    call.server().await?;
    Reply::ok(&json!({ "migrations": [] }))
}

/// `GET /servers/{id}/migrations/{migration}`.
pub async fn show_of_server(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    Err(Fault::not_found(format!(
        "In-progress live migration {} is not found for server {}.",
        call.param(1),
        server.id
    )))
}
