//! Records of moves.

use crate::Cluster;
use db::migrations::{self, End, Kind, NewMigration, Status};
use sql::{Error, Tx};
use types::{MigrationId, ServerId, Timestamp};

impl Cluster {
    /// A new record of a move of a server to a host with the same flavor, as the API makes it.
    pub async fn record(&self, server: ServerId, kind: Kind) -> MigrationId {
        let at = self.server(server).await;
        let id = MigrationId::random();
        let write = move |tx: &mut Tx<'_>| {
            let new = NewMigration {
                id,
                server,
                kind,
                status: Status::Accepted,
                source: End {
                    compute: at.host.clone(),
                    node: at.node.clone(),
                },
                dest: End::default(),
                old_flavor: &at.flavor.id,
                new_flavor: &at.flavor.id,
                project_id: "p",
                user_id: "u",
            };
            migrations::insert(tx, &new, Timestamp::now())
        };
        let stored: Result<i64, Error> = self.store.write(write).await;
        stored.unwrap();
        id
    }

    /// How far a move is.
    pub async fn status(&self, of: MigrationId) -> Status {
        let reading = self.store.read(move |tx| migrations::get(tx, of));
        let found: Result<_, Error> = reading.await;
        found.unwrap().unwrap().status
    }
}
