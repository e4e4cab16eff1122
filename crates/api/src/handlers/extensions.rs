//! `/extensions`: a list from the time when the API was made of extensions. Nova has answered the same list ever since, also
//! with what has gone from its API; old clients look into it.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use serde_json::{Value, json};

/// Alias, name and description; the rest of an entry is the same for all.
#[rustfmt::skip]
const EXTENSIONS: &[(&str, &str, &str)] = &[
    ("NMN", "Multinic", "Servers with several networks."),
    ("OS-DCF", "DiskConfig", "How the disk of a server is divided."),
    ("OS-EXT-AZ", "ExtendedAvailabilityZone", "The availability zone of a server."),
    ("OS-EXT-IMG-SIZE", "ImageSize", "The size of an image."),
    ("OS-EXT-IPS", "ExtendedIps", "The type of each address."),
    ("OS-EXT-IPS-MAC", "ExtendedIpsMac", "The MAC address that belongs to each address."),
    ("OS-EXT-SRV-ATTR", "ExtendedServerAttributes", "Attributes of a server for administrators."),
    ("OS-EXT-STS", "ExtendedStatus", "The states of a server in more detail."),
    ("OS-FLV-DISABLED", "FlavorDisabled", "Whether a flavor is disabled."),
    ("OS-FLV-EXT-DATA", "FlavorExtraData", "The ephemeral disk of a flavor."),
    ("OS-SCH-HNT", "SchedulerHints", "Hints for the scheduler."),
    ("OS-SRV-USG", "ServerUsage", "When a server was launched and terminated."),
    ("os-access-ips", "AccessIPs", "Addresses by which a server is to be reached."),
    ("os-admin-actions", "AdminActions", "Actions on servers for administrators."),
    ("os-admin-password", "AdminPassword", "Setting the administrator's password of a server."),
    ("os-agents", "Agents", "Builds of guest agents."),
    ("os-aggregates", "Aggregates", "Groups of hosts, for administrators."),
    ("os-assisted-volume-snapshots", "AssistedVolumeSnapshots", "Snapshots of volumes with the help of the host."),
    ("os-attach-interfaces", "AttachInterfaces", "Attaching and detaching of ports."),
    ("os-availability-zone", "AvailabilityZone", "Availability zones: choosing one and listing them."),
    ("os-baremetal-ext-status", "BareMetalExtStatus", "More of the state of bare metal nodes."),
    ("os-baremetal-nodes", "BareMetalNodes", "Bare metal nodes, for administrators."),
    ("os-block-device-mapping", "BlockDeviceMapping", "Servers that boot from volumes."),
    ("os-block-device-mapping-v2-boot", "BlockDeviceMappingV2Boot", "Servers that boot from volumes, by the newer format."),
    ("os-cell-capacities", "CellCapacities", "How much the cells have room for."),
    ("os-cells", "Cells", "Cells and their neighbours."),
    ("os-certificates", "Certificates", "Certificates of the root and of users."),
    ("os-cloudpipe", "Cloudpipe", "Servers that lead into a project's network."),
    ("os-cloudpipe-update", "CloudpipeUpdate", "Changing the address of such a server."),
    ("os-config-drive", "ConfigDrive", "Whether a server has a drive with its metadata."),
    ("os-console-auth-tokens", "ConsoleAuthTokens", "Tokens of consoles."),
    ("os-console-output", "ConsoleOutput", "What a server has written to its console."),
    ("os-consoles", "Consoles", "Consoles to work with."),
    ("os-create-backup", "CreateBackup", "Backups of servers, of which only so many are kept."),
    ("os-create-server-ext", "Createserverext", "Networks and security groups of a new server."),
    ("os-deferred-delete", "DeferredDelete", "Servers that can be restored after they were deleted."),
    ("os-evacuate", "Evacuate", "Building servers of a failed host anew elsewhere."),
    ("os-extended-evacuate-find-host", "ExtendedEvacuateFindHost", "Evacuation to a host of the scheduler's choice."),
    ("os-extended-floating-ips", "ExtendedFloatingIps", "The fixed address that a floating address leads to."),
    ("os-extended-hypervisors", "ExtendedHypervisors", "More about hypervisors."),
    ("os-extended-networks", "ExtendedNetworks", "More about networks."),
    ("os-extended-quotas", "ExtendedQuotas", "Deleting quotas, and setting them below what is used."),
    ("os-extended-rescue-with-image", "ExtendedRescueWithImage", "Choosing the image for a rescue."),
    ("os-extended-services", "ExtendedServices", "Why a service is disabled."),
    ("os-extended-services-delete", "ExtendedServicesDelete", "Deleting services."),
    ("os-extended-status", "ExtendedStatus", "More about the state of servers."),
    ("os-extended-volumes", "ExtendedVolumes", "The volumes that a server has attached."),
    ("os-fixed-ips", "FixedIPs", "Fixed addresses, for administrators."),
    ("os-flavor-access", "FlavorAccess", "Which projects may use a flavor."),
    ("os-flavor-extra-specs", "FlavorExtraSpecs", "Extra specs of flavors."),
    ("os-flavor-manage", "FlavorManage", "Making and deleting flavors."),
    ("os-flavor-rxtx", "FlavorRxtx", "The share of the network that a flavor gives."),
    ("os-flavor-swap", "FlavorSwap", "The swap disk of a flavor."),
    ("os-floating-ip-dns", "FloatingIpDns", "Names of floating addresses."),
    ("os-floating-ip-pools", "FloatingIpPools", "Pools of floating addresses."),
    ("os-floating-ips", "FloatingIps", "Floating addresses."),
    ("os-floating-ips-bulk", "FloatingIpsBulk", "Many floating addresses at once."),
    ("os-fping", "Fping", "Whether servers answer a ping."),
    ("os-hide-server-addresses", "HideServerAddresses", "Addresses are hidden while a server is built."),
    ("os-hosts", "Hosts", "Hosts, for administrators."),
    ("os-hypervisor-status", "HypervisorStatus", "The state of hypervisors."),
    ("os-hypervisors", "Hypervisors", "Hypervisors, for administrators."),
    ("os-instance-actions", "InstanceActions", "What was done with a server, and what came of it."),
    ("os-instance_usage_audit_log", "OSInstanceUsageAuditLog", "Audits of usage, for administrators."),
    ("os-keypairs", "Keypairs", "Key pairs of users."),
    ("os-lock-server", "LockServer", "Locking and unlocking of servers."),
    ("os-migrate-server", "MigrateServer", "Moving servers, cold or live."),
    ("os-migrations", "Migrations", "Which servers were moved."),
    ("os-multiple-create", "MultipleCreate", "Several servers by one request."),
    ("os-networks", "Networks", "Networks, for administrators."),
    ("os-networks-associate", "NetworkAssociationSupport", "Networks and the projects and hosts they belong to."),
    ("os-pause-server", "PauseServer", "Pausing and unpausing of servers."),
    ("os-personality", "Personality", "Files for a new server."),
    ("os-preserve-ephemeral-rebuild", "PreserveEphemeralOnRebuild", "Rebuilds that leave the ephemeral disk as it is."),
    ("os-quota-class-sets", "QuotaClasses", "Quotas by class."),
    ("os-quota-sets", "Quotas", "Quotas of projects."),
    ("os-rescue", "Rescue", "Rescuing a server with another disk."),
    ("os-security-group-default-rules", "SecurityGroupDefaultRules", "Rules that each new security group has."),
    ("os-security-groups", "SecurityGroups", "Security groups."),
    ("os-server-diagnostics", "ServerDiagnostics", "Counters of a running server."),
    ("os-server-external-events", "ServerExternalEvents", "Events that other services tell of."),
    ("os-server-group-quotas", "ServerGroupQuotas", "Quotas of server groups."),
    ("os-server-groups", "ServerGroups", "Groups of servers that stay together or apart."),
    ("os-server-list-multi-status", "ServerListMultiStatus", "Listing servers by several states."),
    ("os-server-password", "ServerPassword", "The password that a guest has left for its owner."),
    ("os-server-sort-keys", "ServerSortKeys", "Listing servers in the order of one's choice."),
    ("os-server-start-stop", "ServerStartStop", "Starting and stopping of servers."),
    ("os-services", "Services", "The services of the cloud."),
    ("os-shelve", "Shelve", "Servers that are put on a shelf, where they need no host."),
    ("os-simple-tenant-usage", "SimpleTenantUsage", "What projects have used."),
    ("os-suspend-server", "SuspendServer", "Suspending and resuming of servers."),
    ("os-tenant-networks", "OSTenantNetworks", "Networks of a project."),
    ("os-used-limits", "UsedLimits", "How much of the limits is used."),
    ("os-used-limits-for-admin", "UsedLimitsForAdmin", "The same of other projects, for administrators."),
    ("os-user-data", "UserData", "Data for a new server."),
    ("os-user-quotas", "UserQuotas", "Quotas of the users of a project."),
    ("os-virtual-interfaces", "VirtualInterfaces", "Network interfaces of servers."),
    ("os-volume-attachment-update", "VolumeAttachmentUpdate", "Exchanging an attached volume for another."),
    ("os-volumes", "Volumes", "Volumes and their snapshots."),
];

fn entry(&(alias, name, description): &(&str, &str, &str)) -> Value {
    json!({
        "alias": alias, "name": name, "description": description, "links": [], "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": "2014-12-03T00:00:00Z",
    })
}

/// Every extension.
pub async fn list(_call: Call) -> Result<Reply, Fault> {
    let entries: Vec<Value> = EXTENSIONS.iter().map(entry).collect();
    Reply::ok(&json!({ "extensions": entries }))
}

/// One extension.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let found = EXTENSIONS
        .iter()
        .find(|(alias, ..)| *alias == call.param(0));
    let found = found.ok_or_else(Fault::no_such_resource)?;
    Reply::ok(&json!({ "extension": entry(found) }))
}
