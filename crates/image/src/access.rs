//! Who may do what: Glance's default policies (Image service policies, role based) and what they are asked about.

use crate::fault::Fault;
use crate::model::{Image, Visibility};
use policy::{Enforcer, PolicyError, Rule, Target};
use std::sync::Arc;
use types::Caller;

const MEMBER: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s)";
const READER: &str = "rule:context_is_admin or (role:reader and project_id:%(project_id)s)";
const ADMIN: &str = "rule:context_is_admin";

/// The default rules.
pub fn default_rules() -> Vec<Rule> {
    let rule = |name, check, description| Rule {
        name,
        check,
        description,
    };
    vec![
        rule("default", "", "Rules that have no other"),
        rule("context_is_admin", "role:admin", "Who is an administrator"),
        rule(
            "service_api",
            "role:service or role:admin",
            "What services ask of each other",
        ),
        rule(
            "add_image",
            "rule:context_is_admin or (role:member and project_id:%(project_id)s and project_id:%(owner)s)",
            "Create new image",
        ),
        rule("delete_image", MEMBER, "Delete the image"),
        rule(
            "get_image",
            "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s or \
             'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))",
            "Show the image",
        ),
        rule("get_images", READER, "List images"),
        rule("modify_image", MEMBER, "Change the image"),
        rule("publicize_image", ADMIN, "Make the image public"),
        rule(
            "communitize_image",
            MEMBER,
            "Make the image a community image",
        ),
        rule(
            "download_image",
            "rule:context_is_admin or (role:member and (project_id:%(project_id)s or project_id:%(member_id)s or \
             'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))",
            "Download the data",
        ),
        rule("upload_image", MEMBER, "Upload the data"),
        rule("add_member", MEMBER, "Share the image with a project"),
        rule(
            "delete_member",
            MEMBER,
            "Stop sharing the image with a project",
        ),
        rule(
            "get_member",
            "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)",
            "Show a member",
        ),
        rule(
            "get_members",
            "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)",
            "List members",
        ),
        rule(
            "modify_member",
            "rule:context_is_admin or (role:member and project_id:%(member_id)s)",
            "Accept or reject a shared image",
        ),
        rule("deactivate", MEMBER, "Deactivate the image"),
        rule("reactivate", MEMBER, "Reactivate the image"),
        rule("tasks_api_access", ADMIN, "Use /v2/tasks"),
        rule(
            "get_metadef_namespaces",
            READER,
            "List namespaces of metadata definitions",
        ),
        rule("get_metadef_namespace", READER, "Show metadata definitions"),
        rule(
            "list_metadef_resource_types",
            READER,
            "List resource types of metadata definitions",
        ),
        rule(
            "add_metadef_namespace",
            ADMIN,
            "Create a namespace of metadata definitions",
        ),
        rule(
            "modify_metadef_namespace",
            ADMIN,
            "Change metadata definitions",
        ),
        rule(
            "delete_metadef_namespace",
            ADMIN,
            "Delete a namespace of metadata definitions",
        ),
    ]
}

/// The rules in force: the defaults, with a policy file's rules in their place.
pub fn enforcer(overrides: Option<&str>) -> Result<Enforcer, PolicyError> {
    let defaults = Enforcer::new(default_rules())?;
    match overrides {
        Some(yaml) => defaults.with_overrides(yaml),
        None => Ok(defaults),
    }
}

/// The caller of a request with the rules that hold for it.
#[derive(Clone)]
pub struct Access {
    /// Who asks.
    pub caller: Arc<Caller>,
    rules: Arc<Enforcer>,
}

impl Access {
    /// The caller under these rules.
    pub fn new(caller: Arc<Caller>, rules: Arc<Enforcer>) -> Self {
        Self { caller, rules }
    }

    /// Whether the caller is an administrator.
    pub fn is_admin(&self) -> bool {
        self.rules
            .allows("context_is_admin", &self.caller, &Target::new())
    }

    /// The caller's project.
    pub fn project(&self) -> Option<&str> {
        self.caller.project_id.as_deref()
    }

    /// Whether the caller owns the image.
    pub fn owns(&self, image: &Image) -> bool {
        image.owner.is_some() && image.owner.as_deref() == self.project()
    }

    /// Whether the image is the caller's to see at all. `member`: the caller's project is a member of it.
    pub fn sees(&self, image: &Image, member: bool) -> bool {
        let visible = match image.visibility {
            Visibility::Public | Visibility::Community => true,
            Visibility::Shared => member || self.owns(image),
            Visibility::Private => self.owns(image),
        };
        self.is_admin()
            || ((visible || image.owner.is_none()) && self.allows("get_image", image, member))
    }

    /// Whether a rule holds for the image.
    pub fn allows(&self, rule: &str, image: &Image, member: bool) -> bool {
        self.rules
            .allows(rule, &self.caller, &self.target(image, member))
    }

    /// The rule must hold for an image that the caller sees.
    pub fn require(&self, rule: &'static str, image: &Image, member: bool) -> Result<(), Fault> {
        if self.allows(rule, image, member) {
            return Ok(());
        }
        Err(denied(rule))
    }

    /// The rule must hold for the caller's own project.
    pub fn require_in_project(&self, rule: &'static str) -> Result<(), Fault> {
        let target = self.project().map_or_else(Target::new, |project| {
            Target::new().with("project_id", project)
        });
        if self.rules.allows(rule, &self.caller, &target) {
            Ok(())
        } else {
            Err(denied(rule))
        }
    }

    /// The rule must hold, whatever it is about.
    pub fn require_plain(&self, rule: &'static str) -> Result<(), Fault> {
        if self.rules.allows(rule, &self.caller, &Target::new()) {
            return Ok(());
        }
        Err(denied(rule))
    }

    /// The caller may give an image this visibility.
    pub fn require_visibility(&self, visibility: Visibility, image: &Image) -> Result<(), Fault> {
        match visibility {
            Visibility::Public => self.require("publicize_image", image, false),
            Visibility::Community => self.require("communitize_image", image, false),
            Visibility::Shared | Visibility::Private => Ok(()),
        }
    }

    fn target(&self, image: &Image, member: bool) -> Target {
        let mut target = Target::new().with("visibility", image.visibility.name());
        if let Some(owner) = &image.owner {
            target = target.with("project_id", owner).with("owner", owner);
        }
        if let (true, Some(project)) = (member, self.project()) {
            target = target.with("member_id", project);
        }
        target
    }
}

fn denied(rule: &str) -> Fault {
    Fault::forbidden(format!("You are not authorized to complete {rule} action."))
}
