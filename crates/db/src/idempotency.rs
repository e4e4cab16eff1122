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
    /// The status; 0 while the first request is still being answered, [`ACCEPTED`] when it was accepted and has no answer
    /// yet.
    pub status: u16,
    /// `Location`.
    pub location: Option<String>,
    /// The body, sealed: it can hold a password.
    pub sealed: Option<String>,
    /// When the first request came.
    pub created_at: Timestamp,
}

/// The status of a request that has had its effect, whose answer is not known yet.
pub const ACCEPTED: u16 = 1;

/// The times that count for a key.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Keys from before are free.
    pub oldest: Timestamp,
    /// Who took a key before and has come to nothing loses it to the next with the same request.
    pub stale: Timestamp,
    /// Now: names the attempt, for [`finish`] and [`release`].
    pub now: Timestamp,
}

/// Takes the key for a request. `None`: it was free, and the caller answers the request and calls [`finish`] or
/// [`release`]. Otherwise what is known of the first request.
pub fn begin(
    tx: &mut Tx<'_>,
    owner: &Owner,
    request_hash: &str,
    times: Times,
) -> Result<Option<Kept>, Error> {
    let Times { oldest, stale, now } = times;
    tx.post(
        "DELETE FROM idempotency_keys WHERE created_at < ?",
        &[oldest.into()],
    )?;
    let sql = "SELECT request_hash, status, location, sealed, created_at FROM idempotency_keys \
        WHERE project_id = ? AND user_id = ? AND client_key = ?";
    if let Some(row) = tx.query_opt(sql, &of(owner))? {
        let kept = Kept {
            request_hash: row.get(0)?,
            status: u16::try_from(row.get::<i64>(1)?).unwrap_or_default(),
            location: row.get(2)?,
            sealed: row.get(3)?,
            created_at: row.get(4)?,
        };
        let is_stale = kept.status == 0 && kept.created_at < stale;
        if !is_stale || kept.request_hash != request_hash {
            return Ok(Some(kept));
        }
        let sql = "UPDATE idempotency_keys SET created_at = ? WHERE project_id = ? AND user_id = ? AND client_key = ? \
            AND status = 0 AND created_at = ?";
        let [project, user, key] = of(owner);
        let taken = [now.into(), project, user, key, kept.created_at.into()];
        // Another one may have been faster.
        return Ok((tx.execute(sql, &taken)? != 1).then_some(kept));
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

/// Keeps the answer of the attempt that took the key at this time. False: another one has taken it over.
pub fn finish(
    tx: &mut Tx<'_>,
    owner: &Owner,
    attempt: Timestamp,
    status: u16,
    location: Option<&str>,
    sealed: Option<&str>,
) -> Result<bool, Error> {
    let sql = "UPDATE idempotency_keys SET status = ?, location = ?, sealed = ? \
        WHERE project_id = ? AND user_id = ? AND client_key = ? AND created_at = ?";
    let [project, user, key] = of(owner);
    let params = [
        i64::from(status).into(),
        location.map(str::to_owned).into(),
        sealed.map(str::to_owned).into(),
        project,
        user,
        key,
        attempt.into(),
    ];
    Ok(tx.execute(sql, &params)? == 1)
}

/// Frees the key of an attempt, because nothing was done.
pub fn release(tx: &mut Tx<'_>, owner: &Owner, attempt: Timestamp) -> Result<(), Error> {
    let sql = "DELETE FROM idempotency_keys WHERE project_id = ? AND user_id = ? AND client_key = ? AND created_at = ?";
    let [project, user, key] = of(owner);
    tx.post(sql, &[project, user, key, attempt.into()])?;
    Ok(())
}
