//! Messages to users about what went wrong (3.3).

use super::unknown;
use super::volumes::{in_scope, scope};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::Message;
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;

const LIST: listing::Rules = listing::Rules {
    path: "messages",
    links: "messages_links",
    filters: &[
        "resource_uuid",
        "resource_type",
        "event_id",
        "request_id",
        "message_level",
    ],
    sorts: &[
        "created_at",
        "id",
        "resource_type",
        "resource_uuid",
        "event_id",
        "message_level",
        "request_id",
    ],
};

fn shown(call: &Call, message: &Message) -> Value {
    json!({
        "id": message.id,
        "event_id": message.event_id,
        "user_message": message.user_message,
        "message_level": message.level,
        "created_at": view::time(message.created_at),
        "guaranteed_until": view::time(message.expires_at),
        "request_id": message.request_id,
        "links": call.links("messages", &message.id),
        "resource_type": message.resource_type,
        "resource_uuid": message.resource_id,
    })
}

fn seen(tx: &mut Tx<'_>, call: &Call, id: &str, rule: &str) -> Result<Message> {
    let found = db::get::<Message>(tx, id)?;
    let message = found
        .filter(|message| call.access.sees(&message.project_id))
        .ok_or_else(|| Fault::missing("Message", id))?;
    call.access.require(rule, &message.project_id)?;
    Ok(message)
}

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    call.version.since(3)?;
    let most = service.inner.config.max_limit;
    let method = call.method.clone();
    let id = path.first().map(|id| (*id).to_owned()).unwrap_or_default();
    match (path, &method) {
        ([], &Method::GET) => {
            call.access.require_own("message:get_all")?;
            let body = service
                .read(move |tx| {
                    let found: Vec<Message> = in_scope(tx, scope(&call)?.as_deref())?;
                    let items = found
                        .into_iter()
                        .map(|one| Item {
                            id: one.id.clone(),
                            fields: json!({
                                "id": one.id, "resource_uuid": one.resource_id, "resource_type": one.resource_type,
                                "event_id": one.event_id, "request_id": one.request_id, "message_level": one.level,
                                "created_at": view::time(one.created_at),
                            }),
                            item: one,
                        })
                        .collect();
                    let page = listing::page(&call, &LIST, most, items)?;
                    let all: Vec<Value> = page.items.iter().map(|one| shown(&call, one)).collect();
                    let mut body = json!({"messages": all});
                    page.complete(&mut body, &call, &LIST)?;
                    Ok(body)
                })
                .await?;
            Ok(Reply::ok(body))
        }
        ([_], &Method::GET) => {
            let body = service
                .read(move |tx| {
                    let message = seen(tx, &call, &id, "message:get")?;
                    Ok(json!({"message": shown(&call, &message)}))
                })
                .await?;
            Ok(Reply::ok(body))
        }
        ([_], &Method::DELETE) => {
            service
                .write(move |tx| {
                    seen(tx, &call, &id, "message:delete")?;
                    db::delete::<Message>(tx, &id)?;
                    Ok(())
                })
                .await?;
            Ok(Reply::empty(StatusCode::NO_CONTENT))
        }
        _ => Err(unknown(&call, &[Method::GET])),
    }
}
