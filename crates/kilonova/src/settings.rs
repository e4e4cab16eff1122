//! What an operator can choose: defaults, then the configuration file, then the command line.

mod keys;
mod references;
mod values;

use crate::arguments::{Configured, Hypervisor, Up};
use crate::config_file::{self, Entry, place};
use crate::live_settings::LiveMigration;
use crate::notification_settings::Notification;
use crate::place::Place;
use anyhow::{Context, Result, anyhow, bail};
use bus::{Brokers, Bus};
use clients::Login;
use conductor::due::Terms;
use conductor::guests::{OfDeleted, Rules};
use keys::{KEYS, Key};
use references::{Said, escaped};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use types::HostName;
use values::range;
use virt::libvirt::{Acceleration, CpuChoice, Detaching};
use web::tls::Identity;

/// The file used when none is named and the home has none.
const SYSTEM_FILE: &str = "/etc/kilonova/kilonova.conf";

/// The socket at which a network service of its own meets agents, beside the conductor's.
const NETWORK_SOCKET: &str = "network-agents.sock";

/// Whether a resize may end on the host where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OnSameHost {
    /// On any host.
    True,
    /// On another host only.
    False,
    /// When no other host will do.
    Auto,
}

impl OnSameHost {
    /// As the Compute API wants it.
    pub(crate) fn for_api(self) -> api::SameHost {
        match self {
            Self::True => api::SameHost::Always,
            Self::False => api::SameHost::Never,
            Self::Auto => api::SameHost::Last,
        }
    }
}

/// Every choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// What runs guests.
    pub(crate) hypervisor: Hypervisor,
    /// Simulated hosts.
    pub(crate) simulated_hosts: u16,
    /// The system user that the control process becomes.
    pub(crate) user: String,
    /// The address all APIs listen on.
    pub(crate) listen: String,
    pub(crate) identity_port: u16,
    pub(crate) compute_port: u16,
    pub(crate) metadata_port: u16,
    pub(crate) placement_port: u16,
    pub(crate) image_port: u16,
    pub(crate) network_port: u16,
    /// The host that serves DHCP and routers; empty: the first whose agent asked.
    pub(crate) gateway_host: String,
    pub(crate) volume_port: u16,
    pub(crate) key_manager_port: u16,
    /// Where volumes are served to hosts.
    pub(crate) nbd_listen: String,
    pub(crate) nbd_port: u16,
    /// GiB of volumes and snapshots that a project may have; -1 is any number.
    pub(crate) quota_gigabytes: i64,
    pub(crate) quota_volumes: i64,
    pub(crate) quota_snapshots: i64,
    /// The type of volumes for which nobody names one.
    pub(crate) default_volume_type: String,
    /// GiB that volumes may promise for each GiB of the disk.
    pub(crate) max_over_subscription_ratio: f64,
    /// Of the external network `public` of a fresh cloud.
    pub(crate) public_range: String,
    /// Of the shared network `private` of a fresh cloud.
    pub(crate) private_range: String,
    /// Database URLs; empty is SQLite in the home.
    pub(crate) compute_database: String,
    pub(crate) identity_database: String,
    pub(crate) image_database: String,
    pub(crate) network_database: String,
    pub(crate) volume_database: String,
    pub(crate) key_manager_database: String,
    /// Connections to each database.
    pub(crate) database_connections: usize,
    /// Seconds between two signs of life of a service.
    pub(crate) report_interval: u64,
    /// Seconds of silence after which a service is down.
    pub(crate) service_down_time: u64,
    /// Seconds for which a deleted server can be restored; 0 deletes at once.
    pub(crate) reclaim_instance_interval: u64,
    /// Seconds after which a shelved server leaves its host; 0 is at once, -1 never.
    pub(crate) shelved_offload_time: i64,
    /// Seconds that a guest gets to go down before it is switched off, where its image does not say it.
    pub(crate) shutdown_timeout: u64,
    /// The same for a soft reboot.
    pub(crate) wait_soft_reboot: u64,
    /// Seconds after which a resize is confirmed that nobody has confirmed; 0 never.
    pub(crate) resize_confirm_window: u64,
    /// Seconds between two lists of all guests of a host; -1 never, but at the start.
    pub(crate) sync_power_state_interval: i64,
    /// What becomes of guests of deleted servers.
    pub(crate) running_deleted_action: OfDeleted,
    /// Seconds for which the server must have been deleted.
    pub(crate) running_deleted_timeout: u64,
    /// Whether guests that ran are started with their host.
    pub(crate) resume_guests: bool,
    /// How guests run.
    pub(crate) virt_type: Acceleration,
    /// Seconds between two looks at base images; -1 never.
    pub(crate) image_cache_interval: i64,
    /// Seconds for which a base image that no guest needs is kept.
    pub(crate) unused_image_age: u64,
    /// Seconds between two looks for what should not be there; 0 never.
    pub(crate) reconcile_interval: u64,
    /// Whether a resize may end on the host where it begins.
    pub(crate) resize_on_same_host: OnSameHost,
    pub(crate) rescue_image: String,
    /// Guests are made of signed images only; whether their certificates must be trusted, and by default which are.
    pub(crate) verify_signatures: bool,
    pub(crate) validate_certificates: bool,
    pub(crate) trusted_certificates: String,
    /// Whether guests of this host may have emulated TPMs.
    pub(crate) swtpm_enabled: bool,
    /// The processors that they get.
    pub(crate) cpu: CpuChoice,
    /// How often a guest is asked to let go of a device, and the seconds that it gets each time.
    pub(crate) detach_attempts: u32,
    pub(crate) detach_timeout: u64,
    pub(crate) live: LiveMigration,
    #[serde(default)]
    pub(crate) scheduling: scheduler::Settings,
    pub(crate) cpu_allocation_ratio: f64,
    pub(crate) ram_allocation_ratio: f64,
    pub(crate) disk_allocation_ratio: f64,
    pub(crate) reserved_host_memory_mb: u64,
    pub(crate) reserved_host_disk_mb: u64,
    pub(crate) internal_availability_zone: String,
    /// The external network for floating addresses that requests below 2.36 ask for without naming one.
    pub(crate) default_floating_pool: String,
    /// Rules instead of Nova's; need not exist, empty is none.
    pub(crate) policy_file: String,
    pub(crate) policy_folder: String,
    /// Requests that one token and one address may make in the seconds; 0 is any number.
    pub(crate) rate_limit_requests: u32,
    pub(crate) rate_limit_seconds: u32,
    /// Where Prometheus finds the metrics, as `127.0.0.1:9180`; empty is nowhere.
    pub(crate) metrics_listen: String,
    /// The same for the part of `kilonova up` that has the host's agents.
    pub(crate) agent_metrics_listen: String,
    pub(crate) max_limit: usize,
    /// Where links begin, when clients see other URLs than this API does; empty is what the client used.
    pub(crate) compute_link_prefix: String,
    /// The same of links to the image service; empty is where compute finds it.
    pub(crate) glance_link_prefix: String,
    pub(crate) max_request_body_size: usize,
    /// The broker over which bells ring in other processes; empty is none.
    pub(crate) transport_url: String,
    /// This machine's name in the cloud; empty is the system's.
    pub(crate) host: String,
    /// This machine's address for other hosts.
    pub(crate) my_ip: String,
    /// The name or address in the catalog; empty is the one that is listened on.
    pub(crate) public_address: String,
    /// A site's own identity service, and as whom compute acts there; empty is the embedded one.
    pub(crate) site_auth_url: String,
    pub(crate) site_username: String,
    pub(crate) site_password: String,
    pub(crate) site_user_domain: String,
    pub(crate) site_project: String,
    pub(crate) site_project_domain: String,
    /// Where other processes find the services; empty is this machine.
    pub(crate) image_endpoint: String,
    pub(crate) network_endpoint: String,
    pub(crate) volume_endpoint: String,
    pub(crate) key_manager_endpoint: String,
    /// Signs what metadata proxies say; empty is the one in the home.
    pub(crate) metadata_secret: String,
    /// Where metadata proxies find the metadata service; empty is this machine.
    pub(crate) metadata_endpoint: String,
    /// Where a conductor and the network service meet agents; empty is a socket in the home.
    pub(crate) conductor_listen: String,
    pub(crate) network_listen: String,
    /// Where this host's tunnels end; empty: networks do not leave it.
    pub(crate) tunnel_address: String,
    /// The folder with the certificates of agents; empty is in the home.
    pub(crate) agent_certificates: String,
    /// Of the APIs: the certificate and its key, and the authority that other services' certificates are from.
    pub(crate) tls_certificate: String,
    pub(crate) tls_key: String,
    pub(crate) tls_authority: String,
    /// Where agents find them, separated by commas.
    pub(crate) conductors: String,
    /// Where agents of hosts reach each other.
    pub(crate) peer_port: u16,
    pub(crate) networks: String,
    /// Seconds for which what happened is kept for event streams and notifications.
    pub(crate) event_retention: u64,
    pub(crate) notification: Notification,
}

impl Default for Settings {
    fn default() -> Self {
        let ratios = db::hosts::Ratios::default();
        let api = api::Config::default();
        let patience = conductor::flows::grace::Patience::default();
        let volumes = volume::Config::new("");
        let detaching = Detaching::default();
        Self {
            hypervisor: Hypervisor::Libvirt,
            simulated_hosts: 1,
            user: "kilonova".to_owned(),
            listen: "127.0.0.1".to_owned(),
            identity_port: 5000,
            compute_port: 8774,
            metadata_port: 8775,
            placement_port: 8778,
            image_port: 9292,
            network_port: 9696,
            gateway_host: String::new(),
            volume_port: 8776,
            key_manager_port: 9311,
            nbd_listen: "127.0.0.1".to_owned(),
            nbd_port: 10809,
            quota_gigabytes: volumes.quota_gigabytes,
            quota_volumes: volumes.quota_volumes,
            quota_snapshots: volumes.quota_snapshots,
            default_volume_type: volumes.default_type,
            max_over_subscription_ratio: volumes.over_subscription,
            public_range: "172.24.4.0/24".to_owned(),
            private_range: "10.10.0.0/22".to_owned(),
            compute_database: String::new(),
            identity_database: String::new(),
            image_database: String::new(),
            network_database: String::new(),
            volume_database: String::new(),
            key_manager_database: String::new(),
            database_connections: 2,
            report_interval: 5,
            service_down_time: 60,
            reclaim_instance_interval: api.reclaim_seconds,
            shelved_offload_time: 0,
            shutdown_timeout: patience.shutdown.seconds(),
            wait_soft_reboot: patience.reboot.seconds(),
            resize_confirm_window: 0,
            sync_power_state_interval: 60,
            running_deleted_action: OfDeleted::Reap,
            running_deleted_timeout: 0,
            resume_guests: false,
            virt_type: Acceleration::Probe,
            image_cache_interval: 2400,
            unused_image_age: 86_400,
            reconcile_interval: 600,
            resize_on_same_host: OnSameHost::Auto,
            rescue_image: String::new(),
            verify_signatures: false,
            validate_certificates: false,
            trusted_certificates: String::new(),
            swtpm_enabled: false,
            cpu: CpuChoice::default(),
            detach_attempts: detaching.attempts,
            detach_timeout: detaching.timeout.as_secs(),
            live: LiveMigration::default(),
            scheduling: scheduler::Settings::default(),
            cpu_allocation_ratio: ratios.cpu,
            ram_allocation_ratio: ratios.ram,
            disk_allocation_ratio: ratios.disk,
            reserved_host_memory_mb: ratios.reserved_memory_mb,
            reserved_host_disk_mb: ratios.reserved_disk_gb * 1024,
            internal_availability_zone: api.internal_zone,
            default_floating_pool: "public".to_owned(),
            policy_file: "/etc/kilonova/policy.yaml".to_owned(),
            policy_folder: "/etc/kilonova/policy.d".to_owned(),
            rate_limit_requests: 0,
            rate_limit_seconds: 60,
            metrics_listen: String::new(),
            agent_metrics_listen: String::new(),
            max_limit: api.max_limit,
            compute_link_prefix: String::new(),
            glance_link_prefix: String::new(),
            max_request_body_size: api.max_body_bytes,
            transport_url: String::new(),
            host: String::new(),
            my_ip: "127.0.0.1".to_owned(),
            public_address: String::new(),
            site_auth_url: String::new(),
            site_username: "nova".to_owned(),
            site_password: String::new(),
            site_user_domain: "Default".to_owned(),
            site_project: "service".to_owned(),
            site_project_domain: "Default".to_owned(),
            image_endpoint: String::new(),
            network_endpoint: String::new(),
            volume_endpoint: String::new(),
            key_manager_endpoint: String::new(),
            metadata_secret: String::new(),
            metadata_endpoint: String::new(),
            conductor_listen: String::new(),
            network_listen: String::new(),
            tunnel_address: String::new(),
            agent_certificates: String::new(),
            tls_certificate: String::new(),
            tls_key: String::new(),
            tls_authority: String::new(),
            conductors: String::new(),
            peer_port: 8792,
            networks: String::new(),
            event_retention: 4 * 3600,
            notification: Notification::default(),
        }
    }
}

/// The settings for a cloud, with the file they came from, and what should be said about it.
pub(crate) struct Read {
    pub(crate) settings: Settings,
    pub(crate) file: Option<PathBuf>,
    /// Names in the file that mean nothing, each with file and line.
    pub(crate) warnings: Vec<String>,
}

/// The file that is named, or else the home's, or else the system's, with its entries.
fn file(named: Option<&Path>, home: &Path) -> Result<Option<(PathBuf, Vec<Entry>)>> {
    let Some(file) = which(named, home) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read the configuration file {}", file.display()))?;
    let entries =
        config_file::parse(&text).map_err(|error| anyhow!("{}:{error}", file.display()))?;
    Ok(Some((file, entries)))
}

/// The settings of a command: the file's, over them the environment's, and over all what it was given with `--set`. Values
/// can refer to what any of these say.
fn read_of(of: &Configured) -> Result<Read> {
    let variable = |name: &str| std::env::var(name).ok();
    read(of.config_file.as_deref(), &of.at.home, variable, &of.set)
}

fn read(
    named: Option<&Path>,
    home: &Path,
    variable: impl Fn(&str) -> Option<String>,
    given: &[String],
) -> Result<Read> {
    let file = file(named, home)?;
    let (mut settings, mut said) = (Settings::default(), Said::default());
    for entry in file.iter().flat_map(|(_, entries)| entries) {
        said.note(&entry.section, &entry.name, &entry.value);
    }
    let environment = environment(variable);
    for (key, _, value) in &environment {
        said.note(key.section, key.name, value);
    }
    let given = given.iter().map(|given| by_hand(given));
    let given: Result<Vec<_>, String> = given.collect();
    let given = given.map_err(|reason| anyhow!("--set {reason}"))?;
    for (key, value) in &given {
        said.note(key.section, key.name, value);
    }
    let mut warnings = Vec::new();
    if let Some((file, entries)) = &file {
        let (unknown, mut wrong) = apply(&mut settings, file, entries, &said);
        if !wrong.is_empty() {
            // Told at once: whoever mends the one would only then hear of the others.
            wrong.extend(unknown);
            bail!("{}", wrong.join("\n          "));
        }
        warnings = unknown;
    }
    for (key, name, value) in &environment {
        take(&mut settings, key, value, &said).map_err(|reason| anyhow!("{name}: {reason}"))?;
    }
    for (key, value) in &given {
        let name = format!("{}.{}", key.section, key.name);
        take(&mut settings, key, value, &said)
            .map_err(|reason| anyhow!("--set {name}: {reason}"))?;
    }
    settings.cpu.check().map_err(|reason| anyhow!("{reason}"))?;
    Ok(Read {
        settings,
        file: file.map(|(file, _)| file),
        warnings,
    })
}

/// Takes a value over with what it refers to.
fn take(settings: &mut Settings, key: &Key, value: &str, said: &Said) -> Result<(), String> {
    (key.set)(settings, &said.resolve(key.section, value)?)
}

/// As [`read_of`]; what is strange is said in the log.
pub(crate) fn read_warned(of: &Configured) -> Result<Settings> {
    let read = read_of(of)?;
    for warning in &read.warnings {
        tracing::warn!("{warning}");
    }
    Ok(read.settings)
}

/// What the environment says, in variables that are named as oslo.config names them: `OS_SECTION__NAME`.
fn environment(variable: impl Fn(&str) -> Option<String>) -> Vec<(&'static Key, String, String)> {
    let said = |key: &'static Key| {
        let name = format!("OS_{}__{}", key.section, key.name).to_uppercase();
        let value = variable(&name)?;
        Some((key, name, value))
    };
    KEYS.iter().filter_map(said).collect()
}

/// What is given as `section.name=value`.
fn by_hand(given: &str) -> Result<(&'static Key, &str), String> {
    let Some((name, value)) = given.split_once('=') else {
        return Err(format!("{given:?}: it is not section.name=value"));
    };
    let known = KEYS
        .iter()
        .find(|known| name == format!("{}.{}", known.section, known.name));
    match known {
        Some(known) => Ok((known, value)),
        None => Err(format!(
            "{name} is not known; `kilonova config show` lists what there is"
        )),
    }
}

/// Says whether the configuration is right.
pub(crate) fn check(of: &Configured) -> Result<()> {
    let read = read_of(of)?;
    let Some(file) = read.file else {
        println!("there is no configuration file; what the environment and options say is right");
        return Ok(());
    };
    if !read.warnings.is_empty() {
        bail!("{}", read.warnings.join("\n          "));
    }
    println!("{} is right", file.display());
    Ok(())
}

/// Prints every setting.
pub(crate) fn show(of: &Configured) -> Result<()> {
    let read = read_of(of)?;
    print!("{}", read.settings.to_file());
    Ok(())
}

fn which(named: Option<&Path>, home: &Path) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    [home.join("kilonova.conf"), SYSTEM_FILE.into()]
        .into_iter()
        .find(|file| file.exists())
}

/// Takes entries over; gives warnings and errors, each with its place.
fn apply(
    settings: &mut Settings,
    file: &Path,
    entries: &[Entry],
    said: &Said,
) -> (Vec<String>, Vec<String>) {
    let (mut warnings, mut wrong) = (Vec::new(), Vec::new());
    for entry in entries {
        let Entry {
            section,
            name,
            value,
            line,
        } = entry;
        let at = place(file, *line);
        let found = KEYS
            .iter()
            .find(|key| key.section == section && key.name == name);
        let Some(key) = found else {
            warnings.push(format!(
                "{at}: [{section}] {name} is not known and has no effect{}",
                hint(section, name)
            ));
            continue;
        };
        if let Err(reason) = take(settings, key, value, said) {
            wrong.push(format!("{at}: [{section}] {name}: {reason}"));
        }
    }
    (warnings, wrong)
}

/// Where a name of this kind would be right, when there is one.
fn hint(section: &str, name: &str) -> String {
    let same_name = KEYS.iter().find(|key| key.name == name);
    let alike = KEYS
        .iter()
        .filter(|key| key.section == section)
        .find(|key| key.name.contains(name) || name.contains(key.name));
    match same_name.or(alike) {
        Some(key) => format!("; did you mean [{}] {}?", key.section, key.name),
        None => "; `kilonova config show` lists what there is".to_owned(),
    }
}

impl Settings {
    /// What the command line says, over what is there.
    pub(crate) fn override_by(&mut self, up: &Up) -> Result<()> {
        fn take<T: Clone>(target: &mut T, given: Option<&T>) {
            if let Some(given) = given {
                given.clone_into(target);
            }
        }
        take(&mut self.hypervisor, up.hypervisor.as_ref());
        take(&mut self.simulated_hosts, up.hosts.as_ref());
        take(&mut self.user, up.user.as_ref());
        take(
            &mut self.listen,
            up.listen.map(|ip| ip.to_string()).as_ref(),
        );
        take(&mut self.identity_port, up.identity_port.as_ref());
        take(&mut self.compute_port, up.compute_port.as_ref());
        take(&mut self.metadata_port, up.metadata_port.as_ref());
        take(&mut self.placement_port, up.placement_port.as_ref());
        take(&mut self.image_port, up.image_port.as_ref());
        take(&mut self.network_port, up.network_port.as_ref());
        take(&mut self.volume_port, up.volume_port.as_ref());
        take(&mut self.key_manager_port, up.key_manager_port.as_ref());
        take(&mut self.nbd_port, up.nbd_port.as_ref());
        for (target, given, option) in [
            (&mut self.public_range, &up.public_range, "--public-range"),
            (
                &mut self.private_range,
                &up.private_range,
                "--private-range",
            ),
        ] {
            if let Some(given) = given {
                *target = range(given).map_err(|reason| anyhow!("{option}: {reason}"))?;
            }
        }
        Ok(())
    }

    /// The URL of an API of this cloud; an address in version 6 stands in brackets.
    pub(crate) fn url(&self, port: u16, path: &str) -> String {
        let scheme = match self.tls_identity() {
            Some(_) => "https",
            None => "http",
        };
        self.url_with(scheme, port, path)
    }

    /// The certificate of the APIs, if they have one.
    pub(crate) fn tls_identity(&self) -> Option<Identity> {
        (!self.tls_certificate.is_empty()).then(|| Identity {
            certificates: PathBuf::from(&self.tls_certificate),
            key: PathBuf::from(&self.tls_key),
        })
    }

    /// The authority of the other services' certificates, unless it is one of the system's.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        (!self.tls_authority.is_empty()).then(|| PathBuf::from(&self.tls_authority))
    }

    /// The folder with the certificates of agents.
    pub(crate) fn certificates(&self, home: &Path) -> PathBuf {
        match &self.agent_certificates[..] {
            "" => home.join("certificates"),
            set => PathBuf::from(set),
        }
    }

    fn url_with(&self, scheme: &str, port: u16, path: &str) -> String {
        let at = match &self.public_address[..] {
            "" => &self.listen,
            set => set,
        };
        match at.contains(':') {
            true => format!("{scheme}://[{at}]:{port}{path}"),
            false => format!("{scheme}://{at}:{port}{path}"),
        }
    }

    /// This machine's name in the cloud.
    pub(crate) fn host_name(&self) -> HostName {
        match &self.host[..] {
            "" => {
                let system = rustix::system::uname();
                HostName(system.nodename().to_string_lossy().into_owned())
            }
            set => HostName(set.to_owned()),
        }
    }

    /// The names of the hosts that are simulated by one process.
    pub(crate) fn simulated_names(&self) -> Vec<String> {
        let numbers = 1..=self.simulated_hosts;
        match (&self.host[..], self.simulated_hosts) {
            ("", _) => numbers.map(|n| format!("sim-host-{n}")).collect(),
            (host, 1) => vec![host.to_owned()],
            (host, _) => numbers.map(|n| format!("{host}-{n}")).collect(),
        }
    }

    /// Where a conductor meets agents.
    pub(crate) fn conductor_desk(&self, socket: &Path) -> Result<Place> {
        one_place("[conductor] agent_listen", &self.conductor_listen, socket)
    }

    /// Where the network service meets agents.
    pub(crate) fn network_desk(&self, socket: &Path) -> Result<Place> {
        let socket = socket.with_file_name(NETWORK_SOCKET);
        one_place("[network] agent_listen", &self.network_listen, &socket)
    }

    /// Where compute agents find conductors.
    pub(crate) fn conductor_places(&self, socket: &Path) -> Result<Vec<Place>> {
        some_places(&self.conductors, socket)
    }

    /// Where network agents find network services.
    pub(crate) fn network_places(&self, socket: &Path) -> Result<Vec<Place>> {
        some_places(&self.networks, &socket.with_file_name(NETWORK_SOCKET))
    }

    /// Where the network service is.
    pub(crate) fn network_url(&self) -> String {
        or_else(&self.network_endpoint, || self.url(self.network_port, ""))
    }

    /// Where the volume service is.
    pub(crate) fn volume_url(&self) -> String {
        or_else(&self.volume_endpoint, || self.url(self.volume_port, ""))
    }

    /// When images must be signed, and by whom.
    pub(crate) fn signatures(&self) -> api::Signatures {
        let ids = self.trusted_certificates.split(',').map(str::trim);
        api::Signatures {
            verify: self.verify_signatures,
            validate: self.validate_certificates,
            trusted: ids.filter(|id| !id.is_empty()).map(str::to_owned).collect(),
        }
    }

    /// Where the key manager is.
    pub(crate) fn key_manager_url(&self) -> String {
        or_else(&self.key_manager_endpoint, || {
            self.url(self.key_manager_port, "")
        })
    }

    /// Where the metadata service is.
    pub(crate) fn metadata_url(&self) -> String {
        or_else(&self.metadata_endpoint, || {
            self.url_with("http", self.metadata_port, "")
        })
    }

    /// Where users log in.
    pub(crate) fn auth_url(&self) -> String {
        match self.site_identity() {
            Some((url, _)) => format!("{url}/v3"),
            None => self.url(self.identity_port, "/v3"),
        }
    }

    /// The root of a site's own identity service, and as whom compute acts there.
    pub(crate) fn site_identity(&self) -> Option<(String, Login)> {
        let url = self.site_auth_url.trim_end_matches('/');
        if url.is_empty() {
            return None;
        }
        let login = Login {
            username: self.site_username.clone(),
            password: self.site_password.clone(),
            user_domain_name: self.site_user_domain.clone(),
            project_name: self.site_project.clone(),
            project_domain_name: self.site_project_domain.clone(),
        };
        Some((url.trim_end_matches("/v3").to_owned(), login))
    }

    /// Where the image service is.
    pub(crate) fn image_url(&self) -> String {
        or_else(&self.image_endpoint, || self.url(self.image_port, ""))
    }

    /// Where the operator's own rules are.
    pub(crate) fn policy_files(&self) -> api::PolicyFiles {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        api::PolicyFiles {
            file: path(&self.policy_file),
            folder: path(&self.policy_folder),
        }
    }

    /// How many requests one client may make.
    pub(crate) fn rate_limit(&self) -> Option<api::RateLimit> {
        (self.rate_limit_requests > 0).then_some(api::RateLimit {
            requests: self.rate_limit_requests,
            seconds: self.rate_limit_seconds,
        })
    }

    /// Ratios and reserves of new hosts.
    pub(crate) fn ratios(&self) -> db::hosts::Ratios {
        db::hosts::Ratios {
            cpu: self.cpu_allocation_ratio,
            ram: self.ram_allocation_ratio,
            disk: self.disk_allocation_ratio,
            reserved_memory_mb: self.reserved_host_memory_mb,
            reserved_disk_gb: self.reserved_host_disk_mb.div_ceil(1024),
        }
    }

    /// The bells of a process that is one of several.
    pub(crate) fn bus(&self, stop: &CancellationToken) -> Result<Bus> {
        match &self.transport_url[..] {
            "" => Ok(Bus::new()),
            url => Ok(Bus::over(Brokers::parse(url)?, stop.clone())),
        }
    }

    /// How often the database is looked into for what no bell told, when several processes share it.
    pub(crate) fn look(&self) -> Duration {
        match self.transport_url.is_empty() {
            true => Duration::from_millis(500),
            false => Duration::from_secs(2),
        }
    }

    /// Without the URLs of databases and broker and their passwords, for a part that has no business with them.
    pub(crate) fn forget_databases(&mut self) {
        for url in [
            &mut self.compute_database,
            &mut self.identity_database,
            &mut self.image_database,
            &mut self.network_database,
            &mut self.volume_database,
            &mut self.key_manager_database,
        ] {
            url.clear();
        }
        self.transport_url.clear();
        self.notification.transport_url.clear();
        self.site_password.clear();
    }

    /// How often services say that they live.
    pub(crate) fn beat(&self) -> Duration {
        Duration::from_secs(self.report_interval)
    }

    /// How long a guest gets to let go of a device.
    pub(crate) fn detaching(&self) -> Detaching {
        Detaching {
            attempts: self.detach_attempts,
            timeout: Duration::from_secs(self.detach_timeout),
        }
    }

    /// How long what waits for its time has to wait.
    pub(crate) fn terms(&self) -> Terms {
        let after = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        Terms {
            reclaim: after(self.reclaim_instance_interval),
            confirm: after(self.resize_confirm_window),
            // One that is to leave at once does so when it is shelved.
            offload: u64::try_from(self.shelved_offload_time)
                .ok()
                .and_then(after),
        }
    }

    /// How often all guests of a host are named.
    pub(crate) fn guests_named(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.sync_power_state_interval).ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// How often base images are looked at, and for how long one that no guest needs is kept.
    pub(crate) fn unused_images(&self) -> Option<(Duration, Duration)> {
        let pause = u64::try_from(self.image_cache_interval).ok()?;
        let age = Duration::from_secs(self.unused_image_age);
        Some((Duration::from_secs(pause.max(1)), age))
    }

    /// What becomes of guests that are not their host's.
    pub(crate) fn rules_of_guests(&self) -> Rules {
        Rules {
            of_deleted: self.running_deleted_action,
            deleted_for: Duration::from_secs(self.running_deleted_timeout),
            resume: self.resume_guests,
        }
    }

    /// How tasks are run.
    pub(crate) fn journal(&self) -> journal::Settings {
        journal::Settings {
            // A host that shows as down may still be back in a moment.
            host_lost_after: self.down_after() * 3 / 2,
            ..journal::Settings::default()
        }
    }

    /// After how long a silence a service is down.
    pub(crate) fn down_after(&self) -> Duration {
        Duration::from_secs(self.service_down_time)
    }

    /// The settings as a configuration file, with a comment for each; passwords in URLs are left out.
    pub(crate) fn to_file(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            if key.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{gap}[{}]", key.section);
                section = key.section;
            }
            let shown = escaped(&(key.show)(self));
            let _ = writeln!(text, "# {}\n{} = {shown}", key.help, key.name);
        }
        text
    }
}

fn some_places(value: &str, usual: &Path) -> Result<Vec<Place>> {
    let named = value.split(',').map(str::trim).filter(|p| !p.is_empty());
    let parsed: Result<Vec<Place>, String> = named.map(Place::parse).collect();
    match parsed.map_err(|reason| anyhow!("{reason}"))? {
        none if none.is_empty() => Ok(vec![Place::Unix(usual.to_owned())]),
        some => Ok(some),
    }
}

fn one_place(name: &str, value: &str, usual: &Path) -> Result<Place> {
    let mut places = some_places(value, usual)?;
    match (places.pop(), places.is_empty()) {
        (Some(place), true) => Ok(place),
        _ => bail!("{name}: one place is wanted"),
    }
}

fn or_else(set: &str, usual: impl FnOnce() -> String) -> String {
    match set {
        "" => usual(),
        set => set.to_owned(),
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
