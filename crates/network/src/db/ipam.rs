//! Which addresses of a subnet are taken.

use super::PIECE;
use crate::fault::Fault;
use sql::{Tx, Value, placeholders};
use std::net::IpAddr;

/// An address as it is stored: hexadecimal digits that sort as the number does.
pub fn stored(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:08x}", u32::from(ip)),
        IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
    }
}

/// An address read back.
pub fn number(stored: &str) -> u128 {
    u128::from_str_radix(stored, 16).unwrap_or(0)
}

/// Takes an address; one that is taken is a unique violation.
pub fn take(tx: &mut Tx<'_>, subnet: &str, ip: IpAddr, port: &str) -> Result<(), Fault> {
    let row = [subnet.into(), stored(ip).into(), port.into()];
    tx.post(
        "INSERT INTO net_allocations (subnet_id, address, port_id) VALUES (?, ?, ?)",
        &row,
    )?;
    Ok(())
}

/// Gives back one address.
pub fn give_back(tx: &mut Tx<'_>, subnet: &str, ip: IpAddr) -> Result<(), Fault> {
    tx.post(
        "DELETE FROM net_allocations WHERE subnet_id = ? AND address = ?",
        &[subnet.into(), stored(ip).into()],
    )?;
    Ok(())
}

/// Gives back all addresses of a port.
pub fn give_back_all(tx: &mut Tx<'_>, port: &str) -> Result<(), Fault> {
    tx.post(
        "DELETE FROM net_allocations WHERE port_id = ?",
        &[port.into()],
    )?;
    Ok(())
}

/// The port that holds an address.
pub fn holder(tx: &mut Tx<'_>, subnet: &str, ip: IpAddr) -> Result<Option<String>, Fault> {
    let sql = "SELECT port_id FROM net_allocations WHERE subnet_id = ? AND address = ?";
    let row = tx.query_opt(sql, &[subnet.into(), stored(ip).into()])?;
    Ok(row.map(|row| row.get(0)).transpose()?)
}

/// Which of these addresses are taken.
pub fn taken_of(tx: &mut Tx<'_>, subnet: &str, ips: &[IpAddr]) -> Result<Vec<String>, Fault> {
    let mut taken = Vec::new();
    for piece in ips.chunks(PIECE) {
        let sql = format!(
            "SELECT address FROM net_allocations WHERE subnet_id = ? AND address IN ({})",
            placeholders(piece.len())
        );
        let mut values: Vec<Value> = vec![subnet.into()];
        values.extend(piece.iter().map(|ip| Value::from(stored(*ip))));
        for row in tx.query(&sql, &values)? {
            taken.push(row.get(0)?);
        }
    }
    Ok(taken)
}

/// All addresses taken in a range of a subnet, ascending.
pub fn taken_between(
    tx: &mut Tx<'_>,
    subnet: &str,
    first: IpAddr,
    last: IpAddr,
) -> Result<Vec<u128>, Fault> {
    let sql = "SELECT address FROM net_allocations WHERE subnet_id = ? AND address >= ? AND address <= ? ORDER BY address";
    let rows = tx.query(
        sql,
        &[subnet.into(), stored(first).into(), stored(last).into()],
    )?;
    rows.into_iter()
        .map(|row| Ok(number(&row.get::<String>(0)?)))
        .collect()
}

/// (subnet, number of addresses taken) of some subnets.
pub fn usage(tx: &mut Tx<'_>, subnets: &[String]) -> Result<Vec<(String, i64)>, Fault> {
    let mut all = Vec::new();
    for piece in subnets.chunks(PIECE) {
        let sql = format!(
            "SELECT subnet_id, COUNT(*) FROM net_allocations WHERE subnet_id IN ({}) GROUP BY subnet_id",
            placeholders(piece.len())
        );
        let values: Vec<Value> = piece.iter().map(Value::from).collect();
        for row in tx.query(&sql, &values)? {
            all.push((row.get(0)?, row.get(1)?));
        }
    }
    Ok(all)
}

/// The ports with an address in a subnet.
pub fn ports(tx: &mut Tx<'_>, subnet: &str) -> Result<Vec<String>, Fault> {
    let rows = tx.query(
        "SELECT DISTINCT port_id FROM net_allocations WHERE subnet_id = ?",
        &[subnet.into()],
    )?;
    rows.into_iter().map(|row| Ok(row.get(0)?)).collect()
}
