#![allow(clippy::unwrap_used)]
use super::*;
use crate::client::{Client, ClientError};
use crate::{Listener, serve};
use axum::{Extension, Router, routing::get};
use http::{HeaderMap, Method};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tokio_util::sync::CancellationToken;

struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pair = KeyPair::generate().unwrap();
        let own = params.self_signed(&pair).unwrap();
        std::fs::write(folder.path().join("ca.pem"), own.pem()).unwrap();
        let issuer = Issuer::new(params, pair);
        Self { folder, issuer }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn sign(&self, name: &str, san: SanType, usage: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        params.extended_key_usages = vec![usage];
        let pair = KeyPair::generate().unwrap();
        let made = params.signed_by(&pair, &self.issuer).unwrap();
        let identity = Identity {
            certificates: self.folder.path().join(format!("{name}.pem")),
            key: self.folder.path().join(format!("{name}.key")),
        };
        std::fs::write(&identity.certificates, made.pem()).unwrap();
        std::fs::write(&identity.key, pair.serialize_pem()).unwrap();
        identity
    }

    fn server(&self) -> Identity {
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        self.sign("server", address, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn host(&self, name: &str) -> Identity {
        let uri = format!("{HOST_URI}{name}").as_str().try_into().unwrap();
        self.sign(name, SanType::URI(uri), ExtendedKeyUsagePurpose::ClientAuth)
    }
}

async fn who(host: Option<Extension<PeerHost>>) -> String {
    host.map_or("nobody".to_owned(), |Extension(PeerHost(name))| {
        name.to_string()
    })
}

async fn scheme(headers: HeaderMap) -> String {
    let said = headers.get("x-forwarded-proto");
    said.map_or(String::new(), |said| said.to_str().unwrap().to_owned())
}

/// A server that says who asks; gives its URL.
async fn start(config: Arc<ServerConfig>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let listener = Listener::Tcp(listener).with_tls(Some(config));
    let router = Router::new()
        .route("/", get(who))
        .route("/scheme", get(scheme));
    tokio::spawn(serve(listener, router, CancellationToken::new()));
    url
}

async fn ask(url: &str, config: Arc<ClientConfig>) -> Result<String, ClientError> {
    let client = Client::https("a service", url, config);
    let answer = client
        .call(Method::GET, "/", HeaderMap::new(), None)
        .await?;
    Ok(String::from_utf8(answer.body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_host_is_known_by_its_certificate() {
    let cloud = Authority::new();
    let url = start(server(&cloud.server(), Some(&cloud.path())).unwrap()).await;
    for name in ["h1", "h2.example.org"] {
        let config = client(Some(&cloud.path()), Some(&cloud.host(name))).unwrap();
        assert_eq!(ask(&url, config).await.unwrap(), name);
    }
}

#[tokio::test]
async fn whoever_is_not_of_the_cloud_is_refused() {
    let (cloud, other) = (Authority::new(), Authority::new());
    let url = start(server(&cloud.server(), Some(&cloud.path())).unwrap()).await;
    let nobody = client(Some(&cloud.path()), None).unwrap();
    assert!(ask(&url, nobody).await.is_err(), "no certificate");
    let foreign = client(Some(&cloud.path()), Some(&other.host("h1"))).unwrap();
    assert!(
        ask(&url, foreign).await.is_err(),
        "another authority's host"
    );
    let control = client(Some(&cloud.path()), Some(&cloud.server())).unwrap();
    assert!(ask(&url, control).await.is_err(), "a server is no host");
    let careful = client(Some(&other.path()), Some(&cloud.host("h1"))).unwrap();
    let refused = ask(&url, careful).await.unwrap_err().to_string();
    assert!(refused.contains("certificate"), "{refused}");
}

#[tokio::test]
async fn a_host_cannot_stand_in_for_a_conductor() {
    let cloud = Authority::new();
    let url = start(server(&cloud.host("127.0.0.1"), Some(&cloud.path())).unwrap()).await;
    let config = client(Some(&cloud.path()), Some(&cloud.host("h1"))).unwrap();
    assert!(ask(&url, config).await.is_err());
}

#[tokio::test]
async fn an_api_needs_no_certificates_of_its_clients() {
    let cloud = Authority::new();
    let url = start(server(&cloud.server(), None).unwrap()).await;
    let config = client(Some(&cloud.path()), None).unwrap();
    assert_eq!(ask(&url, Arc::clone(&config)).await.unwrap(), "nobody");
    // Links in its answers go by TLS, too; what a proxy in front of it says counts more.
    let client = Client::https("a service", &url, config);
    for (said, seen) in [(None, "https"), (Some("http"), "http")] {
        let headers = said.map(|said| ("x-forwarded-proto", said));
        let headers = headers.map(|(name, said)| (name.parse().unwrap(), said.parse().unwrap()));
        let headers: HeaderMap = headers.into_iter().collect();
        let answer = client.call(Method::GET, "/scheme", headers, None).await;
        assert_eq!(answer.unwrap().body, seen);
    }
}

/// One that says nothing after it has connected holds up nobody.
#[tokio::test]
async fn a_silent_connection_holds_up_nobody() {
    let cloud = Authority::new();
    let url = start(server(&cloud.server(), None).unwrap()).await;
    let at = url.strip_prefix("https://").unwrap();
    let _silent = tokio::net::TcpStream::connect(at).await.unwrap();
    let config = client(Some(&cloud.path()), None).unwrap();
    assert_eq!(ask(&url, config).await.unwrap(), "nobody");
}

#[test]
fn files_that_will_not_do_are_named() {
    let cloud = Authority::new();
    let missing = Identity {
        certificates: "/nowhere/a.pem".into(),
        key: "/nowhere/a.key".into(),
    };
    let error = server(&missing, None).unwrap_err().to_string();
    assert!(error.contains("/nowhere/a.pem"), "{error}");
    let mixed = Identity {
        key: cloud.host("h1").key,
        ..cloud.server()
    };
    assert!(server(&mixed, None).is_err());
    let empty = cloud.folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    assert!(client(Some(&empty), None).is_err());
}
