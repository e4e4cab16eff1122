//! `clouds.yaml` and `openrc`: written when every endpoint answers, so their presence means "ready".

use crate::home::{Home, write_private};
use anyhow::Result;
use std::path::PathBuf;

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
    for name in ["openrc", "clouds.yaml"] {
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
