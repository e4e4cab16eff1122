//! Schema changes one by one, and however long one takes.

use super::*;

const FIRST: Migration = Migration {
    version: 1,
    name: "first",
    sql: "CREATE TABLE firsts (id BIGINT NOT NULL PRIMARY KEY)",
};

/// A change that fails takes none of those before it back, and holds nothing of what they have locked.
#[tokio::test]
async fn each_change_is_a_transaction_of_its_own() {
    const BROKEN: &[Migration] = &[
        FIRST,
        Migration {
            version: 2,
            name: "broken",
            sql: "CREATE INDEX nothing_x ON nothing (x)",
        },
    ];
    for test in &databases().await {
        let name = test.name;
        let failed = test.store.migrate("parts", BROKEN).await.unwrap_err();
        assert!(failed.to_string().contains("2 broken"), "{name}: {failed}");
        let options = Options {
            migrates: false,
            ..Options::default()
        };
        let other = Store::open_with(test.url(), options).await.unwrap();
        other.migrate("parts", &[FIRST]).await.expect(name);
        let written = other.write(|tx| tx.execute("INSERT INTO firsts (id) VALUES (1)", &[]));
        assert_eq!(written.await.expect(name), 1);
    }
}

/// A user of this database only.
fn slow_user(test: &TestStore) -> String {
    let database = test.url().rsplit('/').next().unwrap();
    format!("{}_slow", &database[..20])
}

/// The database with a limit for statements, as an operator may set it for all who use it; `None`: it knows none.
async fn limited(test: &TestStore) -> Option<(Store, &'static [Migration])> {
    let slow = |sql| {
        let migration = Migration {
            version: 1,
            name: "slow",
            sql,
        };
        &*vec![migration].leak()
    };
    let (url, migrations) = match test.store.dialect() {
        Dialect::Sqlite => return None,
        Dialect::Postgres => (
            format!("{}%20-cstatement_timeout%3D300", test.url()),
            slow("CREATE TABLE slow (id BIGINT NOT NULL PRIMARY KEY); SELECT pg_sleep(1)"),
        ),
        Dialect::Mysql => {
            let mut url = url::Url::parse(test.url()).unwrap();
            let database = url.path().trim_start_matches('/').to_owned();
            let user = slow_user(test);
            let who = format!("'{user}'@'127.0.0.1'");
            test.as_admin(&format!(
                "CREATE USER {who} IDENTIFIED BY 'slow' WITH MAX_STATEMENT_TIME 0.3"
            ));
            test.as_admin(&format!("GRANT ALL ON {database}.* TO {who}"));
            url.set_username(&user).unwrap();
            url.set_password(Some("slow")).unwrap();
            (
                url.to_string(),
                slow("CREATE TABLE slow (id BIGINT NOT NULL PRIMARY KEY); SELECT SLEEP(1)"),
            )
        }
    };
    let options = Options {
        connections: 1,
        ..Options::default()
    };
    Some((Store::open_with(&url, options).await.unwrap(), migrations))
}

/// Building an index of a big table takes longer than an operator lets statements take.
#[tokio::test]
async fn a_change_takes_the_time_that_it_takes() {
    for test in &databases().await {
        let name = test.name;
        let Some((store, migrations)) = limited(test).await else {
            continue;
        };
        let sleep = match store.dialect() {
            Dialect::Postgres => "SELECT CAST(pg_sleep(1) AS TEXT)",
            _ => "SELECT SLEEP(1)",
        };
        let early = store.read(move |tx| tx.query(sleep, &[]));
        assert!(early.await.is_err(), "{name}: there is a limit");
        store.migrate("parts", migrations).await.expect(name);
        let written = store.write(|tx| tx.execute("INSERT INTO slow (id) VALUES (1)", &[]));
        assert_eq!(written.await.expect(name), 1);
        // For all else it is as before.
        let late = store.read(move |tx| tx.query(sleep, &[]));
        assert!(late.await.is_err(), "{name}: the limit is gone");
        if store.dialect() == Dialect::Mysql {
            test.as_admin(&format!("DROP USER '{}'@'127.0.0.1'", slow_user(test)));
        }
    }
}
