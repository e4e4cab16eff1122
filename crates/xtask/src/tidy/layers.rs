//! Which crate may use which. Arrows point downwards only.

use super::Finding;
use serde_json::Value;

/// What a crate may depend on, by the names that the workspace gives its crates.
enum Uses {
    /// These and no others.
    Only(&'static [&'static str]),
    /// Everything: the binary wires implementations, tools and tests see all.
    All,
}

/// The table of rooms (`ARCHITECTURE.md`, "Map"). A new crate needs a row.
const ROOMS: &[(&str, Uses)] = &[
    ("types", Uses::Only(&[])),
    ("policy", Uses::Only(&["types"])),
    ("sql", Uses::Only(&["types"])),
    ("web", Uses::Only(&["types", "policy"])),
    ("db", Uses::Only(&["types", "sql"])),
    ("bus", Uses::Only(&["types"])),
    ("journal", Uses::Only(&["types", "sql", "db", "bus"])),
    ("clients", Uses::Only(&["types", "web"])),
    ("formats", Uses::Only(&[])),
    ("virt", Uses::Only(&["types", "formats"])),
    ("signatures", Uses::Only(&["types"])),
    ("scheduler", Uses::Only(&["types", "sql", "db"])),
    (
        "compute",
        Uses::Only(&["types", "virt", "web", "signatures"]),
    ),
    ("network-agent", Uses::Only(&["types", "web"])),
    ("metadata", Uses::Only(&["types", "db", "clients"])),
    (
        "conductor",
        Uses::Only(&[
            "types",
            "sql",
            "web",
            "db",
            "journal",
            "bus",
            "clients",
            "scheduler",
        ]),
    ),
    (
        "api",
        Uses::Only(&[
            "types",
            "sql",
            "db",
            "journal",
            "bus",
            "clients",
            "scheduler",
            "signatures",
            "web",
            "policy",
        ]),
    ),
    (
        "edge",
        Uses::Only(&["types", "sql", "web", "db", "clients", "metadata"]),
    ),
    (
        "placement",
        Uses::Only(&["types", "sql", "db", "web", "policy"]),
    ),
    ("identity", Uses::Only(&["types", "sql", "web", "policy"])),
    (
        "image",
        Uses::Only(&["types", "sql", "web", "policy", "formats"]),
    ),
    ("network", Uses::Only(&["types", "sql", "web", "policy"])),
    (
        "volume",
        Uses::Only(&["types", "sql", "web", "policy", "formats"]),
    ),
    (
        "key-manager",
        Uses::Only(&["types", "sql", "web", "policy"]),
    ),
    ("kilonova", Uses::All),
    ("testkit", Uses::All),
    ("xtask", Uses::All),
];

/// Crates for development: only tests may depend on them.
const DEVELOPMENT_ONLY: &[&str] = &["testkit", "xtask"];

/// Checks `cargo metadata --no-deps` against the table.
pub fn check(metadata: &Value) -> Result<Vec<Finding>, String> {
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata names no packages")?;
    let mut findings = Vec::new();
    for package in packages {
        let room = room_of(package["name"].as_str().unwrap_or_default());
        let place = format!("crates/{room}/Cargo.toml");
        let Some((_, uses)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            findings.push(Finding::at(
                &place,
                None,
                "this crate has no row in crates/xtask/src/tidy/layers.rs",
            ));
            continue;
        };
        if matches!(
            package["description"].as_str(),
            None | Some("" | "TBD" | "TODO")
        ) {
            findings.push(Finding::at(
                &place,
                None,
                "say in `description` what the crate is for",
            ));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if let Some(what) = forbidden(room, uses, dependency) {
                findings.push(Finding::at(&place, None, what));
            }
        }
    }
    Ok(findings)
}

fn forbidden(room: &str, uses: &Uses, dependency: &Value) -> Option<String> {
    // Only crates of this workspace have a path.
    dependency["path"].as_str()?;
    let other = room_of(dependency["name"].as_str()?);
    if dependency["kind"].as_str() == Some("dev") {
        return None;
    }
    if DEVELOPMENT_ONLY.contains(&other) && !DEVELOPMENT_ONLY.contains(&room) {
        return Some(format!(
            "{other} is for tests: move it to [dev-dependencies]"
        ));
    }
    match uses {
        Uses::All => None,
        Uses::Only(allowed) if allowed.contains(&other) => None,
        Uses::Only(allowed) => Some(format!(
            "{room} may not use {other} (allowed: {})",
            if allowed.is_empty() {
                "nothing".to_owned()
            } else {
                allowed.join(", ")
            }
        )),
    }
}

/// `kilonova-types` is the room `types`.
pub(super) fn room_of(package: &str) -> &str {
    package.strip_prefix("kilonova-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn one(name: &str, dependencies: Value) -> Vec<String> {
        let metadata = json!({"packages": [
            {"name": name, "description": "a room", "dependencies": dependencies}
        ]});
        check(&metadata)
            .unwrap()
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn arrows_point_downwards() {
        let path = "somewhere";
        let down = json!([{"name": "kilonova-types", "kind": null, "path": path}]);
        let up = json!([{"name": "kilonova-api", "kind": null, "path": path}]);
        let test = json!([{"name": "kilonova-testkit", "kind": "dev", "path": path}]);
        let shipped = json!([{"name": "kilonova-testkit", "kind": null, "path": path}]);
        let foreign = json!([{"name": "api", "kind": null, "path": null}]);

        assert!(one("kilonova-db", down.clone()).is_empty());
        assert!(one("kilonova-db", test).is_empty());
        assert!(one("kilonova-db", foreign).is_empty());
        assert!(one("kilonova", up.clone()).is_empty());
        assert_eq!(
            one("kilonova-db", up),
            ["db may not use api (allowed: types, sql)"]
        );
        assert_eq!(
            one(
                "kilonova-types",
                json!([{"name": "kilonova-sql", "kind": "build", "path": path}])
            ),
            ["types may not use sql (allowed: nothing)"]
        );
        assert_eq!(
            one("kilonova", shipped),
            ["testkit is for tests: move it to [dev-dependencies]"]
        );
        assert_eq!(
            one("kilonova-attic", down),
            ["this crate has no row in crates/xtask/src/tidy/layers.rs"]
        );
    }

    #[test]
    fn the_table_itself_has_no_circle() {
        // Every allowed crate stands above the one that uses it, so a walk down the table never comes back.
        for (index, (name, uses)) in ROOMS.iter().enumerate() {
            let Uses::Only(allowed) = uses else { continue };
            for other in *allowed {
                let above = ROOMS.iter().position(|(room, _)| room == other).unwrap();
                assert!(above < index, "{name} uses {other}, which stands below it");
            }
        }
    }
}
