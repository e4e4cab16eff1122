//! What counts when a host is picked for a server, read at once.

use crate::block_devices::{self, BlockDevice};
use crate::instances::{self, Instance};
use crate::{server_groups, work};
use sql::{Error, Row, Tx};
use types::{GroupId, HostName, ServerId};

/// What binds a server when a host is picked for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ties {
    /// The group that it is in.
    pub group: Option<GroupId>,
    /// Hosts that still have to remove something of it.
    pub debtors: Vec<HostName>,
}

impl Ties {
    fn from_rows(groups: &[Row], debtors: &[Row]) -> Result<Self, Error> {
        Ok(Self {
            group: groups.first().map(|row| row.get(0)).transpose()?,
            debtors: debtors
                .iter()
                .map(|row| row.get(0))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// What binds a server.
pub fn ties(tx: &mut Tx<'_>, id: ServerId) -> Result<Ties, Error> {
    let server = [id.into()];
    let [groups, debtors] = tx.queries([
        (server_groups::OF_SERVER, &server),
        (work::DEBTORS, &server),
    ])?;
    Ties::from_rows(&groups, &debtors)
}

/// A server for which a host is to be picked, with all that counts.
#[derive(Clone, Debug)]
pub struct ToBePlaced {
    /// The server.
    pub server: Instance,
    /// Its disks.
    pub devices: Vec<BlockDevice>,
    /// What binds it.
    pub ties: Ties,
}

/// A server that is not deleted, for picking its host.
pub fn to_be_placed(tx: &mut Tx<'_>, id: ServerId) -> Result<Option<ToBePlaced>, Error> {
    let key = [id.into()];
    let [found, devices, groups, debtors] = tx.queries([
        (&instances::select(), &key),
        (&block_devices::select(1), &key),
        (server_groups::OF_SERVER, &key),
        (work::DEBTORS, &key),
    ])?;
    let server = found
        .into_iter()
        .next()
        .map(instances::from_row)
        .transpose()?;
    let Some(server) = server.filter(|server| !server.deleted) else {
        return Ok(None);
    };
    let devices = devices.into_iter().map(block_devices::from_row);
    Ok(Some(ToBePlaced {
        server,
        devices: devices.collect::<Result<_, _>>()?,
        ties: Ties::from_rows(&groups, &debtors)?,
    }))
}
