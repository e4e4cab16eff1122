#![allow(clippy::unwrap_used)]
use super::*;
use crate::source::SourceError;
use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use types::network_wanted::{Look, Mac, Port, Removed};

struct Feed {
    wanted: watch::Receiver<HostWanted>,
    reports: mpsc::UnboundedSender<HostReport>,
}

#[async_trait]
impl WantedSource for Feed {
    async fn wanted(&self, since: u64) -> Result<Option<HostWanted>, SourceError> {
        let mut wanted = self.wanted.clone();
        let news = wanted.wait_for(|wanted| wanted.revision > since).await;
        Ok(news.ok().map(|news| news.clone()))
    }

    async fn report(&self, report: HostReport) -> Result<(), SourceError> {
        let _ = self.reports.send(report);
        Ok(())
    }
}

fn port(n: u128, up: bool) -> Port {
    Port {
        id: Uuid::from_u128(n),
        network_id: Uuid::from_u128(100),
        project_id: "p".into(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        fixed_ips: vec![],
        device_id: String::new(),
        device_owner: String::new(),
        admin_state_up: up,
        port_security_enabled: true,
        allowed_address_pairs: vec![],
        security_group_ids: vec![],
        trunk: None,
    }
}

#[tokio::test]
async fn says_what_is_new_and_only_that() {
    let (feed, wanted) = watch::channel(HostWanted::default());
    let (reports, mut told) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let source = Arc::new(Feed { wanted, reports });
    let agent = tokio::spawn(Agent::run(source, Duration::from_secs(3600), stop.clone()));
    let state = |revision, ports, full, removed| HostWanted {
        revision,
        ports,
        full,
        removed,
        ..HostWanted::default()
    };
    for (news, expected) in [
        (
            state(
                1,
                vec![port(1, true), port(2, false)],
                true,
                Removed::default(),
            ),
            vec![(1, Status::Active), (2, Status::Down)],
        ),
        (
            state(2, vec![port(3, true)], false, Removed::default()),
            vec![(3, Status::Active)],
        ),
        (
            state(
                3,
                vec![port(2, true)],
                false,
                Removed {
                    ports: vec![Uuid::from_u128(1)],
                    ..Removed::default()
                },
            ),
            vec![(2, Status::Active)],
        ),
        (
            state(4, vec![port(1, true)], false, Removed::default()),
            vec![(1, Status::Active)],
        ),
        // Unbound and bound between two answers.
        (
            state(5, vec![port(1, true)], false, Removed::default()),
            vec![(1, Status::Active)],
        ),
    ] {
        let revision = news.revision;
        feed.send_replace(news);
        let report = told.recv().await.unwrap();
        assert_eq!(report.revision, revision);
        let got: Vec<_> = report
            .ports
            .iter()
            .map(|port| (port.id.as_u128(), port.status))
            .collect();
        assert_eq!(got, expected, "revision {revision}");
        assert_eq!(report.agents.len(), 4);
    }
    // A look finds nothing; it is told of once.
    let look = Look {
        number: 3,
        mend: true,
    };
    for (revision, look) in [(6, Some(look)), (7, None)] {
        feed.send_replace(HostWanted {
            look,
            ..state(revision, vec![], false, Removed::default())
        });
        let report = told.recv().await.unwrap();
        let looked = look.map(|look| Looked {
            number: look.number,
            differences: vec![],
        });
        assert_eq!((report.revision, report.look), (revision, looked));
        assert!(report.ports.is_empty());
    }
    stop.cancel();
    agent.await.unwrap();
}
