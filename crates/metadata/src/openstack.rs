//! The tree under `/openstack`.

use crate::{Found, Guest, bytes, version_index};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

/// The versions, oldest first. Each adds to the one before; nothing is ever taken away.
pub const VERSIONS: &[&str] = &[
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "2025-04-04",
];

pub(crate) const META_DATA: &str = "meta_data.json";
pub(crate) const USER_DATA: &str = "user_data";
pub(crate) const VENDOR_DATA: &str = "vendor_data.json";
pub(crate) const VENDOR_DATA2: &str = "vendor_data2.json";
pub(crate) const NETWORK_DATA: &str = "network_data.json";
const PASSWORD: &str = "password";

/// Whether `version`, which must be a known one or `latest`, is `since` or newer.
/// Where the content of the injected file of this number is, below `openstack`.
pub(crate) fn content_path(number: usize) -> String {
    format!("content/{number:04}")
}

pub(crate) fn at_least(version: &str, since: &str) -> bool {
    version_index(VERSIONS, version) >= version_index(VERSIONS, since)
}

impl Guest {
    pub(crate) fn openstack_item(
        &self,
        version: &str,
        rest: &[&str],
        seed: &[u8],
    ) -> Option<Found> {
        version_index(VERSIONS, version)?;
        let since = |date| at_least(version, date).then_some(());
        match rest {
            [] => Some(Found::Text(self.names(version).join("\n").into_bytes())),
            [META_DATA] => Some(Found::Json(bytes(&self.meta_data(version, seed)))),
            [USER_DATA] => self.user_data().map(Found::Text),
            [PASSWORD] => since("2013-04-04").map(|()| Found::Password),
            [VENDOR_DATA] => since("2013-10-17").map(|()| Found::Json(bytes(&self.vendor))),
            // Nova neither hides this from older versions nor labels it as JSON.
            [NETWORK_DATA] => Some(Found::Text(bytes(&self.network_data()))),
            [VENDOR_DATA2] => {
                since("2016-10-06").map(|()| Found::Json(bytes(&json!({ "static": self.vendor }))))
            }
            _ => None,
        }
    }

    /// The names in a version's folder, in Nova's order.
    fn names(&self, version: &str) -> Vec<&'static str> {
        let mut names = vec![META_DATA];
        if self.user_data().is_some() {
            names.push(USER_DATA);
        }
        let dated = [
            ("2013-04-04", PASSWORD),
            ("2013-10-17", VENDOR_DATA),
            ("2015-10-15", NETWORK_DATA),
            ("2016-10-06", VENDOR_DATA2),
        ];
        names.extend(
            dated
                .iter()
                .filter(|(since, _)| at_least(version, since))
                .map(|(_, name)| *name),
        );
        names
    }

    /// `meta_data.json` of a version that is known.
    pub(crate) fn meta_data(&self, version: &str, seed: &[u8]) -> Value {
        let instance = &self.instance;
        let mut document = Map::new();
        let mut add = |name: &str, value: Value| document.insert(name.to_owned(), value);
        add("uuid", json!(instance.id));
        if !instance.metadata.is_empty() {
            add("meta", json!(instance.metadata));
        }
        if let Some(password) = &self.admin_pass {
            add("admin_pass", json!(password));
        }
        if let Some(key) = &self.keypair {
            let mut by_name = Map::new();
            by_name.insert(key.name.clone(), json!(key.public_key));
            add("public_keys", Value::Object(by_name));
            let full = json!([{ "name": key.name, "type": key.kind, "data": key.public_key }]);
            add("keys", full);
        }
        if !self.files.is_empty() {
            let list = self.files.iter().enumerate().map(|(number, (path, _))| {
                json!({ "content_path": format!("/{}", content_path(number)), "path": path })
            });
            add("files", Value::Array(list.collect()));
        }
        add("hostname", json!(self.hostname()));
        add("name", json!(instance.display_name));
        add("launch_index", json!(instance.launch_index));
        add("availability_zone", json!(self.availability_zone));
        if at_least(version, "2013-04-04") {
            add("random_seed", json!(BASE64_STANDARD.encode(seed)));
        }
        if at_least(version, "2015-10-15") {
            add("project_id", json!(instance.project_id));
        }
        if at_least(version, "2016-06-30") {
            add("devices", self.devices(version));
        }
        if at_least(version, "2020-10-14") {
            add("dedicated_cpus", json!([]));
        }
        Value::Object(document)
    }

    /// The devices that the owner tagged.
    fn devices(&self, version: &str) -> Value {
        let tagged = self
            .instance
            .network_info
            .iter()
            .filter_map(|vif| Some((vif, vif.tag.as_ref()?)));
        let nics = tagged.map(|(vif, tag)| {
            let mut nic = json!({
                "type": "nic", "mac": vif.mac, "bus": "none", "address": "none", "tags": [tag],
            });
            if at_least(version, "2018-08-27") {
                nic["vf_trusted"] = json!(false);
            }
            nic
        });
        let disks = self.devices.iter().filter_map(|device| {
            let tag = device.tag.as_ref()?;
            let mut disk =
                json!({ "type": "disk", "bus": "none", "address": "none", "tags": [tag] });
            if let Some(volume) = &device.volume_id {
                disk["serial"] = json!(volume);
            }
            if let Some(name) = &device.device_name {
                disk["path"] = json!(name);
            }
            Some(disk)
        });
        Value::Array(nics.chain(disks).collect())
    }
}
