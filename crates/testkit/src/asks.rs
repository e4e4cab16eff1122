//! What hosts are asked, and by whom they are.

use crate::Cluster;
use clients::HostQuestions;
use conductor::on_hosts::{self, Look};
use conductor::questions::Questions;
use types::ServerId;
use types::agent::{FailureKind, Question};

impl Cluster {
    /// Where agents are served.
    pub fn desk(&self) -> axum::Router {
        self.desk.router()
    }

    /// Asks a server's host something.
    pub async fn ask(&self, server: ServerId, question: Question) {
        self.answer_to(server, question).await.unwrap();
    }

    /// What an operator's audit finds on hosts.
    pub async fn found_on_hosts(&self) -> Look {
        let look = on_hosts::look(self.neighbours()).await.unwrap();
        assert_eq!(look.silent, []);
        look
    }

    /// Has done at once what an audit has found on hosts; returns how much that was.
    pub async fn mend_on_hosts(&self, look: &Look) -> usize {
        let mending = on_hosts::mend(self.neighbours(), &self.bus, look);
        let (count, silent) = mending.await.unwrap();
        assert_eq!(silent, []);
        count
    }

    /// What a server's host answers.
    ///
    /// # Errors
    /// Why it has no answer.
    pub async fn answer_to(
        &self,
        server: ServerId,
        question: Question,
    ) -> Result<String, (FailureKind, String)> {
        let host = self.server(server).await.host.expect("it is on a host");
        let questions = Questions::new(self.store.clone(), self.bus.clone());
        questions.ask(&host, server, question).await
    }
}
