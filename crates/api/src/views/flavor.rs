//! A flavor (API reference, "Flavors").

use super::{Fields, View};
use crate::links::Link;
use crate::mv;
use serde::ser::SerializeMap;
use std::collections::BTreeMap;

/// A flavor in full.
pub struct FlavorView {
    /// What is shown of it.
    pub record: db::flavors::Record,
    /// Its links.
    pub links: [Link; 2],
    /// Whether the caller may see the extra specs.
    pub with_specs: bool,
}

impl View for FlavorView {
    fn fields<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error> {
        let flavor = &self.record.flavor;
        out.always("id", &flavor.id)?;
        out.always("name", &flavor.name)?;
        out.always("ram", &flavor.memory_mb)?;
        out.always("disk", &flavor.root_gb)?;
        match flavor.swap_mb {
            0 if out.version() < mv::STRICT => out.always("swap", "")?,
            swap => out.always("swap", &swap)?,
        }
        out.always("OS-FLV-EXT-DATA:ephemeral", &flavor.ephemeral_gb)?;
        out.until(
            mv::STRICTER,
            "OS-FLV-DISABLED:disabled",
            &self.record.disabled,
        )?;
        out.always("vcpus", &flavor.vcpus)?;
        out.always("os-flavor-access:is_public", &self.record.is_public)?;
        out.until(mv::STRICTER, "rxtx_factor", &flavor.rxtx_factor)?;
        out.always("links", &self.links)?;
        out.since(
            mv::FLAVOR_DESCRIPTION,
            "description",
            &self.record.description,
        )?;
        let specs: Option<&BTreeMap<String, String>> =
            self.with_specs.then_some(&flavor.extra_specs);
        out.maybe(mv::FLAVOR_EXTRA_SPECS, "extra_specs", specs)
    }
}

/// A flavor in a list without details.
pub struct FlavorName(pub FlavorView);

impl View for FlavorName {
    fn fields<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error> {
        out.always("id", &self.0.record.flavor.id)?;
        out.always("name", &self.0.record.flavor.name)?;
        out.always("links", &self.0.links)?;
        out.since(
            mv::FLAVOR_DESCRIPTION,
            "description",
            &self.0.record.description,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Links;
    use types::Timestamp;

    #[test]
    fn history_of_a_flavor() {
        let links = Links {
            origin: "http://c".into(),
            version: "v2.1",
            project: None,
        };
        let view = FlavorView {
            record: db::flavors::Record {
                row: 1,
                flavor: types::server::Flavor {
                    id: "7".into(),
                    name: "m1.nano".into(),
                    memory_mb: 64,
                    vcpus: 1,
                    root_gb: 1,
                    ephemeral_gb: 0,
                    swap_mb: 0,
                    rxtx_factor: 1.0,
                    extra_specs: BTreeMap::from([("hw:a".to_owned(), "b".to_owned())]),
                },
                description: None,
                is_public: true,
                disabled: false,
                created_at: Timestamp(0),
                updated_at: None,
            },
            links: links.pair("flavors", "7"),
            with_specs: true,
        };
        let wanted = "\
2.1 + id: \"7\"
2.1 + name: \"m1.nano\"
2.1 + ram: 64
2.1 + disk: 1
2.1 + swap: \"\"
2.1 + OS-FLV-EXT-DATA:ephemeral: 0
2.1 + OS-FLV-DISABLED:disabled: false
2.1 + vcpus: 1
2.1 + os-flavor-access:is_public: true
2.1 + rxtx_factor: 1.0
2.1 + links: [{\"href\":\"http://c/v2.1/flavors/7\",\"rel\":\"self\"},{\"href\":\"http://c/flavors/7\",\"rel\":\"bookmark\"}]
2.55 + description: null
2.61 + extra_specs: {\"hw:a\":\"b\"}
2.75 ~ swap: 0
2.102 - OS-FLV-DISABLED:disabled
2.102 - rxtx_factor
";
        assert_eq!(crate::views::history(&view), wanted);
    }
}
