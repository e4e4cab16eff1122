//! A service on a temporary database, and a validator that knows a few tokens.

use super::answer_schemas::hold;
use super::documented;
use crate::{Config, Deps, Secrets, Service};
use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use clients::{HostQuestions, Images, Networks};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::ServiceExt;
use types::agent::{FailureKind, Question};
use types::{Caller, HostName, ServerId};
use web::auth::{AuthError, TokenValidator};

/// The demo project.
pub const DEMO: &str = "0de30000000000000000000000000001";
/// Another project.
pub const OTHER: &str = "07be0000000000000000000000000002";

struct Tokens;

#[async_trait]
impl TokenValidator for Tokens {
    async fn knows_project(&self, id: &str) -> bool {
        id != "nowhere"
    }

    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let lasts = match token {
            "brief" => 2,
            _ => 3600,
        };
        let (user, project, roles): (&str, &str, &[&str]) = match token {
            "admin" => (
                "admin-user",
                "ad000000000000000000000000000000",
                &["admin", "manager", "member", "reader"],
            ),
            "plain" => (
                "plain-user",
                "ad000000000000000000000000000000",
                &["member", "reader"],
            ),
            "member" | "brief" => ("demo-user", DEMO, &["member", "reader"]),
            "reader" => ("read-user", DEMO, &["reader"]),
            "manager" => ("manage-user", DEMO, &["manager", "member", "reader"]),
            "padmin" => (
                "project-admin",
                DEMO,
                &["admin", "manager", "member", "reader"],
            ),
            "service" => ("nova", "5e000000000000000000000000000003", &["service"]),
            "other" => ("other-user", OTHER, &["member", "reader"]),
            "nobody" => ("nobody", DEMO, &[]),
            "system" | "domain" => ("admin-user", "", &["admin", "manager", "member", "reader"]),
            _ => return Err(AuthError::Invalid),
        };
        Ok(Arc::new(Caller {
            user_id: user.into(),
            user_name: user.into(),
            project_id: (!project.is_empty()).then(|| project.into()),
            system_scope: token == "system",
            domain_id: (token == "domain").then(|| "default".into()),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            expires_at: types::Timestamp::now().plus(std::time::Duration::from_secs(lasts)),
            ..Caller::default()
        }))
    }
}

/// The cloud's own token.
struct OfCloud;

#[async_trait]
impl clients::ServiceTokens for OfCloud {
    async fn token(&self) -> Result<String, clients::ClientError> {
        Ok("service".to_owned())
    }

    async fn token_in(&self, _project_id: &str) -> Result<String, clients::ClientError> {
        self.token().await
    }
}

/// A running API.
pub struct Cloud {
    pub service: Service,
    pub store: sql::Store,
    pub volumes: Arc<testkit::Volumes>,
    pub keys: Arc<testkit::KeyManager>,
    /// The server to which the floating IP leads, by the port.
    pub leads_to: Leads,
    /// How many requests the network service has turned away while it was away.
    pub network_away: Away,
    /// What a worker in the process was told of new servers.
    pub handed_over: Arc<Mutex<Vec<db::placing::ToBePlaced>>>,
    /// What the image [`ODD`] says.
    pub odd: Odd,
}

/// Properties of an image.
pub type Odd = Arc<Mutex<Value>>;

/// None: it is there.
pub type Away = Arc<Mutex<Option<usize>>>;

/// A server by its id, or nothing.
pub type Leads = Arc<Mutex<String>>;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// The fault's name and message.
    pub fn fault(&self) -> (String, String) {
        let json = self.json();
        let Some((name, inner)) = json.as_object().and_then(|map| map.iter().next()) else {
            return (String::new(), self.text.clone());
        };
        (
            name.clone(),
            inner["message"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

/// Nobody runs tasks here: waiting for them is in vain.
pub fn config() -> Config {
    Config {
        seen_within: Duration::ZERO,
        ..Config::default()
    }
}

impl Cloud {
    pub async fn new() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: Config) -> Self {
        Self::on(sql::Store::temporary().await.unwrap(), config).await
    }

    /// The same on a database that is given.
    pub async fn on(store: sql::Store, config: Config) -> Self {
        let volumes = Arc::new(testkit::Volumes::default());
        let keys = Arc::new(testkit::KeyManager::default());
        let (leads_to, network_away) = (Leads::default(), Away::default());
        let handed_over = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&handed_over);
        let odd = Odd::default();
        let deps = Deps {
            store: store.clone(),
            validator: Arc::new(Tokens),
            images: Images::new(web::client::Client::in_process(
                "image",
                image_service(Arc::clone(&odd)),
            )),
            networks: Networks::new(web::client::Client::in_process(
                "network",
                network_service(Arc::clone(&leads_to)).layer(axum::middleware::from_fn_with_state(
                    Arc::clone(&network_away),
                    may_answer,
                )),
            )),
            volumes: clients::Volumes::new(web::client::Client::in_process(
                "volume",
                volumes.router(),
            )),
            keys: clients::Keys::new(web::client::Client::in_process("keys", keys.router())),
            tokens: Arc::new(OfCloud),
            bus: bus::Bus::new(),
            hand_over: Arc::new(move |_, server| {
                kept.lock().unwrap().push(server);
                false
            }),
            questions: Arc::new(Host),
            secrets: Arc::new(Backwards),
        };
        Self {
            service: Service::open(deps, config).await.unwrap(),
            store,
            volumes,
            keys,
            leads_to,
            network_away,
            handed_over,
            odd,
        }
    }

    /// Sends a request with any headers.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let (status, headers, bytes) = self.exchange(method, path, headers, body).await;
        Answer {
            status,
            headers,
            text: String::from_utf8(bytes).unwrap(),
        }
    }

    /// The page for Prometheus.
    pub async fn metrics(&self) -> String {
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let answer = self.service.metrics().oneshot(request).await.unwrap();
        let bytes = web::body::bytes(answer.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// The headers and the bytes of an answer that is not text.
    pub async fn raw_bytes(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (HeaderMap, Vec<u8>) {
        let (_, headers, bytes) = self.exchange(method, path, headers, body).await;
        (headers, bytes)
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        sent: &str,
    ) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::builder()
            .method(method.parse::<Method>().unwrap())
            .uri(path)
            .header("host", "cloud:8774");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(sent.to_owned())).unwrap();
        let answer = self.service.router().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = web::body::bytes(body, 1 << 24).await.unwrap();
        documented::hold(method, path, sent, parts.status, &parts.headers, &bytes);
        hold(method, path, sent, parts.status, &parts.headers, &bytes);
        (parts.status, parts.headers, bytes.to_vec())
    }

    /// Sends JSON as the holder of a token at `2.version`.
    pub async fn send(
        &self,
        token: &str,
        version: u16,
        method: &str,
        path: &str,
        body: Value,
    ) -> Answer {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let version = format!("compute 2.{version}");
        let headers = [
            ("x-auth-token", token),
            ("openstack-api-version", version.as_str()),
            ("content-type", "application/json"),
        ];
        self.raw(method, &format!("/v2.1{path}"), &headers, &text)
            .await
    }

    /// Reads as the holder of a token.
    pub async fn get(&self, token: &str, version: u16, path: &str) -> Answer {
        self.send(token, version, "GET", path, Value::Null).await
    }
}

/// An image of one GiB at most.
pub const IMAGE: &str = "70a599e0-31e7-49b7-b260-868f441e862b";
/// An image that needs much memory.
pub const HUNGRY: &str = "70a599e0-31e7-49b7-b260-868f441e862c";
/// An image that is too large for small disks.
pub const LARGE: &str = "70a599e0-31e7-49b7-b260-868f441e862d";
/// An image for other machines than the tests' hosts.
pub const FOREIGN: &str = "70a599e0-31e7-49b7-b260-868f441e862e";
/// An image that needs UEFI.
pub const UEFI: &str = "70a599e0-31e7-49b7-b260-868f441e862f";
/// The demo project's network; the other project sees it and one more.
pub const NETWORK: &str = "11111111-31e7-49b7-b260-868f441e862b";
/// A second network, of the other project.
pub const SECOND: &str = "22222222-31e7-49b7-b260-868f441e862b";
/// A free port without an address.
pub const BARE: &str = "99999999-31e7-49b7-b260-868f441e862b";
/// The same that is to have none.
pub const ADDRESSLESS: &str = "aaaaaaaa-31e7-49b7-b260-868f441e862b";
/// The server that has the tests' address.
pub const SERVER_THERE: &str = "bbbbbbbb-31e7-49b7-b260-868f441e862b";
/// The address of the tests' port.
pub const ADDRESS: &str = "192.168.1.30";
/// A free port.
pub const PORT: &str = "33333333-31e7-49b7-b260-868f441e862b";
/// A floating IP that leads nowhere, and its address.
pub const FLOATING: (&str, &str) = ("88888888-31e7-49b7-b260-868f441e862b", "172.24.4.9");
/// The security groups: that of the tests' port, and another.
pub const GROUPS: [&str; 2] = [
    "66666666-31e7-49b7-b260-868f441e862b",
    "77777777-31e7-49b7-b260-868f441e862b",
];
/// A port in use.
pub const BUSY: &str = "44444444-31e7-49b7-b260-868f441e862b";

/// An image that says that it is signed, with the certificate `signer`.
pub const SIGNED: &str = "55555555-31e7-49b7-b260-868f441e862b";

/// An image with the properties that a test gives it.
pub const ODD: &str = "70a599e0-31e7-49b7-b260-868f441e8630";

/// A kernel.
pub const KERNEL: &str = "70a599e0-31e7-49b7-b260-868f441e8631";
/// A RAM disk.
pub const RAMDISK: &str = "70a599e0-31e7-49b7-b260-868f441e8632";

fn image_service(odd: Odd) -> Router {
    async fn show(
        State(odd): State<Odd>,
        Path(id): Path<String>,
    ) -> Result<Json<Value>, StatusCode> {
        let (ram, size) = match id.as_str() {
            IMAGE => (0, 1000),
            HUNGRY => (4096, 1000),
            LARGE => (0, 9_000_000_000_u64),
            FOREIGN | UEFI | SIGNED | ODD | KERNEL | RAMDISK => (0, 1000),
            _ => return Err(StatusCode::NOT_FOUND),
        };
        let mut image = json!({
            "id": id, "name": "cirros", "status": "active", "visibility": "public", "size": size, "min_ram": ram, "min_disk": 0,
            "disk_format": "qcow2", "container_format": "bare", "owner": "x", "os_distro": "cirros", "auto_disk_config": "True",
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        });
        if let Some(format) = [(KERNEL, "aki"), (RAMDISK, "ari")]
            .iter()
            .find_map(|(its, format)| (*its == id).then_some(*format))
        {
            image["disk_format"] = format.into();
            image["container_format"] = format.into();
        }
        if id == UEFI {
            image["hw_firmware_type"] = "uefi".into();
        }
        if id == SIGNED {
            image["img_signature"] = "c2lnbmVk".into();
            image["img_signature_hash_method"] = "SHA-256".into();
            image["img_signature_key_type"] = "ECC_SECP384R1".into();
            image["img_signature_certificate_uuid"] = "signer".into();
        }
        if id == FOREIGN {
            image["hw_architecture"] = "aarch64".into();
            image["name"] = Value::Null;
            image["instance_uuid"] = SERVER_THERE.into();
            let properties = image.as_object_mut();
            properties.map(|all| all.remove("auto_disk_config"));
        }
        if id == ODD {
            let says = odd.lock().unwrap().clone();
            for (name, value) in says.as_object().into_iter().flatten() {
                image[name] = value.clone();
            }
        }
        Ok(Json(image))
    }
    /// The other project has an image of its own, without a name.
    async fn list(odd: State<Odd>, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
        let Json(image) = show(odd.clone(), Path(IMAGE.to_owned())).await?;
        let mut images = vec![image];
        if headers
            .get("x-auth-token")
            .is_some_and(|token| token == "other")
        {
            let Json(own) = show(odd, Path(FOREIGN.to_owned())).await?;
            images.push(own);
        }
        Ok(Json(json!({ "images": images })))
    }
    async fn make(Json(wanted): Json<Value>) -> (StatusCode, Json<Value>) {
        if wanted["name"] == "refused" {
            return (
                StatusCode::FORBIDDEN,
                Json(json!({ "message": "no more images" })),
            );
        }
        (
            StatusCode::CREATED,
            Json(json!({ "id": uuid::Uuid::new_v4(), "status": "queued" })),
        )
    }
    Router::new()
        .route("/v2/images", get(list).post(make))
        .route(
            "/v2/images/{id}",
            get(show)
                .patch(show)
                .delete(async |odd: State<Odd>, id: Path<String>| {
                    show(odd, id).await.map(|_| StatusCode::NO_CONTENT)
                }),
        )
        .route(
            "/v2/images/{id}/members",
            axum::routing::post(async || StatusCode::OK),
        )
        .with_state(odd)
}

fn network(id: &str) -> Value {
    json!({ "id": id, "name": "private", "mtu": 1500, "shared": id == NETWORK, "router:external": false, "subnets": ["s"],
        "project_id": OTHER, "port_security_enabled": true })
}

async fn may_answer(
    State(away): State<Away>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Result<axum::response::Response, StatusCode> {
    if let Some(turned_away) = &mut *away.lock().unwrap() {
        *turned_away += 1;
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    Ok(next.run(request).await)
}

fn network_service(leads_to: Leads) -> Router {
    async fn networks(Query(query): Query<HashMap<String, String>>) -> Json<Value> {
        let list = match query.get("project_id").map(String::as_str) {
            Some(OTHER) => vec![network(SECOND)],
            Some(_) => vec![],
            None => vec![network(NETWORK)],
        };
        Json(json!({ "networks": list }))
    }
    async fn one(Path(id): Path<String>) -> Result<Json<Value>, StatusCode> {
        if id == NETWORK || id == SECOND {
            Ok(Json(json!({ "network": network(&id) })))
        } else {
            Err(StatusCode::NOT_FOUND)
        }
    }
    async fn port(
        State(leads_to): State<Leads>,
        Path(id): Path<String>,
    ) -> Result<Json<Value>, StatusCode> {
        let device = match id.as_str() {
            PORT => leads_to.lock().unwrap().clone(),
            BUSY => "someone".to_owned(),
            BARE | ADDRESSLESS => String::new(),
            _ => return Err(StatusCode::NOT_FOUND),
        };
        let mut port = json!({ "id": id, "network_id": NETWORK, "mac_address": "fa:16:3e:00:00:01", "fixed_ips": [],
            "device_id": device, "device_owner": "", "project_id": DEMO, "binding:host_id": "", "status": "DOWN", "security_groups": [] });
        if id == ADDRESSLESS {
            port["ip_allocation"] = "none".into();
        } else if id != BARE {
            let subnet = "55555555-31e7-49b7-b260-868f441e862b";
            port["fixed_ips"] = json!([{ "subnet_id": subnet, "ip_address": ADDRESS }]);
        }
        Ok(Json(json!({ "port": port })))
    }
    async fn ports(Query(query): Query<HashMap<String, String>>) -> Json<Value> {
        if let Some(address) = query.get("fixed_ips") {
            let taken = *address == format!("ip_address={ADDRESS}");
            let device = json!({ "device_id": SERVER_THERE });
            return Json(json!({ "ports": if taken { vec![device] } else { vec![] } }));
        }
        Json(
            json!({ "ports": [{ "id": PORT, "network_id": NETWORK, "mac_address": "fa:16:3e:00:00:01", "device_id": "",
            "fixed_ips": [{ "subnet_id": "55555555-31e7-49b7-b260-868f441e862b", "ip_address": "192.168.1.30" }], "status": "ACTIVE", "security_groups": [GROUPS[0]] }] }),
        )
    }
    fn group_named(id: &str) -> Option<Value> {
        let name = ["default", "web"][GROUPS.iter().position(|known| *known == id)?];
        Some(
            json!({ "id": id, "name": name, "description": "d", "tenant_id": DEMO, "security_group_rules": [] }),
        )
    }
    async fn groups() -> Json<Value> {
        Json(json!({ "security_groups": GROUPS.map(group_named) }))
    }
    async fn group(Path(id): Path<String>) -> Result<Json<Value>, StatusCode> {
        let found = group_named(&id).ok_or(StatusCode::NOT_FOUND)?;
        Ok(Json(json!({ "security_group": found })))
    }
    async fn no_group(Path(id): Path<String>) -> StatusCode {
        group_named(&id).map_or(StatusCode::NOT_FOUND, |_| StatusCode::NO_CONTENT)
    }
    async fn new_rule(Json(wanted): Json<Value>) -> (StatusCode, Json<Value>) {
        let mut rule = wanted["security_group_rule"].clone();
        rule["id"] = PORT.into();
        (
            StatusCode::CREATED,
            Json(json!({ "security_group_rule": rule })),
        )
    }
    async fn no_rule(Path(id): Path<String>) -> StatusCode {
        if id == PORT {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::NOT_FOUND
        }
    }
    async fn new_group(Json(wanted): Json<Value>) -> (StatusCode, Json<Value>) {
        let (name, text) = (
            &wanted["security_group"]["name"],
            &wanted["security_group"]["description"],
        );
        let group = json!({ "id": PORT, "name": name, "description": text, "tenant_id": DEMO, "security_group_rules": [] });
        (
            StatusCode::CREATED,
            Json(json!({ "security_group": group })),
        )
    }
    fn address(leads_to: &Leads) -> Value {
        let port = (!leads_to.lock().unwrap().is_empty()).then_some(PORT);
        json!({ "id": FLOATING.0, "floating_ip_address": FLOATING.1, "floating_network_id": NETWORK, "fixed_ip_address": null,
            "port_id": port, "port_details": null })
    }
    async fn new_floating_ip(State(leads_to): State<Leads>) -> (StatusCode, Json<Value>) {
        let made = address(&leads_to);
        (StatusCode::CREATED, Json(json!({ "floatingip": made })))
    }
    /// The other project has none.
    async fn floating_ips(
        State(leads_to): State<Leads>,
        Query(query): Query<HashMap<String, String>>,
    ) -> Json<Value> {
        let project = query
            .get("project_id")
            .is_none_or(|project| project != OTHER);
        let asked = query
            .get("floating_ip_address")
            .is_none_or(|asked| asked == FLOATING.1);
        let found: Vec<Value> = (project && asked)
            .then(|| address(&leads_to))
            .into_iter()
            .collect();
        Json(json!({ "floatingips": found }))
    }
    async fn floating_ip(
        State(leads_to): State<Leads>,
        Path(id): Path<String>,
    ) -> Result<Json<Value>, StatusCode> {
        let found = (id == FLOATING.0).then(|| address(&leads_to));
        let found = found.ok_or(StatusCode::NOT_FOUND)?;
        Ok(Json(json!({ "floatingip": found })))
    }
    async fn no_floating_ip(Path(id): Path<String>) -> StatusCode {
        if id == FLOATING.0 {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::NOT_FOUND
        }
    }
    Router::new()
        .route("/v2.0/networks", get(networks))
        .route("/v2.0/networks/{id}", get(one))
        .route("/v2.0/ports", get(ports))
        .route("/v2.0/ports/{id}", get(port).put(port))
        .route("/v2.0/security-groups", get(groups).post(new_group))
        .route(
            "/v2.0/security-groups/{id}",
            get(group).put(group).delete(no_group),
        )
        .route("/v2.0/security-group-rules", post(new_rule))
        .route("/v2.0/security-group-rules/{id}", delete(no_rule))
        .route("/v2.0/floatingips", get(floating_ips).post(new_floating_ip))
        .route(
            "/v2.0/floatingips/{id}",
            get(floating_ip).put(floating_ip).delete(no_floating_ip),
        )
        .with_state(leads_to)
}

/// What a host tells of a guest with one CPU, one disk and one interface.
const DIAGNOSTICS: &str = r#"{"power": "Running", "driver": "libvirt", "hypervisor": "kvm", "memory_maximum_mib": 512,
    "memory_used_mib": 256, "cpus": [{"id": 0, "time_ns": 17300000000}],
    "nics": [{"device": "vnet1", "mac": "01:23:45:67:89:ab", "rx_bytes": 1, "rx_packets": 1, "rx_errors": 0, "rx_drop": 0,
        "tx_bytes": 1, "tx_packets": 1, "tx_errors": 0, "tx_drop": 0}],
    "disks": [{"device": "vda", "read_bytes": 1, "read_requests": 1, "write_bytes": 1, "write_requests": 1, "errors": 0}]}"#;

/// A host whose guests print three lines.
struct Host;

#[async_trait]
impl HostQuestions for Host {
    async fn ask(
        &self,
        host: &HostName,
        _server: ServerId,
        question: Question,
    ) -> Result<String, (FailureKind, String)> {
        match question {
            // "a\nb\nc\n"
            Question::ConsoleLog { .. } => Ok("YQpiCmMK".to_owned()),
            // Not every host counts everything.
            Question::Diagnostics if host.as_str() == "h2" => {
                Ok(DIAGNOSTICS.replace("\"memory_used_mib\": 256,", ""))
            }
            Question::Diagnostics => Ok(DIAGNOSTICS.to_owned()),
            Question::AbortLive
            | Question::ForceLive
            | Question::GuestCpu
            | Question::LacksCpu { .. } => Ok(String::new()),
            Question::Holdings { .. } => Ok("{\"guests\": [], \"unused\": []}".to_owned()),
            Question::CacheImage(_) => Ok("cached".to_owned()),
            Question::Uptime => Ok(
                " 08:32:11 up 93 days, 18:25, 12 users,  load average: 0.20, 0.12, 0.14\n"
                    .to_owned(),
            ),
        }
    }
}

/// Not a cipher, but one can see that it was used.
struct Backwards;

impl Secrets for Backwards {
    fn seal(&self, clear: &str) -> String {
        clear.chars().rev().collect()
    }

    fn open(&self, sealed: &str) -> Option<String> {
        Some(sealed.chars().rev().collect())
    }
}
