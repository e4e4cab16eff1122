//! How values of the configuration file are read and shown.

use super::OnSameHost;
use crate::arguments::Hypervisor;
use crate::place::Place;
use bus::Brokers;
use scheduler::Filter;
use virt::libvirt::CpuMode;

pub(super) fn set<T>(target: &mut T, value: Result<T, String>) -> Result<(), String> {
    *target = value?;
    Ok(())
}

pub(super) fn driver(value: &str) -> Result<Hypervisor, String> {
    match value {
        "libvirt.LibvirtDriver" => Ok(Hypervisor::Libvirt),
        "fake.FakeDriver" => Ok(Hypervisor::Sim),
        other => Err(format!(
            "{other:?} is not a driver; there are libvirt.LibvirtDriver and fake.FakeDriver"
        )),
    }
}

pub(super) fn shown_driver(hypervisor: Hypervisor) -> &'static str {
    match hypervisor {
        Hypervisor::Libvirt => "libvirt.LibvirtDriver",
        Hypervisor::Sim => "fake.FakeDriver",
    }
}

pub(super) fn on_same_host(value: &str) -> Result<OnSameHost, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(OnSameHost::True),
        "false" => Ok(OnSameHost::False),
        "auto" => Ok(OnSameHost::Auto),
        _ => Err(format!("{value:?} is none of true, false and auto")),
    }
}

pub(super) fn shown_on_same_host(allowed: OnSameHost) -> &'static str {
    match allowed {
        OnSameHost::True => "true",
        OnSameHost::False => "false",
        OnSameHost::Auto => "auto",
    }
}

pub(super) fn port(value: &str) -> Result<u16, String> {
    let parsed = value.parse().ok().filter(|port| *port != 0);
    parsed.ok_or_else(|| format!("{value:?} is not a port; a port is a number from 1 to 65535"))
}

pub(super) fn number<T>(value: &str, least: T, most: T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let parsed = value.parse().ok();
    parsed
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("{value:?} is not a number from {least} to {most}"))
}

pub(super) fn ratio(value: &str) -> Result<f64, String> {
    let parsed = value.parse().ok();
    parsed
        .filter(|ratio: &f64| ratio.is_finite() && *ratio > 0.0)
        .ok_or_else(|| format!("{value:?} is not a ratio; a ratio is a number above 0, as 1.5"))
}

pub(super) fn weight(value: &str) -> Result<f64, String> {
    let parsed = value.parse().ok();
    parsed
        .filter(|weight: &f64| weight.is_finite())
        .ok_or_else(|| format!("{value:?} is not a weight; a weight is a number, as 1.5 or -1"))
}

/// Filters by Nova's names. Some of Nova's always decide here: they may be named.
pub(super) fn filters(value: &str) -> Result<Vec<Filter>, String> {
    const ALWAYS: &[&str] = &["NUMATopologyFilter", "PciPassthroughFilter"];
    let names = value.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty() && !ALWAYS.contains(name));
    names
        .map(|name| {
            Filter::parse(name).ok_or_else(|| {
                format!(
                    "{name:?} is not a filter; see `kilonova config show` for those that there are"
                )
            })
        })
        .collect()
}

pub(super) fn shown_filters(filters: &[Filter]) -> String {
    let names: Vec<&str> = filters.iter().map(|filter| filter.name()).collect();
    names.join(",")
}

/// What stands between commas.
pub(super) fn list(value: &str) -> Vec<String> {
    let items = value.split(',').map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// One of Nova's modes; empty is none.
pub(super) fn cpu_mode(value: &str) -> Result<Option<CpuMode>, String> {
    match value {
        "" => Ok(None),
        mode => CpuMode::read(mode).map(Some),
    }
}

pub(super) fn shown_cpu_mode(mode: Option<CpuMode>) -> &'static str {
    mode.map_or("", CpuMode::as_str)
}

/// Features by libvirt's names, each with a sign or without.
pub(super) fn cpu_flags(value: &str) -> Result<Vec<String>, String> {
    let flags = list(value);
    let is_name = |flag: &String| {
        let name = flag.strip_prefix(['+', '-']).unwrap_or(flag);
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !name.is_empty() && !name.starts_with('-') && name.chars().all(known)
    };
    match flags.iter().find(|flag| !is_name(flag)) {
        Some(wrong) => Err(format!(
            "{wrong:?} is not a feature of a processor, as +pcid, pcid or -mtrr"
        )),
        None => Ok(flags),
    }
}

pub(super) fn text(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Err("it must not be empty".to_owned());
    }
    Ok(value.to_owned())
}

pub(super) fn image_or_none(value: &str) -> Result<String, String> {
    if value.is_empty() || value.parse::<types::ImageId>().is_ok() {
        return Ok(value.to_owned());
    }
    Err(format!("{value:?} is not the id of an image"))
}

pub(super) fn address(value: &str) -> Result<String, String> {
    match value.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(format!(
            "{value:?} is not an IP address, as 127.0.0.1 or 0.0.0.0"
        )),
    }
}

pub(super) fn own_address(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Ok(String::new());
    }
    address(value)
}

pub(super) fn socket(value: &str) -> Result<String, String> {
    match value.parse::<std::net::SocketAddr>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) if value.is_empty() => Ok(String::new()),
        Err(_) => Err(format!(
            "{value:?} is not an address with a port, as 127.0.0.1:9180"
        )),
    }
}

/// A URL without a path's end; empty is none.
pub(super) fn endpoint(value: &str) -> Result<String, String> {
    let url = value.trim_end_matches('/');
    let proper = ["http://", "https://"]
        .iter()
        .any(|scheme| url.strip_prefix(scheme).is_some_and(|at| !at.is_empty()));
    match url.is_empty() || proper {
        true => Ok(url.to_owned()),
        false => Err(format!("{value:?} is not a URL, as http://controller:9292")),
    }
}

pub(super) fn places(value: &str) -> Result<String, String> {
    for place in value.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        Place::parse(place)?;
    }
    Ok(value.to_owned())
}

pub(super) fn hidden(secret: &str) -> String {
    match secret {
        "" => String::new(),
        _ => "***".to_owned(),
    }
}

pub(super) fn range(value: &str) -> Result<String, String> {
    match value.parse::<ipnet::IpNet>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(format!("{value:?} is not a range, as 10.10.0.0/22")),
    }
}

/// SQLAlchemy's way of writing (`mysql+pymysql://`) is understood, because nova.conf has it.
pub(super) fn database(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Ok(String::new());
    }
    let Some((scheme, rest)) = value.split_once("://") else {
        return Err("it is not a URL, as postgresql://user:password@host/nova".to_owned());
    };
    let kind = match scheme.split('+').next().unwrap_or_default() {
        "sqlite" => "sqlite",
        "postgres" | "postgresql" => "postgres",
        "mysql" | "mariadb" => "mysql",
        other => {
            return Err(format!(
                "{other} is not a database; there are sqlite, postgresql and mysql"
            ));
        }
    };
    Ok(format!("{kind}://{rest}"))
}

pub(super) fn transport(value: &str) -> Result<String, String> {
    if !value.is_empty() {
        Brokers::parse(value).map_err(|error| error.to_string())?;
    }
    Ok(value.to_owned())
}

/// As [`without_password`], for each of several brokers.
pub(super) fn without_passwords(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (hosts, vhost) = match rest.split_once('/') {
        Some((hosts, vhost)) => (hosts, format!("/{vhost}")),
        None => (rest, String::new()),
    };
    let hosts = hosts.split(',').map(|host| {
        let shown = without_password(&format!("x://{host}"));
        shown.trim_start_matches("x://").to_owned()
    });
    format!("{scheme}://{}{vhost}", hosts.collect::<Vec<_>>().join(","))
}

pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((login, place)) => {
            let user = login.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{place}")
        }
        None => url.to_owned(),
    }
}
