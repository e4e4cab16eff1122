//! Every route with its policy and handler.

use super::call::Call;
use super::{app_credentials, auth, crud, ec2, grants, groups, projects, roles, users, versions};
use crate::db::kinds::{
    CREDENTIALS, DOMAINS, ENDPOINTS, GROUPS, POLICIES, PROJECTS, REGIONS, ROLES, SERVICES, USERS,
};
use crate::db::records;
use crate::fault::Fault;
use axum::response::Response;
use axum::routing::MethodFilter;
use futures_util::future::BoxFuture;
use policy::Target;
use serde_json::Value as Json;

/// The methods that the API uses; HEAD is answered as GET without a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET, and HEAD where that has no row of its own.
    Get,
    /// HEAD where it answers another status than GET.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl Method {
    /// For the router.
    pub fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Head => MethodFilter::HEAD,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Patch => MethodFilter::PATCH,
            Self::Delete => MethodFilter::DELETE,
        }
    }

    /// Whether a body counts.
    pub fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Put | Self::Patch)
    }
}

/// Who gets to the handler.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Everybody, also without a token.
    Open,
    /// Everybody with a token; the handler decides the rest.
    Token,
    /// Whom the rule allows, for what the request aims at.
    Rule(&'static str, Aim),
}

/// What a request wants to act on, as far as its policy looks at it.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// The whole cloud.
    Nothing,
    /// A list, of a domain perhaps.
    List,
    /// The record of this kind named by this part of the path.
    Record(&'static str, &'static str),
    /// A new record of this kind.
    New(&'static str),
    /// The user, group, project, domain and role in the path.
    Grant,
}

/// A handler.
pub type Handler = fn(Call) -> BoxFuture<'static, Result<Response, Fault>>;

/// A row of the table.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with its parts in braces.
    pub path: &'static str,
    /// Who may.
    pub access: Access,
    /// What it does.
    pub handler: Handler,
}

const fn row(method: Method, path: &'static str, access: Access, handler: Handler) -> Route {
    Route {
        method,
        path,
        access,
        handler,
    }
}

const fn rule(name: &'static str) -> Access {
    Access::Rule(name, Aim::Nothing)
}

const fn listing(name: &'static str) -> Access {
    Access::Rule(name, Aim::List)
}

const fn record(name: &'static str, kind: &'static str) -> Access {
    Access::Rule(name, Aim::Record(kind, "id"))
}

const fn user(name: &'static str) -> Access {
    Access::Rule(name, Aim::Record("user", "user_id"))
}

const fn project(name: &'static str) -> Access {
    Access::Rule(name, Aim::Record("project", "project_id"))
}

const fn new(name: &'static str, kind: &'static str) -> Access {
    Access::Rule(name, Aim::New(kind))
}

const fn grant(name: &'static str) -> Access {
    Access::Rule(name, Aim::Grant)
}

use Access::{Open, Token};
use Method::{Delete, Get, Head, Patch, Post, Put};

/// The whole API.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    row(Get, "/", Open, |call| Box::pin(versions::all(call))),
    row(Get, "/v3", Open, |call| Box::pin(versions::one(call))),
    row(Get, "/v3/", Open, |call| Box::pin(versions::one(call))),

    row(Post, "/v3/auth/tokens", Open, |call| Box::pin(auth::issue(call))),
    row(Get, "/v3/auth/tokens", Token, |call| Box::pin(auth::validate(call))),
    row(Delete, "/v3/auth/tokens", Token, |call| Box::pin(auth::revoke(call))),
    row(Get, "/v3/auth/catalog", Token, |call| Box::pin(auth::catalog(call))),
    row(Get, "/v3/auth/projects", Token, |call| Box::pin(auth::scopable_projects(call))),
    row(Get, "/v3/auth/domains", Token, |call| Box::pin(auth::scopable_domains(call))),
    row(Get, "/v3/auth/system", Token, |call| Box::pin(auth::scopable_system(call))),

    row(Get, "/v3/domains", listing("identity:list_domains"), |call| Box::pin(crud::list(call, &DOMAINS))),
    row(Post, "/v3/domains", rule("identity:create_domain"), |call| Box::pin(crud::create(call, &DOMAINS))),
    row(Get, "/v3/domains/{id}", record("identity:get_domain", "domain"), |call| Box::pin(crud::show(call, &DOMAINS))),
    row(Patch, "/v3/domains/{id}", record("identity:update_domain", "domain"), |call| Box::pin(crud::update(call, &DOMAINS))),
    row(Delete, "/v3/domains/{id}", record("identity:delete_domain", "domain"), |call| Box::pin(crud::delete(call, &DOMAINS))),

    row(Get, "/v3/projects", listing("identity:list_projects"), |call| Box::pin(crud::list(call, &PROJECTS))),
    row(Post, "/v3/projects", new("identity:create_project", "project"), |call| Box::pin(crud::create(call, &PROJECTS))),
    row(Get, "/v3/projects/{id}", record("identity:get_project", "project"), |call| Box::pin(crud::show(call, &PROJECTS))),
    row(Patch, "/v3/projects/{id}", record("identity:update_project", "project"), |call| Box::pin(crud::update(call, &PROJECTS))),
    row(Delete, "/v3/projects/{id}", record("identity:delete_project", "project"), |call| Box::pin(crud::delete(call, &PROJECTS))),
    row(Get, "/v3/projects/{project_id}/tags", project("identity:get_project"), |call| Box::pin(projects::list_tags(call))),
    row(Put, "/v3/projects/{project_id}/tags", project("identity:update_project"), |call| Box::pin(projects::replace_tags(call))),
    row(Delete, "/v3/projects/{project_id}/tags", project("identity:update_project"), |call| Box::pin(projects::delete_tags(call))),
    row(Get, "/v3/projects/{project_id}/tags/{tag}", project("identity:get_project"), |call| Box::pin(projects::check_tag(call))),
    row(Put, "/v3/projects/{project_id}/tags/{tag}", project("identity:update_project"), |call| Box::pin(projects::add_tag(call))),
    row(Delete, "/v3/projects/{project_id}/tags/{tag}", project("identity:update_project"), |call| Box::pin(projects::delete_tag(call))),

    row(Get, "/v3/users", listing("identity:list_users"), |call| Box::pin(crud::list(call, &USERS))),
    row(Post, "/v3/users", new("identity:create_user", "user"), |call| Box::pin(crud::create(call, &USERS))),
    row(Get, "/v3/users/{id}", record("identity:get_user", "user"), |call| Box::pin(crud::show(call, &USERS))),
    row(Patch, "/v3/users/{id}", record("identity:update_user", "user"), |call| Box::pin(crud::update(call, &USERS))),
    row(Delete, "/v3/users/{id}", record("identity:delete_user", "user"), |call| Box::pin(crud::delete(call, &USERS))),
    row(Post, "/v3/users/{id}/password", Open, |call| Box::pin(users::change_password(call))),
    row(Get, "/v3/users/{id}/groups", record("identity:list_groups_for_user", "user"), |call| Box::pin(users::groups(call))),
    row(Get, "/v3/users/{user_id}/projects", user("identity:list_user_projects"), |call| Box::pin(projects::list_of_user(call))),

    row(Get, "/v3/groups", listing("identity:list_groups"), |call| Box::pin(crud::list(call, &GROUPS))),
    row(Post, "/v3/groups", new("identity:create_group", "group"), |call| Box::pin(crud::create(call, &GROUPS))),
    row(Get, "/v3/groups/{id}", record("identity:get_group", "group"), |call| Box::pin(crud::show(call, &GROUPS))),
    row(Patch, "/v3/groups/{id}", record("identity:update_group", "group"), |call| Box::pin(crud::update(call, &GROUPS))),
    row(Delete, "/v3/groups/{id}", record("identity:delete_group", "group"), |call| Box::pin(crud::delete(call, &GROUPS))),
    row(Get, "/v3/groups/{id}/users", record("identity:get_group", "group"), |call| Box::pin(groups::members(call))),
    row(Get, "/v3/groups/{id}/users/{user_id}", record("identity:get_group", "group"), |call| Box::pin(groups::check(call))),
    row(Put, "/v3/groups/{id}/users/{user_id}", record("identity:update_group", "group"), |call| Box::pin(groups::join(call))),
    row(Delete, "/v3/groups/{id}/users/{user_id}", record("identity:update_group", "group"), |call| Box::pin(groups::leave(call))),

    row(Get, "/v3/roles", rule("identity:list_roles"), |call| Box::pin(crud::list(call, &ROLES))),
    row(Post, "/v3/roles", rule("identity:create_role"), |call| Box::pin(crud::create(call, &ROLES))),
    row(Get, "/v3/roles/{id}", rule("identity:get_role"), |call| Box::pin(crud::show(call, &ROLES))),
    row(Patch, "/v3/roles/{id}", rule("identity:update_role"), |call| Box::pin(crud::update(call, &ROLES))),
    row(Delete, "/v3/roles/{id}", rule("identity:delete_role"), |call| Box::pin(crud::delete(call, &ROLES))),
    row(Get, "/v3/role_inferences", rule("identity:list_implied_roles"), |call| Box::pin(roles::inferences(call))),
    row(Get, "/v3/roles/{id}/implies", rule("identity:list_implied_roles"), |call| Box::pin(roles::implied(call))),
    row(Get, "/v3/roles/{id}/implies/{implied_id}", rule("identity:list_implied_roles"), |call| Box::pin(roles::check(call))),
    row(Head, "/v3/roles/{id}/implies/{implied_id}", rule("identity:list_implied_roles"), |call| Box::pin(roles::exists(call))),
    row(Put, "/v3/roles/{id}/implies/{implied_id}", rule("identity:create_implied_role"), |call| Box::pin(roles::imply(call))),
    row(Delete, "/v3/roles/{id}/implies/{implied_id}", rule("identity:delete_implied_role"), |call| Box::pin(roles::unimply(call))),

    row(Get, "/v3/role_assignments", listing("identity:list_role_assignments"), |call| Box::pin(grants::assignments(call))),
    row(Get, "/v3/projects/{project_id}/users/{user_id}/roles", grant("identity:list_grants"), |call| Box::pin(grants::list(call))),
    row(Get, "/v3/projects/{project_id}/users/{user_id}/roles/{role_id}", grant("identity:list_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/projects/{project_id}/users/{user_id}/roles/{role_id}", grant("identity:create_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/projects/{project_id}/users/{user_id}/roles/{role_id}", grant("identity:revoke_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/projects/{project_id}/groups/{group_id}/roles", grant("identity:list_grants"), |call| Box::pin(grants::list(call))),
    row(Get, "/v3/projects/{project_id}/groups/{group_id}/roles/{role_id}", grant("identity:list_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/projects/{project_id}/groups/{group_id}/roles/{role_id}", grant("identity:create_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/projects/{project_id}/groups/{group_id}/roles/{role_id}", grant("identity:revoke_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/domains/{domain_id}/users/{user_id}/roles", grant("identity:list_grants"), |call| Box::pin(grants::list(call))),
    row(Get, "/v3/domains/{domain_id}/users/{user_id}/roles/{role_id}", grant("identity:list_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/domains/{domain_id}/users/{user_id}/roles/{role_id}", grant("identity:create_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/domains/{domain_id}/users/{user_id}/roles/{role_id}", grant("identity:revoke_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/domains/{domain_id}/groups/{group_id}/roles", grant("identity:list_grants"), |call| Box::pin(grants::list(call))),
    row(Get, "/v3/domains/{domain_id}/groups/{group_id}/roles/{role_id}", grant("identity:list_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/domains/{domain_id}/groups/{group_id}/roles/{role_id}", grant("identity:create_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/domains/{domain_id}/groups/{group_id}/roles/{role_id}", grant("identity:revoke_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/inherited_to_projects", grant("identity:list_grants"), |call| Box::pin(grants::list(call))),
    row(Get, "/v3/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects", grant("identity:list_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects", grant("identity:create_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects", grant("identity:revoke_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/inherited_to_projects", grant("identity:list_grants"), |call| Box::pin(grants::list(call))),
    row(Get, "/v3/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects", grant("identity:list_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects", grant("identity:create_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects", grant("identity:revoke_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects", grant("identity:list_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects", grant("identity:create_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects", grant("identity:revoke_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects", grant("identity:list_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects", grant("identity:create_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects", grant("identity:revoke_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/system/users/{user_id}/roles", rule("identity:list_system_grants"), |call| Box::pin(grants::list(call))),
    row(Get, "/v3/system/users/{user_id}/roles/{role_id}", rule("identity:list_system_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/system/users/{user_id}/roles/{role_id}", rule("identity:create_system_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/system/users/{user_id}/roles/{role_id}", rule("identity:revoke_system_grant"), |call| Box::pin(grants::take(call))),
    row(Get, "/v3/system/groups/{group_id}/roles", rule("identity:list_system_grants"), |call| Box::pin(grants::list(call))),
    row(Get, "/v3/system/groups/{group_id}/roles/{role_id}", rule("identity:list_system_grants"), |call| Box::pin(grants::check(call))),
    row(Put, "/v3/system/groups/{group_id}/roles/{role_id}", rule("identity:create_system_grant"), |call| Box::pin(grants::give(call))),
    row(Delete, "/v3/system/groups/{group_id}/roles/{role_id}", rule("identity:revoke_system_grant"), |call| Box::pin(grants::take(call))),

    row(Get, "/v3/regions", Token, |call| Box::pin(crud::list(call, &REGIONS))),
    row(Post, "/v3/regions", rule("identity:create_region"), |call| Box::pin(crud::create(call, &REGIONS))),
    row(Get, "/v3/regions/{id}", Token, |call| Box::pin(crud::show(call, &REGIONS))),
    row(Put, "/v3/regions/{id}", rule("identity:create_region"), |call| Box::pin(crud::create_named(call, &REGIONS))),
    row(Patch, "/v3/regions/{id}", rule("identity:update_region"), |call| Box::pin(crud::update(call, &REGIONS))),
    row(Delete, "/v3/regions/{id}", rule("identity:delete_region"), |call| Box::pin(crud::delete(call, &REGIONS))),
    row(Get, "/v3/services", rule("identity:list_services"), |call| Box::pin(crud::list(call, &SERVICES))),
    row(Post, "/v3/services", rule("identity:create_service"), |call| Box::pin(crud::create(call, &SERVICES))),
    row(Get, "/v3/services/{id}", rule("identity:get_service"), |call| Box::pin(crud::show(call, &SERVICES))),
    row(Patch, "/v3/services/{id}", rule("identity:update_service"), |call| Box::pin(crud::update(call, &SERVICES))),
    row(Delete, "/v3/services/{id}", rule("identity:delete_service"), |call| Box::pin(crud::delete(call, &SERVICES))),
    row(Get, "/v3/endpoints", rule("identity:list_endpoints"), |call| Box::pin(crud::list(call, &ENDPOINTS))),
    row(Post, "/v3/endpoints", rule("identity:create_endpoint"), |call| Box::pin(crud::create(call, &ENDPOINTS))),
    row(Get, "/v3/endpoints/{id}", rule("identity:get_endpoint"), |call| Box::pin(crud::show(call, &ENDPOINTS))),
    row(Patch, "/v3/endpoints/{id}", rule("identity:update_endpoint"), |call| Box::pin(crud::update(call, &ENDPOINTS))),
    row(Delete, "/v3/endpoints/{id}", rule("identity:delete_endpoint"), |call| Box::pin(crud::delete(call, &ENDPOINTS))),

    row(Get, "/v3/policies", rule("identity:list_policies"), |call| Box::pin(crud::list(call, &POLICIES))),
    row(Post, "/v3/policies", rule("identity:create_policy"), |call| Box::pin(crud::create(call, &POLICIES))),
    row(Get, "/v3/policies/{id}", rule("identity:get_policy"), |call| Box::pin(crud::show(call, &POLICIES))),
    row(Patch, "/v3/policies/{id}", rule("identity:update_policy"), |call| Box::pin(crud::update(call, &POLICIES))),
    row(Delete, "/v3/policies/{id}", rule("identity:delete_policy"), |call| Box::pin(crud::delete(call, &POLICIES))),

    row(Get, "/v3/credentials", Token, |call| Box::pin(crud::list(call, &CREDENTIALS))),
    row(Post, "/v3/credentials", new("identity:create_credential", "credential"), |call| Box::pin(crud::create(call, &CREDENTIALS))),
    row(Get, "/v3/credentials/{id}", record("identity:get_credential", "credential"), |call| Box::pin(crud::show(call, &CREDENTIALS))),
    row(Patch, "/v3/credentials/{id}", record("identity:update_credential", "credential"), |call| Box::pin(crud::update(call, &CREDENTIALS))),
    row(Delete, "/v3/credentials/{id}", record("identity:delete_credential", "credential"), |call| Box::pin(crud::delete(call, &CREDENTIALS))),
    row(Post, "/v3/ec2tokens", rule("identity:ec2_validate"), |call| Box::pin(ec2::tokens(call))),
    row(Get, "/v3/users/{user_id}/credentials/OS-EC2", user("identity:ec2_list_credentials"), |call| Box::pin(ec2::list(call))),
    row(Post, "/v3/users/{user_id}/credentials/OS-EC2", user("identity:ec2_create_credential"), |call| Box::pin(ec2::create(call))),
    row(Get, "/v3/users/{user_id}/credentials/OS-EC2/{access}", user("identity:ec2_list_credentials"), |call| Box::pin(ec2::show(call))),
    row(Delete, "/v3/users/{user_id}/credentials/OS-EC2/{access}", user("identity:ec2_delete_credential"), |call| Box::pin(ec2::delete(call))),

    row(Get, "/v3/users/{user_id}/application_credentials", user("identity:list_application_credentials"), |call| Box::pin(app_credentials::list(call))),
    row(Post, "/v3/users/{user_id}/application_credentials", user("identity:create_application_credential"), |call| Box::pin(app_credentials::create(call))),
    row(Get, "/v3/users/{user_id}/application_credentials/{id}", user("identity:get_application_credential"), |call| Box::pin(app_credentials::show(call))),
    row(Delete, "/v3/users/{user_id}/application_credentials/{id}", user("identity:delete_application_credential"), |call| Box::pin(app_credentials::delete(call))),
];

/// Reads what the policy wants to know about what the request aims at.
pub async fn target(call: &Call, aim: Aim) -> Result<Target, Fault> {
    match aim {
        Aim::Nothing => Ok(Target::new()),
        Aim::List => {
            let domain = call
                .asked("domain_id")
                .or(call.asked("scope.domain.id"))
                .map(str::to_owned);
            let domain = domain.or_else(|| {
                call.held
                    .as_ref()
                    .and_then(|held| held.caller.domain_id.clone())
            });
            Ok(domain.into_iter().fold(Target::new(), |target, domain| {
                target.with("target.domain_id", domain)
            }))
        }
        Aim::Record(kind, part) => with_record(call, Target::new(), kind, call.param(part)).await,
        Aim::New(kind) => new_record(call, kind),
        Aim::Grant => {
            let mut target = Target::new();
            for kind in ["user", "group", "project", "domain", "role"] {
                if let Some(id) = call.params.get(&format!("{kind}_id")) {
                    target = with_record(call, target, kind, id).await?;
                }
            }
            Ok(target)
        }
    }
}

/// Adds the attributes of a record, if there is one: without it only those pass whom every record is open to, and
/// they learn from the handler that it is not there.
async fn with_record(call: &Call, target: Target, kind: &str, id: &str) -> Result<Target, Fault> {
    let (of, wanted) = (crud::kind_of(kind), id.to_owned());
    let Some(record) = call
        .service
        .read(move |tx| Ok(records::find(tx, of, &wanted)?))
        .await?
    else {
        return Ok(target);
    };
    let mut target = target;
    for name in ["id", "domain_id", "user_id", "name"] {
        if let Some(Json::String(value)) = record.get(name) {
            target = target.with(&format!("target.{kind}.{name}"), value);
        }
    }
    Ok(target)
}

fn new_record(call: &Call, kind: &str) -> Result<Target, Fault> {
    let body = call.body.get(kind);
    let named = |name: &str| {
        body.and_then(|body| body.get(name))
            .and_then(Json::as_str)
            .map(str::to_owned)
    };
    let held = call.held()?;
    Ok(match kind {
        "credential" => {
            let owner = named("user_id").unwrap_or_else(|| held.caller.user_id.clone());
            Target::new().with("target.credential.user_id", owner)
        }
        _ => {
            let domain = named("domain_id").map_or_else(|| crud::own_domain(call), Ok)?;
            Target::new().with(&format!("target.{kind}.domain_id"), domain)
        }
    })
}
