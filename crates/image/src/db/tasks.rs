//! Rows of `image_tasks`.

use crate::model::Task;
use sql::{Error, Row, Tx};
use types::Timestamp;

const COLUMNS: &str = "id, kind, status, owner, user_id, image_id, request_id, input, message, created_at, updated_at, expires_at";

fn task(row: &Row) -> Result<Task, Error> {
    Ok(Task {
        id: row.get(0)?,
        kind: row.get(1)?,
        status: row.get(2)?,
        owner: row.get(3)?,
        user_id: row.get(4)?,
        image_id: row.get(5)?,
        request_id: row.get(6)?,
        input: row.get(7)?,
        message: row.get(8)?,
        created_at: row.get(9)?,
        updated_at: row.get(10)?,
        expires_at: row.get(11)?,
    })
}

/// Keeps a new task, and forgets those whose time is over.
pub fn add_task(tx: &mut Tx<'_>, task: &Task) -> Result<(), Error> {
    tx.post(
        "DELETE FROM image_tasks WHERE expires_at < ?",
        &[Timestamp::now().into()],
    )?;
    let sql = format!(
        "INSERT INTO image_tasks ({COLUMNS}) VALUES ({})",
        sql::placeholders(12)
    );
    let row = [
        (&task.id).into(),
        (&task.kind).into(),
        (&task.status).into(),
        (&task.owner).into(),
        (&task.user_id).into(),
        (&task.image_id).into(),
        (&task.request_id).into(),
        (&task.input).into(),
        (&task.message).into(),
        task.created_at.into(),
        task.updated_at.into(),
        task.expires_at.into(),
    ];
    tx.post(&sql, &row)?;
    Ok(())
}

/// Ends a task that has not ended yet.
pub fn end_task(
    tx: &mut Tx<'_>,
    id: &str,
    status: &str,
    message: &str,
    expires_at: Timestamp,
) -> Result<(), Error> {
    let sql = "UPDATE image_tasks SET status = ?, message = ?, updated_at = ?, expires_at = ? \
        WHERE id = ? AND expires_at IS NULL";
    let row = [
        status.into(),
        message.into(),
        Timestamp::now().into(),
        expires_at.into(),
        id.into(),
    ];
    tx.post(sql, &row)?;
    Ok(())
}

/// Ends the tasks of an image that the end of their process has cut short, or cut off before they could say that they had
/// `ended`.
pub(super) fn end_interrupted(
    tx: &mut Tx<'_>,
    image: &str,
    ended: bool,
    expires_at: Timestamp,
) -> Result<(), Error> {
    let (status, message) = match ended {
        true => ("success", ""),
        false => ("failure", "The image service was stopped meanwhile."),
    };
    let sql = "UPDATE image_tasks SET status = ?, message = ?, updated_at = ?, expires_at = ? \
        WHERE image_id = ? AND expires_at IS NULL";
    let row = [
        status.into(),
        message.into(),
        Timestamp::now().into(),
        expires_at.into(),
        image.into(),
    ];
    tx.post(sql, &row)?;
    Ok(())
}

/// One task.
pub fn task_by_id(tx: &mut Tx<'_>, id: &str) -> Result<Option<Task>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM image_tasks WHERE id = ?");
    let row = tx.query_opt(&sql, &[id.into()])?;
    row.as_ref().map(task).transpose()
}

/// The tasks of an image, newest first.
pub fn tasks_of_image(tx: &mut Tx<'_>, image: &str) -> Result<Vec<Task>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM image_tasks WHERE image_id = ? ORDER BY created_at DESC, id"
    );
    tx.query(&sql, &[image.into()])?.iter().map(task).collect()
}

/// The newest tasks.
pub fn tasks(tx: &mut Tx<'_>, limit: usize) -> Result<Vec<Task>, Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM image_tasks ORDER BY created_at DESC, id LIMIT {limit}");
    tx.query(&sql, &[])?.iter().map(task).collect()
}
