//! The files of a config drive: both trees, of the EC2 versions only the newest (Nova's default of
//! `config_drive_skip_versions`).

use crate::openstack::{
    META_DATA, NETWORK_DATA, USER_DATA, VENDOR_DATA, VENDOR_DATA2, VERSIONS, at_least, content_path,
};
use crate::{EC2_VERSIONS, Guest, LATEST, bytes};
use serde_json::json;

impl Guest {
    /// `(path, content)` of every file, folders implied. For `seed` see [`Guest::lookup`].
    pub fn config_drive_files(&self, seed: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let user_data = self.user_data();
        for version in EC2_VERSIONS.last().into_iter().chain(&[LATEST]) {
            if let Some(content) = &user_data {
                files.push((format!("ec2/{version}/user-data"), content.clone()));
            }
            let meta_data = bytes(&self.ec2_meta_data(version, None));
            files.push((format!("ec2/{version}/meta-data.json"), meta_data));
        }
        let vendor = bytes(&self.vendor);
        let vendor2 = bytes(&json!({ "static": self.vendor }));
        let network = bytes(&self.network_data());
        for version in VERSIONS.iter().chain(&[LATEST]) {
            let mut add = |name, content: &[u8]| {
                files.push((format!("openstack/{version}/{name}"), content.to_vec()));
            };
            add(META_DATA, &bytes(&self.meta_data(version, seed)));
            if let Some(content) = &user_data {
                add(USER_DATA, content);
            }
            for (since, name, content) in [
                ("2013-10-17", VENDOR_DATA, &vendor),
                ("2015-10-15", NETWORK_DATA, &network),
                ("2016-10-06", VENDOR_DATA2, &vendor2),
            ] {
                if at_least(version, since) {
                    add(name, content);
                }
            }
        }
        for (number, (_, content)) in self.files.iter().enumerate() {
            files.push((
                format!("openstack/{}", content_path(number)),
                content.clone(),
            ));
        }
        files
    }
}
