//! From what is wanted and what is there to what must be done. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use uuid::Uuid;

use crate::config::CloudId;
use crate::desired::{Desired, Inner, Link, LinkKind, Space};
use crate::names::{self, Alias};
use crate::observe::{Observed, SeenLink, SeenSpace};

/// The port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// The receiver of frames whose receiver is not known.
const NOBODY: &str = "00:00:00:00:00:00";

/// One line for `ip -batch -` and the object that it is for, to which an error belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Arguments of `ip`.
    pub line: String,
    /// Port, network or router.
    pub object: Uuid,
}

/// What must be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Namespaces to remove; servers in them are to be stopped first.
    pub spaces_gone: Vec<String>,
    /// Lines for `ip` on the host.
    pub root: Vec<Step>,
    /// Lines for `bridge` on the host, after those for `ip`.
    pub floods: Vec<Step>,
    /// Lines for `ip` in namespaces.
    pub spaces: BTreeMap<String, Vec<Step>>,
    /// Objects that cannot be realised, and why.
    pub conflicts: Vec<(Uuid, String)>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What would be done, for people: commands, or words about namespaces and about what cannot be done.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let conflicts = self.conflicts.iter();
        let mut words: Vec<String> = conflicts
            .map(|(object, text)| format!("{text}, wanted for {object}"))
            .collect();
        words.extend(self.root.iter().map(|step| host_words(&step.line)));
        let floods = self.floods.iter();
        words.extend(floods.map(|step| format!("bridge {}", step.line)));
        for (name, steps) in &self.spaces {
            let steps = steps.iter();
            words.extend(steps.map(|step| format!("ip -n {name} {}", step.line)));
        }
        words
    }
}

fn host_words(line: &str) -> String {
    if let Some(name) = line.strip_prefix("netns del ") {
        return format!("namespace {name} is not wanted");
    }
    if let Some(name) = line.strip_prefix("netns add ") {
        return format!("namespace {name} is missing");
    }
    format!("ip {line}")
}

/// Gives each tenant network a conntrack zone: the one its bridge has, else the lowest that no
/// bridge on this machine (of any cloud) has. External networks share zone 0 with the host.
#[must_use]
pub fn zones(cloud: &CloudId, desired: &Desired, observed: &Observed) -> BTreeMap<Uuid, u16> {
    let mut taken: BTreeSet<u16> = BTreeSet::new();
    let mut have: BTreeMap<Uuid, u16> = BTreeMap::new();
    for alias in observed
        .links
        .values()
        .filter_map(|link| link.alias.as_ref())
    {
        let Some(zone) = alias.zone else { continue };
        if taken.insert(zone) && alias.cloud == cloud.as_str() {
            have.insert(alias.object, zone);
        }
    }
    let tenant_bridges = desired
        .links
        .values()
        .filter(|l| matches!(l.kind, LinkKind::Bridge { zoned: true, .. }));
    let mut zones = BTreeMap::new();
    for bridge in tenant_bridges {
        let zone = have
            .get(&bridge.object)
            .copied()
            .or_else(|| lowest_free(&taken));
        if let Some(zone) = zone {
            taken.insert(zone);
            zones.insert(bridge.object, zone);
        }
    }
    zones
}

/// The lowest number from 1 up that is not taken.
#[must_use]
pub fn lowest_free(taken: &BTreeSet<u16>) -> Option<u16> {
    (1..=u16::MAX).find(|n| !taken.contains(n))
}

/// Plans the way from `observed` to `desired`. Namespaces that were not looked into
/// ([`Observed::spaces`] with `None`) are taken to be in order.
#[must_use]
pub fn plan(
    cloud: &CloudId,
    desired: &Desired,
    zones: &BTreeMap<Uuid, u16>,
    observed: &Observed,
) -> Plan {
    let mut planner = Planner {
        cloud,
        desired,
        zones,
        observed,
        plan: Plan::default(),
    };
    planner.remove();
    planner.make_spaces();
    // Bridges first: the others are plugged into them.
    // VLANs last: they are parts of taps.
    let order = |link: &Link| match link.kind {
        LinkKind::Bridge { .. } => 0,
        LinkKind::Vlan { .. } => 2,
        _ => 1,
    };
    for turn in 0..=2 {
        let now = |link: &Link| order(link) == turn;
        for (name, link) in desired.links.iter().filter(|(_, link)| now(link)) {
            planner.link(name, link);
        }
    }
    for (name, space) in &desired.spaces {
        planner.space(name, space);
    }
    planner.plan
}

struct Planner<'a> {
    cloud: &'a CloudId,
    desired: &'a Desired,
    zones: &'a BTreeMap<Uuid, u16>,
    observed: &'a Observed,
    plan: Plan,
}

impl Planner<'_> {
    fn root(&mut self, object: Uuid, line: String) {
        self.plan.root.push(Step { line, object });
    }

    fn remove(&mut self) {
        let links = &self.observed.links;
        // A tap takes its VLANs with it.
        let (vlans, others): (Vec<_>, Vec<_>) =
            links.iter().partition(|(_, seen)| seen.kind == "vlan");
        for (name, seen) in vlans.into_iter().chain(others) {
            let Some(alias) = seen
                .alias
                .as_ref()
                .filter(|a| a.cloud == self.cloud.as_str())
            else {
                continue;
            };
            if !self.desired.links.contains_key(name) {
                self.root(alias.object, format!("link del dev {name}"));
            }
        }
        for name in self
            .observed
            .spaces
            .keys()
            .filter(|name| !self.desired.spaces.contains_key(*name))
        {
            self.plan.spaces_gone.push(name.clone());
            self.root(Uuid::nil(), format!("netns del {name}"));
        }
    }

    fn make_spaces(&mut self) {
        for (name, space) in &self.desired.spaces {
            if !self.observed.spaces.contains_key(name) {
                self.root(space.object, format!("netns add {name}"));
            }
        }
    }

    /// Whether a VLAN goes with its tap, which is made anew.
    fn goes_with_tap(&self, link: &Link) -> bool {
        let LinkKind::Vlan { parent, .. } = &link.kind else {
            return false;
        };
        let gone = format!("link del dev {parent}");
        self.plan.root.iter().any(|step| step.line == gone)
    }

    fn link(&mut self, name: &str, link: &Link) {
        let seen = self.observed.links.get(name);
        let seen = seen.filter(|_| !self.goes_with_tap(link));
        if let Some(alias) = seen.and_then(|seen| seen.alias.as_ref())
            && (alias.cloud != self.cloud.as_str() || alias.object != link.object)
        {
            let text = format!(
                "interface {name} belongs to {} of cloud '{}'",
                alias.object, alias.cloud
            );
            self.plan.conflicts.push((link.object, text));
            return;
        }
        let seen = match seen {
            Some(seen) if !fits(&link.kind, &seen.kind) => {
                if seen.alias.is_none() {
                    let text = format!("there is a foreign interface named {name}");
                    self.plan.conflicts.push((link.object, text));
                    return;
                }
                self.root(link.object, format!("link del dev {name}"));
                None
            }
            Some(seen) if self.cable_is_broken(name, link) || leads_elsewhere(link, seen) => {
                self.root(link.object, format!("link del dev {name}"));
                None
            }
            other => other,
        };
        if seen.is_none() {
            self.create(name, link);
        }
        self.settings(name, link, seen);
        self.flood(name, link, seen.is_some());
    }

    /// Where a tunnel sends what it knows no receiver for.
    fn flood(&mut self, name: &str, link: &Link, kept: bool) {
        let LinkKind::Vxlan { peers, .. } = &link.kind else {
            return;
        };
        let none = BTreeSet::new();
        let seen = self.observed.floods.get(name).filter(|_| kept);
        let have = seen.unwrap_or(&none);
        let mut push = |verb: &str, peer: &IpAddr, rest: &str| {
            self.plan.floods.push(Step {
                line: format!("fdb {verb} {NOBODY} dev {name} dst {peer} self{rest}"),
                object: link.object,
            });
        };
        for peer in have.difference(peers) {
            push("del", peer, "");
        }
        for peer in peers.difference(have) {
            push("append", peer, " permanent");
        }
    }

    /// A cable whose other end is not where it should be, or has another MAC address.
    fn cable_is_broken(&self, name: &str, link: &Link) -> bool {
        let LinkKind::Veth { space, peer } = &link.kind else {
            return false;
        };
        match self.observed.spaces.get(space) {
            None => true,
            Some(None) => false,
            Some(Some(seen)) => {
                let wanted = self
                    .desired
                    .spaces
                    .get(space)
                    .and_then(|s| s.links.get(peer));
                let mac = wanted
                    .filter(|inner| inner.outer == name)
                    .map(|inner| inner.mac);
                seen.links.get(peer).is_none_or(|inner| inner.mac != mac)
            }
        }
    }

    fn create(&mut self, name: &str, link: &Link) {
        let mtu = link.mtu;
        let line = match &link.kind {
            LinkKind::Bridge { mac, .. } => format!(
                "link add name {name} address {mac} mtu {mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0 nf_call_iptables 1 nf_call_ip6tables 1"
            ),
            LinkKind::Tap => format!("tuntap add dev {name} mode tap"),
            LinkKind::Vlan { parent, id } => {
                format!("link add link {parent} name {name} mtu {mtu} type vlan id {id}")
            }
            LinkKind::VlanCable { inner, .. } => {
                format!("link add name {name} mtu {mtu} type veth peer name {inner} mtu {mtu}")
            }
            LinkKind::Vxlan { vni, local, .. } => format!(
                "link add name {name} mtu {mtu} type vxlan id {vni} local {local} dstport {VXLAN_PORT}"
            ),
            LinkKind::Veth { space, peer } => {
                let mac = self
                    .desired
                    .spaces
                    .get(space)
                    .and_then(|s| s.links.get(peer))
                    .map(|inner| inner.mac);
                let address = mac.map(|mac| format!(" address {mac}")).unwrap_or_default();
                format!(
                    "link add name {name} mtu {mtu} type veth peer name {peer}{address} mtu {mtu} netns {space}"
                )
            }
        };
        self.root(link.object, line);
    }

    fn settings(&mut self, name: &str, link: &Link, seen: Option<&SeenLink>) {
        let alias = Alias::new(
            self.cloud,
            link.object,
            self.zones.get(&link.object).copied(),
        );
        let mut words = String::new();
        if seen.is_none_or(|seen| seen.alias.as_ref() != Some(&alias)) {
            words += &format!(" alias {alias}");
        }
        let made_with_mtu = seen.is_none() && !matches!(link.kind, LinkKind::Tap);
        if !made_with_mtu && seen.is_none_or(|seen| seen.mtu != link.mtu) {
            words += &format!(" mtu {}", link.mtu);
        }
        if seen.is_none() {
            // No address by itself: the host is no neighbour in these networks.
            words += " addrgenmode none";
        }
        match &link.master {
            Some(master) if seen.is_none_or(|seen| seen.master.as_ref() != Some(master)) => {
                words += &format!(" master {master}");
            }
            _ => {}
        }
        if seen.is_some_and(|seen| seen.up) != link.up {
            words += if link.up { " up" } else { " down" };
        }
        if !words.is_empty() {
            self.root(link.object, format!("link set dev {name}{words}"));
        }
        if let LinkKind::Bridge { mac, .. } = &link.kind
            && seen.is_some_and(|seen| seen.mac != Some(*mac))
        {
            self.root(link.object, format!("link set dev {name} address {mac}"));
        }
        let none = BTreeSet::new();
        let have = seen.map_or(&none, |seen| &seen.addresses);
        for step in address_steps(name, have, &link.addresses) {
            self.root(link.object, step);
        }
    }

    fn space(&mut self, name: &str, space: &Space) {
        let fresh = SeenSpace::default();
        let seen = match self.observed.spaces.get(name) {
            Some(None) => return,
            Some(Some(seen)) => seen,
            None => &fresh,
        };
        let mut steps = Vec::new();
        if !seen.loopback_up {
            steps.push(Step {
                line: "link set dev lo up".into(),
                object: space.object,
            });
        }
        for (inner_name, inner) in &space.links {
            // A cable that is made anew starts without settings.
            let seen_link = seen
                .links
                .get(inner_name)
                .filter(|seen| seen.mac == Some(inner.mac));
            inner_steps(inner_name, inner, seen_link, &mut steps);
        }
        // An address that came or went takes routes with it, so they are looked at afterwards.
        let changed = space.links.iter().any(|(name, inner)| {
            seen.links
                .get(name)
                .is_none_or(|seen| seen.addresses != inner.addresses || !seen.up)
        });
        for (net, via) in &seen.routes {
            if !space.routes.iter().any(|(wanted, _)| wanted == net) {
                let line = format!("route del {net} via {via} proto static");
                steps.push(Step {
                    line,
                    object: space.object,
                });
            }
        }
        for (net, via) in &space.routes {
            if changed || !seen.routes.contains(&(*net, *via)) {
                let line = format!("route replace {net} via {via} proto static");
                steps.push(Step {
                    line,
                    object: space.object,
                });
            }
        }
        if !steps.is_empty() {
            self.plan.spaces.insert(name.to_owned(), steps);
        }
    }
}

fn inner_steps(name: &str, inner: &Inner, seen: Option<&SeenLink>, steps: &mut Vec<Step>) {
    let mut push = |line: String| {
        steps.push(Step {
            line,
            object: inner.port,
        })
    };
    if seen.is_some_and(|seen| seen.mtu != inner.mtu) {
        push(format!("link set dev {name} mtu {}", inner.mtu));
    }
    let none = BTreeSet::new();
    let have = seen.map_or(&none, |seen| &seen.addresses);
    for line in address_steps(name, have, &inner.addresses) {
        push(line);
    }
    let up = seen.is_some_and(|seen| seen.up);
    if !up {
        push(format!("link set dev {name} up"));
    } else if inner.addresses.difference(have).next().is_some() {
        // Setting the address it has makes the kernel announce all addresses (arp_notify), so
        // that neighbours who knew an address elsewhere learn where it is now.
        push(format!("link set dev {name} address {}", inner.mac));
    }
}

fn address_steps(name: &str, have: &BTreeSet<IpNet>, want: &BTreeSet<IpNet>) -> Vec<String> {
    let mut lines: Vec<String> = have
        .difference(want)
        .map(|net| format!("addr del {net} dev {name}"))
        .collect();
    lines.extend(want.difference(have).map(|net| {
        // An address that the cloud assigned is not disputed, and must work at once.
        let nodad = if matches!(net, IpNet::V6(_)) {
            " nodad"
        } else {
            ""
        };
        format!("addr add {net} dev {name}{nodad}")
    }));
    lines
}

/// A tunnel of another segment, or from another address; another VLAN, or of another tap; a cable
/// that lost its other end; the cable of a port that a trunk has carried until now.
fn leads_elsewhere(wanted: &Link, seen: &SeenLink) -> bool {
    match &wanted.kind {
        LinkKind::Vxlan { vni, local, .. } => seen.tunnel != Some((*vni, *local)),
        LinkKind::Vlan { parent, id } => {
            seen.vlan.as_ref().map(|(on, id)| (on, *id)) != Some((parent, *id))
        }
        LinkKind::VlanCable { inner, .. } => seen.peer.as_ref() != Some(inner),
        LinkKind::Tap => seen.peer == Some(names::vlan_inner(&wanted.object)),
        _ => false,
    }
}

/// Whether an interface of kind `seen` can be what is wanted. A port's interface may also be a
/// cable that someone laid beforehand, as container hypervisors do.
fn fits(wanted: &LinkKind, seen: &str) -> bool {
    match wanted {
        LinkKind::Bridge { .. } => seen == "bridge",
        LinkKind::Vxlan { .. } => seen == "vxlan",
        LinkKind::Tap => seen == "tun" || seen == "veth",
        LinkKind::Vlan { .. } => seen == "vlan",
        LinkKind::Veth { .. } | LinkKind::VlanCable { .. } => seen == "veth",
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
