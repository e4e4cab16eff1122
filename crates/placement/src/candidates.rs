//! Which providers could satisfy a request (Placement API, "Allocation candidates").
//!
//! Providers have no children and share nothing, so all groups of a request are satisfied by one and the same provider,
//! and `group_policy=isolate` with several granular groups by none.

use crate::dispatch::{Answer, Call};
use crate::fault::Fault;
use crate::query::{self, Query, WantedAggregates, WantedTraits, invalid};
use crate::usages;
use crate::view::{self, ProviderView};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// One group of a request: `resources`, `required`, `member_of`, `in_tree` with the same suffix.
#[derive(Clone, Debug, Default)]
struct Group {
    resources: BTreeMap<String, u64>,
    traits: WantedTraits,
    in_tree: Option<Uuid>,
    members: WantedAggregates,
}

const GROUPED: [(&str, u16); 4] = [
    ("resources", 10),
    ("required", 17),
    ("member_of", 21),
    ("in_tree", 31),
];

/// The kind and the suffix of a parameter such as `required_NET1`; suffixes are numbers from 1.25 and texts from 1.33.
fn grouped(name: &str, version: u16) -> Option<(&'static str, &str)> {
    let (kind, since) = GROUPED
        .into_iter()
        .find(|(kind, _)| name.starts_with(kind))?;
    let suffix = &name[kind.len()..];
    let numbered = || suffix.bytes().all(|byte| byte.is_ascii_digit()) && !suffix.starts_with('0');
    let texted = || {
        suffix.len() <= 64
            && suffix
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let known = suffix.is_empty() || version >= 33 && texted() || version >= 25 && numbered();
    (version >= since && known).then_some((kind, suffix))
}

fn read_groups(query: &Query, version: u16) -> Result<BTreeMap<String, Group>, Fault> {
    let mut values: BTreeMap<String, BTreeMap<&'static str, Vec<&str>>> = BTreeMap::new();
    for (name, value) in query.iter() {
        if let Some((kind, suffix)) = grouped(name, version) {
            values
                .entry(suffix.to_owned())
                .or_default()
                .entry(kind)
                .or_default()
                .push(value);
        }
    }
    let mut groups = BTreeMap::new();
    for (suffix, parts) in values {
        let all = |kind: &str| parts.get(kind).cloned().unwrap_or_default();
        let in_tree = all("in_tree").last().map(|text| {
            Uuid::parse_str(text).map_err(|_| invalid(&format!("'{text}' is not a 'uuid'")))
        });
        let group = Group {
            resources: all("resources")
                .last()
                .map(|text| query::resources(text))
                .transpose()?
                .unwrap_or_default(),
            traits: query::traits(&all("required"), version)?,
            in_tree: in_tree.transpose()?,
            members: query::member_of(&all("member_of"), version)?,
        };
        // From 1.36 a group without resources may take part in `same_subtree`.
        if group.resources.is_empty() && version < 36 {
            return Err(Fault::bad_request(
                "All traits and member_of parameters must be associated with resources.",
            ));
        }
        groups.insert(suffix, group);
    }
    if groups.values().all(|group| group.resources.is_empty()) {
        return Err(if version < 25 {
            invalid("'resources' is a required property")
        } else {
            Fault::bad_request(
                "At least one request group (`resources` or `resources{$S}`) is required.",
            )
        });
    }
    Ok(groups)
}

fn known(name: &str, version: u16) -> bool {
    let since = match name {
        "limit" => 16,
        "group_policy" => 25,
        "root_required" => 35,
        "same_subtree" => 36,
        _ => return grouped(name, version).is_some(),
    };
    version >= since
}

pub(crate) async fn list(call: Call) -> Result<Answer, Fault> {
    let version = call.version;
    let query = &call.query;
    query.only(|name| known(name, version))?;
    let groups = read_groups(query, version)?;
    let limit = match query.get("limit") {
        None => usize::MAX,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| *limit > 0)
            .ok_or_else(|| invalid(&format!("'{text}' is not a limit")))?,
    };
    let granular = groups.keys().filter(|suffix| !suffix.is_empty()).count();
    let isolated = match query.get("group_policy") {
        Some("none") => false,
        Some("isolate") => granular > 1,
        Some(other) => {
            return Err(invalid(&format!(
                "'{other}' is not one of ['none', 'isolate']"
            )));
        }
        None if granular > 1 => {
            return Err(Fault::bad_request(
                "The \"group_policy\" parameter is required when specifying more than one \"resources{N}\" parameter.",
            ));
        }
        None => false,
    };
    let root = query::traits(&query.all("root_required"), version)?;
    let mut total: BTreeMap<String, u64> = BTreeMap::new();
    for (class, amount) in groups.values().flat_map(|group| &group.resources) {
        *total.entry(class.clone()).or_default() += amount;
    }
    let satisfies = |view: &ProviderView| {
        let traits_fit =
            |traits: &WantedTraits| view.has_traits(&traits.required, &traits.forbidden);
        let group_fits = |group: &Group| {
            group.members.fit(&view.aggregates)
                && traits_fit(&group.traits)
                && group.in_tree.is_none_or(|tree| tree == view.provider.uuid)
        };
        !isolated && traits_fit(&root) && groups.values().all(group_fits) && view.has_room(&total)
    };
    let mut found: Vec<ProviderView> = view::read(call.store())
        .await?
        .into_iter()
        .filter(satisfies)
        .collect();
    found.truncate(limit);
    let suffixes: BTreeSet<&String> = groups.keys().collect();
    let requests: Vec<Value> = found
        .iter()
        .map(|view| request(view, &total, &suffixes, version))
        .collect();
    let summaries: Map<String, Value> = found
        .iter()
        .map(|view| {
            (
                view.provider.uuid.to_string(),
                summary(view, &total, version),
            )
        })
        .collect();
    Ok(Answer::json(
        json!({"allocation_requests": requests, "provider_summaries": summaries}),
    ))
}

/// An allocation request: the body of a PUT of allocations.
fn request(
    view: &ProviderView,
    total: &BTreeMap<String, u64>,
    suffixes: &BTreeSet<&String>,
    version: u16,
) -> Value {
    let uuid = view.provider.uuid.to_string();
    if version < 12 {
        return json!({"allocations": [{"resource_provider": {"uuid": uuid}, "resources": total}]});
    }
    let mut shown = json!({"allocations": {uuid.as_str(): {"resources": total}}});
    if version >= 34 {
        let mappings: Map<String, Value> = suffixes
            .iter()
            .map(|suffix| ((*suffix).clone(), json!([uuid])))
            .collect();
        shown["mappings"] = mappings.into();
    }
    shown
}

fn summary(view: &ProviderView, total: &BTreeMap<String, u64>, version: u16) -> Value {
    // Only what was asked for, before 1.27.
    let resources = usages::summary(view, |class| version >= 27 || total.contains_key(class));
    let mut shown = json!({"resources": resources});
    if version >= 17 {
        shown["traits"] = json!(view.traits);
    }
    if version >= 29 {
        shown["parent_provider_uuid"] = Value::Null;
        shown["root_provider_uuid"] = view.provider.uuid.to_string().into();
    }
    shown
}
