//! What guests leave, files for them, and first answers, on every database there is.
#![allow(clippy::unwrap_used)]

use crate::idempotency::{self, ACCEPTED, Owner, Times};
use crate::{guest_passwords, injected_files};
use types::{ServerId, Timestamp};

#[tokio::test]
async fn passwords_and_files_of_guests() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let server = ServerId::random();
        let name = database.name;
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let now = Timestamp::now();
            assert_eq!(guest_passwords::get(tx, server)?, None, "{name}");
            assert!(guest_passwords::put(tx, server, "one", now)?, "{name}");
            assert!(
                !guest_passwords::put(tx, server, "two", now)?,
                "{name}: the first stays"
            );
            assert_eq!(guest_passwords::get(tx, server)?.as_deref(), Some("one"));
            injected_files::put(tx, server, "sealed")?;
            assert_eq!(injected_files::get(tx, server)?.as_deref(), Some("sealed"));
            guest_passwords::remove(tx, server)?;
            injected_files::remove(tx, server)?;
            assert_eq!(guest_passwords::get(tx, server)?, None, "{name}");
            assert_eq!(injected_files::get(tx, server)?, None, "{name}");
            Ok(())
        });
        run.await.unwrap();
    }
}

#[tokio::test]
async fn first_answers() {
    for database in sql::testing::databases().await {
        crate::migrate(&database.store).await.unwrap();
        let name = database.name;
        let owner = |user: &str| Owner {
            project_id: "p".into(),
            user_id: user.into(),
            key: "k".into(),
        };
        let at = |oldest, stale, now| Times {
            oldest: Timestamp(oldest),
            stale: Timestamp(stale),
            now: Timestamp(now),
        };
        let (first, later) = (at(5, 8, 10), at(5, 11, 12));
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let u = owner("u");
            let mut begin =
                |owner: &Owner, hash: &str, times| idempotency::begin(tx, owner, hash, times);
            assert_eq!(begin(&u, "h", first)?, None, "{name}");
            let running = begin(&u, "h", first)?.unwrap();
            assert_eq!((running.status, &*running.request_hash), (0, "h"), "{name}");
            // Whoever has come to nothing for a while loses it, to the same request only.
            assert_eq!(begin(&u, "x", later)?.unwrap().status, 0, "{name}");
            assert_eq!(begin(&u, "h", later)?, None, "{name}");
            assert_eq!(
                begin(&u, "h", later)?.unwrap().created_at,
                later.now,
                "{name}"
            );
            Ok(())
        });
        run.await.unwrap();
        // A unit of work of its own: in one, PostgreSQL is believed to have changed the row until the end.
        let late = database.store.write(move |tx| -> Result<bool, sql::Error> {
            idempotency::release(tx, &owner("u"), first.now)?;
            idempotency::finish(tx, &owner("u"), first.now, 202, None, None)
        });
        assert!(!late.await.unwrap(), "{name}: it is another's");
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let (u, v) = (owner("u"), owner("v"));
            assert!(
                idempotency::finish(tx, &u, later.now, ACCEPTED, None, None)?,
                "{name}"
            );
            let accepted = idempotency::begin(tx, &u, "h", at(5, 20, 20))?.unwrap();
            assert_eq!(accepted.status, ACCEPTED, "{name}: never twice");
            assert!(idempotency::finish(
                tx,
                &u,
                later.now,
                202,
                Some("there"),
                Some("body")
            )?);
            let done = idempotency::begin(tx, &u, "x", at(5, 20, 20))?.unwrap();
            assert_eq!(
                (
                    done.status,
                    done.location.as_deref(),
                    done.sealed.as_deref()
                ),
                (202, Some("there"), Some("body")),
                "{name}"
            );
            // Another user's key of the same name is another key.
            assert_eq!(idempotency::begin(tx, &v, "h", first)?, None);
            idempotency::release(tx, &v, first.now)?;
            assert_eq!(idempotency::begin(tx, &v, "h", first)?, None);
            // Old keys are free again.
            assert_eq!(
                idempotency::begin(tx, &u, "h", at(13, 13, 13))?,
                None,
                "{name}"
            );
            Ok(())
        });
        run.await.unwrap();
    }
}
