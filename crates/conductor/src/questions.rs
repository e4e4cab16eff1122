//! Short questions to hosts, from any process: stored, handed over at the desk of whichever conductor the host's agent
//! asks for work, answered there.

use bus::{Bell, Bus};
use sql::{Store, Tx};
use std::time::Duration;
use tokio::time::Instant;
use types::agent::{FailureKind, Question};
use types::{HostName, ServerId, Timestamp};
use uuid::Uuid;

/// How long a short question may take.
const TIME: Duration = Duration::from_secs(20);
/// How often the database is looked into, for an answer that another process received.
const LOOK: Duration = Duration::from_millis(500);

/// The answer to a short question, or why there is none.
type Reply = Result<String, (FailureKind, String)>;

/// Asks hosts.
pub struct Questions {
    store: Store,
    bus: Bus,
}

impl Questions {
    /// Asks by this database and these bells.
    pub fn new(store: Store, bus: Bus) -> Self {
        Self { store, bus }
    }

    async fn put(
        &self,
        id: Uuid,
        host: HostName,
        server: ServerId,
        question: Question,
    ) -> Result<(), sql::Error> {
        let asked = host.clone();
        self.store
            .write(move |tx| {
                db::questions::ask(tx, id, &asked, server, &question, Timestamp::now())
            })
            .await?;
        self.bus.ring(Bell::Host(host));
        Ok(())
    }

    async fn wait(&self, id: Uuid, bell: &mut bus::Listener) -> Result<Reply, sql::Error> {
        let until = Instant::now() + TIME;
        loop {
            let answered = move |tx: &mut Tx<'_>| db::questions::answered::<Reply>(tx, id);
            if let Some(reply) = self.store.read(answered).await? {
                return Ok(reply);
            }
            if Instant::now() >= until {
                let told = "the host did not answer in time".to_owned();
                return Ok(Err((FailureKind::Timeout, told)));
            }
            let look = until.min(Instant::now() + LOOK);
            // Both mean: look again.
            let _ = tokio::time::timeout_at(look, bell.rung()).await;
        }
    }
}

/// Removes the question, also when nobody waits for the answer any more.
struct Asked {
    store: Store,
    id: Uuid,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let (store, id) = (self.store.clone(), self.id);
        tokio::spawn(async move {
            let gone: Result<(), sql::Error> =
                store.write(move |tx| db::questions::forget(tx, id)).await;
            if let Err(error) = gone {
                tracing::debug!(%error, "an answered question is forgotten later");
            }
        });
    }
}

#[async_trait::async_trait]
impl clients::HostQuestions for Questions {
    async fn ask(&self, host: &HostName, server: ServerId, question: Question) -> Reply {
        let id = Uuid::new_v4();
        let mut bell = self.bus.listen(Bell::Answer(id));
        let _asked = Asked {
            store: self.store.clone(),
            id,
        };
        let asking = async {
            self.put(id, host.clone(), server, question).await?;
            self.wait(id, &mut bell).await
        };
        let unavailable = |error: sql::Error| Err((FailureKind::Unavailable, error.to_string()));
        asking.await.unwrap_or_else(unavailable)
    }
}
