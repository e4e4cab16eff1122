//! Answers to the short questions of conductors.

use super::{Agent, LiveAction, failure};
use crate::beats::seen;
use crate::images::Failure;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;
use types::agent::{Answer, Asked, FailureKind, GuestImage, Holdings, Question};

impl Agent {
    pub(super) async fn answer(self: Arc<Self>, asked: Asked) {
        let result = self.result_of(&asked).await;
        let answer = Answer {
            id: asked.id,
            result,
        };
        self.give(answer).await;
    }

    pub(super) async fn give(self: Arc<Self>, answer: Answer) {
        if let Err(error) = self.post("answer", &answer).await {
            tracing::warn!(host = %self.settings.host, %error, "an answer was not taken");
        }
    }

    async fn result_of(self: &Arc<Self>, asked: &Asked) -> Result<String, Failure> {
        match &asked.question {
            Question::ConsoleLog { max_bytes } => {
                let most = usize::try_from(*max_bytes).unwrap_or(usize::MAX);
                let log = self
                    .hypervisor
                    .console_log(asked.server, most)
                    .await
                    .map_err(failure)?;
                Ok(base64_of(&log))
            }
            Question::Diagnostics => {
                let counters = self
                    .hypervisor
                    .diagnostics(asked.server)
                    .await
                    .map_err(failure)?;
                text_of(&counters)
            }
            Question::CacheImage(image) => Ok(self.fetch_ahead(image)),
            Question::Uptime => uptime().await,
            Question::AbortLive => self.end_live(asked.server, LiveAction::Abort).await,
            Question::ForceLive => {
                let action = LiveAction::ForceComplete;
                self.end_live(asked.server, action).await
            }
            Question::GuestCpu => {
                let found = self.hypervisor.guest_cpu(asked.server).await;
                found.map(Option::unwrap_or_default).map_err(failure)
            }
            Question::LacksCpu { cpu } => {
                let found = self.hypervisor.lacks_cpu(cpu).await;
                found.map(Option::unwrap_or_default).map_err(failure)
            }
            Question::Holdings { tidy } => text_of(&self.holdings(*tidy).await?),
        }
    }

    /// What audits ask for; of a hypervisor that does not work yet, or of which conductors have not heard yet, nothing is
    /// told.
    async fn holdings(&self, tidy: bool) -> Result<Holdings, Failure> {
        if !self.listed.load(Ordering::Relaxed) || !self.facts().await.healthy {
            let words = "the host is not ready";
            return Err((FailureKind::Unavailable, words.to_owned()));
        }
        let unused = match (&self.images, self.settings.unused_images) {
            (Some(cache), Some((_, age))) if tidy => cache.remove_unused(age).await,
            (Some(cache), Some((_, age))) => cache.unused(age).await,
            _ => Ok(Vec::new()),
        };
        let unused = unused?;
        // After what may take time.
        let guests = self.hypervisor.guests().await.map_err(failure)?;
        let named = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
        Ok(Holdings {
            guests: guests.iter().map(seen).collect(),
            unused: unused.into_iter().filter_map(named).collect(),
        })
    }

    /// Fetches an image before a server needs it, while nobody waits. Guests of the simulator need no files.
    fn fetch_ahead(self: &Arc<Self>, image: &GuestImage) -> String {
        let Some(cache) = &self.images else {
            return "cached".to_owned();
        };
        if !self.hypervisor.needs_image_files() || cache.has(image) {
            return "cached".to_owned();
        }
        let (agent, image) = (Arc::clone(self), image.clone());
        tokio::spawn(async move {
            let Some(cache) = &agent.images else { return };
            let host = &agent.settings.host.0;
            let stop = CancellationToken::new();
            match cache.ensure(&agent.conductor, host, &image, 0, &stop).await {
                Ok(_) => tracing::info!(host, image = %image.id, "an image was fetched ahead"),
                Err((_, reason)) => {
                    tracing::warn!(host, image = %image.id, reason, "an image was not fetched ahead");
                }
            }
        });
        "fetching".to_owned()
    }
}

fn text_of(answer: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(answer).map_err(|error| (FailureKind::Host, error.to_string()))
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// What `uptime` prints: clients take the text apart, so it is the tool's own.
async fn uptime() -> Result<String, Failure> {
    let unknown = |reason: String| (FailureKind::Host, format!("uptime: {reason}"));
    let done = tokio::process::Command::new("uptime")
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| unknown(error.to_string()))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(unknown(done.status.to_string()))
    }
}
