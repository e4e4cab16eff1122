#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::CloudId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn upstream(url: &str) -> Arc<Upstream> {
    let mut config = Config::new(CloudId::new("c1").unwrap(), "h1", Secret::new("secret"));
    config.metadata_url = url.into();
    Proxies::new(&config).unwrap().upstream
}

async fn proxy(url: &str, guests: Guests) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        Arc::new(RwLock::new(guests)),
        upstream(url),
    ));
    address
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

fn one_guest() -> Guests {
    let guest = Guest {
        instance: "i-1".into(),
        project: "p-1".into(),
    };
    HashMap::from([(IpAddr::from([127, 0, 0, 1]), guest)])
}

#[test]
fn signatures_are_hmac_sha256() {
    // RFC 4231, test case 2.
    let signed = sign(&Secret::new("Jefe"), "what do ya want for nothing?");
    assert_eq!(
        signed,
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

#[tokio::test]
async fn an_address_nobody_has_gets_nothing() {
    let address = proxy("http://127.0.0.1:1", Guests::new()).await;
    let answer = ask(address, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
}

#[tokio::test]
async fn without_the_api_it_is_unavailable() {
    let address = proxy("http://127.0.0.1:1", one_guest()).await;
    let answer = ask(
        address,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[tokio::test]
async fn headers_say_who_asks_whatever_the_guest_says() {
    let echo = |headers: HeaderMap, uri: axum::http::Uri, body: String| async move {
        let show = |name: &str| {
            let all: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|value| value.to_str().unwrap().to_owned())
                .collect();
            format!("{name}={}\n", all.join("+"))
        };
        let names = [
            "x-instance-id",
            "x-tenant-id",
            "x-forwarded-for",
            "x-metadata-provider",
            "x-mine",
            "x-hop",
        ];
        format!("{uri}\n{}body={body}\n", names.map(show).concat())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(echo)).await });
    let address = proxy(&url, one_guest()).await;
    let request = "POST /openstack/x?y=1 HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Instance-ID: evil\r\nX-INSTANCE-ID: evil2\r\n\
        X-Tenant-ID: evil\r\nX-Forwarded-For: 10.9.9.9\r\nX-Metadata-Provider: evil\r\nX-Mine: kept\r\nX-Hop: 1\r\n\
        Connection: close, x-hop\r\nContent-Length: 5\r\n\r\nhello";
    let answer = ask(address, request).await;
    let expected = "/openstack/x?y=1\nx-instance-id=i-1\nx-tenant-id=p-1\nx-forwarded-for=127.0.0.1\n\
        x-metadata-provider=\nx-mine=kept\nx-hop=\nbody=hello\n";
    assert!(answer.ends_with(expected), "{answer}");
    // A body that is too large is not passed on.
    let large = "x".repeat(MAX_REQUEST + 1);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{large}",
        large.len()
    );
    let answer = ask(address, &request).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn only_plain_http_urls() {
    for (url, good) in [
        ("http://127.0.0.1:8775", true),
        ("https://x", false),
        ("127.0.0.1:8775", false),
        ("", false),
    ] {
        let mut config = Config::new(CloudId::new("c1").unwrap(), "h1", Secret::new("s"));
        config.metadata_url = url.into();
        assert_eq!(Proxies::new(&config).is_ok(), good, "{url}");
    }
}
