//! Secrets, their payloads, lists.

use super::{ALICE, ANN, Cloud, open};
use crate::Error;
use axum::body::Body;
use fernet::Fernet;
use serde_json::{Value, json};

#[tokio::test]
async fn a_text_and_what_is_said_of_it() {
    let cloud = Cloud::new().await;
    let body = json!({
        "name": " n ", "secret_type": "passphrase", "algorithm": "a", "bit_length": 8, "mode": "m",
        "expiration": "2999-01-31T23:59:59+01:00",
        "payload": "gänse\n", "payload_content_type": "text/plain;charset=UTF-8",
    });
    let answer = cloud.call(ALICE, "POST", "/secrets", body).await;
    let location = answer.header("location").to_owned();
    assert_eq!(answer.is(201)["secret_ref"], location.as_str());
    let path = location.strip_prefix("http://keys:9311/v1").unwrap();
    let shown = cloud.get(ALICE, path).await.is(200);
    for (name, wanted) in [
        ("name", json!("n")),
        ("secret_type", json!("passphrase")),
        ("algorithm", json!("a")),
        ("bit_length", json!(8)),
        ("mode", json!("m")),
        ("expiration", json!("2999-01-31T22:59:59.000000")),
        ("content_types", json!({"default": "text/plain"})),
        ("creator_id", json!("alice")),
        ("status", json!("ACTIVE")),
        ("consumers", json!([])),
        ("secret_ref", json!(location)),
    ] {
        assert_eq!(shown[name], wanted, "{name}");
    }
    // The lowest version knows no consumers.
    let headers = [("accept", "application/json")];
    let answer = cloud.raw(ALICE, "GET", path, &headers, Body::empty()).await;
    assert_eq!(answer.is(200).get("consumers"), None);
    for (accept, kind) in [
        ("text/plain", "text/plain; charset=UTF-8"),
        ("text/plain; charset=utf-8", "text/plain; charset=UTF-8"),
        ("application/octet-stream", "application/octet-stream"),
        ("*/*", "text/plain; charset=UTF-8"),
        ("text/html, */*;q=0.1", "text/plain; charset=UTF-8"),
    ] {
        let answer = cloud.payload(ALICE, path, accept).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, kind));
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.bytes, "gänse".as_bytes(), "{accept}");
    }
    let answer = cloud.payload(ALICE, path, "application/json").await;
    assert!(answer.says(406).contains("Wrong payload content-type"));
    // As it was before there was `/payload`.
    let headers = [("accept", "text/plain")];
    let answer = cloud.raw(ALICE, "GET", path, &headers, Body::empty()).await;
    assert_eq!(answer.bytes, "gänse".as_bytes());
    cloud.delete(ALICE, path).await.is(204);
    assert_eq!(cloud.get(ALICE, path).await.says(404), "Secret not found.");
    cloud.payload(ALICE, path, "*/*").await.says(404);
    cloud.delete(ALICE, path).await.says(404);
}

#[tokio::test]
async fn bytes_come_back_as_they_are() {
    let cloud = Cloud::new().await;
    let body = json!({
        "payload": "/wCA\n", "payload_content_type": "application/octet-stream",
        "payload_content_encoding": "base64",
    });
    let path = cloud.secret(ALICE, body).await;
    for accept in ["application/octet-stream", "*/*"] {
        let answer = cloud.payload(ALICE, &path, accept).await;
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.bytes, [255, 0, 128]);
    }
    let answer = cloud
        .raw(ALICE, "GET", &format!("{path}/payload"), &[], Body::empty())
        .await;
    assert_eq!(answer.bytes, [255, 0, 128]);
    cloud.payload(ALICE, &path, "text/plain").await.says(406);
}

#[tokio::test]
async fn a_payload_may_come_later_but_once() {
    let cloud = Cloud::new().await;
    let path = cloud.secret(ALICE, json!({"name": null})).await;
    let shown = cloud.get(ALICE, &path).await.is(200);
    assert_eq!(shown.get("content_types"), None);
    assert_eq!(shown["secret_type"], "opaque");
    let said = cloud.payload(ALICE, &path, "*/*").await.says(404);
    assert!(said.contains("no payload"), "{said}");
    let put = |kind: &'static str, encoding: &'static str, body: &'static [u8]| {
        let headers = [("content-type", kind), ("content-encoding", encoding)];
        let (cloud, path) = (&cloud, &path);
        async move { cloud.raw(ALICE, "PUT", path, &headers, body).await }
    };
    put("application/json", "", b"{}").await.says(415);
    put("application/pkcs8", "", b"x").await.says(415);
    put("text/plain", "", b"").await.says(400);
    put("text/plain", "", b"\xff").await.says(400);
    put("application/octet-stream", "base64", b"!")
        .await
        .says(400);
    put("application/octet-stream", "gzip", b"x")
        .await
        .says(400);
    put("application/octet-stream", "base64", b"/w\nCA")
        .await
        .is(204);
    let answer = cloud
        .payload(ALICE, &path, "application/octet-stream")
        .await;
    assert_eq!(answer.bytes, [255, 0, 128]);
    let said = put("text/plain", "", b"x").await.says(409);
    assert!(said.contains("already has data"), "{said}");
    let raw = cloud.secret(ALICE, json!({})).await;
    let headers = [("content-type", "application/octet-stream")];
    cloud
        .raw(ALICE, "PUT", &raw, &headers, &b"\xff/w"[..])
        .await
        .is(204);
    assert_eq!(cloud.payload(ALICE, &raw, "*/*").await.bytes, b"\xff/w");
}

#[tokio::test]
async fn sizes_are_bounded() {
    let cloud = Cloud::new().await;
    let text =
        |bytes: usize| json!({"payload": "x".repeat(bytes), "payload_content_type": "text/plain"});
    let path = cloud.secret(ALICE, text(20_000)).await;
    assert_eq!(cloud.payload(ALICE, &path, "*/*").await.bytes.len(), 20_000);
    for bytes in [20_001, 30_000] {
        let answer = cloud.call(ALICE, "POST", "/secrets", text(bytes)).await;
        assert!(answer.says(413).contains("too large"));
    }
    let path = cloud.secret(ALICE, json!({})).await;
    let put = |bytes: usize| {
        let headers = [("content-type", "text/plain")];
        let (cloud, path) = (&cloud, &path);
        async move {
            let body = "y".repeat(bytes);
            cloud.raw(ALICE, "PUT", path, &headers, body).await
        }
    };
    put(20_001).await.says(413);
    put(20_000).await.is(204);
}

#[tokio::test]
async fn an_expired_secret_gives_nothing() {
    let cloud = Cloud::new().await;
    let path = cloud.text(ALICE, "late").await;
    cloud
        .call(
            ALICE,
            "PUT",
            &format!("{path}/metadata"),
            json!({"metadata": {}}),
        )
        .await
        .is(201);
    let store = cloud.store.clone();
    let over: Result<u64, sql::Error> = store
        .write(|tx| tx.execute("UPDATE key_secrets SET expires_at = 1", &[]))
        .await;
    assert_eq!(over.unwrap(), 1);
    cloud.get(ALICE, &path).await.says(404);
    cloud.payload(ALICE, &path, "*/*").await.says(404);
    for rest in ["acl", "consumers", "metadata"] {
        cloud.get(ALICE, &format!("{path}/{rest}")).await.says(404);
    }
    assert_eq!(cloud.get(ALICE, "/secrets").await.is(200)["total"], 0);
    // The next start takes its row away.
    open(&store, &cloud.keys).await.unwrap();
    let left: Result<i64, sql::Error> = store
        .read(|tx| {
            tx.query_one("SELECT COUNT(*) FROM key_secrets", &[])?
                .get(0)
        })
        .await;
    assert_eq!(left.unwrap(), 0);
}

#[tokio::test]
async fn payloads_are_sealed_and_other_keys_are_noticed() {
    let cloud = Cloud::new().await;
    let path = cloud.text(ALICE, "correct horse").await;
    let stored: Result<String, sql::Error> = cloud
        .store
        .read(|tx| tx.query_one("SELECT sealed FROM key_secrets", &[])?.get(0))
        .await;
    let stored = stored.unwrap();
    assert!(
        !stored.contains("correct") && stored.starts_with("gAAAA"),
        "Fernet"
    );
    let other = Fernet::generate_key();
    assert!(matches!(
        open(&cloud.store, &other).await,
        Err(Error::OtherKeys)
    ));
    // A new key on top of the old one.
    let both = Cloud {
        service: open(&cloud.store, &format!("{other}\n{}\n", cloud.keys))
            .await
            .unwrap(),
        store: cloud.store.clone(),
        keys: other,
    };
    assert_eq!(
        both.payload(ALICE, &path, "*/*").await.bytes,
        b"correct horse"
    );
    // Who can write into the database, but has no key, gets no payload of another secret.
    let victim = path.rsplit('/').next().unwrap().to_owned();
    let mine = cloud.text(ANN, "mine").await;
    let thief = mine.rsplit('/').next().unwrap().to_owned();
    let moved: Result<u64, sql::Error> = cloud
        .store
        .write(move |tx| {
            let row = tx.query_one(
                "SELECT sealed FROM key_secrets WHERE id = ?",
                &[(&victim).into()],
            )?;
            let sealed: String = row.get(0)?;
            tx.execute(
                "UPDATE key_secrets SET sealed = ? WHERE id = ?",
                &[sealed.into(), (&thief).into()],
            )
        })
        .await;
    assert_eq!(moved.unwrap(), 1);
    cloud.payload(ANN, &mine, "*/*").await.says(500);
}

#[tokio::test]
async fn lists_have_filters_orders_and_pages() {
    let cloud = Cloud::new().await;
    for number in 0..5_i64 {
        let body = json!({
            "name": format!("s{}", number % 2), "algorithm": "aes", "bit_length": 128 + number,
            "mode": "cbc", "secret_type": "symmetric",
        });
        cloud.secret(ALICE, body).await;
    }
    cloud.text(ANN, "x").await;
    cloud.text(super::BOB, "x").await;
    let total = |query: &'static str| {
        let cloud = &cloud;
        async move {
            let body = cloud.get(ALICE, &format!("/secrets?{query}")).await.is(200);
            body["total"].as_u64().unwrap()
        }
    };
    for (query, wanted) in [
        ("", 6),
        ("name=s0", 3),
        ("name=S0", 0),
        ("name=s%25", 0),
        ("alg=aes&mode=cbc", 5),
        ("bits=129", 1),
        ("bits=nonsense", 6),
        ("secret_type=symmetric", 5),
        ("secret_type=opaque", 1),
        ("created=gt:2000-01-01T00:00:00,lt:2999-01-01", 6),
        ("created=lte:2000-01-01", 0),
        ("expiration=gte:2000-01-01", 0),
        ("acl_only=true", 0),
    ] {
        assert_eq!(total(query).await, wanted, "{query}");
    }
    for bad in [
        "created=soon",
        "sort=payload",
        "sort=name:up",
        "sort=name,name",
    ] {
        cloud.get(ALICE, &format!("/secrets?{bad}")).await.says(400);
    }
    let page = |path: String| {
        let cloud = &cloud;
        async move { cloud.get(ALICE, &path).await.is(200) }
    };
    let bits = |body: &Value| -> Vec<i64> {
        let secrets = body["secrets"].as_array().unwrap();
        secrets
            .iter()
            .map(|one| one["bit_length"].as_i64().unwrap())
            .collect()
    };
    let first = page("/secrets?alg=aes&sort=bit_length:desc&limit=2".to_owned()).await;
    assert_eq!(bits(&first), [132, 131]);
    assert_eq!(first.get("previous"), None);
    let next = first["next"].as_str().unwrap();
    assert_eq!(
        next,
        "http://keys:9311/v1/secrets?limit=2&offset=2&alg=aes&sort=bit_length%3Adesc"
    );
    let second = page(next.strip_prefix("http://keys:9311/v1").unwrap().to_owned()).await;
    assert_eq!(bits(&second), [130, 129]);
    let last = page("/secrets?alg=aes&sort=bit_length:desc&limit=2&offset=4".to_owned()).await;
    assert_eq!(bits(&last), [128]);
    assert_eq!(last.get("next"), None);
    assert!(last["previous"].as_str().unwrap().contains("offset=2"));
    let beyond = page("/secrets?offset=99999999999999999999".to_owned()).await;
    assert_eq!(beyond["secrets"].as_array().unwrap().len(), 6);
    let none = page("/secrets?limit=0".to_owned()).await;
    assert_eq!(none["secrets"].as_array().unwrap().len(), 1);
}
