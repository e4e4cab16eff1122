//! Routing, versions, faults: what happens before a handler runs.

use super::harness::{Cloud, DEMO};
use serde_json::{Value, json};

#[tokio::test]
async fn version_documents_need_no_token() {
    let cloud = Cloud::new().await;
    for (path, status, has) in [
        ("/", 200, "versions"),
        ("/v2", 200, "version"),
        ("/v2.1", 200, "version"),
        ("/v2.1/", 200, "version"),
    ] {
        let answer = cloud.raw("GET", path, &[], "").await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json().get(has).is_some(), "{path}: {}", answer.text);
    }
    let document = cloud.raw("GET", "/v2.1", &[], "").await;
    assert_eq!(document.json()["version"]["version"], "2.104");
    assert_eq!(
        document.json()["version"]["links"][0]["href"],
        "http://cloud:8774/v2.1/"
    );
    assert_eq!(document.headers["openstack-api-version"], "compute 2.1");
    let choices = cloud.raw("GET", "/flavors/x", &[], "").await;
    assert_eq!(choices.status, 300);
    assert_eq!(
        choices.json()["choices"][1]["links"][0]["href"],
        "http://cloud:8774/v2.1/flavors/x"
    );
    assert!(choices.headers.get("x-openstack-request-id").is_none());
}

#[tokio::test]
async fn version_documents_below_a_version() {
    let cloud = Cloud::new().await;
    let member = [("x-auth-token", "member")];
    let project = format!("/{DEMO}");
    for (version, in_path) in [
        ("v2.1", ""),
        ("v2.1", project.as_str()),
        ("v2", ""),
        ("v2", &project),
    ] {
        for (id, below_v21) in [
            ("v2.1", Some("v2.1")),
            ("v2.0", Some("v2.0")),
            ("v3", None),
            ("x", None),
        ] {
            let path = format!("/{version}{in_path}/versions/{id}");
            let answer = cloud.raw("GET", &path, &member, "").await;
            let wanted = if version == "v2" {
                Some("v2.0")
            } else {
                below_v21
            };
            let Some(wanted) = wanted else {
                assert_eq!(answer.status, 404, "{path}");
                let words = "The resource could not be found.".to_owned();
                assert_eq!(answer.fault(), ("itemNotFound".to_owned(), words), "{path}");
                continue;
            };
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            let alone = if wanted == "v2.0" { "/v2/" } else { "/v2.1/" };
            let alone = cloud.raw("GET", alone, &[], "").await;
            assert_eq!(answer.json(), alone.json(), "{path}");
            let header = answer.headers.get("openstack-api-version");
            assert_eq!(header.is_some(), version == "v2.1", "{path}");
        }
        let path = format!("/{version}{in_path}/versions/v2.1");
        assert_eq!(cloud.raw("GET", &path, &[], "").await.status, 401, "{path}");
    }
}

/// Of a key that is given twice the last value counts, and it alone is in the link to the next page; but for keys of which
/// each counts.
#[tokio::test]
async fn keys_given_twice() {
    let cloud = Cloud::new().await;
    let next = |answer: &super::harness::Answer, links: &str| {
        let next = answer.json()[links][0]["href"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        next.split_once('?').map(|(_, query)| query.to_owned())
    };
    for id in ["a", "b", "c"] {
        let flavor = json!({"flavor": {"name": id, "id": id, "ram": 1024, "vcpus": 1, "disk": 1}});
        let made = cloud.send("admin", 90, "POST", "/flavors", flavor).await;
        assert_eq!(made.status, 200, "{}", made.text);
    }
    let ids = |answer: &super::harness::Answer| -> Vec<String> {
        let list = answer.json()["flavors"].as_array().unwrap().clone();
        list.iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    };
    for (query, wanted, link) in [
        ("limit=1&limit=2", &["a", "b"][..], Some("limit=2&marker=b")),
        ("limit=2&limit=1", &["a"], Some("limit=1&marker=a")),
        (
            "marker=b&marker=a&limit=1",
            &["b"],
            Some("limit=1&marker=b"),
        ),
        ("minRam=1&minRam=999999", &[], None),
        ("minRam=999999&minRam=1", &["a", "b", "c"], None),
        ("minDisk=1&minDisk=99", &[], None),
        (
            "sort_dir=desc&sort_dir=asc&limit=1",
            &["a"],
            Some("limit=1&sort_dir=asc&marker=a"),
        ),
    ] {
        let answer = cloud.get("member", 1, &format!("/flavors?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        assert_eq!(ids(&answer), wanted, "{query}");
        assert_eq!(next(&answer, "flavors_links").as_deref(), link, "{query}");
    }
}

/// More than can be counted is as much as there may be.
#[tokio::test]
async fn limits_beyond_all_numbers() {
    let cloud = Cloud::new().await;
    let many = "99999999999999999999";
    for path in [
        "/servers",
        "/servers/detail",
        "/flavors",
        "/flavors/detail",
        "/os-simple-tenant-usage",
        "/os-keypairs",
        "/os-server-groups",
        "/os-migrations",
    ] {
        let answer = cloud
            .get("admin", 74, &format!("{path}?limit={many}"))
            .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    let usage = format!("/os-simple-tenant-usage/{DEMO}?limit={many}");
    assert_eq!(cloud.get("admin", 74, &usage).await.status, 200);
    let group = json!({"server_group": {"name": "g", "policy": "affinity"}});
    let made = cloud
        .send("member", 64, "POST", "/os-server-groups", group)
        .await;
    assert_eq!(made.status, 200, "{}", made.text);
    for (offset, count) in [("0", 1), (many, 0)] {
        let path = format!("/os-server-groups?offset={offset}");
        let list = cloud.get("member", 64, &path).await.json();
        assert_eq!(
            list["server_groups"].as_array().unwrap().len(),
            count,
            "{offset}"
        );
    }
}

#[tokio::test]
async fn mime_types_choose_a_version_where_the_url_does_not() {
    let cloud = Cloud::new().await;
    let mime = "application/vnd.openstack.compute.v2.1+json";
    let forms = [
        mime,
        "application/json;version=2.1",
        "application/vnd.openstack.compute+json; q=0.8; version=\"2.1\"",
        "text/html, application/json;version=2.1",
    ];
    for (header, mime) in ["accept", "content-type"]
        .into_iter()
        .flat_map(|header| forms.map(|mime| (header, mime)))
    {
        let headers = [("x-auth-token", "member"), (header, mime)];
        let answer = cloud.raw("GET", "/flavors", &headers, "").await;
        if header == "content-type" && mime.starts_with("text") {
            continue;
        }
        assert_eq!(answer.status, 200, "{header}: {mime}: {}", answer.text);
        assert!(answer.json()["flavors"].is_array());
        assert_eq!(answer.headers["x-openstack-nova-api-version"], "2.1");
    }
    for (accept, status) in [
        ("application/json;version=2", 200),
        ("application/json;version=3", 300),
        ("application/json", 300),
    ] {
        let headers = [("x-auth-token", "member"), ("accept", accept)];
        let answer = cloud.raw("GET", "/flavors", &headers, "").await;
        assert_eq!(answer.status, status, "{accept}");
    }
    let headers = [("accept", "application/json;version=2.1")];
    let document = cloud.raw("GET", "/", &headers, "").await.json();
    assert_eq!(document["version"]["id"], "v2.1");
    let both = cloud
        .raw(
            "GET",
            "/v2/flavors",
            &[("x-auth-token", "member"), ("accept", mime)],
            "",
        )
        .await;
    assert!(
        both.headers.get("openstack-api-version").is_none(),
        "the URL wins"
    );
}

#[tokio::test]
async fn faults_before_a_handler() {
    let cloud = Cloud::new().await;
    let member = [("x-auth-token", "member"), ("accept", "application/json")];
    let table: &[(&str, &str, &str, u16, &str, &str)] = &[
        ("GET", "/v2.1/nonexistent", "", 404, "message", ""),
        ("PATCH", "/v2.1/flavors", "", 404, "message", ""),
        ("DELETE", "/v2.1/flavors", "", 404, "message", ""),
        ("GET", "/v2.1/flavors/", "", 404, "message", ""),
        ("GET", "/v2.1/ABC/flavors", "", 404, "message", ""),
        (
            "GET",
            "/v2.1/os-certificates/root",
            "",
            410,
            "computeFault",
            "This resource is no longer available. No forwarding address is given.",
        ),
        (
            "POST",
            "/v2.1/flavors/1/action",
            "{}",
            400,
            "badRequest",
            "Malformed request body",
        ),
        (
            "POST",
            "/v2.1/flavors/1/action",
            "{\"a\": 1, \"b\": 2}",
            400,
            "badRequest",
            "Malformed request body",
        ),
        (
            "POST",
            "/v2.1/flavors/1/action",
            "{\"nope\": null}",
            400,
            "badRequest",
            "There is no such action: nope",
        ),
        (
            "POST",
            "/v2.1/flavors",
            "{",
            400,
            "badRequest",
            "Malformed request body",
        ),
        (
            "POST",
            "/v2.1/flavors",
            "[]",
            400,
            "badRequest",
            "[] is not of type 'object'",
        ),
        (
            "POST",
            "/v2.1/flavors",
            "",
            400,
            "badRequest",
            "None is not of type 'object'",
        ),
        (
            "PUT",
            "/v2.1/flavors/1",
            "{}",
            404,
            "itemNotFound",
            "The resource could not be found.",
        ),
        (
            "GET",
            "/v2.1/servers/x/topology",
            "",
            404,
            "itemNotFound",
            "The resource could not be found.",
        ),
        (
            "GET",
            "/v2.1/deadbeef/flavors",
            "",
            400,
            "badRequest",
            "Malformed request URL: URL's project_id 'deadbeef' doesn't match Context's project_id '0de30000000000000000000000000001'",
        ),
    ];
    for (method, path, body, status, name, message) in table {
        let answer = cloud.raw(method, path, &member, body).await;
        assert_eq!(
            answer.status.as_u16(),
            *status,
            "{method} {path}: {}",
            answer.text
        );
        let fault = answer.fault();
        assert_eq!(fault.0, *name, "{method} {path}");
        assert!(
            message.is_empty() || fault.1 == *message,
            "{method} {path}: {}",
            fault.1
        );
        let id = answer.headers["x-openstack-request-id"].to_str().unwrap();
        assert!(id.starts_with("req-") && answer.headers["x-compute-request-id"] == id);
        let kind = answer.headers["content-type"].to_str().unwrap();
        assert_eq!(
            kind,
            if *name == "message" {
                "application/json"
            } else {
                "application/json; charset=UTF-8"
            },
            "{path}"
        );
        let mut vary = answer.headers.get_all("vary").iter();
        let by_version =
            vary.any(|value| value.to_str().unwrap().starts_with("OpenStack-API-Version"));
        assert_eq!(by_version, *name != "message", "{path}");
    }
    let html = cloud
        .raw(
            "GET",
            "/v2.1/nonexistent",
            &[("x-auth-token", "member")],
            "",
        )
        .await;
    assert!(
        html.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    let project = cloud
        .raw("GET", &format!("/v2.1/{DEMO}/flavors"), &member, "")
        .await;
    assert_eq!(project.status, 200);
}

#[tokio::test]
async fn tokens_sizes_and_kinds_of_bodies() {
    let cloud = Cloud::new().await;
    for headers in [
        &[][..],
        &[("x-auth-token", "garbage")],
        &[("x-auth-token", "")],
    ] {
        let answer = cloud.raw("GET", "/v2.1/flavors", headers, "").await;
        assert_eq!(answer.status, 401);
        assert!(
            answer.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .contains("uri=")
        );
        assert_eq!(
            answer.fault().1,
            "The request you have made requires authentication."
        );
    }
    let member = ("x-auth-token", "member");
    let long = "x".repeat(200_000);
    let large = cloud.raw("POST", "/v2.1/flavors", &[member], &long).await;
    assert_eq!(
        (large.status.as_u16(), large.fault().0.as_str()),
        (413, "overLimit")
    );
    let xml = cloud
        .raw(
            "POST",
            "/v2.1/flavors",
            &[member, ("content-type", "application/xml")],
            "<a/>",
        )
        .await;
    assert_eq!(
        (xml.status.as_u16(), xml.fault().1.as_str()),
        (415, "Unsupported Content-Type")
    );
    let plain = cloud
        .raw(
            "POST",
            "/v2.1/flavors",
            &[member, ("content-type", "text/plain")],
            "{\"flavor\": {}}",
        )
        .await;
    assert_eq!(plain.status, 400, "read as JSON");
}

#[tokio::test]
async fn versions_in_headers() {
    let cloud = Cloud::new().await;
    let member = ("x-auth-token", "member");
    let latest = cloud
        .raw(
            "GET",
            "/v2.1/flavors",
            &[member, ("openstack-api-version", "compute latest")],
            "",
        )
        .await;
    assert_eq!(latest.headers["x-openstack-nova-api-version"], "2.104");
    assert_eq!(
        latest.headers["vary"],
        "OpenStack-API-Version, X-OpenStack-Nova-API-Version"
    );
    let high = cloud
        .raw(
            "GET",
            "/v2.1/flavors",
            &[member, ("openstack-api-version", "compute 2.999")],
            "",
        )
        .await;
    assert_eq!(
        (high.status.as_u16(), high.fault().0.as_str()),
        (406, "computeFault")
    );
    assert_eq!(high.headers["openstack-api-version"], "compute 2.999");
    let bad = cloud
        .raw(
            "GET",
            "/v2.1/flavors",
            &[member, ("openstack-api-version", "compute abc")],
            "",
        )
        .await;
    assert_eq!(bad.status, 400);
    assert!(bad.headers.get("openstack-api-version").is_none());
    let legacy = cloud
        .raw(
            "GET",
            "/v2/flavors",
            &[member, ("openstack-api-version", "compute 2.50")],
            "",
        )
        .await;
    assert_eq!(legacy.status, 200);
    assert!(legacy.headers.get("openstack-api-version").is_none());
}

/// `/v2` takes blanks around names, and what it does not know, and forgets both.
#[tokio::test]
async fn the_first_version_is_lenient() {
    let cloud = Cloud::new().await;
    let key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILKtINNmdMwrgtzsI5Z0wKWrdk0rjNl1Hi4SvhMRdpg a@b";
    let bodies = [
        (
            "/flavors",
            json!({"flavor": {"name": " f ", "id": "f", "ram": 1, "vcpus": 1, "disk": 1, "x": 1}, "y": 1}),
        ),
        (
            "/os-aggregates",
            json!({"aggregate": {"name": " f ", "availability_zone": " z ", "x": 1}}),
        ),
        (
            "/os-keypairs",
            json!({"keypair": {"name": " f ", "public_key": key, "type": "x509"}}),
        ),
        (
            "/servers",
            json!({"server": {"name": " f ", "flavorRef": "f", "imageRef": super::harness::IMAGE, "user_data": null, "x": 1,
                "networks": [{"uuid": super::harness::NETWORK, "x": 1}]}}),
        ),
    ];
    for (path, body) in bodies {
        let headers = [("x-auth-token", "admin")];
        let strict = cloud
            .raw("POST", &format!("/v2.1{path}"), &headers, &body.to_string())
            .await;
        assert_eq!(strict.status, 400, "{path}");
        let answer = cloud
            .raw("POST", &format!("/v2{path}"), &headers, &body.to_string())
            .await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
        let made = answer.json();
        let made = made.as_object().unwrap().values().next().unwrap();
        if path == "/servers" {
            let shown = format!("/v2/servers/{}", made["id"].as_str().unwrap());
            let shown = cloud.raw("GET", &shown, &headers, "").await.json();
            assert_eq!(shown["server"]["name"], "f");
            continue;
        }
        assert_eq!(made["name"], "f", "{path}");
        let zone = made.get("availability_zone");
        assert!(zone.is_none_or(|zone| zone == "z"), "{zone:?}");
        assert!(made.get("type").is_none(), "{made}");
    }
    let blank = json!({"keypair": {"name": "  "}}).to_string();
    let headers = [("x-auth-token", "member")];
    let refused = cloud.raw("POST", "/v2/os-keypairs", &headers, &blank).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .fault()
            .1
            .contains("at least one non space character")
    );
}

/// Nothing of the table is silently missing.
#[test]
fn every_row_has_a_handler() {
    assert_eq!(crate::not_built(), Vec::<String>::new());
}

/// Each row that is checked before its handler runs, with each role that must not pass.
#[tokio::test]
async fn roles_that_must_not_pass() {
    let cloud = Cloud::new().await;
    for (method, path, body, rule) in [
        (
            "GET",
            "/os-aggregates",
            Value::Null,
            "os_compute_api:os-aggregates:index",
        ),
        (
            "POST",
            "/flavors",
            json!({"flavor": {"name": "a", "ram": 1, "vcpus": 1, "disk": 1}}),
            "os_compute_api:os-flavor-manage:create",
        ),
        (
            "GET",
            "/os-quota-sets/otherproject",
            Value::Null,
            "os_compute_api:os-quota-sets:show",
        ),
    ] {
        for token in ["member", "reader", "nobody"] {
            let answer = cloud.send(token, 1, method, path, body.clone()).await;
            assert_eq!(answer.status, 403, "{token} {path}");
            assert_eq!(
                answer.fault().1,
                format!("Policy doesn't allow {rule} to be performed.")
            );
        }
    }
}

#[tokio::test]
async fn an_override_changes_a_rule() {
    let overrides = "\"os_compute_api:os-aggregates:index\": \"role:reader\"\n".to_owned();
    let cloud = Cloud::with(crate::Config {
        policy_overrides: Some(overrides),
        ..crate::Config::default()
    })
    .await;
    assert_eq!(cloud.get("reader", 1, "/os-aggregates").await.status, 200);
    assert_eq!(cloud.get("nobody", 1, "/os-aggregates").await.status, 403);
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_accept_it() {
    let cloud = Cloud::new().await;
    let headers = [("accept-encoding", "gzip"), ("x-auth-token", "member")];
    let answer = cloud
        .raw_bytes("GET", "/v2.1/extensions", &headers, "")
        .await;
    assert_eq!(answer.0["content-encoding"], "gzip");
    assert_eq!(answer.1[..2], [0x1f, 0x8b]);
}

/// A body says something with POST and PUT only.
#[tokio::test]
async fn bodies_of_other_methods_are_not_read() {
    let cloud = Cloud::new().await;
    let headers = [
        ("x-auth-token", "admin"),
        ("content-type", "application/json"),
    ];
    for (method, path, status) in [
        ("GET", "/v2.1/flavors", 200),
        ("GET", "/v2/flavors", 200),
        ("GET", "/v2.1/flavors/nope", 404),
        ("DELETE", "/v2.1/flavors/nope", 404),
        ("POST", "/v2.1/flavors", 400),
        ("PUT", "/v2.1/os-quota-class-sets/default", 400),
    ] {
        for body in ["{", "\u{0}garbage"] {
            let answer = cloud.raw(method, path, &headers, body).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        }
    }
    let cloud = Cloud::with(crate::Config {
        max_body_bytes: 10,
        ..super::harness::config()
    })
    .await;
    let long = "x".repeat(11);
    let answer = cloud.raw("GET", "/v2.1/flavors", &headers, &long).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
}

/// In lists that are paged by an offset, 0 is no limit; in those with a marker it is a page without anything.
#[tokio::test]
async fn a_limit_of_zero() {
    let cloud = Cloud::new().await;
    let group = json!({"server_group": {"name": "g", "policy": "affinity"}});
    let made = cloud
        .send("member", 64, "POST", "/os-server-groups", group)
        .await;
    assert_eq!(made.status, 200, "{}", made.text);
    cloud.volumes.make();
    for (path, name, wanted) in [
        ("/os-server-groups?limit=0", "server_groups", 1),
        ("/os-server-groups?limit=0&offset=1", "server_groups", 0),
        ("/os-volumes?limit=0", "volumes", 1),
        ("/os-volumes/detail?limit=0", "volumes", 1),
    ] {
        let list = cloud.get("member", 1, path).await.json();
        assert_eq!(list[name].as_array().unwrap().len(), wanted, "{path}");
    }
    let flavor = json!({"flavor": {"name": "f", "id": "f", "ram": 64, "vcpus": 1, "disk": 1}});
    cloud.send("admin", 1, "POST", "/flavors", flavor).await;
    let none = cloud.get("member", 1, "/flavors?limit=0").await.json();
    assert_eq!(none["flavors"], json!([]));
}
