//! Makes the machine what is wanted: looks, plans, acts, says what became of each object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use types::network_wanted::{HostWanted, ObjectStatus, Status, tap_name};
use uuid::Uuid;

use crate::config::{Config, Vlans};
use crate::conntrack;
use crate::desired::{self, Desired, LinkKind};
use crate::dnsmasq_process as server;
use crate::filter;
use crate::flows;
use crate::forward_policy;
use crate::machine::{Error, Machine, Space};
use crate::names;
use crate::nft::Ruleset;
use crate::observe::{self, Observed, SeenLink, SeenSpace};
use crate::plan::{self, Plan, Step};
use crate::vlans::{self, Filter};

/// Realises wanted states on one machine, one after the other.
#[derive(Debug)]
pub struct Executor {
    config: Config,
    machine: Machine,
    /// What is loaded where, so that the next rule set is only a difference; empty for a place
    /// whose rules are not known (then they are replaced as a whole).
    loaded: HashMap<String, Ruleset>,
    /// Namespaces that are known to be as described here.
    settled: BTreeMap<String, desired::Space>,
    /// Programs of VLANs that are known to be there.
    joined: Option<Vec<Filter>>,
    marks: BTreeMap<Uuid, u16>,
    prepared: bool,
    /// What was applied last, to see what was taken away since then.
    before: Option<HostWanted>,
}

/// What became of a wanted state.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Status of every port (also of DHCP servers and routers).
    pub ports: Vec<ObjectStatus>,
    /// Status of every router.
    pub routers: Vec<ObjectStatus>,
    /// Status of every floating IP.
    pub floating_ips: Vec<ObjectStatus>,
    /// Where metadata proxies are to listen, by namespace.
    pub metadata: BTreeMap<String, desired::Space>,
    /// Whether anything failed, so that it should be tried again.
    pub failed: bool,
}

/// Errors by the object they belong to.
#[derive(Debug, Default)]
struct Faults(BTreeMap<Uuid, String>);

impl Faults {
    fn add(&mut self, object: Uuid, text: impl ToString) {
        let text = text.to_string();
        tracing::warn!(%object, error = %text, "cannot realise a network object");
        self.0.entry(object).or_insert(text);
    }
}

/// The name under which the host's own rules are remembered; no namespace can have it.
const HOST: &str = "";

/// There once the kernel can show bridged frames to the inet family.
const BRIDGE_SETTINGS: &str = "/proc/sys/net/bridge";

impl Executor {
    /// An executor that knows nothing yet of the machine.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let machine = Machine::new(config.root_netns.clone(), config.command_timeout);
        Self {
            config,
            machine,
            loaded: HashMap::new(),
            settled: BTreeMap::new(),
            joined: None,
            marks: BTreeMap::new(),
            prepared: false,
            before: None,
        }
    }

    /// The machine it works on.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Forgets what it knows, so that the next [`Self::apply`] looks at everything.
    pub fn forget(&mut self) {
        self.loaded.clear();
        self.settled.clear();
        self.joined = None;
        self.prepared = false;
    }

    /// Makes the machine what `wanted` says. Blocks while commands run.
    ///
    /// # Errors
    /// When the machine cannot be looked at or the packet filter cannot be loaded; what belongs to
    /// single objects is in the outcome.
    pub fn apply(&mut self, wanted: &HostWanted) -> Result<Outcome, Error> {
        if !self.prepared {
            prepare_host(&self.machine)?;
            forward_policy::open(&self.machine, &names::table(&self.config.cloud))?;
            self.prepared = true;
        }
        let mut faults = Faults::default();
        let desired = self.desired(wanted, &mut faults)?;
        let observed = self.observe(&desired)?;
        let zones = plan::zones(&self.config.cloud, &desired, &observed);
        let plan = plan::plan(&self.config.cloud, &desired, &zones, &observed);
        for (object, text) in &plan.conflicts {
            faults.add(*object, text);
        }
        // The filter comes first: no tap is up before its rules are there.
        self.load_host_rules(wanted, &zones)?;
        self.stop_servers(&desired, &plan);
        batch(&self.machine, &Space::Host, "ip", &plan.root, &mut faults)?;
        batch(
            &self.machine,
            &Space::Host,
            "bridge",
            &plan.floods,
            &mut faults,
        )?;
        self.join_vlans(&desired, &mut faults);
        self.apply_spaces(wanted, &desired, &plan, &mut faults);
        self.cut_forbidden(wanted, &zones);
        let existing: BTreeSet<&String> = desired.spaces.keys().collect();
        self.loaded
            .retain(|name, _| name == HOST || existing.contains(name));
        self.settled.retain(|name, _| existing.contains(name));
        Ok(outcome(wanted, desired, &faults))
    }

    /// What [`Self::apply`] would do of links, addresses, routes and namespaces now, were everything looked at; packet rules
    /// and servers are not compared. Changes nothing on the machine. Blocks while commands run.
    ///
    /// # Errors
    /// When the machine cannot be looked at.
    pub fn look(&mut self, wanted: &HostWanted) -> Result<Vec<String>, Error> {
        let mut faults = Faults::default();
        let desired = self.desired(wanted, &mut faults)?;
        // A namespace that was left in order may be so no more.
        let settled = std::mem::take(&mut self.settled);
        let observed = self.observe(&desired);
        self.settled = settled;
        let observed = observed?;
        let zones = plan::zones(&self.config.cloud, &desired, &observed);
        let plan = plan::plan(&self.config.cloud, &desired, &zones, &observed);
        let impossible = faults.0.iter();
        let mut words: Vec<String> = impossible
            .map(|(object, text)| format!("{text}, wanted for {object}"))
            .collect();
        words.extend(plan.words());
        Ok(words)
    }

    fn desired(&mut self, wanted: &HostWanted, faults: &mut Faults) -> Result<Desired, Error> {
        if self.config.vlans.is_none() && wanted.ports.iter().any(|port| port.trunk.is_some()) {
            self.config.vlans = Some(find_vlans(&self.machine)?);
        }
        let mut desired = desired::desired(&self.config, wanted);
        self.number_ports(wanted, &mut desired, faults);
        Ok(desired)
    }

    fn links(&self) -> Result<BTreeMap<String, SeenLink>, Error> {
        let argv = ["ip", "-j", "-d", "addr", "show"];
        Ok(observe::links(&self.machine.run(
            &Space::Host,
            &argv,
            "",
        )?)?)
    }

    fn observe(&self, desired: &Desired) -> Result<Observed, Error> {
        let links = self.links()?;
        let mut spaces = BTreeMap::new();
        for name in self.machine.spaces()? {
            if !names::is_own_space(&self.config.cloud, &name) {
                continue;
            }
            let wanted = desired.spaces.get(&name);
            let look = wanted.is_some_and(|wanted| self.settled.get(&name) != Some(wanted));
            let seen = if look {
                Some(look_into(&self.machine, &name)?)
            } else {
                None
            };
            spaces.insert(name, seen);
        }
        let tunnels = |link: &desired::Link| matches!(link.kind, LinkKind::Vxlan { .. });
        let floods = match desired.links.values().any(tunnels) {
            true => observe::floods(&self.machine.run(
                &Space::Host,
                &["bridge", "-j", "fdb", "show"],
                "",
            )?)?,
            false => BTreeMap::new(),
        };
        Ok(Observed {
            links,
            floods,
            spaces,
        })
    }

    /// Gives each port its number in packet marks. A port for which none is left gets no tap: its
    /// packets would not be filtered.
    fn number_ports(&mut self, wanted: &HostWanted, desired: &mut Desired, faults: &mut Faults) {
        let ports: BTreeSet<Uuid> = wanted.ports.iter().map(|port| port.id).collect();
        self.marks.retain(|port, _| ports.contains(port));
        let mut taken: BTreeSet<u16> = self.marks.values().copied().collect();
        for port in ports {
            if self.marks.contains_key(&port) {
                continue;
            }
            if let Some(mark) = plan::lowest_free(&taken) {
                taken.insert(mark);
                self.marks.insert(port, mark);
            } else {
                desired.links.remove(&tap_name(&port));
                faults.add(port, "too many ports on this host");
            }
        }
    }

    fn load_host_rules(
        &mut self,
        wanted: &HostWanted,
        zones: &BTreeMap<Uuid, u16>,
    ) -> Result<(), Error> {
        let table = names::table(&self.config.cloud);
        let input = filter::Input {
            table: &table,
            wanted,
            zones,
            marks: &self.marks,
            nat_external: self.config.nat_external,
        };
        self.load_rules(HOST, &Space::Host, filter::host_ruleset(&input))
    }

    /// Loads a rule set: the difference to what is loaded, or all of it when that is not known or
    /// the difference was refused.
    fn load_rules(&mut self, key: &str, space: &Space, rules: Ruleset) -> Result<(), Error> {
        if let Some(old) = self.loaded.remove(key) {
            let text = rules.update_text(&old);
            let updated = text.is_empty() || nft(&self.machine, space, &text).is_ok();
            if updated {
                self.loaded.insert(key.to_owned(), rules);
                return Ok(());
            }
        }
        nft(&self.machine, space, &rules.replace_text())?;
        self.loaded.insert(key.to_owned(), rules);
        Ok(())
    }

    fn stop_servers(&self, desired: &Desired, plan: &Plan) {
        for name in &plan.spaces_gone {
            server::stop_in_space(&self.machine, name);
        }
        let servers = desired
            .spaces
            .values()
            .filter_map(|space| space.dnsmasq.as_ref());
        let keep = servers.map(|server| server.dir.clone()).collect();
        if let Err(error) = server::stop_others(&self.config, &keep) {
            tracing::warn!(%error, "cannot remove the folder of a DHCP server");
        }
    }

    /// Ends connections that the rules no longer allow. After a start nothing is known of the rules
    /// before, so all connections are looked at.
    fn cut_forbidden(&mut self, wanted: &HostWanted, zones: &BTreeMap<Uuid, u16>) {
        let before = self.before.replace(wanted.clone());
        if before
            .as_ref()
            .is_some_and(|before| flows::only_grew(before, wanted))
        {
            return;
        }
        let rules = flows::Rules::new(wanted, before.as_ref().unwrap_or(wanted), zones);
        cut(&self.machine, &Space::Host, |flow| rules.forbids(flow));
    }

    /// Joins the cables of ports that trunks carry to the trunks' taps. What fails is the ports' alone.
    fn join_vlans(&mut self, desired: &Desired, faults: &mut Faults) {
        let cables = desired.links.values();
        let mut ports: Vec<Uuid> = cables
            .filter(|link| matches!(link.kind, LinkKind::VlanCable { .. }))
            .map(|link| link.object)
            .collect();
        if ports.is_empty() && !vlans::folder(&self.config).exists() {
            return;
        }
        if let Err(error) = self.try_join_vlans(desired, faults) {
            if ports.is_empty() {
                ports.push(Uuid::nil());
            }
            for port in ports {
                faults.add(port, &error);
            }
        }
    }

    fn try_join_vlans(&mut self, desired: &Desired, faults: &mut Faults) -> Result<(), Error> {
        // The interfaces as they are by now.
        let links = &self.links()?;
        let wanted = vlans::wanted(desired, links);
        for (port, name) in &wanted.missing {
            faults.add(
                *port,
                format!("its trunk needs interface {name}, which is not there"),
            );
        }
        let filters = wanted.filters;
        if self.joined.as_ref() != Some(&filters) {
            self.joined = None;
            let queues = ["tc", "-j", "qdisc", "show"];
            let queues = self.machine.run(&Space::Host, &queues, "")?;
            let hooks = vlans::hooks(&queues, &self.config.cloud, links, &filters)?;
            let show: String = hooks
                .iter()
                .map(|link| format!("filter show dev {link} ingress\n"))
                .collect();
            let shown = ["tc", "-j", "-batch", "-"];
            let seen = vlans::seen(&self.machine.run(&Space::Host, &shown, &show)?, &hooks)?;
            let folder = vlans::folder(&self.config);
            server::make_folder(&folder)?;
            vlans::write(&folder, &filters)?;
            let steps = vlans::plan(&filters, &seen, &folder);
            let before = faults.0.len();
            batch(&self.machine, &Space::Host, "tc", &steps, faults)?;
            if faults.0.len() == before {
                vlans::tidy(&folder, &filters)?;
                self.joined = Some(filters);
            }
        }
        let ends = vlans::ends(desired, links, |port| !faults.0.contains_key(port));
        batch(&self.machine, &Space::Host, "ip", &ends, faults)
    }

    fn apply_spaces(
        &mut self,
        wanted: &HostWanted,
        desired: &Desired,
        plan: &Plan,
        faults: &mut Faults,
    ) {
        for (name, space) in &desired.spaces {
            let steps = plan.spaces.get(name).map_or(&[][..], Vec::as_slice);
            if steps.is_empty() && self.settled.get(name) == Some(space) {
                continue;
            }
            self.settled.remove(name);
            let before = faults.0.len();
            if let Err(error) = self.apply_space(name, space, steps, faults) {
                faults.add(space.object, error);
            }
            if let Some(router) = wanted
                .routers
                .iter()
                .find(|router| router.id == space.object)
            {
                cut(&self.machine, &Space::Named(name.clone()), |flow| {
                    flows::router_forbids(router, flow)
                });
            }
            if faults.0.len() == before {
                self.settled.insert(name.clone(), space.clone());
            }
        }
    }

    fn apply_space(
        &mut self,
        name: &str,
        space: &desired::Space,
        steps: &[Step],
        faults: &mut Faults,
    ) -> Result<(), Error> {
        let inside = Space::Named(name.to_owned());
        for (setting, value) in &space.sysctls {
            self.machine.sysctl(&inside, setting, value)?;
        }
        if space.ruleset != Ruleset::default() {
            self.load_rules(name, &inside, space.ruleset.clone())?;
        }
        batch(&self.machine, &inside, "ip", steps, faults)?;
        if let Some(dnsmasq) = &space.dnsmasq {
            server::ensure(&self.machine, name, dnsmasq)?;
        }
        Ok(())
    }
}

/// What the host must have before networks can be made.
///
/// Filtering of bridged frames is switched on for this cloud's bridges alone; where the module that
/// does it was not there yet, the switch for all bridges of the machine is left off.
fn prepare_host(machine: &Machine) -> Result<(), Error> {
    if !Path::new(BRIDGE_SETTINGS).exists() {
        let loaded = machine.run(&Space::Host, &["modprobe", "br_netfilter"], "");
        if !Path::new(BRIDGE_SETTINGS).exists() {
            let why = loaded
                .err()
                .map(|error| format!(" ({error})"))
                .unwrap_or_default();
            return Err(Error::Missing(format!(
                "the kernel cannot filter bridged packets, which security groups need: no module br_netfilter{why}"
            )));
        }
        for name in ["iptables", "ip6tables", "arptables"] {
            machine.sysctl(&Space::Host, &format!("bridge/bridge-nf-call-{name}"), "0")?;
        }
    }
    machine.sysctl(&Space::Host, "ipv4/ip_forward", "1")
}

/// Whether the kernel has VLAN links. It loads a module for them when it is asked for one; without a
/// number it makes none.
fn find_vlans(machine: &Machine) -> Result<Vlans, Error> {
    let ask = ["ip", "link", "add", "name", "kvlprobe", "type", "vlan"];
    let said = machine.try_run(&Space::Host, &ask, "")?.stderr;
    let unknown = ["not supported", "Unknown device type"];
    if unknown.iter().any(|words| said.contains(words)) {
        tracing::info!("the kernel has no VLAN links (8021q): trunks are joined by programs");
        return Ok(Vlans::Programs);
    }
    Ok(Vlans::Links)
}

fn cut(machine: &Machine, space: &Space, unwanted: impl Fn(&conntrack::Flow) -> bool + Send) {
    match machine.within(space, || conntrack::cut(unwanted)) {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => tracing::info!(count, ?space, "connections without a rule were cut"),
        // Their packets go on for as long as they are known; new ones are refused.
        Ok(Err(error)) => tracing::warn!(%error, ?space, "cannot look at connections"),
        Err(error) => tracing::warn!(%error, ?space, "cannot look at connections"),
    }
}

fn nft(machine: &Machine, space: &Space, text: &str) -> Result<(), Error> {
    machine.run(space, &["nft", "-f", "-"], text).map(drop)
}

pub(crate) fn look_into(machine: &Machine, name: &str) -> Result<SeenSpace, Error> {
    let space = Space::Named(name.to_owned());
    let addr = machine.run(&space, &["ip", "-j", "-d", "addr", "show"], "")?;
    let v4 = machine.run(&space, &["ip", "-j", "route", "show"], "")?;
    let v6 = machine.run(&space, &["ip", "-j", "-6", "route", "show"], "")?;
    Ok(observe::space(&addr, [&v4, &v6])?)
}

/// Runs all steps in one `ip` or `bridge`; a step that fails is noted for its object and the rest go on.
fn batch(
    machine: &Machine,
    space: &Space,
    program: &str,
    steps: &[Step],
    faults: &mut Faults,
) -> Result<(), Error> {
    if steps.is_empty() {
        return Ok(());
    }
    let text: String = steps
        .iter()
        .map(|step| format!("{}\n", step.line))
        .collect();
    let output = machine.try_run(space, &[program, "-force", "-batch", "-"], &text)?;
    if output.success {
        return Ok(());
    }
    let found = batch_errors(&output.stderr);
    if found.is_empty() {
        return Err(Error::Failed {
            command: format!("{program} -batch"),
            stderr: output.stderr,
        });
    }
    for (number, text) in found {
        if let Some(step) = number.checked_sub(1).and_then(|index| steps.get(index)) {
            faults.add(step.object, format!("{program} {}: {text}", step.line));
        }
    }
    Ok(())
}

/// Line numbers and messages in what `ip -force -batch -` said: each message is followed by
/// `Command failed -:<line>`.
fn batch_errors(stderr: &str) -> Vec<(usize, String)> {
    let mut errors = Vec::new();
    let mut message = String::new();
    for line in stderr.lines() {
        match line
            .strip_prefix("Command failed -:")
            .and_then(|number| number.trim().parse().ok())
        {
            Some(number) => errors.push((number, std::mem::take(&mut message))),
            None => {
                if !message.is_empty() {
                    message.push_str("; ");
                }
                message.push_str(line.trim());
            }
        }
    }
    errors
}

fn outcome(wanted: &HostWanted, desired: Desired, faults: &Faults) -> Outcome {
    let fault = |ids: &[Uuid]| ids.iter().find_map(|id| faults.0.get(id)).cloned();
    let status = |id: Uuid, up: bool, depends: &[Uuid]| {
        let detail = fault(depends);
        let status = match (&detail, up) {
            (Some(_), _) => Status::Error,
            (None, true) => Status::Active,
            (None, false) => Status::Down,
        };
        ObjectStatus { id, status, detail }
    };
    let mut result = Outcome {
        failed: !faults.0.is_empty(),
        ..Outcome::default()
    };
    for port in &wanted.ports {
        if wanted
            .networks
            .iter()
            .any(|network| network.id == port.network_id)
        {
            result.ports.push(status(
                port.id,
                port.admin_state_up,
                &[port.id, port.network_id],
            ));
        } else {
            let detail = Some(format!("network {} was not described", port.network_id));
            result.ports.push(ObjectStatus {
                id: port.id,
                status: Status::Error,
                detail,
            });
        }
    }
    for network in &wanted.networks {
        if let Some(dhcp) = &network.dhcp {
            result
                .ports
                .push(status(dhcp.port_id, true, &[dhcp.port_id, network.id]));
        }
    }
    for router in &wanted.routers {
        let mut all = vec![router.id];
        for interface in &router.interfaces {
            all.push(interface.port_id);
            result.ports.push(status(
                interface.port_id,
                true,
                &[interface.port_id, router.id],
            ));
        }
        if let Some(gateway) = &router.gateway {
            all.push(gateway.port_id);
            result
                .ports
                .push(status(gateway.port_id, true, &[gateway.port_id, router.id]));
        }
        result
            .routers
            .push(status(router.id, router.admin_state_up, &all));
        let fips = router
            .floating_ips
            .iter()
            .map(|fip| status(fip.id, true, &all));
        result.floating_ips.extend(fips);
    }
    result.metadata = desired.spaces;
    result
}

#[cfg(test)]
mod tests {
    use super::batch_errors;

    #[test]
    fn errors_of_a_batch_find_their_lines() {
        let text = "RTNETLINK answers: File exists\nCommand failed -:2\nCannot find device \"x\"\nCommand failed -:5\n";
        let expected = vec![
            (2, "RTNETLINK answers: File exists".to_owned()),
            (5, "Cannot find device \"x\"".to_owned()),
        ];
        assert_eq!(batch_errors(text), expected);
        assert!(batch_errors("Option \"-foo\" is unknown").is_empty());
    }
}
