//! The microversions at which something changes, by name. Only the table of routes writes the numbers at which its rows begin
//! and end itself.

use types::Microversion;

const fn mv(minor: u16) -> Microversion {
    Microversion(minor)
}

/// Key pairs have a type; their status codes change.
pub const KEYPAIR_TYPE: Microversion = mv(2);
/// More extended attributes of servers, and `delete_on_termination` of volumes.
pub const MORE_SERVER_ATTRIBUTES: Microversion = mv(3);
/// The `ip6` filter for everyone.
pub const IP6_FILTER: Microversion = mv(5);
/// One route for all consoles.
pub const REMOTE_CONSOLES: Microversion = mv(6);
/// Consoles of the kind MKS.
pub const MKS_CONSOLES: Microversion = mv(8);
/// Consoles by SPICE without a proxy of HTML 5.
pub const SPICE_DIRECT: Microversion = mv(99);
/// Access to a public flavor is refused.
pub const NO_ACCESS_TO_PUBLIC_FLAVOR: Microversion = mv(7);
/// `locked` in servers.
pub const LOCKED: Microversion = mv(9);
/// Key pairs of other users.
pub const KEYPAIR_USER: Microversion = mv(10);
/// `forced_down` in services.
pub const FORCED_DOWN: Microversion = mv(11);
/// Owners of server groups.
pub const GROUP_OWNER: Microversion = mv(13);
/// Soft policies of server groups.
pub const SOFT_GROUPS: Microversion = mv(15);
/// `host_status` in servers.
pub const HOST_STATUS: Microversion = mv(16);
/// `description` in servers.
pub const DESCRIPTION: Microversion = mv(19);
/// Actions of deleted servers.
pub const ACTIONS_OF_DELETED: Microversion = mv(21);
/// `migration_type` and links in migrations; live migrations below their server.
pub const MIGRATION_TYPE: Microversion = mv(23);
/// Tags.
pub const TAGS: Microversion = mv(26);
/// A live migration finds out itself whether disks must be sent.
pub const LIVE_FINDS_STORAGE: Microversion = mv(25);
/// A live migration may be forced to a host.
pub const LIVE_FORCE: Microversion = mv(30);
/// A live migration is looked at after the answer.
pub const LIVE_ASYNC: Microversion = mv(34);
/// Live migrations that have not begun can be called off.
pub const LIVE_ABORT_QUEUED: Microversion = mv(65);
/// Nobody says any more whether an evacuated server's disks are shared.
pub const EVACUATE_FINDS_STORAGE: Microversion = mv(14);
/// An evacuated server may be forced to a host.
pub const EVACUATE_FORCE: Microversion = mv(29);
/// Nobody is forced any more, when evacuated or migrated.
pub const NO_FORCE: Microversion = mv(68);
/// An evacuated server stays off.
pub const EVACUATE_STOPPED: Microversion = mv(95);
/// An unshelved server may change its zone.
pub const UNSHELVE_ZONE: Microversion = mv(77);
/// An unshelved server may be sent to a host, or leave its zone.
pub const UNSHELVE_HOST: Microversion = mv(91);
/// `cpu_info` as an object.
pub const CPU_INFO_OBJECT: Microversion = mv(28);
/// Tokens of every kind of console.
pub const CONSOLE_TOKENS: Microversion = mv(31);
/// Device tags in networks of a new server.
pub const DEVICE_TAGS: Microversion = mv(32);
/// Pages of hypervisors; device tags of disks are lost again.
pub const HYPERVISOR_PAGES: Microversion = mv(33);
/// Pages of key pairs.
pub const KEYPAIR_PAGES: Microversion = mv(35);
/// The proxies for other services end.
pub const NO_PROXIES: Microversion = mv(36);
/// `networks` is required; `auto` and `none`.
pub const NETWORKS_REQUIRED: Microversion = mv(37);
/// An unknown status filter is refused.
pub const STRICT_STATUS: Microversion = mv(38);
/// The image metadata limit ends.
pub const NO_IMAGE_METADATA: Microversion = mv(39);
/// Pages of usages.
pub const USAGE_PAGES: Microversion = mv(40);
/// `uuid` of aggregates.
pub const AGGREGATE_UUID: Microversion = mv(41);
/// Device tags come back.
pub const DEVICE_TAGS_AGAIN: Microversion = mv(42);
/// The flavor is shown within the server.
pub const FLAVOR_EMBEDDED: Microversion = mv(47);
/// Servers on a shelf can have volumes.
pub const VOLUMES_ON_SHELF: Microversion = mv(20);
/// Multiattach volumes.
pub const MULTIATTACH: Microversion = mv(60);
/// `delete_on_termination` of volumes that are attached.
pub const ATTACHED_GOES: Microversion = mv(79);
/// An attachment can be changed.
pub const CHANGE_ATTACHMENT: Microversion = mv(85);
/// Rescue of servers that boot from volumes.
pub const RESCUE_VOLUMES: Microversion = mv(87);
/// Ids of attachments and block devices.
pub const ATTACHMENT_IDS: Microversion = mv(89);
/// Attaching a volume answers nothing.
pub const ATTACH_ANSWERS_NOTHING: Microversion = mv(101);
/// Diagnostics have one shape.
pub const DIAGNOSTICS: Microversion = mv(48);
/// Server groups in quota classes.
pub const QUOTA_CLASS_GROUPS: Microversion = mv(50);
/// Events of actions for everyone; `volume-extended`.
pub const EVENTS_FOR_ALL: Microversion = mv(51);
/// Tags of a new server.
pub const CREATE_TAGS: Microversion = mv(52);
/// Services and hypervisors by UUID.
pub const UUIDS_OF_HOSTS: Microversion = mv(53);
/// Descriptions of flavors.
pub const FLAVOR_DESCRIPTION: Microversion = mv(55);
/// A snapshot's image is named in the body.
pub const IMAGE_ID_IN_BODY: Microversion = mv(45);
/// Interfaces that are attached may have tags.
pub const ATTACHED_TAGS: Microversion = mv(49);
/// A rebuild may change the key pair.
pub const REBUILD_KEY: Microversion = mv(54);
/// `migrate` may name the host.
pub const MIGRATE_HOST: Microversion = mv(56);
/// File injection ends.
pub const NO_PERSONALITY: Microversion = mv(57);
/// Pages and `updated_at` of actions.
pub const ACTION_PAGES: Microversion = mv(58);
/// Pages and `uuid` of migrations.
pub const MIGRATION_PAGES: Microversion = mv(59);
/// Extra specs within flavors.
pub const FLAVOR_EXTRA_SPECS: Microversion = mv(61);
/// Hosts of events.
pub const EVENT_HOST: Microversion = mv(62);
/// Trusted image certificates.
pub const TRUSTED_CERTS: Microversion = mv(63);
/// One policy for a server group.
pub const GROUP_POLICY: Microversion = mv(64);
/// `changes-before`.
pub const CHANGES_BEFORE: Microversion = mv(66);
/// `volume_type` of disks.
pub const VOLUME_TYPE: Microversion = mv(67);
/// Tags of interfaces.
pub const INTERFACE_TAGS: Microversion = mv(70);
/// Server groups in servers.
pub const SERVER_GROUPS: Microversion = mv(71);
/// Reasons of locks.
pub const LOCKED_REASON: Microversion = mv(73);
/// `host` and `hypervisor_hostname` of a new server.
pub const REQUESTED_HOST: Microversion = mv(74);
/// Unknown keys are refused; PUT answers the whole server.
pub const STRICT: Microversion = mv(75);
/// The external event `power-update`.
pub const POWER_UPDATE: Microversion = mv(76);
/// Owners of migrations.
pub const MIGRATION_OWNER: Microversion = mv(80);
/// The external event `accelerator-request-bound`.
pub const ACCELERATOR_BOUND: Microversion = mv(82);
/// More filters for everyone.
pub const MORE_FILTERS: Microversion = mv(83);
/// Details of failed events.
pub const EVENT_DETAILS: Microversion = mv(84);
/// Known extra specs are checked.
pub const CHECKED_EXTRA_SPECS: Microversion = mv(86);
/// Hypervisors lose what Placement knows.
pub const HYPERVISOR_SLIM: Microversion = mv(88);
/// Hostnames of servers.
pub const HOSTNAME: Microversion = mv(90);
/// Key pairs are only imported.
pub const KEYPAIR_IMPORT_ONLY: Microversion = mv(92);
/// The external event `volume-reimaged`.
pub const VOLUME_REIMAGED: Microversion = mv(93);
/// Hostnames may be qualified.
pub const HOSTNAME_FQDN: Microversion = mv(94);
/// The pinned availability zone.
pub const PINNED_ZONE: Microversion = mv(96);
/// Shares.
pub const SHARES: Microversion = mv(97);
/// Properties of the image within the server.
pub const IMAGE_PROPERTIES: Microversion = mv(98);
/// Queries for console tokens are strict.
pub const CONSOLE_TOKENS_STRICT: Microversion = mv(99);
/// Scheduler hints within the server.
pub const SCHEDULER_HINTS: Microversion = mv(100);
/// The last lenient queries become strict; flavors lose dead fields.
pub const STRICTER: Microversion = mv(102);
/// The pinned zone can be changed.
pub const PIN_ZONE: Microversion = mv(104);
