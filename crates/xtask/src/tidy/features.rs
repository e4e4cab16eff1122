//! Tests must not change what the binary is built from.
//!
//! Cargo builds a dependency once for each set of features. Where a dev-dependency turns on a feature that nothing
//! else asks for, `cargo test` builds that dependency, and all that stands on it, a second time.

use super::Finding;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Checks `cargo metadata --no-deps`.
pub fn check(metadata: &Value) -> Result<Vec<Finding>, String> {
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata names no packages")?;
    let shipped = shipped_features(packages);
    let mut findings = Vec::new();
    for (package, dependency) in dependencies(packages).filter(|(_, found)| is_dev(found)) {
        let name = dependency["name"].as_str().unwrap_or_default();
        let Some(known) = shipped.get(name) else {
            continue;
        };
        for feature in features(dependency).filter(|feature| !known.contains(feature)) {
            let room = package["name"].as_str().unwrap_or_default();
            let place = format!("crates/{}/Cargo.toml", super::layers::room_of(room));
            findings.push(Finding::at(
                &place,
                None,
                format!(
                    "only tests ask {name} for `{feature}`, so all that uses {name} is built twice: do without, or \
                     put it into the workspace's dependency"
                ),
            ));
        }
    }
    Ok(findings)
}

/// What each dependency is asked for outside tests, by any crate of the workspace.
fn shipped_features(packages: &[Value]) -> HashMap<&str, HashSet<&str>> {
    let mut shipped: HashMap<&str, HashSet<&str>> = HashMap::new();
    for (_, dependency) in dependencies(packages).filter(|(_, found)| !is_dev(found)) {
        if let Some(name) = dependency["name"].as_str() {
            shipped
                .entry(name)
                .or_default()
                .extend(features(dependency));
        }
    }
    shipped
}

fn dependencies(packages: &[Value]) -> impl Iterator<Item = (&Value, &Value)> {
    packages.iter().flat_map(|package| {
        let list = package["dependencies"].as_array();
        list.into_iter()
            .flatten()
            .map(move |found| (package, found))
    })
}

fn features(dependency: &Value) -> impl Iterator<Item = &str> {
    let list = dependency["features"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn is_dev(dependency: &Value) -> bool {
    dependency["kind"].as_str() == Some("dev")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    #[test]
    fn tests_add_no_features() {
        let normal = json!({"name": "tokio", "kind": null, "features": ["net", "time"]});
        let same = json!({"name": "tokio", "kind": "dev", "features": ["time"]});
        let more = json!({"name": "tokio", "kind": "dev", "features": ["test-util"]});
        let only_here = json!({"name": "proptest", "kind": "dev", "features": ["std"]});
        let cases = [
            (json!([normal, same]), 0),
            (json!([normal, only_here]), 0),
            (json!([normal, more]), 1),
        ];
        for (list, count) in cases {
            let metadata = json!({"packages": [{"name": "kilonova-virt", "dependencies": list}]});
            let findings = check(&metadata).unwrap();
            assert_eq!(findings.len(), count, "{findings:?}");
            assert!(
                findings
                    .iter()
                    .all(|found| found.place == "crates/virt/Cargo.toml")
            );
        }
    }
}
