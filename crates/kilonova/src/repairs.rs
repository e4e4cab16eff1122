//! `kilonova manage task`, `audit` and `services`: what an operator looks at and repairs behind the APIs.

use crate::arguments::{Configured, Tasks};
use crate::roles;
use crate::services;
use anyhow::{Result, bail};
use conductor::on_hosts;
use conductor::reconcile::{self, Audit};
use db::hosts::Service;
use db::repair;
use db::tasks::{self, Task};
use sql::Store;
use tokio_util::sync::CancellationToken;
use types::agent::SERVICE_VERSION;
use types::{TaskId, Timestamp};

/// Looks for what should not be as it is, and mends it if that is wanted.
pub(crate) async fn audit(of: &Configured, fix: bool) -> Result<()> {
    let stop = CancellationToken::new();
    let _stops = stop.clone().drop_guard();
    let (with, bus, terms) = roles::neighbours(of, &stop).await?;
    let Audit { found, mut silent } = reconcile::audit(&with).await?;
    let hosts = on_hosts::look(&with).await?;
    for finding in &found {
        println!("{finding}");
    }
    for finding in &hosts.found {
        println!("{finding}");
    }
    for host in &hosts.unasked {
        println!("{host}");
    }
    // Nothing is wrong with a debt: its host pays it when it can. Until then there is more on it than servers show.
    let debts: Vec<_> = with.store.read(db::work::debts).await?;
    for (host, server, reason) in &debts {
        println!("{host} has yet to remove what it has of server {server}: {reason}");
    }
    // Nor with an older release, as long as an upgrade lasts.
    let services: Vec<_> = with.store.read(db::hosts::services).await?;
    for older in services.iter().filter_map(older) {
        println!("{older}");
    }
    // Nor with what conductors are about to do because its time has come.
    for one in conductor::due::due(&with.store, terms).await? {
        println!("{one}");
    }
    for one in &hosts.due {
        println!("{one}");
    }
    let count = found.len() + hosts.found.len();
    let mendable = found.iter().filter(|one| one.can_be_mended()).count() + hosts.found.len();
    silent.extend(hosts.silent.iter().map(ToString::to_string));
    let mut mended = 0;
    if fix {
        // Hosts may take minutes, in which what was found gets old.
        mended = reconcile::mend(&with, &bus, &found).await?;
        let (on_hosts, silent_now) = on_hosts::mend(&with, &bus, &hosts).await?;
        mended += on_hosts;
        silent.extend(silent_now.iter().map(ToString::to_string));
    }
    if !silent.is_empty() {
        let silent = silent.join("; ");
        bail!(
            "found {count}, mended {mended}; not everything could be looked at: {silent}. Start what does not answer, or say in \
             the file where it is, and look again"
        );
    }
    match (count, fix) {
        (0, _) if debts.is_empty() => println!("all is as it should be"),
        (0, _) => println!(
            "nothing is to be mended; hosts have {} things to remove, which they do when they can",
            debts.len()
        ),
        (count, true) if count <= mended => println!("mended {count}"),
        (count, true) => bail!("mended {mended} of {count}; the others are for you"),
        (count, false) => {
            bail!("{count} things are not as they should be; --fix mends {mendable} of them")
        }
    }
    Ok(())
}

/// What there is to say of a service that is of an older release than this program.
fn older(service: &Service) -> Option<String> {
    if service.version >= i64::from(SERVICE_VERSION) {
        return None;
    }
    let (binary, host, version) = (&service.binary, &service.host, service.version);
    Some(format!(
        "{binary} on {host} is of an older release: it speaks version {version}, this one {SERVICE_VERSION}; bring it up to date"
    ))
}

/// Shows the services there are.
pub(crate) async fn services(of: &Configured) -> Result<()> {
    let orders = roles::tool_orders(of)?;
    let down_after = i64::try_from(orders.settings.down_after().as_micros())?;
    let store = services::compute_store(&orders).await?;
    let all: Vec<Service> = store.read(db::hosts::services).await?;
    println!("{}", headline());
    for service in &all {
        println!("{}", line_of(service, Timestamp::now(), down_after));
    }
    Ok(())
}

fn headline() -> String {
    columns(["service", "host", "status", "state", "version", "last seen"])
}

fn columns([binary, host, status, state, version, seen]: [&str; 6]) -> String {
    format!("{binary:15} {host:24} {status:9} {state:6} {version:8} {seen}")
}

fn line_of(service: &Service, now: Timestamp, down_after_micros: i64) -> String {
    let version = service.version.to_string();
    let seen = service.last_seen_up.map(Timestamp::iso_seconds_z);
    let mut line = columns([
        &service.binary,
        service.host.as_str(),
        if service.disabled {
            "disabled"
        } else {
            "enabled"
        },
        match service.is_up(now, down_after_micros) {
            true => "up",
            false => "down",
        },
        &version,
        seen.as_deref().unwrap_or("-"),
    ]);
    if let Some(problem) = &service.problem {
        line.push_str(&format!("  {problem}"));
    }
    if service.version < i64::from(SERVICE_VERSION) {
        line.push_str(&format!(
            "  older than this program ({SERVICE_VERSION}): bring it up to date"
        ));
    }
    line
}

/// Looks at tasks, or does something with one.
pub(crate) async fn task(command: &Tasks) -> Result<()> {
    match command {
        Tasks::List(of) => {
            let open_tasks: Vec<Task> = open(of).await?.read(tasks::open).await?;
            println!(
                "{:36} {:36} {:20} {:20} owner",
                "task", "server", "flow", "step"
            );
            for task in open_tasks {
                println!("{}", line(&task));
            }
            Ok(())
        }
        Tasks::Show { of, id } => {
            let id = *id;
            let found: Option<Task> = open(of).await?.read(move |tx| tasks::get(tx, id)).await?;
            match found {
                Some(task) => show(&task),
                None => return gone(id),
            }
            Ok(())
        }
        Tasks::Retry { of, id } => {
            let id = *id;
            let freed: bool = open(of)
                .await?
                .write(move |tx| repair::retry(tx, id))
                .await?;
            if !freed {
                return gone(id);
            }
            println!("task {id} goes to the next conductor that looks");
            Ok(())
        }
        Tasks::Abandon { of, id, reason } => {
            let (id, reason) = (*id, reason.clone());
            let ended: Option<Task> = open(of)
                .await?
                .write(move |tx| repair::abandon(tx, id, &reason, Timestamp::now()))
                .await?;
            match ended {
                Some(task) => println!(
                    "task {id} has ended; server {} is in ERROR and can be deleted",
                    task.server
                ),
                None => return gone(id),
            }
            Ok(())
        }
    }
}

async fn open(of: &Configured) -> Result<Store> {
    services::compute_store(&roles::tool_orders(of)?).await
}

fn gone(id: TaskId) -> Result<()> {
    bail!(
        "there is no task {id}: it has ended, or never was; `kilonova manage task list` shows those that there are"
    )
}

fn line(task: &Task) -> String {
    let waits = task.waits.as_ref();
    let waits = waits.map(|waits| format!("  waits: {}", waits.reason));
    format!(
        "{} {} {:20} {:20} {}{}",
        task.id,
        task.server,
        task.flow,
        task.step.as_deref().unwrap_or("-"),
        task.owner.as_deref().unwrap_or("-"),
        waits.unwrap_or_default()
    )
}

fn show(task: &Task) {
    let none = || "-".to_owned();
    for (name, value) in [
        ("task", task.id.to_string()),
        ("server", task.server.to_string()),
        ("flow", task.flow.clone()),
        ("phase", task.phase.as_str().to_owned()),
        ("step", task.step.clone().unwrap_or_else(none)),
        ("request", task.request_id.clone()),
        ("owner", task.owner.clone().unwrap_or_else(none)),
        ("epoch", task.epoch.to_string()),
        ("failure", task.failure.clone().unwrap_or_else(none)),
        (
            "waits",
            task.waits.as_ref().map_or_else(none, |waits| {
                format!(
                    "{}, since {}, {} tries",
                    waits.reason,
                    waits.since.iso_seconds_z(),
                    waits.tries
                )
            }),
        ),
        ("state", task.state.clone()),
    ] {
        println!("{name:8} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(version: i64) -> Service {
        Service {
            id: 1,
            uuid: types::ServiceId::random(),
            host: "h1".into(),
            binary: "nova-compute".to_owned(),
            beats: 1,
            last_seen_up: Some(Timestamp(0)),
            disabled: false,
            disabled_reason: None,
            forced_down: false,
            version,
            problem: None,
            created_at: Timestamp(0),
            updated_at: None,
        }
    }

    #[test]
    fn services_of_older_releases_are_named() {
        let ours = i64::from(SERVICE_VERSION);
        assert_eq!(older(&service(ours)), None);
        assert_eq!(older(&service(ours + 1)), None);
        let told = older(&service(1)).unwrap_or_default();
        assert!(
            told.starts_with("nova-compute on h1 is of an older release: it speaks version 1"),
            "{told}"
        );
        let shown = line_of(&service(1), Timestamp(5_000_000), 6_000_000);
        assert!(shown.contains(" enabled   up     1 "), "{shown}");
        assert!(shown.contains("bring it up to date"), "{shown}");
        let shown = line_of(&service(ours), Timestamp(7_000_000), 6_000_000);
        assert!(shown.contains(" down "), "{shown}");
        assert!(!shown.contains("up to date"), "{shown}");
    }
}
