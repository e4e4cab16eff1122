//! First answers to requests that carry an `Idempotency-Key`, kept for a while.

use sql::{Error, Tx, Value};
use types::Timestamp;

/// Whose key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The project.
    pub project_id: String,
    /// The user.
    pub user_id: String,
    /// What the client chose.
    pub key: String,
}

/// What was answered first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Hex SHA-256 of what was asked.
    pub request_hash: String,
    /// The status; 0 while the first request is still being answered.
    pub status: u16,
    /// `Location`.
    pub location: Option<String>,
    /// The body, sealed: it can hold a password.
    pub sealed: Option<String>,
    /// When the first request came.
    pub created_at: Timestamp,
}

/// Takes the key for a request. `None`: it was free, and the caller answers the request and calls [`finish`] or
/// [`release`]. Otherwise what is known of the first request. Keys that came before `oldest` are free again.
pub fn begin(
    tx: &mut Tx<'_>,
    owner: &Owner,
    request_hash: &str,
    oldest: Timestamp,
    now: Timestamp,
) -> Result<Option<Kept>, Error> {
    tx.post(
        "DELETE FROM idempotency_keys WHERE created_at < ?",
        &[oldest.into()],
    )?;
    let sql = "SELECT request_hash, status, location, sealed, created_at FROM idempotency_keys \
        WHERE project_id = ? AND user_id = ? AND client_key = ?";
    if let Some(row) = tx.query_opt(sql, &of(owner))? {
        return Ok(Some(Kept {
            request_hash: row.get(0)?,
            status: u16::try_from(row.get::<i64>(1)?).unwrap_or_default(),
            location: row.get(2)?,
            sealed: row.get(3)?,
            created_at: row.get(4)?,
        }));
    }
    let sql = "INSERT INTO idempotency_keys (project_id, user_id, client_key, request_hash, status, created_at) \
        VALUES (?, ?, ?, ?, 0, ?)";
    let [project, user, key] = of(owner);
    tx.post(sql, &[project, user, key, request_hash.into(), now.into()])?;
    Ok(None)
}

fn of(owner: &Owner) -> [Value; 3] {
    [
        (&owner.project_id).into(),
        (&owner.user_id).into(),
        (&owner.key).into(),
    ]
}

/// Keeps the answer.
pub fn finish(
    tx: &mut Tx<'_>,
    owner: &Owner,
    status: u16,
    location: Option<&str>,
    sealed: Option<&str>,
) -> Result<(), Error> {
    let sql = "UPDATE idempotency_keys SET status = ?, location = ?, sealed = ? \
        WHERE project_id = ? AND user_id = ? AND client_key = ?";
    let [project, user, key] = of(owner);
    let params = [
        i64::from(status).into(),
        location.map(str::to_owned).into(),
        sealed.map(str::to_owned).into(),
        project,
        user,
        key,
    ];
    tx.post(sql, &params)?;
    Ok(())
}

/// Frees the key, because nothing was done.
pub fn release(tx: &mut Tx<'_>, owner: &Owner) -> Result<(), Error> {
    let sql =
        "DELETE FROM idempotency_keys WHERE project_id = ? AND user_id = ? AND client_key = ?";
    tx.post(sql, &of(owner))?;
    Ok(())
}
