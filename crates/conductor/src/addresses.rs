//! Keeps the ports and addresses that servers show as the network service has them.
//!
//! Lists of servers show addresses without asking the network service; what is kept with the servers follows its
//! changes here (Nova's `_heal_instance_info_cache`, and its events `network-changed` and `network-vif-deleted`).

use crate::drift;
use crate::neighbours::{Neighbours, retry};
use bus::Bus;
use clients::{BoundPort, ClientError};
use db::instances::{self, Address, Interface, Shown};
use journal::StepError;
use types::ServerId;

/// Servers whose addresses are written at once: whoever works on one of them waits meanwhile.
const AT_ONCE: usize = 100;

/// `(fixed address, floating address, port)`.
type Floating = (String, String, String);

/// Why the addresses could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network or identity service.
    #[error(transparent)]
    Neighbour(#[from] ClientError),
    /// The database.
    #[error(transparent)]
    Database(#[from] sql::Error),
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        match error {
            Error::Neighbour(error) => retry(error),
            Error::Database(error) => error.into(),
        }
    }
}

/// What was seen last, so that nothing is read when nothing changed.
#[derive(Default)]
pub struct Addresses {
    seen: Option<(Vec<Floating>, Vec<BoundPort>)>,
}

impl Addresses {
    /// Asks for all floating addresses and ports and, when they changed, has the servers follow. Returns how many
    /// differences that mended.
    ///
    /// # Errors
    /// A neighbour or the database does not answer; call again later.
    pub async fn renew(&mut self, with: &Neighbours, bus: &Bus) -> Result<usize, Error> {
        let token = with.tokens.token().await?;
        let mut floating = with.networks.all_floating_ips(&token).await?;
        floating.sort();
        let mut ports = with.networks.ports_of_servers(&token).await?;
        ports.sort_by(|one, other| one.id.cmp(&other.id));
        let now = (floating, ports);
        if self.seen.as_ref() == Some(&now) {
            return Ok(0);
        }
        self.seen = None;
        let shown: Vec<Shown> = with.store.read(instances::with_interfaces).await?;
        let mut changed = follow_floating(with, &shown, &now.0).await?;
        let mut different = drift::compare(&shown, &now.1);
        if !different.is_empty() {
            // A server may have got a port after they were listed.
            let ports = with.networks.ports_of_servers(&token).await?;
            different = drift::compare(&shown, &ports);
        }
        let mended = drift::mend(with, bus, &different).await?;
        changed += mended;
        if mended == different.len() {
            self.seen = Some(now);
        }
        Ok(changed)
    }

    /// Whether there is something left to do, although nothing changes: somebody works on a server, or its host is away.
    pub fn waits(&self) -> bool {
        self.seen.is_none()
    }
}

/// Writes the floating addresses to the servers that show others; returns how many did.
async fn follow_floating(
    with: &Neighbours,
    shown: &[Shown],
    floating: &[Floating],
) -> Result<usize, Error> {
    let due = |one: &&Shown| lead(&mut one.interfaces.clone(), floating);
    let due: Vec<ServerId> = shown.iter().filter(due).map(|one| one.id).collect();
    let mut changed = 0;
    for some in due.chunks(AT_ONCE) {
        let (some, wanted) = (some.to_vec(), floating.to_vec());
        let following = with.store.write(move |tx| -> Result<usize, sql::Error> {
            let mut changed = 0;
            for mut server in instances::interfaces_of(tx, &some)? {
                if lead(&mut server.interfaces, &wanted) {
                    instances::set_network_info(tx, server.id, &server.interfaces)?;
                    changed += 1;
                }
            }
            Ok(changed)
        });
        changed += following.await?;
    }
    Ok(changed)
}

/// Gives the interfaces the floating addresses that lead to them, each behind its fixed one. `true`: something changed.
fn lead(interfaces: &mut [Interface], floating: &[Floating]) -> bool {
    let mut changed = false;
    for interface in interfaces {
        let fixed = interface
            .addresses
            .iter()
            .filter(|address| address.kind == "fixed");
        let mut addresses = Vec::new();
        for address in fixed {
            addresses.push(address.clone());
            let leads = |(to, _, port): &&Floating| *port == interface.port_id && *to == address.ip;
            addresses.extend(floating.iter().filter(leads).map(|(_, ip, _)| Address {
                ip: ip.clone(),
                version: 4,
                kind: "floating".to_owned(),
            }));
        }
        if addresses != interface.addresses {
            interface.addresses = addresses;
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str, kind: &str) -> Address {
        Address {
            ip: ip.to_owned(),
            version: 4,
            kind: kind.to_owned(),
        }
    }

    #[test]
    fn floating_addresses_come_and_go() {
        let interface = Interface {
            port_id: "p1".to_owned(),
            network_id: "n".to_owned(),
            network_name: "net".to_owned(),
            mac: "fa:16:3e:00:00:01".to_owned(),
            mtu: 1500,
            addresses: vec![address("10.0.0.5", "fixed")],
            preexisting: false,
            tag: None,
        };
        let mut interfaces = [interface];
        let led = [(
            "10.0.0.5".to_owned(),
            "172.24.4.9".to_owned(),
            "p1".to_owned(),
        )];
        assert!(lead(&mut interfaces, &led));
        assert_eq!(
            interfaces[0].addresses,
            [
                address("10.0.0.5", "fixed"),
                address("172.24.4.9", "floating")
            ]
        );
        assert!(!lead(&mut interfaces, &led));
        assert!(lead(&mut interfaces, &[]));
        assert_eq!(interfaces[0].addresses, [address("10.0.0.5", "fixed")]);
    }
}
