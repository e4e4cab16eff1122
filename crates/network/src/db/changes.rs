//! What changed for the agents: a log by revision.

use crate::fault::Fault;
use sql::{Tx, Value};
use std::collections::BTreeSet;

/// Rows kept; an agent that is further behind gets everything.
const KEPT: i64 = 20_000;

/// What kind of object changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A network or its subnets.
    Network,
    /// Who has which address in a network; the object is the network.
    Addresses,
    /// A port.
    Port,
    /// A security group or its rules.
    Group,
    /// The members of a security group, or of one that its rules name.
    Members,
    /// A router, its interfaces or floating IPs.
    Router,
    /// Nothing: a host is asked for a look.
    Look,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Addresses => "address",
            Self::Port => "port",
            Self::Group => "group",
            Self::Members => "members",
            Self::Router => "router",
            Self::Look => "look",
        }
    }

    fn by_name(name: &str) -> Option<Self> {
        [
            Self::Network,
            Self::Addresses,
            Self::Port,
            Self::Group,
            Self::Members,
            Self::Router,
            Self::Look,
        ]
        .into_iter()
        .find(|what| what.name() == name)
    }
}

/// One change; `host` only for ports (the host the port is, or was, bound to) and looks.
pub type Change = (What, String, String);

/// Writes down changes under a new revision, which is the answer.
pub fn record(tx: &mut Tx<'_>, changes: &BTreeSet<Change>) -> Result<u64, Fault> {
    tx.post(
        "UPDATE net_counters SET amount = amount + 1 WHERE name = 'revision'",
        &[],
    )?;
    let revision = revision(tx)?;
    let changes: Vec<&Change> = changes.iter().collect();
    for piece in changes.chunks(100) {
        let rows = vec!["(?, ?, ?, ?)"; piece.len()].join(", ");
        let values: Vec<Value> = piece
            .iter()
            .flat_map(|(what, object, host)| {
                [
                    revision.into(),
                    what.name().into(),
                    object.into(),
                    host.into(),
                ]
            })
            .collect();
        tx.post(
            &format!("INSERT INTO net_changes (revision, kind, object, host) VALUES {rows}"),
            &values,
        )?;
    }
    if revision % 1000 == 0 {
        let oldest = i64::try_from(revision).unwrap_or(i64::MAX) - KEPT;
        tx.post(
            "DELETE FROM net_changes WHERE revision < ?",
            &[oldest.into()],
        )?;
    }
    Ok(revision)
}

/// The newest revision.
pub fn revision(tx: &mut Tx<'_>) -> Result<u64, Fault> {
    Ok(tx
        .query_one(
            "SELECT amount FROM net_counters WHERE name = 'revision'",
            &[],
        )?
        .get(0)?)
}

/// Lets every agent ask for everything: what it has to do may be another thing altogether.
pub fn start_over(tx: &mut Tx<'_>) -> Result<(), Fault> {
    let sql = "UPDATE net_counters SET amount = amount + ? WHERE name = 'revision'";
    Ok(tx.post(sql, &[KEPT.into()])?)
}

/// What changed after a revision; `None` when it is so long ago that nobody knows.
pub fn since(tx: &mut Tx<'_>, revision: u64) -> Result<Option<BTreeSet<Change>>, Fault> {
    let newest = self::revision(tx)?;
    // A thousand less than what is kept: rows are removed a thousand revisions at a time.
    if revision == 0 || revision > newest || newest - revision > (KEPT - 1000).unsigned_abs() {
        return Ok(None);
    }
    let rows = tx.query(
        "SELECT DISTINCT kind, object, host FROM net_changes WHERE revision > ?",
        &[revision.into()],
    )?;
    let mut changes = BTreeSet::new();
    for row in rows {
        if let Some(what) = What::by_name(&row.get::<String>(0)?) {
            changes.insert((what, row.get(1)?, row.get(2)?));
        }
    }
    Ok(Some(changes))
}
