//! Moves on every database there is.
#![allow(clippy::unwrap_used)]

use crate::migrations::{self, End, Filter, Kind, NewMigration, Page, Status};
use sql::Tx;
use types::{FlavorId, MigrationId, ServerId, Timestamp};

fn begin(tx: &mut Tx<'_>, server: ServerId, kind: Kind, at: i64) -> MigrationId {
    let (id, flavor) = (MigrationId::random(), FlavorId("gone".to_owned()));
    let new = NewMigration {
        id,
        server,
        kind,
        status: Status::PreMigrating,
        source: End {
            compute: Some("h1".into()),
            node: Some("n1".to_owned()),
        },
        dest: End::default(),
        old_flavor: &flavor,
        new_flavor: &flavor,
        project_id: "p",
        user_id: "u",
    };
    migrations::insert(tx, &new, Timestamp(at)).unwrap();
    id
}

#[tokio::test]
async fn moves_are_told_apart() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let server = ServerId::random();
            let cold = begin(tx, server, Kind::Migration, 10);
            let live = begin(tx, server, Kind::LiveMigration, 20);
            begin(tx, ServerId::random(), Kind::Resize, 20);

            let fresh = migrations::get(tx, cold)?.unwrap();
            assert_eq!(
                (fresh.status, fresh.updated_at, fresh.old_flavor),
                (Status::PreMigrating, None, None),
                "{name}"
            );
            let dest = End {
                compute: Some("h2".into()),
                node: Some("n2".to_owned()),
            };
            migrations::set_dest(tx, cold, &dest, Timestamp(30))?;
            assert!(migrations::set_status(
                tx,
                cold,
                Status::Finished,
                Timestamp(40)
            )?);
            assert!(!migrations::set_status(
                tx,
                MigrationId::random(),
                Status::Finished,
                Timestamp(40)
            )?);
            let found = migrations::of_server_in(tx, server, Status::Finished)?.unwrap();
            assert_eq!((found.id, &found.dest), (cold, &dest), "{name}");
            let by_number = migrations::of_server_by_number(tx, server, found.number)?;
            assert_eq!(by_number.unwrap().id, cold);
            let other = ServerId::random();
            assert!(migrations::of_server_by_number(tx, other, found.number)?.is_none());

            assert!(migrations::live_in_progress(tx, server)?.is_empty());
            migrations::set_status(tx, live, Status::Queued, Timestamp(50))?;
            assert_eq!(migrations::live_in_progress(tx, server)?[0].id, live);

            let rested = |tx: &mut Tx<'_>, before| {
                migrations::at_rest_since(tx, Status::Finished, Timestamp(before))
                    .unwrap()
                    .len()
            };
            assert_eq!((rested(tx, 39), rested(tx, 40)), (0, 1), "{name}");

            let mut page = Page {
                after: None,
                limit: 2,
            };
            let mut seen = Vec::new();
            while let Some(found) = migrations::list(tx, &Filter::default(), Some(page))?
                && let Some(last) = found.last()
            {
                page.after = Some(last.id);
                seen.extend(found.iter().map(|one| one.created_at.0));
            }
            assert_eq!(seen, [20, 20, 10], "{name}");
            let changed = Filter {
                changed_since: Some(Timestamp(45)),
                ..Filter::default()
            };
            assert_eq!(migrations::list(tx, &changed, None)?.unwrap()[0].id, live);
            page.after = Some(MigrationId::random());
            assert!(migrations::list(tx, &Filter::default(), Some(page))?.is_none());
            Ok(())
        });
        run.await.unwrap();
    }
}

/// The other host may be reached as long as a move is under way, however that goes.
#[tokio::test]
async fn a_live_migration_is_under_way_until_it_is_over() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let server = ServerId::random();
            let live = begin(tx, server, Kind::LiveMigration, 10);
            let in_progress = Status::LIVE_IN_PROGRESS.iter();
            let over = [Status::Completed, Status::Cancelled, Status::Error];
            let all = in_progress.map(|status| (*status, true));
            for (status, wanted) in all.chain(over.map(|status| (status, false))) {
                migrations::set_status(tx, live, status, Timestamp(20))?;
                let found = migrations::under_way(tx, server)?;
                let is_found = found.is_some_and(|found| found.id == live);
                assert_eq!(is_found, wanted, "{name} {status:?}");
            }
            Ok(())
        });
        run.await.unwrap();
    }
}

#[tokio::test]
async fn a_host_is_owing_until_it_removed_what_it_had() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let (server, now) = (ServerId::random(), Timestamp(30));
            let (from, other) = ("h1".into(), "h2".into());
            let away = begin(tx, server, Kind::Evacuation, 10);
            let resize = begin(tx, server, Kind::Resize, 20);
            migrations::set_status(tx, resize, Status::Done, now)?;
            assert!(!migrations::any_evacuated_from(tx, &from)?, "{name}");
            migrations::set_status(tx, away, Status::Done, now)?;
            assert!(migrations::any_evacuated_from(tx, &from)?, "{name}");
            assert!(!migrations::any_evacuated_from(tx, &other)?, "{name}");
            migrations::evacuated(tx, server, &from, now)?;
            assert!(!migrations::any_evacuated_from(tx, &from)?, "{name}");
            Ok(())
        });
        run.await.unwrap();
    }
}
