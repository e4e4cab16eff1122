//! Where a server goes: filters, weighers and the explanation when no host will do.
//!
//! What decides here is a pure function over [`HostState`]s in memory, without I/O and without a clock; chance comes in
//! as an argument. The rows that it is given are read beside it ([`Rows`]). The scheduler proposes an ordered list of candidates; the claim in the database
//! ([`db::placement::claim`]) decides, so any number of schedulers may run on views that are a little old.
//!
//! Names and meaning of filters and weighers are those of Nova's filter scheduler (Nova administrator guide,
//! "Compute schedulers").

mod filters;
mod hardware;
mod host;
mod hosts;
mod load;
mod refusal;
mod request;
mod select;
mod specs;
mod weighers;
mod wish;

pub use filters::Filter;
pub use hardware::{Demand, WrongHardware, demands, device_distance, tpm};
pub use host::{Aggregate, HostState};
pub use hosts::{Hosts, UsageChange};
pub use load::{Rows, host_states};
pub use refusal::{Down, Reason, Refusal};
pub use request::{Group, GroupPolicy, Request, RunsOn, WrongRequest};
pub use select::{Candidate, Settings, select};
pub use weighers::Weights;

#[cfg(test)]
mod tests;
