//! Logging in: from the body of `POST /v3/auth/tokens` to a token's payload.

use crate::db::access::{self as rows, Named, Person};
use crate::db::app_credentials;
use crate::fault::Fault;
use crate::service::Service;
use crate::token::{Basis, Payload, Scope, audit_id};
use crate::{access, password};
use serde_json::Value as Json;
use types::Timestamp;

/// The methods a request may name.
const METHODS: [&str; 3] = ["password", "token", "application_credential"];

/// A scope as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// None named: the default project, if there is one.
    Default,
    Unscoped,
    ProjectId(String),
    ProjectName(String, Named),
    Domain(Named),
    System,
}

/// Who showed itself, and what that allows.
struct Shown {
    user_id: String,
    methods: Vec<String>,
    basis: Basis,
    /// The scope that comes with the method: an application credential's project, or that of the old token.
    bound: Option<Scope>,
    /// Of the token that was shown: the new one ends no later and names it.
    expires_at: Option<Timestamp>,
    parent: Option<String>,
    is_token: bool,
    /// From when on the user's tokens counted then.
    seen: Timestamp,
}

/// Checks who asks and what for. Also: from when on the user's tokens counted when that was checked, for
/// [`Service::begin`].
pub async fn authenticate(service: &Service, body: &Json) -> Result<(Payload, Timestamp), Fault> {
    let auth = object(body.get("auth"), "auth")?;
    let identity = object(auth.get("identity"), "identity")?;
    let methods = methods(identity)?;
    let wanted = wanted(auth.get("scope"))?;
    let mut shown: Option<Shown> = None;
    for method in &methods {
        let part = object(identity.get(method.as_str()), method)?;
        let next = match method.as_str() {
            "password" => by_password(service, part).await?,
            "token" => by_token(service, part).await?,
            _ => by_app_credential(service, part).await?,
        };
        shown = Some(match shown {
            None => next,
            Some(first) => joined(first, next)?,
        });
    }
    let shown = shown.ok_or(Fault::Unauthorized)?;
    let scope = scope(service, &shown, wanted).await?;
    let now = Timestamp::now();
    let end = now.plus(service.inner.config.token_life);
    let mut audit_ids = vec![audit_id()];
    audit_ids.extend(shown.parent);
    let payload = Payload {
        user_id: shown.user_id,
        scope,
        basis: shown.basis,
        methods: shown.methods,
        audit_ids,
        issued_at: now,
        expires_at: shown.expires_at.map_or(end, |parent| parent.min(end)),
    };
    Ok((payload, shown.seen))
}

fn object<'a>(
    value: Option<&'a Json>,
    name: &str,
) -> Result<&'a serde_json::Map<String, Json>, Fault> {
    let value = value.ok_or_else(|| Fault::required(name))?;
    value
        .as_object()
        .ok_or_else(|| Fault::field(name, format!("{value} is not of type 'object'")))
}

fn text<'a>(part: &'a serde_json::Map<String, Json>, name: &str) -> Result<Option<&'a str>, Fault> {
    match part.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(other) => Err(Fault::field(
            name,
            format!("{other} is not of type 'string'"),
        )),
    }
}

fn methods(identity: &serde_json::Map<String, Json>) -> Result<Vec<String>, Fault> {
    let named = identity
        .get("methods")
        .ok_or_else(|| Fault::required("methods"))?;
    let list = named
        .as_array()
        .ok_or_else(|| Fault::field("methods", format!("{named} is not of type 'array'")))?;
    let mut methods: Vec<String> = Vec::new();
    for method in list {
        let method = method
            .as_str()
            .ok_or_else(|| Fault::field("methods", format!("{method} is not of type 'string'")))?;
        if !METHODS.contains(&method) {
            return Err(Fault::Unauthorized);
        }
        if !methods.iter().any(|seen| seen == method) {
            methods.push(method.to_owned());
        }
    }
    Ok(methods)
}

fn domain(part: &serde_json::Map<String, Json>, name: &str) -> Result<Named, Fault> {
    let domain = object(part.get(name), name)?;
    match (text(domain, "id")?, text(domain, "name")?) {
        (Some(id), _) => Ok(Named::Id(id.to_owned())),
        (None, Some(name)) => Ok(Named::Name(name.to_owned())),
        (None, None) => Err(Fault::required("id")),
    }
}

fn wanted(scope: Option<&Json>) -> Result<Wanted, Fault> {
    let scope = match scope {
        None | Some(Json::Null) => return Ok(Wanted::Default),
        Some(Json::String(word)) if word == "unscoped" => return Ok(Wanted::Unscoped),
        Some(value) => object(Some(value), "scope")?,
    };
    if scope.contains_key("unscoped") {
        return Ok(Wanted::Unscoped);
    }
    if scope.contains_key("OS-TRUST:trust") {
        return Err(Fault::NotImplemented(
            "Trusts are not supported by this identity service.".to_owned(),
        ));
    }
    if let Some(system) = scope.get("system") {
        return match system.get("all") {
            Some(Json::Bool(true)) => Ok(Wanted::System),
            _ => Err(Fault::field("scope/system", "'all' must be true")),
        };
    }
    if scope.contains_key("domain") {
        return Ok(Wanted::Domain(domain(scope, "domain")?));
    }
    let project = object(scope.get("project"), "project")?;
    match (text(project, "id")?, text(project, "name")?) {
        (Some(id), _) => Ok(Wanted::ProjectId(id.to_owned())),
        (None, Some(name)) => Ok(Wanted::ProjectName(
            name.to_owned(),
            domain(project, "domain")?,
        )),
        (None, None) => Err(Fault::required("id")),
    }
}

/// The person a request names by id, or by name and domain.
async fn person(
    service: &Service,
    user: &serde_json::Map<String, Json>,
) -> Result<Option<Person>, Fault> {
    match (
        text(user, "id")?.map(str::to_owned),
        text(user, "name")?.map(str::to_owned),
    ) {
        (Some(id), _) => {
            service
                .read(move |tx| Ok(rows::person_by_id(tx, &id)?))
                .await
        }
        (None, Some(name)) => {
            let domain = domain(user, "domain")?;
            service
                .read(move |tx| Ok(rows::person_by_name(tx, &name, &domain)?))
                .await
        }
        (None, None) => Err(Fault::required("id")),
    }
}

async fn by_password(
    service: &Service,
    part: &serde_json::Map<String, Json>,
) -> Result<Shown, Fault> {
    let user = object(part.get("user"), "user")?;
    let secret = text(user, "password")?.ok_or_else(|| Fault::required("password"))?;
    let person = person(service, user).await?;
    let hash = person
        .as_ref()
        .and_then(|person| person.password_hash.clone());
    let right = service.inner.passwords.verify(secret, hash).await?;
    let person = person
        .filter(|person| right && person.enabled)
        .ok_or(Fault::Unauthorized)?;
    Ok(Shown {
        user_id: person.id,
        methods: vec!["password".to_owned()],
        basis: Basis::User,
        bound: None,
        expires_at: None,
        parent: None,
        is_token: false,
        seen: person.tokens_from,
    })
}

async fn by_token(service: &Service, part: &serde_json::Map<String, Json>) -> Result<Shown, Fault> {
    let token = text(part, "id")?.ok_or_else(|| Fault::required("id"))?;
    let held = service.held(token).await?;
    let payload = &held.payload;
    let bound = !matches!(payload.basis, Basis::User);
    let mut methods = payload.methods.clone();
    if !methods.iter().any(|method| method == "token") {
        methods.push("token".to_owned());
    }
    Ok(Shown {
        user_id: payload.user_id.clone(),
        methods,
        basis: payload.basis.clone(),
        bound: bound.then(|| payload.scope.clone()),
        expires_at: Some(payload.expires_at),
        parent: payload.audit_ids.last().cloned(),
        is_token: true,
        seen: held.tokens_from,
    })
}

async fn by_app_credential(
    service: &Service,
    part: &serde_json::Map<String, Json>,
) -> Result<Shown, Fault> {
    let secret = text(part, "secret")?.ok_or_else(|| Fault::required("secret"))?;
    let id = text(part, "id")?.map(str::to_owned);
    let found = match (id, text(part, "name")?.map(str::to_owned)) {
        (Some(id), _) => {
            service
                .read(move |tx| Ok(app_credentials::find(tx, &id)?))
                .await?
        }
        (None, Some(name)) => {
            let owner = person(service, object(part.get("user"), "user")?).await?;
            let owner = owner.map_or_else(String::new, |person| person.id);
            let all = service
                .read(move |tx| Ok(app_credentials::of_user(tx, &owner)?))
                .await?;
            all.into_iter().find(|credential| credential.name == name)
        }
        (None, None) => return Err(Fault::required("id")),
    };
    let owner = found.as_ref().map(|found| found.user_id.clone());
    let owner = owner.unwrap_or_default();
    let seen = service
        .read(move |tx| Ok(access::tokens_from(tx, &owner)?))
        .await?;
    let hash = found
        .as_ref()
        .map(|credential| credential.secret_hash.clone());
    let right = service.inner.passwords.verify(secret, hash).await?;
    let found = found.filter(|_| right).ok_or(Fault::Unauthorized)?;
    Ok(Shown {
        user_id: found.user_id,
        methods: vec!["application_credential".to_owned()],
        basis: Basis::AppCredential(found.id),
        bound: Some(Scope::Project(found.project_id)),
        expires_at: found.expires_at,
        parent: None,
        is_token: false,
        seen,
    })
}

/// Two methods in one request must show the same user.
fn joined(first: Shown, second: Shown) -> Result<Shown, Fault> {
    if first.user_id != second.user_id || first.seen != second.seen {
        return Err(Fault::Unauthorized);
    }
    let mut methods = first.methods;
    methods.extend(
        second
            .methods
            .into_iter()
            .filter(|method| !methods.contains(method))
            .collect::<Vec<_>>(),
    );
    Ok(Shown {
        user_id: first.user_id,
        methods,
        basis: if first.bound.is_some() {
            first.basis
        } else {
            second.basis
        },
        bound: first.bound.or(second.bound),
        expires_at: first.expires_at.into_iter().chain(second.expires_at).min(),
        parent: first.parent.or(second.parent),
        is_token: first.is_token || second.is_token,
        seen: first.seen,
    })
}

/// The scope of the new token; every doubt is "unauthorized" so that a request learns nothing about projects.
async fn scope(service: &Service, shown: &Shown, wanted: Wanted) -> Result<Scope, Fault> {
    let user_id = shown.user_id.clone();
    let bound = shown.bound.clone();
    let from_token = shown.is_token;
    service
        .read(move |tx| {
            let named = match &wanted {
                Wanted::Default | Wanted::Unscoped => None,
                Wanted::System => Some(Scope::System),
                Wanted::ProjectId(id) => Some(Scope::Project(id.clone())),
                Wanted::ProjectName(name, domain) => {
                    let project =
                        rows::project_by_name(tx, name, domain)?.ok_or(Fault::Unauthorized)?;
                    Some(Scope::Project(project.id))
                }
                Wanted::Domain(domain) => {
                    let domain = rows::domain(tx, domain)?.ok_or(Fault::Unauthorized)?;
                    Some(Scope::Domain(domain.id))
                }
            };
            match (&bound, named) {
                (Some(bound), None) => Ok(bound.clone()),
                (Some(bound), Some(named)) if *bound == named => Ok(named),
                (Some(_), Some(_)) => Err(Fault::Unauthorized),
                (None, Some(named)) => Ok(named),
                (None, None) if wanted == Wanted::Unscoped || from_token => Ok(Scope::Unscoped),
                (None, None) => default_scope(tx, &user_id),
            }
        })
        .await
}

/// The user's default project, if it has a role there; no error when not.
fn default_scope(tx: &mut sql::Tx<'_>, user_id: &str) -> Result<Scope, Fault> {
    let Some(project) = access::person(tx, user_id)?.default_project_id else {
        return Ok(Scope::Unscoped);
    };
    let usable = rows::project(tx, &project)?.is_some_and(|project| project.enabled);
    let scope = Scope::Project(project);
    if usable && !access::roles(tx, user_id, &scope)?.is_empty() {
        Ok(scope)
    } else {
        Ok(Scope::Unscoped)
    }
}

/// Refuses a password that can not be stored.
pub fn check_new_password(password: &str) -> Result<(), Fault> {
    if password.is_empty() {
        return Err(Fault::field("password", "'' is too short"));
    }
    if password.len() > password::LONGEST {
        return Err(Fault::field(
            "password",
            format!("longer than {} bytes", password::LONGEST),
        ));
    }
    Ok(())
}
