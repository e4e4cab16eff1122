//! Whether a guest that runs can go on on another host: Nova's `LiveMigrationTask` looks at the hypervisors, and the new host at
//! its processors.

use crate::neighbours::Neighbours;
use journal::{Context, Failure, StepError};
use scheduler::{HostState, RunsOn};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;
use types::HostName;
use types::agent::Question;

/// How long an agent may think about a processor. One that does not answer is found out by the next step, which has more time.
const THINKING: Duration = Duration::from_secs(5);

/// What is not looked at (nova.conf's `[workarounds]`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Whether the new host's processors have all that the guest uses (`skip_cpu_compare_on_dest`).
    pub skip_cpu: bool,
    /// Whether its hypervisor is older (`skip_hypervisor_version_check_on_lm`).
    pub skip_version: bool,
}

/// The hypervisor of a guest's host, for the scheduler.
pub(super) fn runs_on(with: &Neighbours, host: &HostName) -> Option<RunsOn> {
    let state = with.view.host(host)?;
    Some(RunsOn {
        hypervisor_type: state.hypervisor_type.clone(),
        hypervisor_version: (!with.checks.skip_version).then_some(state.hypervisor_version),
    })
}

/// Whether the processors of the two hosts are the same for guests: how many there are does not matter.
fn alike(one: &HostState, other: &HostState) -> bool {
    let told = |name: &str| one.cpu_info[name] == other.cpu_info[name];
    ["arch", "vendor", "model", "features"]
        .into_iter()
        .all(told)
}

/// Fails where the guest uses what the new host's processors have not. Where that cannot be found out, the new host itself
/// refuses the guest when it comes.
pub(super) async fn compare_cpus(
    with: &Neighbours,
    cx: &Context,
    from: &HostName,
    to: &HostName,
) -> Result<(), StepError> {
    let (one, other) = (with.view.host(from), with.view.host(to));
    let same = one
        .zip(other)
        .is_none_or(|(one, other)| alike(&one, &other));
    if with.checks.skip_cpu || same {
        return Ok(());
    }
    let Some(cpu) = ask(with, cx, from, Question::GuestCpu).await else {
        return Ok(());
    };
    match ask(with, cx, to, Question::LacksCpu { cpu }).await {
        Some(missing) => Err(lacks(to, &missing)),
        None => Ok(()),
    }
}

/// What an agent says, if it says something.
async fn ask(
    with: &Neighbours,
    cx: &Context,
    host: &HostName,
    question: Question,
) -> Option<String> {
    let what = question.name();
    let rest = cx.until.saturating_duration_since(Instant::now());
    let asking = with.questions.ask(host, cx.server, question);
    let told = tokio::time::timeout(THINKING.min(rest / 4), asking).await;
    match told {
        Ok(Ok(text)) => Some(text).filter(|text| !text.is_empty()),
        Ok(Err((_, reason))) => {
            tracing::warn!(%host, server = %cx.server, what, reason, "processors are not compared");
            None
        }
        Err(_) => {
            tracing::warn!(%host, server = %cx.server, what, "processors are not compared: the host does not answer");
            None
        }
    }
}

fn lacks(host: &HostName, missing: &str) -> StepError {
    let words = |host: &str| {
        format!("CPU doesn't have compatibility: {host} cannot run the guest: {missing}")
    };
    StepError::Fail(Failure::new(500, words("the new host")).details(words(host.as_str())))
}
