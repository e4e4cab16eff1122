//! Tasks: what imports do or did (Image API v2, "Tasks"). `POST` knows the type `import` only as far as its checks; the
//! import itself has an API of its own.

use super::{allowed, json_body};
use crate::access::Access;
use crate::db;
use crate::fault::Fault;
use crate::model::Task;
use crate::service::Service;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long the name of a foreign host may take.
const LOOKING_UP: Duration = Duration::from_secs(5);

/// A task as every list shows it.
fn brief(task: &Task) -> Map<String, Value> {
    let time = types::Timestamp::iso_seconds_z;
    let fields = json!({
        "id": task.id, "type": task.kind, "status": task.status, "owner": task.owner,
        "created_at": time(task.created_at), "updated_at": time(task.updated_at),
        "expires_at": task.expires_at.map(time),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn whole(task: &Task) -> Map<String, Value> {
    let mut fields = brief(task);
    let input: Value = serde_json::from_str(&task.input).unwrap_or_default();
    let result = match task.status.as_str() {
        "success" => json!({ "image_id": task.image_id }),
        _ => Value::Null,
    };
    fields.insert("input".to_owned(), input);
    fields.insert("result".to_owned(), result);
    fields.insert("message".to_owned(), json!(task.message));
    fields.insert("image_id".to_owned(), json!(task.image_id));
    fields.insert("request_id".to_owned(), json!(task.request_id));
    fields.insert("user_id".to_owned(), json!(task.user_id));
    fields
}

fn with_links(mut fields: Map<String, Value>) -> Value {
    let own = fields.get("id").and_then(Value::as_str);
    let own = format!("/v2/tasks/{}", own.unwrap_or_default());
    fields.insert("self".to_owned(), own.into());
    fields.insert("schema".to_owned(), "/v2/schemas/task".into());
    fields.into()
}

/// `GET /v2/images/{id}/tasks`
pub(super) async fn of_image(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    let image = allowed(&service, &id, &access, "get_image").await?;
    let store = &service.inner.store;
    let tasks = store
        .read(move |tx| db::tasks_of_image(tx, &image.id))
        .await?;
    let tasks: Vec<Value> = tasks
        .iter()
        .map(|task| {
            let mut fields = whole(task);
            fields.insert("deleted".to_owned(), json!(false));
            fields.insert("deleted_at".to_owned(), Value::Null);
            fields.into()
        })
        .collect();
    Ok(Json(json!({ "tasks": tasks })))
}

/// `GET /v2/tasks`
pub(super) async fn list(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
) -> Result<Json<Value>, Fault> {
    access.require_plain("tasks_api_access")?;
    let limit = service.inner.config.max_limit;
    let store = &service.inner.store;
    let tasks = store.read(move |tx| db::tasks(tx, limit)).await?;
    let tasks: Vec<Value> = tasks.iter().map(|task| with_links(brief(task))).collect();
    Ok(Json(json!({
        "tasks": tasks, "first": "/v2/tasks", "schema": "/v2/schemas/tasks",
    })))
}

/// `GET /v2/tasks/{id}`
pub(super) async fn show(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    access.require_plain("tasks_api_access")?;
    let wanted = id.clone();
    let store = &service.inner.store;
    let task = store.read(move |tx| db::task_by_id(tx, &wanted)).await?;
    let task = task.ok_or_else(|| Fault::not_found(format!("No task found with ID {id}")))?;
    Ok(Json(with_links(whole(&task))))
}

/// `POST /v2/tasks`
pub(super) async fn create(
    Extension(access): Extension<Access>,
    body: Body,
) -> Result<StatusCode, Fault> {
    access.require_plain("tasks_api_access")?;
    let body = json_body(body).await?;
    let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind != "import" {
        let words = format!("Invalid type of task: '{kind}'. Only 'import' is known.");
        return Err(Fault::bad_request(words));
    }
    let input = body.get("input").and_then(Value::as_object);
    let input = input.ok_or_else(|| Fault::bad_request("'input' is a required property"))?;
    for name in ["import_from", "import_from_format", "image_properties"] {
        if !input.contains_key(name) {
            let words = format!("Input does not contain '{name}' field");
            return Err(Fault::bad_request(words));
        }
    }
    let source = input["import_from"].as_str().unwrap_or_default();
    check_source(source).await?;
    Err(Fault::new(
        StatusCode::NOT_IMPLEMENTED,
        "Importing from other hosts is not built yet in this cloud.",
    ))
}

/// Refuses what is no address of a host in the network.
async fn check_source(source: &str) -> Result<(), Fault> {
    let wrong = || Fault::bad_request(format!("Invalid import_from: '{source}'"));
    let address: http::Uri = source.parse().map_err(|_| wrong())?;
    let port = match address.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(wrong()),
    };
    let host = address.host().ok_or_else(wrong)?.to_owned();
    let port = address.port_u16().unwrap_or(port);
    let found = tokio::time::timeout(LOOKING_UP, tokio::net::lookup_host((host, port))).await;
    let known = found.is_ok_and(|found| found.is_ok_and(|mut all| all.next().is_some()));
    if known { Ok(()) } else { Err(wrong()) }
}
