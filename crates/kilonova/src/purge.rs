//! `kilonova manage purge`: what is recorded of servers that were deleted long ago goes for good.

use crate::arguments::Purge as Wanted;
use crate::roles;
use crate::services;
use anyhow::Result;
use conductor::reconcile;
use db::purge::{Batch, Purge};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use types::Timestamp;

/// Removes, or counts, what was asked for.
pub(crate) async fn purge(wanted: &Wanted) -> Result<()> {
    let orders = roles::tool_orders(&wanted.of)?;
    let store = services::compute_store(&orders).await?;
    let needed = Duration::from_secs(orders.settings.event_retention).max(reconcile::RECENTLY);
    let (now, asked) = (Timestamp::now(), asked(wanted));
    let before = asked.min(now.minus(needed));
    let start = Purge::new(before, wanted.max_rows);
    let counting = start.clone();
    let all: u64 = store.read(move |tx| counting.servers(tx)).await?;
    let mut bar = Bar::new(all);
    let (mut sum, mut next) = (Batch::default(), Some(start));
    while let Some(purge) = next {
        let (batch, more): (Batch, Option<Purge>) = match wanted.dry_run {
            true => store.read(move |tx| purge.clone().count(tx)).await?,
            false => store.write(move |tx| purge.clone().remove(tx)).await?,
        };
        add(&mut sum, batch);
        bar.show(sum.servers + sum.kept);
        next = more;
        if next.is_some() && wanted.sleep > 0 && !wanted.dry_run {
            tokio::time::sleep(Duration::from_secs(wanted.sleep)).await;
        }
    }
    bar.end();
    print!("{}", told(&sum, before, wanted.dry_run));
    if asked.min(now) > before {
        println!(
            "servers that were deleted since then stay: conductors look for what is left of them elsewhere, and what happened to them is told"
        );
    }
    Ok(())
}

/// The time before which all that was deleted is to go.
fn asked(wanted: &Wanted) -> Timestamp {
    let ago = |days: u32| Timestamp::now().minus(Duration::from_secs(u64::from(days) * 24 * 3600));
    let before = wanted.before.or(wanted.days.map(ago));
    before.unwrap_or_else(Timestamp::now)
}

fn add(sum: &mut Batch, batch: Batch) {
    for (table, count) in batch.rows {
        *sum.rows.entry(table).or_default() += count;
    }
    sum.servers += batch.servers;
    sum.kept += batch.kept;
}

/// What was removed, or would be, for the operator.
fn told(sum: &Batch, before: Timestamp, dry_run: bool) -> String {
    let mut text = String::new();
    if !sum.rows.is_empty() {
        text.push_str(&format!("{:24} {:>12}\n", "table", "rows"));
    }
    for (table, count) in &sum.rows {
        text.push_str(&format!("{table:24} {count:>12}\n"));
    }
    let before = before.iso_seconds_z();
    let servers = match sum.servers {
        1 => format!("1 server that was deleted before {before}"),
        count => format!("{count} servers that were deleted before {before}"),
    };
    text.push_str(&match (sum.servers, dry_run) {
        (0, _) => {
            format!("there is nothing to remove of servers that were deleted before {before}\n")
        }
        (_, true) => format!("would remove {servers}; nothing was changed\n"),
        (_, false) => format!("removed {servers}\n"),
    });
    if sum.kept > 0 {
        text.push_str(&format!(
            "kept: {}, for which something is still to be done: a host has a guest to remove, they hold resources, or a task has not \
             ended; see `kilonova manage audit`\n",
            sum.kept
        ));
    }
    text
}

/// Characters of the bar.
const WIDTH: u64 = 40;

/// Shows how far it is, where somebody looks.
struct Bar {
    all: u64,
    seen: bool,
    shown: Option<u64>,
}

impl Bar {
    fn new(all: u64) -> Self {
        Self {
            all,
            seen: std::io::stderr().is_terminal(),
            shown: None,
        }
    }

    fn show(&mut self, done: u64) {
        if self.seen && self.shown != Some(done) {
            self.shown = Some(done);
            eprint!("\r{}", line(done, self.all));
            // A terminal that is gone is no reason to stop.
            let _ = std::io::stderr().flush();
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}

fn line(done: u64, all: u64) -> String {
    // More may have been deleted meanwhile.
    let all = all.max(done).max(1);
    let filled = done * WIDTH / all;
    let (bar, rest) = (
        "=".repeat(filled as usize),
        " ".repeat((WIDTH - filled) as usize),
    );
    format!(
        "[{bar}{rest}] {:>3}% {done} of {all} servers",
        done * 100 / all
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_to_its_end() {
        assert_eq!(
            line(0, 200),
            format!("[{}]   0% 0 of 200 servers", " ".repeat(40))
        );
        let half = format!(
            "[{}{}]  50% 100 of 200 servers",
            "=".repeat(20),
            " ".repeat(20)
        );
        assert_eq!(line(100, 200), half);
        for (done, all) in [(200, 200), (201, 200)] {
            assert!(line(done, all).starts_with(&format!("[{}] 100%", "=".repeat(40))));
        }
        assert!(line(0, 0).contains("  0% "));
    }

    #[test]
    fn what_is_removed_and_what_stays_is_told() {
        let mut sum = Batch::default();
        let before = Timestamp(0);
        let nothing = told(&sum, before, false);
        assert_eq!(
            nothing,
            "there is nothing to remove of servers that were deleted before 1970-01-01T00:00:00Z\n"
        );
        let one = Batch {
            rows: [("instances", 2), ("migrations", 3)].into(),
            servers: 2,
            kept: 1,
        };
        add(&mut sum, one.clone());
        add(&mut sum, one);
        let removed = told(&sum, before, false);
        let lines: Vec<Vec<&str>> = removed
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[..3],
            [["table", "rows"], ["instances", "4"], ["migrations", "6"]]
        );
        assert!(
            removed.contains("removed 4 servers that were") && removed.contains("\nkept: 2, for")
        );
        assert!(told(&sum, before, true).contains("would remove 4 servers"));
    }
}
