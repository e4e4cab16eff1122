//! Volumes: create, show, list, change, delete.

use super::{metadata, unknown, volume_actions};
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::images::Image;
use crate::listing::{self, Item};
use crate::model::{
    Attachment, Group, Job, Map, Snapshot, Source, Status, Transfer, Volume, VolumeType,
};
use crate::quota::{self, Take};
use crate::service::Service;
use crate::storage::copy::gib;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;
use std::collections::HashMap;
use types::Timestamp;

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    let method = call.method.clone();
    match (path, &method) {
        ([], &Method::GET) => list(service, call, false).await,
        ([], &Method::POST) => create(service, call).await,
        (["detail"], &Method::GET) => list(service, call, true).await,
        (["summary"], &Method::GET) => summary(service, call).await,
        ([id], &Method::GET) => show(service, call, id).await,
        ([id], &Method::PUT) => update(service, call, id).await,
        ([id], &Method::DELETE) => remove(service, call, id).await,
        ([id, "action"], &Method::POST) => volume_actions::act(service, call, id).await,
        ([id, "metadata", rest @ ..], _) => {
            metadata::route(service, call, metadata::Of::Volume, id, rest).await
        }
        ([id, "encryption", rest @ ..], &Method::GET) => encryption(service, call, id, rest).await,
        ([] | [_], _) => Err(unknown(&call, &[Method::GET])),
        _ => Err(unknown(&call, &[])),
    }
}

/// The volume, if the caller sees it.
pub fn seen(tx: &mut Tx<'_>, call: &Call, id: &str) -> Result<Volume> {
    let found = db::get::<Volume>(tx, id)?;
    found
        .filter(|volume| call.access.sees(&volume.project_id))
        .ok_or_else(|| Fault::missing("Volume", id))
}

/// The volume, if the caller sees it and a rule allows this.
pub fn allowed(tx: &mut Tx<'_>, call: &Call, id: &str, rule: &str) -> Result<Volume> {
    let volume = seen(tx, call, id)?;
    call.access.require(rule, &volume.project_id)?;
    Ok(volume)
}

pub fn attachments(tx: &mut Tx<'_>, volume: &Volume) -> Result<Vec<Attachment>> {
    let mut found = db::find::<Attachment>(tx, &[("volume_id", (&volume.id).into())])?;
    found.sort_by_key(|attachment| attachment.created_at);
    Ok(found)
}

/// A volume as the caller sees it.
pub fn render(tx: &mut Tx<'_>, service: &Service, call: &Call, volume: &Volume) -> Result<Value> {
    let kind = db::get::<VolumeType>(tx, &volume.type_id)?;
    let attachments = attachments(tx, volume)?;
    let config = &service.inner.config;
    Ok(view::volume(
        call,
        config,
        volume,
        kind.as_ref(),
        &attachments,
    ))
}

/// Without what only looks at a volume show, and changes of it do not (Cinder's extensions).
fn plain(mut shown: Value) -> Value {
    if let Some(fields) = shown.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("os-vol-") && name != "volume_image_metadata");
    }
    shown
}

async fn show(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let (owner, id) = (service.clone(), id.to_owned());
    let shown = service
        .read(move |tx| {
            let volume = allowed(tx, &call, &id, "volume:get")?;
            render(tx, &owner, &call, &volume)
        })
        .await?;
    Ok(Reply::ok(json!({"volume": shown})))
}

const LIST: listing::Rules = listing::Rules {
    path: "volumes",
    links: "volumes_links",
    filters: &[
        "name",
        "status",
        "metadata",
        "bootable",
        "migration_status",
        "availability_zone",
        "group_id",
        "size",
        "volume_type_id",
        "user_id",
        "multiattach",
        "glance_metadata",
        "encrypted",
        "replication_status",
        "created_at",
        "updated_at",
        "consumes_quota",
        "host",
        "id",
    ],
    sorts: &[
        "created_at",
        "id",
        "name",
        "display_name",
        "size",
        "status",
        "availability_zone",
        "bootable",
        "host",
        "launched_at",
        "updated_at",
        "user_id",
        "project_id",
        "volume_type_id",
    ],
};

/// A volume as filters and orders see it.
fn item(volume: Volume) -> Item<Volume> {
    Item {
        id: volume.id.clone(),
        fields: json!({
            "id": volume.id, "name": volume.name, "display_name": volume.name, "status": volume.status.name(),
            "size": volume.size, "availability_zone": volume.zone, "bootable": volume.bootable,
            "metadata": volume.metadata, "glance_metadata": volume.image_metadata,
            "migration_status": volume.migration_status, "group_id": volume.group_id, "user_id": volume.user_id,
            "project_id": volume.project_id, "volume_type_id": volume.type_id, "multiattach": volume.multiattach,
            "encrypted": false, "replication_status": null, "consumes_quota": true,
            "snapshot_id": volume.snapshot_id, "source_volid": volume.source_id,
            "created_at": view::time(volume.created_at), "updated_at": view::optional_time(volume.updated_at),
        }),
        item: volume,
    }
}

/// The project whose resources a list is about; `None` is all of them.
pub fn scope(call: &Call) -> Result<Option<String>> {
    if call.access.is_admin() && call.query.yes("all_tenants")? {
        return Ok(call.query.last("project_id").map(str::to_owned));
    }
    Ok(Some(call.access.project().to_owned()))
}

/// The rows of a scope.
pub fn in_scope<R: db::Record>(tx: &mut Tx<'_>, project: Option<&str>) -> Result<Vec<R>> {
    Ok(match project {
        Some(project) => db::find(tx, &[("project_id", project.into())])?,
        None => db::find(tx, &[])?,
    })
}

/// Below 3.2 whatever is not false is true; from there on it must be one of them.
fn check_filters(call: &Call) -> Result<()> {
    if let Some(text) = call.query.last("bootable")
        && call.version.0 >= 2
        && check::truth_of(text).is_none()
    {
        return Err(Fault::input(format!("bootable={text}")));
    }
    Ok(())
}

async fn list(service: &Service, call: Call, detailed: bool) -> Result<Reply> {
    call.access.require_own("volume:get_all")?;
    check_filters(&call)?;
    let owner = service.clone();
    let body = service
        .read(move |tx| {
            let config = &owner.inner.config;
            let volumes: Vec<Volume> = in_scope(tx, scope(&call)?.as_deref())?;
            let times = times(&call)?;
            let items = volumes
                .into_iter()
                .filter(|volume| times.iter().all(|time| time.holds(volume)))
                .map(item)
                .collect();
            let page = listing::page(&without_times(&call), &LIST, config.max_limit, items)?;
            let shown: Vec<Value> = if detailed {
                let (types, mut attached) = surroundings(tx, &page.items)?;
                let one = |volume: &Volume| {
                    let of_volume = attached.remove(&volume.id).unwrap_or_default();
                    let kind = types.get(&volume.type_id);
                    view::volume(&call, config, volume, kind, &of_volume)
                };
                page.items.iter().map(one).collect()
            } else {
                let one = |volume: &Volume| view::volume_summary(&call, volume);
                page.items.iter().map(one).collect()
            };
            let mut body = json!({"volumes": shown});
            page.complete(&mut body, &call, &LIST)?;
            Ok(body)
        })
        .await?;
    Ok(Reply::ok(body))
}

type Surroundings = (
    HashMap<String, VolumeType>,
    HashMap<String, Vec<Attachment>>,
);

/// Types and attachments of the volumes of a page, in two queries.
fn surroundings(tx: &mut Tx<'_>, volumes: &[Volume]) -> Result<Surroundings> {
    let types = db::find::<VolumeType>(tx, &[])?;
    let mut attached: HashMap<String, Vec<Attachment>> = HashMap::new();
    let ids: Vec<&str> = volumes.iter().map(|volume| volume.id.as_str()).collect();
    for attachment in db::attachments_of(tx, &ids)? {
        let of_volume = attached.entry(attachment.volume_id.clone());
        of_volume.or_default().push(attachment);
    }
    let types = types.into_iter().map(|kind| (kind.id.clone(), kind));
    Ok((types.collect(), attached))
}

/// A comparison with a time (3.60): `created_at=gt:2020-01-01T00:00:00`.
struct TimeFilter {
    updated: bool,
    comparison: String,
    at: Timestamp,
}

impl TimeFilter {
    fn holds(&self, volume: &Volume) -> bool {
        let found = match self.updated {
            true => volume.updated_at,
            false => Some(volume.created_at),
        };
        let Some(found) = found else { return false };
        match self.comparison.as_str() {
            "gt" => found > self.at,
            "gte" => found >= self.at,
            "eq" => found == self.at,
            "neq" => found != self.at,
            "lt" => found < self.at,
            _ => found <= self.at,
        }
    }
}

fn times(call: &Call) -> Result<Vec<TimeFilter>> {
    let mut filters = Vec::new();
    for (name, text) in call.query.filters() {
        if !matches!(name, "created_at" | "updated_at") || call.version.0 < 60 {
            continue;
        }
        for one in text.split(',') {
            let Some((comparison, time)) = one.split_once(':') else {
                return Err(Fault::bad(format!("Invalid {name} value")));
            };
            if !["gt", "gte", "eq", "neq", "lt", "lte"].contains(&comparison) {
                return Err(Fault::bad(format!("Invalid {comparison} operator")));
            }
            let at = Timestamp::parse(time)
                .ok_or_else(|| Fault::bad(format!("Invalid {time} value")))?;
            filters.push(TimeFilter {
                updated: name == "updated_at",
                comparison: comparison.to_owned(),
                at,
            });
        }
    }
    Ok(filters)
}

/// Times are compared above, and are no filters at lower versions.
fn without_times(call: &Call) -> Call {
    let mut call = call.clone();
    call.query.forget(&["created_at", "updated_at"]);
    if call.version.0 < 4 {
        call.query.forget(&["glance_metadata"]);
    }
    if call.version.0 < 10 {
        call.query.forget(&["group_id"]);
    }
    call
}

async fn summary(service: &Service, call: Call) -> Result<Reply> {
    call.version.since(12)?;
    call.access.require_own("volume:get_all")?;
    let body = service
        .read(move |tx| {
            let volumes: Vec<Volume> = in_scope(tx, scope(&call)?.as_deref())?;
            let size: u64 = volumes.iter().map(|volume| volume.size).sum();
            let mut body = json!({"total_count": volumes.len(), "total_size": size});
            if call.version.0 >= 36 {
                let mut distinct: HashMap<&str, Vec<&str>> = HashMap::new();
                for (name, value) in volumes.iter().flat_map(|volume| &volume.metadata) {
                    let values = distinct.entry(name).or_default();
                    if !values.contains(&value.as_str()) {
                        values.push(value);
                    }
                }
                body["metadata"] = json!(distinct);
            }
            Ok(json!({"volume-summary": body}))
        })
        .await?;
    Ok(Reply::ok(body))
}

async fn encryption(service: &Service, call: Call, id: &str, rest: &[&str]) -> Result<Reply> {
    let key = id.to_owned();
    service
        .read(move |tx| {
            let rule = "volume_extension:volume_encryption_metadata";
            allowed(tx, &call, &key, rule).map(drop)
        })
        .await?;
    // Volumes are not encrypted here.
    match rest {
        [] => Ok(Reply::ok(json!({"encryption_key_id": null}))),
        _ => Ok(Reply::empty(StatusCode::NOT_FOUND)),
    }
}

const CREATE: &[Field] = &[
    ("name", Kind::Name, Need::May),
    ("description", Kind::OptionalText, Need::May),
    ("display_name", Kind::Name, Need::May),
    ("display_description", Kind::OptionalText, Need::May),
    ("volume_type", Kind::OptionalText, Need::May),
    ("metadata", Kind::OptionalTexts, Need::May),
    ("snapshot_id", Kind::OptionalId, Need::May),
    ("source_volid", Kind::OptionalId, Need::May),
    ("consistencygroup_id", Kind::OptionalId, Need::May),
    ("size", Kind::OptionalSize, Need::May),
    ("availability_zone", Kind::OptionalText, Need::May),
    ("multiattach", Kind::OptionalBool, Need::May),
    ("image_id", Kind::OptionalText, Need::May),
    ("imageRef", Kind::OptionalText, Need::May),
    ("group_id", Kind::OptionalText, Need::May),
    ("backup_id", Kind::OptionalId, Need::May),
    ("scheduler_hints", Kind::OptionalObject, Need::May),
];

/// What a request wants made.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub size: Option<u64>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub metadata: Map,
    pub type_ref: Option<String>,
    pub snapshot_id: Option<String>,
    pub source_id: Option<String>,
    pub group_id: Option<String>,
    pub zone: Option<String>,
    pub image: Option<Image>,
}

async fn read_wanted(service: &Service, call: &Call) -> Result<Wanted> {
    if !call.body.is_object() {
        return Err(Fault::bad(
            "Missing required element 'volume' in request body.",
        ));
    }
    let body = check::object(&call.body, "volume", CREATE, call.version.0 < 53)?;
    if check::yes(body, "multiattach") {
        return Err(Fault::bad(
            "multiattach parameter has been removed. The default behavior is to use multiattach enabled volume types. \
             Contact your administrator to create a multiattach enabled volume type and use it to create multiattach \
             volumes.",
        ));
    }
    if check::text(body, "backup_id").is_some() {
        return Err(Fault::absent("There is no backup service in this cloud."));
    }
    let filled = |name: &str| check::text(body, name).filter(|text| !text.is_empty());
    let size = body.get("size").and_then(check::whole);
    let mut wanted = Wanted {
        size: size.and_then(|size| u64::try_from(size).ok()),
        name: check::trimmed(body, "name").or_else(|| check::trimmed(body, "display_name")),
        description: check::trimmed(body, "description")
            .or_else(|| check::trimmed(body, "display_description")),
        metadata: check::texts("metadata", body.get("metadata").unwrap_or(&Value::Null))?,
        type_ref: filled("volume_type"),
        snapshot_id: filled("snapshot_id"),
        source_id: filled("source_volid"),
        group_id: filled("group_id").filter(|_| call.version.0 >= 13),
        zone: filled("availability_zone"),
        image: None,
    };
    let image = filled("imageRef").or_else(|| filled("image_id"));
    if let Some(reference) = image {
        call.access.require_own("volume:create_from_image")?;
        let image = service.inner.images.find(&call.token, &reference).await?;
        match &image.snapshot_id {
            // An image of a server that boots from a volume stands for the volume's snapshot (3.46).
            Some(snapshot) if call.version.0 >= 46 => wanted.snapshot_id = Some(snapshot.clone()),
            _ => wanted.image = Some(image),
        }
    }
    Ok(wanted)
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    call.access.require_own("volume:create")?;
    let wanted = read_wanted(service, &call).await?;
    let owner = service.clone();
    let (id, shown) = service
        .write(move |tx| {
            let volume = add(tx, &owner, &call, &wanted)?;
            let shown = plain(render(tx, &owner, &call, &volume)?);
            Ok((volume.id, shown))
        })
        .await?;
    service.begin_volume(&id);
    Ok(Reply::accepted(json!({"volume": shown})))
}

/// Writes the row of a new volume, with the job that fills it.
pub fn add(tx: &mut Tx<'_>, service: &Service, call: &Call, wanted: &Wanted) -> Result<Volume> {
    let config = &service.inner.config;
    let project = call.access.project().to_owned();
    let sources = [
        wanted.snapshot_id.is_some(),
        wanted.source_id.is_some(),
        wanted.image.is_some(),
    ];
    if sources.iter().filter(|there| **there).count() > 1 {
        return Err(Fault::bad(
            "May specify only one of snapshot, source volume, or image!",
        ));
    }
    let mut volume = Volume {
        id: uuid::Uuid::new_v4().to_string(),
        project_id: project.clone(),
        user_id: call.access.caller.user_id.clone(),
        name: wanted.name.clone(),
        description: wanted.description.clone(),
        size: wanted.size.unwrap_or(0),
        status: Status::Creating,
        type_id: String::new(),
        zone: zone(config, wanted.zone.as_deref())?,
        snapshot_id: wanted.snapshot_id.clone(),
        source_id: wanted.source_id.clone(),
        group_id: None,
        multiattach: false,
        bootable: false,
        metadata: wanted.metadata.clone(),
        admin_metadata: Map::new(),
        image_metadata: Map::new(),
        migration_status: None,
        job: None,
        request_id: call.request_id.clone(),
        created_at: Timestamp::now(),
        updated_at: None,
    };
    let mut given = None;
    let source = match (&wanted.snapshot_id, &wanted.source_id, &wanted.image) {
        (Some(id), _, _) => {
            given = Some(from_snapshot(tx, call, id, &mut volume)?);
            Source::Snapshot(id.clone())
        }
        (_, Some(id), _) => {
            given = Some(from_volume(tx, call, id, &mut volume)?);
            Source::Volume(id.clone())
        }
        (_, _, Some(image)) => {
            fits_image(image, volume.size)?;
            Service::remember_image(&mut volume, image);
            Source::Image(image.id.clone())
        }
        _ => Source::Blank,
    };
    if volume.size == 0 {
        return Err(Fault::input(
            "Volume size '0' must be an integer and greater than 0",
        ));
    }
    let kind = super::types::for_new(tx, config, call, wanted.type_ref.as_deref(), given)?;
    if kind.encryption.is_some() {
        return Err(Fault::absent(
            "Volumes of this type would be encrypted, and this cloud keeps no keys.",
        ));
    }
    volume.type_id = kind.id.clone();
    volume.multiattach = kind.multiattach();
    join_group(tx, call, wanted, &mut volume)?;
    quota::check_size(tx, config, &project, volume.size)?;
    let take = Take {
        volumes: 1,
        gigabytes: i64::try_from(volume.size).unwrap_or(i64::MAX),
        ..Take::default()
    };
    quota::check(tx, config, &project, &kind.name, take)?;
    volume.job = Some(Job::Create(source));
    let refused = match super::info::offers(&kind.extra_specs) {
        true => no_room(tx, service, volume.size)?,
        false => Some("no backend offers what the volume type asks for"),
    };
    if let Some(reason) = refused {
        refuse(tx, &mut volume, reason)?;
    }
    db::insert(tx, &volume)?;
    Ok(volume)
}

fn zone(config: &crate::Config, wanted: Option<&str>) -> Result<String> {
    match wanted {
        None => Ok(config.zone.clone()),
        Some(zone) if zone == config.zone => Ok(zone.to_owned()),
        Some(zone) => Err(Fault::bad(format!(
            "Availability zone '{zone}' is invalid."
        ))),
    }
}

/// What a new volume takes over from a snapshot; answers the type.
fn from_snapshot(tx: &mut Tx<'_>, call: &Call, id: &str, volume: &mut Volume) -> Result<String> {
    let snapshot = super::snapshots::seen(tx, call, id)?;
    if snapshot.status != Status::Available {
        return Err(Fault::snapshot(
            "Originating snapshot status must be one of 'available' values",
        ));
    }
    if volume.size == 0 {
        volume.size = snapshot.size;
    }
    if volume.size < snapshot.size {
        return Err(Fault::input(format!(
            "Volume size '{}'GB cannot be smaller than the snapshot size {}GB. They must be >= original snapshot size.",
            volume.size, snapshot.size
        )));
    }
    volume.bootable = snapshot.bootable;
    volume.image_metadata = snapshot.image_metadata;
    Ok(snapshot.type_id)
}

/// What a new volume takes over from another one; answers the type.
fn from_volume(tx: &mut Tx<'_>, call: &Call, id: &str, volume: &mut Volume) -> Result<String> {
    let source = seen(tx, call, id)?;
    if !matches!(source.status, Status::Available | Status::InUse) {
        return Err(Fault::volume(format!(
            "Source volume status must be 'available' or 'in-use' and is '{}'",
            source.status
        )));
    }
    if volume.size == 0 {
        volume.size = source.size;
    }
    if volume.size < source.size {
        return Err(Fault::input(format!(
            "Volume size '{}'GB cannot be smaller than original volume size  {}GB. They must be >= original volume \
             size.",
            volume.size, source.size
        )));
    }
    volume.bootable = source.bootable;
    volume.image_metadata = source.image_metadata;
    Ok(source.type_id)
}

/// Whether an image can become a volume of this size.
pub fn fits_image(image: &Image, size: u64) -> Result<()> {
    if image.status != "active" {
        return Err(Fault::input(format!("Image {} is not active.", image.id)));
    }
    let needs = gib(image.virtual_size.max(image.size));
    if size > 0 && needs > size {
        return Err(Fault::input(format!(
            "Size of specified image {needs}GB is larger than volume size {size}GB."
        )));
    }
    if size > 0 && size < image.min_disk {
        return Err(Fault::input(format!(
            "Volume size {size}GB cannot be smaller than the image minDisk size {}GB.",
            image.min_disk
        )));
    }
    Ok(())
}

fn join_group(tx: &mut Tx<'_>, call: &Call, wanted: &Wanted, volume: &mut Volume) -> Result<()> {
    let Some(id) = &wanted.group_id else {
        return Ok(());
    };
    let group = db::get::<Group>(tx, id)?;
    let group = group
        .filter(|group| call.access.sees(&group.project_id))
        .ok_or_else(|| Fault::missing("Group", id))?;
    if group.status != Status::Available {
        return Err(Fault::bad(format!(
            "Invalid Group: group {id} is {}",
            group.status
        )));
    }
    if wanted.type_ref.is_none() {
        return Err(Fault::input(
            "volume_type must be provided when creating a volume in a group.",
        ));
    }
    if !group.volume_types.contains(&volume.type_id) {
        return Err(Fault::input(
            "Invalid volume_type provided: it is not supported by the group.",
        ));
    }
    volume.group_id = Some(id.clone());
    Ok(())
}

/// Why the disk cannot promise so much more, if it cannot.
pub fn no_room(tx: &mut Tx<'_>, service: &Service, more: u64) -> Result<Option<&'static str>> {
    if db::service_state(tx, "cinder-volume")?.disabled {
        return Ok(Some("the only volume service is disabled"));
    }
    let promised = db::sum::<Volume>(tx, &[])? + db::sum::<Snapshot>(tx, &[])?;
    let promised = u64::try_from(promised).unwrap_or(0);
    let Ok(space) = service.inner.files.space() else {
        return Ok(Some("the disk cannot be looked at"));
    };
    let ratio = service.inner.config.over_subscription;
    let most = gib(space.total) as f64 * ratio;
    let fits = (promised + more) as f64 <= most;
    Ok((!fits).then_some("no weighed backend has room for it"))
}

/// As Cinder's scheduler does where no backend will take a volume: it is there, in error, with a message.
fn refuse(tx: &mut Tx<'_>, volume: &mut Volume, reason: &str) -> Result<()> {
    volume.status = Status::Error;
    volume.job = None;
    let about = ("VOLUME", volume.id.as_str());
    let words = format!(
        "schedule allocate volume:Could not find any available weighed backend ({reason})."
    );
    let event = ("VOLUME_VOLUME_001_002", words);
    crate::service::tell(tx, &volume.project_id, &volume.request_id, about, event)?;
    Ok(())
}

const UPDATE: &[Field] = &[
    ("name", Kind::Name, Need::May),
    ("description", Kind::OptionalText, Need::May),
    ("display_name", Kind::Name, Need::May),
    ("display_description", Kind::OptionalText, Need::May),
    ("metadata", Kind::Texts, Need::May),
];

async fn update(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let body = check::object(&call.body, "volume", UPDATE, false)?.clone();
    if body.is_empty() && call.version.0 >= 53 {
        return Err(Fault::bad(
            "Invalid input for field/attribute volume. Value: {}. {} is not valid under any of the given schemas",
        ));
    }
    let (owner, id) = (service.clone(), id.to_owned());
    let shown = service
        .write(move |tx| {
            let mut volume = allowed(tx, &call, &id, "volume:update")?;
            for name in ["display_name", "name"] {
                if body.contains_key(name) {
                    volume.name = check::trimmed(&body, name);
                }
            }
            for name in ["display_description", "description"] {
                if body.contains_key(name) {
                    volume.description = check::trimmed(&body, name);
                }
            }
            if let Some(metadata) = body.get("metadata") {
                volume.metadata = check::texts("metadata", metadata)?;
            }
            volume.updated_at = Some(Timestamp::now());
            db::save(tx, &volume)?;
            Ok(plain(render(tx, &owner, &call, &volume)?))
        })
        .await?;
    Ok(Reply::ok(json!({"volume": shown})))
}

async fn remove(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let cascade = call.query.yes("cascade")?;
    let force = call.version.0 >= 23 && call.query.yes("force")?;
    let key = id.to_owned();
    let snapshots = service
        .write(move |tx| {
            let volume = seen(tx, &call, &key)?;
            if force {
                call.access
                    .require("volume:force_delete", &volume.project_id)?;
            }
            call.access.require("volume:delete", &volume.project_id)?;
            let manner = if force { Manner::Forced } else { Manner::Plain };
            mark_deleted(tx, volume, cascade, manner)
        })
        .await?;
    begin_removal(service, id, &snapshots);
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// Begins the removal of snapshots, and then of the volume that waits for them.
pub fn begin_removal(service: &Service, id: &str, snapshots: &[String]) {
    for snapshot in snapshots {
        service.begin_snapshot(snapshot);
    }
    service.begin_volume(id);
}

/// How a volume is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// By itself, if nothing is against it.
    Plain,
    /// Whatever its status.
    Forced,
    /// Because its group goes.
    WithGroup,
}

/// Writes that a volume is to go; answers the snapshots that go with it.
pub fn mark_deleted(
    tx: &mut Tx<'_>,
    mut volume: Volume,
    cascade: bool,
    manner: Manner,
) -> Result<Vec<String>> {
    let force = manner == Manner::Forced;
    let deletable = matches!(
        volume.status,
        Status::Available
            | Status::Error
            | Status::ErrorRestoring
            | Status::ErrorExtending
            | Status::ErrorManaging
            | Status::ErrorDeleting
    );
    let attached = !attachments(tx, &volume)?.is_empty();
    let of_volume = [("volume_id", sql::Value::from(&volume.id))];
    let snapshots = db::find::<Snapshot>(tx, &of_volume)?;
    let offered = db::find_one::<Transfer>(tx, &of_volume)?.is_some();
    let cloned = [("source_id", sql::Value::from(&volume.id))];
    let clones = db::find::<Volume>(tx, &cloned)?;
    let cloning = clones.iter().any(|one| one.status == Status::Creating);
    let groups = volume.group_id.is_some() && manner == Manner::Plain;
    let busy_snapshot = snapshots.iter().any(|one| {
        let usable = matches!(
            one.status,
            Status::Available | Status::Error | Status::ErrorDeleting
        );
        !usable || one.group_snapshot_id.is_some()
    });
    let refused = (!force && !deletable)
        || attached
        || (offered && !force)
        || cloning
        || groups
        || (!snapshots.is_empty() && (!cascade || busy_snapshot));
    if refused {
        return Err(Fault::volume(
            "Volume status must be available or error or error_restoring or error_extending or error_managing and must \
             not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated \
             from snapshots after volume transfer.",
        ));
    }
    let mut gone = Vec::new();
    for mut snapshot in snapshots {
        snapshot.status = Status::Deleting;
        snapshot.job = Some(Job::Delete);
        db::save(tx, &snapshot)?;
        gone.push(snapshot.id);
    }
    volume.status = Status::Deleting;
    volume.job = Some(Job::Delete);
    volume.updated_at = Some(Timestamp::now());
    db::save(tx, &volume)?;
    Ok(gone)
}
