//! Placement's default policies.

use policy::Rule;

const fn rule(name: &'static str, check: &'static str, description: &'static str) -> Rule {
    Rule {
        name,
        check,
        description,
    }
}

const OPERATORS: &str = "rule:admin_or_service_api";

pub(crate) const RULES: &[Rule] = &[
    rule("admin_api", "role:admin", "Administrators"),
    rule("service_api", "role:service", "Services"),
    rule(
        "admin_or_service_api",
        "role:admin or role:service",
        "Administrators and services",
    ),
    rule(
        "project_reader_api",
        "role:reader and project_id:%(project_id)s",
        "Readers of the project",
    ),
    rule(
        "admin_or_project_reader_or_service_api",
        "role:admin or rule:project_reader_api or role:service",
        "Administrators, services, readers of the project",
    ),
    rule(
        "placement:resource_providers:list",
        OPERATORS,
        "List resource providers",
    ),
    rule(
        "placement:resource_providers:create",
        OPERATORS,
        "Create a resource provider",
    ),
    rule(
        "placement:resource_providers:show",
        OPERATORS,
        "Show a resource provider",
    ),
    rule(
        "placement:resource_providers:update",
        OPERATORS,
        "Change a resource provider",
    ),
    rule(
        "placement:resource_providers:delete",
        OPERATORS,
        "Delete a resource provider",
    ),
    rule(
        "placement:resource_providers:inventories:list",
        OPERATORS,
        "List inventories",
    ),
    rule(
        "placement:resource_providers:inventories:create",
        OPERATORS,
        "Create an inventory",
    ),
    rule(
        "placement:resource_providers:inventories:show",
        OPERATORS,
        "Show an inventory",
    ),
    rule(
        "placement:resource_providers:inventories:update",
        OPERATORS,
        "Change inventories",
    ),
    rule(
        "placement:resource_providers:inventories:delete",
        OPERATORS,
        "Delete inventories",
    ),
    rule(
        "placement:resource_providers:aggregates:list",
        OPERATORS,
        "List a provider's aggregates",
    ),
    rule(
        "placement:resource_providers:aggregates:update",
        OPERATORS,
        "Change a provider's aggregates",
    ),
    rule(
        "placement:resource_providers:usages",
        OPERATORS,
        "Show a provider's usages",
    ),
    rule(
        "placement:resource_providers:allocations:list",
        OPERATORS,
        "List a provider's allocations",
    ),
    rule(
        "placement:resource_providers:traits:list",
        OPERATORS,
        "List a provider's traits",
    ),
    rule(
        "placement:resource_providers:traits:update",
        OPERATORS,
        "Change a provider's traits",
    ),
    rule(
        "placement:resource_providers:traits:delete",
        OPERATORS,
        "Remove a provider's traits",
    ),
    rule(
        "placement:resource_classes:list",
        OPERATORS,
        "List resource classes",
    ),
    rule(
        "placement:resource_classes:create",
        OPERATORS,
        "Create a resource class",
    ),
    rule(
        "placement:resource_classes:show",
        OPERATORS,
        "Show a resource class",
    ),
    rule(
        "placement:resource_classes:update",
        OPERATORS,
        "Change a resource class",
    ),
    rule(
        "placement:resource_classes:delete",
        OPERATORS,
        "Delete a resource class",
    ),
    rule("placement:traits:list", OPERATORS, "List traits"),
    rule("placement:traits:show", OPERATORS, "Show a trait"),
    rule("placement:traits:update", OPERATORS, "Create a trait"),
    rule("placement:traits:delete", OPERATORS, "Delete a trait"),
    rule(
        "placement:usages",
        "rule:admin_or_project_reader_or_service_api",
        "Show a project's usages",
    ),
    rule(
        "placement:allocations:manage",
        OPERATORS,
        "Change the allocations of several consumers",
    ),
    rule(
        "placement:allocations:list",
        OPERATORS,
        "List a consumer's allocations",
    ),
    rule(
        "placement:allocations:update",
        OPERATORS,
        "Change a consumer's allocations",
    ),
    rule(
        "placement:allocations:delete",
        OPERATORS,
        "Delete a consumer's allocations",
    ),
    rule(
        "placement:allocation_candidates:list",
        OPERATORS,
        "List allocation candidates",
    ),
    rule(
        "placement:reshaper:reshape",
        "rule:service_api",
        "Move inventories and allocations",
    ),
];
