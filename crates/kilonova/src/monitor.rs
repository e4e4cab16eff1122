//! What every process shows an operator, without a token and apart from the APIs: `/metrics` for Prometheus,
//! `/healthcheck`, and `/healthcheck/ready`, which looks at what the process really needs.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use clients::{Images, Networks, Volumes};
use http::{Method, StatusCode, header};
use serde_json::{Map, Value, json};
use sql::Store;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use virt::libvirt::Libvirt;
use web::auth::{AuthError, TokenValidator};
use web::figures;

/// How long one part may take to answer, in a process that runs.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(1);
/// After how long without an answer what an agent asks all the time counts as gone; a poll is held for 20 seconds.
const SILENCE: Duration = Duration::from_secs(45);

/// Something that the process needs.
pub(crate) enum Need {
    /// A database.
    Database(Store),
    /// Tokens.
    Identity(Arc<dyn TokenValidator>),
    /// The image service.
    Image(Images),
    /// The network service.
    Network(Networks),
    /// The volume service.
    Volume(Volumes),
    /// What runs guests.
    Libvirt(Arc<Libvirt>),
    /// What an agent asks all the time, by the name its client has.
    Asked(&'static str),
}

impl Need {
    fn name(&self) -> &'static str {
        match self {
            Self::Database(_) => "database",
            Self::Identity(_) => "identity",
            Self::Image(_) => "image",
            Self::Network(_) => "network",
            Self::Volume(_) => "volume",
            Self::Libvirt(_) => "libvirt",
            Self::Asked(service) => service.trim_start_matches("the "),
        }
    }

    async fn look(&self) -> Result<(), String> {
        match self {
            Self::Database(store) => {
                let asked: Result<(), sql::Error> = store.read(|_| Ok(())).await;
                asked.map_err(|error| error.to_string())
            }
            Self::Identity(validator) => match validator.validate("readiness").await {
                Err(AuthError::Unavailable(reason)) => Err(reason),
                _ => Ok(()),
            },
            Self::Image(images) => answered(images.forward("", Method::GET, "/").await),
            Self::Network(networks) => answered(networks.forward("", Method::GET, "/", None).await),
            Self::Volume(volumes) => answered(volumes.versions().await),
            Self::Libvirt(libvirt) => {
                let guests = virt::Hypervisor::guests(libvirt.as_ref()).await;
                guests.map(drop).map_err(|error| error.to_string())
            }
            Self::Asked(service) => recently(service),
        }
    }
}

fn answered(answer: Result<clients::Answer, clients::ClientError>) -> Result<(), String> {
    match answer {
        Ok(answer) if answer.status.is_server_error() => Err(answer.status.to_string()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn recently(service: &str) -> Result<(), String> {
    let asked = figures::all_asked();
    let asked = asked.iter().find(|(name, _)| *name == service);
    match asked.and_then(|(_, asked)| asked.since_answer()) {
        Some(ago) if ago <= SILENCE => Ok(()),
        Some(ago) => Err(format!("no answer for {} s", ago.as_secs())),
        None => Err("no answer yet".to_owned()),
    }
}

/// A process under observation.
struct Monitor {
    role: &'static str,
    needs: Vec<Need>,
    /// How long one of them may take to answer.
    patience: Duration,
    last: Mutex<Option<(Instant, bool, Value)>>,
}

/// The pages of a process that needs these.
pub(crate) fn router(role: &'static str, needs: Vec<Need>) -> Router {
    patient(role, needs, PATIENCE)
}

fn patient(role: &'static str, needs: Vec<Need>, patience: Duration) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthcheck", get(async || "OK"))
        .route("/healthcheck/ready", get(ready))
        .with_state(Arc::new(Monitor {
            role,
            needs,
            patience,
            last: Mutex::default(),
        }))
}

async fn ready(State(monitor): State<Arc<Monitor>>) -> Response {
    let (well, document) = monitor.look().await;
    let status = match well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(document)).into_response()
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> Response {
    let (well, document) = monitor.look().await;
    let mut page = figures::page(monitor.role);
    page.push_str(
        "# HELP kilonova_ready Whether the process can do its work.\n# TYPE kilonova_ready gauge\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(page, "kilonova_ready {}", u8::from(well));
    for (part, told) in document["parts"].as_object().into_iter().flatten() {
        let up = u8::from(told == "ok");
        let _ = writeln!(page, "kilonova_part_up{{part=\"{part}\"}} {up}");
    }
    // The common exporter's names of whole services, where this process is one.
    if let Some(name) = exported(monitor.role) {
        let _ = writeln!(page, "# TYPE {name} gauge\n{name} {}", u8::from(well));
    }
    match monitor.counts().await {
        Ok(counts) => {
            let mut told = "";
            for (name, count) in &counts {
                let family = name.split('{').next().unwrap_or_default();
                if family != told {
                    let _ = writeln!(page, "# TYPE {family} gauge");
                    told = family;
                }
                let _ = writeln!(page, "{name} {count}");
            }
        }
        Err(error) => tracing::warn!(%error, "what there is cannot be counted"),
    }
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, page).into_response()
}

/// The common OpenStack exporter's name for whether a service is up.
fn exported(role: &str) -> Option<&'static str> {
    Some(match role {
        "identity" => "openstack_identity_up",
        "image" => "openstack_glance_up",
        "network" => "openstack_neutron_up",
        "volume" => "openstack_cinder_up",
        "placement" => "openstack_placement_up",
        _ => return None,
    })
}

impl Monitor {
    /// What the service keeps, counted.
    async fn counts(&self) -> Result<Vec<(String, i64)>, sql::Error> {
        let store = self.needs.iter().find_map(|need| match need {
            Need::Database(store) => Some(store),
            _ => None,
        });
        let Some(store) = store else {
            return Ok(Vec::new());
        };
        match self.role {
            "identity" => identity::figures(store).await,
            "image" => image::figures(store).await,
            "network" => network::figures(store).await,
            "volume" => volume::figures(store).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Whether all that the process needs is there, and what is not; asked once for many who ask at once.
    async fn look(&self) -> (bool, Value) {
        let mut last = self.last.lock().await;
        if let Some((at, well, document)) = &*last
            && at.elapsed() < FRESH
        {
            return (*well, document.clone());
        }
        let mut parts = Map::new();
        let mut well = true;
        for need in &self.needs {
            let looked = tokio::time::timeout(self.patience, need.look()).await;
            let looked = looked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            if let Err(reason) = &looked {
                tracing::warn!(
                    role = self.role,
                    part = need.name(),
                    reason,
                    "this process is not ready"
                );
            }
            well &= looked.is_ok();
            let told = looked.map_or("does not answer", |()| "ok");
            parts.insert(need.name().to_owned(), told.into());
        }
        let document = json!({ "ready": well, "role": self.role, "parts": parts });
        *last = Some((Instant::now(), well, document.clone()));
        (well, document)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::body::Body;
    use web::client::Client;

    /// A machine may stand still for some seconds.
    const MINUTE: Duration = Duration::from_secs(60);

    struct Nobody;

    #[async_trait::async_trait]
    impl TokenValidator for Nobody {
        async fn validate(&self, _: &str) -> Result<Arc<types::Caller>, AuthError> {
            Err(AuthError::Invalid)
        }
    }

    async fn ask(client: &Client, path: &str) -> (u16, String) {
        let answer = client
            .call(Method::GET, path, http::HeaderMap::new(), None)
            .await
            .unwrap();
        (
            answer.status.as_u16(),
            String::from_utf8(answer.body.to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn readiness_is_that_of_what_is_needed() {
        let store = Store::temporary().await.unwrap();
        let config = network::Config::default();
        let service = network::Service::open(store.clone(), config, Arc::new(Nobody)).await;
        service.unwrap().bootstrap("p").await.unwrap();
        let well = Client::in_process(
            "the monitor",
            patient("network", vec![Need::Database(store)], MINUTE),
        );
        assert_eq!(ask(&well, "/healthcheck").await, (200, "OK".to_owned()));
        let (status, text) = ask(&well, "/healthcheck/ready").await;
        assert_eq!(status, 200, "{text}");
        let (_, page) = ask(&well, "/metrics").await;
        for line in [
            "kilonova_ready 1",
            "kilonova_part_up{part=\"database\"} 1",
            "openstack_neutron_up 1",
            "openstack_neutron_networks 2",
            "openstack_neutron_ports_no_ips 0",
            "openstack_neutron_routers 1",
            "openstack_neutron_floating_ips 0",
        ] {
            assert!(page.lines().any(|one| one == line), "{line}: {page}");
        }
        assert!(page.contains("process_resident_memory_bytes "), "{page}");

        let images = Images::new(Client::unix(
            "the image service",
            std::path::Path::new("/nowhere"),
        ));
        let needs = vec![
            Need::Image(images),
            Need::Asked("a service that nobody asked"),
        ];
        let ill = Client::in_process("the monitor", router("conductor", needs));
        let (status, text) = ask(&ill, "/healthcheck/ready").await;
        assert_eq!(status, 503, "{text}");
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["parts"]["image"], "does not answer");
        assert!(ask(&ill, "/metrics").await.1.contains("kilonova_ready 0"));
    }

    #[tokio::test]
    async fn an_agent_is_ready_while_it_is_answered() {
        let service = "the service of this test";
        let far = Client::in_process(service, Router::new().fallback(async || Body::empty()));
        let monitor =
            Client::in_process("the monitor", router("compute", vec![Need::Asked(service)]));
        ask(&far, "/").await;
        assert_eq!(ask(&monitor, "/healthcheck/ready").await.0, 200);
        let (_, page) = ask(&monitor, "/metrics").await;
        let line = format!(
            "kilonova_client_requests_total{{service=\"{service}\",result=\"answered\"}} 1"
        );
        assert!(page.contains(&line), "{page}");
    }
}
