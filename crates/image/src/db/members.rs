//! Projects that images are shared with.

use crate::model::Member;
use sql::{Error, Row, Tx};
use types::Timestamp;

const COLUMNS: &str = "image_id, member_id, status, created_at, updated_at";

fn from_row(row: &Row) -> Result<Member, Error> {
    Ok(Member {
        image_id: row.get(0)?,
        member_id: row.get(1)?,
        status: row.get(2)?,
        created_at: row.get(3)?,
        updated_at: row.get(4)?,
    })
}

/// One member of an image.
pub fn member(tx: &mut Tx<'_>, image_id: &str, member_id: &str) -> Result<Option<Member>, Error> {
    let query = format!("SELECT {COLUMNS} FROM image_members WHERE image_id = ? AND member_id = ?");
    tx.query_opt(&query, &[image_id.into(), member_id.into()])?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// All members of an image.
pub fn members(tx: &mut Tx<'_>, image_id: &str) -> Result<Vec<Member>, Error> {
    let query = format!(
        "SELECT {COLUMNS} FROM image_members WHERE image_id = ? ORDER BY created_at, member_id"
    );
    tx.query(&query, &[image_id.into()])?
        .iter()
        .map(from_row)
        .collect()
}

/// Adds a member; one that is there already is a unique violation.
pub fn add_member(tx: &mut Tx<'_>, member: &Member) -> Result<(), Error> {
    tx.post(
        &format!("INSERT INTO image_members ({COLUMNS}) VALUES (?, ?, ?, ?, ?)"),
        &[
            (&member.image_id).into(),
            (&member.member_id).into(),
            (&member.status).into(),
            member.created_at.into(),
            member.updated_at.into(),
        ],
    )?;
    Ok(())
}

/// Accepts or rejects; false without such a member.
pub fn set_member_status(
    tx: &mut Tx<'_>,
    image_id: &str,
    member_id: &str,
    status: &str,
) -> Result<bool, Error> {
    let changed = tx.execute(
        "UPDATE image_members SET status = ?, updated_at = ? WHERE image_id = ? AND member_id = ?",
        &[
            status.into(),
            Timestamp::now().into(),
            image_id.into(),
            member_id.into(),
        ],
    )?;
    Ok(changed == 1)
}

/// Removes a member; false without such a member.
pub fn remove_member(tx: &mut Tx<'_>, image_id: &str, member_id: &str) -> Result<bool, Error> {
    let query = "DELETE FROM image_members WHERE image_id = ? AND member_id = ?";
    Ok(tx.execute(query, &[image_id.into(), member_id.into()])? == 1)
}
