//! Statements that are on the way together.

use super::*;

/// Statements that were posted count in their order, also very many of them; one that fails fails where it stands, and
/// undoes only itself.
#[tokio::test]
async fn posted_statements() {
    const MORE: &str = "UPDATE things SET amount = amount + ? WHERE name = ?";
    for TestStore { name, store, .. } in &with_things().await {
        let seen = store.write(|tx| -> Result<i64, Error> {
            tx.post(
                "INSERT INTO things (name, amount) VALUES (?, ?)",
                &["a".into(), 0.into()],
            )?;
            for _ in 0..50 {
                tx.post(MORE, &[1.into(), "a".into()])?;
                tx.post("UPDATE things SET amount = amount * 2", &[])?;
                tx.post("UPDATE things SET amount = amount / 2", &[])?;
            }
            tx.query_one("SELECT amount FROM things", &[])?.get(0)
        });
        assert_eq!(seen.await.unwrap(), 50, "{name}");
        let only_posted = store.write(|tx| tx.post(MORE, &[5.into(), "a".into()]));
        only_posted.await.unwrap();

        let refused = store.write(|tx| -> Result<(), Error> {
            tx.post(MORE, &[1.into(), "a".into()])?;
            tx.post("INSERT INTO things (name) VALUES ('a')", &[])
        });
        assert!(refused.await.unwrap_err().is_unique_violation(), "{name}");
        let went_on = store.write(|tx| -> Result<bool, Error> {
            let first = tx.post("INSERT INTO things (name) VALUES ('a')", &[]);
            tx.post(MORE, &[5.into(), "a".into()])?;
            tx.query("SELECT id FROM things", &[])?;
            Ok(first.is_err())
        });
        assert!(went_on.await.unwrap(), "{name}: known where it stands");
        let reads = store.read(|tx| tx.post("DELETE FROM things", &[]));
        assert!(reads.await.is_err(), "{name}: a read writes nothing");
        let sum = store.read(|tx| tx.query_one("SELECT SUM(amount) FROM things", &[])?.get(0));
        let sum: i64 = sum.await.unwrap();
        assert_eq!(sum, 60, "{name}");
    }
}

/// Whether the one row was there is known, though not waited for where it was.
#[tokio::test]
async fn a_change_of_one_row() {
    const MORE: &str = "UPDATE things SET amount = amount + 1 WHERE name = ?";
    for TestStore { name, store, .. } in &with_things().await {
        store.write(|tx| insert(tx, "a", 0)).await.unwrap();
        let both = store.write(|tx| -> Result<_, Error> {
            let there = tx.execute_one(MORE, &["a".into()])?;
            let missing = tx.execute_one(MORE, &["b".into()])?;
            Ok((there, missing, tx.execute_one(MORE, &["a".into()])?))
        });
        assert_eq!(both.await.unwrap(), (true, false, true), "{name}");

        let kept = store.write(|tx| -> Result<bool, Error> {
            insert(tx, "c", 0)?;
            tx.execute_one("DELETE FROM things WHERE name = 'b'", &[])
        });
        assert!(!kept.await.unwrap(), "{name}: found out at the commit");
        let refused = store.write(|tx| -> Result<(), Error> {
            insert(tx, "d", 0)?;
            match tx.execute_one(MORE, &["b".into()])? {
                true => Ok(()),
                false => Err(Error::NoRow),
            }
        });
        let refused = refused.await;
        assert!(matches!(refused, Err(Error::NoRow)), "{name}: {refused:?}");

        let row = [
            ("name", "a".into()),
            ("amount", 9.into()),
            ("note", "n".into()),
        ];
        let keeping =
            store.write(move |tx| tx.upsert_keeping("things", &["name"], &row, &["amount"]));
        keeping.await.unwrap();
        let read = store.read(|tx| -> Result<Vec<(String, i64, Option<String>)>, Error> {
            let rows = tx.query("SELECT name, amount, note FROM things ORDER BY name", &[])?;
            let three = |row: &crate::Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            rows.iter().map(three).collect()
        });
        let wanted = [("a".into(), 2, Some("n".into())), ("c".into(), 0, None)];
        assert_eq!(read.await.unwrap(), wanted, "{name}");
    }
}

/// Each query gets its own rows, in the order of the queries; also behind statements that were posted, and next to one that
/// fails.
#[tokio::test]
async fn queries_at_once() {
    const AMOUNT: &str = "SELECT amount FROM things WHERE name = ?";
    for TestStore { name, store, .. } in &with_things().await {
        let seen = store.write(|tx| -> Result<Vec<i64>, Error> {
            tx.post("INSERT INTO things (name, amount) VALUES ('a', 1)", &[])?;
            tx.post("INSERT INTO things (name, amount) VALUES ('b', 2)", &[])?;
            let found = tx.queries([
                (AMOUNT, &["b".into()]),
                (AMOUNT, &["none".into()]),
                (AMOUNT, &["a".into()]),
            ])?;
            let counts = found.iter().map(|rows| i64::try_from(rows.len()).unwrap());
            let mut seen: Vec<i64> = counts.collect();
            seen.push(found[0][0].get(0)?);
            seen.push(found[2][0].get(0)?);
            Ok(seen)
        });
        assert_eq!(seen.await.unwrap(), [1, 0, 1, 2, 1], "{name}");
        let went_on = store.write(|tx| -> Result<bool, Error> {
            let zero = [0.into()];
            let failed = tx.queries([
                ("SELECT id FROM things", &[]),
                ("SELECT no_such_column FROM things WHERE amount > ?", &zero),
            ]);
            insert(tx, "c", 3)?;
            Ok(failed.is_err())
        });
        assert!(went_on.await.unwrap(), "{name}");
        assert_eq!(count(store).await, 3, "{name}");
    }
}
