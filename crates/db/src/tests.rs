//! What guests leave, files for them, and first answers, on every database there is.
#![allow(clippy::unwrap_used)]

use crate::idempotency::{self, Owner};
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
        let run = database.store.write(move |tx| -> Result<(), sql::Error> {
            let (old, now) = (Timestamp(5), Timestamp(10));
            assert_eq!(
                idempotency::begin(tx, &owner("u"), "h", old, now)?,
                None,
                "{name}"
            );
            let running = idempotency::begin(tx, &owner("u"), "h", old, now)?.unwrap();
            assert_eq!((running.status, &*running.request_hash), (0, "h"), "{name}");
            idempotency::finish(tx, &owner("u"), 202, Some("there"), Some("body"))?;
            let done = idempotency::begin(tx, &owner("u"), "x", old, now)?.unwrap();
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
            assert_eq!(idempotency::begin(tx, &owner("v"), "h", old, now)?, None);
            idempotency::release(tx, &owner("v"))?;
            assert_eq!(idempotency::begin(tx, &owner("v"), "h", old, now)?, None);
            // Old keys are free again.
            let later = Timestamp(11);
            assert_eq!(
                idempotency::begin(tx, &owner("u"), "h", later, later)?,
                None,
                "{name}"
            );
            Ok(())
        });
        run.await.unwrap();
    }
}
