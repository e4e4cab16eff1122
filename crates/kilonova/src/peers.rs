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
/// A conductor that was killed, or its database, is back within this time: no guest stays where it is because of that.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before the conductor is asked again.
const PAUSE: Duration = Duration::from_millis(200);

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
        asked(&self.conductor, &path, PATIENCE).await
    }
}

/// What the conductor says, which it may take this time to say.
async fn asked(conductor: &Client, path: &str, patience: Duration) -> Option<Value> {
    let until = tokio::time::Instant::now() + patience;
    loop {
        let said = conductor
            .call(Method::GET, path, HeaderMap::new(), None)
            .await;
        let (reason, passing) = match said {
            Ok(answer) if answer.status.is_success() => return Some(answer.json()),
            Ok(answer) => (answer.status.to_string(), answer.status.is_server_error()),
            Err(error) => (error.to_string(), true),
        };
        if !passing || tokio::time::Instant::now() >= until {
            tracing::warn!(path, reason, "the conductor does not say where a host is");
            return None;
        }
        tokio::time::sleep(PAUSE).await;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::Router;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use http::StatusCode;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A conductor that answers this so many times and then says which way; gives it and how often it was asked.
    fn conductor(status: StatusCode, times: usize) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let answer = move || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let way = axum::Json(serde_json::json!({ "way": "here" }));
            let answer = if number < times {
                status.into_response()
            } else {
                way.into_response()
            };
            std::future::ready(answer)
        };
        let router = Router::new().route("/way", get(answer));
        (Client::in_process("the conductor", router), asked)
    }

    #[tokio::test]
    async fn a_conductor_that_is_away_is_asked_again_and_one_that_refuses_is_not() {
        let (away, refused) = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::NOT_FOUND);
        let table = [
            (away, 2, PATIENCE, true, 3),
            (away, 1, Duration::ZERO, false, 1),
            (refused, 1, PATIENCE, false, 1),
        ];
        for (status, times, patience, found, count) in table {
            let (client, number) = conductor(status, times);
            let said = asked(&client, "/way", patience).await;
            assert_eq!(said.is_some_and(|said| said["way"] == "here"), found);
            assert_eq!(number.load(Ordering::Relaxed), count, "{status} {times}");
        }
    }
}
