//! `POST /servers`.

use crate::call::{Call, Reply};
use crate::commands::CreateServer;
use crate::commands::editable::disk_config;
use crate::faults::Fault;
use crate::schemas::is_true;
use http::StatusCode;
use serde_json::{Value, json};

/// Whether a value of a query means yes.
pub fn says_yes(text: &str) -> bool {
    is_true(&Value::from(text))
}

/// Accepts new servers; with `?dry_run=true` only says what would become of them.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let command = CreateServer::read(&call)?;
    let resolved = command.resolve(&call).await?;
    if call.query.get("dry_run").is_some_and(says_yes) {
        return Reply::ok(&command.try_out(&call, resolved).await?);
    }
    let (password, by_reservation) = (command.admin_pass.clone(), command.return_reservation_id);
    let server = command.accept(&call, resolved).await?;
    if by_reservation {
        return Reply::json(
            StatusCode::ACCEPTED,
            &json!({ "reservation_id": server.reservation_id }),
        );
    }
    let id = server.id.to_string();
    let mut groups: Vec<Value> = server
        .security_groups
        .iter()
        .map(|group| json!({ "name": group.name }))
        .collect();
    if groups.is_empty() {
        groups.push(json!({ "name": "default" }));
    }
    let document = json!({ "server": {
        "id": id,
        "links": call.links.pair("servers", &id),
        "OS-DCF:diskConfig": disk_config(server.kept.auto_disk_config),
        "security_groups": groups,
        "adminPass": password,
    } });
    Ok(Reply::json(StatusCode::ACCEPTED, &document)?.at(call.links.own(&format!("/servers/{id}"))))
}
