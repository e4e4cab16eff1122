//! `/extensions`: a list from the time when the API was made of extensions; old clients look into it.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use serde_json::{Value, json};

/// Alias and name; the rest of an entry is the same for all.
const EXTENSIONS: &[(&str, &str)] = &[
    ("os-admin-actions", "AdminActions"),
    ("os-aggregates", "Aggregates"),
    ("os-attach-interfaces", "AttachInterfaces"),
    ("os-availability-zone", "AvailabilityZone"),
    ("os-config-drive", "ConfigDrive"),
    ("os-console-output", "Console_output"),
    ("os-extended-availability-zone", "ExtendedAvailabilityZone"),
    ("os-extended-server-attributes", "ExtendedServerAttributes"),
    ("os-extended-status", "ExtendedStatus"),
    ("os-flavor-access", "FlavorAccess"),
    ("os-flavor-extra-specs", "FlavorExtraSpecs"),
    ("os-flavor-manage", "FlavorManage"),
    ("os-hypervisors", "Hypervisors"),
    ("os-instance-actions", "ServerInstanceActions"),
    ("os-keypairs", "Keypairs"),
    ("os-lock-server", "LockServer"),
    ("os-migrations", "Migrations"),
    ("os-multiple-create", "MultipleCreate"),
    ("os-quota-class-sets", "QuotaClasses"),
    ("os-quota-sets", "Quotas"),
    ("os-scheduler-hints", "SchedulerHints"),
    ("os-security-groups", "SecurityGroups"),
    ("os-server-diagnostics", "ServerDiagnostics"),
    ("os-server-groups", "ServerGroups"),
    ("os-server-usage", "ServerUsage"),
    ("os-services", "Services"),
    ("os-simple-tenant-usage", "SimpleTenantUsage"),
    ("os-used-limits", "UsedLimits"),
    ("os-user-data", "UserData"),
];

fn entry(alias: &str, name: &str) -> Value {
    json!({
        "alias": alias, "name": name, "description": "", "links": [], "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": "2014-12-03T00:00:00Z",
    })
}

/// Every extension.
pub async fn list(_call: Call) -> Result<Reply, Fault> {
    let entries: Vec<Value> = EXTENSIONS
        .iter()
        .map(|(alias, name)| entry(alias, name))
        .collect();
    Reply::ok(&json!({ "extensions": entries }))
}

/// One extension.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let found = EXTENSIONS.iter().find(|(alias, _)| *alias == call.param(0));
    let (alias, name) = found.ok_or_else(Fault::no_such_resource)?;
    Reply::ok(&json!({ "extension": entry(alias, name) }))
}
