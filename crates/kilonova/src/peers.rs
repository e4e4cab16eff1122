//! Other hosts' agents: a conductor knows where they are and which guests move, their certificates say who they are.

use crate::place::Place;
use compute::peers::{Peers, Way};
use http::{HeaderMap, Method};
use rustls::ClientConfig;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use types::{HostName, ServerId};
use web::client::Client;

/// A host gets ready for a guest within this time; what it sends then may take longer.
const ANSWER: Duration = Duration::from_secs(120);

/// The other machines, as one of them sees them.
pub(crate) struct Machines {
    /// This host.
    pub(crate) host: String,
    pub(crate) conductor: Client,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) port: u16,
}

impl Machines {
    async fn ask(&self, path: &str) -> Option<Value> {
        let path = format!("/agent/{}/peers/{path}", self.host);
        let asked = self
            .conductor
            .call(Method::GET, &path, HeaderMap::new(), None)
            .await;
        match asked {
            Ok(answer) if answer.status.is_success() => Some(answer.json()),
            Ok(answer) => {
                tracing::warn!(path, status = %answer.status, "the conductor does not say where a host is");
                None
            }
            Err(error) => {
                tracing::warn!(path, %error, "the conductor does not say where a host is");
                None
            }
        }
    }
}

#[async_trait::async_trait]
impl Peers for Machines {
    async fn reach(&self, host: &HostName) -> Option<Arc<Client>> {
        let answer = self.ask(&host.0).await?;
        let base = Place::url(answer["address"].as_str()?, self.port);
        let tls = Arc::clone(&self.tls);
        match Client::https_of("the other host", &base, &host.0, tls) {
            Ok(client) => Some(Arc::new(client.with_timeout(ANSWER))),
            Err(error) => {
                tracing::warn!(%host, %error, "a host cannot be reached by its name");
                None
            }
        }
    }

    async fn moves(&self, host: &HostName, server: ServerId, way: Way) -> bool {
        let wanted = match way {
            Way::Here => "here",
            Way::There => "there",
        };
        let answer = self.ask(&format!("{host}/servers/{server}")).await;
        answer.is_some_and(|answer| answer["way"] == wanted)
    }
}
