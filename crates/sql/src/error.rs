//! What can go wrong with a database.

/// A database error, told apart as far as callers decide differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A unique index or primary key refused the row.
    #[error("unique constraint violated: {0}")]
    UniqueViolation(String),
    /// Another constraint refused the row.
    #[error("constraint violated: {0}")]
    Constraint(String),
    /// Another transaction was in the way; the unit of work is run again.
    #[error("serialization conflict: {0}")]
    Conflict(String),
    /// The connection was lost or cannot be made.
    #[error("database not reachable: {0}")]
    Unreachable(String),
    /// The connection was lost while the commit was under way: it happened, or it did not.
    #[error("the outcome of a commit is not known: {0}")]
    InDoubt(String),
    /// A row that must be there is not.
    #[error("no such row")]
    NoRow,
    /// A column does not hold what the code expects.
    #[error("unexpected column value: {0}")]
    Column(String),
    /// The database refused the statement for another reason.
    #[error("database error: {0}")]
    Statement(String),
    /// The table, column or index exists already.
    #[error("exists already: {0}")]
    Exists(String),
    /// The table does not exist.
    #[error("no such table: {0}")]
    Missing(String),
    /// The URL or an option makes no sense.
    #[error("bad database URL: {0}")]
    Url(String),
    /// The schema is newer or older than this program can use, or a migration failed.
    #[error("schema: {0}")]
    Schema(String),
    /// The store was closed.
    #[error("the database is closed")]
    Closed,
}

impl Error {
    /// Whether a unique index refused the row.
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::UniqueViolation(_))
    }

    /// Whether running the whole unit of work again may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Unreachable(_))
    }
}
