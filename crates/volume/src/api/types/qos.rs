//! QoS specs and the types that have them.

use crate::api::unknown;
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::{Map, Qos, VolumeType};
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;
use types::Timestamp;

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    let manage = "volume_extension:qos_specs_manage";
    let method = call.method.clone();
    let verb = match (path, &method) {
        ([], &Method::GET) => "get_all",
        ([], &Method::POST) => "create",
        ([_], &Method::DELETE) => "delete",
        ([_], &Method::PUT)
        | ([_, "delete_keys"], &Method::PUT)
        | ([_, "associate" | "disassociate" | "disassociate_all"], &Method::GET) => "update",
        ([_] | [_, "associations"], &Method::GET) => "get",
        _ => return Err(unknown(&call, &[Method::GET])),
    };
    call.access.require_own(&format!("{manage}:{verb}"))?;
    match path {
        [] if method == Method::GET => list(service, call).await,
        [] => create(service, call).await,
        [id] => one(service, call, id).await,
        [id, "delete_keys"] => remove_keys(service, call, id).await,
        [id, "associations"] => associations(service, id).await,
        [id, act] => associate(service, call, id, act).await,
        _ => Err(unknown(&call, &[])),
    }
}

fn seen(tx: &mut Tx<'_>, id: &str) -> Result<Qos> {
    db::get::<Qos>(tx, id)?.ok_or_else(|| Fault::not_found(format!("No such QoS spec {id}.")))
}

fn shown(qos: &Qos) -> Value {
    json!({"id": qos.id, "name": qos.name, "consumer": qos.consumer, "specs": qos.specs})
}

fn detail(call: &Call, qos: &Qos) -> Value {
    json!({"qos_specs": shown(qos), "links": call.links("qos-specs", &qos.id)})
}

const LIST: listing::Rules = listing::Rules {
    path: "qos-specs",
    links: "qos_specs_links",
    filters: &["id", "name", "consumer"],
    sorts: &["created_at", "id", "name", "consumer"],
};

async fn list(service: &Service, call: Call) -> Result<Reply> {
    let most = service.inner.config.max_limit;
    let body = service
        .read(move |tx| {
            let items = db::find::<Qos>(tx, &[])?
                .into_iter()
                .map(|qos| Item {
                    id: qos.id.clone(),
                    fields: json!({
                        "id": qos.id, "name": qos.name, "consumer": qos.consumer,
                        "created_at": view::time(qos.created_at),
                    }),
                    item: qos,
                })
                .collect();
            let page = listing::page(&call, &LIST, most, items)?;
            let all: Vec<Value> = page.items.iter().map(shown).collect();
            let mut body = json!({"qos_specs": all});
            if let Some(links) = &page.links {
                body[LIST.links] = links.clone();
            }
            Ok(body)
        })
        .await?;
    Ok(Reply::ok(body))
}

/// Who applies them.
fn consumer(text: &str) -> Result<String> {
    match text {
        "front-end" | "back-end" | "both" => Ok(text.to_owned()),
        _ => Err(Fault::bad(
            "Invalid qos specs: Valid consumer of QoS specs are: ['front-end', 'back-end', 'both']",
        )),
    }
}

/// Names and values; numbers are taken as texts.
fn specs_of(body: &serde_json::Map<String, Value>, leave_out: &[&str]) -> Result<Map> {
    let mut texts = serde_json::Map::new();
    for (name, value) in body {
        if leave_out.contains(&name.as_str()) {
            continue;
        }
        let text = match value {
            Value::Number(number) => Value::String(number.to_string()),
            other => other.clone(),
        };
        texts.insert(name.clone(), text);
    }
    check::texts("qos_specs", &Value::Object(texts))
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("name", Kind::FullName, Need::Must),
        ("consumer", Kind::OptionalText, Need::May),
    ];
    let body = check::object(&call.body, "qos_specs", FIELDS, true)?;
    let who = check::text(body, "consumer").unwrap_or_else(|| "back-end".to_owned());
    let qos = Qos {
        id: uuid::Uuid::new_v4().to_string(),
        name: check::trimmed(body, "name").unwrap_or_default(),
        consumer: consumer(&who)?,
        specs: specs_of(body, &["name", "consumer"])?,
        created_at: Timestamp::now(),
    };
    let answer = detail(&call, &qos);
    service
        .write(move |tx| {
            db::insert(tx, &qos).map_err(|error| match error.is_unique_violation() {
                true => Fault::conflict(format!("QoS Specs {} already exists.", qos.name)),
                false => error.into(),
            })
        })
        .await?;
    Ok(Reply::ok(answer))
}

fn associated(tx: &mut Tx<'_>, id: &str) -> Result<Vec<VolumeType>> {
    Ok(db::find::<VolumeType>(tx, &[("qos_id", id.into())])?)
}

async fn one(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    let force = call.query.yes("force")?;
    service
        .write(move |tx| {
            let mut qos = seen(tx, &id)?;
            match call.method {
                Method::GET => Ok(Reply::ok(detail(&call, &qos))),
                Method::PUT => {
                    let body = check::object(&call.body, "qos_specs", &[], true)?;
                    if let Some(who) = check::text(body, "consumer") {
                        qos.consumer = consumer(&who)?;
                    }
                    qos.specs.extend(specs_of(body, &["consumer"])?);
                    db::save(tx, &qos)?;
                    Ok(Reply::ok(call.body.clone()))
                }
                _ => {
                    let using = associated(tx, &id)?;
                    if !using.is_empty() && !force {
                        return Err(Fault::bad(
                            "Failed to delete qos specs: it is still in use.",
                        ));
                    }
                    for mut kind in using {
                        kind.qos_id = None;
                        db::save(tx, &kind)?;
                    }
                    db::delete::<Qos>(tx, &id)?;
                    Ok(Reply::empty(StatusCode::ACCEPTED))
                }
            }
        })
        .await
}

async fn remove_keys(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let keys = call.body["keys"].as_array().cloned().unwrap_or_default();
    if keys.is_empty() || keys.iter().any(|key| !key.is_string()) {
        return Err(Fault::bad(
            "Invalid input for field/attribute keys. It is a list of texts",
        ));
    }
    let id = id.to_owned();
    service
        .write(move |tx| {
            let mut qos = seen(tx, &id)?;
            for key in keys.iter().filter_map(Value::as_str) {
                if qos.specs.remove(key).is_none() {
                    return Err(Fault::not_found(format!(
                        "QoS spec {id} has no spec with key {key}."
                    )));
                }
            }
            db::save(tx, &qos)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn associations(service: &Service, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    let all = service
        .read(move |tx| {
            seen(tx, &id)?;
            let all = associated(tx, &id)?;
            let one = |kind: &VolumeType| json!({"association_type": "volume_type", "name": kind.name, "id": kind.id});
            Ok(all.iter().map(one).collect::<Vec<Value>>())
        })
        .await?;
    Ok(Reply::ok(json!({"qos_associations": all})))
}

async fn associate(service: &Service, call: Call, id: &str, act: &str) -> Result<Reply> {
    let wanted = call.query.last("vol_type_id").map(str::to_owned);
    if wanted.is_none() && act != "disassociate_all" {
        return Err(Fault::bad("Volume Type id must not be None."));
    }
    let (id, act) = (id.to_owned(), act.to_owned());
    service
        .write(move |tx| {
            seen(tx, &id)?;
            let mut kinds = match &wanted {
                Some(wanted) if act != "disassociate_all" => {
                    let kind = db::get::<VolumeType>(tx, wanted)?;
                    vec![kind.ok_or_else(|| Fault::missing("Volume type", wanted))?]
                }
                _ => associated(tx, &id)?,
            };
            for kind in &mut kinds {
                match (act.as_str(), &kind.qos_id) {
                    ("associate", Some(other)) if *other != id => {
                        return Err(Fault::bad(format!(
                            "Invalid volume type: Type {} is already associated with another qos specs: {other}",
                            kind.id
                        )));
                    }
                    ("associate", _) => kind.qos_id = Some(id.clone()),
                    _ => kind.qos_id = None,
                }
                db::save(tx, kind)?;
            }
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
