//! The whole API through its router, as a client would use it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::{Bootstrap, Bootstrapped, Config, Endpoint, Service, ServiceUser};
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use tower::ServiceExt;
use web::auth::{AuthError, TokenValidator};

pub(crate) struct Cloud {
    pub service: Service,
    pub ids: Bootstrapped,
    _folder: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Json,
}

fn endpoint(kind: &str, name: &str, url: &str) -> Endpoint {
    let (public, internal) = (url.to_owned(), url.to_owned());
    Endpoint {
        service_type: kind.to_owned(),
        service_name: name.to_owned(),
        public,
        internal,
        admin: None,
    }
}

pub(crate) fn wanted() -> Bootstrap {
    Bootstrap {
        admin_password: "admin-Secret".to_owned(),
        demo_password: Some("demo-Secret".to_owned()),
        region: "RegionOne".to_owned(),
        endpoints: vec![
            endpoint("identity", "keystone", "http://127.0.0.1:5000/v3"),
            endpoint("compute", "nova", "http://127.0.0.1:8774/v2.1"),
            endpoint(
                "object-store",
                "swift",
                "http://127.0.0.1:8080/v1/AUTH_%(project_id)s",
            ),
        ],
        service_users: vec![ServiceUser {
            name: "nova".to_owned(),
            password: None,
            roles: vec!["service".to_owned(), "admin".to_owned()],
        }],
    }
}

impl Cloud {
    pub async fn new() -> Self {
        Self::on(sql::Store::temporary().await.unwrap()).await
    }

    pub async fn on(store: sql::Store) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            bcrypt_cost: 4,
            ..Config::new(folder.path())
        };
        let service = Service::open(store, config).await.unwrap();
        let ids = service.bootstrap(&wanted()).await.unwrap();
        Self {
            service,
            ids,
            _folder: folder,
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.service.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Json::Null);
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    pub async fn call(&self, token: &str, method: &str, path: &str, body: Json) -> Answer {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("host", "cloud:5000");
        if !token.is_empty() {
            request = request.header("x-auth-token", token);
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, Json::Null).await
    }

    pub async fn about(&self, token: &str, method: &str, subject: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri("/v3/auth/tokens")
            .header("x-subject-token", subject);
        self.send(
            request
                .header("x-auth-token", token)
                .body(Body::empty())
                .unwrap(),
        )
        .await
    }

    pub async fn log_in(&self, user: &str, password: &str, scope: Json) -> Answer {
        let user = json!({"name": user, "domain": {"id": "default"}, "password": password});
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
        if !scope.is_null() {
            auth["scope"] = scope;
        }
        self.call("", "POST", "/v3/auth/tokens", json!({"auth": auth}))
            .await
    }

    pub async fn token(&self, user: &str, scope: Json) -> String {
        let password = format!("{user}-Secret");
        let answer = self.log_in(user, &password, scope).await;
        assert_eq!(answer.status, 201, "{user}: {}", answer.body);
        answer.headers["x-subject-token"]
            .to_str()
            .unwrap()
            .to_owned()
    }

    pub async fn admin(&self) -> String {
        self.token("admin", project("admin")).await
    }

    /// A new user with the password `NAME-Secret`, with this role on `demo`.
    pub async fn person(&self, name: &str, role: &str) -> (String, String) {
        let admin = self.admin().await;
        let body = json!({"user": {"name": name, "password": format!("{name}-Secret")}});
        let made = self.call(&admin, "POST", "/v3/users", body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let id = made.body["user"]["id"].as_str().unwrap().to_owned();
        let role = self.role(role).await;
        let grant = format!(
            "/v3/projects/{}/users/{id}/roles/{role}",
            self.ids.demo_project_id
        );
        assert_eq!(
            self.call(&admin, "PUT", &grant, Json::Null).await.status,
            204
        );
        (id, grant)
    }

    pub async fn role(&self, name: &str) -> String {
        let found = self
            .get(&self.admin().await, &format!("/v3/roles?name={name}"))
            .await
            .body;
        found["roles"][0]["id"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn project(name: &str) -> Json {
    json!({"project": {"name": name, "domain": {"name": "Default"}}})
}

fn names(list: &Json) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn versions_and_strangers() {
    let cloud = Cloud::new().await;
    let root = cloud.get("", "/").await;
    assert_eq!(root.status, 300);
    assert_eq!(
        root.body["versions"]["values"][0]["links"][0]["href"],
        "http://cloud:5000/v3/"
    );
    for path in ["/v3", "/v3/"] {
        assert_eq!(
            cloud.get("", path).await.body["version"]["id"],
            "v3.14",
            "{path}"
        );
    }
    let unknown = cloud.get("", "/v3/nothing").await;
    assert_eq!(
        (unknown.status, unknown.body["error"]["title"].as_str()),
        (404, Some("Not Found"))
    );
    assert_eq!(
        cloud
            .call("", "PATCH", "/v3/auth/tokens", Json::Null)
            .await
            .status,
        405
    );
    let stranger = cloud.get("", "/v3/users").await;
    assert_eq!(stranger.status, 401);
    assert_eq!(
        stranger.headers["www-authenticate"],
        "Keystone uri=\"http://cloud:5000\""
    );
    assert_eq!(stranger.headers["vary"], "X-Auth-Token");
    assert!(stranger.headers.contains_key("x-openstack-request-id"));
    assert_eq!(cloud.get("garbage", "/v3/users").await.status, 401);
}

#[tokio::test]
async fn project_token() {
    let cloud = Cloud::new().await;
    let answer = cloud.log_in("demo", "demo-Secret", project("demo")).await;
    assert_eq!(answer.status, 201);
    let token = &answer.body["token"];
    assert_eq!(token["project"]["name"], "demo");
    assert_eq!(
        token["project"]["domain"],
        json!({"id": "default", "name": "Default"})
    );
    assert_eq!(token["user"]["domain"]["name"], "Default");
    assert_eq!(token["methods"], json!(["password"]));
    assert_eq!(token["is_domain"], false);
    let mut roles = names(&token["roles"]);
    roles.sort_unstable();
    assert_eq!(roles, ["member", "reader"]);
    assert_eq!(names(&token["catalog"]), ["nova", "keystone", "swift"]);
    let swift = token["catalog"][2]["endpoints"][0]["url"].as_str().unwrap();
    assert!(
        swift.ends_with(&format!("AUTH_{}", cloud.ids.demo_project_id)),
        "{swift}"
    );
    assert!(token["expires_at"].as_str().unwrap().ends_with('Z'));
    let text = answer.headers["x-subject-token"].to_str().unwrap();
    let caller = cloud.service.validate(text).await.unwrap();
    assert_eq!(
        caller.project_id.as_deref(),
        Some(cloud.ids.demo_project_id.as_str())
    );
    assert_eq!(
        cloud.service.validate("gAAAAA").await,
        Err(AuthError::Invalid)
    );
    assert_eq!(
        cloud.about(text, "GET", text).await.body["token"]["audit_ids"],
        token["audit_ids"]
    );
    assert_eq!(cloud.about(text, "HEAD", text).await.status, 200);
    let foreign = cloud.about(&cloud.admin().await, "GET", "nonsense").await;
    assert_eq!(foreign.status, 404);
}

#[tokio::test]
async fn scopes() {
    let cloud = Cloud::new().await;
    let domain = json!({"domain": {"name": "Default"}});
    let system = json!({"system": {"all": true}});
    let unscoped = json!({"unscoped": {}});
    let cases = [
        ("admin", project("admin"), 201, "project"),
        ("admin", Json::Null, 201, "project"),
        ("admin", domain.clone(), 201, "domain"),
        ("admin", system.clone(), 201, "system"),
        ("demo", unscoped, 201, ""),
        ("demo", json!("unscoped"), 201, ""),
        ("demo", domain, 401, ""),
        ("demo", system, 401, ""),
        ("demo", project("admin"), 401, ""),
        ("demo", project("nowhere"), 401, ""),
        ("demo", json!({"project": {"name": "demo"}}), 400, ""),
        ("demo", json!({"project": "demo"}), 400, ""),
        ("demo", json!({"system": {"all": false}}), 400, ""),
    ];
    for (user, scope, status, part) in cases {
        let answer = cloud
            .log_in(user, &format!("{user}-Secret"), scope.clone())
            .await;
        assert_eq!(answer.status, status, "{user} {scope}: {}", answer.body);
        for known in ["project", "domain", "system"] {
            assert_eq!(
                answer.body["token"].get(known).is_some(),
                known == part,
                "{user} {scope} {known}"
            );
        }
        assert_eq!(
            answer.body["token"].get("catalog").is_some(),
            !part.is_empty()
        );
    }
}

#[tokio::test]
async fn bad_logins() {
    let cloud = Cloud::new().await;
    for (user, password) in [
        ("demo", "wrong"),
        ("nobody", "demo-Secret"),
        ("nova", ""),
        ("demo", ""),
    ] {
        let answer = cloud.log_in(user, password, Json::Null).await;
        assert_eq!(answer.status, 401, "{user}");
        assert_eq!(
            answer.body["error"]["message"],
            "The request you have made requires authentication."
        );
        assert_eq!(answer.body["error"]["title"], "Unauthorized");
    }
    let bodies = [
        (json!({}), 400, "'auth' is a required property"),
        (
            json!({"auth": {}}),
            400,
            "'identity' is a required property",
        ),
        (
            json!({"auth": {"identity": {}}}),
            400,
            "'methods' is a required property",
        ),
        (
            json!({"auth": {"identity": {"methods": "password"}}}),
            400,
            "Invalid input for field 'methods'",
        ),
        (
            json!({"auth": {"identity": {"methods": ["password"]}}}),
            400,
            "'password' is a required property",
        ),
        (
            json!({"auth": {"identity": {"methods": ["oauth9"]}}}),
            401,
            "The request you have made",
        ),
        (
            json!({"auth": {"identity": {"methods": []}}}),
            401,
            "The request you have made",
        ),
        (
            json!({"auth": {"identity": {"methods": ["token"], "token": {"id": "x"}}}}),
            401,
            "The request you have made",
        ),
    ];
    for (body, status, message) in bodies {
        let answer = cloud
            .call("", "POST", "/v3/auth/tokens", body.clone())
            .await;
        assert_eq!(answer.status, status, "{body}");
        assert!(
            answer.body["error"]["message"]
                .as_str()
                .unwrap()
                .starts_with(message),
            "{}",
            answer.body
        );
    }
    for (bytes, status) in [("{", 400), (&*"x".repeat(200_000), 413)] {
        let request = Request::post("/v3/auth/tokens")
            .body(Body::from(bytes.to_owned()))
            .unwrap();
        assert_eq!(cloud.send(request).await.status, status);
    }
}

#[tokio::test]
async fn rescoping_keeps_the_end_and_the_chain() {
    let cloud = Cloud::new().await;
    let first = cloud.log_in("demo", "demo-Secret", json!("unscoped")).await;
    let text = first.headers["x-subject-token"].to_str().unwrap();
    let auth = json!({"identity": {"methods": ["token"], "token": {"id": text}}, "scope": project("demo")});
    let second = cloud
        .call("", "POST", "/v3/auth/tokens", json!({"auth": auth}))
        .await;
    assert_eq!(second.status, 201);
    let (old, new) = (&first.body["token"], &second.body["token"]);
    assert_eq!(old["expires_at"], new["expires_at"]);
    assert_eq!(old["audit_ids"][0], new["audit_ids"][1]);
    assert_eq!(new["methods"], json!(["password", "token"]));
}

#[tokio::test]
async fn old_tokens_are_refused_at_once() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let user = |id: &str| format!("/v3/users/{id}");
    let here = format!("/v3/projects/{}", cloud.ids.demo_project_id);
    let changes = [
        "password",
        "disabled",
        "role",
        "revoked",
        "deleted",
        "own password",
        "project disabled",
    ];
    for change in changes {
        let name = change.replace(' ', "-");
        let (id, grant) = cloud.person(&name, "member").await;
        let token = cloud.token(&name, project("demo")).await;
        assert!(cloud.service.validate(&token).await.is_ok(), "{change}");
        let done = match change {
            "password" => {
                cloud
                    .call(
                        &admin,
                        "PATCH",
                        &user(&id),
                        json!({"user": {"password": "x"}}),
                    )
                    .await
            }
            "disabled" => {
                cloud
                    .call(
                        &admin,
                        "PATCH",
                        &user(&id),
                        json!({"user": {"enabled": false}}),
                    )
                    .await
            }
            "role" => cloud.call(&admin, "DELETE", &grant, Json::Null).await,
            "revoked" => cloud.about(&admin, "DELETE", &token).await,
            "deleted" => cloud.call(&admin, "DELETE", &user(&id), Json::Null).await,
            "own password" => {
                let body = json!({"user": {"original_password": format!("{name}-Secret"), "password": "new"}});
                cloud
                    .call("", "POST", &format!("/v3/users/{id}/password"), body)
                    .await
            }
            _ => {
                cloud
                    .call(
                        &admin,
                        "PATCH",
                        &here,
                        json!({"project": {"enabled": false}}),
                    )
                    .await
            }
        };
        assert!(done.status < 300, "{change}: {} {}", done.status, done.body);
        assert_eq!(
            cloud.service.validate(&token).await,
            Err(AuthError::Invalid),
            "{change}"
        );
    }
}

#[tokio::test]
async fn bootstrap_can_be_repeated() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let service = cloud.service.clone();
    // On a task of its own, as the binary may start it.
    let again = tokio::spawn(async move { service.bootstrap(&wanted()).await });
    let again = again.await.unwrap().unwrap();
    assert_eq!(again, cloud.ids);
    assert!(
        cloud.service.validate(&admin).await.is_ok(),
        "the same password ends no token"
    );
    let listed = cloud.get(&admin, "/v3/projects").await.body;
    let mut projects = names(&listed["projects"]);
    projects.sort_unstable();
    assert_eq!(projects, ["admin", "demo", "service"]);
    assert_eq!(
        cloud.get(&admin, "/v3/endpoints").await.body["endpoints"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
}

#[tokio::test]
async fn bootstrap_sets_the_password_that_is_asked_for() {
    let cloud = Cloud::new().await;
    let with = |password: &str| Bootstrap {
        admin_password: password.to_owned(),
        ..wanted()
    };
    let first = wanted().admin_password;
    // Twice each, so that what is remembered of the time before is used, too.
    for password in ["second", "second", first.as_str(), first.as_str(), "third"] {
        cloud.service.bootstrap(&with(password)).await.unwrap();
        let row = rows_of(&cloud, "admin").await;
        for tried in ["second", first.as_str(), "third"] {
            let fits = bcrypt::verify(tried, &row).unwrap();
            assert_eq!(fits, tried == password, "{tried} where {password} was set");
        }
    }
}

/// Who has shown an old password just before it was changed gets no token any more. By a clock that was set back since the
/// user's tokens count there are new ones all the same, which the next change ends.
#[tokio::test]
async fn a_change_of_the_password_ends_what_is_on_its_way() {
    let cloud = Cloud::new().await;
    let password = wanted().admin_password;
    let user = json!({"name": "admin", "domain": {"id": "default"}, "password": password});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    let body = json!({"auth": {"identity": identity, "scope": "unscoped"}});
    let show = || crate::auth::authenticate(&cloud.service, &body);
    let (payload, seen) = show().await.unwrap();
    cloud.service.begin(payload, seen).await.unwrap();

    let (payload, seen) = show().await.unwrap();
    let id = payload.user_id.clone();
    let later = types::Timestamp::now().plus(std::time::Duration::from_secs(86_400));
    for at in [later, types::Timestamp::now()] {
        let id = id.clone();
        let ending = move |tx: &mut sql::Tx<'_>| Ok(crate::db::access::end_tokens(tx, &id, at)?);
        cloud.service.change(ending).await.unwrap();
        let refused = cloud.service.begin(payload.clone(), seen).await;
        assert!(refused.is_err(), "{at:?}");
        let (payload, seen) = show().await.unwrap();
        let held = cloud.service.begin(payload.clone(), seen).await.unwrap();
        assert!(held.payload.issued_at >= seen);
        let again = cloud.service.look_up(held.payload).await;
        assert!(again.is_ok(), "it counts");
    }
}

async fn rows_of(cloud: &Cloud, user: &str) -> String {
    let user = user.to_owned();
    let domain = crate::db::access::Named::Id("default".to_owned());
    let read =
        move |tx: &mut sql::Tx<'_>| Ok(crate::db::access::person_by_name(tx, &user, &domain)?);
    let person = cloud.service.read(read).await.unwrap();
    person.and_then(|person| person.password_hash).unwrap()
}

#[tokio::test]
async fn services_act_in_projects() {
    let cloud = Cloud::new().await;
    let token = cloud
        .service
        .issue_service_token("nova", &cloud.ids.demo_project_id)
        .await
        .unwrap();
    let caller = cloud.service.validate(&token).await.unwrap();
    assert_eq!(caller.project_name.as_deref(), Some("demo"));
    assert!(caller.has_role("service") && caller.has_role("admin"));
    assert!(
        cloud
            .service
            .issue_service_token("nova", "nowhere")
            .await
            .is_err()
    );
    assert!(
        cloud
            .service
            .issue_service_token("demo", &cloud.ids.demo_project_id)
            .await
            .is_err()
    );
    assert_eq!(
        StatusCode::OK.as_u16(),
        cloud.about(&token, "GET", &token).await.status
    );
}

#[tokio::test]
async fn application_credentials_have_only_their_roles() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let path = format!(
        "/v3/users/{}/application_credentials",
        cloud.ids.admin_user_id
    );
    let body = json!({"application_credential": {"name": "robot", "roles": [{"name": "member"}]}});
    let made = cloud.call(&admin, "POST", &path, body.clone()).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(cloud.call(&admin, "POST", &path, body).await.status, 409);
    let made = &made.body["application_credential"];
    let part = json!({"id": made["id"], "secret": made["secret"]});
    let method = json!({"methods": ["application_credential"], "application_credential": part});
    let log_in = async |scope: Json| {
        let mut auth = json!({"identity": method});
        if !scope.is_null() {
            auth["scope"] = scope;
        }
        cloud
            .call("", "POST", "/v3/auth/tokens", json!({"auth": auth}))
            .await
    };
    let answer = log_in(Json::Null).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let mut roles = names(&answer.body["token"]["roles"]);
    roles.sort_unstable();
    assert_eq!(roles, ["member", "reader"]);
    assert_eq!(
        answer.body["token"]["application_credential"]["restricted"],
        true
    );
    assert_eq!(log_in(project("demo")).await.status, 401);
    let token = answer.headers["x-subject-token"].to_str().unwrap();
    let another = json!({"application_credential": {"name": "more"}});
    assert_eq!(cloud.call(token, "POST", &path, another).await.status, 403);
    let rescoped = json!({"auth": {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": {"system": {"all": true}}}});
    assert_eq!(
        cloud
            .call("", "POST", "/v3/auth/tokens", rescoped)
            .await
            .status,
        401
    );
    // EC2 credentials made by the robot are the robot's.
    let ec2 = format!("/v3/users/{}/credentials/OS-EC2", cloud.ids.admin_user_id);
    let key = cloud
        .call(
            token,
            "POST",
            &ec2,
            json!({"tenant_id": cloud.ids.admin_project_id}),
        )
        .await
        .body;
    let answer = signed(&cloud, &admin, &key["credential"]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["token"]["roles"].as_array().unwrap().len(), 2);
    let gone = cloud
        .call(
            &admin,
            "DELETE",
            &format!("{path}/{}", made["id"].as_str().unwrap()),
            Json::Null,
        )
        .await;
    assert_eq!(gone.status, 204);
    assert_eq!(cloud.service.validate(token).await, Err(AuthError::Invalid));
    assert_eq!(signed(&cloud, &admin, &key["credential"]).await.status, 401);
}

/// Has a request checked that was signed with these EC2 credentials (version 2).
async fn signed(cloud: &Cloud, token: &str, key: &Json) -> Answer {
    use base64::Engine;
    use hmac::Mac;
    let at = types::Timestamp::now().iso_seconds_z();
    let (access, secret) = (
        key["access"].as_str().unwrap(),
        key["secret"].as_str().unwrap(),
    );
    let query = format!(
        "AWSAccessKeyId={access}&SignatureMethod=HmacSHA256&SignatureVersion=2&Timestamp={}",
        at.replace(':', "%3A")
    );
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("GET\nec2:8788\n/\n{query}").as_bytes());
    let params = json!({"AWSAccessKeyId": access, "SignatureMethod": "HmacSHA256", "SignatureVersion": "2", "Timestamp": at});
    let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    let request = json!({
        "access": access, "signature": signature, "host": "ec2:8788", "verb": "GET", "path": "/", "params": params,
    });
    cloud
        .call(
            token,
            "POST",
            "/v3/ec2tokens",
            json!({"credentials": request}),
        )
        .await
}

#[tokio::test]
async fn signed_ec2_requests() {
    let cloud = Cloud::new().await;
    let demo = cloud.token("demo", project("demo")).await;
    let user = cloud.service.validate(&demo).await.unwrap().user_id.clone();
    let path = format!("/v3/users/{user}/credentials/OS-EC2");
    let made = cloud
        .call(
            &demo,
            "POST",
            &path,
            json!({"tenant_id": cloud.ids.demo_project_id}),
        )
        .await;
    let mut key = made.body["credential"].clone();
    let service = cloud
        .service
        .issue_service_token("nova", &cloud.ids.service_project_id)
        .await
        .unwrap();
    let answer = signed(&cloud, &service, &key).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["token"]["project"]["name"], "demo");
    assert!(
        cloud
            .service
            .validate(answer.headers["x-subject-token"].to_str().unwrap())
            .await
            .is_ok()
    );
    assert_eq!(
        signed(&cloud, &demo, &key).await.status,
        403,
        "only services may ask"
    );
    key["secret"] = json!("wrong");
    assert_eq!(signed(&cloud, &service, &key).await.status, 401);
    // A credential cannot be turned into somebody else's.
    let list = cloud.get(&demo, "/v3/credentials").await.body;
    let own = format!(
        "/v3/credentials/{}",
        list["credentials"][0]["id"].as_str().unwrap()
    );
    let theft = json!({"credential": {"user_id": cloud.ids.admin_user_id}});
    assert_eq!(cloud.call(&demo, "PATCH", &own, theft).await.status, 400);
}

#[tokio::test]
async fn lists_filters_and_pages() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    for name in ["alpha", "beta", "gamma"] {
        let body = json!({"project": {"name": name, "description": "x", "tags": [name]}});
        assert_eq!(
            cloud
                .call(&admin, "POST", "/v3/projects", body)
                .await
                .status,
            201
        );
    }
    let cases = [
        ("name=beta", vec!["beta"]),
        ("name__startswith=al", vec!["alpha"]),
        ("tags=gamma", vec!["gamma"]),
        ("tags-any=alpha,beta", vec!["alpha", "beta"]),
        ("enabled=false", vec![]),
        ("domain_id=nowhere", vec![]),
        ("name=beta&enabled=true&unknown=1", vec!["beta"]),
    ];
    for (query, wanted) in cases {
        let list = cloud
            .get(&admin, &format!("/v3/projects?{query}"))
            .await
            .body;
        let mut found = names(&list["projects"]);
        found.sort_unstable();
        assert_eq!(found, wanted, "{query}");
    }
    let (mut next, mut seen) = (Some("http://cloud:5000/v3/projects?limit=4".to_owned()), 0);
    while let Some(url) = next {
        let page = cloud
            .get(&admin, url.strip_prefix("http://cloud:5000").unwrap())
            .await
            .body;
        seen += page["projects"].as_array().unwrap().len();
        next = page["links"]["next"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, 6);
}

#[tokio::test]
async fn bad_records() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let demo = format!("/v3/projects/{}", cloud.ids.demo_project_id);
    let user = |body: Json| json!({"user": body});
    let cases = [
        (
            "POST",
            "/v3/users",
            json!({}),
            400,
            "'user' is a required property",
        ),
        (
            "POST",
            "/v3/users",
            user(json!({})),
            400,
            "'name' is a required property",
        ),
        (
            "POST",
            "/v3/users",
            user(json!({"name": 1})),
            400,
            "Invalid input for field 'name'",
        ),
        (
            "POST",
            "/v3/users",
            user(json!({"name": "a", "enabled": 1})),
            400,
            "Invalid input for field 'enabled'",
        ),
        (
            "POST",
            "/v3/users",
            user(json!({"name": "a", "domain_id": "nowhere"})),
            404,
            "Could not find domain: nowhere.",
        ),
        (
            "POST",
            "/v3/users",
            user(json!({"name": "demo"})),
            409,
            "Conflict occurred attempting to store user",
        ),
        (
            "POST",
            "/v3/projects",
            json!({"project": {"name": "demo"}}),
            409,
            "Conflict occurred attempting to store project",
        ),
        (
            "PATCH",
            &demo,
            json!({"project": {"domain_id": "other"}}),
            400,
            "Cannot change Domain ID",
        ),
        (
            "GET",
            "/v3/users/nobody",
            Json::Null,
            404,
            "Could not find user: nobody.",
        ),
        (
            "DELETE",
            "/v3/domains/default",
            Json::Null,
            403,
            "Cannot delete a domain that is enabled",
        ),
        (
            "DELETE",
            "/v3/regions/RegionOne",
            Json::Null,
            403,
            "Unable to delete region RegionOne",
        ),
        (
            "POST",
            "/v3/endpoints",
            json!({"endpoint": {"interface": "side", "service_id": "x", "url": "http://x"}}),
            400,
            "Invalid input for field 'interface'",
        ),
        (
            "POST",
            "/v3/endpoints",
            json!({"endpoint": {"interface": "public", "service_id": "x", "url": "http://x"}}),
            400,
            "Could not find service: x.",
        ),
    ];
    for (method, path, body, status, message) in cases {
        let answer = cloud.call(&admin, method, path, body.clone()).await;
        assert_eq!(
            answer.status, status,
            "{method} {path} {body}: {}",
            answer.body
        );
        assert!(
            answer.body["error"]["message"]
                .as_str()
                .unwrap()
                .starts_with(message),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn the_same_on_every_database() {
    for sql::testing::TestStore { name, store, .. } in &sql::testing::databases().await {
        let cloud = Cloud::on(store.clone()).await;
        let (id, grant) = cloud.person("someone", "member").await;
        let token = cloud.token("someone", project("demo")).await;
        let admin = cloud.admin().await;
        let assigned = format!("/v3/role_assignments?user.id={id}&effective&include_names");
        let rows = cloud.get(&admin, &assigned).await.body;
        assert_eq!(
            rows["role_assignments"].as_array().unwrap().len(),
            2,
            "{name}"
        );
        let taken = json!({"user": {"name": "someone"}});
        assert_eq!(
            cloud.call(&admin, "POST", "/v3/users", taken).await.status,
            409,
            "{name}"
        );
        let catalog = cloud.get(&token, "/v3/auth/catalog").await.body;
        assert_eq!(catalog["catalog"].as_array().unwrap().len(), 3, "{name}");
        assert_eq!(
            cloud
                .call(&admin, "DELETE", &grant, Json::Null)
                .await
                .status,
            204,
            "{name}"
        );
        assert_eq!(
            cloud.service.validate(&token).await,
            Err(AuthError::Invalid),
            "{name}"
        );
        let user = format!("/v3/users/{id}");
        assert_eq!(
            cloud.call(&admin, "DELETE", &user, Json::Null).await.status,
            204,
            "{name}"
        );
        assert_eq!(cloud.get(&admin, &user).await.status, 404, "{name}");
    }
}

#[tokio::test]
async fn another_process_sees_a_change_within_a_second() {
    let databases = sql::testing::databases().await;
    let cloud = Cloud::on(databases[0].store.clone()).await;
    let (id, _) = cloud.person("someone", "member").await;
    let token = cloud.token("someone", project("demo")).await;
    let config = cloud.service.inner.config.clone();
    let other = Service::open(databases[0].again().await, config)
        .await
        .unwrap();
    assert!(other.validate(&token).await.is_ok());
    let gone = cloud
        .call(
            &cloud.admin().await,
            "DELETE",
            &format!("/v3/users/{id}"),
            Json::Null,
        )
        .await;
    assert_eq!(gone.status, 204);
    // The second is what is tested: no word passes between processes.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(other.validate(&token).await, Err(AuthError::Invalid));
}
