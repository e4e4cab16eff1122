//! Every SQL statement of the network service.

pub mod agents;
pub mod bindings;
pub mod changes;
pub mod figures;
pub mod ipam;
pub mod looks;
pub mod quotas;
pub mod topologies;
pub mod trunks;

use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use serde_json::Value as Json;
use sql::{Migration, Tx, Value, placeholders};

/// The schema.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "initial",
        sql: include_str!("migrations/0001_initial.sql"),
    },
    Migration {
        version: 2,
        name: "tunnels",
        sql: include_str!("migrations/0002_tunnels.sql"),
    },
    Migration {
        version: 3,
        name: "bindings",
        sql: include_str!("migrations/0003_bindings.sql"),
    },
    Migration {
        version: 4,
        name: "trunks",
        sql: include_str!("migrations/0004_trunks.sql"),
    },
    Migration {
        version: 5,
        name: "looks",
        sql: include_str!("migrations/0005_looks.sql"),
    },
];

/// Most parameters in one statement; lists are asked for in pieces of this size.
pub(crate) const PIECE: usize = 500;

/// A condition on a column beside the document.
#[derive(Clone, Debug)]
pub enum Match {
    /// The column is one of these.
    In(&'static str, Vec<Value>),
    /// The column begins with this text.
    Begins(&'static str, &'static str),
    /// What the project may see: its own, and what is shared.
    Visible(String),
}

/// Rows whose column has this value.
pub fn is(column: &'static str, value: impl Into<Value>) -> Match {
    Match::In(column, vec![value.into()])
}

/// Rows whose column has one of these texts.
pub fn one_of<'a>(column: &'static str, values: impl IntoIterator<Item = &'a str>) -> Match {
    Match::In(column, values.into_iter().map(Value::from).collect())
}

impl Kind {
    fn table(self) -> &'static str {
        match self {
            Self::Network => "net_networks",
            Self::Subnet => "net_subnets",
            Self::SubnetPool => "net_subnetpools",
            Self::AddressScope => "net_address_scopes",
            Self::Port => "net_ports",
            Self::Router => "net_routers",
            Self::FloatingIp => "net_floatingips",
            Self::Group => "net_groups",
            Self::Rule => "net_rules",
            Self::Trunk => "net_trunks",
        }
    }

    /// The columns that attributes are searched by.
    pub fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Network => &[
                ("name", "name"),
                ("shared", "shared"),
                ("external", "router:external"),
                ("segment", "provider:segmentation_id"),
            ],
            Self::Subnet => &[
                ("network_id", "network_id"),
                ("subnetpool_id", "subnetpool_id"),
            ],
            Self::SubnetPool => &[
                ("shared", "shared"),
                ("address_scope_id", "address_scope_id"),
            ],
            Self::AddressScope => &[("shared", "shared")],
            Self::Port => &[
                ("network_id", "network_id"),
                ("device_id", "device_id"),
                ("device_owner", "device_owner"),
                ("host", "binding:host_id"),
                ("mac_address", "mac_address"),
                ("status", "status"),
                ("addresses", "_addresses"),
            ],
            Self::Router => &[],
            Self::FloatingIp => &[
                ("floating_network_id", "floating_network_id"),
                ("floating_ip_address", "floating_ip_address"),
                ("port_id", "port_id"),
                ("router_id", "router_id"),
                ("association", "_association"),
            ],
            Self::Group => &[("name", "name"), ("default_of", "_default_of")],
            Self::Rule => &[
                ("security_group_id", "security_group_id"),
                ("remote_group_id", "remote_group_id"),
                ("content", "_content"),
            ],
            Self::Trunk => &[("port_id", "port_id")],
        }
    }

    fn visible(self) -> &'static str {
        match self {
            Self::Network => "(project_id = ? OR shared = 1 OR external = 1)",
            Self::Subnet => {
                "(project_id = ? OR network_id IN (SELECT id FROM net_networks WHERE shared = 1 OR project_id = ?))"
            }
            Self::Port => {
                "(project_id = ? OR network_id IN (SELECT id FROM net_networks WHERE project_id = ?))"
            }
            Self::SubnetPool | Self::AddressScope => "(project_id = ? OR shared = 1)",
            Self::Rule => {
                "(project_id = ? OR security_group_id IN (SELECT id FROM net_groups WHERE project_id = ?))"
            }
            Self::Router | Self::FloatingIp | Self::Group | Self::Trunk => "project_id = ?",
        }
    }
}

fn column_value(doc: &Doc, attribute: &str) -> Value {
    match doc.get(attribute) {
        Some(Json::String(text)) => text.as_str().into(),
        Some(Json::Bool(truth)) => (*truth).into(),
        Some(Json::Number(number)) => number.as_i64().into(),
        _ => Value::Null,
    }
}

fn read_doc(body: &str) -> Result<Doc, Fault> {
    let map = serde_json::from_str(body)
        .map_err(|error| sql::Error::Column(format!("a stored resource: {error}")))?;
    Ok(Doc(map))
}

fn body(doc: &Doc) -> Result<Value, Fault> {
    let text =
        serde_json::to_string(&doc.0).map_err(|error| sql::Error::Column(error.to_string()))?;
    Ok(text.into())
}

/// Adds a row.
pub fn insert(tx: &mut Tx<'_>, kind: Kind, doc: &Doc) -> Result<(), Fault> {
    let mut names = vec!["id", "project_id", "body"];
    let mut values = vec![doc.id().into(), doc.project().into(), body(doc)?];
    for (column, attribute) in kind.columns() {
        names.push(column);
        values.push(column_value(doc, attribute));
    }
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        kind.table(),
        names.join(", "),
        placeholders(names.len())
    );
    tx.post(&sql, &values)?;
    Ok(())
}

/// Writes a row anew.
pub fn save(tx: &mut Tx<'_>, kind: Kind, doc: &Doc) -> Result<(), Fault> {
    let mut sets = vec!["body = ?".to_owned()];
    let mut values = vec![body(doc)?];
    for (column, attribute) in kind.columns() {
        sets.push(format!("{column} = ?"));
        values.push(column_value(doc, attribute));
    }
    values.push(doc.id().into());
    tx.post(
        &format!(
            "UPDATE {} SET {} WHERE id = ?",
            kind.table(),
            sets.join(", ")
        ),
        &values,
    )?;
    Ok(())
}

/// Removes a row.
pub fn delete(tx: &mut Tx<'_>, kind: Kind, id: &str) -> Result<(), Fault> {
    tx.post(
        &format!("DELETE FROM {} WHERE id = ?", kind.table()),
        &[id.into()],
    )?;
    Ok(())
}

/// One row by id, whoever owns it.
pub fn get(tx: &mut Tx<'_>, kind: Kind, id: &str) -> Result<Option<Doc>, Fault> {
    let row = tx.query_opt(
        &format!("SELECT body FROM {} WHERE id = ?", kind.table()),
        &[id.into()],
    )?;
    row.map(|mut row| read_doc(&row.take_string(0)?.unwrap_or_default()))
        .transpose()
}

fn condition(kind: Kind, matches: &[Match]) -> (String, Vec<Value>) {
    let mut parts = Vec::new();
    let mut values = Vec::new();
    for one in matches {
        match one {
            Match::In(_, list) if list.is_empty() => parts.push("1 = 0".to_owned()),
            Match::In(column, list) => {
                parts.push(format!("{column} IN ({})", placeholders(list.len())));
                values.extend(list.iter().cloned());
            }
            Match::Begins(column, text) => {
                parts.push(format!("{column} LIKE ?"));
                values.push(format!("{text}%").into());
            }
            Match::Visible(project) => {
                let visible = kind.visible();
                parts.push(visible.to_owned());
                values.extend(visible.matches('?').map(|_| Value::from(project)));
            }
        }
    }
    if parts.is_empty() {
        parts.push("1 = 1".to_owned());
    }
    (parts.join(" AND "), values)
}

/// All rows that meet every condition, in no particular order.
pub fn find(tx: &mut Tx<'_>, kind: Kind, matches: &[Match]) -> Result<Vec<Doc>, Fault> {
    // A long list of ids goes in pieces: databases bound the parameters of a statement.
    let long = matches
        .iter()
        .position(|one| matches!(one, Match::In(_, list) if list.len() > PIECE));
    if let Some(at) = long
        && let Match::In(column, list) = &matches[at]
    {
        let mut found = Vec::new();
        for piece in list.chunks(PIECE) {
            let mut fewer = matches.to_vec();
            fewer[at] = Match::In(column, piece.to_vec());
            found.extend(find(tx, kind, &fewer)?);
        }
        return Ok(found);
    }
    let (condition, values) = condition(kind, matches);
    let rows = tx.query(
        &format!("SELECT body FROM {} WHERE {condition}", kind.table()),
        &values,
    )?;
    rows.into_iter()
        .map(|mut row| read_doc(&row.take_string(0)?.unwrap_or_default()))
        .collect()
}

/// The first row that meets every condition.
pub fn find_one(tx: &mut Tx<'_>, kind: Kind, matches: &[Match]) -> Result<Option<Doc>, Fault> {
    Ok(find(tx, kind, matches)?.into_iter().next())
}

/// How many rows meet every condition.
pub fn count(tx: &mut Tx<'_>, kind: Kind, matches: &[Match]) -> Result<i64, Fault> {
    let (condition, values) = condition(kind, matches);
    let row = tx.query_one(
        &format!("SELECT COUNT(*) FROM {} WHERE {condition}", kind.table()),
        &values,
    )?;
    Ok(row.get(0)?)
}

/// One column of the rows that meet every condition.
pub fn column(
    tx: &mut Tx<'_>,
    kind: Kind,
    name: &'static str,
    matches: &[Match],
) -> Result<Vec<String>, Fault> {
    let (condition, values) = condition(kind, matches);
    let rows = tx.query(
        &format!("SELECT {name} FROM {} WHERE {condition}", kind.table()),
        &values,
    )?;
    rows.into_iter()
        .map(|mut row| Ok(row.take_string(0)?.unwrap_or_default()))
        .collect()
}

/// (id, network) of the ports on a host, those included that it only makes ready, without the cloud's own.
pub fn ports_on_host(tx: &mut Tx<'_>, host: &str) -> Result<Vec<(String, String)>, Fault> {
    let sql = "SELECT id, network_id FROM net_ports WHERE host = ? AND device_owner NOT LIKE 'network:%' \
         UNION SELECT p.id, p.network_id FROM net_bindings b JOIN net_ports p ON p.id = b.port_id WHERE b.host = ?";
    let rows = tx.query(sql, &[host.into(), host.into()])?;
    rows.into_iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// (network, host) pairs: the hosts that have ports on these networks, without the cloud's own.
pub fn hosts_of_networks(
    tx: &mut Tx<'_>,
    networks: &[String],
) -> Result<Vec<(String, String)>, Fault> {
    let mut all = Vec::new();
    for piece in networks.chunks(PIECE) {
        let list = placeholders(piece.len());
        let sql = format!(
            "SELECT network_id, host FROM net_ports WHERE host <> '' AND device_owner NOT LIKE 'network:%' \
             AND network_id IN ({list}) \
             UNION SELECT p.network_id, b.host FROM net_bindings b JOIN net_ports p ON p.id = b.port_id \
             WHERE p.network_id IN ({list})"
        );
        let values: Vec<Value> = piece.iter().chain(piece).map(Value::from).collect();
        for row in tx.query(&sql, &values)? {
            all.push((row.get(0)?, row.get(1)?));
        }
    }
    Ok(all)
}

/// Whether a host has another port of a network than this one.
pub fn has_other_port(
    tx: &mut Tx<'_>,
    host: &str,
    network: &str,
    port: &str,
) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM net_ports WHERE host = ? AND network_id = ? AND id <> ? AND device_owner NOT LIKE 'network:%' LIMIT 1";
    Ok(tx
        .query_opt(sql, &[host.into(), network.into(), port.into()])?
        .is_some())
}

/// The networks of the ports on a host.
pub fn networks_on_host(tx: &mut Tx<'_>, host: &str) -> Result<Vec<String>, Fault> {
    let sql = "SELECT network_id FROM net_ports WHERE host = ? \
         UNION SELECT p.network_id FROM net_bindings b JOIN net_ports p ON p.id = b.port_id WHERE b.host = ?";
    let rows = tx.query(sql, &[host.into(), host.into()])?;
    rows.into_iter().map(|row| Ok(row.get(0)?)).collect()
}

/// The security groups of the ports on a host.
pub fn groups_on_host(tx: &mut Tx<'_>, host: &str) -> Result<Vec<String>, Fault> {
    let sql = "SELECT g.group_id FROM net_port_groups g JOIN net_ports p ON p.id = g.port_id WHERE p.host = ? \
         UNION SELECT g.group_id FROM net_port_groups g JOIN net_bindings b ON b.port_id = g.port_id WHERE b.host = ?";
    let rows = tx.query(sql, &[host.into(), host.into()])?;
    rows.into_iter().map(|row| Ok(row.get(0)?)).collect()
}

/// (id, status, host, owner) of ports.
pub fn port_states(tx: &mut Tx<'_>, ids: &[String]) -> Result<Vec<[String; 4]>, Fault> {
    let mut all = Vec::new();
    for piece in ids.chunks(PIECE) {
        let list = placeholders(piece.len());
        let sql =
            format!("SELECT id, status, host, device_owner FROM net_ports WHERE id IN ({list})");
        let values: Vec<Value> = piece.iter().map(Value::from).collect();
        for row in tx.query(&sql, &values)? {
            all.push([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
        }
    }
    Ok(all)
}

/// The next free VXLAN network identifier.
pub fn next_segment(tx: &mut Tx<'_>) -> Result<i64, Fault> {
    let highest = tx
        .query_one("SELECT COALESCE(MAX(segment), 0) FROM net_networks", &[])?
        .get::<i64>(0)?;
    if highest < 16_777_215 {
        return Ok(highest + 1);
    }
    let rows = tx.query(
        "SELECT segment FROM net_networks WHERE segment IS NOT NULL ORDER BY segment",
        &[],
    )?;
    let mut free = 1;
    for row in rows {
        if row.get::<i64>(0)? != free {
            break;
        }
        free += 1;
    }
    Ok(free)
}

/// Makes these the security groups of a port.
pub fn set_port_groups(tx: &mut Tx<'_>, port: &str, groups: &[String]) -> Result<(), Fault> {
    tx.post(
        "DELETE FROM net_port_groups WHERE port_id = ?",
        &[port.into()],
    )?;
    if groups.is_empty() {
        return Ok(());
    }
    let rows = vec!["(?, ?)"; groups.len()].join(", ");
    let values: Vec<Value> = groups
        .iter()
        .flat_map(|group| [port.into(), group.into()])
        .collect();
    tx.post(
        &format!("INSERT INTO net_port_groups (port_id, group_id) VALUES {rows}"),
        &values,
    )?;
    Ok(())
}

/// The number of ports in a security group.
pub fn ports_in_group(tx: &mut Tx<'_>, group: &str) -> Result<i64, Fault> {
    Ok(tx
        .query_one(
            "SELECT COUNT(*) FROM net_port_groups WHERE group_id = ?",
            &[group.into()],
        )?
        .get(0)?)
}

/// (group, addresses) of the members of groups; addresses are separated by spaces.
pub fn members(tx: &mut Tx<'_>, groups: &[String]) -> Result<Vec<(String, String)>, Fault> {
    let mut all = Vec::new();
    for piece in groups.chunks(PIECE) {
        let sql = format!(
            "SELECT g.group_id, p.addresses FROM net_port_groups g JOIN net_ports p ON p.id = g.port_id WHERE g.group_id IN ({})",
            placeholders(piece.len())
        );
        let values: Vec<Value> = piece.iter().map(Value::from).collect();
        for mut row in tx.query(&sql, &values)? {
            all.push((
                row.take_string(0)?.unwrap_or_default(),
                row.take_string(1)?.unwrap_or_default(),
            ));
        }
    }
    Ok(all)
}
