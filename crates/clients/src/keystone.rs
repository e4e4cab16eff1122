//! A site's own identity service (Identity API v3): what tokens mean, and tokens for compute's own work.

use crate::ServiceTokens;
use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use types::{Caller, Timestamp};
use web::auth::{AuthError, TokenValidator};
use web::client::{Answer, Client, ClientError};

const SERVICE: &str = "the identity service";
/// How long an answer about a token counts: a revocation is seen this much later at most.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Answers remembered at once.
const MOST: usize = 10_000;
/// How long before its end a token of our own is replaced.
const MARGIN: Duration = Duration::from_secs(120);

/// As whom compute acts, in the words of `[keystone_authtoken]`.
#[derive(Clone)]
pub struct Login {
    /// The user.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Its domain's name.
    pub user_domain_name: String,
    /// The project.
    pub project_name: String,
    /// Its domain's name.
    pub project_domain_name: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.username)
    }
}

/// A client of an identity service, which remembers what it was told for a while.
pub struct Keystone {
    client: Client,
    login: Login,
    own: tokio::sync::Mutex<HashMap<Scope, Own>>,
    known: Mutex<HashMap<[u8; 32], Known>>,
}

/// Where a token of our own acts: in a project by its id, or in that of the login.
type Scope = Option<String>;

/// A token of our own, and until when it is used: by both clocks, of which the one that the service goes by may jump.
#[derive(Clone)]
struct Own {
    token: String,
    until: Instant,
    end: Timestamp,
}

struct Known {
    caller: Arc<Caller>,
    until: Instant,
}

fn secret(value: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(value).map_err(|error| ClientError::Unexpected {
        service: SERVICE,
        reason: error.to_string(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn unexpected(what: &str, answer: &Answer) -> ClientError {
    ClientError::Unexpected {
        service: SERVICE,
        reason: format!("{what}: {}", answer.status),
    }
}

impl Keystone {
    /// A client of the service whose root (the URL without `/v3`) `client` has.
    pub fn new(client: Client, login: Login) -> Self {
        Self {
            client,
            login,
            own: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], Known>> {
        // Each entry is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our own token; `refused` is one that the service does not take any more. One request at a time asks for it.
    async fn own(&self, scope: Scope, refused: Option<&str>) -> Result<String, ClientError> {
        let mut own = self.own.lock().await;
        own.retain(|_, one| Instant::now() < one.until && Timestamp::now() < one.end);
        if let Some(Own { token, .. }) = own.get(&scope)
            && refused != Some(token)
        {
            return Ok(token.clone());
        }
        let fresh = self.log_in(scope.as_deref()).await?;
        own.insert(scope, fresh.clone());
        Ok(fresh.token)
    }

    async fn log_in(&self, project: Option<&str>) -> Result<Own, ClientError> {
        let login = &self.login;
        let user = json!({
            "name": login.username, "password": login.password, "domain": {"name": login.user_domain_name},
        });
        let project = match project {
            Some(id) => json!({"id": id}),
            None => {
                json!({"name": login.project_name, "domain": {"name": login.project_domain_name}})
            }
        };
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": project},
        }});
        let path = "/v3/auth/tokens?nocatalog";
        let answer = self
            .client
            .call(Method::POST, path, HeaderMap::new(), Some(&body))
            .await?;
        if answer.status != StatusCode::CREATED {
            let what = format!("{} cannot log in", login.username);
            return Err(unexpected(&what, &answer));
        }
        let token = answer.headers.get("x-subject-token");
        let token = token.and_then(|token| token.to_str().ok());
        let token = token.ok_or_else(|| unexpected("a token without its id", &answer))?;
        let life = life(&answer.json()["token"]).saturating_sub(MARGIN);
        Ok(Own {
            token: token.to_owned(),
            until: Instant::now() + life,
            end: Timestamp::now().plus(life),
        })
    }

    async fn ask(&self, token: &str) -> Result<Answer, ClientError> {
        let mut refused = None;
        loop {
            let own = self.own(None, refused.as_deref()).await?;
            let mut headers = HeaderMap::new();
            headers.insert("x-auth-token", secret(&own)?);
            headers.insert("x-subject-token", secret(token)?);
            let path = "/v3/auth/tokens?nocatalog";
            let answer = self.client.call(Method::GET, path, headers, None).await?;
            // Our own token may have been revoked; a fresh one is not refused.
            if answer.status != StatusCode::UNAUTHORIZED || refused.is_some() {
                return Ok(answer);
            }
            refused = Some(own);
        }
    }

    /// Whether the service says that there is no such project; it may also refuse to say.
    async fn project_is_missing(&self, id: &str) -> Result<bool, ClientError> {
        let own = self.own(None, None).await?;
        let mut headers = HeaderMap::new();
        headers.insert("x-auth-token", secret(&own)?);
        let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
        let path = format!("/v3/projects/{id}");
        let answer = self.client.call(Method::GET, &path, headers, None).await?;
        Ok(answer.status == StatusCode::NOT_FOUND)
    }

    fn remember(&self, key: [u8; 32], caller: &Arc<Caller>, life: Duration) {
        let now = Instant::now();
        let mut known = self.known();
        if known.len() >= MOST {
            known.retain(|_, one| one.until > now);
        }
        if known.len() >= MOST {
            known.clear();
        }
        let until = now + life.min(REMEMBERED);
        let caller = Arc::clone(caller);
        known.insert(key, Known { caller, until });
    }
}

/// How long a token is still good, by its own words.
fn life(token: &Value) -> Duration {
    let end = token["expires_at"].as_str().and_then(Timestamp::parse);
    let left = end.map_or(0, |end| end.micros() - Timestamp::now().micros());
    Duration::from_micros(u64::try_from(left).unwrap_or(0))
}

/// The holder of a token as the Identity API describes it.
fn caller(token: &Value) -> Option<Caller> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (user, project, domain) = (&token["user"], &token["project"], &token["domain"]);
    let roles = token["roles"].as_array().into_iter().flatten();
    Some(Caller {
        user_id: text(&user["id"])?,
        user_name: text(&user["name"])?,
        user_domain_id: text(&user["domain"]["id"])?,
        user_domain_name: text(&user["domain"]["name"]).unwrap_or_default(),
        project_id: text(&project["id"]),
        project_name: text(&project["name"]),
        project_domain_id: text(&project["domain"]["id"]),
        project_domain_name: text(&project["domain"]["name"]),
        domain_id: text(&domain["id"]),
        domain_name: text(&domain["name"]),
        system_scope: token["system"]["all"].as_bool().unwrap_or(false),
        roles: roles.filter_map(|role| text(&role["name"])).collect(),
        restricted: token["application_credential"]["restricted"]
            .as_bool()
            .unwrap_or(false),
        expires_at: token["expires_at"].as_str().and_then(Timestamp::parse)?,
    })
}

#[async_trait]
impl ServiceTokens for Keystone {
    async fn token(&self) -> Result<String, ClientError> {
        self.own(None, None).await
    }

    async fn token_in(&self, project_id: &str) -> Result<String, ClientError> {
        self.own(Some(project_id.to_owned()), None).await
    }
}

#[async_trait]
impl TokenValidator for Keystone {
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.known().get(&key)
            && Instant::now() < known.until
        {
            return Ok(Arc::clone(&known.caller));
        }
        // What cannot stand in a header is no token.
        if HeaderValue::from_str(token).is_err() {
            return Err(AuthError::Invalid);
        }
        let unavailable = |error: ClientError| AuthError::Unavailable(error.to_string());
        let answer = self.ask(token).await.map_err(unavailable)?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(AuthError::Invalid),
            _ => {
                return Err(unavailable(unexpected(
                    "a token cannot be validated",
                    &answer,
                )));
            }
        }
        let document = answer.json();
        let found = caller(&document["token"]).map(Arc::new);
        let found =
            found.ok_or_else(|| unavailable(unexpected("a token without a user", &answer)))?;
        let life = life(&document["token"]);
        if life.is_zero() {
            return Err(AuthError::Invalid);
        }
        self.remember(key, &found, life);
        Ok(found)
    }

    async fn knows_project(&self, id: &str) -> bool {
        match self.project_is_missing(id).await {
            Ok(missing) => !missing,
            Err(error) => {
                tracing::warn!(project = id, %error, "whether a project exists is not known");
                true
            }
        }
    }
}

#[cfg(test)]
#[path = "keystone_tests.rs"]
mod tests;
