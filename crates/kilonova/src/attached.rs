//! What the volume service asks and tells the Compute API about servers that have volumes.

use crate::services::Way;
use crate::settings::Settings;
use anyhow::Result;
use async_trait::async_trait;
use clients::ServiceTokens;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use web::client::{Answer, Client};

/// Attachments of servers name themselves from here on (Compute API, microversion 2.89).
const NAMED_SINCE: &str = "2.89";

/// The Compute API, asked as the user `cinder`.
pub(crate) struct Servers {
    compute: Client,
    tokens: Arc<dyn ServiceTokens>,
}

impl Servers {
    /// The Compute API of the settings.
    pub(crate) fn new(settings: &Settings, tokens: Arc<dyn ServiceTokens>) -> Result<Self> {
        let url = settings.url(settings.compute_port, "/v2.1");
        let compute = Way::there(url, settings)?.client("the compute service");
        Ok(Self { compute, tokens })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let token = ServiceTokens::token(self.tokens.as_ref()).await;
        let token = token.map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        if let Ok(token) = HeaderValue::from_str(&token) {
            headers.insert("x-auth-token", token);
        }
        headers.insert(
            "x-openstack-nova-api-version",
            HeaderValue::from_static(NAMED_SINCE),
        );
        let answer = self.compute.call(method, path, headers, body).await;
        answer.map_err(|error| error.to_string())
    }
}

#[async_trait]
impl volume::Servers for Servers {
    async fn uses(&self, server: &str, volume: &str, attachment: &str) -> Result<bool, String> {
        let path = format!("/servers/{server}/os-volume_attachments/{volume}");
        let answer = self.call(Method::GET, &path, None).await?;
        match answer.status {
            StatusCode::OK => Ok(answer.json()["volumeAttachment"]["attachment_id"] == attachment),
            StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => Ok(false),
            other => Err(format!("the compute service answered {other}")),
        }
    }

    async fn volume_extended(&self, volume: &str, servers: &[String]) -> Result<(), String> {
        let event = |server: &String| json!({"name": "volume-extended", "server_uuid": server, "tag": volume});
        let events: Vec<Value> = servers.iter().map(event).collect();
        let body = json!({"events": events});
        let answer = self
            .call(Method::POST, "/os-server-external-events", Some(&body))
            .await?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(format!("the compute service answered {}", answer.status)),
        }
    }
}
