//! Who may do what: Keystone's default rules (Keystone configuration guide, "Sample policy file").

use policy::Rule;

/// May do everything.
const ADMIN: &str = "rule:admin_required";
/// Reads everything.
const READER: &str = "rule:admin_required or rule:system_reader";
/// Reads what is in its domain; `target.x.domain_id` differs by resource.
const READER_OR_OWNER: &str =
    "rule:admin_required or rule:system_reader or user_id:%(target.user.id)s";

const fn rule(name: &'static str, check: &'static str, description: &'static str) -> Rule {
    Rule {
        name,
        check,
        description,
    }
}

const RULES: &[Rule] = &[
    rule("admin_required", "role:admin", "Administrators"),
    rule("service_role", "role:service", "Services of the cloud"),
    rule(
        "system_reader",
        "role:reader and system_scope:all",
        "Readers of the whole system",
    ),
    rule(
        "domain_manager",
        "role:manager and not domain_id:None",
        "Managers of a domain",
    ),
    rule(
        "managed_role",
        "'manager':%(target.role.name)s or 'member':%(target.role.name)s or 'reader':%(target.role.name)s",
        "Roles that the manager of a domain may give",
    ),
    rule(
        "actor_in_domain",
        "domain_id:%(target.user.domain_id)s or domain_id:%(target.group.domain_id)s",
        "A user or group of the caller's domain",
    ),
    rule(
        "scope_in_domain",
        "domain_id:%(target.project.domain_id)s or domain_id:%(target.domain.id)s",
        "A project of the caller's domain, or the domain",
    ),
    // Tokens.
    rule(
        "identity:validate_token",
        "rule:admin_required or rule:service_role or rule:system_reader or user_id:%(target.token.user_id)s",
        "Look at a token",
    ),
    rule(
        "identity:revoke_token",
        "rule:admin_required or user_id:%(target.token.user_id)s",
        "End a token",
    ),
    // Domains.
    rule(
        "identity:list_domains",
        "rule:admin_required or rule:system_reader or domain_id:%(target.domain_id)s and role:reader",
        "List domains",
    ),
    rule(
        "identity:get_domain",
        "rule:admin_required or rule:system_reader or domain_id:%(target.domain.id)s or project_domain_id:%(target.domain.id)s",
        "Show a domain",
    ),
    rule("identity:create_domain", ADMIN, "Create a domain"),
    rule("identity:update_domain", ADMIN, "Change a domain"),
    rule("identity:delete_domain", ADMIN, "Delete a domain"),
    // Projects.
    rule(
        "identity:list_projects",
        "rule:admin_required or rule:system_reader or role:reader and domain_id:%(target.domain_id)s",
        "List projects",
    ),
    rule(
        "identity:list_user_projects",
        READER_OR_OWNER,
        "List the projects of a user",
    ),
    rule(
        "identity:get_project",
        "rule:admin_required or rule:system_reader or role:reader and domain_id:%(target.project.domain_id)s or \
         project_id:%(target.project.id)s",
        "Show a project, its tags too",
    ),
    rule(
        "identity:create_project",
        "rule:admin_required or role:manager and domain_id:%(target.project.domain_id)s",
        "Create a project",
    ),
    rule(
        "identity:update_project",
        "rule:admin_required or role:manager and domain_id:%(target.project.domain_id)s",
        "Change a project, its tags too",
    ),
    rule(
        "identity:delete_project",
        "rule:admin_required or role:manager and domain_id:%(target.project.domain_id)s",
        "Delete a project",
    ),
    // Users.
    rule(
        "identity:list_users",
        "rule:admin_required or rule:system_reader or role:reader and domain_id:%(target.domain_id)s",
        "List users",
    ),
    rule(
        "identity:get_user",
        "rule:admin_required or rule:system_reader or role:reader and domain_id:%(target.user.domain_id)s or \
         user_id:%(target.user.id)s",
        "Show a user",
    ),
    rule(
        "identity:create_user",
        "rule:admin_required or role:manager and domain_id:%(target.user.domain_id)s",
        "Create a user",
    ),
    rule(
        "identity:update_user",
        "rule:admin_required or role:manager and domain_id:%(target.user.domain_id)s",
        "Change a user",
    ),
    rule(
        "identity:delete_user",
        "rule:admin_required or role:manager and domain_id:%(target.user.domain_id)s",
        "Delete a user",
    ),
    // Groups.
    rule(
        "identity:list_groups",
        "rule:admin_required or rule:system_reader or role:reader and domain_id:%(target.domain_id)s",
        "List groups",
    ),
    rule(
        "identity:get_group",
        "rule:admin_required or rule:system_reader or role:reader and domain_id:%(target.group.domain_id)s",
        "Show a group and who is in it",
    ),
    rule(
        "identity:list_groups_for_user",
        "rule:admin_required or rule:system_reader or role:reader and domain_id:%(target.user.domain_id)s or \
         user_id:%(target.user.id)s",
        "List the groups of a user",
    ),
    rule(
        "identity:create_group",
        "rule:admin_required or role:manager and domain_id:%(target.group.domain_id)s",
        "Create a group",
    ),
    rule(
        "identity:update_group",
        "rule:admin_required or role:manager and domain_id:%(target.group.domain_id)s",
        "Change a group and who is in it",
    ),
    rule(
        "identity:delete_group",
        "rule:admin_required or role:manager and domain_id:%(target.group.domain_id)s",
        "Delete a group",
    ),
    // Roles.
    rule(
        "identity:list_roles",
        "rule:admin_required or rule:system_reader or rule:domain_manager",
        "List roles",
    ),
    rule(
        "identity:get_role",
        "rule:admin_required or rule:system_reader or rule:domain_manager",
        "Show a role",
    ),
    rule("identity:create_role", ADMIN, "Create a role"),
    rule("identity:update_role", ADMIN, "Change a role"),
    rule("identity:delete_role", ADMIN, "Delete a role"),
    rule(
        "identity:list_implied_roles",
        READER,
        "List what roles imply",
    ),
    rule(
        "identity:create_implied_role",
        ADMIN,
        "Let a role imply another",
    ),
    rule(
        "identity:delete_implied_role",
        ADMIN,
        "Take an implication back",
    ),
    // Assignments.
    rule(
        "identity:list_role_assignments",
        "rule:admin_required or rule:system_reader or role:reader and domain_id:%(target.domain_id)s",
        "List assignments",
    ),
    rule(
        "identity:list_grants",
        "rule:admin_required or rule:system_reader or role:reader and rule:actor_in_domain and rule:scope_in_domain",
        "Look at the roles of somebody somewhere",
    ),
    rule(
        "identity:create_grant",
        "rule:admin_required or role:manager and rule:actor_in_domain and rule:scope_in_domain and rule:managed_role",
        "Give a role",
    ),
    rule(
        "identity:revoke_grant",
        "rule:admin_required or role:manager and rule:actor_in_domain and rule:scope_in_domain and rule:managed_role",
        "Take a role away",
    ),
    rule(
        "identity:list_system_grants",
        READER,
        "Look at roles on the system",
    ),
    rule(
        "identity:create_system_grant",
        ADMIN,
        "Give a role on the system",
    ),
    rule(
        "identity:revoke_system_grant",
        ADMIN,
        "Take a role on the system away",
    ),
    // Catalog.
    rule("identity:create_region", ADMIN, "Create a region"),
    rule("identity:update_region", ADMIN, "Change a region"),
    rule("identity:delete_region", ADMIN, "Delete a region"),
    rule("identity:list_services", READER, "List services"),
    rule("identity:get_service", READER, "Show a service"),
    rule("identity:create_service", ADMIN, "Create a service"),
    rule("identity:update_service", ADMIN, "Change a service"),
    rule("identity:delete_service", ADMIN, "Delete a service"),
    rule("identity:list_endpoints", READER, "List endpoints"),
    rule("identity:get_endpoint", READER, "Show an endpoint"),
    rule("identity:create_endpoint", ADMIN, "Create an endpoint"),
    rule("identity:update_endpoint", ADMIN, "Change an endpoint"),
    rule("identity:delete_endpoint", ADMIN, "Delete an endpoint"),
    // Policies kept for services.
    rule("identity:list_policies", READER, "List policies"),
    rule("identity:get_policy", READER, "Show a policy"),
    rule("identity:create_policy", ADMIN, "Create a policy"),
    rule("identity:update_policy", ADMIN, "Change a policy"),
    rule("identity:delete_policy", ADMIN, "Delete a policy"),
    // Credentials.
    rule(
        "identity:get_credential",
        "rule:admin_required or rule:system_reader or user_id:%(target.credential.user_id)s",
        "Look at a credential",
    ),
    rule(
        "identity:create_credential",
        "rule:admin_required or user_id:%(target.credential.user_id)s",
        "Create a credential",
    ),
    rule(
        "identity:update_credential",
        "rule:admin_required or user_id:%(target.credential.user_id)s",
        "Change a credential",
    ),
    rule(
        "identity:delete_credential",
        "rule:admin_required or user_id:%(target.credential.user_id)s",
        "Delete a credential",
    ),
    rule(
        "identity:ec2_list_credentials",
        READER_OR_OWNER,
        "Look at EC2 credentials",
    ),
    rule(
        "identity:ec2_create_credential",
        "rule:admin_required or user_id:%(target.user.id)s",
        "Create EC2 credentials",
    ),
    rule(
        "identity:ec2_delete_credential",
        "rule:admin_required or user_id:%(target.user.id)s",
        "Delete EC2 credentials",
    ),
    rule(
        "identity:ec2_validate",
        "rule:admin_required or rule:service_role",
        "Check a signed EC2 request",
    ),
    // Application credentials.
    rule(
        "identity:list_application_credentials",
        READER_OR_OWNER,
        "List application credentials",
    ),
    rule(
        "identity:get_application_credential",
        READER_OR_OWNER,
        "Show an application credential",
    ),
    rule(
        "identity:create_application_credential",
        "user_id:%(target.user.id)s",
        "Create an application credential",
    ),
    rule(
        "identity:delete_application_credential",
        "rule:admin_required or user_id:%(target.user.id)s",
        "Delete an application credential",
    ),
];

/// All rules with their defaults.
pub fn rules() -> Vec<Rule> {
    RULES.to_vec()
}
