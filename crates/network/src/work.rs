//! One request at work: its transaction, who asks, and what it changes for the agents.

use crate::config::Config;
use crate::db::{self, changes};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::rules;
use crate::schema::Kind;
use policy::{Enforcer, Target};
use serde_json::Value;
use sql::Tx;
use std::collections::BTreeSet;
use std::sync::Arc;
use types::Caller;
use types::Timestamp;

pub use crate::db::changes::What;

/// Who asks, and under which rules.
#[derive(Clone)]
pub struct Context {
    /// The caller.
    pub caller: Arc<Caller>,
    /// The rules in force.
    pub rules: Arc<Enforcer>,
    /// Settings.
    pub config: Arc<Config>,
}

impl Context {
    /// Whether the caller sees and does everything.
    pub fn is_admin(&self) -> bool {
        self.allows("context_is_admin", &Target::new())
    }

    /// Whether the caller may look at every project's resources.
    pub fn sees_all(&self) -> bool {
        self.is_admin() || self.allows("service_api", &Target::new())
    }

    /// The caller's project; empty for tokens without one.
    pub fn project(&self) -> &str {
        self.caller.project_id.as_deref().unwrap_or_default()
    }

    /// Whether a rule lets the caller act on a target.
    pub fn allows(&self, rule: &str, target: &Target) -> bool {
        self.rules.allows(rule, &self.caller, target)
    }

    /// As [`Context::allows`], or the 403.
    pub fn demand(&self, rule: &str, target: &Target) -> Result<(), Fault> {
        if self.allows(rule, target) {
            Ok(())
        } else {
            Err(Fault::forbidden(&format!("rule:{rule}")))
        }
    }
}

/// A request's transaction.
pub struct Work<'a, 'b> {
    /// The transaction.
    pub tx: &'a mut Tx<'b>,
    /// Who asks.
    pub cx: &'a Context,
    changes: BTreeSet<changes::Change>,
}

fn python(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}

impl<'a, 'b> Work<'a, 'b> {
    /// A request that begins.
    pub fn new(tx: &'a mut Tx<'b>, cx: &'a Context) -> Self {
        Self {
            tx,
            cx,
            changes: BTreeSet::new(),
        }
    }

    /// Notes that an object changed for the agents.
    pub fn changed(&mut self, what: What, id: &str) {
        self.changes.insert((what, id.to_owned(), String::new()));
    }

    /// Notes that another host serves DHCP and routers.
    pub fn gateway_moved(&mut self) -> Result<(), Fault> {
        crate::db::changes::start_over(self.tx)?;
        // Whoever waits is told that there is something new.
        for network in crate::db::column(self.tx, Kind::Network, "id", &[])? {
            self.changed(What::Network, &network);
        }
        Ok(())
    }

    /// Notes that a port changed on a host.
    pub fn port_changed(&mut self, id: &str, host: &str) {
        self.changes
            .insert((What::Port, id.to_owned(), host.to_owned()));
    }

    /// Notes that a host is asked for a look.
    pub fn look_asked(&mut self, host: &str) {
        self.changes
            .insert((What::Look, String::new(), host.to_owned()));
    }

    /// Notes that the members of groups changed: for these groups and for those whose rules name them.
    pub fn members_changed(&mut self, groups: &[String]) -> Result<(), Fault> {
        if groups.is_empty() {
            return Ok(());
        }
        let named = db::one_of("remote_group_id", groups.iter().map(String::as_str));
        let naming = db::column(self.tx, Kind::Rule, "security_group_id", &[named])?;
        for group in groups.iter().chain(&naming) {
            self.changed(What::Members, group);
        }
        Ok(())
    }

    /// Writes the changes down; the new revision, if there were any.
    pub fn finish(self) -> Result<Option<u64>, Fault> {
        if self.changes.is_empty() {
            return Ok(None);
        }
        changes::record(self.tx, &self.changes).map(Some)
    }

    /// A resource, whoever owns it.
    pub fn get(&mut self, kind: Kind, id: &str) -> Result<Doc, Fault> {
        db::get(self.tx, kind, id)?.ok_or_else(|| Fault::not_found(kind, id))
    }

    /// A resource that the caller may see; another's is not found.
    pub fn visible(&mut self, kind: Kind, id: &str) -> Result<Doc, Fault> {
        let doc = self.get(kind, id)?;
        let target = self.target(kind, &doc)?;
        let rule = format!("get_{}", kind.singular());
        if self.cx.allows(&rule, &target) {
            Ok(doc)
        } else {
            Err(Fault::not_found(kind, id))
        }
    }

    /// The attributes that policies look at.
    pub fn target(&mut self, kind: Kind, doc: &Doc) -> Result<Target, Fault> {
        let mut target = Target::new()
            .with("project_id", doc.project())
            .with("tenant_id", doc.project());
        target = target.with(
            "network_device",
            python(doc.text("device_owner").starts_with("network:")),
        );
        match kind {
            Kind::Subnet | Kind::Port => {
                let network =
                    db::get(self.tx, Kind::Network, doc.text("network_id"))?.unwrap_or_default();
                target = target
                    .with("network:project_id", network.project())
                    .with("shared", python(network.flag("shared")));
            }
            Kind::Rule => {
                let group = db::get(self.tx, Kind::Group, doc.text("security_group_id"))?
                    .unwrap_or_default();
                target = target.with("ext_parent:project_id", group.project());
            }
            _ => {
                target = target
                    .with("shared", python(doc.flag("shared")))
                    .with("router:external", python(doc.flag("router:external")));
            }
        }
        Ok(target)
    }

    /// Whether the caller may do this with these attributes; else 403.
    pub fn permit(
        &mut self,
        action: &str,
        kind: Kind,
        doc: &Doc,
        given: &Doc,
    ) -> Result<(), Fault> {
        let mut target = self.target(kind, doc)?;
        if given.contains_key("device_owner") {
            target = target.with(
                "network_device",
                python(given.text("device_owner").starts_with("network:")),
            );
        }
        let base = format!("{action}_{}", kind.singular());
        self.cx.demand(&base, &target)?;
        for (name, value) in given.iter() {
            for rule in attribute_rules(&base, name, value) {
                if rules::exists(&rule) && !self.cx.allows(&rule, &target) {
                    return Err(Fault::forbidden(&format!("(rule:{base} and rule:{rule})")));
                }
            }
        }
        Ok(())
    }
}

/// The rules for an attribute, and for the members of its value.
fn attribute_rules(base: &str, name: &str, value: &Value) -> Vec<String> {
    let mut rules = vec![format!("{base}:{name}")];
    let items = match value {
        Value::Array(items) => items.as_slice(),
        other => std::slice::from_ref(other),
    };
    for member in items
        .iter()
        .filter_map(Value::as_object)
        .flat_map(serde_json::Map::keys)
    {
        let rule = format!("{base}:{name}:{member}");
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// Gives a new resource what all have.
pub fn born(doc: &mut Doc) {
    let now = Timestamp::now().iso_seconds_z();
    if !doc.contains_key("id") {
        doc.set("id", uuid::Uuid::new_v4().to_string());
    }
    doc.set("created_at", now.as_str());
    doc.set("updated_at", now);
    doc.set("revision_number", 1);
    doc.set("tags", Value::Array(Vec::new()));
    if !doc.contains_key("description") {
        doc.set("description", "");
    }
}

/// Notes that a resource was changed.
pub fn touched(doc: &mut Doc) {
    doc.set("updated_at", Timestamp::now().iso_seconds_z());
    let next = doc.int("revision_number").unwrap_or(0) + 1;
    doc.set("revision_number", next);
}
