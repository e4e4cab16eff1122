//! Images that were made for the disks of servers and that nobody fills: who made one died before the work on it was taken
//! in, or that work was abandoned.
//!
//! Only those that are certainly compute's own are told of: without data, of a server that is or was in this database, and
//! with what compute writes into the images of servers. Others may be at the same image service.

use crate::neighbours::{Neighbours, retry};
use clients::ImageRecord;
use journal::StepError;
use std::collections::BTreeSet;
use std::time::Duration;
use types::{ImageId, ServerId, Timestamp};

/// How long after its last change an image of that status may be one that is about to be taken in, or whose data are on
/// their way: longer than a request takes, or than a host has for sending them (`flows/snapshot.rs`).
const YOUNG: [(&str, Duration); 2] = [
    ("queued", Duration::from_secs(600)),
    ("saving", Duration::from_secs(5 * 3600)),
];
/// The kinds of images that are made of servers.
const KINDS: [&str; 2] = ["snapshot", "backup"];

/// An image that nobody fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfilled {
    /// The image.
    pub image: ImageId,
    /// The server of whose disk it was to be.
    pub server: ServerId,
    /// `queued` or `saving`.
    pub status: String,
}

impl std::fmt::Display for Unfilled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            image,
            server,
            status,
        } = self;
        write!(
            f,
            "image {image} of server {server} is {status}, and nobody gives it its data"
        )
    }
}

/// The images that nobody fills.
pub(crate) async fn find(with: &Neighbours) -> Result<Vec<Unfilled>, StepError> {
    let token = with.token().await?;
    let now = Timestamp::now();
    let mut waiting = Vec::new();
    for (status, young) in YOUNG {
        for kind in KINDS {
            let of_kind = [("image_type", kind)];
            let listed = with.images.of_status(&token, status, &of_kind).await;
            let (listed, old) = (listed.map_err(retry)?, now.minus(young));
            // Who does not know a filter lists them all.
            let asked = listed
                .iter()
                .filter(|image| image.status == status && image.document["image_type"] == kind);
            waiting.extend(asked.filter_map(|image| of_server(image, old)));
        }
    }
    // After the images were listed: the work on them was taken in before, or has ended.
    let servers = waiting.iter().map(|one| one.server).collect();
    let at_rest = at_rest(with, servers).await?;
    let mut found = Vec::new();
    for one in waiting {
        if at_rest.contains(&one.server) && is_so(with, &token, &one).await? {
            found.push(one);
        }
    }
    Ok(found)
}

/// Deletes the image, if it is still so; whether it did.
pub(crate) async fn remove(with: &Neighbours, one: &Unfilled) -> Result<bool, StepError> {
    let token = with.token().await?;
    let at_rest = at_rest(with, BTreeSet::from([one.server])).await?;
    if at_rest.is_empty() || !is_so(with, &token, one).await? {
        return Ok(false);
    }
    match with.images.delete(&token, one.image).await {
        Ok(()) => Ok(true),
        // Protected by its owner, say. The rest is mended all the same.
        Err(clients::ClientError::Unexpected { reason, .. }) => {
            tracing::warn!(image = %one.image, reason, "the image service does not delete that");
            Ok(false)
        }
        Err(error) => Err(retry(error)),
    }
}

/// What compute has made of a server and that has not changed since then.
fn of_server(image: &ImageRecord, old: Timestamp) -> Option<Unfilled> {
    let property = |name: &str| image.document[name].as_str();
    let changed = Timestamp::parse(property("updated_at")?)?;
    // As `api/src/handlers/server_images.rs` writes them.
    property("user_id").and(property("owner_user_name"))?;
    (changed < old).then_some(Unfilled {
        image: image.image.id,
        server: property("instance_uuid")?.parse().ok()?,
        status: image.status.clone(),
    })
}

/// Those of the servers that this cloud has or had, and on which nobody works.
async fn at_rest(
    with: &Neighbours,
    servers: BTreeSet<ServerId>,
) -> Result<BTreeSet<ServerId>, sql::Error> {
    let servers: Vec<ServerId> = servers.into_iter().collect();
    let reading = with
        .store
        .read(move |tx| db::repair::known_without_task(tx, &servers));
    let known: Vec<ServerId> = reading.await?;
    Ok(known.into_iter().collect())
}

async fn is_so(with: &Neighbours, token: &str, one: &Unfilled) -> Result<bool, StepError> {
    let found = with.images.get(token, &one.image.to_string()).await;
    let found = found.map_err(retry)?;
    Ok(found.is_some_and(|image| image.status == one.status))
}
