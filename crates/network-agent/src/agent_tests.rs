#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::{CloudId, Secret};
use crate::source::SourceError;
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

struct Feed {
    wanted: watch::Receiver<HostWanted>,
    asked: mpsc::UnboundedSender<u64>,
    reports: mpsc::UnboundedSender<HostReport>,
    /// Whether it has refused what a look has found, as it does the first time.
    refused: AtomicBool,
}

#[async_trait]
impl WantedSource for Feed {
    async fn wanted(&self, since: u64) -> Result<Option<HostWanted>, SourceError> {
        let _ = self.asked.send(since);
        let mut wanted = self.wanted.clone();
        let news = wanted.wait_for(|wanted| wanted.revision > since).await;
        Ok(news.ok().map(|news| news.clone()))
    }

    async fn report(&self, report: HostReport) -> Result<(), SourceError> {
        if report.look.is_some() && !self.refused.swap(true, Ordering::SeqCst) {
            return Err(SourceError::Answer("not now".to_owned()));
        }
        let _ = self.reports.send(report);
        Ok(())
    }
}

/// On a machine that cannot be entered a look is answered with the reason; each is answered once, also when the service does
/// not take it the first time.
#[tokio::test]
async fn looks_are_answered_once_also_where_nothing_can_be_seen() {
    let mut config = Config::new(CloudId::new("c1").unwrap(), "h1", Secret::new("s"));
    config.root_netns = Some("/nowhere/netns".into());
    config.heartbeat = Duration::from_secs(3600);
    let (feed, wanted) = watch::channel(HostWanted::default());
    let (asks, mut asked) = mpsc::unbounded_channel();
    let (reports, mut told) = mpsc::unbounded_channel();
    let source = Arc::new(Feed {
        wanted,
        asked: asks,
        reports,
        refused: AtomicBool::new(false),
    });
    let stop = CancellationToken::new();
    let agent = tokio::spawn(Agent::run(config, source, stop.clone()));
    let mut looked = async || {
        loop {
            let report = tokio::time::timeout(Duration::from_secs(60), told.recv());
            let report: HostReport = report.await.unwrap().unwrap();
            if let Some(look) = report.look {
                assert!(report.partial && report.ports.is_empty());
                return look;
            }
        }
    };
    for (revision, number, answered) in [(1, 1, true), (2, 2, true), (3, 2, false), (4, 3, true)] {
        feed.send_replace(HostWanted {
            revision,
            full: revision == 1,
            look: Some(Look {
                number,
                mend: revision == 2,
            }),
            ..HostWanted::default()
        });
        // It has taken the news when it asks for the next.
        while asked.recv().await.unwrap() < revision {}
        if answered {
            let look = looked().await;
            assert_eq!(look.number, number);
            assert_eq!(look.differences.len(), 1);
            let why = "the machine cannot be looked at: ";
            assert!(look.differences[0].starts_with(why), "{look:?}");
        }
    }
    stop.cancel();
    agent.await.unwrap().unwrap();
}
