//! Whose guest a domain is: what Nova's tools and cloud-init read of it.

use super::clean;
use crate::spec::GuestSpec;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Metadata {
    #[serde(rename = "nova:instance")]
    instance: NovaInstance,
}

#[derive(Serialize)]
struct NovaInstance {
    #[serde(rename = "@xmlns:nova")]
    namespace: &'static str,
    #[serde(rename = "nova:package")]
    package: Version,
    #[serde(rename = "nova:name")]
    name: String,
    #[serde(rename = "nova:creationTime")]
    created: String,
    #[serde(rename = "nova:flavor")]
    flavor: NovaFlavor,
    #[serde(rename = "nova:owner")]
    owner: NovaOwner,
    #[serde(rename = "nova:root", skip_serializing_if = "Option::is_none")]
    root: Option<NovaRoot>,
}

#[derive(Serialize)]
struct Version {
    #[serde(rename = "@version")]
    version: &'static str,
}

#[derive(Serialize)]
struct NovaFlavor {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "nova:memory")]
    memory: u64,
    #[serde(rename = "nova:disk")]
    disk: u64,
    #[serde(rename = "nova:swap")]
    swap: u64,
    #[serde(rename = "nova:ephemeral")]
    ephemeral: u64,
    #[serde(rename = "nova:vcpus")]
    vcpus: u32,
}

#[derive(Serialize)]
struct NovaOwner {
    #[serde(rename = "nova:user")]
    user: Named,
    #[serde(rename = "nova:project")]
    project: Named,
}

#[derive(Serialize)]
struct Named {
    #[serde(rename = "@uuid")]
    uuid: String,
    #[serde(rename = "$text")]
    name: String,
}

#[derive(Serialize)]
struct NovaRoot {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@uuid")]
    uuid: String,
}

#[derive(Serialize)]
pub(super) struct Sysinfo {
    #[serde(rename = "@type")]
    kind: &'static str,
    system: SystemEntries,
}

#[derive(Serialize)]
struct SystemEntries {
    entry: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "$text")]
    value: String,
}

/// What Nova's tools read of it.
pub(super) fn metadata(spec: &GuestSpec) -> Metadata {
    Metadata {
        instance: nova_instance(spec),
    }
}

fn nova_instance(spec: &GuestSpec) -> NovaInstance {
    let meta = &spec.metadata;
    let named = |uuid: &str, name: &str| Named {
        uuid: clean(uuid),
        name: clean(name),
    };
    NovaInstance {
        namespace: "http://openstack.org/xmlns/libvirt/nova/1.1",
        package: Version {
            version: env!("CARGO_PKG_VERSION"),
        },
        name: clean(&meta.display_name),
        created: clean(&meta.created_at),
        flavor: NovaFlavor {
            name: clean(&meta.flavor_name),
            memory: spec.memory_mib,
            disk: meta.flavor_disk_gib,
            swap: meta.flavor_swap_mib,
            ephemeral: meta.flavor_ephemeral_gib,
            vcpus: spec.vcpus,
        },
        owner: NovaOwner {
            user: named(&meta.user_id, &meta.user_name),
            project: named(&meta.project_id, &meta.project_name),
        },
        root: meta.image_id.as_deref().map(|id| NovaRoot {
            kind: "image",
            uuid: clean(id),
        }),
    }
}

/// cloud-init's ds-identify looks at the product name; the others are what Nova gives.
pub(super) fn sysinfo(spec: &GuestSpec) -> Sysinfo {
    let entry = |name, value: &str| Entry {
        name,
        value: clean(value),
    };
    Sysinfo {
        kind: "smbios",
        system: SystemEntries {
            entry: vec![
                entry("manufacturer", "OpenStack Foundation"),
                entry("product", "OpenStack Nova"),
                entry("version", env!("CARGO_PKG_VERSION")),
                entry("serial", &spec.serial_number),
                entry("uuid", &spec.id.to_string()),
                entry("family", "Virtual Machine"),
            ],
        },
    }
}
