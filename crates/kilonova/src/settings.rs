//! What an operator can choose: defaults, then the configuration file, then the command line.

use crate::arguments::{Configured, Hypervisor, Up};
use crate::config_file::{self, Entry, place};
use crate::notification_settings::{self as notifications, Notification};
use crate::place::Place;
use anyhow::{Context, Result, anyhow, bail};
use bus::{Brokers, Bus};
use clients::Login;
use conductor::guests::{OfDeleted, Rules};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use types::HostName;
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
    pub(crate) volume_port: u16,
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
    /// Seconds after which a resize is confirmed that nobody has confirmed; 0 never.
    pub(crate) resize_confirm_window: u64,
    /// Seconds between two lists of all guests of a host; -1 never, but at the start.
    pub(crate) sync_power_state_interval: i64,
    /// What becomes of guests of deleted servers.
    pub(crate) running_deleted_action: OfDeleted,
    /// Seconds for which the server must have been deleted.
    pub(crate) running_deleted_timeout: u64,
    /// Seconds between two looks at base images; -1 never.
    pub(crate) image_cache_interval: i64,
    /// Seconds for which a base image that no guest needs is kept.
    pub(crate) unused_image_age: u64,
    /// Seconds between two looks for what should not be there; 0 never.
    pub(crate) reconcile_interval: u64,
    /// Whether a resize may end on the host where it begins.
    pub(crate) resize_on_same_host: OnSameHost,
    pub(crate) rescue_image: String,
    pub(crate) cpu_allocation_ratio: f64,
    pub(crate) ram_allocation_ratio: f64,
    pub(crate) disk_allocation_ratio: f64,
    pub(crate) reserved_host_memory_mb: u64,
    pub(crate) reserved_host_disk_mb: u64,
    pub(crate) default_availability_zone: String,
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
        let volumes = volume::Config::new("");
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
            volume_port: 8776,
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
            database_connections: 2,
            report_interval: 5,
            service_down_time: 60,
            reclaim_instance_interval: api.reclaim_seconds,
            shelved_offload_time: 0,
            resize_confirm_window: 0,
            sync_power_state_interval: 60,
            running_deleted_action: OfDeleted::Reap,
            running_deleted_timeout: 0,
            image_cache_interval: 2400,
            unused_image_age: 86_400,
            reconcile_interval: 600,
            resize_on_same_host: OnSameHost::Auto,
            rescue_image: String::new(),
            cpu_allocation_ratio: ratios.cpu,
            ram_allocation_ratio: ratios.ram,
            disk_allocation_ratio: ratios.disk,
            reserved_host_memory_mb: ratios.reserved_memory_mb,
            reserved_host_disk_mb: ratios.reserved_disk_gb * 1024,
            default_availability_zone: api.default_zone,
            internal_availability_zone: api.internal_zone,
            default_floating_pool: "public".to_owned(),
            policy_file: "/etc/kilonova/policy.yaml".to_owned(),
            policy_folder: "/etc/kilonova/policy.d".to_owned(),
            rate_limit_requests: 0,
            rate_limit_seconds: 60,
            metrics_listen: String::new(),
            agent_metrics_listen: String::new(),
            max_limit: api.max_limit,
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

/// One name in the file. Sections and names are those of nova.conf where the meaning is the same.
struct Key {
    section: &'static str,
    name: &'static str,
    help: &'static str,
    set: fn(&mut Settings, &str) -> Result<(), String>,
    show: fn(&Settings) -> String,
}

#[rustfmt::skip]
const KEYS: &[Key] = &[
    Key { section: "DEFAULT", name: "compute_driver", help: "what runs guests: libvirt.LibvirtDriver (real ones) or fake.FakeDriver (simulated ones)", set: |s, v| set(&mut s.hypervisor, driver(v)), show: |s| shown_driver(s.hypervisor).to_owned() },
    Key { section: "DEFAULT", name: "host", help: "this machine's name in the cloud; empty: the system's", set: |s, v| set(&mut s.host, Ok(v.to_owned())), show: |s| s.host.clone() },
    Key { section: "DEFAULT", name: "transport_url", help: "the broker by which processes tell each other that there is work: rabbit://USER:PASSWORD@HOST:5672/VHOST; empty: none, they look into the database", set: |s, v| set(&mut s.transport_url, transport(v)), show: |s| without_passwords(&s.transport_url) },
    Key { section: "DEFAULT", name: "control_exchange", help: "the exchange of notifications", set: |s, v| set(&mut s.notification.exchange, text(v)), show: |s| s.notification.exchange.clone() },
    Key { section: "DEFAULT", name: "my_ip", help: "this machine's address for other hosts", set: |s, v| set(&mut s.my_ip, address(v)), show: |s| s.my_ip.clone() },
    Key { section: "DEFAULT", name: "osapi_compute_listen_port", help: "port of the Compute API", set: |s, v| set(&mut s.compute_port, port(v)), show: |s| s.compute_port.to_string() },
    Key { section: "DEFAULT", name: "metadata_listen_port", help: "port of the metadata service", set: |s, v| set(&mut s.metadata_port, port(v)), show: |s| s.metadata_port.to_string() },
    Key { section: "DEFAULT", name: "report_interval", help: "seconds between two signs of life of a service", set: |s, v| set(&mut s.report_interval, number(v, 1, 3600)), show: |s| s.report_interval.to_string() },
    Key { section: "DEFAULT", name: "service_down_time", help: "seconds of silence after which a service is down", set: |s, v| set(&mut s.service_down_time, number(v, 2, 86_400)), show: |s| s.service_down_time.to_string() },
    Key { section: "DEFAULT", name: "reclaim_instance_interval", help: "seconds for which a deleted server can be restored; 0 deletes at once", set: |s, v| set(&mut s.reclaim_instance_interval, number(v, 0, 31_536_000)), show: |s| s.reclaim_instance_interval.to_string() },
    Key { section: "DEFAULT", name: "shelved_offload_time", help: "seconds after which a shelved server leaves its host; 0 is at once, -1 never", set: |s, v| set(&mut s.shelved_offload_time, number(v, -1, 31_536_000)), show: |s| s.shelved_offload_time.to_string() },
    Key { section: "DEFAULT", name: "resize_confirm_window", help: "seconds after which a resize or cold migration is confirmed by itself; 0 never", set: |s, v| set(&mut s.resize_confirm_window, number(v, 0, 31_536_000)), show: |s| s.resize_confirm_window.to_string() },
    Key { section: "DEFAULT", name: "sync_power_state_interval", help: "seconds between two lists of all guests of a host, against which servers are held; -1 never, but when an agent starts", set: |s, v| set(&mut s.sync_power_state_interval, number(v, -1, 86_400)), show: |s| s.sync_power_state_interval.to_string() },
    Key { section: "DEFAULT", name: "running_deleted_instance_action", help: "what becomes of guests of deleted servers: reap (the host removes them), log or noop", set: |s, v| set(&mut s.running_deleted_action, OfDeleted::read(v)), show: |s| s.running_deleted_action.as_str().to_owned() },
    Key { section: "DEFAULT", name: "running_deleted_instance_timeout", help: "seconds for which the server must have been deleted before that", set: |s, v| set(&mut s.running_deleted_timeout, number(v, 0, 31_536_000)), show: |s| s.running_deleted_timeout.to_string() },
    Key { section: "DEFAULT", name: "allow_resize_to_same_host", help: "whether a resize may end on the host where it begins: true, false, or auto (when no other host will do)", set: |s, v| set(&mut s.resize_on_same_host, on_same_host(v)), show: |s| shown_on_same_host(s.resize_on_same_host).to_owned() },
    Key { section: "libvirt", name: "rescue_image_id", help: "the image that servers are rescued with where the request names none; empty: the server's own, whose disk looks to the guest like the one to be mended", set: |s, v| set(&mut s.rescue_image, image_or_none(v)), show: |s| s.rescue_image.clone() },
    Key { section: "DEFAULT", name: "initial_cpu_allocation_ratio", help: "virtual CPUs for each CPU of a new host", set: |s, v| set(&mut s.cpu_allocation_ratio, ratio(v)), show: |s| s.cpu_allocation_ratio.to_string() },
    Key { section: "DEFAULT", name: "initial_ram_allocation_ratio", help: "memory given out for each MiB of a new host", set: |s, v| set(&mut s.ram_allocation_ratio, ratio(v)), show: |s| s.ram_allocation_ratio.to_string() },
    Key { section: "DEFAULT", name: "initial_disk_allocation_ratio", help: "disk given out for each GiB of a new host", set: |s, v| set(&mut s.disk_allocation_ratio, ratio(v)), show: |s| s.disk_allocation_ratio.to_string() },
    Key { section: "DEFAULT", name: "reserved_host_memory_mb", help: "MiB of memory that a host keeps for itself", set: |s, v| set(&mut s.reserved_host_memory_mb, number(v, 0, u64::MAX)), show: |s| s.reserved_host_memory_mb.to_string() },
    Key { section: "DEFAULT", name: "reserved_host_disk_mb", help: "MiB of disk that a host keeps for itself", set: |s, v| set(&mut s.reserved_host_disk_mb, number(v, 0, u64::MAX)), show: |s| s.reserved_host_disk_mb.to_string() },
    Key { section: "DEFAULT", name: "default_availability_zone", help: "the zone of hosts that no aggregate puts into another", set: |s, v| set(&mut s.default_availability_zone, text(v)), show: |s| s.default_availability_zone.clone() },
    Key { section: "DEFAULT", name: "internal_service_availability_zone", help: "the zone of services that are not hosts", set: |s, v| set(&mut s.internal_availability_zone, text(v)), show: |s| s.internal_availability_zone.clone() },
    Key { section: "api", name: "max_limit", help: "items of a page at most", set: |s, v| set(&mut s.max_limit, number(v, 1, 100_000)), show: |s| s.max_limit.to_string() },
    Key { section: "neutron", name: "default_floating_pool", help: "external network of floating addresses that requests below 2.36 ask for without naming one", set: |s, v| set(&mut s.default_floating_pool, text(v)), show: |s| s.default_floating_pool.clone() },
    Key { section: "cinder", name: "endpoint_override", help: "where compute finds the volume service, as http://controller:8776; empty: this machine", set: |s, v| set(&mut s.volume_endpoint, endpoint(v)), show: |s| s.volume_endpoint.clone() },
    Key { section: "keystone_authtoken", name: "auth_url", help: "a site's own identity service for processes of their own, as http://keystone:5000; empty: the embedded one, by its database", set: |s, v| set(&mut s.site_auth_url, endpoint(v)), show: |s| s.site_auth_url.clone() },
    Key { section: "keystone_authtoken", name: "username", help: "as whom compute acts", set: |s, v| set(&mut s.site_username, text(v)), show: |s| s.site_username.clone() },
    Key { section: "keystone_authtoken", name: "password", help: "the password of that user; `kilonova db sync` gives it to the embedded one", set: |s, v| set(&mut s.site_password, Ok(v.to_owned())), show: |s| hidden(&s.site_password) },
    Key { section: "keystone_authtoken", name: "user_domain_name", help: "the domain of that user", set: |s, v| set(&mut s.site_user_domain, text(v)), show: |s| s.site_user_domain.clone() },
    Key { section: "keystone_authtoken", name: "project_name", help: "in which project compute acts", set: |s, v| set(&mut s.site_project, text(v)), show: |s| s.site_project.clone() },
    Key { section: "keystone_authtoken", name: "project_domain_name", help: "the domain of that project", set: |s, v| set(&mut s.site_project_domain, text(v)), show: |s| s.site_project_domain.clone() },
    Key { section: "neutron", name: "endpoint_override", help: "where compute finds the network service, as http://controller:9696; empty: this machine", set: |s, v| set(&mut s.network_endpoint, endpoint(v)), show: |s| s.network_endpoint.clone() },
    Key { section: "neutron", name: "metadata_proxy_shared_secret", help: "signs what metadata proxies on hosts say; the same for metadata and network-agent; empty: the secret that `kilonova db sync` made in the home", set: |s, v| set(&mut s.metadata_secret, Ok(v.to_owned())), show: |s| hidden(&s.metadata_secret) },
    Key { section: "glance", name: "endpoint_override", help: "where compute finds the image service, as http://controller:9292; empty: this machine", set: |s, v| set(&mut s.image_endpoint, endpoint(v)), show: |s| s.image_endpoint.clone() },
    Key { section: "conductor", name: "agent_listen", help: "where a conductor meets compute agents: unix:/path, or https://ADDRESS:PORT for other machines; empty: a socket in the home", set: |s, v| set(&mut s.conductor_listen, places(v)), show: |s| s.conductor_listen.clone() },
    Key { section: "agent", name: "conductors", help: "where compute agents find conductors, separated by commas, the next one when one does not answer; empty: a socket in the home", set: |s, v| set(&mut s.conductors, places(v)), show: |s| s.conductors.clone() },
    Key { section: "agent", name: "peer_port", help: "port, at my_ip, where the compute agents of other hosts come for guests that move; the same on all hosts", set: |s, v| set(&mut s.peer_port, port(v)), show: |s| s.peer_port.to_string() },
    Key { section: "agent", name: "networks", help: "where network agents find network services, as above", set: |s, v| set(&mut s.networks, places(v)), show: |s| s.networks.clone() },
    Key { section: "agent", name: "certificates", help: "the folder with ca.pem and with host.pem and host.key (agents) or server.pem and server.key (those whom they ask), for https://; empty: `certificates` in the home", set: |s, v| set(&mut s.agent_certificates, Ok(v.to_owned())), show: |s| s.agent_certificates.clone() },
    Key { section: "agent", name: "metadata_url", help: "where metadata proxies on hosts find the metadata service, as http://controller:8775; empty: this machine", set: |s, v| set(&mut s.metadata_endpoint, endpoint(v)), show: |s| s.metadata_endpoint.clone() },
    Key { section: "ssl", name: "cert_file", help: "the certificate of all APIs, with those between it and its authority; empty: APIs without TLS", set: |s, v| set(&mut s.tls_certificate, Ok(v.to_owned())), show: |s| s.tls_certificate.clone() },
    Key { section: "ssl", name: "key_file", help: "its private key", set: |s, v| set(&mut s.tls_key, Ok(v.to_owned())), show: |s| s.tls_key.clone() },
    Key { section: "ssl", name: "ca_file", help: "the authority of the other services' certificates; empty: the system's", set: |s, v| set(&mut s.tls_authority, Ok(v.to_owned())), show: |s| s.tls_authority.clone() },
    Key { section: "vxlan", name: "local_ip", help: "this host's address for the tunnels between hosts; empty: networks do not leave the host", set: |s, v| set(&mut s.tunnel_address, own_address(v)), show: |s| s.tunnel_address.clone() },
    Key { section: "oslo_policy", name: "policy_file", help: "rules of compute instead of Nova's defaults, read again when they change; it need not exist", set: |s, v| set(&mut s.policy_file, Ok(v.to_owned())), show: |s| s.policy_file.clone() },
    Key { section: "oslo_policy", name: "policy_dirs", help: "a folder with more such files, which count in the order of their names", set: |s, v| set(&mut s.policy_folder, Ok(v.to_owned())), show: |s| s.policy_folder.clone() },
    Key { section: "oslo_middleware", name: "max_request_body_size", help: "bytes of a request's body at most", set: |s, v| set(&mut s.max_request_body_size, number(v, 1024, 1 << 30)), show: |s| s.max_request_body_size.to_string() },
    Key { section: "database", name: "connection", help: "compute's database: sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME or mysql://...; empty: SQLite in the home", set: |s, v| set(&mut s.compute_database, database(v)), show: |s| without_password(&s.compute_database) },
    Key { section: "database", name: "max_pool_size", help: "connections to each database", set: |s, v| set(&mut s.database_connections, number(v, 1, 1000)), show: |s| s.database_connections.to_string() },
    Key { section: "identity", name: "connection", help: "the identity service's database", set: |s, v| set(&mut s.identity_database, database(v)), show: |s| without_password(&s.identity_database) },
    Key { section: "identity", name: "port", help: "port of the Identity API (under /v3)", set: |s, v| set(&mut s.identity_port, port(v)), show: |s| s.identity_port.to_string() },
    Key { section: "image", name: "connection", help: "the image service's database", set: |s, v| set(&mut s.image_database, database(v)), show: |s| without_password(&s.image_database) },
    Key { section: "image", name: "port", help: "port of the Image API", set: |s, v| set(&mut s.image_port, port(v)), show: |s| s.image_port.to_string() },
    Key { section: "network", name: "connection", help: "the network service's database", set: |s, v| set(&mut s.network_database, database(v)), show: |s| without_password(&s.network_database) },
    Key { section: "network", name: "port", help: "port of the Networking API", set: |s, v| set(&mut s.network_port, port(v)), show: |s| s.network_port.to_string() },
    Key { section: "network", name: "agent_listen", help: "where the network service meets network agents: unix:/path, or https://ADDRESS:PORT for other machines; empty: a socket in the home", set: |s, v| set(&mut s.network_listen, places(v)), show: |s| s.network_listen.clone() },
    Key { section: "network", name: "public_range", help: "range of the external network `public` of a fresh cloud; the host takes its first address", set: |s, v| set(&mut s.public_range, range(v)), show: |s| s.public_range.clone() },
    Key { section: "network", name: "private_range", help: "range of the shared network `private` of a fresh cloud", set: |s, v| set(&mut s.private_range, range(v)), show: |s| s.private_range.clone() },
    Key { section: "volume", name: "connection", help: "the volume service's database", set: |s, v| set(&mut s.volume_database, database(v)), show: |s| without_password(&s.volume_database) },
    Key { section: "volume", name: "port", help: "port of the Block Storage API (under /v3)", set: |s, v| set(&mut s.volume_port, port(v)), show: |s| s.volume_port.to_string() },
    Key { section: "volume", name: "nbd_listen", help: "the address on which volumes are served to hosts by NBD; whoever reaches it can see which volumes there are, so keep it in the hosts' own network", set: |s, v| set(&mut s.nbd_listen, address(v)), show: |s| s.nbd_listen.clone() },
    Key { section: "volume", name: "nbd_port", help: "the port of NBD", set: |s, v| set(&mut s.nbd_port, port(v)), show: |s| s.nbd_port.to_string() },
    Key { section: "volume", name: "default_volume_type", help: "the type of volumes for which nobody names one", set: |s, v| set(&mut s.default_volume_type, text(v)), show: |s| s.default_volume_type.clone() },
    Key { section: "volume", name: "quota_volumes", help: "volumes of a project; -1: any number", set: |s, v| set(&mut s.quota_volumes, number(v, -1, i64::from(i32::MAX))), show: |s| s.quota_volumes.to_string() },
    Key { section: "volume", name: "quota_snapshots", help: "snapshots of a project; -1: any number", set: |s, v| set(&mut s.quota_snapshots, number(v, -1, i64::from(i32::MAX))), show: |s| s.quota_snapshots.to_string() },
    Key { section: "volume", name: "quota_gigabytes", help: "GiB of the volumes and snapshots of a project; -1: any number", set: |s, v| set(&mut s.quota_gigabytes, number(v, -1, i64::from(i32::MAX))), show: |s| s.quota_gigabytes.to_string() },
    Key { section: "volume", name: "max_over_subscription_ratio", help: "GiB that volumes may promise for each GiB of the disk", set: |s, v| set(&mut s.max_over_subscription_ratio, ratio(v)), show: |s| s.max_over_subscription_ratio.to_string() },
    Key { section: "placement", name: "port", help: "port of the Placement API", set: |s, v| set(&mut s.placement_port, port(v)), show: |s| s.placement_port.to_string() },
    Key { section: "notifications", name: "notification_format", help: "which notifications are published: unversioned, versioned or both", set: |s, v| set(&mut s.notification.format, notifications::format(v)), show: |s| s.notification.format.clone() },
    Key { section: "notifications", name: "notify_on_state_change", help: "which changes of servers' states are published as instance.update: vm_state, vm_and_task_state; empty: none", set: |s, v| set(&mut s.notification.state_changes, notifications::changes(v)), show: |s| s.notification.state_changes.clone() },
    Key { section: "notifications", name: "versioned_notifications_topics", help: "topics of versioned notifications, separated by commas", set: |s, v| set(&mut s.notification.versioned_topics, text(v)), show: |s| s.notification.versioned_topics.clone() },
    Key { section: "oslo_messaging_notifications", name: "driver", help: "how notifications are published: messagingv2, or noop for not at all", set: |s, v| set(&mut s.notification.driver, notifications::driver(v)), show: |s| s.notification.driver.clone() },
    Key { section: "oslo_messaging_notifications", name: "topics", help: "topics of unversioned notifications, separated by commas", set: |s, v| set(&mut s.notification.topics, text(v)), show: |s| s.notification.topics.clone() },
    Key { section: "oslo_messaging_notifications", name: "transport_url", help: "the broker of notifications; empty: that of [DEFAULT] transport_url", set: |s, v| set(&mut s.notification.transport_url, transport(v)), show: |s| without_passwords(&s.notification.transport_url) },
    Key { section: "oslo_messaging_rabbit", name: "amqp_durable_queues", help: "whether the exchange and queues of notifications outlive a restart of the broker: true or false, as its other users have it", set: |s, v| set(&mut s.notification.durable, notifications::yes_or_no(v)), show: |s| s.notification.durable.to_string() },
    Key { section: "kilonova", name: "event_retention", help: "seconds for which what happened to servers is kept for event streams and for notifications while the broker is away", set: |s, v| set(&mut s.event_retention, number(v, 60, 31_536_000)), show: |s| s.event_retention.to_string() },
    Key { section: "image_cache", name: "manager_interval", help: "seconds between two looks at a host's base images; -1: never, all are kept", set: |s, v| set(&mut s.image_cache_interval, number(v, -1, 31_536_000)), show: |s| s.image_cache_interval.to_string() },
    Key { section: "image_cache", name: "remove_unused_original_minimum_age_seconds", help: "seconds for which a base image that no guest needs is kept", set: |s, v| set(&mut s.unused_image_age, number(v, 60, 31_536_000)), show: |s| s.unused_image_age.to_string() },
    Key { section: "kilonova", name: "listen", help: "the address all APIs listen on", set: |s, v| set(&mut s.listen, address(v)), show: |s| s.listen.clone() },
    Key { section: "kilonova", name: "reconcile_interval", help: "seconds between two looks for what should not be there, which is then mended (see `kilonova manage audit`); 0: never", set: |s, v| set(&mut s.reconcile_interval, number(v, 0, 31_536_000)), show: |s| s.reconcile_interval.to_string() },
    Key { section: "kilonova", name: "public_address", help: "the name or address of the APIs in the catalog; empty: the one listened on", set: |s, v| set(&mut s.public_address, Ok(v.to_owned())), show: |s| s.public_address.clone() },
    Key { section: "kilonova", name: "rate_limit_requests", help: "requests to compute that one token and one address may make in rate_limit_seconds; 0: any number", set: |s, v| set(&mut s.rate_limit_requests, number(v, 0, 1_000_000_000)), show: |s| s.rate_limit_requests.to_string() },
    Key { section: "kilonova", name: "rate_limit_seconds", help: "the seconds of rate_limit_requests", set: |s, v| set(&mut s.rate_limit_seconds, number(v, 1, 86_400)), show: |s| s.rate_limit_seconds.to_string() },
    Key { section: "kilonova", name: "metrics_listen", help: "where this process shows /metrics (for Prometheus) and /healthcheck/ready without a token, as 127.0.0.1:9180, another port for each process; empty: nowhere", set: |s, v| set(&mut s.metrics_listen, socket(v)), show: |s| s.metrics_listen.clone() },
    Key { section: "kilonova", name: "agent_metrics_listen", help: "the same of the part of `kilonova up` that has the host's agents", set: |s, v| set(&mut s.agent_metrics_listen, socket(v)), show: |s| s.agent_metrics_listen.clone() },
    Key { section: "kilonova", name: "simulated_hosts", help: "hosts with the simulated driver", set: |s, v| set(&mut s.simulated_hosts, number(v, 1, 10_000)), show: |s| s.simulated_hosts.to_string() },
    Key { section: "kilonova", name: "user", help: "the system user that the control process becomes when the cloud is started as root", set: |s, v| set(&mut s.user, text(v)), show: |s| s.user.clone() },
];

/// The settings for a cloud, with the file they came from, and what should be said about it.
pub(crate) struct Read {
    pub(crate) settings: Settings,
    pub(crate) file: Option<PathBuf>,
    /// Names in the file that mean nothing, each with file and line.
    pub(crate) warnings: Vec<String>,
}

/// Reads the file that is named, or else the home's, or else the system's.
pub(crate) fn read(named: Option<&Path>, home: &Path) -> Result<Read> {
    let mut settings = Settings::default();
    let Some(file) = which(named, home) else {
        return Ok(Read {
            settings,
            file: None,
            warnings: Vec::new(),
        });
    };
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read the configuration file {}", file.display()))?;
    let entries =
        config_file::parse(&text).map_err(|error| anyhow!("{}:{error}", file.display()))?;
    let (warnings, wrong) = apply(&mut settings, &file, &entries);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n          "));
    }
    Ok(Read {
        settings,
        file: Some(file),
        warnings,
    })
}

/// The settings of a command: the file's, and over them what it was given with `--set`.
fn read_of(of: &Configured) -> Result<Read> {
    let mut read = read(of.config_file.as_deref(), &of.at.home)?;
    for given in &of.set {
        override_one(&mut read.settings, given).map_err(|reason| anyhow!("--set {reason}"))?;
    }
    Ok(read)
}

/// As [`read_of`]; what is strange is said in the log.
pub(crate) fn read_warned(of: &Configured) -> Result<Settings> {
    let read = read_of(of)?;
    for warning in &read.warnings {
        tracing::warn!("{warning}");
    }
    Ok(read.settings)
}

/// Takes over `section.name=value`.
fn override_one(settings: &mut Settings, given: &str) -> Result<(), String> {
    let Some((key, value)) = given.split_once('=') else {
        return Err(format!("{given:?}: it is not section.name=value"));
    };
    let known = KEYS
        .iter()
        .find(|known| key == format!("{}.{}", known.section, known.name));
    match known {
        Some(known) => (known.set)(settings, value).map_err(|reason| format!("{key}: {reason}")),
        None => Err(format!(
            "{key} is not known; `kilonova config show` lists what there is"
        )),
    }
}

/// Says whether the configuration is right.
pub(crate) fn check(of: &Configured) -> Result<()> {
    let read = read_of(of)?;
    let Some(file) = read.file else {
        println!("there is no configuration file; the defaults hold");
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
fn apply(settings: &mut Settings, file: &Path, entries: &[Entry]) -> (Vec<String>, Vec<String>) {
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
        if let Err(reason) = (key.set)(settings, value) {
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
        take(&mut self.listen, up.listen.as_ref());
        take(&mut self.identity_port, up.identity_port.as_ref());
        take(&mut self.compute_port, up.compute_port.as_ref());
        take(&mut self.metadata_port, up.metadata_port.as_ref());
        take(&mut self.placement_port, up.placement_port.as_ref());
        take(&mut self.image_port, up.image_port.as_ref());
        take(&mut self.network_port, up.network_port.as_ref());
        take(&mut self.volume_port, up.volume_port.as_ref());
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
            let _ = writeln!(text, "# {}\n{} = {}", key.help, key.name, (key.show)(self));
        }
        text
    }
}

fn set<T>(target: &mut T, value: Result<T, String>) -> Result<(), String> {
    *target = value?;
    Ok(())
}

fn driver(value: &str) -> Result<Hypervisor, String> {
    match value {
        "libvirt.LibvirtDriver" => Ok(Hypervisor::Libvirt),
        "fake.FakeDriver" => Ok(Hypervisor::Sim),
        other => Err(format!(
            "{other:?} is not a driver; there are libvirt.LibvirtDriver and fake.FakeDriver"
        )),
    }
}

fn shown_driver(hypervisor: Hypervisor) -> &'static str {
    match hypervisor {
        Hypervisor::Libvirt => "libvirt.LibvirtDriver",
        Hypervisor::Sim => "fake.FakeDriver",
    }
}

fn on_same_host(value: &str) -> Result<OnSameHost, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(OnSameHost::True),
        "false" => Ok(OnSameHost::False),
        "auto" => Ok(OnSameHost::Auto),
        _ => Err(format!("{value:?} is none of true, false and auto")),
    }
}

fn shown_on_same_host(allowed: OnSameHost) -> &'static str {
    match allowed {
        OnSameHost::True => "true",
        OnSameHost::False => "false",
        OnSameHost::Auto => "auto",
    }
}

fn port(value: &str) -> Result<u16, String> {
    let parsed = value.parse().ok().filter(|port| *port != 0);
    parsed.ok_or_else(|| format!("{value:?} is not a port; a port is a number from 1 to 65535"))
}

fn number<T>(value: &str, least: T, most: T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let parsed = value.parse().ok();
    parsed
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("{value:?} is not a number from {least} to {most}"))
}

fn ratio(value: &str) -> Result<f64, String> {
    let parsed = value.parse().ok();
    parsed
        .filter(|ratio: &f64| ratio.is_finite() && *ratio > 0.0)
        .ok_or_else(|| format!("{value:?} is not a ratio; a ratio is a number above 0, as 1.5"))
}

fn text(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Err("it must not be empty".to_owned());
    }
    Ok(value.to_owned())
}

fn image_or_none(value: &str) -> Result<String, String> {
    if value.is_empty() || value.parse::<types::ImageId>().is_ok() {
        return Ok(value.to_owned());
    }
    Err(format!("{value:?} is not the id of an image"))
}

fn address(value: &str) -> Result<String, String> {
    match value.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(format!(
            "{value:?} is not an IP address, as 127.0.0.1 or 0.0.0.0"
        )),
    }
}

fn own_address(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Ok(String::new());
    }
    address(value)
}

fn socket(value: &str) -> Result<String, String> {
    match value.parse::<std::net::SocketAddr>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) if value.is_empty() => Ok(String::new()),
        Err(_) => Err(format!(
            "{value:?} is not an address with a port, as 127.0.0.1:9180"
        )),
    }
}

/// A URL without a path's end; empty is none.
fn endpoint(value: &str) -> Result<String, String> {
    let url = value.trim_end_matches('/');
    let proper = ["http://", "https://"]
        .iter()
        .any(|scheme| url.strip_prefix(scheme).is_some_and(|at| !at.is_empty()));
    match url.is_empty() || proper {
        true => Ok(url.to_owned()),
        false => Err(format!("{value:?} is not a URL, as http://controller:9292")),
    }
}

fn places(value: &str) -> Result<String, String> {
    for place in value.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        Place::parse(place)?;
    }
    Ok(value.to_owned())
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

fn hidden(secret: &str) -> String {
    match secret {
        "" => String::new(),
        _ => "***".to_owned(),
    }
}

fn range(value: &str) -> Result<String, String> {
    match value.parse::<ipnet::IpNet>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(format!("{value:?} is not a range, as 10.10.0.0/22")),
    }
}

/// SQLAlchemy's way of writing (`mysql+pymysql://`) is understood, because nova.conf has it.
fn database(value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Ok(String::new());
    }
    let Some((scheme, rest)) = value.split_once("://") else {
        return Err("it is not a URL, as postgresql://user:password@host/nova".to_owned());
    };
    let kind = match scheme.split('+').next().unwrap_or_default() {
        "sqlite" => "sqlite",
        "postgres" | "postgresql" => "postgres",
        "mysql" | "mariadb" => "mysql",
        other => {
            return Err(format!(
                "{other} is not a database; there are sqlite, postgresql and mysql"
            ));
        }
    };
    Ok(format!("{kind}://{rest}"))
}

fn transport(value: &str) -> Result<String, String> {
    if !value.is_empty() {
        Brokers::parse(value).map_err(|error| error.to_string())?;
    }
    Ok(value.to_owned())
}

/// As [`without_password`], for each of several brokers.
fn without_passwords(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (hosts, vhost) = match rest.split_once('/') {
        Some((hosts, vhost)) => (hosts, format!("/{vhost}")),
        None => (rest, String::new()),
    };
    let hosts = hosts.split(',').map(|host| {
        let shown = without_password(&format!("x://{host}"));
        shown.trim_start_matches("x://").to_owned()
    });
    format!("{scheme}://{}{vhost}", hosts.collect::<Vec<_>>().join(","))
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((login, place)) => {
            let user = login.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{place}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
