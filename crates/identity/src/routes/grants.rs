//! Who has which role where: `/v3/{projects,domains,system}/.../{users,groups}/.../roles`, and
//! `/v3/role_assignments`.

use super::call::{Call, no_content, ok};
use super::{crud, lists};
use crate::db::access as rows;
use crate::db::grants::{self, Grant};
use crate::db::kinds::{DOMAINS, GROUPS, PROJECTS, ROLES, USERS};
use crate::db::records::Record;
use crate::fault::Fault;
use axum::response::Response;
use serde_json::{Value as Json, json};
use sql::Tx;
use std::collections::BTreeSet;

/// The grant that a path names. Without a role in the path the role is empty.
pub fn named(call: &Call) -> Grant {
    let param = |name: &str| call.params.get(name).cloned();
    let (actor_kind, actor_id) = match (param("user_id"), param("group_id")) {
        (Some(id), _) => ("user", id),
        (None, id) => ("group", id.unwrap_or_default()),
    };
    let (scope_kind, scope_id) = match (param("project_id"), param("domain_id")) {
        (Some(id), _) => ("project", id),
        (None, Some(id)) => ("domain", id),
        (None, None) => ("system", "system".to_owned()),
    };
    Grant {
        actor_kind: actor_kind.to_owned(),
        actor_id,
        scope_kind: scope_kind.to_owned(),
        scope_id,
        role_id: param("role_id").unwrap_or_default(),
        inherited: call.path.contains("/OS-INHERIT/"),
    }
}

fn check_parts(tx: &mut Tx<'_>, grant: &Grant) -> Result<(), Fault> {
    crud::there(
        tx,
        if grant.actor_kind == "user" {
            &USERS
        } else {
            &GROUPS
        },
        &grant.actor_id,
    )?;
    match grant.scope_kind.as_str() {
        "project" => drop(crud::there(tx, &PROJECTS, &grant.scope_id)?),
        "domain" => drop(crud::there(tx, &DOMAINS, &grant.scope_id)?),
        _ => {}
    }
    if !grant.role_id.is_empty() {
        crud::there(tx, &ROLES, &grant.role_id)?;
    }
    Ok(())
}

fn missing(grant: &Grant) -> Fault {
    let what = format!(
        "{}, {}: {}, {}: {}",
        grant.role_id, grant.actor_kind, grant.actor_id, grant.scope_kind, grant.scope_id
    );
    Fault::NotFound("role assignment with role", what)
}

/// PUT .../roles/{role_id}
pub async fn give(call: Call) -> Result<Response, Fault> {
    let grant = named(&call);
    let work = move |tx: &mut Tx<'_>| {
        check_parts(tx, &grant)?;
        Ok(grants::add(tx, &grant)?)
    };
    call.service.change(work).await?;
    Ok(no_content())
}

/// DELETE .../roles/{role_id}
pub async fn take(call: Call) -> Result<Response, Fault> {
    let grant = named(&call);
    let work = move |tx: &mut Tx<'_>| {
        check_parts(tx, &grant)?;
        if grants::remove(tx, &grant)? {
            Ok(())
        } else {
            Err(missing(&grant))
        }
    };
    call.service.change(work).await?;
    Ok(no_content())
}

/// GET and HEAD .../roles/{role_id}
pub async fn check(call: Call) -> Result<Response, Fault> {
    let grant = named(&call);
    let work = move |tx: &mut Tx<'_>| {
        check_parts(tx, &grant)?;
        if grants::exists(tx, &grant)? {
            Ok(())
        } else {
            Err(missing(&grant))
        }
    };
    call.service.read(work).await?;
    Ok(no_content())
}

/// GET .../roles
pub async fn list(call: Call) -> Result<Response, Fault> {
    let wanted = named(&call);
    let found = call.service.read(move |tx| {
        check_parts(tx, &wanted)?;
        let filters = [
            ("actor_kind", wanted.actor_kind.as_str()),
            ("actor_id", &wanted.actor_id),
            ("scope_kind", &wanted.scope_kind),
            ("scope_id", &wanted.scope_id),
        ];
        let mut found: Vec<Record> = Vec::new();
        for grant in grants::list(tx, &filters)?
            .into_iter()
            .filter(|grant| grant.inherited == wanted.inherited)
        {
            found.push(crud::there(tx, &ROLES, &grant.role_id)?);
        }
        Ok(found)
    });
    let found = found.await?;
    Ok(lists::answer(&call, &ROLES, found))
}

/// What a list of assignments is asked for.
#[derive(Clone, Debug, Default)]
struct Asked {
    user: Option<String>,
    group: Option<String>,
    role: Option<String>,
    project: Option<String>,
    domain: Option<String>,
    system: bool,
    inherited_only: bool,
    effective: bool,
    names: bool,
    /// The domain that a caller of that scope sees.
    within: Option<String>,
}

/// An assignment, and where it comes from when it is an effective one.
type Shown = (Grant, Option<String>);

/// GET /v3/role_assignments
pub async fn assignments(call: Call) -> Result<Response, Fault> {
    let text = |name: &str| {
        call.asked(name)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    };
    let asked = Asked {
        user: text("user.id"),
        group: text("group.id"),
        role: text("role.id"),
        project: text("scope.project.id"),
        domain: text("scope.domain.id"),
        system: text("scope.system").is_some(),
        inherited_only: text("scope.OS-INHERIT:inherited_to").is_some(),
        effective: call.flag("effective"),
        names: call.flag("include_names"),
        within: call.held()?.caller.domain_id.clone(),
    };
    if asked.effective && asked.group.is_some() {
        return Err(Fault::BadRequest(
            "Combining effective and group filter will always result in an empty list.".to_owned(),
        ));
    }
    let base = call.base.clone();
    let rows = call.service.read(move |tx| {
        let mut rows = Vec::new();
        for shown in select(tx, &asked)? {
            if let Some(row) = row(tx, &asked, &shown, &base)? {
                rows.push(row);
            }
        }
        Ok(rows)
    });
    let rows = rows.await?;
    Ok(ok(
        &json!({"role_assignments": rows, "links": lists::links(&call, None)}),
    ))
}

fn select(tx: &mut Tx<'_>, asked: &Asked) -> Result<Vec<Shown>, Fault> {
    let mut all: Vec<Shown> = grants::list(tx, &[])?
        .into_iter()
        .map(|grant| (grant, None))
        .collect();
    if asked.effective {
        all = effective(tx, all)?;
    }
    all.retain(|(grant, _)| matches(asked, grant));
    Ok(all)
}

fn matches(asked: &Asked, grant: &Grant) -> bool {
    let actor = |kind: &str, id: &Option<String>| {
        id.as_ref()
            .is_none_or(|id| grant.actor_kind == kind && grant.actor_id == *id)
    };
    let scope = |kind: &str, id: &Option<String>| {
        id.as_ref()
            .is_none_or(|id| grant.scope_kind == kind && grant.scope_id == *id)
    };
    actor("user", &asked.user)
        && actor("group", &asked.group)
        && scope("project", &asked.project)
        && scope("domain", &asked.domain)
        && asked
            .role
            .as_ref()
            .is_none_or(|role| grant.role_id == *role)
        && (!asked.system || grant.scope_kind == "system")
        && (!asked.inherited_only || grant.inherited)
}

/// Groups become their members, inherited assignments become those on projects, implied roles are added.
fn effective(tx: &mut Tx<'_>, all: Vec<Shown>) -> Result<Vec<Shown>, Fault> {
    let implications = grants::implications(tx)?;
    let of_domains = rows::domain_roles(tx)?;
    let mut seen: BTreeSet<Grant> = BTreeSet::new();
    let mut shown = Vec::new();
    for (grant, _) in all {
        let actors = match grant.actor_kind.as_str() {
            "group" => grants::members(tx, &grant.actor_id)?,
            _ => vec![grant.actor_id.clone()],
        };
        let scopes: Vec<(String, String)> = if grant.inherited {
            let projects = match grant.scope_kind.as_str() {
                "project" => rows::descendants(tx, &grant.scope_id)?,
                _ => rows::projects_of(tx, &grant.scope_id)?,
            };
            projects
                .into_iter()
                .map(|project| ("project".to_owned(), project))
                .collect()
        } else {
            vec![(grant.scope_kind.clone(), grant.scope_id.clone())]
        };
        let group = (grant.actor_kind == "group").then(|| grant.actor_id.clone());
        for actor_id in &actors {
            for (scope_kind, scope_id) in &scopes {
                let roles = grants::expand([grant.role_id.clone()], &implications);
                for role_id in roles.into_iter().filter(|role| !of_domains.contains(role)) {
                    let one = Grant {
                        actor_kind: "user".to_owned(),
                        actor_id: actor_id.clone(),
                        scope_kind: scope_kind.clone(),
                        scope_id: scope_id.clone(),
                        role_id,
                        inherited: false,
                    };
                    if seen.insert(one.clone()) {
                        shown.push((one, group.clone()));
                    }
                }
            }
        }
    }
    Ok(shown)
}

fn reference(
    tx: &mut Tx<'_>,
    kind: &'static crate::db::kinds::Kind,
    id: &str,
    names: bool,
) -> Result<(Json, String), Fault> {
    let record = crud::there(tx, kind, id)?;
    let domain = crud::text(&record, "domain_id").to_owned();
    if !names {
        return Ok((json!({"id": id}), domain));
    }
    let mut shown = json!({"id": id, "name": record["name"]});
    if !domain.is_empty() {
        let owner = crud::there(tx, &DOMAINS, &domain)?;
        shown["domain"] = json!({"id": domain, "name": owner["name"]});
    }
    Ok((shown, domain))
}

/// One row of the list; `None` when the caller's domain does not own its scope.
fn row(tx: &mut Tx<'_>, asked: &Asked, shown: &Shown, base: &str) -> Result<Option<Json>, Fault> {
    let (grant, group) = shown;
    let mut row = json!({});
    let kind = if grant.actor_kind == "user" {
        &USERS
    } else {
        &GROUPS
    };
    row[&grant.actor_kind] = reference(tx, kind, &grant.actor_id, asked.names)?.0;
    row["role"] = reference(tx, &ROLES, &grant.role_id, asked.names)?.0;
    let owner = match grant.scope_kind.as_str() {
        "system" => {
            row["scope"] = json!({"system": {"all": true}});
            None
        }
        "project" => {
            let (project, domain) = reference(tx, &PROJECTS, &grant.scope_id, asked.names)?;
            row["scope"] = json!({"project": project});
            Some(domain)
        }
        _ => {
            row["scope"] =
                json!({"domain": reference(tx, &DOMAINS, &grant.scope_id, asked.names)?.0});
            Some(grant.scope_id.clone())
        }
    };
    if asked.within.is_some() && owner != asked.within {
        return Ok(None);
    }
    if grant.inherited {
        row["scope"]["OS-INHERIT:inherited_to"] = json!("projects");
    }
    let place = match grant.scope_kind.as_str() {
        "system" => "system".to_owned(),
        kind => format!("{kind}s/{}", grant.scope_id),
    };
    let (actors, actor) = match group {
        Some(group) => ("groups".to_owned(), group),
        None => (format!("{}s", grant.actor_kind), &grant.actor_id),
    };
    row["links"] = json!({"assignment": format!("{base}/v3/{place}/{actors}/{actor}/roles/{}", grant.role_id)});
    if let Some(group) = group {
        row["links"]["membership"] =
            json!(format!("{base}/v3/groups/{group}/users/{}", grant.actor_id));
    }
    Ok(Some(row))
}
