//! `rebuild`.

use crate::call::{Call, Reply};
use crate::commands::{self, Kernels, boot, editable, fits, password};
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow_and};
use crate::handlers::server_metadata::within_quota;
use crate::handlers::server_volumes::all_in_use;
use crate::handlers::servers::shown_document;
use crate::idempotency::Answer;
use crate::mv;
use crate::neighbours::unavailable;
use crate::schemas::{formats, is_true};
use crate::verdict;
use crate::vtpm;
use clients::ImageRecord;
use db::accept;
use db::instances::{BootVolume, Instance};
use http::StatusCode;
use scheduler::{Filter, Request, Rows, Settings};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use types::server::ImageRef;
use types::{ImageId, TaskState, Timestamp};

/// What a rebuild changes of a server; `None` leaves it.
#[derive(Clone)]
struct Rebuild {
    /// None for a server that boots from a volume: an empty one is how clients know it.
    image: Option<ImageRef>,
    /// The image that the volume gets from which the server boots, and what is known of the volume then.
    reimage: Option<(ImageId, BootVolume)>,
    sealed: String,
    name: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    access_ip_v4: Option<String>,
    access_ip_v6: Option<String>,
    description: Option<Option<String>>,
    hostname: Option<String>,
    user_data: Option<Option<String>>,
    auto_disk_config: Option<bool>,
    /// Files for the guest in place of those that it was given before (below 2.57).
    files: Option<Vec<(String, String)>>,
    /// Name and public key.
    key: Option<Option<(String, String)>>,
    /// Ids of certificates (2.63).
    trusted_certs: Option<Option<Vec<String>>>,
    /// What the image wants the server to be booted with.
    kernels: Kernels,
}

impl Rebuild {
    async fn read(call: &Call, server: &Instance, pass: &str) -> Result<Self, Fault> {
        let text = |name: &str| call.text("rebuild", name).map(str::to_owned);
        let nullable = |name: &str| {
            let value = call.field("rebuild", name)?;
            Some(value.as_str().map(str::to_owned))
        };
        let trusted_certs = trusted_certs(call, server)?;
        let key = match nullable("key_name") {
            Some(Some(name)) => Some(Some(key_of(call, name).await?)),
            Some(None) => Some(None),
            None => None,
        };
        let metadata = call.field("rebuild", "metadata").map(|value| {
            let pairs = value.as_object().into_iter().flatten();
            pairs
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        });
        let found = image(call).await?;
        let reimage = if server.is_volume_backed() {
            of_volume(call, server, &found).await?
        } else {
            fits(call, &server.flavor, &found)?;
            None
        };
        let mut image = found.image;
        scheduler::demands(&server.flavor, &image.properties).map_err(Fault::unmeant)?;
        vtpm::refuse_image(server, &image.properties, "rebuild")?;
        host_runs(call, server, &image).await?;
        let kept = trusted_certs.as_ref().unwrap_or(&server.kept.trusted_certs);
        let missing = "Cannot find image for rebuild";
        let kernels = Kernels::of(call, &image.properties, kept.as_deref(), missing).await?;
        if !server.is_volume_backed() {
            image.check = call.check_of(&image, kept.as_deref()).await;
        }
        let auto_disk_config = editable::auto_disk_config(call, "rebuild");
        editable::check_disk_config(Some(&image), auto_disk_config)?;
        Ok(Self {
            image: (!server.is_volume_backed()).then_some(image),
            reimage,
            sealed: call.api.deps.secrets.seal(pass),
            name: text("name").map(|name| name.trim().to_owned()),
            metadata,
            access_ip_v4: editable::address(call, "rebuild", "accessIPv4"),
            access_ip_v6: editable::address(call, "rebuild", "accessIPv6"),
            auto_disk_config,
            files: match call.field("rebuild", "personality") {
                Some(files) => Some(commands::files(Some(files))?),
                None => None,
            },
            description: nullable("description"),
            hostname: text("hostname"),
            user_data: nullable("user_data").map(|text| text.map(formats::strict_base64)),
            key,
            trusted_certs,
            kernels,
        })
    }

    fn apply(&self, server: &mut Instance) {
        if self.image.is_some() {
            server.image.clone_from(&self.image);
        }
        if let Some((_, volume)) = &self.reimage {
            server.kept.boot_volume = Some(volume.clone());
        }
        self.kernels.keep(&mut server.kept);
        server.admin_pass = Some(self.sealed.clone());
        if let Some(auto) = self.auto_disk_config {
            server.kept.auto_disk_config = auto;
        }
        if let Some(name) = &self.name {
            server.display_name.clone_from(name);
        }
        if let Some(metadata) = &self.metadata {
            server.metadata.clone_from(metadata);
        }
        if self.access_ip_v4.is_some() {
            server.access_ip_v4.clone_from(&self.access_ip_v4);
        }
        if self.access_ip_v6.is_some() {
            server.access_ip_v6.clone_from(&self.access_ip_v6);
        }
        if let Some(description) = &self.description {
            server.description.clone_from(description);
        }
        if let Some(hostname) = &self.hostname {
            server.hostname.clone_from(hostname);
        }
        if let Some(user_data) = &self.user_data {
            server.user_data.clone_from(user_data);
        }
        if let Some(certs) = &self.trusted_certs {
            server.kept.trusted_certs.clone_from(certs);
        }
        if self.files.as_ref().is_some_and(|files| !files.is_empty()) {
            // Files reach a guest by a config drive only.
            server.config_drive = true;
        }
        if let Some(key) = &self.key {
            (server.key_name, server.key_data) = key.clone().unzip();
        }
    }
}

/// The ids of certificates that a rebuild names; null takes those away that the server had, or gives it the cloud's.
fn trusted_certs(call: &Call, server: &Instance) -> Result<Option<Option<Vec<String>>>, Fault> {
    let Some(field) = call.field("rebuild", "trusted_image_certificates") else {
        return Ok(None);
    };
    call.require_for(
        "os_compute_api:servers:rebuild:trusted_certs",
        server.project_id.as_str(),
        server.user_id.as_str(),
    )?;
    let ids = commands::trusted_certs(Some(field));
    if server.is_volume_backed() {
        if ids.is_some() {
            return Err(Fault::bad_request(
                "Image certificate validation is not supported for volume-backed servers.",
            ));
        }
        return Ok(Some(None));
    }
    Ok(Some(call.api.config.signatures.kept(ids)))
}

/// The image that the request names.
async fn image(call: &Call) -> Result<ImageRecord, Fault> {
    let id = call.text("rebuild", "imageRef").unwrap_or_default();
    let found = call.api.deps.images.get(&call.token, id).await;
    found
        .map_err(unavailable)?
        .ok_or_else(|| Fault::bad_request("Cannot find image for rebuild"))
}

/// What another image asks of the hardware; what was there before stays as it is.
fn new_demands(server: &Instance, image: &ImageRef) -> Result<Vec<scheduler::Demand>, Fault> {
    let flavor = &server.flavor;
    let mut new = scheduler::demands(flavor, &image.properties).map_err(Fault::unmeant)?;
    let old = server.image_properties();
    let old = old.and_then(|properties| scheduler::demands(flavor, properties).ok());
    let old = old.unwrap_or_default();
    new.retain(|demand| !old.contains(demand));
    Ok(new)
}

/// Another image must fit the server's host as the scheduler would want it, of which it has no word: resources stay, and
/// whether the host takes new servers does not matter.
async fn host_runs(call: &Call, server: &Instance, image: &ImageRef) -> Result<(), Fault> {
    let same = server.image.as_ref().is_some_and(|old| old.id == image.id);
    let Some(host) = server.host.clone().filter(|_| !same) else {
        return Ok(());
    };
    let mut request = Request::new(&server.flavor, Some(image))
        .map_err(|wrong| Fault::bad_request(wrong.to_string()))?;
    request.resources.clear();
    request.demands = new_demands(server, image)?;
    let store = &call.api.deps.store;
    let nodes: Result<_, sql::Error> = store.read(db::hosts::nodes).await;
    let rows = Rows {
        nodes: nodes?,
        ..Rows::default()
    };
    let config = &call.api.config;
    let (zone, down_after) = (&config.scheduling.default_zone, config.service_down_micros);
    let states = scheduler::host_states(rows, zone, Timestamp::now(), down_after);
    let Some(state) = states.iter().find(|state| state.host == host) else {
        return Ok(());
    };
    let settings = Settings {
        filters: vec![Filter::ImageProperties],
        ..Settings::default()
    };
    scheduler::select([state], &request, &settings, &mut rand::rng())
        .map(drop)
        .map_err(|refusal| Fault::bad_request(refusal.to_string()))
}

/// What becomes of the volume that a server boots from. Since 2.93 it gets the image, also the one that it was made of;
/// before, it stays as it is, and only that image may be named.
async fn of_volume(
    call: &Call,
    server: &Instance,
    found: &ImageRecord,
) -> Result<Option<(ImageId, BootVolume)>, Fault> {
    let image = found.image.id;
    let devices = call.devices_of(server.id).await?;
    let root = devices.into_iter().find(|device| device.is_root());
    let volume = match root.and_then(|root| root.volume_id) {
        Some(id) => call.volume(&id).await?,
        None => None,
    };
    if call.at_least(mv::VOLUME_REIMAGED) {
        let volume = volume.ok_or_else(|| {
            Fault::bad_request("The volume that the server boots from could not be found.")
        })?;
        let id = server.id.to_string();
        if volume.attachments.iter().any(|(holder, _)| *holder != id) {
            return Err(Fault::conflict(format!(
                "Volume {}, which server {id} boots from, is attached to other servers as well: its contents cannot be \
                 replaced.",
                volume.id
            )));
        }
        let after = boot::reimaged(found, &server.flavor, volume.size)?;
        return Ok(Some((image, after)));
    }
    let made_of = volume.and_then(|mut volume| volume.image_metadata.remove("image_id"));
    if made_of == Some(image.to_string()) {
        return Ok(None);
    }
    Err(Fault::bad_request(format!(
        "Image {image} is unacceptable: Unable to rebuild with a different image for a volume-backed server."
    )))
}

/// A key pair of the caller, who need not be the one who created the server.
async fn key_of(call: &Call, name: String) -> Result<(String, String), Fault> {
    let user = call.caller.user_id.clone();
    let found = call
        .api
        .deps
        .store
        .read(move |tx| db::keypairs::get(tx, &user, &name))
        .await?;
    found
        .map(|key| (key.name, key.public_key))
        .ok_or_else(|| Fault::bad_request("Invalid key_name provided."))
}

/// `rebuild`: the server as it will be, with the password that the guest gets.
pub async fn rebuild(call: Call) -> Result<Reply, Fault> {
    let pass = call
        .text("rebuild", "adminPass")
        .filter(|pass| !pass.is_empty())
        .map_or_else(password, str::to_owned);
    let server = call.server().await?;
    vtpm::refuse(&server, "rebuild")?;
    verdict::REBUILD.check(&call, &server)?;
    let rebuild = Rebuild::read(&call, &server, &pass).await?;
    all_in_use(&call, server.id, Fault::bad_request).await?;
    let files = rebuild.files.as_deref().unwrap_or_default();
    let sealed_files = commands::sealed_files(&call, files)?;
    let preserve = call
        .field("rebuild", "preserve_ephemeral")
        .is_some_and(is_true);
    let wanted = Wanted {
        rule: verdict::REBUILD,
        action: "rebuild",
        flow: accept::REBUILD,
        state: json!({
            "preserve_ephemeral": preserve,
            "reimage": rebuild.reimage.as_ref().map(|(image, _)| image),
        }),
        task_state: Some(TaskState::Rebuilding),
        answer: Answer::Later,
    };
    start_flow_and(&call, wanted, move |tx, server| {
        rebuild.apply(server);
        if let Some(named) = &rebuild.metadata {
            within_quota(tx, server.project_id.as_str(), named.len())?;
        }
        if let Some(files) = &rebuild.files {
            commands::files_within_limits(tx, files, &server.project_id, &server.user_id)?;
            db::injected_files::remove(tx, server.id)?;
        }
        if let Some(sealed) = &sealed_files {
            db::injected_files::put(tx, server.id, sealed)?;
        }
        Ok(db::instances::rewrite(tx, server)?)
    })
    .await?;
    answer(&call, call.server().await?, &pass).await
}

async fn answer(call: &Call, server: Instance, pass: &str) -> Result<Reply, Fault> {
    let (id, user_data, key) = (server.id, server.user_data.clone(), server.key_name.clone());
    let mut document = shown_document(call, server, call.at_least(mv::STRICT)).await?;
    let shown = &mut document["server"];
    shown["adminPass"] = pass.into();
    if call.at_least(mv::REBUILD_KEY) {
        shown["key_name"] = key.map_or(Value::Null, Value::from);
    }
    if call.at_least(mv::NO_PERSONALITY) {
        shown["user_data"] = user_data.map_or(Value::Null, Value::from);
        if let Some(fields) = shown.as_object_mut() {
            fields.remove("OS-EXT-SRV-ATTR:user_data");
        }
    }
    let location = call.links.own(&format!("/servers/{id}"));
    Ok(Reply::json(StatusCode::ACCEPTED, &document)?.at(location))
}
