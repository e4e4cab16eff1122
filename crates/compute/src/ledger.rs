//! What the agent must remember over a restart: the epochs it has seen, and restarts that are done.
//!
//! One line of JSON per fact, appended; read and compacted at the start. A torn last line (the machine went down while
//! it was written) is left out.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
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
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh).map_err(failed)?;
        for task in &facts.order {
            let epoch = facts.epochs.get(task).copied().unwrap_or(0);
            append(&mut file, &Line::Epoch(*task, epoch)).map_err(failed)?;
        }
        for key in &facts.done {
            append(&mut file, &Line::Done(key.clone())).map_err(failed)?;
        }
        std::fs::rename(&fresh, path).map_err(failed)?;
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            inner: Mutex::new((facts, file)),
        })
    }

    fn write(&self, line: Line) -> Result<(), LedgerError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (facts, file) = &mut *inner;
        append(file, &line).map_err(|error| LedgerError {
            path: self.path.clone(),
            error,
        })?;
        facts.note(line);
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

fn append(file: &mut File, line: &Line) -> std::io::Result<()> {
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
}
