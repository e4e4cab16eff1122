//! The resources of the API and their attributes (Networking API v2.0 reference), as tables.

use crate::check::Check;

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Networks.
    Network,
    /// Subnets.
    Subnet,
    /// Subnet pools.
    SubnetPool,
    /// Address scopes.
    AddressScope,
    /// Ports.
    Port,
    /// Routers.
    Router,
    /// Floating IPs.
    FloatingIp,
    /// Security groups.
    Group,
    /// Security group rules.
    Rule,
    /// Trunks.
    Trunk,
}

/// When an attribute may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Never: the service makes it.
    Read,
    /// Only on creation.
    Create,
    /// Always.
    Write,
}

/// What an attribute is when a creation does not name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// It must be named.
    Required,
    /// Worked out by the resource's own code.
    Absent,
    /// This JSON.
    Json(&'static str),
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// When it may be given.
    pub access: Access,
    /// What it may be.
    pub check: Check,
    /// What it is otherwise.
    pub initial: Initial,
}

const fn attr(name: &'static str, access: Access, check: Check, initial: Initial) -> Attribute {
    Attribute {
        name,
        access,
        check,
        initial,
    }
}

use Access::{Create, Read, Write};
use Initial::{Absent, Json, Required};

const NULL: Initial = Json("null");
const EMPTY: Initial = Json("\"\"");
const NONE: Initial = Json("[]");
const FALSE: Initial = Json("false");
const TRUE: Initial = Json("true");
const NAME: Attribute = attr("name", Write, Check::Text(255), EMPTY);

/// Attributes of every resource (`standard-attr-*` extensions).
const STANDARD: &[Attribute] = &[
    attr("id", Read, Check::Any, Absent),
    attr("project_id", Create, Check::Text(255), Absent),
    attr("tenant_id", Create, Check::Text(255), Absent),
    attr("description", Write, Check::Text(255), EMPTY),
    attr("created_at", Read, Check::Any, Absent),
    attr("updated_at", Read, Check::Any, Absent),
    attr("revision_number", Read, Check::Any, Absent),
    attr("tags", Read, Check::Any, Absent),
];

const NETWORK: &[Attribute] = &[
    NAME,
    attr("admin_state_up", Write, Check::Bool, TRUE),
    attr("shared", Write, Check::Bool, FALSE),
    attr("router:external", Write, Check::Bool, FALSE),
    attr("is_default", Write, Check::Bool, FALSE),
    attr("port_security_enabled", Write, Check::Bool, TRUE),
    attr("mtu", Write, Check::Int(68, 65535), Absent),
    attr("dns_domain", Write, Check::DnsDomain, EMPTY),
    attr("availability_zone_hints", Create, Check::TextList, NONE),
    attr(
        "provider:network_type",
        Create,
        Check::TextOrNull(32),
        Absent,
    ),
    attr(
        "provider:physical_network",
        Create,
        Check::TextOrNull(64),
        Absent,
    ),
    attr("provider:segmentation_id", Create, Check::IntOrNull, Absent),
    attr("status", Read, Check::Any, Absent),
    attr("subnets", Read, Check::Any, Absent),
    attr("availability_zones", Read, Check::Any, Absent),
    attr("ipv4_address_scope", Read, Check::Any, Absent),
    attr("ipv6_address_scope", Read, Check::Any, Absent),
];

const SUBNET: &[Attribute] = &[
    NAME,
    attr("network_id", Create, Check::Uuid, Required),
    attr("ip_version", Create, Check::Version, Absent),
    attr("cidr", Create, Check::CidrOrNull, Absent),
    attr("prefixlen", Create, Check::IntOrNull, Absent),
    attr("subnetpool_id", Create, Check::TextOrNull(64), Absent),
    attr("use_default_subnetpool", Create, Check::Bool, FALSE),
    attr("gateway_ip", Write, Check::AddressOrNull, Absent),
    attr("allocation_pools", Write, Check::Pools, Absent),
    attr("dns_nameservers", Write, Check::AddressList, NONE),
    attr("host_routes", Write, Check::Routes, NONE),
    attr("enable_dhcp", Write, Check::Bool, TRUE),
    attr("ipv6_ra_mode", Create, Check::Ipv6Mode, NULL),
    attr("ipv6_address_mode", Create, Check::Ipv6Mode, NULL),
];

const SUBNETPOOL: &[Attribute] = &[
    NAME,
    attr("prefixes", Write, Check::CidrList, Required),
    attr("min_prefixlen", Write, Check::Int(0, 128), Absent),
    attr("max_prefixlen", Write, Check::Int(0, 128), Absent),
    attr("default_prefixlen", Write, Check::Int(0, 128), Absent),
    attr("default_quota", Write, Check::IntOrNull, NULL),
    attr("address_scope_id", Write, Check::UuidOrNull, NULL),
    attr("shared", Create, Check::Bool, FALSE),
    attr("is_default", Write, Check::Bool, FALSE),
    attr("ip_version", Read, Check::Any, Absent),
];

const ADDRESS_SCOPE: &[Attribute] = &[
    NAME,
    attr("ip_version", Create, Check::Version, Required),
    attr("shared", Write, Check::Bool, FALSE),
];

const PORT: &[Attribute] = &[
    NAME,
    attr("network_id", Create, Check::Uuid, Required),
    attr("admin_state_up", Write, Check::Bool, TRUE),
    attr("mac_address", Write, Check::Mac, Absent),
    attr("fixed_ips", Write, Check::FixedIps, Absent),
    attr("device_id", Write, Check::Text(255), EMPTY),
    attr("device_owner", Write, Check::Text(255), EMPTY),
    attr("security_groups", Write, Check::UuidList, Absent),
    attr("allowed_address_pairs", Write, Check::AddressPairs, NONE),
    attr("port_security_enabled", Write, Check::Bool, Absent),
    attr("extra_dhcp_opts", Write, Check::DhcpOptions, NONE),
    attr("binding:host_id", Write, Check::TextOrNull(255), EMPTY),
    attr(
        "binding:vnic_type",
        Write,
        Check::VnicType,
        Json("\"normal\""),
    ),
    attr("binding:profile", Write, Check::Object, Json("{}")),
    attr("binding:vif_type", Read, Check::Any, Absent),
    attr("binding:vif_details", Read, Check::Any, Absent),
    attr("dns_name", Write, Check::DnsName, EMPTY),
    attr("dns_assignment", Read, Check::Any, Absent),
    attr("status", Read, Check::Any, Absent),
];

const ROUTER: &[Attribute] = &[
    NAME,
    attr("admin_state_up", Write, Check::Bool, TRUE),
    attr("external_gateway_info", Write, Check::Gateway, NULL),
    attr("routes", Write, Check::Routes, NONE),
    attr("distributed", Write, Check::Bool, FALSE),
    attr("ha", Write, Check::Bool, FALSE),
    attr("availability_zone_hints", Create, Check::TextList, NONE),
    attr("status", Read, Check::Any, Absent),
    attr("availability_zones", Read, Check::Any, Absent),
];

const FLOATINGIP: &[Attribute] = &[
    attr("floating_network_id", Create, Check::Uuid, Required),
    attr("floating_ip_address", Create, Check::AddressOrNull, Absent),
    attr("subnet_id", Create, Check::UuidOrNull, Absent),
    attr("port_id", Write, Check::UuidOrNull, NULL),
    attr("fixed_ip_address", Write, Check::AddressOrNull, NULL),
    attr("status", Read, Check::Any, Absent),
    attr("router_id", Read, Check::Any, Absent),
    attr("port_details", Read, Check::Any, Absent),
];

const GROUP: &[Attribute] = &[
    attr("name", Write, Check::GroupName, EMPTY),
    attr("stateful", Write, Check::Bool, TRUE),
    attr("shared", Read, Check::Any, Absent),
    attr("security_group_rules", Read, Check::Any, Absent),
];

const RULE: &[Attribute] = &[
    attr("security_group_id", Create, Check::Uuid, Required),
    attr("direction", Create, Check::Direction, Required),
    attr("ethertype", Create, Check::Ethertype, Json("\"IPv4\"")),
    attr("protocol", Create, Check::Protocol, NULL),
    attr("port_range_min", Create, Check::PortNumber, NULL),
    attr("port_range_max", Create, Check::PortNumber, NULL),
    attr("remote_ip_prefix", Create, Check::PrefixOrNull, NULL),
    attr("remote_group_id", Create, Check::TextOrNull(255), NULL),
    attr("normalized_cidr", Read, Check::Any, Absent),
    attr("belongs_to_default_sg", Read, Check::Any, Absent),
];

const TRUNK: &[Attribute] = &[
    NAME,
    attr("port_id", Create, Check::Uuid, Required),
    attr("admin_state_up", Write, Check::Bool, TRUE),
    attr("sub_ports", Create, Check::SubPorts, NONE),
    attr("status", Read, Check::Any, Absent),
];

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Network,
        Self::Subnet,
        Self::SubnetPool,
        Self::AddressScope,
        Self::Port,
        Self::Router,
        Self::FloatingIp,
        Self::Group,
        Self::Rule,
        Self::Trunk,
    ];

    /// The name of one in bodies and policies, `security_group`.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Subnet => "subnet",
            Self::SubnetPool => "subnetpool",
            Self::AddressScope => "address_scope",
            Self::Port => "port",
            Self::Router => "router",
            Self::FloatingIp => "floatingip",
            Self::Group => "security_group",
            Self::Rule => "security_group_rule",
            Self::Trunk => "trunk",
        }
    }

    /// The name of many in bodies.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Network => "networks",
            Self::Subnet => "subnets",
            Self::SubnetPool => "subnetpools",
            Self::AddressScope => "address_scopes",
            Self::Port => "ports",
            Self::Router => "routers",
            Self::FloatingIp => "floatingips",
            Self::Group => "security_groups",
            Self::Rule => "security_group_rules",
            Self::Trunk => "trunks",
        }
    }

    /// The name in paths, `security-groups`.
    pub fn path(self) -> &'static str {
        match self {
            Self::AddressScope => "address-scopes",
            Self::Group => "security-groups",
            Self::Rule => "security-group-rules",
            other => other.plural(),
        }
    }

    /// The kind with this path.
    pub fn by_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }

    /// Neutron's exception and wording for an id that is not there.
    pub fn not_found(self) -> (&'static str, &'static str) {
        match self {
            Self::Network => ("NetworkNotFound", "Network {} could not be found."),
            Self::Subnet => ("SubnetNotFound", "Subnet {} could not be found."),
            Self::SubnetPool => ("SubnetPoolNotFound", "Subnet pool {} could not be found."),
            Self::AddressScope => (
                "AddressScopeNotFound",
                "Address scope {} could not be found.",
            ),
            Self::Port => ("PortNotFound", "Port {} could not be found."),
            Self::Router => ("RouterNotFound", "Router {} could not be found"),
            Self::FloatingIp => ("FloatingIPNotFound", "Floating IP {} could not be found"),
            Self::Group => ("SecurityGroupNotFound", "Security group {} does not exist"),
            Self::Rule => (
                "SecurityGroupRuleNotFound",
                "Security group rule {} does not exist",
            ),
            Self::Trunk => ("TrunkNotFound", "Trunk {} could not be found."),
        }
    }

    /// The kind's own attributes.
    pub fn own_attributes(self) -> &'static [Attribute] {
        match self {
            Self::Network => NETWORK,
            Self::Subnet => SUBNET,
            Self::SubnetPool => SUBNETPOOL,
            Self::AddressScope => ADDRESS_SCOPE,
            Self::Port => PORT,
            Self::Router => ROUTER,
            Self::FloatingIp => FLOATINGIP,
            Self::Group => GROUP,
            Self::Rule => RULE,
            Self::Trunk => TRUNK,
        }
    }

    /// All attributes, the standard ones included.
    pub fn attributes(self) -> impl Iterator<Item = &'static Attribute> {
        STANDARD.iter().chain(self.own_attributes())
    }

    /// One attribute.
    pub fn attribute(self, name: &str) -> Option<&'static Attribute> {
        self.attributes().find(|attribute| attribute.name == name)
    }

    /// The quota it counts against, if any.
    pub fn quota(self) -> Option<&'static str> {
        match self {
            Self::AddressScope => None,
            other => Some(other.singular()),
        }
    }
}
