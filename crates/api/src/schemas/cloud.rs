//! Bodies of requests that are not about servers: flavors, key pairs, quotas, groups, aggregates, services.

use super::{Range, Schema, boolean, integer, loose, object, positive, text, wrapped};
use crate::mv;
use serde_json::{Value, json};
use types::Microversion;

const FIRST: Microversion = Microversion::MIN;
const MOST: i64 = 2_147_483_647;

/// Every schema of this module, for the test that compiles them.
#[cfg(test)]
pub const ALL: &[(&str, &Schema)] = &[
    ("flavor create", &FLAVOR_CREATE),
    ("flavor update", &FLAVOR_UPDATE),
    ("flavor add access", &FLAVOR_ADD_ACCESS),
    ("flavor remove access", &FLAVOR_REMOVE_ACCESS),
    ("extra specs create", &SPECS_CREATE),
    ("extra spec update", &SPEC_UPDATE),
    ("key pair create", &KEYPAIR_CREATE),
    ("quota update", &QUOTA_UPDATE),
    ("quota class update", &QUOTA_CLASS_UPDATE),
    ("group create", &GROUP_CREATE),
    ("service update", &SERVICE_UPDATE),
    ("aggregate create", &AGGREGATE_CREATE),
    ("aggregate update", &AGGREGATE_UPDATE),
    ("aggregate add host", &AGGREGATE_ADD_HOST),
    ("aggregate remove host", &AGGREGATE_REMOVE_HOST),
    ("aggregate set metadata", &AGGREGATE_SET_METADATA),
];

fn name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "format": "name" })
}

fn host() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9-._]*$" })
}

/// `POST /flavors`.
pub static FLAVOR_CREATE: Schema = Schema::new(&[
    Range::new(FIRST, || flavor_create(false, true)),
    Range::new(mv::FLAVOR_DESCRIPTION, || flavor_create(true, true)),
    Range::new(mv::STRICTER, || flavor_create(true, false)),
])
.legacy(|| loose(flavor_create(false, true)));

fn flavor_description() -> Value {
    json!({ "type": ["string", "null"], "minLength": 0, "maxLength": 65535, "format": "printable" })
}

fn flavor_create(described: bool, rxtx: bool) -> Value {
    let mut properties = json!({
        "name": name(),
        "id": { "type": ["string", "number", "null"], "minLength": 1, "maxLength": 255, "pattern": "^(?! )[a-zA-Z0-9. _-]+(?<! )$" },
        "ram": integer(1, MOST),
        "vcpus": integer(1, MOST),
        "disk": integer(0, MOST),
        "OS-FLV-EXT-DATA:ephemeral": integer(0, MOST),
        "swap": integer(0, MOST),
        "os-flavor-access:is_public": boolean(),
    });
    if described {
        properties["description"] = flavor_description();
    }
    if rxtx {
        properties["rxtx_factor"] = json!({
            "type": ["number", "string"], "pattern": "^[0-9]+(\\.[0-9]+)?$", "exclusiveMinimum": 0,
            "maximum": 3.40282e38
        });
    }
    wrapped(
        "flavor",
        object(&["name", "ram", "vcpus", "disk"], properties),
    )
}

/// `PUT /flavors/{id}`.
pub static FLAVOR_UPDATE: Schema = Schema::new(&[Range::new(FIRST, || {
    wrapped(
        "flavor",
        object(
            &["description"],
            json!({ "description": flavor_description() }),
        ),
    )
})]);

/// `addTenantAccess`.
pub static FLAVOR_ADD_ACCESS: Schema = Schema::new(&[Range::new(FIRST, || {
    wrapped(
        "addTenantAccess",
        object(&["tenant"], json!({ "tenant": text(1, 255) })),
    )
})]);

/// `removeTenantAccess`.
pub static FLAVOR_REMOVE_ACCESS: Schema = Schema::new(&[Range::new(FIRST, || {
    wrapped(
        "removeTenantAccess",
        object(&["tenant"], json!({ "tenant": text(1, 255) })),
    )
})]);

fn metadata(values: Value, required: bool) -> Value {
    let mut schema = json!({
        "type": "object", "patternProperties": { "^[a-zA-Z0-9-_:. ]{1,255}$": values }, "additionalProperties": false
    });
    if required {
        schema["minProperties"] = 1.into();
        schema["maxProperties"] = 1.into();
    }
    schema
}

fn spec_value() -> Value {
    json!({ "type": ["string", "number"], "maxLength": 255 })
}

/// `POST /flavors/{id}/os-extra_specs`.
pub static SPECS_CREATE: Schema = Schema::new(&[Range::new(FIRST, || {
    wrapped("extra_specs", metadata(spec_value(), false))
})]);

/// `PUT /flavors/{id}/os-extra_specs/{key}`.
pub static SPEC_UPDATE: Schema = Schema::new(&[Range::new(FIRST, || metadata(spec_value(), true))]);

/// `POST /os-keypairs`.
pub static KEYPAIR_CREATE: Schema = Schema::new(&[
    Range::new(FIRST, || {
        keypair(false, false, "keypair_name_20", &["name"])
    }),
    Range::new(mv::KEYPAIR_TYPE, || {
        keypair(true, false, "keypair_name_20", &["name"])
    }),
    Range::new(mv::KEYPAIR_USER, || {
        keypair(true, true, "keypair_name_20", &["name"])
    }),
    Range::new(mv::KEYPAIR_IMPORT_ONLY, || {
        keypair(true, true, "keypair_name_292", &["name", "public_key"])
    }),
])
.legacy(|| loose(keypair(false, false, "keypair_name_20", &["name"])));

fn keypair(kind: bool, user: bool, format: &str, required: &[&str]) -> Value {
    let mut properties = json!({
        "name": { "type": "string", "minLength": 1, "maxLength": 255, "format": format },
        "public_key": { "type": "string" },
    });
    if kind {
        properties["type"] = json!({ "type": "string", "enum": ["ssh", "x509"] });
    }
    if user {
        properties["user_id"] = json!({ "type": "string" });
    }
    wrapped("keypair", object(required, properties))
}

/// The resources of quota sets (true) and quota classes by the versions that still have them.
fn quota_names(version: Microversion) -> Vec<&'static str> {
    let mut names = vec![
        "instances",
        "cores",
        "ram",
        "metadata_items",
        "key_pairs",
        "server_groups",
        "server_group_members",
    ];
    if version < mv::NO_PERSONALITY {
        names.extend([
            "injected_files",
            "injected_file_content_bytes",
            "injected_file_path_bytes",
        ]);
    }
    names
}

const PROXIED: [&str; 4] = [
    "fixed_ips",
    "floating_ips",
    "security_groups",
    "security_group_rules",
];

fn quota(version: Microversion, proxied: &[&'static str], force: bool) -> Value {
    let mut properties = json!({});
    for name in quota_names(version).iter().chain(proxied.iter()) {
        properties[*name] = integer(-1, MOST);
    }
    if force {
        properties["force"] = boolean();
    }
    properties
}

/// `PUT /os-quota-sets/{project}`.
pub static QUOTA_UPDATE: Schema = Schema::new(&[
    Range::new(FIRST, || {
        wrapped("quota_set", object(&[], quota(FIRST, &PROXIED, true)))
    }),
    Range::new(mv::NO_PROXIES, || {
        wrapped("quota_set", object(&[], quota(mv::NO_PROXIES, &[], true)))
    }),
    Range::new(mv::NO_PERSONALITY, || {
        wrapped(
            "quota_set",
            object(&[], quota(mv::NO_PERSONALITY, &[], true)),
        )
    }),
]);

/// `PUT /os-quota-class-sets/{class}`.
pub static QUOTA_CLASS_UPDATE: Schema = Schema::new(&[
    Range::new(FIRST, || {
        wrapped(
            "quota_class_set",
            object(&[], quota(FIRST, &PROXIED, false)),
        )
    }),
    Range::new(mv::QUOTA_CLASS_GROUPS, || {
        wrapped("quota_class_set", object(&[], quota(FIRST, &[], false)))
    }),
    Range::new(mv::NO_PERSONALITY, || {
        wrapped(
            "quota_class_set",
            object(&[], quota(mv::NO_PERSONALITY, &[], false)),
        )
    }),
]);

/// `POST /os-server-groups`.
pub static GROUP_CREATE: Schema = Schema::new(&[
    Range::new(FIRST, || group_policies(&["anti-affinity", "affinity"])),
    Range::new(mv::SOFT_GROUPS, || {
        group_policies(&[
            "anti-affinity",
            "affinity",
            "soft-anti-affinity",
            "soft-affinity",
        ])
    }),
    Range::new(mv::GROUP_POLICY, group_policy),
]);

fn group_policies(allowed: &[&str]) -> Value {
    let policies = json!({
        "type": "array", "items": { "type": "string", "enum": allowed }, "minItems": 1, "maxItems": 1, "uniqueItems": true
    });
    wrapped(
        "server_group",
        object(
            &["name", "policies"],
            json!({ "name": name(), "policies": policies }),
        ),
    )
}

fn group_policy() -> Value {
    let properties = json!({
        "name": name(),
        "policy": { "type": "string", "enum": ["anti-affinity", "affinity", "soft-anti-affinity", "soft-affinity"] },
        "rules": object(&[], json!({ "max_server_per_host": positive() })),
    });
    wrapped("server_group", object(&["name", "policy"], properties))
}

/// `PUT /os-services/{...}`.
pub static SERVICE_UPDATE: Schema = Schema::new(&[
    Range::new(FIRST, || {
        object(&["host", "binary"], service_below_uuids(false))
    }),
    Range::new(mv::FORCED_DOWN, || {
        object(&["host", "binary"], service_below_uuids(true))
    }),
    Range::new(mv::UUIDS_OF_HOSTS, || {
        object(
            &[],
            json!({
                "status": { "type": "string", "enum": ["enabled", "disabled"] },
                "disabled_reason": text(1, 255),
                "forced_down": boolean(),
            }),
        )
    }),
]);

fn service_below_uuids(forced_down: bool) -> Value {
    let mut properties =
        json!({ "host": host(), "binary": text(1, 255), "disabled_reason": text(1, 255) });
    if forced_down {
        properties["forced_down"] = boolean();
    }
    properties
}

fn zone() -> Value {
    json!({ "type": ["string", "null"], "minLength": 1, "maxLength": 255, "format": "az_name" })
}

/// `POST /os-aggregates`.
pub static AGGREGATE_CREATE: Schema =
    Schema::new(&[Range::new(FIRST, aggregate_create)]).legacy(|| loose(aggregate_create()));

fn aggregate_create() -> Value {
    wrapped(
        "aggregate",
        object(
            &["name"],
            json!({ "name": name(), "availability_zone": zone() }),
        ),
    )
}

/// `PUT /os-aggregates/{id}`.
pub static AGGREGATE_UPDATE: Schema =
    Schema::new(&[Range::new(FIRST, aggregate_update)]).legacy(|| loose(aggregate_update()));

fn aggregate_update() -> Value {
    // The old name may have blanks around it, and may be sent back.
    let name = json!({ "type": "string", "minLength": 1, "maxLength": 255, "format": "name_with_leading_trailing_spaces" });
    let mut aggregate = object(&[], json!({ "name": name, "availability_zone": zone() }));
    aggregate["anyOf"] = json!([{ "required": ["name"] }, { "required": ["availability_zone"] }]);
    wrapped("aggregate", aggregate)
}

/// `add_host`.
pub static AGGREGATE_ADD_HOST: Schema = Schema::new(&[Range::new(FIRST, || {
    wrapped("add_host", object(&["host"], json!({ "host": host() })))
})]);

/// `remove_host`.
pub static AGGREGATE_REMOVE_HOST: Schema = Schema::new(&[Range::new(FIRST, || {
    wrapped("remove_host", object(&["host"], json!({ "host": host() })))
})]);

/// `set_metadata`.
pub static AGGREGATE_SET_METADATA: Schema = Schema::new(&[Range::new(FIRST, || {
    let values = json!({ "type": ["string", "null"], "maxLength": 255 });
    wrapped(
        "set_metadata",
        object(
            &["metadata"],
            json!({ "metadata": metadata(values, false) }),
        ),
    )
})]);
