//! Looks at the database after every commit, and knows whose commit it was.

use db::repair::Finding;
use db::tasks::{Phase, Task};
use sql::{Error, Tx};
use std::collections::BTreeMap;
use std::sync::Mutex;
use testkit::PROJECT;
use types::{ProjectId, TaskId};

/// The API's line to the database, which may end any task.
pub const API: &str = "api";

type Place = (Phase, Option<String>, String, Option<i64>, Option<String>);

fn place(task: &Task) -> Place {
    (
        task.phase,
        task.step.clone(),
        task.state.clone(),
        task.event,
        task.failure.clone(),
    )
}

#[derive(Default)]
struct Seen {
    tasks: BTreeMap<TaskId, Task>,
    /// The line of each worker's incarnation: the one that registered it.
    lines: BTreeMap<(String, i64), String>,
    commits: u64,
    claims: u64,
    taken_over: u64,
}

/// What must hold at every moment.
#[derive(Default)]
pub struct Watch {
    seen: Mutex<Seen>,
    wrong: Mutex<Vec<String>>,
}

impl Watch {
    /// What was wrong so far.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// Commits, claims of tasks, and those of them that took a task from another runner.
    pub fn counts(&self) -> (u64, u64, u64) {
        let seen = self.seen.lock().unwrap();
        (seen.commits, seen.claims, seen.taken_over)
    }

    /// Looks at what a commit over this line has left.
    pub fn look(&self, tx: &mut Tx<'_>, line: &str) {
        let mut wrong = Vec::new();
        let looked = self
            .tasks(tx, line, &mut wrong)
            .and_then(|()| counters(tx, &mut wrong))
            .and_then(|()| claims(tx, &mut wrong));
        match looked {
            // The tables are being made, or have not all their columns yet.
            Err(Error::Missing(_) | Error::Statement(_)) if self.counts().1 == 0 => {}
            Err(error) => wrong.push(format!("the watch cannot look: {error}")),
            Ok(()) => {}
        }
        self.wrong
            .lock()
            .unwrap()
            .extend(wrong.iter().map(|text| format!("{line}: {text}")));
    }

    fn tasks(&self, tx: &mut Tx<'_>, line: &str, wrong: &mut Vec<String>) -> Result<(), Error> {
        let mut seen = self.seen.lock().unwrap();
        seen.commits += 1;
        for (name, incarnation, _) in db::tasks::workers(tx)? {
            let key = (name, incarnation);
            seen.lines.entry(key).or_insert_with(|| line.to_owned());
        }
        let mut now = BTreeMap::new();
        for task in db::tasks::open(tx)? {
            now.insert(task.id, task);
        }
        let owned = |seen: &Seen, task: &Task| {
            let owner = task.owner.clone().map(|name| (name, task.incarnation));
            owner.and_then(|key| seen.lines.get(&key).cloned())
        };
        for (id, task) in &now {
            let told = format!("{} {id}", task.flow);
            let Some(before) = seen.tasks.get(id).cloned() else {
                if task.epoch != 0 {
                    wrong.push(format!("{told} begins in epoch {}", task.epoch));
                }
                continue;
            };
            if task.epoch == before.epoch {
                if (&task.owner, task.incarnation) != (&before.owner, before.incarnation) {
                    wrong.push(format!(
                        "{told} has two owners in epoch {}: {:?}, {:?}",
                        task.epoch, before.owner, task.owner
                    ));
                }
                if place(task) != place(&before) && owned(&seen, task).as_deref() != Some(line) {
                    wrong.push(format!(
                        "{told} was moved by one who does not own it: {before:?}, {task:?}"
                    ));
                }
                continue;
            }
            seen.claims += 1;
            seen.taken_over += u64::from(before.owner.is_some());
            if task.epoch != before.epoch + 1 || owned(&seen, task).as_deref() != Some(line) {
                wrong.push(format!(
                    "{told} was claimed for another: {before:?}, {task:?}"
                ));
            }
        }
        for (id, task) in &seen.tasks {
            let its = owned(&seen, task);
            if !now.contains_key(id) && line != API && its.as_deref() != Some(line) {
                wrong.push(format!(
                    "{} {id} was ended by one who does not own it: {task:?}",
                    task.flow
                ));
            }
        }
        seen.tasks = now;
        Ok(())
    }
}

/// What is given out is what is counted, and never more than there is.
fn counters(tx: &mut Tx<'_>, wrong: &mut Vec<String>) -> Result<(), Error> {
    for (provider, inventory) in db::placement::all_inventories(tx)? {
        let given: u64 = db::placement::allocations_on(tx, provider)?
            .iter()
            .filter(|one| one.resource_class == inventory.resource_class)
            .map(|one| one.amount)
            .sum();
        if given != inventory.used || given > inventory.capacity() {
            wrong.push(format!(
                "{} of {provider}: {} of {} shown, {given} given out",
                inventory.resource_class,
                inventory.used,
                inventory.capacity()
            ));
        }
    }
    let project = ProjectId::from(PROJECT);
    let (held, counted) = (
        db::usages::of_project(tx, &project)?,
        db::usages::recount(tx, &project)?,
    );
    if held != counted {
        wrong.push(format!("the quota counts {held:?}, there is {counted:?}"));
    }
    Ok(())
}

/// Whoever is on a host, and nobody works on, holds it: an audit may come at any moment, and mends what it finds.
fn claims(tx: &mut Tx<'_>, wrong: &mut Vec<String>) -> Result<(), Error> {
    let found = db::repair::audit(tx)?.into_iter();
    let lost = found.filter(|one| matches!(one, Finding::Unclaimed(_)));
    wrong.extend(lost.map(|one| one.to_string()));
    Ok(())
}
