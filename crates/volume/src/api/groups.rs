//! Groups of volumes.

use sql::Tx;

/// After the end of a job: ends what happens to the group or group snapshot that it was part of.
pub fn settle(
    _tx: &mut Tx<'_>,
    _group: Option<&str>,
    _group_snapshot: Option<&str>,
) -> Result<(), sql::Error> {
    Ok(())
}
