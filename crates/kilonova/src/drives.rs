//! The contents of config drives, made when a host pulls the work.

use clients::{Networks, ServiceTokens};
use conductor::agents::ConfigDrives;
use edge::secrets::{SecretBox, Secrets};
use sql::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::ServerId;

/// Opens the files that a request wanted in its guest: `[[path, base64], ...]`.
fn injected_files(secrets: &SecretBox, sealed: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    use base64::Engine;
    let clear = secrets
        .open(sealed)
        .ok_or("injected files cannot be opened")?;
    let files: Vec<(String, String)> =
        serde_json::from_str(&clear).map_err(|error| error.to_string())?;
    files
        .into_iter()
        .map(|(path, content)| {
            let plain: String = content.split_ascii_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(plain);
            Ok((path, bytes.map_err(|error| error.to_string())?))
        })
        .collect()
}

/// Makes the contents of config drives when a host pulls the work.
pub(crate) struct Drives {
    pub(crate) store: Store,
    pub(crate) networks: Arc<Networks>,
    pub(crate) tokens: Arc<dyn ServiceTokens>,
    pub(crate) secrets: Arc<SecretBox>,
}

#[async_trait::async_trait]
impl ConfigDrives for Drives {
    fn open(&self, sealed: &str) -> Option<String> {
        self.secrets.open(sealed)
    }

    async fn files(&self, server: ServerId) -> Result<Vec<(String, String)>, String> {
        use base64::Engine;
        let found: Result<_, sql::Error> = self
            .store
            .read(move |tx| {
                Ok((
                    db::instances::get(tx, server)?,
                    db::injected_files::get(tx, server)?,
                    db::block_devices::of_server(tx, server)?,
                ))
            })
            .await;
        let (instance, sealed, devices) = found.map_err(|error| error.to_string())?;
        let instance = instance.ok_or("the server is gone")?;
        let injected = sealed.map(|sealed| injected_files(&self.secrets, &sealed));
        let token = self
            .tokens
            .token()
            .await
            .map_err(|error| error.to_string())?;
        let mut subnets = BTreeMap::new();
        for interface in &instance.network_info {
            let of_network = self.networks.subnets(&token, &interface.network_id).await;
            subnets.insert(
                interface.network_id.clone(),
                of_network.map_err(|error| error.to_string())?,
            );
        }
        let admin_pass = instance
            .sealed_password()
            .and_then(|sealed| self.secrets.open(sealed));
        let mut guest = metadata::Guest::new(instance);
        guest.subnets = subnets;
        guest.devices = devices;
        guest.admin_pass = admin_pass;
        guest.files = injected.transpose()?.unwrap_or_default();
        let seed: [u8; metadata::SEED_BYTES] = std::array::from_fn(|_| rand::random());
        let encode = |content: Vec<u8>| base64::engine::general_purpose::STANDARD.encode(content);
        Ok(guest
            .config_drive_files(&seed)
            .into_iter()
            .map(|(path, content)| (path, encode(content)))
            .collect())
    }
}
