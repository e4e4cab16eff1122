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

/// Statements that know nothing of each other count together; where the one row is missing, none of them does.
#[tokio::test]
async fn statements_of_one_flight() {
    const MORE: &str = "UPDATE things SET amount = amount + ? WHERE name = ?";
    const NEW: &str = "INSERT INTO things (name, amount) VALUES (?, ?)";
    for TestStore { name, store, .. } in &with_things().await {
        let made = store.write(|tx| -> Result<i64, Error> {
            tx.post_all(&[
                (NEW, &["a".into(), 1.into()]),
                (NEW, &["b".into(), 2.into()]),
            ])?;
            tx.post_all(&[])?;
            let changes: [crate::Statement<'_>; 2] = [
                (MORE, &[10.into(), "a".into()]),
                (MORE, &[20.into(), "b".into()]),
            ];
            tx.insert_id_with((NEW, &["c".into(), 3.into()]), &changes)
        });
        let id = made.await.unwrap();
        let read = store.read(move |tx| {
            tx.query_one("SELECT name FROM things WHERE id = ?", &[id.into()])?
                .get::<String>(0)
        });
        assert_eq!(read.await.unwrap(), "c", "{name}");

        let both = store.write(|tx| -> Result<_, Error> {
            let there = tx.execute_one_with(
                (MORE, &[100.into(), "a".into()]),
                &[("DELETE FROM things WHERE name = 'b'", &[])],
            )?;
            let missing = tx.execute_one_with(
                (MORE, &[100.into(), "none".into()]),
                &[("DELETE FROM things WHERE name = 'a'", &[])],
            )?;
            Ok((there, missing))
        });
        assert_eq!(both.await.unwrap(), (true, false), "{name}");
        let rows = store.read(|tx| -> Result<Vec<(String, i64)>, Error> {
            let rows = tx.query("SELECT name, amount FROM things ORDER BY name", &[])?;
            let two = |row: &crate::Row| Ok((row.get(0)?, row.get(1)?));
            rows.iter().map(two).collect()
        });
        let wanted = [("a".into(), 111), ("c".into(), 3)];
        assert_eq!(rows.await.unwrap(), wanted, "{name}");

        let refused = store.write(|tx| -> Result<i64, Error> {
            tx.insert_id_with(
                (NEW, &["d".into(), 1.into()]),
                &[(NEW, &["a".into(), 1.into()])],
            )
        });
        assert!(refused.await.unwrap_err().is_unique_violation(), "{name}");
        assert_eq!(count(store).await, 2, "{name}: nothing of what was refused");
    }
}

/// They are done in the order in which they stand: rows that they lock are locked in it.
#[tokio::test]
async fn the_order_of_one_flight() {
    const NEW: &str = "INSERT INTO things (name, amount) VALUES (?, 0)";
    for TestStore { name, store, .. } in &with_things().await {
        let made = store.write(|tx| -> Result<bool, Error> {
            let names = ["z", "m", "a", "p", "b", "n"].map(|name| [name.into()]);
            let [z, m, a, p, b, n] = &names;
            tx.post_all(&[(NEW, z), (NEW, m), (NEW, a)])?;
            tx.insert_id_with((NEW, p), &[(NEW, b), (NEW, n)])?;
            let more = ["y", "c"].map(|name| [name.into()]);
            let [y, c] = &more;
            let one = "UPDATE things SET amount = 1 WHERE name = 'z'";
            tx.execute_one_with((one, &[]), &[(NEW, y), (NEW, c)])
        });
        assert!(made.await.unwrap(), "{name}");
        let rows = store.read(|tx| -> Result<Vec<String>, Error> {
            let rows = tx.query("SELECT name FROM things ORDER BY id", &[])?;
            rows.iter().map(|row| row.get(0)).collect()
        });
        let rows = rows.await.unwrap().join("");
        assert_eq!(rows, "zmapbnyc", "{name}");
    }
}

/// What is told of a row goes with its change: on PostgreSQL in one statement, where others have it refused.
#[tokio::test]
async fn a_change_that_is_told() {
    const MORE: &str = "UPDATE things SET amount = amount + 1 WHERE name = ?";
    const TELL: &str =
        "INSERT INTO things (name, amount) SELECT name || ?, amount * 10 FROM changed";
    for TestStore { name, store, .. } in &with_things().await {
        store.write(|tx| insert(tx, "a", 1)).await.unwrap();
        let tell = |tx: &mut crate::Tx<'_>, thing: &str, suffix: &str| {
            tx.execute_one_telling(
                (MORE, &[thing.into()]),
                "name, amount",
                &[(TELL, &[suffix.into()])],
            )
        };
        if store.dialect() != crate::Dialect::Postgres {
            let refused = store.write(move |tx| tell(tx, "a", "1")).await;
            assert!(matches!(refused, Err(Error::Statement(_))), "{name}");
            continue;
        }
        assert!(store.write(move |tx| tell(tx, "a", "1")).await.unwrap());
        // Where one is missing all is run again, with care.
        let both = store.write(move |tx| -> Result<_, Error> {
            Ok((tell(tx, "a", "2")?, tell(tx, "none", "3")?))
        });
        assert_eq!(both.await.unwrap(), (true, false));
        let rows = store.read(|tx| -> Result<Vec<(String, i64)>, Error> {
            let rows = tx.query("SELECT name, amount FROM things ORDER BY name", &[])?;
            let two = |row: &crate::Row| Ok((row.get(0)?, row.get(1)?));
            rows.iter().map(two).collect()
        });
        let wanted = [("a".into(), 3), ("a1".into(), 20), ("a2".into(), 30)];
        assert_eq!(rows.await.unwrap(), wanted);
    }
}

/// A look of one query sees what was committed; one of more sees one state all the same, and neither writes.
#[tokio::test]
async fn looks() {
    const ALL: &str = "SELECT COUNT(*) FROM things";
    for TestStore { name, store, .. } in &with_things().await {
        store.write(|tx| insert(tx, "a", 1)).await.unwrap();
        let one = store.look_once(|tx| tx.query_one(ALL, &[])?.get::<i64>(0));
        assert_eq!(one.await.unwrap(), 1, "{name}");
        // What is written between the two queries is in both or in neither.
        let (store_of_others, mut written) = (store.clone(), 0);
        let two = store.look_once(move |tx| -> Result<(i64, i64), Error> {
            let first = tx.query_one(ALL, &[])?.get(0)?;
            written += 1;
            let (others, thing) = (store_of_others.clone(), format!("b{written}"));
            let writing = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                let writing = others.write(move |tx| insert(tx, &thing, 1));
                runtime.block_on(writing).unwrap();
            });
            writing.join().unwrap();
            Ok((first, tx.query_one(ALL, &[])?.get(0)?))
        });
        let (first, second) = two.await.unwrap();
        assert_eq!(first, second, "{name}");
        let forgetting = store.write(|tx| tx.post("DELETE FROM things WHERE name <> 'a'", &[]));
        forgetting.await.unwrap();
        let wrong = store.look_once(|tx| tx.query("SELECT no_such_column FROM things", &[]));
        assert!(wrong.await.is_err(), "{name}");
        let after_wrong = store.look_once(|tx| -> Result<i64, Error> {
            let wrong = tx.query("SELECT no_such_column FROM things", &[]);
            assert!(wrong.is_err());
            tx.query_one(ALL, &[])?.get(0)
        });
        assert_eq!(after_wrong.await.unwrap(), 1, "{name}");
        let written = store.look_once(|tx| tx.post("DELETE FROM things", &[]));
        assert!(written.await.is_err(), "{name}: a look writes nothing");
        assert_eq!(count(store).await, 1, "{name}");
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
