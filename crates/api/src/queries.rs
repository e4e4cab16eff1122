//! The query keys of each list and show.

use crate::mv;
use crate::query::Kind::{Any, Digits, Name, OneOf, Regex, Time};
use crate::query::{Key, Keys, key};

const DIRECTIONS: &[&str] = &["asc", "desc"];

/// No keys; unknown ones refused from 2.102.
pub static NONE_STRICTER: Keys = Keys {
    keys: &[],
    strict: Some(mv::STRICTER),
    private: false,
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
    private: false,
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

/// Pages of `/images`; its other keys are filters of any name.
pub static IMAGES: Keys = Keys {
    keys: &[
        key("limit", Digits),
        key("page_size", Digits),
        key("offset", Digits),
        key("marker", Any),
    ],
    strict: None,
    private: false,
};

/// `/os-security-groups`.
pub static SECURITY_GROUPS: Keys = Keys {
    keys: &[
        key("limit", Digits),
        key("offset", Digits),
        key("all_tenants", Any),
    ],
    strict: None,
    private: false,
};

/// `/os-hosts`.
pub static HOSTS: Keys = Keys {
    keys: &[key("zone", Any)],
    strict: None,
    private: false,
};

/// `DELETE /os-assisted-volume-snapshots/{id}`.
pub static SNAPSHOT_DELETE: Keys = Keys {
    keys: &[key("delete_info", Any)],
    strict: Some(mv::STRICT),
    private: false,
};

/// `/os-console-auth-tokens/{token}`.
pub static CONSOLE_TOKEN: Keys = Keys {
    keys: &[],
    strict: Some(mv::CONSOLE_TOKENS_STRICT),
    private: false,
};

/// `/limits`.
pub static LIMITS: Keys = Keys {
    keys: &[key("tenant_id", Any)],
    strict: Some(mv::STRICT),
    private: false,
};

/// `/os-hypervisors`.
pub static HYPERVISORS: Keys = Keys {
    keys: &[
        key("limit", Digits).since(mv::HYPERVISOR_PAGES),
        key("marker", Any).since(mv::HYPERVISOR_PAGES),
        key("hypervisor_hostname_pattern", Any)
            .since(mv::UUIDS_OF_HOSTS)
            .once(),
        key("with_servers", OneOf(BOOLEANS))
            .since(mv::UUIDS_OF_HOSTS)
            .once(),
    ],
    strict: Some(mv::UUIDS_OF_HOSTS),
    private: false,
};

/// `/os-hypervisors/{id}`.
pub static HYPERVISOR: Keys = Keys {
    keys: &[key("with_servers", OneOf(BOOLEANS))
        .since(mv::UUIDS_OF_HOSTS)
        .once()],
    strict: Some(mv::UUIDS_OF_HOSTS),
    private: false,
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
    private: false,
};

/// `/os-keypairs/{id}`.
pub static KEYPAIR: Keys = Keys {
    keys: &[key("user_id", Any).since(mv::KEYPAIR_USER)],
    strict: Some(mv::STRICT),
    private: false,
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
    private: false,
};

/// `/os-quota-sets/{id}`.
pub static QUOTAS: Keys = Keys {
    keys: &[key("user_id", Any)],
    strict: Some(mv::STRICT),
    private: false,
};

/// `/os-server-groups`.
pub static GROUPS: Keys = Keys {
    keys: &[
        key("all_projects", Any),
        key("limit", Digits),
        key("offset", Digits),
    ],
    strict: Some(mv::STRICT),
    private: false,
};

/// `/os-services`.
pub static SERVICES: Keys = Keys {
    keys: &[key("host", Any), key("binary", Any)],
    strict: Some(mv::STRICT),
    private: false,
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
    private: false,
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
    private: false,
};

/// `/servers/{id}/os-instance-actions`.
pub static INSTANCE_ACTIONS: Keys = Keys {
    keys: &[
        key("limit", Digits).since(mv::ACTION_PAGES),
        key("marker", Any).since(mv::ACTION_PAGES),
        key("changes-since", Time).since(mv::ACTION_PAGES),
        key("changes-before", Time).since(mv::CHANGES_BEFORE),
    ],
    strict: Some(mv::ACTION_PAGES),
    private: false,
};

/// `/servers/{id}/os-volume_attachments`.
pub static VOLUMES: Keys = Keys {
    keys: &[key("limit", Digits), key("offset", Digits)],
    strict: Some(mv::STRICT),
    private: false,
};

/// `/servers` and `/servers/detail`.
pub static SERVERS: Keys = Keys {
    keys: &[
        key("user_id", Any),
        key("project_id", Any),
        key("tenant_id", Any),
        key("launch_index", Any),
        key("image_ref", Any),
        key("image", Any),
        key("kernel_id", Regex),
        key("ramdisk_id", Regex),
        key("hostname", Regex),
        key("key_name", Regex),
        key("instance_type_id", Regex),
        key("flavor", Any),
        key("reservation_id", Regex),
        key("launched_at", Regex),
        key("terminated_at", Regex),
        key("availability_zone", Regex),
        key("name", Regex),
        key("display_name", Regex),
        key("description", Any),
        key("display_description", Any),
        key("host", Regex),
        key("node", Regex),
        key("status", Any),
        key("vm_state", Regex),
        key("task_state", Regex),
        key("power_state", Any),
        key("access_ip_v4", Name),
        key("accessIPv4", Name),
        key("access_ip_v6", Name),
        key("accessIPv6", Name),
        key("auto_disk_config", Any),
        key("config_drive", Any),
        key("created_at", Any),
        key("uuid", Any),
        key("root_device_name", Any),
        key("progress", Any),
        key("disk_config", Any),
        key("ip", Any),
        key("ip6", Any),
        key("deleted", Any),
        key("soft_deleted", Any),
        key("all_tenants", Any),
        key("changes-since", Time),
        key("changes-before", Time).since(mv::CHANGES_BEFORE),
        key("not-tags", Any).since(mv::TAGS),
        key("not-tags-any", Any).since(mv::TAGS),
        key("tags", Any).since(mv::TAGS),
        key("tags-any", Any).since(mv::TAGS),
        key("locked", Any).since(mv::LOCKED_REASON),
        key("limit", Digits),
        key("marker", Any),
        SERVER_SORT_KEY,
        SERVER_SORT_KEY_LOCKED,
        key("sort_dir", Any),
    ],
    strict: Some(mv::STRICT),
    private: true,
};
const SERVER_SORT_KEY: Key = key("sort_key", OneOf(SERVER_SORT)).until(mv::LOCKED_REASON);
const SERVER_SORT_KEY_LOCKED: Key =
    key("sort_key", OneOf(SERVER_SORT_WITH_LOCKED)).since(mv::LOCKED_REASON);
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
const SERVER_SORT_WITH_LOCKED: &[&str] = &[
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
