//! Serving volumes to hosts: exports of a `qemu-storage-daemon` (QEMU, "QEMU Storage Daemon QMP Reference").
//!
//! The daemon outlives this service, as guests do. Which exports there are to be is decided by the attachments in the
//! database; [`Exports::reconcile`] makes the daemon agree with them, and starts it when it is gone. Each attachment
//! has an export with a name of its own that cannot be guessed.

mod qmp;

use crate::config::{Config, Serving};
use crate::storage::{Files, GIB};
use qmp::Qmp;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Mutex;

/// How long the daemon may take to begin.
const BEGIN: Duration = Duration::from_secs(15);
/// Pause between two looks at something that takes time.
const PAUSE: Duration = Duration::from_millis(50);

/// One export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its name on the wire.
    pub name: String,
    /// Whose data.
    pub volume_id: String,
    /// GiB of the volume.
    pub size: u64,
    /// Whether writes are refused.
    pub readonly: bool,
}

impl Export {
    /// The block node that it shows: one for each volume and size, because an open node keeps its size.
    fn node(&self) -> String {
        node(&self.volume_id, self.size)
    }

    /// The daemon's id of it.
    fn id(&self) -> String {
        format!("x{}", self.name)
    }
}

/// Node names have 31 characters at most.
fn node(volume_id: &str, size: u64) -> String {
    format!("{}{size}", nodes_of(volume_id))
}

/// What the names of a volume's nodes begin with.
fn nodes_of(volume_id: &str) -> String {
    let id: String = volume_id
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(22)
        .collect();
    format!("v{id}-")
}

/// The exports of all attachments.
pub struct Exports {
    files: Files,
    serving: Serving,
    address: String,
    port: u16,
    daemon: Mutex<Option<Qmp>>,
    /// Copies have a monitor of their own, so that nobody waits for them to attach.
    copying: Mutex<()>,
}

impl Exports {
    /// Nothing is started yet.
    pub fn new(files: Files, config: &Config) -> Self {
        Self {
            files,
            serving: config.serving.clone(),
            address: config.nbd_address.to_string(),
            port: config.nbd_port,
            daemon: Mutex::new(None),
            copying: Mutex::new(()),
        }
    }

    /// Whether anything is really served.
    pub fn serves(&self) -> bool {
        self.serving == Serving::Nbd
    }

    /// What a host must know to connect (Cinder's `connection_info`).
    pub fn connection(&self, export: &Export, attachment_id: &str, mode: &str) -> Value {
        json!({
            "driver_volume_type": "nbd",
            "data": {
                "host": self.address,
                "port": self.port,
                "export": export.name,
                "access_mode": mode,
                "encrypted": false,
                "discard": true,
                "cacheable": false,
                "volume_id": export.volume_id,
                "attachment_id": attachment_id,
                "qos_specs": null,
            },
            "volume_id": export.volume_id,
            "attachment_id": attachment_id,
        })
    }

    /// Makes the daemon serve exactly these exports, and ends it when there are none.
    pub async fn reconcile(&self, wanted: &[Export]) -> Result<(), String> {
        if !self.serves() {
            return Ok(());
        }
        let mut daemon = self.daemon.lock().await;
        if wanted.is_empty() {
            return self.end(&mut daemon).await;
        }
        let qmp = self.reached(&mut daemon).await?;
        let outcome = agree(qmp, &self.files, wanted).await;
        if outcome.is_err() {
            // The connection may be what is broken.
            *daemon = None;
        }
        outcome
    }

    /// Whether the daemon has the file of a volume open: served to somebody, or read by a copy.
    pub async fn is_open(&self, volume_id: &str) -> Result<bool, String> {
        if !self.serves() {
            return Ok(false);
        }
        let mut daemon = self.daemon.lock().await;
        let Some(qmp) = self.connected(&mut daemon).await? else {
            return Ok(false);
        };
        let begin = nodes_of(volume_id);
        let open = nodes(qmp).await;
        if open.is_err() {
            *daemon = None;
        }
        Ok(open?.iter().any(|name| name.starts_with(&begin)))
    }

    /// Copies a volume that is being written, as it is at one moment. False when it is not served: then nobody writes.
    pub async fn copy(&self, volume_id: &str, target: &Path) -> Result<bool, String> {
        if !self.serves() {
            return Ok(false);
        }
        let _one_at_a_time = self.copying.lock().await;
        let Ok(mut qmp) = Qmp::connect(&self.socket("copies")).await else {
            return Ok(false);
        };
        let qmp = &mut qmp;
        let begin = nodes_of(volume_id);
        let all = nodes(qmp).await?;
        let mut sources = all.iter().filter(|name| name.starts_with(&begin));
        // Of a volume that has just grown there may be two; no moment is the same for both.
        let (Some(source), None) = (sources.next(), sources.next()) else {
            return Ok(false);
        };
        let size: u64 = source[begin.len()..]
            .parse()
            .map_err(|_| "a volume is open under a strange name".to_owned())?;
        std::fs::OpenOptions::new()
            .write(true)
            .open(target)
            .and_then(|file| file.set_len(size * GIB))
            .map_err(|error| error.to_string())?;
        let job = format!("j{}", uuid::Uuid::new_v4().simple());
        let place = format!("t{}", &job[1..29]);
        add_node(qmp, &place, target).await?;
        let copied = backup(qmp, &job, source, &place).await;
        let removed = qmp.run("blockdev-del", json!({"node-name": place})).await;
        copied.and(removed.map(|_| true))
    }

    async fn end(&self, daemon: &mut Option<Qmp>) -> Result<(), String> {
        if let Some(qmp) = self.connected(daemon).await? {
            // It may end before it has answered.
            let _ = qmp.run("quit", json!({})).await;
            *daemon = None;
            let _ = std::fs::remove_file(self.socket("qmp"));
        }
        Ok(())
    }

    fn socket(&self, monitor: &str) -> PathBuf {
        self.files.nbd().join(format!("{monitor}.sock"))
    }

    /// The daemon, if it runs.
    async fn connected<'a>(
        &self,
        daemon: &'a mut Option<Qmp>,
    ) -> Result<Option<&'a mut Qmp>, String> {
        let alive = match daemon.as_mut() {
            Some(qmp) => qmp.run("query-block-exports", json!({})).await.is_ok(),
            None => false,
        };
        if !alive {
            *daemon = Qmp::connect(&self.socket("qmp")).await.ok();
        }
        Ok(daemon.as_mut())
    }

    /// The daemon, started when it does not run.
    async fn reached<'a>(&self, daemon: &'a mut Option<Qmp>) -> Result<&'a mut Qmp, String> {
        if self.connected(daemon).await?.is_none() {
            self.start().await?;
            let until = tokio::time::Instant::now() + BEGIN;
            *daemon = loop {
                match Qmp::connect(&self.socket("qmp")).await {
                    Ok(qmp) => break Some(qmp),
                    Err(error) if tokio::time::Instant::now() > until => return Err(error),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            };
        }
        daemon
            .as_mut()
            .ok_or_else(|| "the storage daemon is not reached".to_owned())
    }

    fn monitor(&self, name: &str) -> [String; 4] {
        let path = escaped(&self.socket(name));
        [
            "--chardev".to_owned(),
            format!("socket,id={name},path={path},server=on,wait=off"),
            "--monitor".to_owned(),
            format!("chardev={name}"),
        ]
    }

    /// Starts the daemon; it detaches itself once it is ready.
    async fn start(&self) -> Result<(), String> {
        let folder = self.files.nbd();
        for monitor in ["qmp", "copies"] {
            let _ = std::fs::remove_file(self.socket(monitor));
        }
        let log = std::fs::File::create(folder.join("daemon.log"));
        let log = log.map_err(|error| error.to_string())?;
        let mut command = Command::new("qemu-storage-daemon");
        command
            .args(["--daemonize", "--pidfile"])
            .arg(folder.join("daemon.pid"))
            .args(self.monitor("qmp"))
            .args(self.monitor("copies"))
            .arg("--nbd-server")
            .arg(format!(
                "addr.type=inet,addr.host={},addr.port={},max-connections=0",
                self.address, self.port
            ))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let status = tokio::time::timeout(BEGIN, command.status()).await;
        let status = status
            .map_err(|_| "qemu-storage-daemon does not begin".to_owned())?
            .map_err(|error| format!("qemu-storage-daemon cannot be run: {error}"))?;
        if status.success() {
            tracing::info!(port = self.port, "volumes are served");
            return Ok(());
        }
        let said = std::fs::read_to_string(folder.join("daemon.log")).unwrap_or_default();
        let said = said.lines().last().unwrap_or_default();
        Err(format!("qemu-storage-daemon ended ({status}): {said}"))
    }
}

/// In QEMU's options a comma is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

async fn nodes(qmp: &mut Qmp) -> Result<HashSet<String>, String> {
    let found = qmp
        .run("query-named-block-nodes", json!({"flat": true}))
        .await?;
    Ok(names(&found, "node-name"))
}

fn names(list: &Value, field: &str) -> HashSet<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|one| one[field].as_str())
        .map(str::to_owned)
        .collect()
}

async fn add_node(qmp: &mut Qmp, name: &str, path: &Path) -> Result<(), String> {
    let path = path.to_str().ok_or("a path is not text")?;
    let file = json!({"driver": "file", "filename": path, "locking": "off", "discard": "unmap"});
    let node = json!({"driver": "raw", "node-name": name, "discard": "unmap", "detect-zeroes": "unmap", "file": file});
    qmp.run("blockdev-add", node).await.map(drop)
}

/// Removes what is not wanted, adds what is missing.
async fn agree(qmp: &mut Qmp, files: &Files, wanted: &[Export]) -> Result<(), String> {
    let there = qmp.run("query-block-exports", json!({})).await?;
    let mut held: HashMap<String, String> = HashMap::new();
    for one in there.as_array().into_iter().flatten() {
        if let (Some(id), Some(node)) = (one["id"].as_str(), one["node-name"].as_str()) {
            held.insert(id.to_owned(), node.to_owned());
        }
    }
    let ids: HashSet<String> = wanted.iter().map(Export::id).collect();
    let unwanted: Vec<String> = held
        .keys()
        .filter(|id| !ids.contains(*id))
        .cloned()
        .collect();
    for id in unwanted {
        remove_export(qmp, &id, "hard").await?;
        held.remove(&id);
    }
    for export in wanted {
        match held.get(&export.id()) {
            Some(node) if *node == export.node() => continue,
            // The volume has grown. A host that is connected would lose it; one that is not gets the new size.
            Some(_) if remove_export(qmp, &export.id(), "safe").await.is_err() => continue,
            _ => {}
        }
        add_export(qmp, files, export).await?;
    }
    remove_unused_nodes(qmp).await
}

async fn add_export(qmp: &mut Qmp, files: &Files, export: &Export) -> Result<(), String> {
    let node = export.node();
    if !nodes(qmp).await?.contains(&node) {
        add_node(qmp, &node, &files.volume(&export.volume_id)).await?;
    }
    let arguments = json!({
        "type": "nbd",
        "id": export.id(),
        "node-name": node,
        "name": export.name,
        "writable": !export.readonly,
    });
    qmp.run("block-export-add", arguments).await.map(drop)
}

/// Returns when it is gone, which is later than the command's answer.
async fn remove_export(qmp: &mut Qmp, id: &str, mode: &str) -> Result<(), String> {
    qmp.run("block-export-del", json!({"id": id, "mode": mode}))
        .await?;
    for _ in 0..200 {
        let there = qmp.run("query-block-exports", json!({})).await?;
        if !names(&there, "id").contains(id) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err("an export does not go".to_owned())
}

async fn remove_unused_nodes(qmp: &mut Qmp) -> Result<(), String> {
    let there = qmp.run("query-block-exports", json!({})).await?;
    let used = names(&there, "node-name");
    let ours = |name: &String| name.starts_with('v') && !used.contains(name);
    for name in nodes(qmp).await?.into_iter().filter(ours) {
        // A copy may still read it; then it goes the next time.
        if let Err(reason) = qmp.run("blockdev-del", json!({"node-name": name})).await {
            tracing::debug!(name, reason, "a volume that nobody uses is still open");
        }
    }
    Ok(())
}

/// A copy of a node at one moment, into another node.
async fn backup(qmp: &mut Qmp, job: &str, source: &str, target: &str) -> Result<(), String> {
    let arguments = json!({
        "job-id": job,
        "device": source,
        "target": target,
        "sync": "full",
        "auto-dismiss": false,
    });
    qmp.run("blockdev-backup", arguments).await?;
    loop {
        let jobs = qmp.run("query-jobs", json!({})).await?;
        let found = jobs
            .as_array()
            .and_then(|jobs| jobs.iter().find(|one| one["id"] == job));
        let Some(found) = found else {
            return Err("the copy of a volume is lost".to_owned());
        };
        if found["status"] == "concluded" {
            let failed = found["error"].as_str().map(str::to_owned);
            qmp.run("job-dismiss", json!({"id": job})).await?;
            return failed.map_or(Ok(()), Err);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests;
