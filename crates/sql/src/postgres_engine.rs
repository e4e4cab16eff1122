//! PostgreSQL: SERIALIZABLE transactions for writes (REPEATABLE READ for those that only rest on what they change), REPEATABLE
//! READ READ ONLY for reads.
//!
//! After a failed statement PostgreSQL refuses everything but a rollback, where SQLite and MySQL undo only the
//! statement. To mean the same, a closure that goes on after a failed statement is run again with a savepoint around
//! each statement ("careful"). The usual closure passes the error on and pays nothing; one that expects the failure
//! uses [`Tx::try_execute`](crate::Tx::try_execute), which takes the savepoint at once.
//!
//! What a server costs here is round trips, so what nobody waits for goes along with what somebody waits for: `BEGIN` and
//! statements that were posted ([`Tx::post`](crate::Tx::post), [`Tx::execute_one`](crate::Tx::execute_one)) with the next
//! statement, or with the `COMMIT`. The end of a transaction that has only read is sent and not waited for.

use crate::security::Security;
use crate::store::{Access, Job, Options};
use crate::threaded::{self, Connection};
use crate::{Dialect, Engine, Error, Row, Statement, Value};
use futures_util::future::{join_all, join3};
use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls, Socket, Statement as Prepared};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Prepared statements kept per connection.
const STATEMENTS: usize = 256;
/// Statements that are sent along with another at most.
const POSTED: usize = 16;
/// A connection that has answered within this time is held to be there.
const FRESH: Duration = Duration::from_secs(1);
/// Predicate locks of a serializable transaction are those of the plan: a small table that is read as a whole is in
/// conflict with every change of it. (PostgreSQL documentation, "Serializable Isolation Level".) Where there is no index the
/// plan then looks so dear that PostgreSQL would compile it, each time, which takes longer than any query here.
///
/// What finds rows by their keys needs no plan for each set of keys: making one takes longer than such a query. Lists get
/// one for what they ask for. (PostgreSQL documentation, "PREPARE".)
///
/// A program or machine that is gone or stands still within a transaction holds what it has locked, and whoever wants that
/// waits; what the client says of its socket does not tell the server. So the server ends such a session, and notices soon
/// that nobody is at the other end. Nobody waits longer for a lock than on MySQL. An operator may want other times.
const SETTINGS: &str = "SET enable_seqscan = off; SET jit = off; SET plan_cache_mode = force_generic_plan; \
     SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '10s' ELSE '15s' END, false) FROM pg_settings \
     WHERE name IN ('idle_in_transaction_session_timeout', 'lock_timeout') AND setting = '0'; \
     SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
     SET tcp_user_timeout = '30s'";

/// For transactions that rest on purpose, wait for others however long that takes, or build an index of a big table, whatever
/// an operator has set for all others.
pub(crate) const PATIENT: &str = "SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; \
     SET LOCAL statement_timeout = 0";
/// The same, of PostgreSQL 17 and later.
pub(crate) const PATIENT_17: &str = "SET LOCAL transaction_timeout = 0";

const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";
const BEGIN_OWN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";
const BEGIN_LOOK: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const BEGIN_READ: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL plan_cache_mode = auto";

/// The threads with their connections.
pub(crate) struct Pool(threaded::Pool);

impl Pool {
    pub(crate) fn open(url: &str, options: &Options) -> Result<Self, Error> {
        let target = Target::parse(url)?;
        threaded::Pool::open::<Postgres>("postgres", target, options).map(Self)
    }

    pub(crate) fn submit(&self, job: Box<dyn Job>, access: Access) {
        self.0.submit(job, access);
    }
}

/// A server, as a URL names it.
struct Target {
    config: Config,
    security: Security,
}

impl Target {
    fn parse(url: &str) -> Result<Self, Error> {
        let (url, security) = Security::of_postgres(url)?;
        let mut config: Config = url
            .parse()
            .map_err(|error: tokio_postgres::Error| Error::Url(error.to_string()))?;
        let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
        let mut hosts = config.get_hosts().iter();
        let conflict = match security {
            Security::Plain if direct => Some("sslnegotiation=direct needs sslrootcert=FILE"),
            Security::Tls(_) if hosts.any(|host| matches!(host, Host::Unix(_))) => {
                Some("sslrootcert does not go with a unix socket")
            }
            _ => None,
        };
        if let Some(text) = conflict {
            return Err(Error::Url(text.to_owned()));
        }
        config
            .ssl_mode(match security {
                Security::Plain => SslMode::Disable,
                Security::Tls(_) => SslMode::Require,
            })
            .connect_timeout(Duration::from_secs(10))
            .tcp_user_timeout(Duration::from_secs(30))
            .keepalives_idle(Duration::from_secs(60))
            .application_name("kilonova");
        Ok(Self { config, security })
    }

    async fn connect<T>(&self, tls: T) -> Result<Client, tokio_postgres::Error>
    where
        T: MakeTlsConnect<Socket, Stream: Send + 'static>,
    {
        let (client, connection) = self.config.connect(tls).await?;
        tokio::spawn(connection);
        client.batch_execute(SETTINGS).await?;
        Ok(client)
    }
}

struct Cached {
    statement: Prepared,
    columns: Arc<[String]>,
}

/// A statement that nobody waits for.
struct Posted {
    cached: Arc<Cached>,
    params: Vec<Value>,
}

/// A query without a transaction around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alone {
    /// There is a transaction.
    No,
    /// It may be asked.
    Wanted,
    /// It was asked.
    Asked,
}

struct Postgres {
    client: Client,
    /// Drives the connection while this thread waits for an answer.
    runtime: Runtime,
    statements: HashMap<String, Arc<Cached>>,
    /// The beginning of the transaction, not sent yet.
    begin: Option<&'static str>,
    /// What goes along with the next statement.
    posted: Vec<Posted>,
    /// The transaction may write.
    writes: bool,
    /// There is no transaction: one query is all that is asked.
    alone: Alone,
    /// What was begun as one query has asked for more, and is run again in a transaction.
    whole: bool,
    /// Statements are wrapped in savepoints.
    careful: bool,
    /// A statement failed and the transaction with it.
    failed: bool,
    lost: bool,
    /// When the server last answered.
    answered: Instant,
}

impl Connection for Postgres {
    const DIALECT: Dialect = Dialect::Postgres;

    type Target = Target;

    fn connect(target: &Target) -> Result<Self, Error> {
        let tls = target.security.config()?.map(|mut config| {
            // What PostgreSQL 17 wants to hear.
            config.alpn_protocols = vec![b"postgresql".to_vec()];
            MakeRustlsConnect::new(config)
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Unreachable(error.to_string()))?;
        let connecting = async {
            match tls {
                None => target.connect(NoTls).await,
                Some(tls) => target.connect(tls).await,
            }
        };
        let client = runtime
            .block_on(connecting)
            .map_err(|error| match convert(&error) {
                // A wrong password stays wrong.
                other @ (Error::Url(_) | Error::Unreachable(_)) => other,
                other => Error::Unreachable(other.to_string()),
            })?;
        Ok(Self {
            client,
            runtime,
            statements: HashMap::new(),
            begin: None,
            posted: Vec::new(),
            writes: false,
            alone: Alone::No,
            whole: false,
            careful: false,
            failed: false,
            lost: false,
            answered: Instant::now(),
        })
    }

    fn begin(&mut self, access: Access) -> Result<(), Error> {
        self.failed = false;
        self.writes = access.writes();
        self.posted.clear();
        self.alone = Alone::No;
        self.begin = Some(match access {
            Access::LookOnce if !self.careful && !self.whole => {
                self.alone = Alone::Wanted;
                self.begin = None;
                return Ok(());
            }
            Access::Write => BEGIN_WRITE,
            Access::WriteOwn => BEGIN_OWN,
            Access::Look | Access::LookOnce => BEGIN_LOOK,
            Access::Read => BEGIN_READ,
        });
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        if self.failed {
            // PostgreSQL would answer a COMMIT here with a silent rollback.
            return Err(self.wants_care());
        }
        if self.alone != Alone::No {
            return Ok(());
        }
        if self.posted.is_empty() && self.begin.take().is_some() {
            return Ok(());
        }
        if !self.writes && self.posted.is_empty() {
            self.send("COMMIT");
            return Ok(());
        }
        if self.begin.is_some() && self.answered.elapsed() >= FRESH {
            // A connection that has been lost meanwhile must not leave a commit in doubt.
            self.run("").map_err(|error| match error {
                Error::Unreachable(lost) => Error::Conflict(lost),
                other => other,
            })?;
        }
        self.run("COMMIT")
    }

    fn rollback(&mut self) -> Result<(), Error> {
        self.failed = false;
        self.posted.clear();
        if self.begin.take().is_some() || self.alone != Alone::No {
            return Ok(());
        }
        self.run("ROLLBACK")
    }

    fn is_lost(&self) -> bool {
        self.lost || self.client.is_closed()
    }

    fn careful(&self) -> bool {
        self.careful || self.whole
    }

    fn set_careful(&mut self, careful: bool) {
        self.careful = careful;
        self.whole = false;
    }
}

/// Runs statements outside of any transaction.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn run_alone(url: &str, sql: &str) -> Result<(), String> {
    let mut alone = Target::parse(url)
        .and_then(|target| Postgres::connect(&target))
        .map_err(|error| error.to_string())?;
    alone.run(sql).map_err(|error| error.to_string())
}

impl Postgres {
    fn run(&mut self, sql: &str) -> Result<(), Error> {
        self.flight(async |client: &Client| client.batch_execute(sql).await)
    }

    /// Sends a statement, behind what waits to go along with it, and waits for its answer. All of them are on the way
    /// at once. (The server answers them in their order; were `BEGIN` refused, the others would be, too.)
    fn flight<T>(
        &mut self,
        last: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let (begin, posted) = (self.begin.take(), std::mem::take(&mut self.posted));
        let client = &self.client;
        // Futures of the client send when they are polled first; these are polled in this order.
        let beginning = async {
            match begin {
                Some(sql) => client.batch_execute(sql).await,
                None => Ok(()),
            }
        };
        let along = join_all(posted.iter().map(async |one| {
            let params = one.params.iter().map(Param);
            client.execute_raw(&one.cached.statement, params).await
        }));
        let (begun, along, answer) = self.runtime.block_on(join3(beginning, along, last(client)));
        begun.map_err(|error| self.noted(&error))?;
        self.answered = Instant::now();
        if let Some(error) = along.into_iter().find_map(Result::err) {
            let error = self.noted(&error);
            // The next try finds out which statement it was, if it is not the database's wish to run all again.
            return Err(if error.is_retryable() {
                error
            } else {
                self.wants_care()
            });
        }
        answer.map_err(|error| self.noted(&error))
    }

    /// Sends a statement without waiting for its answer.
    fn send(&mut self, sql: &str) {
        let client = &self.client;
        self.runtime.block_on(async {
            let mut sending = pin!(client.batch_execute(sql));
            poll_fn(|cx| {
                // The first poll sends; an answer would say that the connection is lost, as the next statement will.
                let _ = sending.as_mut().poll(cx);
                Poll::Ready(())
            })
            .await;
            // Meanwhile the connection's task writes it.
            tokio::task::yield_now().await;
        });
    }

    fn noted(&mut self, error: &tokio_postgres::Error) -> Error {
        let converted = convert(error);
        self.lost |= matches!(converted, Error::Unreachable(_));
        if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
            && error.to_string().contains("cached plan")
        {
            // The schema changed under a prepared statement.
            self.statements.clear();
            return Error::Conflict(converted.to_string());
        }
        converted
    }

    fn wants_care(&mut self) -> Error {
        self.careful = true;
        Error::Conflict(
            "the unit of work goes on after a failed statement, so it is run again with savepoints"
                .to_owned(),
        )
    }

    fn wants_a_transaction(&mut self) -> Error {
        self.whole = true;
        Error::Conflict("a look asks more than one query, so it is run again as a whole".to_owned())
    }

    fn prepared(&mut self, sql: &str) -> Result<Arc<Cached>, Error> {
        if let Some(cached) = self.statements.get(sql) {
            return Ok(Arc::clone(cached));
        }
        let numbered = Dialect::numbered_placeholders(sql);
        let statement = self.flight(async |client: &Client| client.prepare(&numbered).await)?;
        if self.statements.len() >= STATEMENTS {
            self.statements.clear();
        }
        let columns = statement
            .columns()
            .iter()
            .map(|column| column.name().to_owned())
            .collect();
        let cached = Arc::new(Cached { statement, columns });
        self.statements.insert(sql.to_owned(), Arc::clone(&cached));
        Ok(cached)
    }

    /// Runs a statement so that its failure means the same as on the other databases.
    fn guarded<T>(
        &mut self,
        savepoint: bool,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.failed {
            return Err(self.wants_care());
        }
        if self.alone != Alone::No {
            return Err(self.wants_a_transaction());
        }
        if !savepoint {
            let result = work(self);
            self.failed = result.is_err();
            return result;
        }
        if let Err(error) = self.run("SAVEPOINT statement") {
            self.failed = true;
            return Err(error);
        }
        let result = work(self);
        let end = if result.is_ok() {
            "RELEASE SAVEPOINT statement"
        } else {
            "ROLLBACK TO SAVEPOINT statement; RELEASE SAVEPOINT statement"
        };
        if let Err(error) = self.run(end) {
            self.failed = true;
            return result.and(Err(error));
        }
        result
    }

    fn run_execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        let cached = self.prepared(sql)?;
        let statement = &cached.statement;
        check(statement, params)?;
        let params = params.iter().map(Param);
        self.flight(async |client: &Client| client.execute_raw(statement, params).await)
    }

    fn run_query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        let cached = self.prepared(sql)?;
        let statement = &cached.statement;
        check(statement, params)?;
        let params: Vec<Param<'_>> = params.iter().map(Param).collect();
        let params: Vec<&(dyn ToSql + Sync)> = params
            .iter()
            .map(|param| param as &(dyn ToSql + Sync))
            .collect();
        let rows = self.flight(async |client: &Client| client.query(statement, &params).await)?;
        rows.iter()
            .map(|row| read_row(row, &cached.columns))
            .collect()
    }

    fn run_queries(&mut self, queries: &[(&str, &[Value])]) -> Result<Vec<Vec<Row>>, Error> {
        let mut asked = Vec::with_capacity(queries.len());
        for (sql, params) in queries {
            let cached = self.prepared(sql)?;
            check(&cached.statement, params)?;
            asked.push((cached, params.iter().map(Param).collect::<Vec<_>>()));
        }
        let answers = self.flight(async |client: &Client| {
            // Polled in this order, so also sent in it; the first error is the one that the others follow from.
            let asking = asked.iter().map(async |(cached, params)| {
                let params: Vec<&(dyn ToSql + Sync)> = params
                    .iter()
                    .map(|param| param as &(dyn ToSql + Sync))
                    .collect();
                client.query(&cached.statement, &params).await
            });
            let answers = join_all(asking).await;
            answers.into_iter().collect::<Result<Vec<_>, _>>()
        })?;
        let answers = answers.iter().zip(&asked);
        answers
            .map(|(rows, (cached, _))| {
                let rows = rows.iter().map(|row| read_row(row, &cached.columns));
                rows.collect()
            })
            .collect()
    }

    /// Posts a change of one row that is taken for granted, and what goes along with it.
    fn run_changed_one(
        &mut self,
        (sql, params): Statement<'_>,
        columns: &str,
        along: &[Statement<'_>],
    ) -> Result<bool, Error> {
        // Where no row was changed this divides by zero: the transaction fails, whatever was sent behind it.
        const TAKEN: &str = "SELECT 1 / COUNT(*) FROM changed";
        let returning = format!("{sql} RETURNING {columns}");
        let changing = Some((returning.as_str(), params));
        let (sql, params) = together(changing, along, (TAKEN, &[]));
        self.guarded(false, |this| this.run_post(&sql, params))?;
        Ok(true)
    }

    fn run_post(&mut self, sql: &str, params: Vec<Value>) -> Result<(), Error> {
        let cached = self.prepared(sql)?;
        check(&cached.statement, &params)?;
        if self.posted.len() >= POSTED {
            let statement = &cached.statement;
            let params = params.iter().map(Param);
            let flown =
                self.flight(async |client: &Client| client.execute_raw(statement, params).await);
            return match flown {
                Err(error) if !error.is_retryable() => Err(self.wants_care()),
                other => other.map(drop),
            };
        }
        self.posted.push(Posted { cached, params });
        Ok(())
    }
}

/// One statement out of several, which are done in the order `main`, `along`, or, where `main` asks for `changed`, in the
/// order `changed`, `along`.
///
/// PostgreSQL runs the statements of a `WITH` that nobody asks for after the one they belong to, the last one first. The
/// order counts: rows are locked in it, and who locks them in another order meets a deadlock.
fn together(
    changed: Option<Statement<'_>>,
    along: &[Statement<'_>],
    main: Statement<'_>,
) -> (String, Vec<Value>) {
    let mut text = String::new();
    let mut params = Vec::new();
    let named = changed.map(|statement| ("changed".to_owned(), statement));
    let numbered = along.iter().enumerate().rev();
    let numbered = numbered.map(|(index, statement)| (format!("s{index}"), *statement));
    for (name, (sql, values)) in named.into_iter().chain(numbered) {
        text.push_str(if text.is_empty() { "WITH " } else { ", " });
        // Writing to a string cannot fail.
        let _ = write!(text, "{name} AS ({sql})");
        params.extend_from_slice(values);
    }
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(main.0);
    params.extend_from_slice(main.1);
    (text, params)
}

fn one_by_one(engine: &mut Postgres, statements: &[Statement<'_>]) -> Result<(), Error> {
    let mut posting = statements.iter();
    posting.try_for_each(|(sql, params)| engine.post(sql, params))
}

/// Whether there are as many parameters as the statement has placeholders.
fn check(statement: &Prepared, params: &[Value]) -> Result<(), Error> {
    let wanted = statement.params().len();
    if wanted == params.len() {
        return Ok(());
    }
    let text = format!("{wanted} placeholders but {} parameters", params.len());
    Err(Error::Statement(text))
}

fn read_row(row: &tokio_postgres::Row, columns: &Arc<[String]>) -> Result<Row, Error> {
    let mut values = Vec::with_capacity(columns.len());
    for index in 0..columns.len() {
        let cell: Cell = row
            .try_get(index)
            .map_err(|error| Error::Column(error.to_string()))?;
        values.push(cell.0);
    }
    Ok(Row {
        columns: Arc::clone(columns),
        values,
    })
}

impl Engine for Postgres {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.guarded(self.careful, |this| this.run_execute(sql, params))
    }

    fn try_execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.guarded(true, |this| this.run_execute(sql, params))
    }

    fn post(&mut self, sql: &str, params: &[Value]) -> Result<(), Error> {
        if self.careful {
            return self.execute(sql, params).map(drop);
        }
        self.guarded(false, |this| this.run_post(sql, params.to_vec()))
    }

    fn execute_one(&mut self, sql: &str, params: &[Value]) -> Result<bool, Error> {
        if self.careful || !self.writes {
            return Ok(self.execute(sql, params)? == 1);
        }
        self.execute_one_with((sql, params), &[])
    }

    fn post_all(&mut self, statements: &[Statement<'_>]) -> Result<(), Error> {
        match statements.split_first() {
            Some((first, others)) if !self.careful => {
                let (sql, params) = together(None, others, *first);
                self.guarded(false, |this| this.run_post(&sql, params))
            }
            _ => one_by_one(self, statements),
        }
    }

    fn execute_one_with(
        &mut self,
        (sql, params): Statement<'_>,
        along: &[Statement<'_>],
    ) -> Result<bool, Error> {
        if self.careful || !self.writes {
            return Ok(self.execute(sql, params)? == 1 && one_by_one(self, along).map(|()| true)?);
        }
        self.run_changed_one((sql, params), "1", along)
    }

    fn execute_one_telling(
        &mut self,
        one: Statement<'_>,
        columns: &str,
        along: &[Statement<'_>],
    ) -> Result<bool, Error> {
        if !self.careful {
            return self.run_changed_one(one, columns, along);
        }
        let returning = format!("{} RETURNING {columns}", one.0);
        let changing = Some((returning.as_str(), one.1));
        let (sql, params) = together(changing, along, ("SELECT COUNT(*) FROM changed", &[]));
        let rows = self.query(&sql, &params)?;
        Ok(rows.first().ok_or(Error::NoRow)?.get::<i64>(0)? == 1)
    }

    fn insert_id_with(
        &mut self,
        insert: Statement<'_>,
        along: &[Statement<'_>],
    ) -> Result<i64, Error> {
        if self.careful {
            let id = self.insert_id(insert.0, insert.1)?;
            return one_by_one(self, along).map(|()| id);
        }
        let (sql, params) = together(None, along, insert);
        self.insert_id(&sql, &params)
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        if self.alone == Alone::Wanted {
            self.alone = Alone::Asked;
            let result = self.run_query(sql, params);
            self.failed = result.is_err();
            return result;
        }
        self.guarded(self.careful, |this| this.run_query(sql, params))
    }

    fn queries(&mut self, queries: &[(&str, &[Value])]) -> Result<Vec<Vec<Row>>, Error> {
        self.guarded(self.careful, |this| this.run_queries(queries))
    }

    fn insert_id(&mut self, sql: &str, params: &[Value]) -> Result<i64, Error> {
        let sql = format!("{sql} RETURNING id");
        let rows = self.guarded(self.careful, |this| this.run_query(&sql, params))?;
        rows.first().ok_or(Error::NoRow)?.get(0)
    }

    fn batch(&mut self, sql: &str) -> Result<(), Error> {
        // Prepared statements may know the table as it was.
        self.statements.clear();
        self.guarded(self.careful, |this| this.run(sql))
    }
}

/// A parameter, written in the type that the server inferred for it.
#[derive(Debug)]
struct Param<'a>(&'a Value);

type Encoded = Result<IsNull, Box<dyn StdError + Sync + Send>>;

impl ToSql for Param<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Encoded {
        match self.0 {
            Value::Null => Ok(IsNull::Yes),
            Value::Int(int) => encode_int(*int, kind, out),
            Value::Real(real) => encode_real(*real, kind, out),
            Value::Text(text) if is_text(kind) || *kind == Type::BYTEA => {
                text.as_str().to_sql(&Type::TEXT, out)
            }
            Value::Bytes(bytes) if is_text(kind) || *kind == Type::BYTEA => {
                bytes.as_slice().to_sql(&Type::BYTEA, out)
            }
            other => Err(format!("{} is not a {kind}", describe(other)).into()),
        }
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// What a value is, without saying the value: it may be a secret.
fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "NULL",
        Value::Int(_) => "an integer",
        Value::Real(_) => "a float",
        Value::Text(_) => "a text",
        Value::Bytes(_) => "a blob",
    }
}

fn is_text(kind: &Type) -> bool {
    [
        Type::TEXT,
        Type::VARCHAR,
        Type::BPCHAR,
        Type::NAME,
        Type::UNKNOWN,
    ]
    .contains(kind)
}

fn encode_int(int: i64, kind: &Type, out: &mut BytesMut) -> Encoded {
    match *kind {
        Type::INT8 => int.to_sql(kind, out),
        Type::INT4 => i32::try_from(int)?.to_sql(kind, out),
        Type::INT2 => i16::try_from(int)?.to_sql(kind, out),
        Type::OID => u32::try_from(int)?.to_sql(kind, out),
        Type::BOOL => (int != 0).to_sql(kind, out),
        Type::NUMERIC => {
            encode_numeric(int, out);
            Ok(IsNull::No)
        }
        Type::FLOAT8 | Type::FLOAT4 => encode_real(int as f64, kind, out),
        _ if is_text(kind) => int.to_string().to_sql(&Type::TEXT, out),
        _ => Err(format!("an integer is not a {kind}").into()),
    }
}

fn encode_real(real: f64, kind: &Type, out: &mut BytesMut) -> Encoded {
    match *kind {
        Type::FLOAT8 => real.to_sql(kind, out),
        Type::FLOAT4 => (real as f32).to_sql(kind, out),
        Type::INT8 | Type::INT4 | Type::INT2 | Type::NUMERIC
            if real.fract() == 0.0 && real.abs() < 9e15 =>
        {
            encode_int(real as i64, kind, out)
        }
        _ if is_text(kind) => real.to_string().to_sql(&Type::TEXT, out),
        _ => Err(format!("a float is not a {kind}").into()),
    }
}

/// The binary form of `numeric`: count of base-10000 digits, weight of the first, sign, scale, digits.
fn encode_numeric(int: i64, out: &mut BytesMut) {
    let mut rest = int.unsigned_abs();
    let mut digits: Vec<u16> = Vec::new();
    while rest > 0 {
        digits.push(u16::try_from(rest % 10_000).unwrap_or(0));
        rest /= 10_000;
    }
    let count = u16::try_from(digits.len()).unwrap_or(0);
    let sign: u16 = if int < 0 { 0x4000 } else { 0 };
    for word in [count, count.saturating_sub(1), sign, 0]
        .into_iter()
        .chain(digits.into_iter().rev())
    {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Integral values that fit become integers, others floats; NaN is NULL.
fn decode_numeric(raw: &[u8]) -> Result<Value, Box<dyn StdError + Sync + Send>> {
    let words: Vec<u16> = raw
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    let [count, weight, sign, _scale, digits @ ..] = words.as_slice() else {
        return Err("a numeric is too short".into());
    };
    if *sign == 0xC000 {
        return Ok(Value::Null);
    }
    let weight = i32::from(weight.cast_signed());
    let negative = *sign == 0x4000;
    let mut whole: Option<i128> = Some(0);
    let mut real = 0f64;
    for (place, digit) in digits.iter().take(usize::from(*count)).enumerate() {
        let power = weight - i32::try_from(place)?;
        real += f64::from(*digit) * 10_000f64.powi(power);
        whole = match (whole, u32::try_from(power)) {
            (Some(sum), Ok(power)) if power <= 8 => {
                Some(sum + i128::from(*digit) * 10_000i128.pow(power))
            }
            (Some(sum), Err(_)) if *digit == 0 => Some(sum),
            _ => None,
        };
    }
    let whole = whole.and_then(|sum| i64::try_from(if negative { -sum } else { sum }).ok());
    Ok(whole.map_or(Value::Real(if negative { -real } else { real }), Value::Int))
}

/// A column, read by its type.
struct Cell(Value);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(match *kind {
            Type::INT8 => Value::Int(i64::from_sql(kind, raw)?),
            Type::INT4 => Value::Int(i32::from_sql(kind, raw)?.into()),
            Type::INT2 => Value::Int(i16::from_sql(kind, raw)?.into()),
            Type::OID => Value::Int(u32::from_sql(kind, raw)?.into()),
            Type::BOOL => Value::Int(bool::from_sql(kind, raw)?.into()),
            Type::FLOAT8 => Value::Real(f64::from_sql(kind, raw)?),
            Type::FLOAT4 => Value::Real(f32::from_sql(kind, raw)?.into()),
            Type::NUMERIC => decode_numeric(raw)?,
            Type::BYTEA => Value::Bytes(raw.to_vec()),
            // `void` is what functions such as pg_advisory_lock answer.
            Type::VOID => Value::Null,
            _ if is_text(kind) => Value::Text(String::from_utf8(raw.to_vec())?),
            _ => return Err(format!("columns of type {kind} are not supported").into()),
        }))
    }

    fn from_sql_null(_kind: &Type) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(Value::Null))
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }
}

fn convert(error: &tokio_postgres::Error) -> Error {
    let Some(refusal) = error.as_db_error() else {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        let io = error
            .source()
            .is_some_and(|source| source.is::<std::io::Error>());
        return if error.is_closed()
            || io
            || text.starts_with("error communicating")
            || text.starts_with("error connecting")
        {
            Error::Unreachable(text)
        } else {
            Error::Statement(text)
        };
    };
    let text = format!("{} ({})", refusal.message(), refusal.code().code());
    match refusal.code().code() {
        "23505" => Error::UniqueViolation(refusal.constraint().map_or(text, str::to_owned)),
        "22001" | "22003" => Error::Constraint(text),
        "40001" | "40P01" | "55P03" => Error::Conflict(text),
        "42P07" | "42701" | "42710" => Error::Exists(text),
        "42P01" => Error::Missing(text),
        // Too many connections, a transaction that stood still, shutdown and the like.
        "53300" | "25P03" | "57P01" | "57P02" | "57P03" | "57P05" => Error::Unreachable(text),
        code if code.starts_with("23") => Error::Constraint(text),
        code if code.starts_with("08") => Error::Unreachable(text),
        code if code.starts_with("28") || code == "3D000" => Error::Url(text),
        _ => Error::Statement(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numerics_go_both_ways() {
        for int in [
            0,
            1,
            -1,
            9_999,
            10_000,
            -10_001,
            123_456_789_012,
            i64::MAX,
            i64::MIN,
        ] {
            let mut raw = BytesMut::new();
            encode_numeric(int, &mut raw);
            assert_eq!(decode_numeric(&raw).unwrap(), Value::Int(int));
        }
        // 1.5: two digits, weight 0, scale 1
        let raw = [0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 0x13, 0x88];
        assert_eq!(decode_numeric(&raw).unwrap(), Value::Real(1.5));
        assert!(decode_numeric(&[0, 1]).is_err());
    }
}
