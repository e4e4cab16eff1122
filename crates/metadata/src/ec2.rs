//! The EC2 tree. Ids there are eight hexadecimal digits: the server's number, and for images the first 32 bits of
//! their UUID (Nova numbers images in a table of its own; guests only show the id).

use crate::{Found, Guest, version_index};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The versions, oldest first.
pub const VERSIONS: &[&str] = &[
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
];

/// In place of a folder's own name, the name its parent's listing shows.
const SHOWN_AS: &str = "_name";

impl Guest {
    pub(crate) fn ec2_item(
        &self,
        version: &str,
        rest: &[&str],
        address: Option<&str>,
    ) -> Option<Found> {
        version_index(VERSIONS, version)?;
        match rest.split_first() {
            None => {
                let user_data = self.user_data().map(|_| "\nuser-data").unwrap_or_default();
                Some(Found::Text(format!("meta-data/{user_data}").into_bytes()))
            }
            Some((&"user-data", [])) => self.user_data().map(Found::Text),
            Some((&"meta-data", rest)) => {
                let tree = self.ec2_meta_data(version, address);
                let mut place = &tree;
                for name in rest {
                    place = place.as_object()?.get(*name)?;
                }
                Some(Found::Text(print(place).into_bytes()))
            }
            Some(_) => None,
        }
    }

    /// `meta-data` of a version that is known.
    pub(crate) fn ec2_meta_data(&self, version: &str, address: Option<&str>) -> Value {
        let instance = &self.instance;
        let since = |date| version_index(VERSIONS, version) >= version_index(VERSIONS, date);
        let image = instance.image.as_ref();
        let groups: Vec<&str> = instance
            .security_groups
            .iter()
            .map(|group| group.name.as_str())
            .collect();
        let mut tree = json!({
            "ami-id": ec2_id("ami", image.map(|image| image.id.to_string()).as_deref().unwrap_or_default()),
            "ami-launch-index": instance.launch_index,
            // What Nova answers: there are no manifests.
            "ami-manifest-path": "FIXME",
            "instance-id": format!("i-{:08x}", instance.number),
            "hostname": self.hostname(),
            "local-ipv4": self.first_ipv4("fixed").or(address),
            "reservation-id": instance.reservation_id,
            "security-groups": groups,
        });
        if let Some(key) = &self.keypair {
            tree["public-keys"] = json!({
                "0": { SHOWN_AS: format!("0={}", key.name), "openssh-key": key.public_key },
            });
        }
        if since("2007-01-19") {
            tree["local-hostname"] = json!(self.hostname());
            tree["public-hostname"] = json!(self.hostname());
            tree["public-ipv4"] = json!(self.first_ipv4("floating").unwrap_or_default());
        }
        if since("2007-08-29") {
            tree["instance-type"] = json!(instance.flavor.name);
        }
        if since("2007-12-15") {
            tree["block-device-mapping"] = self.block_devices();
            for (name, property, kind) in [
                ("kernel-id", "kernel_id", "aki"),
                ("ramdisk-id", "ramdisk_id", "ari"),
            ] {
                if let Some(id) = image.and_then(|image| image.properties.get(property)) {
                    tree[name] = json!(ec2_id(kind, id));
                }
            }
        }
        if since("2008-02-01") {
            tree["placement"] = json!({ "availability-zone": self.availability_zone });
        }
        if since("2008-09-01") {
            tree["instance-action"] = json!("none");
        }
        tree
    }

    /// Of a server without a known root device Nova says what EC2's first machines had.
    fn block_devices(&self) -> Value {
        let Some(root) = &self.instance.root_device_name else {
            return json!({ "ami": "sda1", "root": "/dev/sda1", "ephemeral0": "sda2", "swap": "sda3" });
        };
        let mut mapping =
            json!({ "ami": root.strip_prefix("/dev/").unwrap_or(root), "root": root });
        let mut volumes: Vec<Option<&str>> = Vec::new();
        let mut empty = 0;
        for device in &self.devices {
            let name = device.device_name.as_deref();
            if device.is_volume() {
                volumes.push(name);
            } else if device.is_swap() {
                mapping["swap"] = json!(name);
            } else if device.is_ephemeral() {
                mapping[format!("ephemeral{empty}")] = json!(name);
                empty += 1;
            }
        }
        volumes.sort_unstable();
        for (number, name) in volumes.into_iter().enumerate() {
            mapping[format!("ebs{number}")] = json!(name);
        }
        mapping
    }

    fn first_ipv4(&self, kind: &str) -> Option<&str> {
        let addresses = self
            .instance
            .network_info
            .iter()
            .flat_map(|vif| &vif.addresses);
        let mut fitting = addresses.filter(|address| address.version == 4 && address.kind == kind);
        fitting.next().map(|address| address.ip.as_str())
    }
}

fn ec2_id(kind: &str, id: &str) -> String {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("{kind}-{:0>8}", digits.to_ascii_lowercase())
}

/// A place of the tree as the service shows it.
fn print(place: &Value) -> String {
    match place {
        Value::Object(folder) => folder_listing(folder),
        Value::Array(lines) => {
            let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
            lines.join("\n")
        }
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn folder_listing(folder: &Map<String, Value>) -> String {
    let names: BTreeSet<&String> = folder.keys().filter(|name| *name != SHOWN_AS).collect();
    let lines = names.into_iter().map(|name| match &folder[name] {
        Value::Object(inner) => match inner.get(SHOWN_AS).and_then(Value::as_str) {
            Some(shown) => shown.to_owned(),
            None => format!("{name}/"),
        },
        _ => name.clone(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
