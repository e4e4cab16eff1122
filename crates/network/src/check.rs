//! What attributes may hold. Each check turns the value of a request into the canonical one, or says what is wrong.

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use types::network_wanted::Mac;

/// A kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Anything.
    Any,
    /// Text of at most so many characters; null is the empty text.
    Text(usize),
    /// As `Text`, or null.
    TextOrNull(usize),
    /// A list of texts.
    TextList,
    /// True or false, also as text or 0 and 1.
    Bool,
    /// An integer in a range.
    Int(i64, i64),
    /// An integer of at least 0, or null.
    IntOrNull,
    /// A UUID.
    Uuid,
    /// A UUID or null.
    UuidOrNull,
    /// A list of different UUIDs.
    UuidList,
    /// 4 or 6.
    Version,
    /// An address range, or null.
    CidrOrNull,
    /// Address ranges.
    CidrList,
    /// An address range or a single address, or null.
    PrefixOrNull,
    /// An address, or null.
    AddressOrNull,
    /// Different addresses.
    AddressList,
    /// `[{"start", "end"}]`.
    Pools,
    /// `[{"destination", "nexthop"}]`.
    Routes,
    /// A MAC address.
    Mac,
    /// `[{"subnet_id", "ip_address"}]`.
    FixedIps,
    /// `[{"ip_address", "mac_address"}]`.
    AddressPairs,
    /// `[{"port_id", "segmentation_type", "segmentation_id"}]`.
    SubPorts,
    /// `[{"opt_name", "opt_value", "ip_version"}]`.
    DhcpOptions,
    /// An object.
    Object,
    /// `external_gateway_info`.
    Gateway,
    /// `binding:vnic_type`.
    VnicType,
    /// A host name.
    DnsName,
    /// A domain.
    DnsDomain,
    /// `dhcpv6-stateful`, `dhcpv6-stateless`, `slaac` or null.
    Ipv6Mode,
    /// The name of a security group.
    GroupName,
    /// `ingress` or `egress`.
    Direction,
    /// `IPv4` or `IPv6`.
    Ethertype,
    /// A protocol by name or number, or null.
    Protocol,
    /// 0 to 65535, or null.
    PortNumber,
}

/// IP protocols that have a name in the API (Networking API, "Security group rules").
pub const PROTOCOLS: &[(&str, u8)] = &[
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("hopopt", 0),
    ("icmp", 1),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("igmp", 2),
    ("ip", 0),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("vrrp", 112),
];

const VNIC_TYPES: &[&str] = &[
    "normal",
    "direct",
    "macvtap",
    "baremetal",
    "direct-physical",
    "virtio-forwarder",
    "smart-nic",
    "remote-managed",
    "accelerator-direct",
    "accelerator-direct-physical",
    "vdpa",
];

type Checked = Result<Value, String>;

impl Check {
    /// Checks a value.
    pub fn run(self, value: &Value) -> Checked {
        match self {
            Self::Any => Ok(value.clone()),
            Self::Text(most) if value.is_null() => Self::Text(most).run(&json!("")),
            Self::Text(most) => text(value, most).map(Value::from),
            Self::TextList => each(value, |item| text(item, 255).map(Value::from)),
            Self::Bool => boolean(value),
            Self::Int(least, most) => integer(value, least, most),
            Self::Uuid => uuid(value),
            Self::UuidList => different(each(value, uuid)?),
            Self::Version => version(value),
            Self::CidrList => each(value, cidr),
            Self::AddressList => different(each(value, address)?),
            Self::Pools => each(value, pool),
            Self::Routes => different(each(value, route)?),
            Self::Mac => mac(value),
            Self::FixedIps => fixed_ips(value),
            Self::AddressPairs => different(each(value, address_pair)?),
            Self::SubPorts => sub_ports(value),
            Self::DhcpOptions => dhcp_options(value),
            Self::Object if value.is_null() => Ok(json!({})),
            Self::Object if value.is_object() => Ok(value.clone()),
            Self::Object => Err(format!("'{}' is not a dictionary", plain(value))),
            Self::VnicType => one_of(value, VNIC_TYPES),
            Self::DnsName => dns_name(value),
            Self::DnsDomain => dns_domain(value),
            Self::GroupName => group_name(value),
            Self::Direction => one_of(value, &["ingress", "egress"]),
            Self::Ethertype => ethertype(value),
            _ if value.is_null() => Ok(Value::Null),
            Self::TextOrNull(most) => text(value, most).map(Value::from),
            Self::IntOrNull => integer(value, 0, i64::from(u32::MAX)),
            Self::UuidOrNull => uuid(value),
            Self::CidrOrNull => cidr(value),
            Self::PrefixOrNull => prefix(value),
            Self::AddressOrNull => address(value),
            Self::Gateway => gateway(value),
            Self::Ipv6Mode => one_of(value, &["dhcpv6-stateful", "dhcpv6-stateless", "slaac"]),
            Self::Protocol => protocol(value),
            Self::PortNumber => port_number(value),
        }
    }
}

/// A value as text without JSON's quotes.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(300).collect(),
        Value::Null => "None".to_owned(),
        other => other.to_string().chars().take(300).collect(),
    }
}

fn text(value: &Value, most: usize) -> Result<String, String> {
    let Some(text) = value.as_str() else {
        return Err(format!("'{}' is not a valid string", plain(value)));
    };
    if text.chars().count() > most {
        return Err(format!(
            "'{}' exceeds maximum length of {most}",
            plain(value)
        ));
    }
    Ok(text.to_owned())
}

fn each(value: &Value, check: fn(&Value) -> Checked) -> Checked {
    if value.is_null() {
        return Ok(json!([]));
    }
    let Some(items) = value.as_array() else {
        return Err(format!("'{}' is not a list", plain(value)));
    };
    if items.len() > 1000 {
        return Err(format!(
            "The list has {} items, at most 1000 are allowed",
            items.len()
        ));
    }
    items
        .iter()
        .map(check)
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

fn different(value: Value) -> Checked {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, item) in items.iter().enumerate() {
        if items[..at].contains(item) {
            return Err(format!("Duplicate items in the list: '{}'", plain(item)));
        }
    }
    Ok(value)
}

fn boolean(value: &Value) -> Checked {
    let truth = match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    };
    truth
        .map(Value::Bool)
        .ok_or_else(|| format!("'{}' cannot be converted to boolean", plain(value)))
}

fn integer(value: &Value, least: i64, most: i64) -> Checked {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.ok_or_else(|| format!("'{}' is not an integer", plain(value)))?;
    if number < least {
        return Err(format!(
            "'{number}' is too small - must be at least '{least}'"
        ));
    }
    if number > most {
        return Err(format!(
            "'{number}' is too large - must be no larger than '{most}'"
        ));
    }
    Ok(number.into())
}

fn uuid(value: &Value) -> Checked {
    let parsed = value
        .as_str()
        .and_then(|text| uuid::Uuid::try_parse(text).ok());
    parsed
        .map(|id| Value::from(id.to_string()))
        .ok_or_else(|| format!("'{}' is not a valid UUID", plain(value)))
}

fn version(value: &Value) -> Checked {
    match integer(value, 0, 100).ok().as_ref().and_then(Value::as_i64) {
        Some(version @ (4 | 6)) => Ok(version.into()),
        _ => Err(format!("'{}' is not in [4, 6]", plain(value))),
    }
}

fn parse_cidr(value: &Value) -> Result<IpNet, String> {
    let wrong = || format!("'{}' is not a valid IP subnet", plain(value));
    let text = value.as_str().ok_or_else(wrong)?;
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| wrong())
}

fn cidr(value: &Value) -> Checked {
    let net = parse_cidr(value)?;
    if !value.as_str().unwrap_or_default().contains('/') {
        return Err(format!(
            "'{}' isn't a recognized IP subnet cidr, '{net}' is recommended",
            plain(value)
        ));
    }
    Ok(net.trunc().to_string().into())
}

fn prefix(value: &Value) -> Checked {
    if value.as_str() == Some("") {
        return Ok(Value::Null);
    }
    parse_cidr(value).map(|net| {
        if net.prefix_len() == net.max_prefix_len() && !plain(value).contains('/') {
            net.to_string()
        } else {
            plain(value)
        }
        .into()
    })
}

fn parse_address(value: &Value) -> Result<IpAddr, String> {
    let parsed = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    parsed.ok_or_else(|| format!("'{}' is not a valid IP address", plain(value)))
}

fn address(value: &Value) -> Checked {
    parse_address(value).map(|ip| ip.to_string().into())
}

/// An object with only these members.
fn members<'a>(value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let object = value
        .as_object()
        .ok_or_else(|| format!("'{}' is not a dictionary", plain(value)))?;
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("Unexpected keys supplied: {name}")),
        None => Ok(object),
    }
}

fn member(object: &Map<String, Value>, name: &str) -> Value {
    object.get(name).cloned().unwrap_or(Value::Null)
}

fn pool(value: &Value) -> Checked {
    let object = members(value, &["start", "end"])?;
    let (start, end) = (
        parse_address(&member(object, "start"))?,
        parse_address(&member(object, "end"))?,
    );
    Ok(json!({"start": start.to_string(), "end": end.to_string()}))
}

fn route(value: &Value) -> Checked {
    let object = members(value, &["destination", "nexthop"])?;
    let (destination, nexthop) = (
        parse_cidr(&member(object, "destination"))?,
        parse_address(&member(object, "nexthop"))?,
    );
    Ok(json!({"destination": destination.to_string(), "nexthop": nexthop.to_string()}))
}

fn mac(value: &Value) -> Checked {
    let parsed = value.as_str().and_then(|text| text.parse::<Mac>().ok());
    let mac = parsed.filter(|mac| mac.0 != [0; 6]);
    mac.map(|mac| mac.to_string().into())
        .ok_or_else(|| format!("'{}' is not a valid MAC address", plain(value)))
}

fn fixed_ips(value: &Value) -> Checked {
    let all = each(value, |item| {
        let object = members(item, &["subnet_id", "ip_address"])?;
        let mut out = Map::new();
        if let Some(subnet) = object.get("subnet_id").filter(|value| !value.is_null()) {
            out.insert("subnet_id".into(), uuid(subnet)?);
        }
        if let Some(ip) = object.get("ip_address").filter(|value| !value.is_null()) {
            out.insert("ip_address".into(), address(ip)?);
        }
        Ok(Value::Object(out))
    })?;
    let mut addresses: Vec<&Value> = all
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.get("ip_address"))
        .collect();
    let count = addresses.len();
    addresses.sort_by_key(|ip| ip.as_str());
    addresses.dedup();
    if addresses.len() < count {
        return Err(format!(
            "Duplicate IP address '{}'",
            addresses.first().map(|ip| plain(ip)).unwrap_or_default()
        ));
    }
    Ok(all)
}

fn address_pair(value: &Value) -> Checked {
    let object = members(value, &["ip_address", "mac_address"])?;
    let ip = object
        .get("ip_address")
        .filter(|value| !value.is_null())
        .ok_or("AllowedAddressPair must contain ip_address")?;
    parse_cidr(ip)?;
    let mut out = Map::new();
    out.insert("ip_address".into(), ip.clone());
    if let Some(given) = object.get("mac_address").filter(|value| !value.is_null()) {
        out.insert("mac_address".into(), mac(given)?);
    }
    Ok(Value::Object(out))
}

/// The ports of a trunk. The only segmentation is by VLAN: networks here have none that could be inherited.
fn sub_ports(value: &Value) -> Checked {
    each(value, |item| {
        let object = members(item, &["port_id", "segmentation_type", "segmentation_id"])?;
        let given = |name: &str| {
            let value = object.get(name).filter(|value| !value.is_null());
            value.ok_or_else(|| format!("a sub-port must have {name}"))
        };
        Ok(json!({
            "port_id": uuid(given("port_id")?)?,
            "segmentation_type": one_of(given("segmentation_type")?, &["vlan"])?,
            "segmentation_id": integer(given("segmentation_id")?, 1, 4094)?,
        }))
    })
}

fn dhcp_options(value: &Value) -> Checked {
    each(value, |item| {
        let object = members(item, &["opt_name", "opt_value", "ip_version"])?;
        let name = text(&member(object, "opt_name"), 64)?;
        if name.is_empty()
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_:".contains(&b))
        {
            return Err(format!("'{name}' is not a DHCP option"));
        }
        let option = match member(object, "opt_value") {
            Value::Null => Value::Null,
            given => text(&given, 255)?.into(),
        };
        if plain(&option).chars().any(char::is_control) {
            return Err("opt_value must not contain control characters".into());
        }
        let family = object.get("ip_version").map_or(Ok(json!(4)), version)?;
        Ok(json!({"opt_name": name, "opt_value": option, "ip_version": family}))
    })
}

fn gateway(value: &Value) -> Checked {
    if value.as_object().is_some_and(Map::is_empty) {
        return Ok(Value::Null);
    }
    let object = members(
        value,
        &[
            "network_id",
            "enable_snat",
            "external_fixed_ips",
            "qos_policy_id",
        ],
    )?;
    if object
        .get("qos_policy_id")
        .is_some_and(|value| !value.is_null())
    {
        return Err("qos_policy_id is not supported".into());
    }
    let mut out = Map::new();
    out.insert("network_id".into(), uuid(&member(object, "network_id"))?);
    if let Some(snat) = object.get("enable_snat").filter(|value| !value.is_null()) {
        out.insert("enable_snat".into(), boolean(snat)?);
    }
    if let Some(ips) = object.get("external_fixed_ips") {
        out.insert("external_fixed_ips".into(), fixed_ips(ips)?);
    }
    Ok(Value::Object(out))
}

fn one_of(value: &Value, allowed: &[&str]) -> Checked {
    match value.as_str().filter(|text| allowed.contains(text)) {
        Some(text) => Ok(text.into()),
        None => Err(format!("'{}' is not in {allowed:?}", plain(value)).replace('"', "'")),
    }
}

fn ethertype(value: &Value) -> Checked {
    match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("ipv4") => Ok("IPv4".into()),
        Some("ipv6") => Ok("IPv6".into()),
        _ => Err(format!("'{}' is not in ['IPv4', 'IPv6']", plain(value))),
    }
}

fn label(text: &str) -> bool {
    let inside = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (1..=63).contains(&text.len()) && inside && !text.starts_with('-') && !text.ends_with('-')
}

fn dns_name(value: &Value) -> Checked {
    let name = if value.is_null() {
        String::new()
    } else {
        text(value, 255)?
    }
    .to_ascii_lowercase();
    let trimmed = name.trim_end_matches('.');
    if !name.is_empty() && !trimmed.split('.').all(label) {
        return Err(format!(
            "'{name}' not a valid PQDN or FQDN. Reason: Name contains an empty or malformed label."
        ));
    }
    Ok(name.into())
}

fn dns_domain(value: &Value) -> Checked {
    let name = dns_name(value)?;
    match name.as_str() {
        Some(domain) if !domain.is_empty() && !domain.ends_with('.') => {
            Err(format!("'{domain}' is not a FQDN"))
        }
        _ => Ok(name),
    }
}

fn group_name(value: &Value) -> Checked {
    text(value, 255).map(Value::from)
}

/// A protocol's number, by name or number.
pub fn protocol_number(text: &str) -> Option<u8> {
    PROTOCOLS
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok())
}

fn protocol(value: &Value) -> Checked {
    let text = plain(value).to_ascii_lowercase();
    if text.is_empty() || text == "any" {
        return Ok(Value::Null);
    }
    match protocol_number(&text) {
        Some(_) => Ok(text.into()),
        None => Err(format!(
            "Security group rule protocol {text} not supported. Only protocol values [None, 'tcp', 'udp', 'icmp', ...] and integer representations [0 to 255] are supported."
        )),
    }
}

fn port_number(value: &Value) -> Checked {
    if value.as_str() == Some("") {
        return Ok(Value::Null);
    }
    match integer(value, i64::MIN, i64::MAX)?.as_i64() {
        Some(number) if (0..=65535).contains(&number) => Ok(number.into()),
        _ => Err(format!(
            "Invalid value for port {}: it must be from 0 to 65535",
            plain(value)
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values() {
        let id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
        let cases = [
            (Check::Bool, json!("True"), Some(json!(true))),
            (Check::Bool, json!(2), None),
            (Check::Text(3), json!("abcd"), None),
            (Check::Text(3), json!(null), Some(json!(""))),
            (Check::Int(68, 9000), json!("1500"), Some(json!(1500))),
            (Check::Int(68, 9000), json!(67), None),
            (
                Check::CidrOrNull,
                json!("10.0.0.5/24"),
                Some(json!("10.0.0.0/24")),
            ),
            (Check::CidrOrNull, json!("10.0.0.5"), None),
            (
                Check::PrefixOrNull,
                json!("10.0.0.5"),
                Some(json!("10.0.0.5/32")),
            ),
            (
                Check::Mac,
                json!("FA:16:3E:00:00:01"),
                Some(json!("fa:16:3e:00:00:01")),
            ),
            (Check::Mac, json!("00:00:00:00:00:00"), None),
            (Check::UuidList, json!([id, id]), None),
            (
                Check::FixedIps,
                json!([{"ip_address": "10.0.0.1"}, {"ip_address": "10.0.0.1"}]),
                None,
            ),
            (Check::FixedIps, json!([{"ip": "10.0.0.1"}]), None),
            (Check::Protocol, json!(6), Some(json!("6"))),
            (Check::Protocol, json!("any"), Some(json!(null))),
            (Check::Protocol, json!("sctpx"), None),
            (Check::PortNumber, json!(65536), None),
            (Check::DnsName, json!("My-Host"), Some(json!("my-host"))),
            (Check::DnsName, json!("-x"), None),
            (Check::DnsDomain, json!("example.org"), None),
            (
                Check::DhcpOptions,
                json!([{"opt_name": "a\nb", "opt_value": "x"}]),
                None,
            ),
            (
                Check::SubPorts,
                json!([{"port_id": id, "segmentation_type": "vlan", "segmentation_id": "42"}]),
                Some(json!([{"port_id": id, "segmentation_type": "vlan", "segmentation_id": 42}])),
            ),
            (
                Check::SubPorts,
                json!([{"port_id": id, "segmentation_type": "vlan", "segmentation_id": 4095}]),
                None,
            ),
            (
                Check::SubPorts,
                json!([{"port_id": id, "segmentation_type": "inherit"}]),
                None,
            ),
            (Check::Gateway, json!({}), Some(json!(null))),
            (Check::Ethertype, json!("ipv6"), Some(json!("IPv6"))),
        ];
        for (check, value, wanted) in cases {
            assert_eq!(check.run(&value).ok(), wanted, "{check:?} {value}");
        }
    }
}
