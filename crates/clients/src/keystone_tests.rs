#![allow(clippy::unwrap_used)]
use super::*;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::sync::atomic::{AtomicUsize, Ordering};

/// An identity service that knows the token `good`, and takes each of our own until `revoke`.
#[derive(Clone, Default)]
struct Fake {
    logins: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    revoked: Arc<AtomicUsize>,
}

fn document(life: Duration) -> Value {
    json!({"token": {
        "user": {"id": "u1", "name": "alice", "domain": {"id": "default", "name": "Default"}},
        "project": {"id": "p1", "name": "demo", "domain": {"id": "default", "name": "Default"}},
        "roles": [{"id": "r1", "name": "member"}, {"id": "r2", "name": "reader"}],
        "expires_at": Timestamp::now().plus(life).iso_micros_z(),
        "methods": ["password"],
    }})
}

async fn log_in(State(fake): State<Fake>, Json(body): Json<Value>) -> Response {
    let user = &body["auth"]["identity"]["password"]["user"];
    let project = &body["auth"]["scope"]["project"];
    let known = project["name"] == "service" || project["id"] == "p1";
    if user["password"] != "s3cret" || !known {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let number = fake.logins.fetch_add(1, Ordering::SeqCst) + 1;
    let token = [("x-subject-token", format!("own-{number}"))];
    let body = Json(document(Duration::from_secs(3600)));
    (StatusCode::CREATED, token, body).into_response()
}

async fn validate(State(fake): State<Fake>, headers: HeaderMap) -> Response {
    fake.asked.fetch_add(1, Ordering::SeqCst);
    let revoked = fake.revoked.load(Ordering::SeqCst);
    if headers["x-auth-token"] == format!("own-{revoked}").as_str() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match headers["x-subject-token"].to_str() {
        Ok("good") => Json(document(Duration::from_secs(3600))).into_response(),
        Ok("ended") => Json(document(Duration::ZERO)).into_response(),
        Ok("broken") => StatusCode::BAD_GATEWAY.into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn keystone(fake: &Fake, password: &str) -> Keystone {
    let router = Router::new()
        .route("/v3/auth/tokens", get(validate).post(log_in))
        .with_state(fake.clone());
    let default = || "Default".to_owned();
    let login = Login {
        username: "nova".to_owned(),
        password: password.to_owned(),
        user_domain_name: default(),
        project_name: "service".to_owned(),
        project_domain_name: default(),
    };
    Keystone::new(Client::in_process(SERVICE, router), login)
}

#[tokio::test]
async fn tokens_are_asked_for_once() {
    let fake = Fake::default();
    let keystone = keystone(&fake, "s3cret");
    for _ in 0..5 {
        let caller = keystone.validate("good").await.unwrap();
        assert_eq!(
            (&caller.user_id[..], &caller.user_name[..]),
            ("u1", "alice")
        );
        assert_eq!(caller.project_id.as_deref(), Some("p1"));
        assert_eq!(caller.roles, ["member", "reader"]);
        assert!(!caller.system_scope && !caller.restricted);
    }
    assert_eq!(keystone.token().await.unwrap(), "own-1");
    assert_eq!(fake.asked.load(Ordering::SeqCst), 1);
    assert_eq!(fake.logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn each_project_has_a_token_of_its_own() {
    let keystone = keystone(&Fake::default(), "s3cret");
    for _ in 0..2 {
        assert_eq!(keystone.token().await.unwrap(), "own-1");
        assert_eq!(keystone.token_in("p1").await.unwrap(), "own-2");
    }
    assert!(keystone.token_in("p2").await.is_err());
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let keystone = keystone(&Fake::default(), "s3cret");
    for token in ["bad", "ended", "bad\ntoken"] {
        assert_eq!(
            keystone.validate(token).await.unwrap_err(),
            AuthError::Invalid,
            "{token:?}"
        );
    }
    let unavailable = keystone.validate("broken").await.unwrap_err();
    assert!(matches!(unavailable, AuthError::Unavailable(_)));
}

#[tokio::test]
async fn a_token_of_ours_that_was_revoked_is_replaced() {
    let fake = Fake::default();
    let keystone = keystone(&fake, "s3cret");
    assert_eq!(keystone.token().await.unwrap(), "own-1");
    fake.revoked.store(1, Ordering::SeqCst);
    keystone.validate("good").await.unwrap();
    assert_eq!(keystone.token().await.unwrap(), "own-2");
}

#[tokio::test]
async fn a_wrong_password_is_no_fault_of_the_caller() {
    let keystone = keystone(&Fake::default(), "wrong");
    let error = keystone.validate("good").await.unwrap_err();
    assert!(
        matches!(&error, AuthError::Unavailable(why) if why.contains("nova cannot log in")),
        "{error}"
    );
    assert!(!format!("{:?}", keystone.login).contains("wrong"));
}
