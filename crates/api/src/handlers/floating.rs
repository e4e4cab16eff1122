//! Floating addresses of servers: the network service has them, the compute database keeps a copy for lists.

use crate::call::Call;
use db::instances::{Address, Instance, Interface};

/// The interfaces with these floating addresses `(fixed, floating, port)` instead of those they show.
fn merged(interfaces: &[Interface], floating: &[(String, String, String)]) -> Vec<Interface> {
    let mut out = interfaces.to_vec();
    for interface in &mut out {
        let mut addresses = Vec::new();
        for fixed in interface
            .addresses
            .drain(..)
            .filter(|address| address.kind == "fixed")
        {
            let of_this = floating
                .iter()
                .filter(|(ip, _, port)| *ip == fixed.ip && *port == interface.port_id);
            let behind: Vec<Address> = of_this
                .map(|(_, ip, _)| Address {
                    ip: ip.clone(),
                    version: 4,
                    kind: "floating".to_owned(),
                })
                .collect();
            addresses.push(fixed);
            addresses.extend(behind);
        }
        interface.addresses = addresses;
    }
    out
}

/// Looks at the network service for changed floating addresses, once in a short while for each server, and keeps what it
/// finds. When the service does not answer, what was known is shown.
pub async fn refresh(call: &Call, server: &mut Instance) {
    let ports: Vec<String> = server
        .network_info
        .iter()
        .map(|interface| interface.port_id.clone())
        .collect();
    if ports.is_empty() || call.api.looked_at.contains_key(&server.id) {
        return;
    }
    call.api.looked_at.insert(server.id, ());
    let found = match call
        .api
        .deps
        .networks
        .floating_ips(&call.token, &ports)
        .await
    {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "floating addresses cannot be looked up");
            return;
        }
    };
    let (id, seen) = (server.id, server.network_info.clone());
    let now = merged(&seen, &found);
    if now == seen {
        return;
    }
    server.network_info.clone_from(&now);
    let writing = call
        .api
        .deps
        .store
        .write(move |tx| -> Result<(), sql::Error> {
            // Somebody else may have changed the interfaces meanwhile; then the next look decides.
            match db::instances::get(tx, id)? {
                Some(current) if current.network_info == seen => {
                    db::instances::set_network_info(tx, id, &now)
                }
                _ => Ok(()),
            }
        });
    if let Err(error) = writing.await {
        tracing::warn!(%error, "floating addresses cannot be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floating_addresses_stand_behind_their_fixed_ones() {
        let address = |ip: &str, kind: &str| Address {
            ip: ip.to_owned(),
            version: 4,
            kind: kind.to_owned(),
        };
        let interface = Interface {
            port_id: "p".to_owned(),
            network_id: "n".to_owned(),
            network_name: "private".to_owned(),
            mac: String::new(),
            mtu: 1500,
            addresses: vec![
                address("10.0.0.1", "fixed"),
                address("172.24.4.1", "floating"),
                address("10.0.0.2", "fixed"),
            ],
            preexisting: false,
            tag: None,
        };
        let floating = [(
            "10.0.0.2".to_owned(),
            "172.24.4.9".to_owned(),
            "p".to_owned(),
        )];
        let merged = merged(&[interface], &floating);
        let shown: Vec<&str> = merged[0]
            .addresses
            .iter()
            .map(|address| address.ip.as_str())
            .collect();
        assert_eq!(shown, ["10.0.0.1", "10.0.0.2", "172.24.4.9"]);
    }
}
