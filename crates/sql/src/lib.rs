//! Three databases behind one `Store`: SQLite, PostgreSQL, MySQL/MariaDB.
//!
//! A unit of work is a synchronous closure over a [`Tx`]. The closure may be run again when the database
//! asks for a retry, so it must have no effect outside the transaction.
//!
//! * SQLite: one writer thread puts many units of work into one synced commit, each in its own savepoint, and
//!   answers after the COMMIT; readers have connections of their own and see snapshots.
//! * PostgreSQL and MySQL: a few threads with a connection each; transactions are SERIALIZABLE and retried
//!   on serialization failures, deadlocks and (before the commit) lost connections.
//!
//! So the meaning is the same everywhere: a write sees and leaves a serializable state.
//!
//! The SQL is a portable subset, see [`Dialect::ddl`] for the column types.

mod dialect;
mod error;
mod hold;
mod migrate;
mod mysql_engine;
mod postgres_engine;
mod security;
#[cfg(any(test, feature = "testing"))]
mod simulated;
mod sqlite_engine;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod threaded;
mod value;

pub use dialect::Dialect;
pub use error::Error;
pub use hold::Held;
pub use migrate::Migration;
pub use store::{Options, Store};
pub use value::{FromValue, Row, Value};

/// A statement and its parameters.
pub type Statement<'s> = (&'s str, &'s [Value]);

/// An open transaction.
pub struct Tx<'a> {
    engine: &'a mut dyn Engine,
    dialect: Dialect,
    retry: bool,
    #[cfg(any(test, feature = "testing"))]
    notes: Option<testing::Notes>,
}

/// What a database connection does inside a transaction.
trait Engine {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error>;
    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error>;
    fn insert_id(&mut self, sql: &str, params: &[Value]) -> Result<i64, Error>;
    fn batch(&mut self, sql: &str) -> Result<(), Error>;
    /// Like `query`, for several at once.
    fn queries(&mut self, queries: &[(&str, &[Value])]) -> Result<Vec<Vec<Row>>, Error> {
        let mut rows = queries.iter().map(|(sql, params)| self.query(sql, params));
        rows.by_ref().collect()
    }
    /// Like `query`, one row at a time; the row is of no use afterwards.
    fn each(
        &mut self,
        sql: &str,
        params: &[Value],
        take: &mut dyn FnMut(&mut Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut rows = self.query(sql, params)?;
        rows.iter_mut().try_for_each(take)
    }
    /// Like `execute`, for a statement whose answer nobody looks at.
    fn post(&mut self, sql: &str, params: &[Value]) -> Result<(), Error> {
        self.execute(sql, params).map(drop)
    }
    /// Like `execute`, for a statement that changes one row or none: whether it changed one.
    fn execute_one(&mut self, sql: &str, params: &[Value]) -> Result<bool, Error> {
        Ok(self.execute(sql, params)? == 1)
    }
    /// Like `post`, for several at once, none of which sees what another does.
    fn post_all(&mut self, statements: &[Statement<'_>]) -> Result<(), Error> {
        let mut posting = statements.iter();
        posting.try_for_each(|(sql, params)| self.post(sql, params))
    }
    /// Like `execute_one`, and where it changed the row, `post_all` of the others.
    fn execute_one_with(
        &mut self,
        (sql, params): Statement<'_>,
        along: &[Statement<'_>],
    ) -> Result<bool, Error> {
        Ok(self.execute_one(sql, params)? && self.post_all(along).map(|()| true)?)
    }
    /// Like `execute_one_with`; the others may read `columns` of the row from a table `changed`.
    fn execute_one_telling(
        &mut self,
        _one: Statement<'_>,
        _columns: &str,
        _along: &[Statement<'_>],
    ) -> Result<bool, Error> {
        let text = "only PostgreSQL tells of a changed row in the same statement";
        Err(Error::Statement(text.to_owned()))
    }
    /// Like `insert_id`, and `post_all` of the others.
    fn insert_id_with(
        &mut self,
        (sql, params): Statement<'_>,
        along: &[Statement<'_>],
    ) -> Result<i64, Error> {
        let id = self.insert_id(sql, params)?;
        self.post_all(along).map(|()| id)
    }
    /// Like `execute`; a failure leaves the transaction usable.
    fn try_execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.execute(sql, params)
    }
}

impl<'a> Tx<'a> {
    fn new(engine: &'a mut dyn Engine, dialect: Dialect) -> Self {
        Self {
            engine,
            dialect,
            retry: false,
            #[cfg(any(test, feature = "testing"))]
            notes: None,
        }
    }

    /// Writes the statement down, for tests that look at how a list is read.
    #[cfg(any(test, feature = "testing"))]
    fn note(&self, sql: &str, params: &[Value]) {
        if let Some(notes) = &self.notes {
            notes.add(sql, params);
        }
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn note(&self, _sql: &str, _params: &[Value]) {}

    fn note_all(&self, statements: &[Statement<'_>]) {
        for (sql, params) in statements {
            self.note(sql, params);
        }
    }

    /// Which database this is; only for the few statements that cannot be portable.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn noted<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            self.retry |= error.is_retryable();
        }
        result
    }

    /// After a conflict or a lost connection nothing more is run: on MySQL a deadlock has ended the transaction
    /// already, so that a statement would be committed on its own.
    fn usable(&self) -> Result<(), Error> {
        if self.retry {
            return Err(Error::Conflict(
                "the unit of work met a conflict before".to_owned(),
            ));
        }
        Ok(())
    }

    /// Runs a statement and returns the number of rows it changed (matched, on MySQL too).
    ///
    /// A statement that fails undoes only itself, so a closure may look at the error and go on; where it expects to,
    /// [`Tx::try_execute`] is cheaper on PostgreSQL.
    pub fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.usable()?;
        self.note(sql, params);
        let result = self.engine.execute(sql, params);
        self.noted(result)
    }

    /// Like [`Tx::execute`], for a statement of which the closure need not know how many rows it changed. On PostgreSQL it
    /// goes along with the next statement, or with the commit, and costs no round trip of its own. One that fails has the
    /// closure run again there, and fails then where it stands.
    pub fn post(&mut self, sql: &str, params: &[Value]) -> Result<(), Error> {
        self.usable()?;
        self.note(sql, params);
        let result = self.engine.post(sql, params);
        self.noted(result)
    }

    /// Like [`Tx::execute`], for an UPDATE or DELETE of the one row with a key, which is there unless somebody else was
    /// faster: whether it was. On PostgreSQL this is posted like [`Tx::post`] and taken for granted; where that was wrong
    /// the closure is run again, and is told the truth.
    pub fn execute_one(&mut self, sql: &str, params: &[Value]) -> Result<bool, Error> {
        self.usable()?;
        self.note(sql, params);
        let result = self.engine.execute_one(sql, params);
        self.noted(result)
    }

    /// Like [`Tx::post`], for several statements (`INSERT`, `UPDATE` or `DELETE`) of which none needs to see what another
    /// does, and no two change the same row. They are done in their order, in which they also lock rows. On PostgreSQL they are one statement: most of what a small one costs there is
    /// that it is one. (PostgreSQL documentation, "Data-Modifying Statements in WITH".)
    pub fn post_all(&mut self, statements: &[Statement<'_>]) -> Result<(), Error> {
        self.usable()?;
        self.note_all(statements);
        let result = self.engine.post_all(statements);
        self.noted(result)
    }

    /// Like [`Tx::execute_one`], and where it changed the row, also others as by [`Tx::post_all`].
    pub fn execute_one_with(
        &mut self,
        one: Statement<'_>,
        along: &[Statement<'_>],
    ) -> Result<bool, Error> {
        self.usable()?;
        self.note_all(&[one]);
        self.note_all(along);
        let result = self.engine.execute_one_with(one, along);
        self.noted(result)
    }

    /// Like [`Tx::execute_one_with`], on PostgreSQL only: the others may read `columns` of the row, as it is now, from a
    /// table `changed`, which is empty where the row was not there.
    pub fn execute_one_telling(
        &mut self,
        one: Statement<'_>,
        columns: &str,
        along: &[Statement<'_>],
    ) -> Result<bool, Error> {
        self.usable()?;
        self.note_all(&[one]);
        let result = self.engine.execute_one_telling(one, columns, along);
        self.noted(result)
    }

    /// Like [`Tx::insert_id`], and others as by [`Tx::post_all`].
    pub fn insert_id_with(
        &mut self,
        insert: Statement<'_>,
        along: &[Statement<'_>],
    ) -> Result<i64, Error> {
        self.usable()?;
        self.note_all(&[insert]);
        self.note_all(along);
        let result = self.engine.insert_id_with(insert, along);
        self.noted(result)
    }

    /// Like [`Tx::execute`], for a statement whose failure the closure expects and lives with: a unique violation,
    /// say. PostgreSQL wraps it in a savepoint; after an expected failure in `execute` the whole closure would be run
    /// a second time there.
    pub fn try_execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.usable()?;
        self.note(sql, params);
        let result = self.engine.try_execute(sql, params);
        self.noted(result)
    }

    /// Runs a query and returns all rows.
    pub fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        self.usable()?;
        self.note(sql, params);
        let result = self.engine.query(sql, params);
        self.noted(result)
    }

    /// Gives back what the connection holds and no transaction does: also after a conflict, for the connection lives on.
    pub(crate) fn let_go(&mut self, sql: &str) -> Result<(), Error> {
        self.engine.query(sql, &[]).map(drop)
    }

    /// Runs queries of which none needs to know what another finds, and returns the rows of each. On PostgreSQL they are on
    /// the way together, and cost one round trip.
    pub fn queries<const N: usize>(
        &mut self,
        queries: [(&str, &[Value]); N],
    ) -> Result<[Vec<Row>; N], Error> {
        self.usable()?;
        for (sql, params) in queries {
            self.note(sql, params);
        }
        let result = self.engine.queries(&queries);
        let rows = self.noted(result)?;
        rows.try_into().map_err(|_| Error::NoRow)
    }

    /// Runs a query and gives each row to `take`, which may empty it: long results need not be held twice.
    pub fn each(
        &mut self,
        sql: &str,
        params: &[Value],
        mut take: impl FnMut(&mut Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.usable()?;
        self.note(sql, params);
        let result = self.engine.each(sql, params, &mut take);
        self.noted(result)
    }

    /// The first row, if there is one.
    pub fn query_opt(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// The first row; no row is [`Error::NoRow`].
    pub fn query_one(&mut self, sql: &str, params: &[Value]) -> Result<Row, Error> {
        self.query_opt(sql, params)?.ok_or(Error::NoRow)
    }

    /// Runs an INSERT into a table whose `id` column is `AUTO_ID` and returns the new id.
    pub fn insert_id(&mut self, sql: &str, params: &[Value]) -> Result<i64, Error> {
        self.usable()?;
        self.note(sql, params);
        let result = self.engine.insert_id(sql, params);
        self.noted(result)
    }

    /// The next id of a table whose `id` column is `AUTO_ID`. On MySQL this commits what was done before.
    pub fn start_ids_at(&mut self, table: &str, first: i64) -> Result<(), Error> {
        let known = |c: char| c.is_ascii_lowercase() || c == '_';
        if !table.chars().all(known) {
            return Err(Error::Statement(format!("'{table}' is no table's name")));
        }
        match self.dialect {
            Dialect::Sqlite => {
                self.execute(
                    "DELETE FROM sqlite_sequence WHERE name = ?",
                    &[table.into()],
                )?;
                self.execute(
                    "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
                    &[table.into(), (first - 1).into()],
                )?;
                Ok(())
            }
            Dialect::Postgres => self.batch(&format!(
                "ALTER TABLE {table} ALTER COLUMN id RESTART WITH {first}"
            )),
            Dialect::Mysql => self.batch(&format!("ALTER TABLE {table} AUTO_INCREMENT = {first}")),
        }
    }

    /// Inserts a row, or updates the row with the same key columns. `row` names the key columns too.
    pub fn upsert(
        &mut self,
        table: &str,
        key_columns: &[&str],
        row: &[(&str, Value)],
    ) -> Result<(), Error> {
        self.upsert_keeping(table, key_columns, row, &[])
    }

    /// Like [`Tx::upsert`]; a row that is there keeps its values of the columns `kept`.
    pub fn upsert_keeping(
        &mut self,
        table: &str,
        key_columns: &[&str],
        row: &[(&str, Value)],
        kept: &[&str],
    ) -> Result<(), Error> {
        let sql = self.dialect.upsert(table, key_columns, row, kept);
        let params: Vec<Value> = row.iter().map(|(_, value)| value.clone()).collect();
        self.post(&sql, &params)
    }

    fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.usable()?;
        let result = self.engine.batch(sql);
        self.noted(result)
    }
}

/// `?, ?, ?` for `count` parameters.
pub fn placeholders(count: usize) -> String {
    let mut text = "?, ".repeat(count);
    text.truncate(text.len().saturating_sub(2));
    text
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
