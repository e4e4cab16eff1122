//! Accepting new servers: quotas, rows and tasks in one transaction.

use super::boot::Boot;
use super::create_server::{CreateServer, Resolved};
use super::editable;
use super::kernels::Kernels;
use crate::call::Call;
use crate::faults::Fault;
use crate::handlers::server_metadata::within_quota;
use crate::handlers::server_volumes::must_not_be_attached;
use crate::views::server::reservation_id;
use crate::vtpm::{self, Handed};
use db::block_devices::BlockDevice;
use db::instances::{Instance, Kept};
use db::placing::{Ties, ToBePlaced};
use db::usages::Held;
use serde_json::Value;
use sql::Tx;
use std::collections::BTreeMap;
use types::image_properties::ImageProperties;
use types::{GroupId, PowerState, ProjectId, ServerId, TaskState, Timestamp, UserId, VmState};

impl CreateServer {
    /// Stores the servers and starts their builds; answers the first. `also` writes what belongs to them, in the same
    /// transaction.
    pub async fn accept<F>(
        self,
        call: &Call,
        resolved: Resolved,
        also: F,
    ) -> Result<Instance, Fault>
    where
        F: Fn(&mut Tx<'_>, &Instance) -> Result<(), Fault> + Send + 'static,
    {
        editable::check_disk_config(resolved.boot.image.as_ref(), self.auto_disk_config)?;
        let sealed = call.api.deps.secrets.seal(&self.admin_pass);
        let (project, user) = (
            ProjectId(call.project().to_owned()),
            UserId(call.caller.user_id.clone()),
        );
        let mut ids: Vec<ServerId> = (0..self.max_count).map(|_| ServerId::random()).collect();
        let (reservation, now, asker) = (
            reservation_id(rand::random()),
            Timestamp::now(),
            call.requester(),
        );
        let files = sealed_files(call, &self.files)?;
        let secrets = match resolved.tpm()? {
            // Not for servers that the quota does not allow anyhow.
            Some(tpm) => {
                let most = self.allowed(call, &project, &user, &resolved).await?;
                ids.truncate(usize::try_from(most).unwrap_or(0));
                vtpm::make_all(call, &ids, tpm).await?
            }
            None => Vec::new(),
        };
        let made = secrets.clone();
        let config = call.api.config.clone();
        // The project's usage is read and changed.
        let turn = project.0.clone();
        let accepting = call
            .api
            .deps
            .store
            .write_in_turn(&turn, move |tx| -> Result<_, Fault> {
                self.check_place(tx, &config)?;
                within_quota(tx, project.as_str(), self.metadata.len())?;
                files_within_limits(tx, &self.files, &project, &user)?;
                let count = self.within_limits(tx, &project, &user, &resolved)?;
                let count = count.min(i64::try_from(ids.len()).unwrap_or(count));
                let group = self.group(tx, &project, &user, count)?;
                let mut first = None;
                let mut accepted = Vec::new();
                for index in 0..count {
                    let id = ids[usize::try_from(index).unwrap_or(0)];
                    let mut instance = self.instance(&resolved, id, index, count);
                    instance.project_id = project.clone();
                    instance.user_id = user.clone();
                    instance.reservation_id.clone_from(&reservation);
                    instance.created_at = now;
                    instance.admin_pass = Some(sealed.clone());
                    let vtpm = usize::try_from(index).ok().and_then(|at| secrets.get(at));
                    instance.kept.vtpm_secret = vtpm.map(Handed::secret);
                    let devices = resolved.boot.devices.iter();
                    let devices = devices
                        .map(|device| keep(tx, id, device, &resolved.boot.shared, now))
                        .collect::<Result<_, _>>()?;
                    let (number, task) = db::accept::create(tx, &instance, asker.as_requester())?;
                    instance.number = number;
                    instance.task_id = Some(task.id);
                    if let Some(vtpm) = vtpm {
                        vtpm.hand_over(tx, id)?;
                    }
                    if let Some(files) = &files {
                        db::injected_files::put(tx, id, files)?;
                    }
                    for tag in &self.tags {
                        db::tags::add(tx, id, tag)?;
                    }
                    if let Some(group) = group {
                        db::server_groups::add_member(tx, group, id)?;
                    }
                    let ties = Ties {
                        group,
                        debtors: Vec::new(),
                    };
                    let known = ToBePlaced {
                        server: instance.clone(),
                        devices,
                        ties,
                    };
                    accepted.push((task, known));
                    first.get_or_insert(instance);
                }
                let first = first.ok_or_else(|| Fault::bad_request("min_count must be >= 1"))?;
                also(tx, &first)?;
                Ok((first, accepted))
            });
        let accepted = accepting.await;
        let (first, accepted) = match accepted {
            Ok(accepted) => accepted,
            Err(fault) => {
                // Those of servers that may have been written may be in use.
                if !fault.in_doubt {
                    vtpm::take_back(call, &made).await;
                }
                return Err(fault);
            }
        };
        let used = accepted.len();
        let deps = &call.api.deps;
        // One that is not taken here is for whoever hears the bell.
        let mut all_taken = true;
        for (task, server) in accepted {
            all_taken &= (deps.hand_over)(task, server);
        }
        if !all_taken {
            deps.bus.ring(bus::Bell::Tasks);
        }
        // The quota may have allowed fewer by now.
        vtpm::take_back(call, made.iter().skip(used)).await;
        Ok(first)
    }

    /// What [`Self::within_limits`] says now.
    async fn allowed(
        &self,
        call: &Call,
        project: &ProjectId,
        user: &UserId,
        resolved: &Resolved,
    ) -> Result<i64, Fault> {
        let (project, user, each) = (project.clone(), user.clone(), each(resolved));
        let counts = (self.min_count, self.max_count);
        let asking = move |tx: &mut Tx<'_>| allowed(tx, &project, &user, &each, counts);
        call.api.deps.store.read(asking).await
    }

    /// How many servers the quotas allow: as many as wanted, but not less than `min_count`.
    pub(super) fn within_limits(
        &self,
        tx: &mut Tx<'_>,
        project: &ProjectId,
        user: &UserId,
        resolved: &Resolved,
    ) -> Result<i64, Fault> {
        let counts = (self.min_count, self.max_count);
        allowed(tx, project, user, &each(resolved), counts)
    }

    /// The server group of the hints, if it has room.
    pub(super) fn group(
        &self,
        tx: &mut Tx<'_>,
        project: &ProjectId,
        user: &UserId,
        count: i64,
    ) -> Result<Option<GroupId>, Fault> {
        let Some(text) = self.hints.get("group").and_then(Value::as_str) else {
            return Ok(None);
        };
        let unknown = || Fault::bad_request(format!("Instance group {text} could not be found."));
        let id: GroupId = text.parse().map_err(|_| unknown())?;
        let group = db::server_groups::get(tx, id)?
            .filter(|group| group.project_id == project.as_str())
            .ok_or_else(unknown)?;
        // The user's own servers count, whosoever else has some there (Nova's `_server_group_count_members_by_user`).
        let limits = db::quotas::of_user(tx, project.as_str(), user.as_str())?;
        let most = limits.get("server_group_members").copied().unwrap_or(-1);
        if most >= 0
            && db::server_groups::members_of_user(tx, group.id, user)?.saturating_add(count) > most
        {
            return Err(Fault::forbidden(
                "Quota exceeded, too many servers in group",
            ));
        }
        Ok(Some(group.id))
    }

    /// One of the servers; owner, times and password are filled in by the caller.
    pub(super) fn instance(
        &self,
        resolved: &Resolved,
        id: ServerId,
        index: i64,
        count: i64,
    ) -> Instance {
        let name = if count > 1 {
            numbered(&self.name, index + 1)
        } else {
            self.name.clone()
        };
        let mut hints = self.hints.clone();
        if let Some(host) = self.destination() {
            hints.insert("_host".to_owned(), host.into());
            hints.insert("_forced".to_owned(), self.forced.into());
        }
        // Files reach a guest by a config drive only.
        let drive = self.config_drive
            || !self.files.is_empty()
            || boot_properties(&resolved.boot).is_some_and(wants_config_drive);
        let mut server = Instance {
            number: 0,
            id,
            project_id: ProjectId(String::new()),
            user_id: UserId(String::new()),
            hostname: self.hostname.clone().unwrap_or_else(|| hostname(&name, id)),
            display_name: name,
            description: self.description.clone(),
            vm_state: VmState::Building,
            task_state: Some(TaskState::Scheduling),
            power_state: PowerState::NoState,
            generation: 0,
            task_id: None,
            host: None,
            node: None,
            node_id: None,
            availability_zone: self.zone.clone(),
            pinned_zone: self.zone.clone(),
            launched_on: None,
            flavor: resolved.flavor.clone(),
            image: resolved.boot.image.clone(),
            key_name: self.key_name.clone(),
            key_data: resolved.key_data.clone(),
            user_data: self.user_data.clone(),
            config_drive: drive,
            access_ip_v4: self.access_ip_v4.clone(),
            access_ip_v6: self.access_ip_v6.clone(),
            metadata: self.metadata.clone(),
            networks: resolved.networks.clone(),
            network_info: Vec::new(),
            security_groups: resolved.security_groups.clone(),
            scheduler_hints: hints.into(),
            admin_pass: None,
            locked: false,
            locked_by: None,
            locked_reason: None,
            reservation_id: String::new(),
            launch_index: index,
            root_device_name: Some(resolved.boot.root_device_name.clone()),
            progress: 0,
            fault: None,
            created_at: Timestamp(0),
            updated_at: None,
            launched_at: None,
            terminated_at: None,
            deleted: false,
            kept: Kept {
                auto_disk_config: self.auto_disk_config.unwrap_or_else(|| {
                    resolved
                        .boot
                        .image
                        .as_ref()
                        .is_some_and(editable::disk_config_of)
                }),
                boot_volume: resolved.boot.volume.clone(),
                trusted_certs: self.trusted_certs.clone(),
                ..Kept::default()
            },
        };
        resolved.kernels.keep(&mut server.kept);
        server
    }
}

/// Files for a guest as they are stored, if there are any.
pub fn sealed_files(call: &Call, files: &[(String, String)]) -> Result<Option<String>, Fault> {
    if files.is_empty() {
        return Ok(None);
    }
    let clear = serde_json::to_string(files).map_err(Fault::internal)?;
    Ok(Some(call.api.deps.secrets.seal(&clear)))
}

/// The three limits of injected files; lengths are those of the request's texts.
pub fn files_within_limits(
    tx: &mut Tx<'_>,
    files: &[(String, String)],
    project: &ProjectId,
    user: &UserId,
) -> Result<(), Fault> {
    if files.is_empty() {
        return Ok(());
    }
    let limits = db::quotas::of_user(tx, project.as_str(), user.as_str())?;
    let over = |name: &str, wanted: usize| {
        let limit = limits.get(name).copied().unwrap_or(-1);
        (limit >= 0 && i64::try_from(wanted).unwrap_or(i64::MAX) > limit).then_some(limit)
    };
    let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    if over("injected_files", files.len()).is_some() {
        return Err(Fault::forbidden("Personality file limit exceeded"));
    }
    let path = longest(&mut files.iter().map(|(path, _)| path.chars().count()));
    if let Some(most) = over("injected_file_path_bytes", path) {
        return Err(Fault::forbidden(format!(
            "Personality file path exceeds maximum {most}"
        )));
    }
    let content = longest(&mut files.iter().map(|(_, content)| content.len()));
    if let Some(most) = over("injected_file_content_bytes", content) {
        return Err(Fault::forbidden(format!(
            "Personality file content exceeds maximum {most}"
        )));
    }
    Ok(())
}

impl Resolved {
    /// What flavor and image ask of the hardware, which they must be able to mean.
    pub fn demands(&self) -> Result<Vec<scheduler::Demand>, Fault> {
        let nothing = BTreeMap::new();
        let image = boot_properties(&self.boot).unwrap_or(&nothing);
        let demands = scheduler::demands(&self.flavor, image).map_err(Fault::unmeant)?;
        scheduler::device_distance(&self.flavor, image).map_err(Fault::unmeant)?;
        Ok(demands)
    }

    /// Looks up what the image wants the servers to be booted with.
    pub async fn look_up_kernels(
        &mut self,
        call: &Call,
        trusted: Option<&[String]>,
    ) -> Result<(), Fault> {
        let nothing = BTreeMap::new();
        let image = boot_properties(&self.boot).unwrap_or(&nothing);
        let missing = "Can not find requested image";
        self.kernels = Kernels::of(call, image, trusted, missing).await?;
        Ok(())
    }

    /// The emulated TPM that they ask for.
    fn tpm(&self) -> Result<Option<types::tpm::Wanted>, Fault> {
        let nothing = BTreeMap::new();
        let image = boot_properties(&self.boot).unwrap_or(&nothing);
        scheduler::tpm(&self.flavor, image).map_err(Fault::unmeant)
    }
}

/// Whether an image is not to be used without a config drive.
fn wants_config_drive(properties: &BTreeMap<String, String>) -> bool {
    ImageProperties::readable(properties).text("img_config_drive") == Some("mandatory")
}

/// What image properties say about the machine.
fn boot_properties(boot: &Boot) -> Option<&BTreeMap<String, String>> {
    let of_volume = boot.volume.as_ref().map(|volume| &volume.properties);
    of_volume.or(boot.image.as_ref().map(|image| &image.properties))
}

/// Puts a disk of a new server on record, and returns it as it is there.
fn keep(
    tx: &mut Tx<'_>,
    server: ServerId,
    device: &BlockDevice,
    shared: &[String],
    now: Timestamp,
) -> Result<BlockDevice, Fault> {
    if let Some(volume) = &device.volume_id {
        must_not_be_attached(tx, server, volume, shared.contains(volume))?;
    }
    let device = BlockDevice {
        id: uuid::Uuid::new_v4(),
        server,
        ..device.clone()
    };
    db::block_devices::insert(tx, &device, now)?;
    Ok(device)
}

/// What one of the servers counts as.
fn each(resolved: &Resolved) -> Held {
    Held {
        instances: 1,
        cores: i64::from(resolved.flavor.vcpus),
        ram_mb: i64::from(resolved.flavor.memory_mb),
    }
}

/// How many servers that count so much each the quotas allow, of at least and at most so many.
fn allowed(
    tx: &mut Tx<'_>,
    project: &ProjectId,
    user: &UserId,
    each: &Held,
    (least, most): (i64, i64),
) -> Result<i64, Fault> {
    let [of_project, of_user] = db::usages::with_limits(tx, project, user)?;
    let mut count = most;
    for (limits, held) in [&of_project, &of_user] {
        for (name, used, one) in resources(held, each) {
            let limit = limits.get(name).copied().unwrap_or(-1);
            if limit >= 0 && one > 0 {
                count = count.min((limit - used).max(0) / one);
            }
        }
    }
    if count >= least {
        return Ok(count);
    }
    let (limits, held) = if exceeded(&of_project, each, least).is_empty() {
        &of_user
    } else {
        &of_project
    };
    Err(over_quota(&exceeded(&(limits.clone(), *held), each, least)))
}

/// Name, held, needed for each server; in the order of the names, which messages keep.
fn resources(held: &Held, each: &Held) -> [(&'static str, i64, i64); 3] {
    [
        ("cores", held.cores, each.cores),
        ("instances", held.instances, each.instances),
        ("ram", held.ram_mb, each.ram_mb),
    ]
}

/// A resource of which a request wants more than there is.
#[derive(Clone, Copy)]
struct Exceeded {
    resource: &'static str,
    asked: i64,
    held: i64,
    limit: i64,
}

/// The resources that `count` servers would exceed.
fn exceeded(of: &(db::quotas::Limits, Held), each: &Held, count: i64) -> Vec<Exceeded> {
    let (limits, held) = of;
    resources(held, each)
        .into_iter()
        .filter_map(|(resource, held, one)| {
            let limit = limits.get(resource).copied().unwrap_or(-1);
            let asked = one.saturating_mul(count);
            (limit >= 0 && held.saturating_add(asked) > limit).then_some(Exceeded {
                resource,
                asked,
                held,
                limit,
            })
        })
        .collect()
}

fn over_quota(list: &[Exceeded]) -> Fault {
    let join = |texts: Vec<String>| texts.join(", ");
    let names = join(list.iter().map(|one| one.resource.to_owned()).collect());
    Fault::forbidden(format!(
        "Quota exceeded for {names}: Requested {}, but already used {} of {} {names}",
        join(list.iter().map(|one| one.asked.to_string()).collect()),
        join(list.iter().map(|one| one.held.to_string()).collect()),
        join(list.iter().map(|one| one.limit.to_string()).collect()),
    ))
}

/// Refuses what would take a project, or a user in it, over its quotas.
pub fn within_limits(
    tx: &mut Tx<'_>,
    project: &ProjectId,
    user: &UserId,
    more: Held,
) -> Result<(), Fault> {
    for of in db::usages::with_limits(tx, project, user)? {
        let mut over = exceeded(&of, &more, 1);
        over.retain(|one| one.asked > 0);
        if !over.is_empty() {
            return Err(over_quota(&over));
        }
    }
    Ok(())
}

/// A host name made of a display name (RFC 1123 labels, at most 63 characters).
pub fn hostname(name: &str, id: ServerId) -> String {
    let mut made = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        match c {
            ' ' | '_' | '.' => made.push('-'),
            c if c.is_ascii_alphanumeric() || c == '-' => made.push(c),
            _ => {}
        }
    }
    made.truncate(63);
    let made = made.trim_matches('-');
    if made.is_empty() {
        format!("server-{id}")
    } else {
        made.to_owned()
    }
}

/// Characters that a server's name has at most.
const NAME: usize = 255;

/// The name of one of several servers: the stem is cut where both together would be longer than a name may be.
fn numbered(stem: &str, number: i64) -> String {
    let end = format!("-{number}");
    let room = NAME.saturating_sub(end.len());
    let stem: String = stem.chars().take(room).collect();
    stem + &end
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_several_are_no_longer_than_names() {
        assert_eq!(numbered("web", 12), "web-12");
        let longest = "é".repeat(NAME);
        assert_eq!(numbered(&longest, 10), "é".repeat(252) + "-10");
    }

    #[test]
    fn hostnames() {
        let id = "70a599e0-31e7-49b7-b260-868f441e862b".parse().unwrap();
        let table = [
            ("My Server_1.x", "my-server-1-x"),
            ("-a-", "a"),
            ("\u{fc}ber", "ber"),
            ("\u{4f60}", "server-70a599e0-31e7-49b7-b260-868f441e862b"),
        ];
        for (name, wanted) in table {
            assert_eq!(hostname(name, id), wanted);
        }
        assert_eq!(hostname(&"x".repeat(100), id).len(), 63);
    }

    #[test]
    fn quota_messages_name_every_resource() {
        let fault = over_quota(&[
            Exceeded {
                resource: "cores",
                asked: 50,
                held: 3,
                limit: 20,
            },
            Exceeded {
                resource: "instances",
                asked: 50,
                held: 3,
                limit: 10,
            },
        ]);
        assert_eq!(
            fault.message,
            "Quota exceeded for cores, instances: Requested 50, 50, but already used 3, 3 of 20, 10 cores, instances"
        );
    }
}
