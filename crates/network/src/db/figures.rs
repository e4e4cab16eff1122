//! What there is, counted for whoever watches the cloud.

use sql::{Error, Store};

/// Each with a name of the common OpenStack exporter.
const COUNTS: &str = "SELECT 'openstack_neutron_networks', COUNT(*) FROM net_networks \
     UNION ALL SELECT 'openstack_neutron_subnets', COUNT(*) FROM net_subnets \
     UNION ALL SELECT 'openstack_neutron_ports', COUNT(*) FROM net_ports \
     UNION ALL SELECT 'openstack_neutron_ports_no_ips', COUNT(*) FROM net_ports p WHERE p.status = 'ACTIVE' \
     AND NOT EXISTS (SELECT 1 FROM net_allocations a WHERE a.port_id = p.id) \
     UNION ALL SELECT 'openstack_neutron_ports_lb_not_active', COUNT(*) FROM net_ports \
     WHERE device_owner = 'neutron:LOADBALANCERV2' AND status <> 'ACTIVE' \
     UNION ALL SELECT 'openstack_neutron_routers', COUNT(*) FROM net_routers \
     UNION ALL SELECT 'openstack_neutron_floating_ips', COUNT(*) FROM net_floatingips \
     UNION ALL SELECT 'openstack_neutron_security_groups', COUNT(*) FROM net_groups";

/// How much there is of what the service keeps, under the names of the common OpenStack exporter. `store` is its database.
///
/// # Errors
/// The database's.
pub async fn figures(store: &Store) -> Result<Vec<(String, i64)>, Error> {
    let read = store.read(|tx| {
        let rows = tx.query(COUNTS, &[])?.into_iter();
        rows.map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
    });
    read.await
}
