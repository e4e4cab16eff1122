//! What this site offers, and the schemas.

use crate::fault::Fault;
use crate::schema;
use axum::Json;
use axum::extract::Path;
use serde_json::{Value, json};

/// `GET /v2/schemas/{name}`
pub(super) async fn schema(Path(name): Path<String>) -> Result<Json<Value>, Fault> {
    match name.as_str() {
        "image" => Ok(Json(schema::image())),
        "images" => Ok(Json(schema::images())),
        "member" => Ok(Json(schema::member())),
        "members" => Ok(Json(schema::members())),
        "task" => Ok(Json(schema::task())),
        "tasks" => Ok(Json(schema::tasks())),
        _ => Err(Fault::not_found("The resource could not be found.")),
    }
}

/// `GET /v2/schemas/metadefs/{name}`
pub(super) async fn metadef_schema(Path(name): Path<String>) -> Result<Json<Value>, Fault> {
    let found = crate::metadef_schema::named(&name);
    found
        .map(Json)
        .ok_or_else(|| Fault::not_found("The resource could not be found."))
}

/// `GET /v2/info/import`
pub(super) async fn import() -> Json<Value> {
    Json(json!({"import-methods": {
        "description": "Import methods available.",
        "type": "array",
        "value": [super::import::GLANCE_DIRECT],
    }}))
}

/// `GET /v2/info/stores`: there is one store, so, as in Glance, there is nothing to choose.
pub(super) async fn stores() -> Fault {
    Fault::not_found("Multi backend is not supported at this site.")
}
