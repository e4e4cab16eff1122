//! What was asked of the agents about the state of their hosts.

use super::PIECE;
use crate::fault::Fault;
use sql::{Tx, Value, placeholders};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use types::Timestamp;
use types::network_wanted::{Look, Looked};

/// Most differences that are kept of one host.
const MOST: usize = 1000;
/// After this time nobody waits for an answer any more: agents that know no looks are not told again and again.
const AGE: Duration = Duration::from_secs(600);

/// Asks hosts for a look; its number, the same for all.
pub fn ask(tx: &mut Tx<'_>, hosts: &BTreeSet<String>, mend: bool) -> Result<u64, Fault> {
    tx.post(
        "UPDATE net_counters SET amount = amount + 1 WHERE name = 'look'",
        &[],
    )?;
    let number: u64 = tx
        .query_one("SELECT amount FROM net_counters WHERE name = 'look'", &[])?
        .get(0)?;
    let now = Timestamp::now();
    let hosts: Vec<&String> = hosts.iter().collect();
    for piece in hosts.chunks(PIECE) {
        let list = placeholders(piece.len());
        let names: Vec<Value> = piece.iter().map(|host| Value::from(*host)).collect();
        let mut values: Vec<Value> = vec![number.into(), mend.into(), now.into()];
        values.extend(names.iter().cloned());
        tx.post(
            &format!(
                "UPDATE net_looks SET asked = ?, mend = ?, asked_at = ? WHERE host IN ({list})"
            ),
            &values,
        )?;
        let known = tx.query(
            &format!("SELECT host FROM net_looks WHERE host IN ({list})"),
            &names,
        )?;
        let known: BTreeSet<String> = known
            .iter()
            .map(|row| row.get::<String>(0))
            .collect::<Result<_, _>>()?;
        for few in new_ones(piece, &known).chunks(100) {
            let rows = vec!["(?, ?, ?, ?, 0)"; few.len()].join(", ");
            let values: Vec<Value> = few
                .iter()
                .flat_map(|host| [(*host).into(), number.into(), mend.into(), now.into()])
                .collect();
            tx.post(
                &format!(
                    "INSERT INTO net_looks (host, asked, mend, asked_at, answered) VALUES {rows}"
                ),
                &values,
            )?;
        }
    }
    Ok(number)
}

fn new_ones<'a>(hosts: &[&'a String], known: &BTreeSet<String>) -> Vec<&'a String> {
    let hosts = hosts.iter().copied();
    hosts.filter(|host| !known.contains(*host)).collect()
}

/// The look that a host was asked for and has not answered.
pub fn pending(tx: &mut Tx<'_>, host: &str) -> Result<Option<Look>, Fault> {
    let sql =
        "SELECT asked, mend FROM net_looks WHERE host = ? AND asked > answered AND asked_at > ?";
    let row = tx.query_opt(sql, &[host.into(), Timestamp::now().minus(AGE).into()])?;
    row.map(|row| {
        Ok(Look {
            number: row.get(0)?,
            mend: row.get(1)?,
        })
    })
    .transpose()
}

/// Takes a host's answer, unless a later look was answered or this one was never asked for.
pub fn answer(tx: &mut Tx<'_>, host: &str, looked: &Looked) -> Result<(), Fault> {
    let kept = looked.differences.iter().take(MOST).cloned();
    let mut differences: Vec<String> = kept.collect();
    if looked.differences.len() > MOST {
        differences.push(format!("{} more", looked.differences.len() - MOST));
    }
    let differences = serde_json::json!(differences).to_string();
    tx.post(
        "UPDATE net_looks SET answered = ?, differences = ?, answered_at = ? WHERE host = ? AND answered < ? AND asked >= ?",
        &[
            looked.number.into(),
            differences.into(),
            Timestamp::now().into(),
            host.into(),
            looked.number.into(),
            looked.number.into(),
        ],
    )?;
    Ok(())
}

/// What the hosts found that have answered this look or a later one.
pub fn answers(tx: &mut Tx<'_>, number: u64) -> Result<BTreeMap<String, Vec<String>>, Fault> {
    let sql = "SELECT host, differences FROM net_looks WHERE answered >= ?";
    let mut all = BTreeMap::new();
    for row in tx.query(sql, &[number.into()])? {
        let differences: Option<String> = row.get(1)?;
        let differences = serde_json::from_str(&differences.unwrap_or_default());
        all.insert(row.get(0)?, differences.unwrap_or_default());
    }
    Ok(all)
}

/// Forgets what was asked of a host.
pub fn forget(tx: &mut Tx<'_>, host: &str) -> Result<(), Fault> {
    Ok(tx.post("DELETE FROM net_looks WHERE host = ?", &[host.into()])?)
}
