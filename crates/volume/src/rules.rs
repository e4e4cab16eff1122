//! Who may do what: Cinder's default policies (Block Storage service, "Policy configuration") and what they are asked
//! about.

use crate::fault::{Fault, Result};
use policy::{Enforcer, PolicyError, Rule, Target};
use std::sync::Arc;
use types::Caller;

const ADMIN: &str = "rule:admin_api";
const MEMBER: &str = "rule:xena_system_admin_or_project_member";
const READER: &str = "rule:xena_system_admin_or_project_reader";

/// The rules that others are made of.
const ROLES: &[(&str, &str)] = &[
    ("context_is_admin", "role:admin"),
    ("admin_api", "rule:context_is_admin"),
    (
        "xena_system_admin_or_project_member",
        "role:admin or (role:member and project_id:%(project_id)s)",
    ),
    (
        "xena_system_admin_or_project_reader",
        "role:admin or (role:reader and project_id:%(project_id)s)",
    ),
];

/// What requests ask, with Cinder's defaults.
const RULES: &[(&str, &str)] = &[
    ("volume:attachment_create", MEMBER),
    ("volume:attachment_update", MEMBER),
    ("volume:attachment_delete", MEMBER),
    ("volume:attachment_complete", MEMBER),
    ("volume:multiattach_bootable_volume", MEMBER),
    ("volume_extension:backup_admin_actions:reset_status", ADMIN),
    ("volume_extension:backup_admin_actions:force_delete", ADMIN),
    ("backup:get_all", READER),
    ("backup:backup_project_attribute", ADMIN),
    ("backup:create", MEMBER),
    ("backup:get", READER),
    ("backup:update", MEMBER),
    ("backup:delete", MEMBER),
    ("backup:restore", MEMBER),
    ("backup:backup-import", ADMIN),
    ("backup:export-import", ADMIN),
    ("volume_extension:capabilities", ADMIN),
    ("clusters:get_all", ADMIN),
    ("clusters:get", ADMIN),
    ("clusters:update", ADMIN),
    ("volume_extension:default_set_or_update", ADMIN),
    ("volume_extension:default_get", ADMIN),
    ("volume_extension:default_get_all", ADMIN),
    ("volume_extension:default_unset", ADMIN),
    ("group:delete", MEMBER),
    ("group:reset_status", ADMIN),
    ("group:enable_replication", MEMBER),
    ("group:disable_replication", MEMBER),
    ("group:failover_replication", MEMBER),
    ("group:list_replication_targets", MEMBER),
    ("group:reset_group_snapshot_status", ADMIN),
    ("group:get_all_group_snapshots", READER),
    ("group:create_group_snapshot", MEMBER),
    ("group:get_group_snapshot", READER),
    ("group:delete_group_snapshot", MEMBER),
    ("group:update_group_snapshot", MEMBER),
    ("group:group_snapshot_project_attribute", ADMIN),
    ("group:group_types:create", ADMIN),
    ("group:group_types:update", ADMIN),
    ("group:group_types:delete", ADMIN),
    ("group:access_group_types_specs", ADMIN),
    ("group:group_types_specs:get", ADMIN),
    ("group:group_types_specs:get_all", ADMIN),
    ("group:group_types_specs:create", ADMIN),
    ("group:group_types_specs:update", ADMIN),
    ("group:group_types_specs:delete", ADMIN),
    ("group:get_all", READER),
    ("group:create", MEMBER),
    ("group:get", READER),
    ("group:update", MEMBER),
    ("group:group_project_attribute", ADMIN),
    ("volume_extension:hosts", ADMIN),
    ("limits_extension:used_limits", READER),
    ("snapshot_extension:list_manageable", ADMIN),
    ("snapshot_extension:snapshot_manage", ADMIN),
    ("snapshot_extension:snapshot_unmanage", ADMIN),
    ("volume_extension:list_manageable", ADMIN),
    ("volume_extension:volume_manage", ADMIN),
    ("volume_extension:volume_unmanage", ADMIN),
    ("message:get_all", READER),
    ("message:get", READER),
    ("message:delete", MEMBER),
    ("volume_extension:qos_specs_manage:get_all", ADMIN),
    ("volume_extension:qos_specs_manage:get", ADMIN),
    ("volume_extension:qos_specs_manage:create", ADMIN),
    ("volume_extension:qos_specs_manage:update", ADMIN),
    ("volume_extension:qos_specs_manage:delete", ADMIN),
    ("volume_extension:quota_classes:get", ADMIN),
    ("volume_extension:quota_classes:update", ADMIN),
    ("volume_extension:quotas:show", READER),
    ("volume_extension:quotas:update", ADMIN),
    ("volume_extension:quotas:delete", ADMIN),
    ("scheduler_extension:scheduler_stats:get_pools", ADMIN),
    ("volume_extension:services:index", ADMIN),
    ("volume_extension:services:update", ADMIN),
    ("volume:freeze_host", ADMIN),
    ("volume:thaw_host", ADMIN),
    ("volume:failover_host", ADMIN),
    (
        "volume_extension:snapshot_admin_actions:reset_status",
        ADMIN,
    ),
    (
        "snapshot_extension:snapshot_actions:update_snapshot_status",
        MEMBER,
    ),
    (
        "volume_extension:snapshot_admin_actions:force_delete",
        ADMIN,
    ),
    ("volume:get_snapshot_metadata", READER),
    ("volume:update_snapshot_metadata", MEMBER),
    ("volume:delete_snapshot_metadata", MEMBER),
    ("volume:get_all_snapshots", READER),
    ("volume_extension:extended_snapshot_attributes", READER),
    ("volume:create_snapshot", MEMBER),
    ("volume:get_snapshot", READER),
    ("volume:update_snapshot", MEMBER),
    ("volume:delete_snapshot", MEMBER),
    ("volume_extension:types_extra_specs:index", READER),
    ("volume_extension:types_extra_specs:create", ADMIN),
    ("volume_extension:types_extra_specs:show", READER),
    ("volume_extension:types_extra_specs:read_sensitive", ADMIN),
    ("volume_extension:types_extra_specs:update", ADMIN),
    ("volume_extension:types_extra_specs:delete", ADMIN),
    ("volume_extension:volume_type_access", MEMBER),
    (
        "volume_extension:volume_type_access:addProjectAccess",
        ADMIN,
    ),
    (
        "volume_extension:volume_type_access:removeProjectAccess",
        ADMIN,
    ),
    (
        "volume_extension:volume_type_access:get_all_for_type",
        ADMIN,
    ),
    ("volume:extend", MEMBER),
    ("volume:extend_attached_volume", MEMBER),
    (
        "volume_extension:volume_admin_actions:extend_volume_completion",
        ADMIN,
    ),
    ("volume:revert_to_snapshot", MEMBER),
    ("volume_extension:volume_admin_actions:reset_status", ADMIN),
    ("volume:retype", MEMBER),
    ("volume:update_readonly_flag", MEMBER),
    ("volume_extension:volume_admin_actions:force_delete", ADMIN),
    ("volume_extension:volume_actions:upload_public", ADMIN),
    ("volume_extension:volume_actions:upload_image", MEMBER),
    ("volume_extension:volume_admin_actions:force_detach", ADMIN),
    (
        "volume_extension:volume_admin_actions:migrate_volume",
        ADMIN,
    ),
    (
        "volume_extension:volume_admin_actions:migrate_volume_completion",
        ADMIN,
    ),
    (
        "volume_extension:volume_actions:initialize_connection",
        MEMBER,
    ),
    (
        "volume_extension:volume_actions:terminate_connection",
        MEMBER,
    ),
    ("volume_extension:volume_actions:roll_detaching", MEMBER),
    ("volume_extension:volume_actions:reserve", MEMBER),
    ("volume_extension:volume_actions:unreserve", MEMBER),
    ("volume_extension:volume_actions:begin_detaching", MEMBER),
    ("volume_extension:volume_actions:attach", MEMBER),
    ("volume_extension:volume_actions:detach", MEMBER),
    ("volume:reimage", MEMBER),
    ("volume:reimage_reserved", MEMBER),
    ("volume:get_volume_metadata", READER),
    ("volume:create_volume_metadata", MEMBER),
    ("volume:update_volume_metadata", MEMBER),
    ("volume:delete_volume_metadata", MEMBER),
    ("volume_extension:volume_image_metadata:show", READER),
    ("volume_extension:volume_image_metadata:set", MEMBER),
    ("volume_extension:volume_image_metadata:remove", MEMBER),
    ("volume:update_volume_admin_metadata", ADMIN),
    ("volume:get_all_transfers", READER),
    ("volume:create_transfer", MEMBER),
    ("volume:get_transfer", READER),
    ("volume:accept_transfer", MEMBER),
    ("volume:delete_transfer", MEMBER),
    ("volume_extension:type_create", ADMIN),
    ("volume_extension:type_update", ADMIN),
    ("volume_extension:type_delete", ADMIN),
    ("volume_extension:type_get", READER),
    ("volume_extension:type_get_all", READER),
    ("volume_extension:access_types_extra_specs", READER),
    ("volume_extension:access_types_qos_specs_id", ADMIN),
    ("volume_extension:volume_type_encryption:create", ADMIN),
    ("volume_extension:volume_type_encryption:get", ADMIN),
    ("volume_extension:volume_type_encryption:update", ADMIN),
    ("volume_extension:volume_type_encryption:delete", ADMIN),
    ("volume:create", MEMBER),
    ("volume:create_from_image", MEMBER),
    ("volume:get", READER),
    ("volume:get_all", READER),
    ("volume:update", MEMBER),
    ("volume:delete", MEMBER),
    ("volume:force_delete", ADMIN),
    ("volume_extension:volume_host_attribute", ADMIN),
    ("volume_extension:volume_tenant_attribute", READER),
    ("volume_extension:volume_mig_status_attribute", ADMIN),
    ("volume_extension:volume_encryption_metadata", READER),
    ("volume:multiattach", MEMBER),
    ("workers:cleanup", ADMIN),
];

/// The rules in force: the defaults, with a policy file's rules in their place.
pub fn enforcer(overrides: &str) -> std::result::Result<Enforcer, PolicyError> {
    let rule = |(name, check): &(&'static str, &'static str)| Rule {
        name,
        check,
        description: "",
    };
    Enforcer::new(ROLES.iter().chain(RULES).map(rule))?.with_overrides(overrides)
}

/// A caller under the rules in force.
#[derive(Clone)]
pub struct Access {
    /// Who.
    pub caller: Arc<Caller>,
    rules: Arc<Enforcer>,
}

impl Access {
    /// A caller.
    pub fn new(caller: Arc<Caller>, rules: Arc<Enforcer>) -> Self {
        Self { caller, rules }
    }

    /// Sees everything of everybody.
    pub fn is_admin(&self) -> bool {
        self.rules
            .allows("context_is_admin", &self.caller, &Target::new())
    }

    /// The caller's project; empty when the token has none.
    pub fn project(&self) -> &str {
        self.caller.project_id.as_deref().unwrap_or_default()
    }

    /// Whether a resource of the project is seen at all.
    pub fn sees(&self, project_id: &str) -> bool {
        self.is_admin() || self.project() == project_id
    }

    /// Whether a rule allows it for a resource of a project.
    pub fn allows(&self, rule: &str, project_id: &str) -> bool {
        let target = Target::new().with("project_id", project_id);
        self.rules.allows(rule, &self.caller, &target)
    }

    /// 403 when a rule does not allow it for a resource of a project.
    pub fn require(&self, rule: &str, project_id: &str) -> Result<()> {
        if self.allows(rule, project_id) {
            return Ok(());
        }
        Err(Fault::forbidden(rule))
    }

    /// 403 when a rule does not allow it for the caller's own project.
    pub fn require_own(&self, rule: &str) -> Result<()> {
        self.require(rule, self.project())
    }
}
