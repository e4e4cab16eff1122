//! QEMU's monitor protocol: a JSON document on each line, answers in order, events in between.

use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a monitor.
pub struct Qmp {
    answers: Lines<BufReader<OwnedReadHalf>>,
    commands: OwnedWriteHalf,
    next: u64,
}

impl Qmp {
    /// Connects and says hello.
    pub async fn connect(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|error| format!("the storage daemon: {error}"))?;
        let (answers, commands) = stream.into_split();
        let mut qmp = Self {
            answers: BufReader::new(answers).lines(),
            commands,
            next: 0,
        };
        let greeting = qmp.line().await?;
        if greeting["QMP"].is_null() {
            return Err("the storage daemon does not speak QMP".to_owned());
        }
        qmp.run("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command and gives its answer.
    pub async fn run(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.next += 1;
        let id = self.next;
        let line = json!({"execute": command, "arguments": arguments, "id": id});
        let line = format!("{line}\n");
        let sent = self.commands.write_all(line.as_bytes()).await;
        sent.map_err(|error| format!("the storage daemon: {error}"))?;
        loop {
            let mut answer = self.line().await?;
            if answer["id"] != id {
                continue;
            }
            if let Some(error) = answer["error"]["desc"].as_str() {
                return Err(format!("{command}: {error}"));
            }
            return Ok(answer["return"].take());
        }
    }

    async fn line(&mut self) -> Result<Value, String> {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await;
        let line = line
            .map_err(|_| "the storage daemon does not answer".to_owned())?
            .map_err(|error| format!("the storage daemon: {error}"))?
            .ok_or("the storage daemon is gone")?;
        serde_json::from_str(&line).map_err(|error| format!("the storage daemon: {error}"))
    }
}
