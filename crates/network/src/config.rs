//! Settings of the network service.

use ipnet::IpNet;
use std::net::IpAddr;

/// Settings of the network service; `Config::default()` is a small cloud on one machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host that serves DHCP and routers from the start of the service on ([`crate::Service::settle_gateway`]); `None`: who
    /// does already, at first the host whose agent asked first.
    pub gateway_host: Option<String>,
    /// Largest IP packet in bytes between hosts; tenant networks have 50 bytes less, the room that VXLAN needs.
    pub mtu: u16,
    /// Domain of guests' names.
    pub dns_domain: String,
    /// Name servers of the `private` subnet that [`crate::Service::bootstrap`] makes.
    pub dns_nameservers: Vec<IpAddr>,
    /// Address range of the external network `public`.
    pub public_cidr: IpNet,
    /// Address range of the shared network `private`.
    pub private_cidr: IpNet,
    /// Seconds without a report after which an agent counts as dead (Neutron's `agent_down_time`).
    pub agent_down_seconds: u32,
    /// Most resources in one answer; requests for more get this many.
    pub page_limit: Option<usize>,
    /// Most addresses of one port (Neutron's `max_fixed_ips_per_port`).
    pub max_fixed_ips: usize,
    /// Text of a policy.yaml that overrides default rules.
    pub policy: String,
}

impl Default for Config {
    fn default() -> Self {
        let net = |text: [u8; 4], prefix| IpNet::new_assert(IpAddr::from(text), prefix);
        Self {
            gateway_host: None,
            mtu: 1500,
            dns_domain: "openstacklocal".into(),
            dns_nameservers: Vec::new(),
            public_cidr: net([172, 24, 4, 0], 24),
            private_cidr: net([10, 10, 0, 0], 22),
            agent_down_seconds: 75,
            page_limit: None,
            max_fixed_ips: 5,
            policy: String::new(),
        }
    }
}
