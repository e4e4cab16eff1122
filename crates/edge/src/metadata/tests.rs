#![allow(clippy::unwrap_used)]
use super::*;
use crate::secrets::SecretBox;
use axum::Json;
use axum::body::Body;
use axum::extract::Query;
use axum::routing::get;
use db::instances::{Address, Instance, Interface, SecurityGroupRef};
use http_body_util::BodyExt;
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use tower::ServiceExt;
use types::server::{Flavor, WantedNetworks};
use types::{PowerState, Timestamp, VmState};

const SECRET: &[u8] = b"between proxy and service";
const ID: &str = "11111111-2222-3333-4444-555555555555";
const PROJECT: &str = "0123456789abcdef0123456789abcdef";

struct Tokens;

#[async_trait::async_trait]
impl ServiceTokens for Tokens {
    async fn token_in(&self, _: &str) -> Result<String, ClientError> {
        self.token().await
    }

    async fn token(&self) -> Result<String, ClientError> {
        Ok("service-token".into())
    }
}

fn instance(admin_pass: Option<String>) -> Instance {
    let fixed = Address {
        ip: "10.0.0.5".into(),
        version: 4,
        kind: "fixed".into(),
    };
    Instance {
        number: 0,
        id: ID.parse().unwrap(),
        project_id: PROJECT.into(),
        user_id: "user".into(),
        display_name: "web".into(),
        description: None,
        hostname: "web".into(),
        vm_state: VmState::Active,
        task_state: None,
        power_state: PowerState::Running,
        generation: 1,
        task_id: None,
        host: None,
        node: None,
        node_id: None,
        availability_zone: Some("nova".into()),
        pinned_zone: None,
        launched_on: None,
        flavor: Flavor {
            id: "1".into(),
            name: "m1.tiny".into(),
            memory_mb: 512,
            vcpus: 1,
            root_gb: 1,
            ephemeral_gb: 0,
            swap_mb: 0,
            rxtx_factor: 1.0,
            extra_specs: BTreeMap::new(),
        },
        image: None,
        key_name: Some("mine".into()),
        key_data: Some("ssh-ed25519 AAAA".into()),
        user_data: Some("aGVsbG8=".into()),
        config_drive: false,
        access_ip_v4: None,
        access_ip_v6: None,
        metadata: BTreeMap::new(),
        networks: WantedNetworks::Auto,
        network_info: vec![Interface {
            port_id: "abcdef01-2345-6789-abcd-ef0123456789".into(),
            network_id: "net".into(),
            network_name: "private".into(),
            mac: "fa:16:3e:00:00:01".into(),
            mtu: 1500,
            addresses: vec![fixed],
            preexisting: false,
            tag: None,
        }],
        security_groups: vec![SecurityGroupRef {
            id: "sg".into(),
            name: "default".into(),
        }],
        scheduler_hints: json!({}),
        admin_pass,
        locked: false,
        locked_by: None,
        locked_reason: None,
        reservation_id: "r-abcdefgh".into(),
        launch_index: 0,
        root_device_name: Some("/dev/vda".into()),
        progress: 0,
        fault: None,
        created_at: Timestamp(0),
        updated_at: None,
        launched_at: None,
        terminated_at: None,
        deleted: false,
        kept: db::instances::Kept::default(),
    }
}

/// A network service that knows one subnet, and counts how often it is asked.
fn network_service(asked: Arc<AtomicUsize>) -> Router {
    let subnets = move |Query(query): Query<HashMap<String, String>>, headers: HeaderMap| async move {
        asked.fetch_add(1, Ordering::SeqCst);
        if query.get("network_id").map(String::as_str) != Some("net")
            || headers.get("x-auth-token").unwrap() != "service-token"
        {
            return Json(json!({ "subnets": [] }));
        }
        Json(json!({ "subnets": [{
            "id": "subnet", "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "dns_nameservers": ["9.9.9.9"],
            "host_routes": [], "enable_dhcp": false, "ip_version": 4, "ipv6_address_mode": null,
        }]}))
    };
    Router::new().route("/v2.0/subnets", get(subnets))
}

struct Cloud {
    router: Router,
    store: sql::Store,
    asked: Arc<AtomicUsize>,
}

async fn cloud_with(secret: &[u8], network: Option<Router>) -> Cloud {
    let store = sql::Store::temporary().await.unwrap();
    db::migrate(&store).await.unwrap();
    let secrets = SecretBox::new(SecretBox::generate_key().as_bytes()).unwrap();
    let sealed = secrets.seal("s3cret");
    let server = instance(Some(sealed));
    store
        .write(move |tx| db::instances::insert(tx, &server))
        .await
        .unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let network = network.unwrap_or_else(|| network_service(Arc::clone(&asked)));
    let networks = Networks::new(web::client::Client::in_process(
        "the network service",
        network,
    ));
    let mut config = Config::new(secret);
    config.vendor = json!({ "site": "here" });
    let service = Service::new(
        store.clone(),
        Arc::new(networks),
        Arc::new(Tokens),
        Arc::new(secrets),
        config,
    );
    Cloud {
        router: service.router(),
        store,
        asked,
    }
}

async fn cloud() -> Cloud {
    cloud_with(SECRET, None).await
}

fn sign(secret: &[u8], id: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    hex::encode(mac.chain_update(id).finalize().into_bytes())
}

fn headers_for(secret: &[u8], id: &str, project: &str) -> Vec<(&'static str, String)> {
    vec![
        ("x-instance-id", id.into()),
        ("x-instance-id-signature", sign(secret, id)),
        ("x-tenant-id", project.into()),
        ("x-forwarded-for", "10.0.0.5".into()),
    ]
}

struct Answer {
    status: u16,
    kind: String,
    text: String,
}

impl Cloud {
    async fn ask(&self, method: &str, path: &str, headers: &[(&'static str, String)]) -> Answer {
        self.send(method, path, headers, "").await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, String)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            kind: parts.headers[http::header::CONTENT_TYPE]
                .to_str()
                .unwrap()
                .into(),
            text: String::from_utf8(bytes.into()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &headers_for(SECRET, ID, PROJECT))
            .await
    }
}

#[tokio::test]
async fn a_guest_is_answered() {
    let cloud = cloud().await;
    let text = "text/plain; charset=UTF-8";
    for (path, kind, wanted) in [
        ("/openstack", text, "2012-08-10\n"),
        ("/latest/", text, "meta-data/\nuser-data"),
        ("/latest/meta-data/public-keys/", text, "0=mine"),
        ("/2009-04-04/meta-data/instance-id", text, "i-00000001"),
        ("/latest/meta-data/local-ipv4", text, "10.0.0.5"),
        ("/latest/user-data", text, "hello"),
        ("/openstack/latest/user_data", text, "hello"),
        (
            "/openstack/latest/meta_data.json",
            "application/json",
            r#""admin_pass":"s3cret""#,
        ),
        (
            "/openstack/latest/meta_data.json",
            "application/json",
            r#""hostname":"web.novalocal""#,
        ),
        (
            "/openstack/latest/vendor_data2.json",
            "application/json",
            r#"{"static":{"site":"here"}}"#,
        ),
        (
            "/openstack/latest/network_data.json",
            text,
            r#""netmask":"255.255.255.0""#,
        ),
    ] {
        let answer = cloud.get(path).await;
        assert_eq!(
            (answer.status, answer.kind.as_str()),
            (200, kind),
            "{path}: {}",
            answer.text
        );
        assert!(answer.text.contains(wanted), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn the_list_of_versions_needs_no_proxy_and_nothing_else_goes_without() {
    let cloud = cloud().await;
    let answer = cloud.ask("GET", "/", &[]).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.text.starts_with("1.0\n") && answer.text.ends_with("\nlatest"),
        "{}",
        answer.text
    );
    let good = headers_for(SECRET, ID, PROJECT);
    for (index, name) in [
        (0, "X-Instance-ID header"),
        (1, "X-Instance-ID-Signature header"),
        (2, "X-Tenant-ID header"),
    ] {
        let mut headers = good.clone();
        let taken = headers.remove(index);
        let answer = cloud.ask("GET", "/latest/", &headers).await;
        assert_eq!(answer.status, 400, "{name}");
        assert!(
            answer
                .text
                .contains(&format!("{name} is missing from request.")),
            "{}",
            answer.text
        );
        headers.extend([taken.clone(), taken]);
        let answer = cloud.ask("GET", "/latest/", &headers).await;
        assert_eq!(answer.status, 400, "{name} twice");
        assert!(answer.text.contains("Multiple"), "{}", answer.text);
    }
}

#[tokio::test]
async fn only_the_proxy_can_speak_for_a_guest() {
    let cloud = cloud().await;
    let other = "99999999-2222-3333-4444-555555555555";
    let with_signature = |signature: String| {
        let mut headers = headers_for(SECRET, ID, PROJECT);
        headers[1].1 = signature;
        headers
    };
    let right = sign(SECRET, ID);
    for (what, headers, status) in [
        ("another secret", headers_for(b"guess", ID, PROJECT), 403),
        (
            "the signature of another server",
            with_signature(sign(SECRET, other)),
            403,
        ),
        ("half a signature", with_signature(right[..32].into()), 403),
        ("no hex", with_signature("zz".into()), 403),
        ("an empty signature", with_signature(String::new()), 403),
        (
            "an unknown server",
            headers_for(SECRET, other, PROJECT),
            404,
        ),
        ("no UUID", headers_for(SECRET, "web", PROJECT), 404),
        (
            "another project",
            headers_for(SECRET, ID, "fedcba9876543210fedcba9876543210"),
            404,
        ),
        ("the right one", headers_for(SECRET, ID, PROJECT), 200),
        (
            "another project, after the server is known",
            headers_for(SECRET, ID, ""),
            404,
        ),
    ] {
        let answer = cloud
            .ask("GET", "/openstack/latest/meta_data.json", &headers)
            .await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text);
        assert_eq!(answer.text.contains("s3cret"), status == 200, "{what}");
    }
}

#[tokio::test]
async fn an_empty_secret_answers_nobody() {
    let cloud = cloud_with(b"", None).await;
    let answer = cloud
        .ask("GET", "/latest/", &headers_for(b"", ID, PROJECT))
        .await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn other_methods_and_paths() {
    let cloud = cloud().await;
    for (method, path, status) in [
        ("HEAD", "/latest/meta-data/", 200),
        ("POST", "/latest/meta-data/", 405),
        ("GET", "/latest/nothing", 404),
        ("GET", "/openstack/2030-01-01", 404),
        ("GET", "/openstack/latest/password", 200),
        ("POST", "/openstack/latest/password", 200),
        ("DELETE", "/openstack/latest/password", 400),
        ("POST", "/openstack/2012-08-10/password", 404),
    ] {
        let answer = cloud
            .ask(method, path, &headers_for(SECRET, ID, PROJECT))
            .await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_guest_leaves_a_password_once() {
    let cloud = cloud().await;
    let path = "/openstack/latest/password";
    let headers = headers_for(SECRET, ID, PROJECT);
    let long = "x".repeat(PASSWORD_BYTES + 1);
    for (body, status, kept) in [
        ("", 200, ""),
        (long.as_str(), 400, ""),
        ("sealed by the guest", 200, "sealed by the guest"),
        ("another", 409, "sealed by the guest"),
    ] {
        let answer = cloud.send("POST", path, &headers, body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert_eq!(cloud.get(path).await.text, kept);
    }
    let forged = headers_for(b"wrong", ID, PROJECT);
    assert_eq!(cloud.send("POST", path, &forged, "x").await.status, 403);
}

#[tokio::test]
async fn a_boot_asks_the_network_service_once_and_seeds_are_never_repeated() {
    let cloud = cloud().await;
    let seed = async || {
        let answer = cloud.get("/openstack/latest/meta_data.json").await;
        let document: Value = serde_json::from_str(&answer.text).unwrap();
        document["random_seed"].as_str().unwrap().to_owned()
    };
    let first = seed().await;
    assert_eq!(first.len(), 684, "512 bytes in base64");
    assert_ne!(first, seed().await);
    assert_eq!(
        cloud.asked.load(Ordering::SeqCst),
        0,
        "only network_data.json needs subnets"
    );
    for _ in 0..3 {
        assert_eq!(
            cloud
                .get("/openstack/latest/network_data.json")
                .await
                .status,
            200
        );
    }
    assert_eq!(cloud.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_deleted_server_is_unknown() {
    let cloud = cloud().await;
    let id = ID.parse().unwrap();
    let gone = cloud
        .store
        .write(move |tx| db::instances::mark_deleted(tx, id, Timestamp(1)))
        .await
        .unwrap();
    assert!(gone);
    assert_eq!(cloud.get("/latest/").await.status, 404);
}

#[tokio::test]
async fn without_the_network_service_the_rest_is_still_told() {
    let broken = Router::new().fallback(async || (StatusCode::BAD_GATEWAY, "internal-detail"));
    let cloud = cloud_with(SECRET, Some(broken)).await;
    let answer = cloud.get("/openstack/latest/network_data.json").await;
    assert_eq!(answer.status, 500);
    assert!(!answer.text.contains("internal-detail"), "{}", answer.text);
    assert_eq!(
        cloud.get("/openstack/latest/meta_data.json").await.status,
        200
    );
}
