//! The policies in words, for operators: `kilonova manage policy`.

use crate::policies::{Policies, PolicyFiles, Unusable};
use crate::{policy_renames, policy_rules};
use policy::{Enforcer, Target};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use types::Caller;

/// The rules in force, and what can be said about them.
pub struct PolicyReport {
    rules: Arc<Enforcer>,
    defaults: BTreeMap<&'static str, policy::Rule>,
}

/// Whom `explain` tries, with the roles that identity implies.
const CALLERS: [(&str, &[&str]); 5] = [
    ("reader", &["reader"]),
    ("member", &["member", "reader"]),
    ("manager", &["manager", "member", "reader"]),
    ("service", &["service"]),
    ("admin", &["admin", "manager", "member", "reader"]),
];
const OWN: &str = "the caller's own";
const OTHER: &str = "another";

fn caller(roles: &[&str]) -> Caller {
    Caller {
        user_id: OWN.to_owned(),
        project_id: Some(OWN.to_owned()),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..Caller::default()
    }
}

impl PolicyReport {
    /// Reads the rules as a cloud with these files would.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn read(files: PolicyFiles) -> Result<Self, Unusable> {
        let policies = Policies::open(None, files)?;
        Ok(Self {
            rules: policies.in_force(),
            defaults: policy_rules::defaults()
                .map(|rule| (rule.name, rule))
                .collect(),
        })
    }

    /// One line for each rule: name, check, and `*` where a file gives it.
    pub fn list(&self) -> String {
        let mut text = String::new();
        for rule in self.defaults.values() {
            let mark = if self.source(rule.name).is_some() {
                '*'
            } else {
                ' '
            };
            let check = self.rules.text(rule.name).unwrap_or_default();
            let _ = writeln!(text, "{mark} {:<70} {}", rule.name, shown(check));
        }
        text
    }

    /// Where the rule's check comes from, unless it is the default.
    fn source(&self, rule: &str) -> Option<String> {
        if self.rules.is_given(rule) {
            return Some("a policy file".to_owned());
        }
        let (_, old) = self.rules.followed().find(|(new, _)| *new == rule)?;
        Some(format!("a policy file, by its name of old {old}"))
    }

    /// Everything about one rule; none if there is no such rule.
    pub fn explain(&self, name: &str) -> Option<String> {
        let rule = self.defaults.get(name)?;
        let check = self.rules.text(name)?;
        let mut text = format!("{name}\n  guards   {}\n", rule.description);
        let source = self
            .source(name)
            .unwrap_or_else(|| "the default".to_owned());
        let _ = writeln!(text, "  check    {} ({source})", shown(check));
        if check != rule.check {
            let _ = writeln!(text, "  default  {}", shown(rule.check));
        }
        let old = policy_renames::all()
            .into_iter()
            .filter(|old| old.successor == name);
        for old in old {
            let _ = writeln!(text, "  was      {}", old.name);
        }
        self.references(name, 2, &mut text);
        let passes = |project: &str, user: &str| {
            let target = Target::new()
                .with("project_id", project)
                .with("user_id", user);
            let names = CALLERS
                .iter()
                .filter(|(_, roles)| self.rules.allows(name, &caller(roles), &target))
                .map(|(name, _)| *name);
            let names: Vec<&str> = names.collect();
            if names.is_empty() {
                "nobody".to_owned()
            } else {
                names.join(", ")
            }
        };
        let _ = writeln!(
            text,
            "  passes   for things of the own project: {}",
            passes(OWN, OTHER)
        );
        let _ = writeln!(
            text,
            "           for things of other projects: {}",
            passes(OTHER, OTHER)
        );
        Some(text)
    }

    fn references(&self, rule: &str, depth: usize, text: &mut String) {
        for name in self.rules.refers_to(rule) {
            let check = self.rules.text(name).map_or("(no such rule: never)", shown);
            let _ = writeln!(text, "{:indent$}{name} = {check}", "", indent = depth * 2);
            self.references(name, depth + 1, text);
        }
    }

    /// Whether somebody with these roles passes, for each rule or for the one named: lines with `yes` or `no`.
    ///
    /// `own` says whether what they want to act on is of their own project.
    pub fn check(
        &self,
        roles: &[&str],
        own: bool,
        only: Option<&str>,
    ) -> Vec<(&'static str, bool)> {
        let project = if own { OWN } else { OTHER };
        let target = Target::new()
            .with("project_id", project)
            .with("user_id", project);
        let caller = caller(roles);
        self.defaults
            .keys()
            .filter(|name| only.is_none_or(|only| only == **name))
            .map(|name| (*name, self.rules.allows(name, &caller, &target)))
            .collect()
    }
}

/// A check for people: an empty one always holds.
fn shown(check: &str) -> &str {
    if check.is_empty() { "@" } else { check }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_said() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("policy.yaml");
        std::fs::write(
            &file,
            "\"os_compute_api:os-hosts\": \"role:member\"\n\"os_compute_api:servers:create\": \"role:builder\"\n",
        )
        .unwrap();
        let report = PolicyReport::read(PolicyFiles {
            file: Some(file),
            folder: None,
        })
        .unwrap();
        let text = report.explain("os_compute_api:os-hosts:list").unwrap();
        assert!(
            text.contains(
                "role:member (a policy file, by its name of old os_compute_api:os-hosts)"
            ),
            "{text}"
        );
        assert!(text.contains("default  rule:context_is_admin"), "{text}");
        assert!(
            text.contains("other projects: member, manager, admin"),
            "{text}"
        );
        let text = report.explain("os_compute_api:servers:show").unwrap();
        assert!(
            text.contains("      project_reader_api = role:reader and project_id:%(project_id)s"),
            "{text}"
        );
        assert!(
            text.contains("own project: reader, member, manager, admin\n"),
            "{text}"
        );
        assert!(text.contains("other projects: admin\n"), "{text}");
        assert_eq!(report.explain("nonsense"), None);
        let list = report.list();
        assert!(
            list.lines()
                .any(|line| line.starts_with("* os_compute_api:servers:create ")),
            "{list}"
        );
        assert_eq!(list.lines().count(), 216);
        let only = Some("os_compute_api:servers:create");
        assert_eq!(
            report.check(&["member"], true, only),
            [("os_compute_api:servers:create", false)]
        );
        assert_eq!(
            report.check(&["builder"], true, only),
            [("os_compute_api:servers:create", true)]
        );
        assert_eq!(report.check(&["admin"], false, None).len(), 216);
    }
}
