//! Each server and each project's quotas, under the names of the common OpenStack exporter.

use super::{Cloud, Page};
use crate::views;
use db::instances::Instance;
use std::collections::HashMap;
use types::states;

/// The exporter's numbers of statuses; what it does not know is -1.
const STATUSES: [&str; 21] = [
    "ACTIVE",
    "BUILD",
    "BUILD(spawning)",
    "DELETED",
    "ERROR",
    "HARD_REBOOT",
    "PASSWORD",
    "REBOOT",
    "REBUILD",
    "RESCUE",
    "RESIZE",
    "SHUTOFF",
    "SUSPENDED",
    "UNKNOWN",
    "VERIFY_RESIZE",
    "MIGRATING",
    "PAUSED",
    "REVERT_RESIZE",
    "SHELVED",
    "SHELVED_OFFLOADED",
    "SOFT_DELETED",
];

fn number(status: &str) -> f64 {
    let at = STATUSES.iter().position(|known| *known == status);
    at.map_or(-1.0, |at| at as f64)
}

/// Servers of each host on which something is being done.
pub(super) fn workloads(servers: &[Instance]) -> HashMap<String, i64> {
    let mut at_work = HashMap::new();
    let busy = servers.iter().filter(|server| server.task_state.is_some());
    for host in busy.filter_map(|server| server.host.as_ref()) {
        *at_work.entry(host.0.clone()).or_default() += 1;
    }
    at_work
}

impl Cloud {
    /// One line for each server that is not gone, two with its disk.
    pub(super) fn write_servers(&self, page: &mut Page) {
        page.kind("openstack_nova_server_status", "gauge", "server_status");
        for server in &self.servers {
            let status = states::status(server.vm_state, server.task_state);
            let (id, host_id) = (server.id.to_string(), views::server::host_id(server));
            let domain = views::server::domain(server);
            let labels = [
                ("id", id.as_str()),
                ("status", status),
                ("name", &server.display_name),
                ("tenant_id", server.project_id.as_str()),
                ("user_id", server.user_id.as_str()),
                (
                    "address_ipv4",
                    server.access_ip_v4.as_deref().unwrap_or_default(),
                ),
                (
                    "address_ipv6",
                    server.access_ip_v6.as_deref().unwrap_or_default(),
                ),
                ("host_id", &host_id),
                (
                    "hypervisor_hostname",
                    server.node.as_deref().unwrap_or_default(),
                ),
                ("uuid", &id),
                (
                    "availability_zone",
                    server.availability_zone.as_deref().unwrap_or_default(),
                ),
                ("flavor_id", server.flavor.id.as_str()),
                ("instance_libvirt", &domain),
            ];
            page.value("openstack_nova_server_status", &labels, number(status));
        }
        page.kind("openstack_nova_server_local_gb", "gauge", "server_local_gb");
        for server in &self.servers {
            let id = server.id.to_string();
            let labels = [
                ("name", server.display_name.as_str()),
                ("id", &id),
                ("tenant_id", server.project_id.as_str()),
            ];
            let size = server.flavor.root_gb + server.flavor.ephemeral_gb;
            page.value("openstack_nova_server_local_gb", &labels, f64::from(size));
        }
    }

    /// What projects may have and what they have. Nothing is reserved here: what is accepted counts.
    pub(super) fn write_quotas(&self, page: &mut Page) {
        let (defaults, set) = &self.limits;
        for (resource, _) in db::quotas::DEFAULTS {
            if *resource == "networks" {
                continue;
            }
            let name = format!("openstack_nova_quota_{resource}");
            page.kind(&name, "gauge", &name["openstack_nova_".len()..]);
            let default = defaults.get(*resource).copied().unwrap_or(-1);
            let own: HashMap<&str, i64> = set
                .iter()
                .filter(|(_, of, _)| of == resource)
                .map(|(project, _, limit)| (project.as_str(), *limit))
                .collect();
            for (project, held) in &self.held {
                let in_use = match *resource {
                    "instances" => held.instances,
                    "cores" => held.cores,
                    "ram" => held.ram_mb,
                    "server_groups" => self.groups.get(project).copied().unwrap_or(0),
                    // Counted by user, by server or by another service, as Nova shows it.
                    _ => 0,
                };
                let limit = own.get(project.as_str()).copied().unwrap_or(default);
                for (kind, value) in [("in_use", in_use), ("reserved", 0), ("limit", limit)] {
                    let labels = [
                        ("type", kind),
                        ("tenant", project.as_str()),
                        ("tenant_id", project.as_str()),
                    ];
                    page.value(&name, &labels, value as f64);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::server_history::instance;

    #[test]
    fn what_hosts_work_at() {
        let server = |host: Option<&str>, busy: bool| Instance {
            host: host.map(Into::into),
            task_state: busy.then_some(types::TaskState::Rebooting),
            ..instance()
        };
        let all = [
            server(Some("a"), true),
            server(Some("a"), true),
            server(Some("b"), false),
            server(None, true),
        ];
        assert_eq!(workloads(&all), HashMap::from([("a".to_owned(), 2)]));
    }

    #[test]
    fn every_status_has_a_number() {
        for vm_state in types::VmState::ALL {
            for task_state in
                std::iter::once(None).chain(types::TaskState::ALL.iter().map(|one| Some(*one)))
            {
                let status = states::status(*vm_state, task_state);
                assert!(number(status) >= 0.0, "{status}");
            }
        }
        assert_eq!(number("SHUTOFF"), 11.0);
        assert_eq!(number("SOFT_DELETED"), 20.0);
    }
}
