//! Why no host will do.

use crate::Demand;
use std::fmt;
use types::HostName;

/// Why a host counts as down. Sorted as they are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Down {
    /// Its service was not heard of for too long, or never.
    #[default]
    Silent,
    /// An operator says so.
    Forced,
    /// It says itself what is wrong, for example that its hypervisor does not answer.
    Unwell(String),
}

impl Down {
    /// What is wrong, without what only operators may know.
    fn plain(&self) -> &'static str {
        match self {
            Self::Silent => "not heard of",
            Self::Forced => "forced down",
            Self::Unwell(_) => "its hypervisor does not work",
        }
    }
}

/// Why one host will not do. Sorted as they are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Less left of a resource class than asked for.
    Short {
        /// The class.
        class: String,
        /// How much is asked for.
        need: u64,
    },
    /// The class is there, but one server may not take so much of it, or not in such steps.
    Unit {
        /// The class.
        class: String,
        /// How much is asked for.
        need: u64,
    },
    /// Lacks hardware that the flavor or the image asks for.
    Hardware(Demand),
    /// A required trait is missing, or a forbidden one is there.
    Trait(String),
    /// Disabled by an administrator.
    Disabled,
    /// Not heard of, or something is wrong there.
    Down(Down),
    /// In another zone than asked for.
    Zone(String),
    /// Another host was asked for.
    NotNamed,
    /// Excluded by the request.
    Ignored,
    /// It has tried, and failed.
    Tried,
    /// It still has something of the server, which it is to remove.
    Owing,
    /// Another kind of hypervisor than the one that the guest runs on.
    OtherHypervisor(String),
    /// An older hypervisor than the one that the guest runs on, which has this version.
    OlderHypervisor(u64),
    /// Lacks a capability of the flavor's extra specs.
    Capability(String),
    /// Runs no guests of the image's architecture, hypervisor or machine mode.
    Image,
    /// No aggregate with what the flavor asks for.
    AggregateSpecs(String),
    /// Kept for other projects.
    OtherProject,
    /// None of the servers that it shall share a host with.
    SameHost,
    /// One of the servers that it shall not share a host with.
    DifferentHost,
    /// Members of the server group are elsewhere.
    Affinity,
    /// Members of the server group are here.
    AntiAffinity,
    /// As many servers as a host may have.
    TooManyServers,
    /// As much going on as a host may have.
    TooBusy,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { class, need } => {
                let (what, unit) = class_words(class);
                write!(f, "without enough {what} (need {need}{unit})")
            }
            Self::Unit { class, need } => {
                let (what, unit) = class_words(class);
                write!(
                    f,
                    "too small for one server with so much {what} (need {need}{unit})"
                )
            }
            Self::Hardware(Demand { spec, what }) => write!(f, "without {what} ({spec})"),
            Self::Trait(name) => write!(f, "not fit for the trait {name}"),
            Self::Disabled => f.write_str("disabled"),
            Self::Down(why) => write!(f, "down ({})", why.plain()),
            Self::Zone(zone) => write!(f, "outside of the availability zone '{zone}'"),
            Self::NotNamed => f.write_str("not the one asked for"),
            Self::Ignored => f.write_str("excluded by the request"),
            Self::Tried => f.write_str("tried before, which failed"),
            Self::Owing => f.write_str("with something of the server left to be removed"),
            Self::OtherHypervisor(kind) => {
                write!(
                    f,
                    "with another hypervisor than {kind}, which the server runs on"
                )
            }
            Self::OlderHypervisor(version) => write!(
                f,
                "with an older hypervisor than the one the server runs on ({version})"
            ),
            Self::Capability(name) => {
                write!(f, "without the capability {name} that the flavor asks for")
            }
            Self::Image => f.write_str("unable to run what the image's properties ask for"),
            Self::AggregateSpecs(name) => write!(
                f,
                "in no aggregate with the {name} that the flavor asks for"
            ),
            Self::OtherProject => f.write_str("kept for other projects"),
            Self::SameHost => f.write_str("without a server of the same_host hint"),
            Self::DifferentHost => f.write_str("with a server of the different_host hint"),
            Self::Affinity => f.write_str("other than the server group's host"),
            Self::AntiAffinity => f.write_str("in use by the server group"),
            Self::TooManyServers => f.write_str("with as many servers as a host may have"),
            Self::TooBusy => f.write_str("too busy"),
        }
    }
}

impl Reason {
    /// With what only operators may know.
    pub fn for_admins(&self) -> String {
        match self {
            Self::Down(Down::Unwell(problem)) => format!("down ({problem})"),
            other => other.to_string(),
        }
    }
}

fn class_words(class: &str) -> (&str, &'static str) {
    match class {
        "MEMORY_MB" => ("memory", " MiB"),
        "DISK_GB" => ("disk", " GiB"),
        "VCPU" => ("vCPUs", ""),
        other => (other, ""),
    }
}

/// No host will do. `Display` is for the owner of the server and names no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// How many hosts there are.
    pub considered: usize,
    /// Each reason with its hosts, the most frequent first. A host counts under the first reason it met.
    pub by_reason: Vec<(Reason, Vec<HostName>)>,
}

impl Refusal {
    pub(crate) fn new(mut refused: Vec<(Reason, HostName)>) -> Self {
        let considered = refused.len();
        refused.sort();
        let mut by_reason: Vec<(Reason, Vec<HostName>)> = Vec::new();
        for (reason, host) in refused {
            match by_reason.last_mut() {
                Some((last, hosts)) if *last == reason => hosts.push(host),
                _ => by_reason.push((reason, vec![host])),
            }
        }
        // Stable, so that equal counts keep the order of the reasons.
        by_reason.sort_by_key(|(_, hosts)| std::cmp::Reverse(hosts.len()));
        Self {
            considered,
            by_reason,
        }
    }

    /// The same with the names of the hosts, for administrators and the log.
    pub fn for_admins(&self) -> String {
        self.tell(|reason, hosts| {
            let names: Vec<&str> = hosts.iter().map(|host| host.0.as_str()).collect();
            format!("{} [{}]", reason.for_admins(), names.join(", "))
        })
    }

    fn tell(&self, say: impl Fn(&Reason, &[HostName]) -> String) -> String {
        let hosts = match self.considered {
            0 => return "No valid host was found. There are no compute hosts.".to_owned(),
            1 => "1 host".to_owned(),
            many => format!("{many} hosts"),
        };
        let reasons = self
            .by_reason
            .iter()
            .map(|(reason, hosts)| format!("{} {}", hosts.len(), say(reason, hosts)));
        let reasons: Vec<String> = reasons.collect();
        format!(
            "No valid host was found. {hosts} considered: {}",
            reasons.join(", ")
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tell(|reason, _| reason.to_string()))
    }
}
