//! An image service in memory, as much of the Image API as compute uses.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Images by the order in which they were made.
#[derive(Default)]
pub struct Images {
    images: Mutex<Vec<Value>>,
    /// What is in an image, and how often it was fetched.
    data: Mutex<HashMap<String, (Vec<u8>, usize)>>,
}

impl Images {
    /// The API.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(answer).with_state(Arc::clone(self))
    }

    /// Makes an image without data, as the API does for a snapshot.
    pub fn make(&self, properties: &Value) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let mut image = properties.clone();
        image["id"] = id.as_str().into();
        image["status"] = "queued".into();
        self.images.lock().unwrap().push(image);
        id
    }

    /// An image is as it was left long ago.
    pub fn long_ago(&self, id: &str, status: &str) {
        let mut images = self.images.lock().unwrap();
        let its = images.iter_mut().find(|image| image["id"] == id).unwrap();
        its["status"] = status.into();
        its["updated_at"] = "2020-02-02T02:02:02Z".into();
    }

    /// Puts bytes under the id of an image, which need not be listed.
    pub fn put(&self, id: &str, bytes: &[u8]) {
        let mut data = self.data.lock().unwrap();
        data.insert(id.to_owned(), (bytes.to_vec(), 0));
    }

    /// How often the bytes of an image were fetched.
    pub fn fetched(&self, id: &str) -> usize {
        let data = self.data.lock().unwrap();
        data.get(id).map_or(0, |(_, times)| *times)
    }

    /// The images of an `image_type`.
    pub fn of_type(&self, kind: &str) -> Vec<String> {
        let images = self.images.lock().unwrap();
        let of_kind = images.iter().filter(|image| image["image_type"] == kind);
        of_kind
            .filter_map(|image| image["id"].as_str().map(str::to_owned))
            .collect()
    }

    /// An image is gone, whoever deleted it.
    pub fn lose(&self, id: &str) {
        self.images
            .lock()
            .unwrap()
            .retain(|image| image["id"] != id);
    }

    /// The images there are, with their status.
    pub fn all(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let images = self.images.lock().unwrap();
        images
            .iter()
            .map(|image| (text(&image["id"]), text(&image["status"])))
            .collect()
    }
}

async fn answer(State(service): State<Arc<Images>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    // Whatever is sent is read to its end.
    let sent = axum::body::to_bytes(body, 64 << 20).await;
    let path: Vec<&str> = parts.uri.path().split('/').skip(2).collect();
    let mut images = service.images.lock().unwrap();
    let place = path
        .get(1)
        .and_then(|id| images.iter().position(|image| image["id"] == **id));
    match (parts.method, &path[..], place) {
        (Method::GET, ["images", id, "file"], _) => {
            let mut data = service.data.lock().unwrap();
            let Some((bytes, times)) = data.get_mut(*id) else {
                return StatusCode::NOT_FOUND.into_response();
            };
            *times += 1;
            bytes.clone().into_response()
        }
        (Method::GET, ["images"], _) => {
            let query = parts.uri.query().unwrap_or_default();
            let wanted: Vec<(&str, &str)> = query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .filter(|(name, _)| !["sort_key", "sort_dir", "limit"].contains(name))
                .collect();
            let plain = |value: &str| value.replace("%2D", "-");
            let fits = |image: &&Value| {
                wanted
                    .iter()
                    .all(|(name, value)| image[*name] == plain(value))
            };
            let found: Vec<&Value> = images.iter().rev().filter(fits).collect();
            axum::Json(json!({ "images": found })).into_response()
        }
        (Method::GET, ["images", _], Some(place)) => {
            axum::Json(images[place].clone()).into_response()
        }
        (Method::PUT, ["images", _, "file"], Some(place)) => {
            if images[place]["status"] != "queued" {
                return StatusCode::CONFLICT.into_response();
            }
            let named = images[place]["block_device_mapping"].is_string();
            assert!(named || sent.unwrap().starts_with(b"QFI"), "a qcow2 file");
            images[place]["status"] = "active".into();
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::PATCH, ["images", _], Some(place)) => {
            let patch: Value = serde_json::from_slice(&sent.unwrap()).unwrap();
            for change in patch.as_array().unwrap() {
                let name = change["path"].as_str().unwrap().trim_start_matches('/');
                images[place][name] = change["value"].clone();
            }
            axum::Json(images[place].clone()).into_response()
        }
        (Method::DELETE, ["images", _], Some(place)) if images[place]["protected"] == true => {
            StatusCode::FORBIDDEN.into_response()
        }
        (Method::DELETE, ["images", _], Some(place)) => {
            images.remove(place);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
