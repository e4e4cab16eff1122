//! What is beside the table: event streams, the OpenAPI document, version documents, health; with any query and any header.
//! Never a 5xx, never a panic, never a wait without an end.

use super::conformance::number_of;
use super::fuzz::odd_header;
use super::harness::Cloud;
use super::server_create::cloud;
use super::server_life::{finish, make};
use axum::body::Body;
use http::{HeaderValue, Request};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;
use tower::ServiceExt;
use types::VmState;

/// Requests, unless the environment says more.
const REQUESTS: u64 = 1500;
/// After how long an answer does not come any more, on the slowest of machines.
const HANGS: Duration = Duration::from_secs(60);

const PATHS: &[&str] = &[
    "/events",
    "/events",
    "/events",
    "/openapi.json",
    "/healthcheck",
    "/healthcheck/ready",
    "/",
    "/v2",
    "/v2.1/",
    "/v3/x",
    "/v2.1/versions/v2.1",
    "/v2/versions/x",
    "/v2.1/servers/{}",
    "/v2/servers/detail",
];

const KEYS: &[&str] = &[
    "server",
    "all_projects",
    "last_event_id",
    "version",
    "limit",
    "marker",
    "%00",
    "",
];

const VALUES: &[&str] = &[
    "",
    "true",
    "0",
    "-1",
    "9223372036854775807",
    "99999999999999999999",
    "2.1",
    "2.",
    "latest",
    "%ff",
    "%F0%9F%98%80",
    "70a599e0-31e7-49b7-b260-868f441e862b",
    "'",
    "%0d%0aX:%20y",
];

fn request(server: &str, rng: &mut StdRng) -> Request<Body> {
    let mut path = PATHS.choose(rng).unwrap().replace("{}", server);
    for index in 0..rng.random_range(0..4) {
        path.push(if index == 0 { '?' } else { '&' });
        path += KEYS.choose(rng).unwrap();
        path.push('=');
        path += VALUES.choose(rng).unwrap();
    }
    let method = *[
        "GET", "GET", "GET", "GET", "HEAD", "OPTIONS", "POST", "BREW",
    ]
    .choose(rng)
    .unwrap();
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = ["admin", "member", "reader", "system", "garbage", ""].choose(rng)
        && !token.is_empty()
    {
        request = request.header("x-auth-token", *token);
    }
    for _ in 0..rng.random_range(0..4) {
        let (name, value) = odd_header(rng);
        let value = if rng.random_bool(0.2) {
            // Anything that may stand in a header.
            let bytes: Vec<u8> = (0..rng.random_range(0..300))
                .map(|_| rng.random_range(32..=255_u8))
                .filter(|byte| *byte != 127)
                .collect();
            HeaderValue::from_bytes(&bytes).unwrap()
        } else {
            HeaderValue::from_static(value)
        };
        request = request.header(name, value);
    }
    request.body(Body::empty()).unwrap()
}

async fn status(cloud: &Cloud, request: Request<Body>) -> u16 {
    let answer = cloud.service.router().oneshot(request).await.unwrap();
    let stream = answer.headers().get("content-type");
    let stream = stream.is_some_and(|kind| kind == "text/event-stream");
    let status = answer.status().as_u16();
    if !stream {
        // A stream has no end; all else has.
        web::body::bytes(answer.into_body(), 1 << 24).await.unwrap();
    }
    status
}

#[tokio::test]
async fn whatever_is_asked_beside_the_table() {
    let seed = number_of("KILONOVA_FUZZ_SEED", 1);
    let requests = number_of("KILONOVA_FUZZ_BESIDE", REQUESTS);
    let mut rng = StdRng::seed_from_u64(seed);
    let cloud = cloud().await;
    let server = make(&cloud, "member", "a").await;
    finish(&cloud, &server, VmState::Active).await;
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    for _ in 0..requests {
        let request = request(&server, &mut rng);
        let said = format!(
            "{} {} {:?}",
            request.method(),
            request.uri(),
            request.headers()
        );
        let answer = tokio::time::timeout(HANGS, status(&cloud, request)).await;
        let Ok(status) = answer else {
            panic!("seed {seed}: no answer to {said}");
        };
        // There is no conductor here, so the cloud is not ready.
        let unready = status == 503 && said.contains("/healthcheck/ready");
        assert!(status < 500 || unready, "seed {seed}: {status}: {said}");
        *statuses.entry(status).or_default() += 1;
    }
    println!("{statuses:?}");
    for wanted in [200, 300, 400, 401, 404] {
        assert!(
            statuses.contains_key(&wanted),
            "none was {wanted}: {statuses:?}"
        );
    }
    assert_eq!(
        cloud.service.followers(),
        (0, 0),
        "streams that nobody reads are gone"
    );
}
