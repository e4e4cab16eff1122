//! The resources of the Identity API that are plain records: their tables, columns and JSON names.

/// How a column's value looks in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text that is always there.
    Text,
    /// Text or null.
    MaybeText,
    /// Text or null, where null is stored as empty text so that a unique index sees it.
    EmptyIsNull,
    /// true or false.
    Bool,
}

/// One attribute with a column of its own.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The attribute in JSON.
    pub attribute: &'static str,
    /// The column.
    pub column: &'static str,
    /// How it is written.
    pub form: Form,
}

const fn column(attribute: &'static str, form: Form) -> Column {
    Column {
        attribute,
        column: attribute,
        form,
    }
}

/// A kind of record.
#[derive(Debug)]
pub struct Kind {
    /// For example `user`, the key of one record in a body.
    pub single: &'static str,
    /// For example `users`, the key of a list and the path.
    pub plural: &'static str,
    /// The table.
    pub table: &'static str,
    /// Its columns, `id` first.
    pub columns: &'static [Column],
    /// Whether unknown attributes are kept (Identity API: "extra" attributes).
    pub extra: bool,
}

const ID: Column = column("id", Form::Text);
const NAME: Column = column("name", Form::Text);
const DOMAIN: Column = column("domain_id", Form::Text);
const DESCRIPTION: Column = column("description", Form::MaybeText);
const ENABLED: Column = column("enabled", Form::Bool);

/// Domains.
pub static DOMAINS: Kind = Kind {
    single: "domain",
    plural: "domains",
    table: "identity_domains",
    columns: &[ID, NAME, DESCRIPTION, ENABLED],
    extra: true,
};
/// Projects.
pub static PROJECTS: Kind = Kind {
    single: "project",
    plural: "projects",
    table: "identity_projects",
    columns: &[
        ID,
        NAME,
        DOMAIN,
        DESCRIPTION,
        ENABLED,
        column("parent_id", Form::Text),
    ],
    extra: true,
};
/// Users; the password's hash is never part of a record.
pub static USERS: Kind = Kind {
    single: "user",
    plural: "users",
    table: "identity_users",
    columns: &[
        ID,
        NAME,
        DOMAIN,
        ENABLED,
        DESCRIPTION,
        column("default_project_id", Form::MaybeText),
    ],
    extra: true,
};
/// Groups.
pub static GROUPS: Kind = Kind {
    single: "group",
    plural: "groups",
    table: "identity_groups",
    columns: &[ID, NAME, DOMAIN, DESCRIPTION],
    extra: true,
};
/// Roles; a role without domain is a global one.
pub static ROLES: Kind = Kind {
    single: "role",
    plural: "roles",
    table: "identity_roles",
    columns: &[
        ID,
        NAME,
        column("domain_id", Form::EmptyIsNull),
        DESCRIPTION,
    ],
    extra: true,
};
/// Regions.
pub static REGIONS: Kind = Kind {
    single: "region",
    plural: "regions",
    table: "identity_regions",
    columns: &[ID, DESCRIPTION, column("parent_region_id", Form::MaybeText)],
    extra: true,
};
/// Services.
pub static SERVICES: Kind = Kind {
    single: "service",
    plural: "services",
    table: "identity_services",
    columns: &[
        ID,
        column("name", Form::MaybeText),
        Column {
            attribute: "type",
            column: "kind",
            form: Form::Text,
        },
        ENABLED,
        DESCRIPTION,
    ],
    extra: true,
};
/// Endpoints.
pub static ENDPOINTS: Kind = Kind {
    single: "endpoint",
    plural: "endpoints",
    table: "identity_endpoints",
    columns: &[
        ID,
        column("interface", Form::Text),
        column("region_id", Form::MaybeText),
        column("service_id", Form::Text),
        column("url", Form::Text),
        ENABLED,
    ],
    extra: true,
};
/// Policies.
pub static POLICIES: Kind = Kind {
    single: "policy",
    plural: "policies",
    table: "identity_policies",
    columns: &[
        ID,
        Column {
            attribute: "type",
            column: "kind",
            form: Form::Text,
        },
        Column {
            attribute: "blob",
            column: "content",
            form: Form::Text,
        },
    ],
    extra: true,
};
/// Credentials; `blob` is sealed while it is stored.
pub static CREDENTIALS: Kind = Kind {
    single: "credential",
    plural: "credentials",
    table: "identity_credentials",
    columns: &[
        ID,
        column("user_id", Form::Text),
        column("project_id", Form::MaybeText),
        Column {
            attribute: "type",
            column: "kind",
            form: Form::Text,
        },
        Column {
            attribute: "blob",
            column: "content",
            form: Form::Text,
        },
    ],
    extra: false,
};

impl Kind {
    /// The column of an attribute.
    pub fn column(&self, attribute: &str) -> Option<&'static Column> {
        self.columns
            .iter()
            .find(|column| column.attribute == attribute)
    }
}
