//! What differs on the hosts from what they shall be: their agents look when they are asked.

use crate::check::Check;
use crate::db::{agents, looks};
use crate::fault::Fault;
use crate::service::Service;
use crate::work::{Context, Work};
use policy::Target;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use types::network_wanted::LOOKS;

/// How long the agents have. Whoever asks waits somewhat longer than this.
const WAIT: Duration = Duration::from_secs(20);
/// How often the database is asked: another process may have taken an answer.
const LOOK: Duration = Duration::from_millis(500);

/// `POST /v2.0/agents/looks`: asks all hosts that have a living agent which knows looks, and answers when all of them have, or their time is over.
pub async fn ask(service: &Service, cx: &Context, body: &Value) -> Result<Value, Fault> {
    let mend = mend(body)?;
    cx.demand("get_agent", &Target::new())?;
    if mend {
        cx.demand("update_agent", &Target::new())?;
    }
    let Told {
        number,
        hosts,
        unasked,
    } = tell(service, cx, mend).await?;
    let mut answer = answers(service, cx, number, &hosts, Instant::now() + WAIT).await?;
    let unasked = unasked.iter();
    answer["unasked"] = unasked
        .map(|(host, reason)| json!({"host": host, "reason": reason}))
        .collect();
    Ok(answer)
}

/// A look that is wanted.
pub struct Told {
    /// Its number.
    pub number: u64,
    /// Who was asked.
    pub hosts: BTreeSet<String>,
    /// Hosts with agents that were not, and why.
    pub unasked: BTreeMap<String, &'static str>,
}

/// Tells the hosts that a look is wanted.
pub async fn tell(service: &Service, cx: &Context, mend: bool) -> Result<Told, Fault> {
    let act = move |work: &mut Work<'_, '_>| {
        let all = agents::list(work.tx, work.cx.config.agent_down_seconds)?;
        let (mut hosts, mut unasked) = (BTreeSet::new(), BTreeMap::new());
        for agent in &all {
            let host = agent.text("host").to_owned();
            // Those of an older release do not know what a look is.
            let knows = |figures: &Value| figures[LOOKS] == 1;
            if !agent.flag("alive") {
                unasked.entry(host).or_insert("is down");
            } else if agent.get("configurations").is_some_and(knows) {
                hosts.insert(host);
            } else {
                unasked.insert(host, "is of an older release");
            }
        }
        unasked.retain(|host, _| !hosts.contains(host));
        let number = looks::ask(work.tx, &hosts, mend)?;
        for host in &hosts {
            work.look_asked(host);
        }
        Ok(Told {
            number,
            hosts,
            unasked,
        })
    };
    service.write(cx, act).await
}

/// What these hosts have found, when all have answered or at the deadline.
pub async fn answers(
    service: &Service,
    cx: &Context,
    number: u64,
    hosts: &BTreeSet<String>,
    deadline: Instant,
) -> Result<Value, Fault> {
    loop {
        let told = service.inner.looked.notified();
        let read = move |work: &mut Work<'_, '_>| looks::answers(work.tx, number);
        let mut answers = service.read(cx, read).await?;
        answers.retain(|host, _| hosts.contains(host));
        let now = Instant::now();
        if answers.len() == hosts.len() || now >= deadline {
            let silent: Vec<&String> = hosts
                .iter()
                .filter(|host| !answers.contains_key(*host))
                .collect();
            let found: Vec<Value> = answers
                .iter()
                .map(|(host, differences)| json!({"host": host, "differences": differences}))
                .collect();
            return Ok(json!({"looks": found, "silent": silent}));
        }
        tokio::select! {
            () = told => {}
            () = tokio::time::sleep_until(deadline.min(now + LOOK)) => {}
        }
    }
}

fn mend(body: &Value) -> Result<bool, Fault> {
    let look = body.get("look").and_then(Value::as_object);
    let look = look.ok_or_else(|| Fault::request("Unable to find 'look' in request body"))?;
    if let Some(unknown) = look.keys().find(|name| *name != "mend") {
        let text = format!("Unrecognized attribute(s) '{unknown}'");
        return Err(Fault::request(text));
    }
    let Some(mend) = look.get("mend") else {
        return Ok(false);
    };
    let mend = Check::Bool.run(mend);
    let mend = mend
        .map_err(|reason| Fault::request(format!("Invalid input for mend. Reason: {reason}.")))?;
    Ok(mend.as_bool() == Some(true))
}
