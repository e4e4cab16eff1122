//! Resources as they are answered.

use crate::doc::Doc;
use crate::fault::Fault;
use crate::rules;
use crate::schema::Kind;
use crate::work::Work;
use serde_json::{Map, Value};

/// A resource without what is never shown.
pub fn plain(doc: &Doc) -> Map<String, Value> {
    let mut shown: Map<String, Value> = doc
        .iter()
        .filter(|(name, _)| !name.starts_with('_'))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(project) = doc.get("project_id") {
        shown.insert("tenant_id".into(), project.clone());
    }
    shown
}

/// Adds to resources what is worked out when they are asked for; a fixed number of queries.
pub fn complete(work: &mut Work<'_, '_>, kind: Kind, docs: &mut [Doc]) -> Result<(), Fault> {
    if docs.is_empty() {
        return Ok(());
    }
    match kind {
        Kind::Network => super::networks::complete(work, docs),
        Kind::Port => super::ports::complete(work, docs),
        Kind::Group => super::security_groups::complete(work, docs),
        Kind::FloatingIp => super::floatingips::complete(work, docs),
        Kind::Trunk => super::trunks::complete(work, docs),
        _ => Ok(()),
    }
}

/// The attributes of a kind that the caller may not see. Neutron's rules for them look only at roles, so they are asked once per answer.
pub fn hidden(work: &Work<'_, '_>, kind: Kind) -> Vec<&'static str> {
    let target = policy::Target::new();
    let rule = |name: &str| format!("get_{}:{name}", kind.singular());
    let names = kind.attributes().map(|attribute| attribute.name);
    names
        .filter(|name| rules::exists(&rule(name)) && !work.cx.allows(&rule(name), &target))
        .collect()
}

/// Resources for an answer, with only `fields` when there are any.
pub fn show(
    work: &mut Work<'_, '_>,
    kind: Kind,
    mut docs: Vec<Doc>,
    fields: &[String],
) -> Result<Vec<Value>, Fault> {
    complete(work, kind, &mut docs)?;
    let hidden = hidden(work, kind);
    let one = |doc: &Doc| {
        let mut shown = plain(doc);
        shown.retain(|name, _| {
            !hidden.contains(&name.as_str()) && (fields.is_empty() || fields.contains(name))
        });
        Value::Object(shown)
    };
    Ok(docs.iter().map(one).collect())
}

/// One resource for an answer.
pub fn show_one(
    work: &mut Work<'_, '_>,
    kind: Kind,
    doc: Doc,
    fields: &[String],
) -> Result<Value, Fault> {
    Ok(show(work, kind, vec![doc], fields)?
        .pop()
        .unwrap_or_default())
}
