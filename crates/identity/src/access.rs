//! From a token's payload to rights: who, where, with which roles, and whether all of it still holds.

use crate::db::access::{self as rows, Named, Person, Place};
use crate::db::app_credentials::{self, AppCredential};
use crate::db::grants::{self, Grant};
use crate::fault::Fault;
use crate::token::{Basis, Payload, Scope, audit_id};
use sql::{Error, Tx};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use types::{Caller, Timestamp};

/// What a token means now.
#[derive(Debug)]
pub struct Rights {
    /// For policies.
    pub caller: Caller,
    /// Ids and names of the roles.
    pub roles: Vec<(String, String)>,
    /// Id, name, and whether it is restricted.
    pub app_credential: Option<(String, String, bool)>,
    /// From when on the holder's tokens count.
    pub tokens_from: Timestamp,
}

/// Looks up what a payload means; everything that no longer holds makes it unauthorized.
pub fn rights(tx: &mut Tx<'_>, payload: &Payload) -> Result<Rights, Fault> {
    let person = rows::person_by_id(tx, &payload.user_id)?
        .filter(|person| person.enabled)
        .ok_or(Fault::Unauthorized)?;
    if payload.issued_at < person.tokens_from {
        return Err(Fault::Unauthorized);
    }
    if let Some(audit_id) = payload.audit_ids.first()
        && rows::is_revoked(tx, audit_id)?
    {
        return Err(Fault::Unauthorized);
    }
    let mut caller = Caller {
        user_id: person.id.clone(),
        user_name: person.name.clone(),
        user_domain_id: person.domain_id.clone(),
        user_domain_name: person.domain_name.clone(),
        expires_at: payload.expires_at,
        ..Caller::default()
    };
    let credential = app_credential(tx, payload)?;
    place_caller(tx, payload, &mut caller)?;
    let ids = match (&payload.basis, &credential) {
        (Basis::Service(home), _) => roles(tx, &person.id, &Scope::Project(home.clone()))?,
        (_, Some(credential)) => roles_of_credential(tx, &person.id, payload, credential)?,
        _ => roles(tx, &person.id, &payload.scope)?,
    };
    if ids.is_empty() && payload.scope != Scope::Unscoped {
        return Err(Fault::Unauthorized);
    }
    let names = rows::role_names(tx)?;
    let roles: Vec<(String, String)> = ids
        .into_iter()
        .filter_map(|id| names.get(&id).cloned().map(|name| (id, name)))
        .collect();
    caller.roles = roles.iter().map(|(_, name)| name.clone()).collect();
    caller.restricted = credential
        .as_ref()
        .is_some_and(|credential| !credential.unrestricted);
    Ok(Rights {
        caller,
        roles,
        app_credential: credential
            .map(|credential| (credential.id, credential.name, !credential.unrestricted)),
        tokens_from: person.tokens_from,
    })
}

fn app_credential(tx: &mut Tx<'_>, payload: &Payload) -> Result<Option<AppCredential>, Fault> {
    let Basis::AppCredential(id) = &payload.basis else {
        return Ok(None);
    };
    let found = app_credentials::find(tx, id)?.ok_or(Fault::Unauthorized)?;
    if found.expires_at.is_some_and(|end| end <= Timestamp::now()) {
        return Err(Fault::Unauthorized);
    }
    Ok(Some(found))
}

fn roles_of_credential(
    tx: &mut Tx<'_>,
    user_id: &str,
    payload: &Payload,
    credential: &AppCredential,
) -> Result<BTreeSet<String>, Fault> {
    let held = roles(tx, user_id, &payload.scope)?;
    let carried = grants::expand(credential.roles.iter().cloned(), &grants::implications(tx)?);
    Ok(carried.intersection(&held).cloned().collect())
}

fn place_caller(tx: &mut Tx<'_>, payload: &Payload, caller: &mut Caller) -> Result<(), Fault> {
    match &payload.scope {
        Scope::Unscoped => {}
        Scope::System => caller.system_scope = true,
        Scope::Project(id) => {
            let place = usable(rows::project(tx, id)?)?;
            caller.project_id = Some(place.id);
            caller.project_name = Some(place.name);
            caller.project_domain_id = Some(place.domain_id);
            caller.project_domain_name = Some(place.domain_name);
        }
        Scope::Domain(id) => {
            let place = usable(rows::domain(tx, &Named::Id(id.clone()))?)?;
            caller.domain_id = Some(place.id);
            caller.domain_name = Some(place.name);
        }
    }
    Ok(())
}

fn usable(place: Option<Place>) -> Result<Place, Fault> {
    place
        .filter(|place| place.enabled)
        .ok_or(Fault::Unauthorized)
}

/// Whether an assignment gives its role in a scope. `domain` is the domain of a project, `above` the projects over it.
fn reaches(grant: &Grant, scope: &Scope, domain: Option<&str>, above: &[String]) -> bool {
    match scope {
        Scope::Unscoped => false,
        Scope::System => grant.scope_kind == "system",
        Scope::Domain(id) => {
            grant.scope_kind == "domain" && &grant.scope_id == id && !grant.inherited
        }
        Scope::Project(_) if grant.scope_kind == "project" && grant.inherited => {
            above.contains(&grant.scope_id)
        }
        Scope::Project(id) if grant.scope_kind == "project" => &grant.scope_id == id,
        Scope::Project(_) => {
            grant.scope_kind == "domain"
                && grant.inherited
                && Some(grant.scope_id.as_str()) == domain
        }
    }
}

/// The ids of a user's roles in a scope: its own, its groups', inherited from the domain and the projects above, and all
/// they imply. Roles of a domain are left out: only what they imply counts.
pub fn roles(tx: &mut Tx<'_>, user_id: &str, scope: &Scope) -> Result<BTreeSet<String>, Fault> {
    let (domain, above) = match scope {
        Scope::Project(id) => (
            rows::project(tx, id)?.map(|project| project.domain_id),
            rows::ancestors(tx, id)?,
        ),
        _ => (None, Vec::new()),
    };
    let grants = grants::of_user(tx, user_id)?;
    let direct = grants
        .into_iter()
        .filter(|grant| reaches(grant, scope, domain.as_deref(), &above))
        .map(|grant| grant.role_id);
    let implications = grants::implications(tx)?;
    let mut roles = grants::expand(direct, &implications);
    for role in rows::domain_roles(tx)? {
        roles.remove(&role);
    }
    Ok(roles)
}

/// Ids of the projects and domains where a user has a role, and whether it has one on the system.
pub fn scopes(
    tx: &mut Tx<'_>,
    user_id: &str,
) -> Result<(BTreeSet<String>, BTreeSet<String>, bool), Fault> {
    let (mut projects, mut domains, mut system) = (BTreeSet::new(), BTreeSet::new(), false);
    for grant in grants::of_user(tx, user_id)? {
        match grant.scope_kind.as_str() {
            "project" if grant.inherited => {
                projects.extend(rows::descendants(tx, &grant.scope_id)?);
            }
            "project" => drop(projects.insert(grant.scope_id)),
            "domain" if grant.inherited => {
                projects.extend(rows::projects_of(tx, &grant.scope_id)?);
            }
            "domain" => drop(domains.insert(grant.scope_id)),
            _ => system = true,
        }
    }
    Ok((projects, domains, system))
}

/// A payload for a token of a service user; see [`crate::Service::issue_service_token`].
pub fn service_payload(
    tx: &mut Tx<'_>,
    name: &str,
    project_id: &str,
    life: Duration,
) -> Result<Payload, Fault> {
    let domain = Named::Id("default".to_owned());
    let person = rows::person_by_name(tx, name, &domain)?
        .ok_or_else(|| Fault::NotFound("user", name.to_owned()))?;
    let home = rows::project_by_name(tx, "service", &domain)?
        .ok_or(Fault::NotFound("project", "service".to_owned()))?;
    let now = Timestamp::now();
    let from = person.tokens_from;
    let payload = Payload {
        user_id: person.id,
        scope: Scope::Project(project_id.to_owned()),
        basis: Basis::Service(home.id),
        methods: vec!["password".to_owned()],
        audit_ids: vec![audit_id()],
        issued_at: now,
        expires_at: now.plus(life),
    }
    .made_from(from);
    rights(tx, &payload)?;
    Ok(payload)
}

/// From when on the tokens of a user count.
pub fn tokens_from(tx: &mut Tx<'_>, user_id: &str) -> Result<Timestamp, Error> {
    let person = rows::person_by_id(tx, user_id)?;
    Ok(person.map_or(Timestamp(0), |person| person.tokens_from))
}

/// The person with this id, for callers that have shown who they are.
pub fn person(tx: &mut Tx<'_>, id: &str) -> Result<Person, Fault> {
    rows::person_by_id(tx, id)?.ok_or_else(|| Fault::NotFound("user", id.to_owned()))
}

/// The services and endpoints for a scope (Identity API, "Catalog"). An endpoint whose URL needs a project is left
/// out of a catalog without one.
pub fn catalog(
    tx: &mut Tx<'_>,
    user_id: &str,
    project_id: Option<&str>,
) -> Result<Vec<serde_json::Value>, Fault> {
    let mut values: HashMap<&str, &str> = HashMap::from([("user_id", user_id)]);
    if let Some(project) = project_id {
        values.insert("project_id", project);
        values.insert("tenant_id", project);
    }
    let mut services: Vec<(String, serde_json::Value)> = Vec::new();
    for offer in rows::offers(tx)? {
        let Some(url) = substitute(&offer.url, &values) else {
            continue;
        };
        let (id, kind, name) = offer.service;
        if services.last().is_none_or(|(last, _)| *last != id) {
            let service =
                serde_json::json!({"endpoints": [], "id": id, "type": kind, "name": name});
            services.push((id, service));
        }
        let endpoint = serde_json::json!({
            "id": offer.id, "interface": offer.interface, "region_id": offer.region, "url": url, "region": offer.region,
        });
        if let Some((_, service)) = services.last_mut()
            && let Some(endpoints) = service["endpoints"].as_array_mut()
        {
            endpoints.push(endpoint);
        }
    }
    Ok(services.into_iter().map(|(_, service)| service).collect())
}

/// Fills in `$(name)s` and `%(name)s`; `None` when a value is missing or the text is malformed.
pub fn substitute(url: &str, values: &HashMap<&str, &str>) -> Option<String> {
    let mut out = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(at) = rest.find("$(").into_iter().chain(rest.find("%(")).min() {
        out.push_str(&rest[..at]);
        let (name, after) = rest[at + 2..].split_once(")s")?;
        out.push_str(values.get(name)?);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let values = HashMap::from([("project_id", "p1"), ("tenant_id", "p1")]);
        let cases = [
            ("http://h:8774/v2.1", Some("http://h:8774/v2.1")),
            ("http://h/v3/$(project_id)s", Some("http://h/v3/p1")),
            (
                "http://h/AUTH_%(tenant_id)s/x/$(project_id)s",
                Some("http://h/AUTH_p1/x/p1"),
            ),
            ("http://h/$(unknown)s", None),
            ("http://h/$(project_id", None),
        ];
        for (url, wanted) in cases {
            assert_eq!(substitute(url, &values).as_deref(), wanted, "{url}");
        }
        assert_eq!(substitute("http://h/$(project_id)s", &HashMap::new()), None);
    }
}
