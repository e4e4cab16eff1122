//! The two parts of a cloud that runs real guests, each a process: what they are told, and how their life hangs on the
//! supervisor's.
//!
//! A part gets its [`Orders`] as the first line of its standard input and says `ready` on its standard output. Its
//! input stays open as long as the supervisor lives, so that its end, also by SIGKILL, ends the part.

use crate::settings::Settings;
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a part may take to end once its supervisor has.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a part does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// The choices of the operator.
    pub(crate) settings: Settings,
    /// The part's own folder, by a path that it can use.
    pub(crate) folder: PathBuf,
    /// The cloud's directory.
    pub(crate) home: PathBuf,
    /// Where host agents and conductor meet.
    pub(crate) socket: PathBuf,
    /// Signs what metadata proxies say.
    pub(crate) metadata_secret: String,
    /// Secrets of the control part; the host does not get them.
    pub(crate) secrets: Option<Secrets>,
    /// The cloud's short name.
    pub(crate) cloud_id: String,
    /// Whether this process brings databases up to date; one that does not refuses older ones.
    pub(crate) migrates: bool,
}

/// What only the control part knows.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// The user `admin`.
    pub(crate) admin_password: String,
    /// The user `demo`.
    pub(crate) demo_password: String,
    /// Seals guests' passwords in the database.
    pub(crate) seal_key: String,
    /// The master keys of the key manager.
    pub(crate) key_manager_keys: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// A part's place, held until the process ends: one that follows a killed one waits for its end.
pub(crate) struct Place {
    _lock: File,
}

/// Where a part holds its place.
pub(crate) fn lock_path(folder: &Path) -> PathBuf {
    folder.join("part.lock")
}

/// Reads the orders and takes the place of this part.
pub(crate) fn begin() -> Result<(Orders, Place)> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let orders: Orders = serde_json::from_str(&line)
        .context("this part of a cloud is started by `kilonova up`, not by hand")?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(lock_path(&orders.folder))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok((orders, Place { _lock: lock }))
}

/// Says that the part does its work.
pub(crate) fn say_ready() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    Ok(())
}

/// Cancels `stop` at SIGTERM, at Ctrl-C, and when the supervisor is gone.
pub(crate) fn stop_with_supervisor(stop: &CancellationToken) {
    let gone = stop.clone();
    std::thread::spawn(move || {
        let mut rest = [0_u8; 64];
        while matches!(std::io::stdin().lock().read(&mut rest), Ok(read) if read > 0) {}
        gone.cancel();
        std::thread::sleep(PATIENCE);
        // Whatever holds it up: without its supervisor it must not go on.
        std::process::exit(1);
    });
}

/// Waits for the end: a signal, or `stop`.
pub(crate) async fn wait_for_end(stop: &CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}
