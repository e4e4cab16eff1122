//! Each server and each project's quotas, under the names of the common OpenStack exporter.

use super::{Cloud, Page};
use crate::views;
use db::instances::Instance;
use db::list::{Column, Condition, Query};
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

/// Servers that are read and written at once: of a large cloud only the lines are kept.
const AT_ONCE: u64 = 1000;

/// What is shown of all servers that are not gone.
#[derive(Default)]
pub(super) struct Servers {
    pub(super) count: usize,
    /// On how many of each host something is being done.
    pub(super) at_work: HashMap<String, i64>,
    statuses: Page,
    disks: Page,
}

impl Servers {
    pub(super) fn read(tx: &mut sql::Tx<'_>) -> Result<Self, sql::Error> {
        let mut all = Self::default();
        let mut query = Query {
            conditions: vec![Condition::Removed(false)],
            order: vec![(Column::Number, false)],
            limit: Some(AT_ONCE),
            brief: true,
            ..Query::default()
        };
        while let Some(page) = db::list::page(tx, &query)? {
            page.iter().for_each(|server| all.add(server));
            match page.last() {
                Some(last) if page.len() as u64 == AT_ONCE => query.after = Some(last.id),
                _ => break,
            }
        }
        Ok(all)
    }

    fn add(&mut self, server: &Instance) {
        self.count += 1;
        if let Some(host) = server.host.as_ref().filter(|_| server.task_state.is_some()) {
            *self.at_work.entry(host.0.clone()).or_default() += 1;
        }
        let status = states::status(server.vm_state, server.task_state);
        let (id, host_id) = (server.id.to_string(), views::server::host_id(server));
        let domain = views::server::domain(server);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let labels = [
            ("id", id.as_str()),
            ("status", status),
            ("name", &server.display_name),
            ("tenant_id", server.project_id.as_str()),
            ("user_id", server.user_id.as_str()),
            ("address_ipv4", &text(&server.access_ip_v4)),
            ("address_ipv6", &text(&server.access_ip_v6)),
            ("host_id", &host_id),
            ("hypervisor_hostname", &text(&server.node)),
            ("uuid", &id),
            ("availability_zone", &text(&server.availability_zone)),
            ("flavor_id", server.flavor.id.as_str()),
            ("instance_libvirt", &domain),
        ];
        self.statuses
            .value("openstack_nova_server_status", &labels, number(status));
        let labels = [
            ("name", server.display_name.as_str()),
            ("id", &id),
            ("tenant_id", server.project_id.as_str()),
        ];
        let size = f64::from(server.flavor.root_gb + server.flavor.ephemeral_gb);
        self.disks
            .value("openstack_nova_server_local_gb", &labels, size);
    }

    pub(super) fn write(&self, page: &mut Page) {
        page.kind("openstack_nova_server_status", "gauge", "server_status");
        page.0.push_str(&self.statuses.0);
        page.kind("openstack_nova_server_local_gb", "gauge", "server_local_gb");
        page.0.push_str(&self.disks.0);
    }
}

impl Cloud {
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tests::server_history::instance;

    #[tokio::test]
    async fn all_are_read_page_by_page() {
        let store = sql::Store::temporary().await.unwrap();
        db::migrate(&store).await.unwrap();
        let write = store.write(|tx| -> Result<(), sql::Error> {
            for _ in 0..=AT_ONCE {
                let server = Instance {
                    id: types::ServerId::random(),
                    ..instance()
                };
                db::instances::insert(tx, &server)?;
            }
            Ok(())
        });
        write.await.unwrap();
        let all = store.read(Servers::read).await.unwrap();
        assert_eq!(all.count as u64, AT_ONCE + 1);
        assert_eq!(all.statuses.0.lines().count(), all.count);
        assert_eq!(all.disks.0.lines().count(), all.count);
    }

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
        let mut servers = Servers::default();
        all.iter().for_each(|server| servers.add(server));
        assert_eq!(servers.count, 4);
        assert_eq!(servers.at_work, HashMap::from([("a".to_owned(), 2)]));
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
