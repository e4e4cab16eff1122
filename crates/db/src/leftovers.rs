//! Guests that hosts have and that are not theirs, as far as the last complete list of each host tells.

use sql::{Error, Tx};
use types::{HostName, PowerState, ServerId, Timestamp};

/// Replaces what is known of a host. Nothing is written when nothing has changed.
pub fn replace(
    tx: &mut Tx<'_>,
    host: &HostName,
    guests: &[(ServerId, PowerState)],
    now: Timestamp,
) -> Result<(), Error> {
    let mut known = of_host(tx, host)?;
    let mut seen = guests.to_vec();
    known.sort_by_key(|(server, _)| *server);
    seen.sort_by_key(|(server, _)| *server);
    if known == seen {
        return Ok(());
    }
    tx.post("DELETE FROM host_leftovers WHERE host = ?", &[host.into()])?;
    for (server, power) in seen {
        tx.post(
            "INSERT INTO host_leftovers (host, instance_uuid, power_state, seen_at) VALUES (?, ?, ?, ?)",
            &[host.into(), server.into(), power.code().into(), now.into()],
        )?;
    }
    Ok(())
}

/// What a host has that is not its own.
pub fn of_host(tx: &mut Tx<'_>, host: &HostName) -> Result<Vec<(ServerId, PowerState)>, Error> {
    let sql = "SELECT instance_uuid, power_state FROM host_leftovers WHERE host = ?";
    let rows = tx.query(sql, &[host.into()])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, PowerState::from_code(row.get(1)?))))
        .collect()
}

/// It is there no more.
pub fn forget(tx: &mut Tx<'_>, host: &HostName, server: ServerId) -> Result<(), Error> {
    let sql = "DELETE FROM host_leftovers WHERE host = ? AND instance_uuid = ?";
    tx.post(sql, &[host.into(), server.into()])?;
    Ok(())
}
