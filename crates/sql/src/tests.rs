#![allow(clippy::unwrap_used)]

mod held;
mod left_open;
mod migrating;
mod together;

use crate::testing::{TestStore, databases};
use crate::{Dialect, Error, Migration, Options, Store, Tx, Value};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SCHEMA: &[Migration] = &[Migration {
    version: 1,
    name: "initial",
    sql: "CREATE TABLE things (id AUTO_ID, name VARCHAR(64) NOT NULL, amount BIGINT, note TEXT, raw BLOB, share DOUBLE PRECISION); \
          CREATE UNIQUE INDEX things_name ON things (name)",
}];

async fn with_things() -> Vec<TestStore> {
    let stores = databases().await;
    for TestStore { store, .. } in &stores {
        store.migrate("things", SCHEMA).await.unwrap();
    }
    stores
}

fn insert(tx: &mut Tx<'_>, name: &str, amount: i64) -> Result<u64, Error> {
    tx.execute(
        "INSERT INTO things (name, amount) VALUES (?, ?)",
        &[name.into(), amount.into()],
    )
}

async fn count(store: &Store) -> i64 {
    store
        .read(|tx| tx.query_one("SELECT COUNT(*) FROM things", &[])?.get(0))
        .await
        .unwrap()
}

#[tokio::test]
async fn reads_and_writes() {
    for TestStore { name, store, .. } in &with_things().await {
        store.migrate("things", SCHEMA).await.unwrap();
        let id = store
            .write(|tx| -> Result<i64, Error> {
                tx.insert_id(
                    "INSERT INTO things (name, amount, note, raw, share) VALUES (?, ?, ?, ?, ?)",
                    &[
                        "a".into(),
                        5.into(),
                        None::<String>.into(),
                        vec![0u8, 255].into(),
                        0.5.into(),
                    ],
                )
            })
            .await
            .unwrap();
        let found = store.read(move |tx| {
            let row = tx.query_one("SELECT name FROM things WHERE id = ?", &[id.into()])?;
            row.get::<String>(0)
        });
        assert_eq!(found.await.unwrap(), "a", "{name}");
        let duplicate = store.write(|tx| insert(tx, "a", 1)).await;
        assert!(duplicate.unwrap_err().is_unique_violation(), "{name}");
        let missing = store
            .write(|tx| tx.execute("INSERT INTO things (amount) VALUES (?)", &[1.into()]))
            .await;
        assert!(
            matches!(missing, Err(Error::Constraint(_))),
            "{name}: {missing:?}"
        );
        store
            .write(|tx| {
                tx.upsert(
                    "things",
                    &["name"],
                    &[("name", "a".into()), ("amount", 7.into())],
                )
            })
            .await
            .unwrap();
        store
            .write(|tx| {
                tx.upsert(
                    "things",
                    &["name"],
                    &[("name", "b".into()), ("amount", (-9).into())],
                )
            })
            .await
            .unwrap();
        store
            .write(|tx| tx.upsert("things", &["name"], &[("name", "b".into())]))
            .await
            .unwrap();
        let row = store
            .read(|tx| {
                tx.query_one("SELECT amount, note, raw, share, SUM(amount) AS total FROM things WHERE name = ? GROUP BY amount, note, raw, share", &["a".into()])
            })
            .await
            .unwrap();
        assert_eq!(row.get::<i64>(0).unwrap(), 7, "{name}");
        assert_eq!(row.get::<Option<String>>(1).unwrap(), None, "{name}");
        assert_eq!(row.get::<Vec<u8>>(2).unwrap(), vec![0, 255], "{name}");
        assert!(
            (row.named::<f64>("share").unwrap() - 0.5).abs() < f64::EPSILON,
            "{name}"
        );
        assert_eq!(row.named::<i64>("total").unwrap(), 7, "{name}");
        let sum: i64 = store
            .read(|tx| tx.query_one("SELECT SUM(amount) FROM things", &[])?.get(0))
            .await
            .unwrap();
        assert_eq!(sum, -2, "{name}");
        let none: Option<i64> = store
            .read(|tx| {
                tx.query_one("SELECT SUM(amount) FROM things WHERE id < 0", &[])?
                    .get(0)
            })
            .await
            .unwrap();
        assert_eq!(none, None, "{name}");
        // Matched, not changed: setting what is there already counts.
        let matched = store
            .write(|tx| tx.execute("UPDATE things SET amount = 7 WHERE name = ?", &["a".into()]))
            .await
            .unwrap();
        assert_eq!(matched, 1, "{name}");
        let nobody = store
            .read(|tx| tx.query_one("SELECT id FROM things WHERE name = 'nobody'", &[]))
            .await;
        assert!(matches!(nobody, Err(Error::NoRow)), "{name}");
        let wrong = store
            .read(|tx| tx.query("SELECT id FROM things WHERE name = ?", &[]))
            .await;
        assert!(
            matches!(wrong, Err(Error::Statement(_))) || *name == "sqlite",
            "{name}: {wrong:?}"
        );
    }
}

#[tokio::test]
async fn texts_compare_by_code_point() {
    for TestStore { name, store, .. } in &with_things().await {
        let texts = [
            "abc", "ABC", "Zürich", "zürich", "é", "e\u{301}", "日本", "🦀", "a\\b", "per%cent",
            "it's",
        ];
        store
            .write(move |tx| {
                for text in texts {
                    tx.execute(
                        "INSERT INTO things (name, note) VALUES (?, ?)",
                        &[text.into(), text.into()],
                    )?;
                }
                Ok::<(), Error>(())
            })
            .await
            .unwrap();
        let found = store
            .read(|tx| tx.query("SELECT name FROM things ORDER BY name", &[]))
            .await
            .unwrap();
        let found: Vec<String> = found.iter().map(|row| row.get(0).unwrap()).collect();
        let mut expected = texts.map(str::to_owned).to_vec();
        expected.sort();
        assert_eq!(found, expected, "{name}");
        for (sql, param, hits) in [
            ("SELECT COUNT(*) FROM things WHERE note = ?", "abc", 1),
            ("SELECT COUNT(*) FROM things WHERE note LIKE ?", "a%", 2),
            (
                "SELECT COUNT(*) FROM things WHERE note LIKE ? ESCAPE '!'",
                "per!%%",
                1,
            ),
            (
                "SELECT COUNT(*) FROM things WHERE note LIKE ? ESCAPE '\\'",
                "per\\%%",
                1,
            ),
            (
                "SELECT COUNT(*) FROM things WHERE note || '?' = ?",
                "a\\b?",
                1,
            ),
            (
                "SELECT COUNT(*) FROM things WHERE \"note\" IN (?, '🦀')",
                "it's",
                2,
            ),
        ] {
            let got: i64 = store
                .read(move |tx| tx.query_one(sql, &[param.into()])?.get(0))
                .await
                .unwrap();
            assert_eq!(got, hits, "{name}: {sql} {param}");
        }
    }
}

#[tokio::test]
async fn an_error_rolls_back_only_its_own_unit() {
    for TestStore { name, store, .. } in &with_things().await {
        let mut units = Vec::new();
        for n in 0..50i64 {
            let store = store.clone();
            units.push(tokio::spawn(async move {
                store
                    .write(move |tx| -> Result<(), Error> {
                        insert(tx, &n.to_string(), n)?;
                        if n % 2 == 0 {
                            Err(Error::NoRow)
                        } else {
                            Ok(())
                        }
                    })
                    .await
            }));
        }
        let mut failed = 0;
        for unit in units {
            failed += u32::from(unit.await.unwrap().is_err());
        }
        assert_eq!(failed, 25, "{name}");
        assert_eq!(count(store).await, 25, "{name}");
    }
}

#[tokio::test]
async fn a_closure_may_go_on_after_a_failed_statement() {
    for TestStore { name, store, .. } in &with_things().await {
        store.write(|tx| insert(tx, "taken", 1)).await.unwrap();
        for attempt in [
            insert as fn(&mut Tx<'_>, &str, i64) -> Result<u64, Error>,
            |tx, name, amount| {
                tx.try_execute(
                    "INSERT INTO things (name, amount) VALUES (?, ?)",
                    &[name.into(), amount.into()],
                )
            },
        ] {
            store
                .write(move |tx| {
                    insert(tx, "before", 1)?;
                    assert!(attempt(tx, "taken", 2).unwrap_err().is_unique_violation());
                    insert(tx, "after", 1)?;
                    // The last statement may be the one that failed, too.
                    match attempt(tx, "taken", 2) {
                        Err(error) if error.is_unique_violation() => Ok::<(), Error>(()),
                        other => panic!("{other:?}"),
                    }
                })
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(count(store).await, 3, "{name}");
            store
                .write(|tx| tx.execute("DELETE FROM things WHERE name <> 'taken'", &[]))
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_panic_ends_neither_thread_nor_store() {
    for TestStore { name, store, .. } in &with_things().await {
        for _ in 0..10 {
            let write = store.write(|tx| -> Result<(), Error> {
                insert(tx, "half done", 1)?;
                panic!("on purpose");
            });
            assert!(matches!(write.await, Err(Error::Closed)), "{name}");
            let read = store.read(|_| -> Result<(), Error> { panic!("on purpose") });
            assert!(matches!(read.await, Err(Error::Closed)), "{name}");
        }
        store.write(|tx| insert(tx, "whole", 1)).await.unwrap();
        assert_eq!(count(store).await, 1, "{name}");
    }
}

#[tokio::test]
async fn readers_cannot_write() {
    for TestStore { name, store, .. } in &with_things().await {
        assert!(store.read(|tx| insert(tx, "a", 1)).await.is_err(), "{name}");
        assert_eq!(count(store).await, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writes_at_once_all_arrive() {
    for TestStore { name, store, .. } in &with_things().await {
        let mut units = Vec::new();
        for n in 0..1000i64 {
            let store = store.clone();
            units.push(tokio::spawn(async move {
                store.write(move |tx| insert(tx, &n.to_string(), n)).await
            }));
        }
        for unit in units {
            unit.await
                .unwrap()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(count(store).await, 1000, "{name}");
    }
}

/// The writer takes the units in the order in which they were asked for.
#[tokio::test]
async fn sqlite_writes_in_order() {
    let store = Store::temporary().await.unwrap();
    store.migrate("things", SCHEMA).await.unwrap();
    let order = Arc::new(AtomicU32::new(0));
    let mut units = tokio::task::JoinSet::new();
    for n in 0..100u32 {
        let (store, order) = (store.clone(), Arc::clone(&order));
        units.spawn(async move {
            store
                .write(move |_| Ok::<bool, Error>(order.fetch_add(1, Ordering::SeqCst) == n))
                .await
        });
    }
    while let Some(in_place) = units.join_next().await {
        assert!(in_place.unwrap().unwrap());
    }
}

/// Also among units that are not watched over: they change what they have read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_end_exact() {
    const TASKS: i64 = 8;
    const ROUNDS: i64 = 10;
    for test in &with_things().await {
        let TestStore { name, store, .. } = test;
        store
            .write(|tx| insert(tx, "one", 0).and_then(|_| insert(tx, "two", 0)))
            .await
            .unwrap();
        let other = test.again().await;
        let mut tasks = Vec::new();
        for task in 0..TASKS {
            let store = if task % 2 == 0 {
                store.clone()
            } else {
                other.clone()
            };
            // Opposite orders make deadlocks.
            let (first, second) = if task % 4 < 2 {
                ("one", "two")
            } else {
                ("two", "one")
            };
            tasks.push(tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    let unit = move |tx: &mut Tx<'_>| -> Result<(), Error> {
                        for counter in [first, second] {
                            let now: i64 = tx
                                .query_one(
                                    "SELECT amount FROM things WHERE name = ?",
                                    &[counter.into()],
                                )?
                                .get(0)?;
                            tx.execute(
                                "UPDATE things SET amount = ? WHERE name = ?",
                                &[(now + 1).into(), counter.into()],
                            )?;
                        }
                        Ok(())
                    };
                    if task < TASKS / 2 {
                        store.write(unit).await?;
                    } else {
                        store.write_own(unit).await?;
                    }
                }
                Ok::<(), Error>(())
            }));
        }
        for task in tasks {
            task.await
                .unwrap()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let rows = store
            .read(|tx| tx.query("SELECT amount FROM things", &[]))
            .await
            .unwrap();
        for row in rows {
            assert_eq!(row.get::<i64>(0).unwrap(), TASKS * ROUNDS, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_migrate_at_once() {
    for test in &databases().await {
        let mut stores = Vec::new();
        for _ in 0..4 {
            stores.push(test.again().await);
        }
        let mut tasks = Vec::new();
        for store in stores {
            tasks.push(tokio::spawn(async move {
                store.migrate("things", SCHEMA).await
            }));
        }
        for task in tasks {
            task.await
                .unwrap()
                .unwrap_or_else(|error| panic!("{}: {error}", test.name));
        }
        assert_eq!(count(&test.store).await, 0, "{}", test.name);
    }
}

/// A program of the release before goes on with a schema that was expanded, and is started on it; not with one from
/// which something was taken.
#[tokio::test]
async fn a_newer_schema_is_used_until_it_is_contracted() {
    const OLD: &[Migration] = &[Migration {
        version: 2,
        name: "old",
        sql: "CREATE TABLE parts (id BIGINT NOT NULL PRIMARY KEY, colour VARCHAR(20))",
    }];
    const EXPANDED: &[Migration] = &[
        // From another branch of the work, which landed later.
        Migration {
            version: 1,
            name: "gap",
            sql: "CREATE TABLE more (id BIGINT NOT NULL PRIMARY KEY)",
        },
        OLD[0],
        Migration {
            version: 3,
            name: "expanded",
            sql: "ALTER TABLE parts ADD COLUMN shade VARCHAR(20)",
        },
    ];
    const CONTRACTED: &[Migration] = &[
        EXPANDED[0],
        EXPANDED[1],
        EXPANDED[2],
        Migration {
            version: 4,
            name: "contracted",
            sql: "-- contract\nALTER TABLE parts DROP COLUMN colour",
        },
    ];
    for test in &databases().await {
        let (name, store) = (test.name, &test.store);
        let options = Options {
            migrates: false,
            ..Options::default()
        };
        let waiting = Store::open_with(test.url(), options).await.unwrap();
        let insert = |tx: &mut Tx<'_>| -> Result<(), Error> {
            tx.execute("INSERT INTO parts (id, colour) VALUES (1, 'red')", &[])?;
            tx.execute("DELETE FROM parts WHERE id = 1", &[])
                .map(|_| ())
        };
        store.migrate("parts", OLD).await.unwrap();
        store.write(insert).await.unwrap();
        let early = waiting.migrate("parts", EXPANDED).await.unwrap_err();
        assert!(early.to_string().contains("db sync"), "{name}: {early}");
        store.migrate("parts", EXPANDED).await.unwrap();
        waiting.migrate("parts", EXPANDED).await.unwrap();
        for old in [store, &waiting] {
            old.migrate("parts", OLD).await.unwrap();
            old.write(insert).await.unwrap();
        }
        let gap = store.read(|tx: &mut Tx<'_>| tx.query("SELECT id FROM more", &[]));
        assert_eq!(gap.await.unwrap().len(), 0, "{name}");
        store.migrate("parts", CONTRACTED).await.unwrap();
        for old in [store, &waiting] {
            let told = old.migrate("parts", OLD).await.unwrap_err().to_string();
            assert!(told.contains("a newer release"), "{name}: {told}");
        }
    }
}

#[tokio::test]
async fn a_change_says_when_it_takes_something_away() {
    for (sql, name) in [
        ("ALTER TABLE things DROP COLUMN name", "column"),
        ("DROP TABLE things", "table"),
        ("ALTER TABLE things RENAME TO others", "name"),
        (
            "ALTER TABLE things\n ADD COLUMN x BIGINT NOT NULL",
            "demand",
        ),
    ] {
        let change: &'static [Migration] = vec![Migration {
            version: 1,
            name,
            sql,
        }]
        .leak();
        for TestStore { store, .. } in &with_things().await {
            let told = store.migrate("more", change).await.unwrap_err().to_string();
            assert!(told.contains("-- contract"), "{name}: {told}");
        }
    }
}

/// A migration that failed in the middle is finished by the next program.
#[tokio::test]
async fn a_failed_migration_is_continued() {
    const BROKEN: &[Migration] = &[Migration {
        version: 1,
        name: "broken",
        sql: "CREATE TABLE parts (id AUTO_ID); CREATE INDEX parts_x ON nowhere (x)",
    }];
    const MENDED: &[Migration] = &[Migration {
        version: 1,
        name: "mended",
        sql: "CREATE TABLE parts (id AUTO_ID); CREATE TABLE more (id AUTO_ID)",
    }];
    for TestStore { name, store, .. } in &databases().await {
        assert!(
            matches!(store.migrate("parts", BROKEN).await, Err(Error::Schema(_))),
            "{name}"
        );
        store
            .migrate("parts", MENDED)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        store
            .read(|tx| {
                tx.query("SELECT id FROM parts", &[])
                    .and_then(|_| tx.query("SELECT id FROM more", &[]))
            })
            .await
            .unwrap();
    }
}

/// Whoever looks at a few rows sees what was committed; more at once than there are connections for it, and one that
/// panics, take nothing from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks() {
    for TestStore { name, store, .. } in with_things().await {
        store.write(|tx| insert(tx, "one", 7)).await.unwrap();
        let looks = (0..32).map(|number| {
            let store = store.clone();
            let look = move |tx: &mut Tx<'_>| -> Result<i64, Error> {
                assert!(number % 4 > 0, "every fourth panics");
                let sql = "SELECT amount FROM things WHERE name = 'one'";
                tx.query_one(sql, &[])?.get(0)
            };
            tokio::spawn(async move { store.look(look).await })
        });
        let seen = futures_util::future::join_all(looks).await;
        for (number, seen) in seen.into_iter().enumerate() {
            let seen = seen.unwrap();
            assert_eq!(seen.ok(), (number % 4 > 0).then_some(7), "{name} {number}");
        }
    }
}

/// An index may go in any change: a program of the release before goes on without it.
#[tokio::test]
async fn indexes_are_dropped() {
    const FEWER: &[Migration] = &[Migration {
        version: 1,
        name: "fewer",
        sql: "DROP INDEX things_name ON things",
    }];
    for TestStore { name, store, .. } in &with_things().await {
        store
            .migrate("fewer", FEWER)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let twice = store
            .write(|tx| insert(tx, "same", 0).and_then(|_| insert(tx, "same", 0)))
            .await;
        assert!(twice.is_ok(), "{name}: {twice:?}");
    }
}

/// What ends the connection that asks.
fn suicide(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "SELECT CAST(pg_terminate_backend(pg_backend_pid()) AS INTEGER)",
        _ => "KILL CONNECTION_ID()",
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    for TestStore { name, store, .. } in with_things()
        .await
        .iter()
        .filter(|test| test.name != "sqlite")
    {
        let dialect = store.dialect();
        for _ in 0..6 {
            // Killed in the middle of a unit of work: run again on a new connection, with one effect.
            let tries = Arc::new(AtomicU32::new(0));
            let tried = Arc::clone(&tries);
            store
                .write(move |tx| -> Result<(), Error> {
                    tx.execute(
                        "INSERT INTO things (name, amount) VALUES (?, ?)",
                        &["killed".into(), 1.into()],
                    )?;
                    if tried.fetch_add(1, Ordering::SeqCst) == 0 {
                        tx.query(suicide(dialect), &[]).map(|_| ())?;
                        tx.query("SELECT 1", &[])?;
                    }
                    Ok(())
                })
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(tries.load(Ordering::SeqCst), 2, "{name}");
            assert_eq!(
                store
                    .write(|tx| tx.execute("DELETE FROM things", &[]))
                    .await
                    .unwrap(),
                1,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told() {
    let listener = own_port(own_address()).await;
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    for scheme in ["postgres", "mysql"] {
        let opened = Store::open(&format!("{scheme}://u:secret@{nobody}/d")).await;
        let error = opened.err().unwrap();
        assert!(matches!(error, Error::Unreachable(_)), "{scheme}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for url in [
        "nonsense",
        "oracle://x",
        "postgres://[",
        "sqlite:///nowhere/at/all.db",
    ] {
        assert!(Store::open(url).await.is_err(), "{url}");
    }
}

/// A server that goes away and comes back, seen through a forwarding port: what is asked meanwhile waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_found_again() {
    for test in with_things()
        .await
        .iter()
        .filter(|test| test.name != "sqlite")
    {
        let mut url = url::Url::parse(test.url()).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let front = own_port(own_address()).await;
        let address = front.local_addr().unwrap();
        url.set_ip_host(address.ip()).unwrap();
        url.set_port(Some(address.port())).unwrap();
        let links = Arc::new(());
        let forwarding = tokio::spawn(forward(front, target.clone(), Arc::clone(&links)));
        let store = Store::open(url.as_str()).await.unwrap();
        store.write(|tx| insert(tx, "before", 1)).await.unwrap();
        forwarding.abort();
        let _ = forwarding.await;
        let meanwhile = tokio::spawn({
            let store = store.clone();
            async move { store.write(|tx| insert(tx, "meanwhile", 1)).await }
        });
        // That it waits, and does not fail at once, is what is tested.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!meanwhile.is_finished(), "{}", test.name);
        let front = tokio::net::TcpListener::bind(address).await.unwrap();
        let forwarding = tokio::spawn(forward(front, target, links));
        meanwhile
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("{}: {error}", test.name));
        assert_eq!(count(&store).await, 2, "{}", test.name);
        forwarding.abort();
    }
}

/// A connection that was lost while nobody used it is noticed before the COMMIT, also by a unit that only posts: it is run
/// again, and leaves nothing in doubt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_lost_unseen_leaves_nothing_in_doubt() {
    for test in with_things()
        .await
        .iter()
        .filter(|test| test.name != "sqlite")
    {
        let mut url = url::Url::parse(test.url()).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let front = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        front.set_nonblocking(true).unwrap();
        let listener = || tokio::net::TcpListener::from_std(front.try_clone().unwrap()).unwrap();
        url.set_port(Some(front.local_addr().unwrap().port()))
            .unwrap();
        let options = Options {
            connections: 1,
            ..Options::default()
        };
        let links = Arc::new(());
        let forwarding = tokio::spawn(forward(listener(), target.clone(), Arc::clone(&links)));
        let store = Store::open_with(url.as_str(), options).await.unwrap();
        let post = |tx: &mut Tx<'_>, name: &str| {
            let sql = "INSERT INTO things (name, amount) VALUES (?, ?)";
            tx.post(sql, &[name.into(), 1.into()])
        };
        store.write(move |tx| post(tx, "before")).await.unwrap();
        forwarding.abort();
        let _ = forwarding.await;
        let forwarding = tokio::spawn(forward(listener(), target, links));
        // Only of connections that have been idle for so long is nothing known.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        store
            .write(move |tx| post(tx, "after"))
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", test.name));
        assert_eq!(count(&store).await, 2, "{}", test.name);
        forwarding.abort();
    }
}

/// An address of this process alone.
fn own_address() -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

/// A port that nobody takes when the listener is gone for a while: none of those that the system gives to whoever asks
/// for any, and a test never gets one that another test had.
pub(crate) async fn own_port(address: Ipv4Addr) -> tokio::net::TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst));
        let port = 20_000 + (next % 10_000) as u16;
        if let Ok(listener) = tokio::net::TcpListener::bind((address, port)).await {
            return listener;
        }
    }
}

/// Every connection that stands has a clone of `standing`.
pub(crate) async fn forward(listener: tokio::net::TcpListener, target: String, standing: Arc<()>) {
    let mut links = tokio::task::JoinSet::new();
    loop {
        let Ok((mut near, _)) = listener.accept().await else {
            return;
        };
        let (target, standing) = (target.clone(), Arc::clone(&standing));
        links.spawn(async move {
            let _standing = standing;
            if let Ok(mut far) = tokio::net::TcpStream::connect(target).await {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

/// A connection that dies under the COMMIT leaves an unknown outcome: nothing is run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_unknown_outcome_is_not_repeated() {
    for test in with_things()
        .await
        .iter()
        .filter(|test| test.name != "sqlite")
    {
        let mut url = url::Url::parse(test.url()).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(front.local_addr().unwrap().port()))
            .unwrap();
        let links = Arc::new(());
        let forwarding = tokio::spawn(forward(front, target, Arc::clone(&links)));
        let store = Store::open_with(
            url.as_str(),
            Options {
                connections: 1,
                ..Options::default()
            },
        )
        .await
        .unwrap();
        let tries = Arc::new(AtomicU32::new(0));
        let (tried, cut) = (Arc::clone(&tries), forwarding.abort_handle());
        let begun = Instant::now();
        let outcome = store
            .write(move |tx| -> Result<(), Error> {
                insert(tx, "unknown", 1)?;
                tried.fetch_add(1, Ordering::SeqCst);
                cut.abort();
                while Arc::strong_count(&links) > 1 && begun.elapsed() < Duration::from_secs(60) {
                    std::thread::yield_now();
                }
                Ok(())
            })
            .await;
        assert!(
            matches!(outcome, Err(Error::InDoubt(_))),
            "{}: {outcome:?}",
            test.name
        );
        assert_eq!(tries.load(Ordering::SeqCst), 1, "{}", test.name);
    }
}

#[tokio::test]
async fn temporary_stores_go_away() {
    let store = Store::temporary().await.unwrap();
    store.migrate("things", SCHEMA).await.unwrap();
    assert_eq!(store.dialect(), Dialect::Sqlite);
    let value = store
        .read(|tx| {
            tx.query_one("SELECT ?", &[Value::Null])?
                .get::<Option<i64>>(0)
        })
        .await
        .unwrap();
    assert_eq!(value, None);
}

/// `cargo test -p kilonova-sql -- --ignored --nocapture measure`: the figures of docs/decisions/0002.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure() {
    let folder = tempfile::tempdir_in(
        std::env::var("KILONOVA_MEASURE_DIR").unwrap_or_else(|_| ".".to_owned()),
    )
    .unwrap();
    let store = Store::open(&format!(
        "sqlite://{}",
        folder.path().join("measure.db").display()
    ))
    .await
    .unwrap();
    store.migrate("things", SCHEMA).await.unwrap();
    let started = Instant::now();
    for n in 0..200i64 {
        store
            .write(move |tx| insert(tx, &format!("single {n}"), n))
            .await
            .unwrap();
    }
    println!(
        "durable writes one after the other: {:.0}/s",
        200.0 / started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    let mut units = tokio::task::JoinSet::new();
    for n in 0..20_000i64 {
        let store = store.clone();
        units.spawn(async move {
            store
                .write(move |tx| insert(tx, &n.to_string(), n))
                .await
                .unwrap()
        });
    }
    while units.join_next().await.is_some() {}
    println!(
        "durable writes, 20000 at once: {:.0}/s",
        20_000.0 / started.elapsed().as_secs_f64()
    );
    let columns: Vec<String> = (0..26).map(|n| format!("c{n}")).collect();
    let list = columns.join(", ");
    let select = format!("SELECT {list} FROM wide");
    store
        .write(move |tx| -> Result<(), Error> {
            tx.batch(&format!(
                "CREATE TABLE wide ({})",
                columns
                    .iter()
                    .map(|name| format!("{name} TEXT"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))?;
            let insert = format!(
                "INSERT INTO wide ({list}) VALUES ({})",
                crate::placeholders(26)
            );
            for n in 0..1000i64 {
                let row: Vec<Value> = (0..26)
                    .map(|column| format!("row {n} column {column} of the wide table").into())
                    .collect();
                tx.execute(&insert, &row)?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let started = Instant::now();
    for _ in 0..100 {
        let select = select.clone();
        let rows = store.read(move |tx| tx.query(&select, &[])).await.unwrap();
        assert_eq!(rows.len(), 1000);
    }
    println!(
        "1000 rows of 26 columns: {:.2} ms",
        started.elapsed().as_secs_f64() * 10.0
    );
}

/// What several programs share is migrated by one of them; the others refuse what does not fit.
#[tokio::test]
async fn a_store_that_does_not_migrate_checks() {
    const FIRST: &[Migration] = &[Migration {
        version: 1,
        name: "one",
        sql: "CREATE TABLE checked (id BIGINT NOT NULL PRIMARY KEY)",
    }];
    const SECOND: &[Migration] = &[
        FIRST[0],
        Migration {
            version: 2,
            name: "two",
            sql: "CREATE TABLE checked_too (id BIGINT NOT NULL PRIMARY KEY)",
        },
    ];
    for test in databases().await {
        let options = Options {
            migrates: false,
            ..Options::default()
        };
        let shared = Store::open_with(test.url(), options).await.unwrap();
        let refused = shared.migrate("checked", FIRST).await.unwrap_err();
        let told = refused.to_string();
        assert!(told.contains("version 0"), "{}: {told}", test.name);
        assert!(told.contains("kilonova db sync"), "{}: {told}", test.name);
        test.store.migrate("checked", FIRST).await.unwrap();
        shared.migrate("checked", FIRST).await.unwrap();
        let older = shared.migrate("checked", SECOND).await.unwrap_err();
        assert!(older.to_string().contains("this program needs 2"));
        test.store.migrate("checked", SECOND).await.unwrap();
        shared.migrate("checked", FIRST).await.unwrap();
    }
}

/// Nobody waits for the end of a transaction that has only read; it must end all the same, or the server keeps what
/// it saw, for ever.
#[tokio::test]
async fn a_read_is_over_on_postgres_when_it_is_answered() {
    for TestStore { store, .. } in &with_things().await {
        if store.dialect() != Dialect::Postgres {
            continue;
        }
        let own = store.read(|tx| -> Result<i64, Error> {
            tx.query("SELECT id FROM things", &[])?;
            tx.query_one("SELECT pg_backend_pid()", &[])?.get(0)
        });
        let backend = own.await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let states = store.read(move |tx| -> Result<Vec<String>, Error> {
                // Of that connection nothing is known while it asks itself.
                let sql =
                    "SELECT state FROM pg_stat_activity WHERE pid = ? AND pid <> pg_backend_pid()";
                let rows = tx.query(sql, &[backend.into()])?;
                rows.iter().map(|row| row.get(0)).collect()
            });
            if states.await.unwrap() == ["idle"] {
                break;
            }
            assert!(Instant::now() < deadline, "it is still open");
            tokio::task::yield_now().await;
        }
    }
}
