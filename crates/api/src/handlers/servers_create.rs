//! `POST /servers`.

use crate::call::{Call, Reply};
use crate::commands::CreateServer;
use crate::commands::editable::disk_config;
use crate::faults::Fault;
use crate::links::Links;
use crate::query::{Key, Kind, Query, key};
use crate::route::{Route, Verb};
use crate::schemas::is_true;
use db::instances::Instance;
use http::StatusCode;
use serde_json::{Value, json};

/// Whether a value of a query means yes.
pub fn says_yes(text: &str) -> bool {
    is_true(&Value::from(text))
}

/// The key of the query that makes a request for new servers a question.
pub const DRY_RUN: Key = key("dry_run", Kind::Any);

/// Whether the row makes servers.
pub fn has_dry_run(route: &Route) -> bool {
    route.verb == Verb::Post && ["/servers", "/os-volumes_boot"].contains(&route.path)
}

/// Whether a request only asks what would become of the servers that it wants. One that cannot be understood, or that wants
/// something else, is refused: it would do for good what its sender only wants to try.
pub fn is_dry_run(route: &Route, query: &Query) -> Result<bool, Fault> {
    let Some(text) = query.get(DRY_RUN.name).filter(|_| route.verb != Verb::Get) else {
        return Ok(false);
    };
    if !has_dry_run(route) {
        return Err(Fault::bad_request(
            "Only new servers can be tried: dry_run is for POST /servers.",
        ));
    }
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(Fault::bad_request(format!(
            "Invalid input for query parameters dry_run. Value: {text}. It is 'true' (or 1, on, yes) or 'false' (or 0, off, no)."
        ))),
    }
}

/// Accepts new servers; with `?dry_run=true` only says what would become of them.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let command = CreateServer::read(&call)?;
    let mut resolved = command.resolve(&call).await?;
    resolved.demands()?;
    let trusted = command.trusted_certs.as_deref();
    resolved.look_up_kernels(&call, trusted).await?;
    if call.dry_run {
        return Reply::ok(&command.try_out(&call, resolved).await?);
    }
    if let (Some(image), None) = (&mut resolved.boot.image, &resolved.boot.volume) {
        image.check = call.check_of(image, command.trusted_certs.as_deref()).await;
    }
    let (answer, key) = (NewServer::of(&call, &command), call.key.clone());
    let also = {
        let (answer, key) = (answer.clone(), key.clone());
        move |tx: &mut sql::Tx<'_>, server: &Instance| -> Result<(), Fault> {
            match &key {
                Some(key) => Ok(key.keep(tx, &answer.reply(server)?)?),
                None => Ok(()),
            }
        }
    };
    let server = command.accept(&call, resolved, also).await?;
    if let Some(key) = key {
        key.mark_kept();
    }
    answer.reply(&server)
}

/// What the answer says of new servers beside the first of them.
#[derive(Clone)]
struct NewServer {
    links: Links,
    password: String,
    /// The reservation alone is wanted.
    by_reservation: bool,
}

impl NewServer {
    fn of(call: &Call, command: &CreateServer) -> Self {
        Self {
            links: call.links.clone(),
            password: command.admin_pass.clone(),
            by_reservation: command.return_reservation_id,
        }
    }

    fn reply(&self, server: &Instance) -> Result<Reply, Fault> {
        if self.by_reservation {
            let document = json!({ "reservation_id": server.reservation_id });
            return Reply::json(StatusCode::ACCEPTED, &document);
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
            "links": self.links.pair("servers", &id),
            "OS-DCF:diskConfig": disk_config(server.kept.auto_disk_config),
            "security_groups": groups,
            "adminPass": self.password,
        } });
        let location = self.links.own(&format!("/servers/{id}"));
        Ok(Reply::json(StatusCode::ACCEPTED, &document)?.at(location))
    }
}
