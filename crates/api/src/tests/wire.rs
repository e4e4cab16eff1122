//! What comes over a socket and is no honest HTTP: broken request lines, headers and chunks, huge and odd bodies, bytes
//! that were turned around. Whatever is sent, the answer is none or a refusal, the connection ends, and nothing is left.
//!
//! `KILONOVA_FUZZ_BROKEN` says how many are broken at random (a few by default), `KILONOVA_FUZZ_SEED` where it begins.

use super::alone::{alone, resident};
use super::conformance::number_of;
use super::harness::Cloud;
use super::samples::{Fixture, fixture};
use axum::body::{Body, Bytes};
use http::Request;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use web::serve::Listener;

/// Requests that are broken at random, unless the environment says more.
const BROKEN: u64 = 300;
/// After how long an end does not come any more, on the slowest of machines.
const HANGS: Duration = Duration::from_secs(60);

/// MiB by which the process may grow while it is sent such things, after it was warm.
const GROWS: u64 = 32;

/// The service on a port, until this is dropped.
struct Port {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn port(cloud: &Cloud) -> Port {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = web::serve::serve(
        Listener::Tcp(listener),
        cloud.service.router(),
        stop.clone(),
    );
    tokio::spawn(serving);
    Port { address, stop }
}

/// Sends the bytes, says that there are no more, and reads until the other side ends too.
async fn exchange(address: SocketAddr, sent: &[u8], patience: Duration) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let (begun, begins) = tokio::sync::oneshot::channel();
    let sending = async {
        // The other side may have seen enough before the end.
        let _ = to.write_all(sent).await;
        // Who says that there are no more is taken for gone: an answer that is coming is waited for.
        let _ = tokio::time::timeout(patience, begins).await;
        let _ = to.shutdown().await;
    };
    let reading = async {
        let mut answer = Vec::new();
        let _ = from.read_buf(&mut answer).await;
        let _ = begun.send(());
        let _ = from.read_to_end(&mut answer).await;
        answer
    };
    tokio::join!(sending, reading).1
}

/// The statuses of the answers in these bytes.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    let heads = text.split("HTTP/1.").skip(1);
    heads
        .filter_map(|head| head.get(2..5)?.parse().ok())
        .collect()
}

/// An honest request.
fn honest(fixture: &Fixture, rng: &mut StdRng) -> Vec<u8> {
    let server = &fixture.server;
    let paths = [
        ("GET", "/v2.1/servers/detail?limit=1&name=a".to_owned(), ""),
        ("GET", format!("/v2.1/servers/{server}"), ""),
        ("GET", "/".to_owned(), ""),
        ("GET", "/healthcheck".to_owned(), ""),
        ("GET", "/openapi.json?version=2.1".to_owned(), ""),
        (
            "PUT",
            format!("/v2.1/servers/{server}"),
            r#"{"server": {"name": "b"}}"#,
        ),
        (
            "PUT",
            format!("/v2.1/servers/{server}/metadata/k"),
            r#"{"meta": {"k": "v"}}"#,
        ),
        (
            "POST",
            format!("/v2.1/servers/{server}/metadata"),
            r#"{"metadata": {"k": "v"}}"#,
        ),
        (
            "POST",
            format!("/v2.1/servers/{server}/action"),
            r#"{"lock": null}"#,
        ),
        (
            "POST",
            "/v2.1/os-keypairs".to_owned(),
            r#"{"keypair": {"name": "x"}}"#,
        ),
        (
            "POST",
            "/v2.1/flavors".to_owned(),
            r#"{"flavor": {"name": "f", "ram": 1, "vcpus": 1, "disk": 1}}"#,
        ),
        (
            "POST",
            "/v2.1/servers".to_owned(),
            r#"{"server": {"name": "a", "flavorRef": "1", "imageRef": ""}}"#,
        ),
        ("DELETE", "/v2.1/os-keypairs/none".to_owned(), ""),
    ];
    let (method, path, body) = paths.choose(rng).unwrap();
    head(
        method,
        path,
        &format!("content-length: {}\r\n", body.len()),
        body.as_bytes(),
    )
}

fn head(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nhost: cloud:8774\r\nx-auth-token: member\r\ncontent-type: application/json\r\n{headers}\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// With a body and its length.
fn posted(body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}\r\n", body.len());
    head("POST", "/v2.1/os-keypairs", &length, body)
}

/// With headers of its own.
fn with(headers: &str, body: &str) -> Vec<u8> {
    head("POST", "/v2.1/os-keypairs", headers, body.as_bytes())
}

/// What is wrong in a way that one can name.
fn named() -> Vec<(&'static str, Vec<u8>)> {
    let line = |line: &str| format!("{line}\r\nhost: x\r\n\r\n").into_bytes();
    let chunked = |body: &str| with("transfer-encoding: chunked\r\n", body);
    let key = r#"{"keypair": {"name": "x"}}"#;
    let utf16: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut invalid = key.as_bytes().to_vec();
    invalid[14] = 0xff;
    let deep = 50_000;
    vec![
        ("nothing", Vec::new()),
        ("blank lines", b"\r\n\r\n\r\n".to_vec()),
        ("a method alone", b"GET\r\n\r\n".to_vec()),
        ("no version", line("GET /")),
        ("version 9.9", line("GET / HTTP/9.9")),
        ("version 1.0", line("GET / HTTP/1.0")),
        ("a method of its own", line("FROB /v2.1/servers HTTP/1.1")),
        ("a long method", line(&format!("{} / HTTP/1.1", "A".repeat(20_000)))),
        ("a long path", line(&format!("GET /{} HTTP/1.1", "a".repeat(200_000)))),
        ("a whole address", line("GET http://elsewhere/v2.1/servers HTTP/1.1")),
        ("a path without a slash", line("GET v2.1 HTTP/1.1")),
        ("an asterisk", line("OPTIONS * HTTP/1.1")),
        ("a tunnel", line("CONNECT elsewhere:443 HTTP/1.1")),
        ("NUL in the path", line("GET /v2.1/\0 HTTP/1.1")),
        ("bytes in the path", b"GET /v2.1/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20)),
        ("bare line feeds", b"GET /v2.1/servers HTTP/1.1\nhost: x\n\n".to_vec()),
        ("half a head", b"GET /v2.1/servers HTTP/1.1\r\nhost: x\r\nx-auth-".to_vec()),
        ("no host", b"GET /v2.1/servers HTTP/1.1\r\n\r\n".to_vec()),
        ("two hosts", with("host: a\r\nhost: b\r\ncontent-length: 0\r\n", "")),
        ("a host with markup", b"GET / HTTP/1.1\r\nhost: <script>\"\r\n\r\n".to_vec()),
        ("a thousand headers", with(&"x-a: b\r\n".repeat(1000), "")),
        ("a megabyte of a header", with(&format!("x-a: {}\r\n", "b".repeat(1 << 20)), "")),
        ("a header without a name", with(": b\r\n", "")),
        ("a header with a blank in its name", with("x a: b\r\n", "")),
        ("a folded header", with("x-a: b\r\n c\r\ncontent-length: 0\r\n", "")),
        ("NUL in a header", with("x-a: \0\r\n", "")),
        ("a token of bytes", b"GET /v2.1/servers HTTP/1.1\r\nhost: x\r\nx-auth-token: \xff\xfe\x80\r\n\r\n".to_vec()),
        ("a version of bytes", b"GET /v2.1/servers HTTP/1.1\r\nhost: x\r\nx-auth-token: member\r\nx-openstack-nova-api-version: \xff\r\n\r\n".to_vec()),
        ("a huge version", with("openstack-api-version: compute 2.99999999999999999999\r\ncontent-length: 0\r\n", "")),
        ("an upgrade", with("upgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 0\r\n", "")),
        ("expects an impossible thing", with("expect: 200-maybe\r\ncontent-length: 2\r\n", "{}")),
        ("compressed", with("content-encoding: gzip\r\ncontent-length: 4\r\n", "\x1f\u{7f}\x08\0")),
        ("two lengths", with("content-length: 2\r\ncontent-length: 3\r\n", "{}x")),
        ("a negative length", with("content-length: -1\r\n", "{}")),
        ("a length in words", with("content-length: two\r\n", "{}")),
        ("a length beyond all", with("content-length: 99999999999999999999999\r\n", "{}")),
        ("a length too long", with("content-length: 100\r\n", "{}")),
        ("a length over the limit", with("content-length: 4000000000\r\n", "{}")),
        ("a length and chunks", with("content-length: 4\r\ntransfer-encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        ("chunks by another name", with("transfer-encoding: xchunked\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        ("chunks and more", with("transfer-encoding: chunked, identity\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        ("a chunk size in words", chunked("zz\r\n{}\r\n0\r\n\r\n")),
        ("a chunk size beyond all", chunked("fffffffffffffffff\r\n{}\r\n0\r\n\r\n")),
        ("a negative chunk", chunked("-2\r\n{}\r\n0\r\n\r\n")),
        ("a chunk too long", chunked("5\r\n{}\r\n0\r\n\r\n")),
        ("a long extension of a chunk", chunked(&format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(100_000)))),
        ("chunks without an end", chunked("2\r\n{}\r\n")),
        ("many small chunks", chunked(&("1\r\n \r\n".repeat(20_000) + "0\r\n\r\n"))),
        ("chunks over the limit", chunked(&("1000\r\n".to_owned() + &" ".repeat(4096) + "\r\n").repeat(64))),
        ("trailers", chunked(&format!("2\r\n{{}}\r\n0\r\n{}\r\n", "x-t: y\r\n".repeat(2000)))),
        ("deep lists", posted("[".repeat(deep).as_bytes())),
        ("deep objects", posted(r#"{"a":"#.repeat(deep / 4).as_bytes())),
        ("deep and closed", posted(format!("{}{}", "[".repeat(deep), "]".repeat(deep)).as_bytes())),
        ("NUL in JSON", posted(b"{\"keypair\": {\"name\": \"a\0b\"}}")),
        ("NUL by its number", posted(br#"{"keypair": {"name": "a\u0000b"}}"#)),
        ("half a character", posted(br#"{"keypair": {"name": "\ud800"}}"#)),
        ("keys twice", posted(br#"{"keypair": {"name": "a"}, "keypair": 5}"#)),
        ("numbers beyond all", posted(br#"{"keypair": {"name": 1e999, "x": -1e-999}}"#)),
        ("long numbers", posted(format!("[{}]", "9".repeat(100_000)).as_bytes())),
        ("not a number", posted(b"{\"keypair\": NaN}")),
        ("UTF-16", posted(&utf16)),
        ("a byte order mark", posted(format!("\u{feff}{key}").as_bytes())),
        ("not UTF-8", posted(&invalid)),
        ("many keys", posted(format!("{{{}\"z\": 1}}", (0..9000).map(|n| format!("\"k{n}\":0,")).collect::<String>()).as_bytes())),
        ("a long key", posted(format!("{{\"{}\": 1}}", "k".repeat(100_000)).as_bytes())),
        ("XML that swells", posted(br#"<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><x>&b;</x>"#)),
        ("a request inside a request", with("content-length: 0\r\n", "GET /v2.1/servers HTTP/1.1\r\nhost: x\r\n\r\n")),
        ("many at once", posted(b"{}").repeat(50)),
    ]
}

/// Turns the bytes of a request around a little.
fn break_up(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    const PIECES: &[&[u8]] = &[
        b"\0",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b":",
        b" ",
        b"%00",
        b"%",
        b"?",
        b"#",
        b"\xff",
        b"\xc3\x28",
        b"\"",
        b"{",
        b"]",
        b"\\u0000",
        b"transfer-encoding: chunked\r\n",
        b"content-length: 5\r\n",
        b"HTTP/1.1",
        b"..",
        b"//",
        b"\t",
        b"\x7f",
        b"9999999999999999999",
    ];
    for _ in 0..rng.random_range(1..5) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] = rng.random(),
            1 => bytes.truncate(at),
            2 => {
                let end = (at + rng.random_range(1..40)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + rng.random_range(1..200)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let piece = PIECES.choose(rng).unwrap();
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// What is wrong with the answer, if anything is.
async fn complaint(address: SocketAddr, sent: &[u8]) -> Option<String> {
    let answering = tokio::time::timeout(HANGS, exchange(address, sent, Duration::from_millis(30)));
    let Ok(answer) = answering.await else {
        return Some("no end".to_owned());
    };
    if !answer.is_empty() && !answer.starts_with(b"HTTP/1.") {
        return Some("no HTTP".to_owned());
    }
    let found = statuses(&answer);
    let bad = found.iter().find(|status| **status >= 500);
    bad.map(|_| String::from_utf8_lossy(&answer).chars().take(400).collect())
}

#[tokio::test]
async fn whatever_comes_over_the_wire() {
    if !alone("tests::wire::whatever_comes_over_the_wire") {
        return;
    }
    let seed = number_of("KILONOVA_FUZZ_SEED", 1);
    let broken = number_of("KILONOVA_FUZZ_BROKEN", BROKEN);
    let mut rng = StdRng::seed_from_u64(seed);
    let fixture = fixture().await;
    let port = port(&fixture.cloud).await;
    let mut wrong = BTreeMap::new();
    for (name, sent) in named() {
        if let Some(text) = complaint(port.address, &sent).await {
            wrong.insert(name.to_owned(), text);
        }
    }
    let series = fixture.cloud.metrics().await.lines().count();
    let mut warm = 0;
    for number in 0..broken {
        if number == broken / 3 {
            warm = resident();
        }
        let mut sent = honest(&fixture, &mut rng);
        break_up(&mut sent, &mut rng);
        if let Some(text) = complaint(port.address, &sent).await {
            let shown: String = sent.escape_ascii().to_string().chars().take(600).collect();
            wrong.insert(shown, text);
        }
    }
    let lines: Vec<String> = wrong
        .iter()
        .map(|(sent, text)| format!("{sent}\n    {text}"))
        .collect();
    assert!(
        wrong.is_empty(),
        "seed {seed}: {}\n{}",
        wrong.len(),
        lines.join("\n")
    );
    // It still answers, and what strangers send makes no series of its own: at most one for each row and status.
    let answer = exchange(
        port.address,
        b"GET /healthcheck HTTP/1.1\r\nhost: x\r\n\r\n",
        Duration::from_secs(20),
    )
    .await;
    assert_eq!(statuses(&answer), [200]);
    let grown = fixture.cloud.metrics().await.lines().count();
    assert!(
        grown < series + 400,
        "{series} lines of metrics became {grown}"
    );
    let now = resident();
    println!("{warm} MiB became {now}");
    assert!(now < warm + GROWS, "{warm} MiB became {now}");
}

/// The same broken things get the same refusal, not only none.
#[tokio::test]
async fn refusals_have_their_status() {
    let cloud = Cloud::new().await;
    let port = port(&cloud).await;
    let of = |name: &str| named().into_iter().find(|(one, _)| *one == name).unwrap().1;
    for (name, wanted) in [
        ("a method alone", 400),
        ("version 9.9", 400),
        ("a thousand headers", 431),
        ("a megabyte of a header", 431),
        ("a negative length", 400),
        ("a length over the limit", 413),
        ("chunks over the limit", 413),
        ("chunks by another name", 400),
        ("a chunk size in words", 400),
        ("deep lists", 400),
        ("deep and closed", 400),
        ("NUL by its number", 400),
        ("half a character", 400),
        ("not UTF-8", 400),
        ("UTF-16", 400),
        ("XML that swells", 400),
        ("a token of bytes", 401),
        ("a version of bytes", 400),
        ("a huge version", 406),
    ] {
        let answer = exchange(port.address, &of(name), Duration::from_secs(20)).await;
        let found = statuses(&answer);
        assert_eq!(
            found.first(),
            Some(&wanted),
            "{name}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}

/// Who sends a body byte by byte holds a connection for a while only.
#[tokio::test]
async fn slow_bodies_are_not_waited_for() {
    let config = crate::Config {
        body_timeout: Duration::from_millis(300),
        ..crate::Config::default()
    };
    let cloud = Cloud::with(config).await;
    // Without an end.
    let drops = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
    });
    let request = Request::post("/v2.1/os-keypairs")
        .header("x-auth-token", "member")
        .body(Body::from_stream(drops))
        .unwrap();
    let answer = cloud.service.router().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 408);
}
