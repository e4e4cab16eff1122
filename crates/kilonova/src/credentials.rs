//! `clouds.yaml` and `openrc`: written when every endpoint answers, so their presence means "ready". And where the cloud's
//! services are, for tools that are not given its command line.

use crate::home::{Home, write_private};
use crate::settings::Settings;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The file that says where the services of a cloud are that one process runs.
const ENDPOINTS: &str = "endpoints";

/// Who can log in.
pub(crate) struct Logins {
    /// Where: the identity service's URL, ending in `/v3`.
    pub(crate) auth_url: String,
    /// The authority of its certificate, unless clients know it already.
    pub(crate) authority: Option<PathBuf>,
    /// The user `admin`.
    pub(crate) admin_password: String,
    /// The user `demo`.
    pub(crate) demo_password: String,
}

/// Removes the files of an earlier run.
pub(crate) fn withdraw(home: &Home) {
    for name in ["openrc", "clouds.yaml", ENDPOINTS] {
        // A file that is not there is what is wanted.
        let _ = std::fs::remove_file(home.path.join(name));
    }
}

/// Writes both.
pub(crate) fn publish(home: &Home, logins: &Logins) -> Result<()> {
    let cacert = match &logins.authority {
        Some(path) => format!("    cacert: {}\n", path.display()),
        None => String::new(),
    };
    let cloud = |name: &str, user: &str, password: &str| {
        format!(
            "  {name}:\n    region_name: RegionOne\n    identity_api_version: 3\n{cacert}    auth:\n      auth_url: {url}\n      username: {user}\n      \
             password: {password}\n      project_name: {user}\n      user_domain_name: Default\n      project_domain_name: Default\n",
            url = logins.auth_url
        )
    };
    let clouds = format!(
        "clouds:\n{}{}",
        cloud("kilonova", "admin", &logins.admin_password),
        cloud("kilonova-demo", "demo", &logins.demo_password)
    );
    let mut openrc = format!(
        "export OS_AUTH_URL={}\nexport OS_USERNAME=admin\nexport OS_PASSWORD={}\nexport OS_PROJECT_NAME=admin\n\
         export OS_USER_DOMAIN_NAME=Default\nexport OS_PROJECT_DOMAIN_NAME=Default\nexport OS_IDENTITY_API_VERSION=3\n\
         export OS_REGION_NAME=RegionOne\n",
        logins.auth_url, logins.admin_password
    );
    if let Some(path) = &logins.authority {
        openrc.push_str(&format!("export OS_CACERT={}\n", path.display()));
    }
    write_private(&home.path.join("clouds.yaml"), &clouds)?;
    write_private(&home.path.join("openrc"), &openrc)
}

/// Says where the services are that `up` runs: its command line may have other ports than the file.
pub(crate) fn publish_endpoints(home: &Home, settings: &Settings) -> Result<()> {
    let text = format!(
        "image {}\nnetwork {}\nvolume {}\nkey-manager {}\n",
        settings.image_url(),
        settings.network_url(),
        settings.volume_url(),
        settings.key_manager_url()
    );
    write_private(&home.path.join(ENDPOINTS), &text)
}

/// Takes over where the services of the cloud in `home` are, if it said so; what is set otherwise stays.
pub(crate) fn take_endpoints(home: &Path, settings: &mut Settings) {
    let Ok(text) = std::fs::read_to_string(home.join(ENDPOINTS)) else {
        return;
    };
    for (service, url) in text.lines().filter_map(|line| line.split_once(' ')) {
        let target = match service {
            "image" => &mut settings.image_endpoint,
            "network" => &mut settings.network_endpoint,
            "volume" => &mut settings.volume_endpoint,
            "key-manager" => &mut settings.key_manager_endpoint,
            _ => continue,
        };
        if target.is_empty() {
            url.clone_into(target);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tool_finds_the_services_of_the_cloud_that_runs() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let mut up = Settings::default();
        (up.network_port, up.volume_port) = (1234, 2345);
        let mut tool = Settings::default();
        take_endpoints(&home.path, &mut tool);
        assert_eq!(tool.network_url(), "http://127.0.0.1:9696");
        publish_endpoints(&home, &up).unwrap();
        tool.volume_endpoint = "http://elsewhere".to_owned();
        take_endpoints(&home.path, &mut tool);
        assert_eq!(tool.network_url(), "http://127.0.0.1:1234");
        assert_eq!(tool.image_url(), up.image_url());
        assert_eq!(tool.volume_url(), "http://elsewhere", "the operator's word");
        withdraw(&home);
        let mut later = Settings::default();
        take_endpoints(&home.path, &mut later);
        assert_eq!(later.network_url(), "http://127.0.0.1:9696");
    }
}
