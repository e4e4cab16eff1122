//! MySQL and MariaDB: SERIALIZABLE transactions for writes, a read-only consistent snapshot for reads.

use crate::security::{Security, Tls};
use crate::store::{Access, Job, Options};
use crate::threaded::{self, Connection};
use crate::{Dialect, Engine, Error, Row, Value};
use mysql::consts::{CapabilityFlags, ColumnType};
use mysql::prelude::Queryable;
use mysql::{ClientIdentity, Conn, Opts, OptsBuilder, Params, SslOpts};
use std::sync::{Arc, Once};
use std::time::Duration;

/// Prepared statements kept per connection.
const STATEMENTS: usize = 256;

/// The number of the character set `binary`: the column holds bytes, not text.
const BINARY: u16 = 63;

/// What makes the session mean the same as the other databases: double quotes for names, `||` joins texts, a
/// backslash is a character, values that do not fit are refused, comparison by code point.
const SESSION_MODE: &str = "SET SESSION sql_mode = 'ANSI,STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES', time_zone = '+00:00', \
     innodb_lock_wait_timeout = 10";

/// Whoever stands still within a transaction for so long loses it, and with it what is locked: a program or machine that is
/// gone or stopped must not keep that from others. MySQL does not know this.
pub(crate) const IMPATIENT: &str = "SET SESSION idle_transaction_timeout = 15";
/// For transactions that rest on purpose.
pub(crate) const PATIENT: &str = "SET SESSION idle_transaction_timeout = 0";
/// How long a statement may take, in seconds; 0 is any time. MySQL does not know this.
pub(crate) const STATEMENT_TIME: &str = "max_statement_time";
const UNKNOWN_VARIABLE: u16 = 1193;

/// The threads with their connections.
pub(crate) struct Pool(threaded::Pool);

impl Pool {
    pub(crate) fn open(url: &str, options: &Options) -> Result<Self, Error> {
        let target = Target::parse(url)?;
        threaded::Pool::open::<Mysql>("mysql", target, options).map(Self)
    }

    pub(crate) fn submit(&self, job: Box<dyn Job>, access: Access) {
        self.0.submit(job, access);
    }
}

/// A server, as a URL names it.
struct Target {
    opts: Opts,
    security: Security,
}

impl Target {
    fn parse(url: &str) -> Result<Self, Error> {
        let (url, security) = Security::of_mysql(url)?;
        let opts = opts(&url, &security)?;
        Ok(Self { opts, security })
    }

    fn connect(&self) -> Result<Conn, Error> {
        // The driver reads the files itself, and does not name them when it cannot.
        self.security.config()?;
        Conn::new(self.opts.clone()).map_err(|error| match convert(&error) {
            other @ (Error::Url(_) | Error::Unreachable(_)) => other,
            other => Error::Unreachable(other.to_string()),
        })
    }
}

fn opts(url: &str, security: &Security) -> Result<Opts, Error> {
    let opts = Opts::from_url(url).map_err(|error| Error::Url(error.to_string()))?;
    if opts.get_ssl_opts().is_some() {
        // Some of them turn the verification off.
        let text = "TLS is asked for by ssl_ca=FILE, not by options of the driver";
        return Err(Error::Url(text.to_owned()));
    }
    let secured = match security {
        Security::Plain => None,
        // The driver would use it as it is.
        Security::Tls(_) if opts.get_socket().is_some() => {
            return Err(Error::Url("ssl_ca does not go with socket".to_owned()));
        }
        Security::Tls(tls) => {
            // The driver uses that of the process. Where there is one already, it is the same.
            let _ = rustls::crypto::ring::default_provider().install_default();
            Some(ssl_opts(tls))
        }
    };
    let builder = OptsBuilder::from_opts(opts)
        .ssl_opts(secured)
        .stmt_cache_size(STATEMENTS)
        // A unix socket only where the URL says so.
        .prefer_socket(false)
        .tcp_connect_timeout(Some(Duration::from_secs(10)))
        .tcp_keepalive_time_ms(Some(60_000))
        .tcp_user_timeout_ms(Some(30_000))
        .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS);
    Ok(builder.into())
}

fn ssl_opts(tls: &Tls) -> SslOpts {
    let identity = tls.identity.clone();
    let identity = identity.map(|own| ClientIdentity::new(own.certificate, own.key));
    SslOpts::default()
        .with_root_cert_path(Some(tls.authority.clone()))
        .with_client_identity(identity)
}

/// Runs a statement on a connection of its own.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn run_alone(url: &str, sql: &str) -> Result<(), String> {
    let mut alone = Target::parse(url)
        .and_then(|target| target.connect())
        .map_err(|error| error.to_string())?;
    alone.query_drop(sql).map_err(|error| error.to_string())
}

struct Mysql {
    conn: Conn,
    lost: bool,
}

impl Connection for Mysql {
    const DIALECT: Dialect = Dialect::Mysql;

    type Target = Target;

    fn connect(target: &Target) -> Result<Self, Error> {
        let conn = target.connect()?;
        let mut this = Self { conn, lost: false };
        this.run("SET NAMES utf8mb4 COLLATE utf8mb4_bin")?;
        this.run(SESSION_MODE)?;
        this.run("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")?;
        match this.conn.query_drop(IMPATIENT) {
            Err(mysql::Error::MySqlError(refusal)) if refusal.code == UNKNOWN_VARIABLE => {}
            set => set.map_err(|error| this.noted(&error))?,
        }
        this.warn_of_galera();
        Ok(this)
    }

    fn begin(&mut self, access: Access) -> Result<(), Error> {
        if access.writes() {
            return self.run("START TRANSACTION READ WRITE");
        }
        // For the next transaction only. Both statements go in one message.
        self.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.run("COMMIT")
    }

    fn rollback(&mut self) -> Result<(), Error> {
        self.run("ROLLBACK")
    }

    fn is_lost(&self) -> bool {
        self.lost
    }
}

impl Mysql {
    fn run(&mut self, sql: &str) -> Result<(), Error> {
        let result = self.conn.query_drop(sql);
        result.map_err(|error| self.noted(&error))
    }

    /// Locks are those of one node: what a unit of work has read, another node lets others change.
    fn warn_of_galera(&mut self) {
        static ONCE: Once = Once::new();
        // MySQL does not know it.
        let on: Result<Option<i64>, _> = self.conn.query_first("SELECT @@wsrep_on");
        if matches!(on, Ok(Some(1))) {
            ONCE.call_once(|| {
                tracing::warn!("the database is a Galera cluster: all programs must write to the same one of its nodes");
            });
        }
    }

    fn noted(&mut self, error: &mysql::Error) -> Error {
        let converted = convert(error);
        self.lost |= matches!(converted, Error::Unreachable(_));
        converted
    }

    fn run_execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, mysql::Error> {
        let statement = self.conn.prep(sql)?;
        self.conn.exec_drop(statement, bind(params))?;
        Ok(self.conn.affected_rows())
    }

    fn run_query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, mysql::Error> {
        let statement = self.conn.prep(sql)?;
        let result = self.conn.exec_iter(statement, bind(params))?;
        let (kinds, columns): (Vec<Kind>, Arc<[String]>) = {
            let described = result.columns();
            let described = described.as_ref();
            let names = described
                .iter()
                .map(|column| column.name_str().into_owned())
                .collect();
            (described.iter().map(Kind::of).collect(), names)
        };
        let mut rows = Vec::new();
        for row in result {
            let values = row?
                .unwrap()
                .into_iter()
                .zip(&kinds)
                .map(|(value, kind)| kind.read(value))
                .collect();
            rows.push(Row {
                columns: Arc::clone(&columns),
                values,
            });
        }
        Ok(rows)
    }
}

impl Engine for Mysql {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        let result = self.run_execute(sql, params);
        result.map_err(|error| self.noted(&error))
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        let result = self.run_query(sql, params);
        result.map_err(|error| self.noted(&error))
    }

    fn insert_id(&mut self, sql: &str, params: &[Value]) -> Result<i64, Error> {
        self.execute(sql, params)?;
        i64::try_from(self.conn.last_insert_id()).map_err(|error| Error::Column(error.to_string()))
    }

    fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.run(sql)
    }
}

fn bind(params: &[Value]) -> Params {
    if params.is_empty() {
        return Params::Empty;
    }
    Params::Positional(
        params
            .iter()
            .map(|value| match value {
                Value::Null => mysql::Value::NULL,
                Value::Int(int) => mysql::Value::Int(*int),
                Value::Real(real) => mysql::Value::Double(*real),
                Value::Text(text) => mysql::Value::Bytes(text.clone().into_bytes()),
                Value::Bytes(bytes) => mysql::Value::Bytes(bytes.clone()),
            })
            .collect(),
    )
}

/// How the bytes of a column are read.
#[derive(Clone, Copy)]
enum Kind {
    Decimal,
    Text,
    Bytes,
}

impl Kind {
    fn of(column: &mysql::Column) -> Self {
        match column.column_type() {
            ColumnType::MYSQL_TYPE_DECIMAL | ColumnType::MYSQL_TYPE_NEWDECIMAL => Self::Decimal,
            _ if column.character_set() == BINARY => Self::Bytes,
            _ => Self::Text,
        }
    }

    fn read(self, value: mysql::Value) -> Value {
        match value {
            mysql::Value::NULL => Value::Null,
            mysql::Value::Int(int) => Value::Int(int),
            mysql::Value::UInt(int) => {
                i64::try_from(int).map_or(Value::Real(int as f64), Value::Int)
            }
            mysql::Value::Float(real) => Value::Real(real.into()),
            mysql::Value::Double(real) => Value::Real(real),
            mysql::Value::Bytes(bytes) => match self {
                Self::Bytes => Value::Bytes(bytes),
                Self::Text => Value::Text(lossless(bytes)),
                Self::Decimal => decimal(&lossless(bytes)),
            },
            // The portable columns hold no dates.
            other => Value::Text(other.as_sql(false)),
        }
    }
}

fn lossless(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// SUM of a BIGINT is a DECIMAL here.
fn decimal(text: &str) -> Value {
    let whole = text.split_once('.').map_or(Some(text), |(whole, part)| {
        part.bytes().all(|digit| digit == b'0').then_some(whole)
    });
    if let Some(int) = whole.and_then(|whole| whole.parse().ok()) {
        return Value::Int(int);
    }
    text.parse()
        .map_or_else(|_| Value::Text(text.to_owned()), Value::Real)
}

fn convert(error: &mysql::Error) -> Error {
    let text = error.to_string();
    match error {
        mysql::Error::MySqlError(refusal) => match refusal.code {
            1062 | 1586 => Error::UniqueViolation(refusal.message.clone()),
            // NOT NULL, foreign keys, CHECK, no default, too long, out of range.
            1048 | 1216 | 1217 | 1264 | 1364 | 1406 | 1451 | 1452 | 3819 | 4025 => {
                Error::Constraint(text)
            }
            // Changed since read, lock wait timeout, deadlock.
            1020 | 1205 | 1213 => Error::Conflict(text),
            1050 | 1060 | 1061 => Error::Exists(text),
            // Too many connections, a node apart from its cluster, shutdown, killed, network trouble, host gone, read-only replica.
            1040
            | 1047
            | 1053
            | 1152
            | 1158..=1161
            | 1184
            | 1203
            | 1290
            | 1836
            | 1927
            | 3169
            | 4031 => Error::Unreachable(text),
            1091 | 1146 => Error::Missing(text),
            1044 | 1045 | 1049 => Error::Url(text),
            _ => Error::Statement(text),
        },
        mysql::Error::DriverError(
            mysql::DriverError::MismatchedStmtParams(..) | mysql::DriverError::MixedParams,
        ) => Error::Statement(text),
        mysql::Error::IoError(_)
        | mysql::Error::CodecError(_)
        | mysql::Error::DriverError(_)
        | mysql::Error::TlsError(_) => Error::Unreachable(text),
        _ => Error::Statement(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        for (text, value) in [
            ("12", Value::Int(12)),
            ("-3.0000", Value::Int(-3)),
            ("1.5", Value::Real(1.5)),
            ("99999999999999999999", Value::Real(1e20)),
        ] {
            assert_eq!(decimal(text), value, "{text}");
        }
    }
}
