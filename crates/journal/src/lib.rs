//! The journal: long work as flows of named steps that survive the death of any process.
//!
//! A [`Flow`] is a list of steps, each with `run` and `undo`. The journal saves the flow's typed state after every
//! step; "step k is done and step k+1 has started" is one transaction. A task is run by the worker that holds its
//! epoch: a runner whose epoch was overtaken finds that its next save changes nothing, and stops silently.
//!
//! A step that fails before the pivot is undone, and all steps before it in reverse order; behind the pivot a step is
//! only ever tried again. `run` and `undo` must be repeatable, and `undo` must cope with nothing, half or all of
//! `run` having happened.
//!
//! Steps whose effect is on a host are declared as [`HostWork`]; the journal stores the work for the host to pull and
//! waits for its outcome. What an undo cannot remove from a host by its deadline becomes the host's debt.

mod drive;
pub mod faults;
mod flow;
mod handing;
mod lease;
mod lost;
mod outcomes;
mod worker;

pub use flow::{Context, End, Failure, Flow, HostWork, StepError, StepName};
pub use handing::{Hand, Handed};
pub use outcomes::Outcomes;
pub use worker::{Intake, Journal, Settings, WITH_WAITING, Worker};

#[cfg(test)]
mod tests;
