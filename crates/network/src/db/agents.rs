//! Hosts and the agents on them.

use crate::doc::Doc;
use crate::fault::Fault;
use serde_json::{Value as Json, json};
use sql::{Tx, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;
use types::Timestamp;
use types::network_wanted::{AgentKind, AgentStatus};
use uuid::Uuid;

const COLUMNS: &str =
    "id, host, kind, created, started, heartbeat, admin_state_up, description, configurations";

/// Makes a host known, with the end of its tunnels. True when that was not known before.
pub fn know_host(tx: &mut Tx<'_>, host: &str, tunnel: Option<IpAddr>) -> Result<bool, Fault> {
    if is_known(tx, host, tunnel)? {
        return Ok(false);
    }
    let tunnel = tunnel.map(|ip| ip.to_string());
    let changed = tx.execute(
        "UPDATE net_hosts SET tunnel_ip = ? WHERE host = ?",
        &[tunnel.clone().into(), host.into()],
    )?;
    if changed == 0 {
        tx.post(
            "INSERT INTO net_hosts (host, first_seen, tunnel_ip) VALUES (?, ?, ?)",
            &[host.into(), Timestamp::now().into(), tunnel.into()],
        )?;
    }
    Ok(true)
}

/// Whether a host's agent asked before, with this end of its tunnels.
pub fn is_known(tx: &mut Tx<'_>, host: &str, tunnel: Option<IpAddr>) -> Result<bool, Fault> {
    let row = tx.query_opt(
        "SELECT tunnel_ip FROM net_hosts WHERE host = ?",
        &[host.into()],
    )?;
    let known = row.map(|row| row.get::<Option<String>>(0)).transpose()?;
    Ok(known.is_some_and(|known| known == tunnel.map(|ip| ip.to_string())))
}

/// Where the tunnels of hosts end, by host.
pub fn tunnels(tx: &mut Tx<'_>) -> Result<BTreeMap<String, IpAddr>, Fault> {
    let rows = tx.query(
        "SELECT host, tunnel_ip FROM net_hosts WHERE tunnel_ip IS NOT NULL",
        &[],
    )?;
    let mut all = BTreeMap::new();
    for row in &rows {
        if let Ok(ip) = row.get::<String>(1)?.parse() {
            all.insert(row.get(0)?, ip);
        }
    }
    Ok(all)
}

/// Whether any network leaves its host.
pub fn any_tunnel(tx: &mut Tx<'_>) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM net_hosts WHERE tunnel_ip IS NOT NULL LIMIT 1";
    Ok(tx.query_opt(sql, &[])?.is_some())
}

/// The host whose agent asked first.
pub fn first_host(tx: &mut Tx<'_>) -> Result<Option<String>, Fault> {
    let row = tx.query_opt("SELECT host FROM net_hosts ORDER BY first_seen, host", &[])?;
    Ok(row.map(|row| row.get(0)).transpose()?)
}

/// Makes a host the one that serves DHCP and routers. False when it is already.
pub fn make_first(tx: &mut Tx<'_>, host: &str) -> Result<bool, Fault> {
    if first_host(tx)?.as_deref() == Some(host) {
        return Ok(false);
    }
    let oldest = tx.query_opt("SELECT MIN(first_seen) FROM net_hosts", &[])?;
    let oldest = oldest.map(|row| row.get::<Option<i64>>(0)).transpose()?;
    let first = oldest.flatten().unwrap_or(i64::MAX).saturating_sub(1);
    let known = "UPDATE net_hosts SET first_seen = ? WHERE host = ?";
    if tx.execute(known, &[first.into(), host.into()])? == 0 {
        let new = "INSERT INTO net_hosts (host, first_seen) VALUES (?, ?)";
        tx.post(new, &[host.into(), first.into()])?;
    }
    Ok(true)
}

fn kind_name(kind: AgentKind) -> &'static str {
    match kind {
        AgentKind::Bridge => "bridge",
        AgentKind::Dhcp => "dhcp",
        AgentKind::L3 => "l3",
        AgentKind::Metadata => "metadata",
    }
}

/// Takes a heartbeat.
pub fn beat(tx: &mut Tx<'_>, host: &str, agents: &[AgentStatus]) -> Result<(), Fault> {
    let now = Timestamp::now();
    for agent in agents {
        let configurations = json!(agent.configurations).to_string();
        let sql =
            "UPDATE net_agents SET heartbeat = ?, configurations = ? WHERE host = ? AND kind = ?";
        let kind = kind_name(agent.kind);
        if tx.execute(
            sql,
            &[
                now.into(),
                configurations.as_str().into(),
                host.into(),
                kind.into(),
            ],
        )? > 0
        {
            continue;
        }
        let row: [Value; 9] = [
            Uuid::new_v4().into(),
            host.into(),
            kind.into(),
            now.into(),
            now.into(),
            now.into(),
            true.into(),
            "".into(),
            configurations.into(),
        ];
        tx.post(
            &format!("INSERT INTO net_agents ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"),
            &row,
        )?;
    }
    Ok(())
}

/// All agents as `GET /v2.0/agents` shows them.
pub fn list(tx: &mut Tx<'_>, down_after_seconds: u32) -> Result<Vec<Doc>, Fault> {
    let oldest = Timestamp::now().minus(std::time::Duration::from_secs(down_after_seconds.into()));
    let rows = tx.query(
        &format!("SELECT {COLUMNS} FROM net_agents ORDER BY host, kind"),
        &[],
    )?;
    rows.into_iter().map(|row| show(&row, oldest)).collect()
}

fn show(row: &sql::Row, oldest: Timestamp) -> Result<Doc, Fault> {
    let name: String = row.get(2)?;
    let kind = AgentKind::ALL
        .into_iter()
        .find(|kind| kind_name(*kind) == name)
        .unwrap_or(AgentKind::Bridge);
    let configurations: Json = serde_json::from_str(&row.get::<String>(8)?).unwrap_or_default();
    let heartbeat: Timestamp = row.get(5)?;
    let zone = match kind {
        AgentKind::Dhcp | AgentKind::L3 => json!("nova"),
        AgentKind::Bridge | AgentKind::Metadata => Json::Null,
    };
    let mut doc = Doc::default();
    doc.set("id", row.get::<String>(0)?);
    doc.set("agent_type", kind.agent_type());
    doc.set("binary", kind.binary());
    doc.set("topic", "N/A");
    doc.set("host", row.get::<String>(1)?);
    doc.set("admin_state_up", row.get::<bool>(6)?);
    doc.set("created_at", row.get::<Timestamp>(3)?.sql_seconds());
    doc.set("started_at", row.get::<Timestamp>(4)?.sql_seconds());
    doc.set("heartbeat_timestamp", heartbeat.sql_seconds());
    doc.set("alive", heartbeat > oldest);
    doc.set("description", row.get::<String>(7)?);
    doc.set("configurations", configurations);
    doc.set("availability_zone", zone);
    doc.set("resource_versions", json!({}));
    Ok(doc)
}

/// Changes what an administrator may change of an agent.
pub fn update(
    tx: &mut Tx<'_>,
    id: &str,
    admin_state_up: Option<bool>,
    description: Option<&str>,
) -> Result<(), Fault> {
    if let Some(up) = admin_state_up {
        tx.post(
            "UPDATE net_agents SET admin_state_up = ? WHERE id = ?",
            &[up.into(), id.into()],
        )?;
    }
    if let Some(text) = description {
        tx.post(
            "UPDATE net_agents SET description = ? WHERE id = ?",
            &[text.into(), id.into()],
        )?;
    }
    Ok(())
}

/// Forgets an agent, and its host when it was the last one there; what is alive comes back with its next heartbeat. True when
/// that host served DHCP and routers, which are another one's then.
pub fn delete(tx: &mut Tx<'_>, id: &str) -> Result<bool, Fault> {
    let Some(row) = tx.query_opt("SELECT host FROM net_agents WHERE id = ?", &[id.into()])? else {
        return Ok(false);
    };
    let host: String = row.get(0)?;
    tx.execute("DELETE FROM net_agents WHERE id = ?", &[id.into()])?;
    let others = "SELECT 1 FROM net_agents WHERE host = ? LIMIT 1";
    if tx.query_opt(others, &[host.as_str().into()])?.is_some() {
        return Ok(false);
    }
    let served = first_host(tx)?.as_deref() == Some(&host[..]);
    tx.execute(
        "DELETE FROM net_hosts WHERE host = ?",
        &[host.as_str().into()],
    )?;
    super::looks::forget(tx, &host)?;
    Ok(served)
}
