//! What the agent must remember over a restart: the epochs it has seen, and restarts that are done.
//!
//! One line of JSON per fact, appended; compacted at the start and whenever it has doubled. A torn last line (the machine
//! went down while it was written) is left out.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use types::TaskId;
use types::agent::WorkKey;

/// Tasks remembered; older ones have ended long ago.
const REMEMBERED: usize = 10_000;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Epoch(TaskId, u64),
    Done(WorkKey),
}

/// The ledger cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("the agent's ledger {}: {error}", .path.display())]
pub struct LedgerError {
    path: PathBuf,
    error: std::io::Error,
}

#[derive(Default)]
struct Facts {
    epochs: HashMap<TaskId, u64>,
    order: Vec<TaskId>,
    done: HashSet<WorkKey>,
}

impl Facts {
    fn note(&mut self, line: Line) {
        match line {
            Line::Epoch(task, epoch) => {
                if self.epochs.insert(task, epoch).is_none() {
                    self.order.push(task);
                }
            }
            Line::Done(key) => {
                self.done.insert(key);
            }
        }
    }

    fn forget_old(&mut self) {
        if self.order.len() <= REMEMBERED {
            return;
        }
        let old: HashSet<TaskId> = self.order.drain(..self.order.len() - REMEMBERED).collect();
        self.epochs.retain(|task, _| !old.contains(task));
        self.done.retain(|key| !old.contains(&key.task));
    }
}

/// The ledger of one agent.
pub struct Ledger {
    path: PathBuf,
    inner: Mutex<(Facts, File)>,
}

impl Ledger {
    /// Reads the ledger and writes it anew without what is too old.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |error| LedgerError {
            path: path.to_owned(),
            error,
        };
        let mut facts = Facts::default();
        if let Ok(file) = File::open(path) {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    facts.note(line);
                }
            }
        }
        facts.forget_old();
        let file = rewrite(path, &facts).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            inner: Mutex::new((facts, file)),
        })
    }

    fn write(&self, line: Line) -> Result<(), LedgerError> {
        let failed = |error| LedgerError {
            path: self.path.clone(),
            error,
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (facts, file) = &mut *inner;
        append(file, &line).map_err(failed)?;
        facts.note(line);
        if facts.order.len() >= 2 * REMEMBERED {
            facts.forget_old();
            *file = rewrite(&self.path, facts).map_err(failed)?;
        }
        Ok(())
    }

    /// Notes a task's epoch. `false`: a higher one was seen, so whoever sent this may not act any more.
    ///
    /// # Errors
    /// The fact cannot be written.
    pub fn admit(&self, task: TaskId, epoch: u64) -> Result<bool, LedgerError> {
        let known = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.0.epochs.get(&task).copied()
        };
        match known {
            Some(seen) if seen > epoch => Ok(false),
            Some(seen) if seen == epoch => Ok(true),
            _ => self.write(Line::Epoch(task, epoch)).map(|()| true),
        }
    }

    /// Whether this effect is done.
    pub fn is_done(&self, key: &WorkKey) -> bool {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .done
            .contains(key)
    }

    /// Notes that this effect is done.
    ///
    /// # Errors
    /// The fact cannot be written.
    pub fn set_done(&self, key: &WorkKey) -> Result<(), LedgerError> {
        self.write(Line::Done(key.clone()))
    }
}

/// Replaces the file by one with just these facts, and opens that for more.
fn rewrite(path: &Path, facts: &Facts) -> std::io::Result<File> {
    let fresh = path.with_extension("new");
    let mut text = BufWriter::new(File::create(&fresh)?);
    for task in &facts.order {
        let epoch = facts.epochs.get(task).copied().unwrap_or(0);
        append(&mut text, &Line::Epoch(*task, epoch))?;
    }
    for key in &facts.done {
        append(&mut text, &Line::Done(key.clone()))?;
    }
    text.into_inner()?;
    std::fs::rename(&fresh, path)?;
    OpenOptions::new().append(true).open(path)
}

fn append(file: &mut impl Write, line: &Line) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::agent::Direction;

    #[test]
    fn remembers_over_a_restart_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let task = TaskId::random();
        let key = WorkKey {
            task,
            step: "act".into(),
            direction: Direction::Do,
        };
        let ledger = Ledger::open(&path).unwrap();
        assert!(ledger.admit(task, 3).unwrap());
        assert!(!ledger.admit(task, 2).unwrap());
        ledger.set_done(&key).unwrap();
        drop(ledger);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"epoch\":[\"").unwrap();
        let again = Ledger::open(&path).unwrap();
        assert!(again.is_done(&key));
        assert!(!again.admit(task, 2).unwrap());
        assert!(again.admit(task, 4).unwrap());
    }

    #[test]
    fn forgets_what_is_old_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        let mut last = TaskId::random();
        for _ in 0..3 * REMEMBERED {
            last = TaskId::random();
            assert!(ledger.admit(last, 2).unwrap());
            let (step, direction) = ("act".to_owned(), Direction::Do);
            let key = WorkKey {
                task: last,
                step,
                direction,
            };
            ledger.set_done(&key).unwrap();
            let inner = ledger.inner.lock().unwrap();
            assert!(inner.0.order.len() <= 2 * REMEMBERED);
            assert_eq!(inner.0.order.len(), inner.0.epochs.len());
            assert!(inner.0.done.len() <= 2 * REMEMBERED);
        }
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 4 * REMEMBERED, "{lines}");
        assert!(!ledger.admit(last, 1).unwrap());
        drop(ledger);
        assert!(!Ledger::open(&path).unwrap().admit(last, 1).unwrap());
    }
}
