//! Short questions to hosts, for as long as somebody waits for the answer.

use crate::{document, to_document};
use sql::{Error, Row, Tx};
use types::agent::{Answer, Asked, Question};
use types::{HostName, ServerId, Timestamp};
use uuid::Uuid;

/// Asks a host.
pub fn ask(
    tx: &mut Tx<'_>,
    id: Uuid,
    host: &HostName,
    server: ServerId,
    question: &Question,
    now: Timestamp,
) -> Result<(), Error> {
    tx.post(
        "INSERT INTO host_questions (id, host, instance_uuid, question, created_at) VALUES (?, ?, ?, ?, ?)",
        &[
            id.into(),
            host.into(),
            server.into(),
            to_document(question)?.into(),
            now.into(),
        ],
    )?;
    Ok(())
}

/// What a host has not answered, oldest first. What was asked in words that this release does not know is for conductors
/// that do.
pub fn open(tx: &mut Tx<'_>, host: &HostName) -> Result<Vec<Asked>, Error> {
    from_rows(&tx.query(OPEN, &[host.into()])?)
}

pub(crate) const OPEN: &str = "SELECT id, instance_uuid, question FROM host_questions \
     WHERE host = ? AND answer IS NULL ORDER BY created_at, id";

pub(crate) fn from_rows(rows: &[Row]) -> Result<Vec<Asked>, Error> {
    let mut asked = Vec::new();
    for row in rows {
        if let Ok(question) = document(&row.get::<String>(2)?) {
            asked.push(Asked {
                id: row.get(0)?,
                server: row.get(1)?,
                question,
            });
        }
    }
    Ok(asked)
}

/// Writes a host's answer; nothing when nobody waits for it any more.
pub fn answer(tx: &mut Tx<'_>, host: &HostName, answer: &Answer) -> Result<(), Error> {
    tx.post(
        "UPDATE host_questions SET answer = ? WHERE id = ? AND host = ? AND answer IS NULL",
        &[
            to_document(&answer.result)?.into(),
            answer.id.into(),
            host.into(),
        ],
    )?;
    Ok(())
}

/// The answer to a question, as the agent gave it, if it is there.
pub fn answered<T: serde::de::DeserializeOwned>(
    tx: &mut Tx<'_>,
    id: Uuid,
) -> Result<Option<T>, Error> {
    let row = tx.query_opt(
        "SELECT answer FROM host_questions WHERE id = ?",
        &[id.into()],
    )?;
    match row.map(|row| row.get::<Option<String>>(0)).transpose()? {
        Some(Some(text)) => document(&text).map(Some),
        _ => Ok(None),
    }
}

/// Forgets a question.
pub fn forget(tx: &mut Tx<'_>, id: Uuid) -> Result<(), Error> {
    tx.post("DELETE FROM host_questions WHERE id = ?", &[id.into()])?;
    Ok(())
}

/// Forgets questions whose askers must be gone.
pub fn forget_older(tx: &mut Tx<'_>, than: Timestamp) -> Result<u64, Error> {
    tx.execute(
        "DELETE FROM host_questions WHERE created_at < ?",
        &[than.into()],
    )
}
