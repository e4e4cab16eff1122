//! What should not be as it is: in the database, on hosts, and what the network and volume services hold for servers that
//! are deleted or think of servers that are there; servers that show ports which they do not have; and images of servers
//! that nobody fills. `kilonova manage audit` shows it, and mends it with `--fix`; conductors mend it now and then.

use crate::drift::{self, Difference};
use crate::flows::ports;
use crate::neighbours::{Neighbours, retry};
use crate::unfilled::{self, Unfilled};
use bus::{Bell, Bus};
use clients::BoundPort;
use clients::volumes::{AttachmentRecord, Scope};
use db::instances::{Instance, Shown};
use db::repair;
use journal::StepError;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use types::{HostName, ServerId, Timestamp};

/// Volumes are looked at in projects that have deleted a server within this time, and in those that have volumes now.
pub const RECENTLY: Duration = Duration::from_secs(24 * 3600);

/// Findings in the database that are mended in one transaction.
const MENDED: usize = 100;

/// Something that should not be as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// In compute's database.
    Record(repair::Finding),
    /// The network service has a port of a server that is deleted.
    Port {
        /// The port.
        port: String,
        /// The server as it was.
        server: Box<Instance>,
    },
    /// A server shows a port that is not its own any more, or other addresses than its port has.
    Interface(Difference),
    /// The volume service holds a volume for a server that is deleted.
    Held(Attachment),
    /// A server has a volume on record that is gone. Its owner detaches it.
    Gone(Attachment),
    /// The volume service waits for the word that a volume is in use, and it is.
    Unsaid(Attachment),
    /// The image service has an image of a server that nobody fills.
    Image(Unfilled),
}

/// What the volume service has on record of a volume and a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its id.
    pub id: String,
    /// The volume.
    pub volume: String,
    /// The server.
    pub server: ServerId,
    /// Whose they are.
    pub project: String,
}

impl Finding {
    /// Whether nobody mends it unasked. Of an image nobody can be sure: what compute writes on its images others may copy.
    pub fn wants_a_word(&self) -> bool {
        match self {
            Self::Record(finding) => finding.wants_a_word(),
            Self::Image(_) => true,
            _ => false,
        }
    }

    /// Whether [`mend`] does something about it.
    pub fn can_be_mended(&self) -> bool {
        match self {
            Self::Record(finding) => finding.can_be_mended(),
            Self::Gone(_) => false,
            _ => true,
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Record(finding) => write!(f, "{finding}"),
            Self::Port { port, server } => {
                write!(
                    f,
                    "port {port} is left of server {}, which is deleted",
                    server.id
                )
            }
            Self::Interface(different) => write!(f, "{different}"),
            Self::Held(one) => write!(
                f,
                "volume {} of project {} is left attached to server {}, which is deleted",
                one.volume, one.project, one.server
            ),
            Self::Gone(one) => write!(
                f,
                "server {} of project {} has volume {}, which is gone; detach it",
                one.server, one.project, one.volume
            ),
            Self::Unsaid(one) => write!(
                f,
                "volume {} of project {} is in use by server {}, and the volume service shows it as attaching",
                one.volume, one.project, one.server
            ),
            Self::Image(one) => write!(f, "{one}"),
        }
    }
}

/// What an audit has found.
#[derive(Debug, Default)]
pub struct Audit {
    /// All that should not be as it is.
    pub found: Vec<Finding>,
    /// Services that could not be asked, and why.
    pub silent: Vec<String>,
}

/// Looks at everything.
///
/// # Errors
/// The database's. A neighbour that does not answer is told of.
pub async fn audit(with: &Neighbours) -> Result<Audit, StepError> {
    // Looking comes first: it keeps nobody from writing.
    let mut audit = Audit::default();
    let found = records(with).await?;
    audit.found.extend(found.into_iter().map(Finding::Record));
    for (service, asked) in [
        ("the network service", ports_of_servers(with).await),
        ("the volume service", attachments(with).await),
        ("the image service", images(with).await),
    ] {
        match asked {
            Ok(found) => audit.found.extend(found),
            Err(StepError::Retry(reason)) => audit.silent.push(format!("{service}: {reason}")),
            Err(error) => return Err(error),
        }
    }
    Ok(audit)
}

/// What is wrong in the database, part by part.
async fn records(with: &Neighbours) -> Result<Vec<repair::Finding>, sql::Error> {
    let mut found = Vec::new();
    let mut look = Some(repair::Look::default());
    while let Some(next) = look {
        let reading = with.store.read(move |tx| -> Result<_, sql::Error> {
            let mut found = Vec::new();
            let next = next.clone().go_on(tx, &mut found)?;
            Ok((next, found))
        });
        let (rest, part) = reading.await?;
        found.extend(part);
        look = rest;
    }
    Ok(found)
}

/// Mends what was found and is still so; returns how many things that were. Repeatable by any number of processes.
///
/// # Errors
/// The database or a neighbour does not answer; call again later.
pub async fn mend(with: &Neighbours, bus: &Bus, found: &[Finding]) -> Result<usize, StepError> {
    let of_database = found.iter().filter_map(|one| match one {
        Finding::Record(finding) => Some(finding.clone()),
        _ => None,
    });
    let mut count = mend_records(with, bus, of_database.collect()).await?;
    if count > 0 {
        // What was given back changes what is in use.
        let mut again = records(with).await?;
        again.retain(|one| !one.wants_a_word());
        mend_records(with, bus, again).await?;
    }
    for finding in found {
        tracing::warn!(%finding, "not as it should be");
        let mended = match finding {
            Finding::Record(_) | Finding::Gone(_) => false,
            Finding::Port { port, server } => ports::release_left(with, server, port).await?,
            Finding::Interface(one) => drift::mend(with, bus, std::slice::from_ref(one)).await? > 0,
            Finding::Held(one) => {
                let scope = scope(with, &one.project).await?;
                let gone = with.volumes.release(&scope, &one.id).await;
                done(one, gone.map_err(retry)?)
            }
            Finding::Unsaid(one) => {
                let scope = scope(with, &one.project).await?;
                let said = with.volumes.complete(&scope, &one.id).await;
                done(one, said.map_err(retry)?)
            }
            Finding::Image(one) => unfilled::remove(with, one).await?,
        };
        count += usize::from(mended);
    }
    Ok(count)
}

fn done(one: &Attachment, answer: Result<(), clients::volumes::Refused>) -> bool {
    match answer {
        Ok(()) => true,
        Err(refused) => {
            let (volume, reason) = (&one.volume, refused.message);
            tracing::warn!(volume, reason, "the volume service refuses to mend that");
            false
        }
    }
}

/// Looks and mends; returns how many things were mended.
///
/// # Errors
/// The database or a neighbour does not answer; call again later.
pub async fn reconcile(with: &Neighbours, bus: &Bus) -> Result<usize, StepError> {
    let mut audit = audit(with).await?;
    audit.found.retain(|one| !one.wants_a_word());
    let mended = mend(with, bus, &audit.found).await?;
    match audit.silent.is_empty() {
        true => Ok(mended),
        false => Err(StepError::Retry(audit.silent.join("; "))),
    }
}

/// Mends what is still so in the database, some in each transaction.
async fn mend_records(
    with: &Neighbours,
    bus: &Bus,
    mut found: Vec<repair::Finding>,
) -> Result<usize, sql::Error> {
    found.retain(repair::Finding::can_be_mended);
    let mut count = 0;
    for some in found.chunks(MENDED) {
        let some = some.to_vec();
        let mending = with.store.write(move |tx| -> Result<_, sql::Error> {
            let now = Timestamp::now();
            let mut mended = Vec::new();
            for finding in &some {
                if let Some(finding) =
                    repair::still(tx, finding)?.filter(repair::Finding::can_be_mended)
                {
                    repair::mend(tx, &finding, now)?;
                    mended.push(finding);
                }
            }
            Ok(mended)
        });
        let mended = mending.await?;
        count += mended.len();
        let hosts: BTreeSet<&HostName> = mended
            .iter()
            .filter_map(|finding| match finding {
                repair::Finding::LeftOnHost(host, _) => Some(host),
                _ => None,
            })
            .collect();
        for host in hosts {
            bus.ring(Bell::Host(host.clone()));
        }
        if mended.iter().any(repair::Finding::wants_a_word) {
            bus.ring(Bell::Tasks);
        }
    }
    Ok(count)
}

/// Those of the servers that are deleted. Ones that this cloud has never had may be another's.
async fn deleted(
    with: &Neighbours,
    servers: BTreeSet<ServerId>,
) -> Result<Vec<Instance>, sql::Error> {
    let servers: Vec<ServerId> = servers.into_iter().collect();
    with.store
        .read(move |tx| db::instances::deleted_among(tx, &servers))
        .await
}

async fn ports_of_servers(with: &Neighbours) -> Result<Vec<Finding>, StepError> {
    let token = with.token().await?;
    // Before the ports are listed: a port that a server gets meanwhile is none that it lacks.
    let shown: Vec<Shown> = with.store.read(db::instances::with_interfaces).await?;
    let bound = with.networks.ports_of_servers(&token).await;
    let bound = bound.map_err(retry)?;
    let different = drift::compare(&shown, &bound).into_iter();
    let at_rest = different.filter(|one| one.at_rest);
    let mut found: Vec<Finding> = at_rest.map(Finding::Interface).collect();
    let bound: Vec<BoundPort> = bound.into_iter().filter(|one| one.by_compute).collect();
    let servers = bound.iter().map(|port| port.server).collect();
    for server in deleted(with, servers).await? {
        let its = bound.iter().filter(|port| port.server == server.id);
        found.extend(its.map(|port| Finding::Port {
            port: port.id.clone(),
            server: Box::new(server.clone()),
        }));
    }
    Ok(found)
}

async fn images(with: &Neighbours) -> Result<Vec<Finding>, StepError> {
    let found = unfilled::find(with).await?;
    Ok(found.into_iter().map(Finding::Image).collect())
}

async fn scope(with: &Neighbours, project: &str) -> Result<Scope, StepError> {
    let token = with.tokens.token_in(project).await.map_err(retry)?;
    Ok(Scope::new(token, project))
}

async fn attachments(with: &Neighbours) -> Result<Vec<Finding>, StepError> {
    let since = Timestamp::now().minus(RECENTLY);
    let reading = with.store.read(move |tx| -> Result<_, sql::Error> {
        let mut projects = db::instances::projects_of_deleted(tx, since)?;
        projects.extend(db::block_devices::projects(tx)?);
        Ok(BTreeSet::from_iter(projects))
    });
    let projects: BTreeSet<String> = reading.await?;
    let mut found = Vec::new();
    for project in projects {
        let scope = scope(with, &project).await?;
        let there = with.volumes.attachments(&scope).await.map_err(retry)?;
        found.extend(of_deleted(with, &there, &project).await?);
        found.extend(unsaid(with, &there, &project).await?);
        found.extend(gone(with, &scope, &there).await?);
    }
    Ok(found)
}

fn attachment(of: &AttachmentRecord, project: &str) -> Option<Attachment> {
    Some(Attachment {
        id: of.id.clone(),
        volume: of.volume_id.clone(),
        server: of.server.parse().ok()?,
        project: project.to_owned(),
    })
}

async fn of_deleted(
    with: &Neighbours,
    there: &[AttachmentRecord],
    project: &str,
) -> Result<Vec<Finding>, StepError> {
    let all: Vec<Attachment> = there
        .iter()
        .filter_map(|one| attachment(one, project))
        .collect();
    let servers = all.iter().map(|one| one.server).collect();
    let gone: BTreeSet<ServerId> = deleted(with, servers)
        .await?
        .into_iter()
        .map(|server| server.id)
        .collect();
    let left = all.into_iter().filter(|one| gone.contains(&one.server));
    Ok(left.map(Finding::Held).collect())
}

/// What servers have on record of volumes that are gone: only volumes whose attachment is not listed are asked for.
async fn gone(
    with: &Neighbours,
    scope: &Scope,
    there: &[AttachmentRecord],
) -> Result<Vec<Finding>, StepError> {
    let project = scope.project.clone();
    let reading = with
        .store
        .read(move |tx| db::block_devices::attached_in(tx, &project));
    let on_record: Vec<(ServerId, String, String)> = reading.await?;
    let listed: BTreeSet<&str> = there.iter().map(|one| one.id.as_str()).collect();
    let mut found = Vec::new();
    for (server, volume, id) in on_record {
        if listed.contains(id.as_str()) {
            continue;
        }
        let volumes = with.volumes.volume(scope, &volume).await;
        if volumes.map_err(retry)?.is_none() {
            found.push(Finding::Gone(Attachment {
                id,
                volume,
                server,
                project: scope.project.clone(),
            }));
        }
    }
    Ok(found)
}

/// Attachments that wait for the word that the volume is in use although it is on record as connected and nobody works
/// on its server: a late run that connected it once more died before it said so.
async fn unsaid(
    with: &Neighbours,
    there: &[AttachmentRecord],
    project: &str,
) -> Result<Vec<Finding>, StepError> {
    let waiting: Vec<Attachment> = there
        .iter()
        .filter(|one| one.status == "attaching")
        .filter_map(|one| attachment(one, project))
        .collect();
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let servers: BTreeSet<ServerId> = waiting.iter().map(|one| one.server).collect();
    let reading = with.store.read(move |tx| -> Result<_, sql::Error> {
        let mut at_rest = BTreeMap::new();
        for server in &servers {
            let found = db::instances::get(tx, *server)?;
            if found.is_some_and(|one| one.task_id.is_none() && one.host.is_some()) {
                at_rest.insert(*server, db::block_devices::of_server(tx, *server)?);
            }
        }
        Ok(at_rest)
    });
    let at_rest: BTreeMap<ServerId, Vec<db::block_devices::BlockDevice>> = reading.await?;
    let connected = |one: &Attachment| {
        let mut its = at_rest.get(&one.server).into_iter().flatten();
        its.any(|device| {
            device.attachment_id.as_ref() == Some(&one.id) && device.connection_info.is_some()
        })
    };
    let unsaid = waiting.into_iter().filter(connected);
    Ok(unsaid.map(Finding::Unsaid).collect())
}
