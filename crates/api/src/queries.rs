//! The query keys of each list and show.

use crate::mv;
use crate::query::Kind::{Any, Digits, Host, OneOf, Positive, Regex, Time};
use crate::query::{Keys, key};

const DIRECTIONS: &[&str] = &["asc", "desc"];

/// No keys; unknown ones refused from 2.102.
pub static NONE_STRICTER: Keys = Keys {
    keys: &[],
    strict: Some(mv::STRICTER),
    prefix: None,
};

/// `/flavors`.
pub static FLAVORS: Keys = Keys {
    keys: &[
        key("limit", Digits),
        key("marker", Any),
        key("is_public", Any),
        key("minRam", Any),
        key("minDisk", Any),
        key("name", Any).since(mv::STRICTER),
        key("sort_key", OneOf(FLAVOR_SORT)).until(mv::STRICTER),
        key("sort_key", OneOf(FLAVOR_SORT_SLIM)).since(mv::STRICTER),
        key("sort_dir", OneOf(DIRECTIONS)),
    ],
    strict: Some(mv::STRICT),
    prefix: None,
};
const FLAVOR_SORT: &[&str] = &[
    "created_at",
    "description",
    "disabled",
    "ephemeral_gb",
    "flavorid",
    "id",
    "is_public",
    "memory_mb",
    "name",
    "root_gb",
    "rxtx_factor",
    "swap",
    "updated_at",
    "vcpu_weight",
    "vcpus",
];
const FLAVOR_SORT_SLIM: &[&str] = &[
    "created_at",
    "description",
    "disabled",
    "ephemeral_gb",
    "flavorid",
    "id",
    "is_public",
    "memory_mb",
    "name",
    "root_gb",
    "swap",
    "updated_at",
    "vcpu_weight",
    "vcpus",
];

/// `/images`.
pub static IMAGES: Keys = Keys {
    keys: &[
        key("limit", Positive),
        key("page_size", Positive),
        key("offset", Positive),
        key("marker", Any),
        key("name", Any),
        key("status", Any),
        key("changes-since", Any),
        key("server", Any),
        key("type", Any),
        key("minRam", Any),
        key("minDisk", Any),
    ],
    strict: None,
    prefix: Some("property-"),
};

/// `/os-security-groups`.
pub static SECURITY_GROUPS: Keys = Keys {
    keys: &[
        key("limit", Digits),
        key("offset", Digits),
        key("all_tenants", Any),
    ],
    strict: None,
    prefix: None,
};

/// `/os-hosts`.
pub static HOSTS: Keys = Keys {
    keys: &[key("zone", Any)],
    strict: None,
    prefix: None,
};

/// `DELETE /os-assisted-volume-snapshots/{id}`.
pub static SNAPSHOT_DELETE: Keys = Keys {
    keys: &[key("delete_info", Any)],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/os-console-auth-tokens/{token}`.
pub static CONSOLE_TOKEN: Keys = Keys {
    keys: &[],
    strict: Some(mv::CONSOLE_TOKENS_STRICT),
    prefix: None,
};

/// `/limits`.
pub static LIMITS: Keys = Keys {
    keys: &[key("tenant_id", Any)],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/os-hypervisors`.
pub static HYPERVISORS: Keys = Keys {
    keys: &[
        key("limit", Digits)
            .since(mv::HYPERVISOR_PAGES)
            .until(mv::UUIDS_OF_HOSTS),
        key("marker", Any)
            .since(mv::HYPERVISOR_PAGES)
            .until(mv::UUIDS_OF_HOSTS),
        key("limit", Digits).since(mv::UUIDS_OF_HOSTS).once(),
        key("marker", Any).since(mv::UUIDS_OF_HOSTS).once(),
        key("hypervisor_hostname_pattern", Host)
            .since(mv::UUIDS_OF_HOSTS)
            .once(),
        key("with_servers", OneOf(BOOLEANS))
            .since(mv::UUIDS_OF_HOSTS)
            .once(),
    ],
    strict: Some(mv::UUIDS_OF_HOSTS),
    prefix: None,
};

/// `/os-hypervisors/{id}`.
pub static HYPERVISOR: Keys = Keys {
    keys: &[key("with_servers", OneOf(BOOLEANS))
        .since(mv::UUIDS_OF_HOSTS)
        .once()],
    strict: Some(mv::UUIDS_OF_HOSTS),
    prefix: None,
};
const BOOLEANS: &[&str] = &[
    "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "False", "FALSE", "false",
    "0", "OFF", "Off", "off", "NO", "No", "no",
];

/// `/os-keypairs`.
pub static KEYPAIRS: Keys = Keys {
    keys: &[
        key("user_id", Any).since(mv::KEYPAIR_USER),
        key("limit", Digits).since(mv::KEYPAIR_PAGES),
        key("marker", Any).since(mv::KEYPAIR_PAGES),
    ],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/os-keypairs/{id}`.
pub static KEYPAIR: Keys = Keys {
    keys: &[key("user_id", Any).since(mv::KEYPAIR_USER)],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/os-migrations`.
pub static MIGRATIONS: Keys = Keys {
    keys: &[
        key("hidden", Any),
        key("host", Any),
        key("instance_uuid", Any),
        key("source_compute", Any),
        key("status", Any),
        key("migration_type", Any),
        key("limit", Digits).since(mv::MIGRATION_PAGES).once(),
        key("marker", Any).since(mv::MIGRATION_PAGES).once(),
        key("changes-since", Time).since(mv::MIGRATION_PAGES).once(),
        key("changes-before", Time).since(mv::CHANGES_BEFORE).once(),
        key("user_id", Any).since(mv::MIGRATION_OWNER).once(),
        key("project_id", Any).since(mv::MIGRATION_OWNER).once(),
    ],
    strict: Some(mv::MIGRATION_PAGES),
    prefix: None,
};

/// `/os-quota-sets/{id}`.
pub static QUOTAS: Keys = Keys {
    keys: &[key("user_id", Any)],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/os-server-groups`.
pub static GROUPS: Keys = Keys {
    keys: &[
        key("all_projects", Any),
        key("limit", Digits),
        key("offset", Digits),
    ],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/os-services`.
pub static SERVICES: Keys = Keys {
    keys: &[key("host", Any), key("binary", Any)],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/os-simple-tenant-usage`.
pub static USAGES: Keys = Keys {
    keys: &[
        key("start", Any),
        key("end", Any),
        key("detailed", Any),
        key("limit", Digits).since(mv::USAGE_PAGES),
        key("marker", Any).since(mv::USAGE_PAGES),
    ],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/os-simple-tenant-usage/{id}`.
pub static USAGE: Keys = Keys {
    keys: &[
        key("start", Any),
        key("end", Any),
        key("limit", Digits).since(mv::USAGE_PAGES),
        key("marker", Any).since(mv::USAGE_PAGES),
    ],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/servers/{id}/os-instance-actions`.
pub static INSTANCE_ACTIONS: Keys = Keys {
    keys: &[
        key("limit", Digits).since(mv::ACTION_PAGES).once(),
        key("marker", Any).since(mv::ACTION_PAGES).once(),
        key("changes-since", Time).since(mv::ACTION_PAGES).once(),
        key("changes-before", Time).since(mv::CHANGES_BEFORE).once(),
    ],
    strict: Some(mv::ACTION_PAGES),
    prefix: None,
};

/// `/os-volumes` and `/os-snapshots`, with their details.
pub static PAGES: Keys = Keys {
    keys: &[key("limit", Digits), key("offset", Digits)],
    strict: None,
    prefix: None,
};

/// `/servers/{id}/shares`: strict from the first.
pub static SHARES: Keys = Keys {
    keys: &[],
    strict: Some(mv::SHARES),
    prefix: None,
};

/// `/servers/{id}/os-volume_attachments`.
pub static VOLUMES: Keys = Keys {
    keys: &[key("limit", Digits), key("offset", Digits)],
    strict: Some(mv::STRICT),
    prefix: None,
};

/// `/servers` and `/servers/detail`.
pub static SERVERS: Keys = Keys {
    keys: &[
        key("all_tenants", Any),
        key("block_device_mapping", Any),
        key("deleted", Any),
        key("host", Any),
        key("image", Any),
        key("image_ref", Any),
        key("info_cache", Any),
        key("launch_index", Any),
        key("marker", Any),
        key("metadata", Any),
        key("pci_devices", Any),
        key("project_id", Any),
        key("security_groups", Any),
        key("services", Any),
        key("soft_deleted", Any),
        key("sort_dir", Any).each(),
        key("status", Any).each(),
        key("system_metadata", Any),
        key("task_state", Any),
        key("tenant_id", Any),
        key("user_id", Any),
        key("uuid", Any),
        key("vm_state", Any),
        key("access_ip_v4", Regex),
        key("access_ip_v6", Regex),
        key("auto_disk_config", Regex),
        key("availability_zone", Regex),
        key("config_drive", Regex),
        key("created_at", Regex),
        key("description", Regex),
        key("display_description", Regex),
        key("display_name", Regex),
        key("flavor", Regex),
        key("hostname", Regex),
        key("ip", Regex),
        key("ip6", Regex),
        key("kernel_id", Regex),
        key("key_name", Regex),
        key("launched_at", Regex),
        key("locked_by", Regex),
        key("name", Regex),
        key("node", Regex),
        key("power_state", Regex),
        key("progress", Regex),
        key("ramdisk_id", Regex),
        key("reservation_id", Regex),
        key("root_device_name", Regex),
        key("terminated_at", Regex),
        key("limit", Digits),
        key("changes-since", Time),
        key("changes-before", Time).since(mv::CHANGES_BEFORE),
        key("not-tags", Regex).since(mv::TAGS),
        key("not-tags-any", Regex).since(mv::TAGS),
        key("tags", Regex).since(mv::TAGS),
        key("tags-any", Regex).since(mv::TAGS),
        key("locked", Any).since(mv::LOCKED_REASON),
        key("sort_key", OneOf(SERVER_SORT_LENIENT))
            .each()
            .until(mv::STRICT),
        key("sort_key", OneOf(SERVER_SORT)).each().since(mv::STRICT),
    ],
    strict: Some(mv::STRICT),
    prefix: Some("_"),
};

/// Filters that pass the schema and that no administrator may use.
pub const JOINED: &[&str] = &[
    "block_device_mapping",
    "info_cache",
    "metadata",
    "pci_devices",
    "security_groups",
    "services",
    "system_metadata",
];
const SERVER_SORT: &[&str] = &[
    "access_ip_v4",
    "access_ip_v6",
    "auto_disk_config",
    "availability_zone",
    "config_drive",
    "created_at",
    "display_description",
    "display_name",
    "host",
    "hostname",
    "image_ref",
    "instance_type_id",
    "kernel_id",
    "key_name",
    "launch_index",
    "launched_at",
    "locked",
    "locked_by",
    "node",
    "power_state",
    "progress",
    "project_id",
    "ramdisk_id",
    "root_device_name",
    "task_state",
    "terminated_at",
    "updated_at",
    "user_id",
    "uuid",
    "vm_state",
];
/// Below 2.75 more are taken, and have no effect.
const SERVER_SORT_LENIENT: &[&str] = &[
    "access_ip_v4",
    "access_ip_v6",
    "architecture",
    "auto_disk_config",
    "availability_zone",
    "cell_name",
    "cleaned",
    "config_drive",
    "created_at",
    "default_ephemeral_device",
    "default_swap_device",
    "deleted",
    "deleted_at",
    "disable_terminate",
    "display_description",
    "display_name",
    "ephemeral_gb",
    "ephemeral_key_uuid",
    "host",
    "hostname",
    "id",
    "image_ref",
    "instance_type_id",
    "kernel_id",
    "key_data",
    "key_name",
    "launch_index",
    "launched_at",
    "launched_on",
    "locked",
    "locked_by",
    "memory_mb",
    "node",
    "os_type",
    "power_state",
    "progress",
    "project_id",
    "ramdisk_id",
    "reservation_id",
    "root_device_name",
    "root_gb",
    "shutdown_terminate",
    "task_state",
    "terminated_at",
    "updated_at",
    "user_data",
    "user_id",
    "uuid",
    "vcpus",
    "vm_mode",
    "vm_state",
];
