//! The agent on each host that realises the network service's wanted state with Linux bridges,
//! taps, network namespaces, dnsmasq and nftables, and brings guests their metadata.
//!
//! [`desired`], [`filter`], [`router`], [`dnsmasq`], [`plan`] and [`vlans`] decide, without I/O; [`Executor`]
//! does. What the agent was told comes from a [`WantedSource`].

pub mod agent;
pub mod classifier;
pub mod config;
pub mod conntrack;
pub mod desired;
pub mod dnsmasq;
mod dnsmasq_process;
pub mod executor;
pub mod filter;
pub mod flows;
mod forward_policy;
pub mod machine;
pub mod metadata;
pub mod names;
pub mod nft;
pub mod observe;
pub mod plan;
pub mod router;
pub mod sim;
pub mod source;
mod teardown;
pub mod vlans;

pub use agent::Agent;
pub use config::{CloudId, Config, Secret, Vlans};
pub use executor::{Executor, Outcome};
pub use source::{HttpSource, SourceError, WantedSource};
pub use teardown::{Removed, teardown};
