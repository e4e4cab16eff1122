#![allow(clippy::unwrap_used)]

use crate::{Error, Migration, Store};

const SCHEMA: &[Migration] = &[Migration {
    version: 1,
    name: "initial",
    sql: "CREATE TABLE things (id AUTO_ID, name VARCHAR(64) NOT NULL, amount BIGINT, note TEXT, raw BLOB, share DOUBLE PRECISION); \
          CREATE UNIQUE INDEX things_name ON things (name)",
}];

#[tokio::test]
async fn reads_and_writes() {
    let store = Store::temporary().await.unwrap();
    store.migrate("things", SCHEMA).await.unwrap();
    store.migrate("things", SCHEMA).await.unwrap();
    let id = store
        .write(|tx| -> Result<i64, Error> {
            tx.insert_id(
                "INSERT INTO things (name, amount, note, raw, share) VALUES (?, ?, ?, ?, ?)",
                &["a".into(), 5.into(), None::<String>.into(), vec![0u8, 255].into(), 0.5.into()],
            )
        })
        .await
        .unwrap();
    assert_eq!(id, 1);
    let duplicate: Result<u64, Error> = store.write(|tx| tx.execute("INSERT INTO things (name) VALUES (?)", &["a".into()])).await;
    assert!(duplicate.unwrap_err().is_unique_violation());
    store
        .write(|tx| tx.upsert("things", &["name"], &[("name", "a".into()), ("amount", 7.into())]))
        .await
        .unwrap();
    let row = store.read(|tx| tx.query_one("SELECT amount, note, raw, share, SUM(amount) FROM things WHERE name = ? GROUP BY amount, note, raw, share", &["a".into()])).await.unwrap();
    assert_eq!(row.get::<i64>(0).unwrap(), 7);
    assert_eq!(row.get::<Option<String>>(1).unwrap(), None);
    assert_eq!(row.get::<Vec<u8>>(2).unwrap(), vec![0, 255]);
    assert!((row.named::<f64>("share").unwrap() - 0.5).abs() < f64::EPSILON);
    assert_eq!(row.get::<i64>(4).unwrap(), 7);
}

#[tokio::test]
async fn an_error_rolls_back_only_its_own_unit() {
    let store = Store::temporary().await.unwrap();
    store.migrate("things", SCHEMA).await.unwrap();
    let mut units = Vec::new();
    for n in 0..50i64 {
        let store = store.clone();
        units.push(tokio::spawn(async move {
            store
                .write(move |tx| -> Result<(), Error> {
                    tx.execute("INSERT INTO things (name) VALUES (?)", &[n.to_string().into()])?;
                    if n % 2 == 0 { Err(Error::NoRow) } else { Ok(()) }
                })
                .await
        }));
    }
    let mut failed = 0;
    for unit in units {
        failed += u32::from(unit.await.unwrap().is_err());
    }
    assert_eq!(failed, 25);
    let left: i64 = store.read(|tx| tx.query_one("SELECT COUNT(*) FROM things", &[])?.get(0)).await.unwrap();
    assert_eq!(left, 25);
}
