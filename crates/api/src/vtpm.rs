//! Emulated TPMs: the secrets in the key manager with the passphrases of what they remember, and what servers with such a
//! device cannot do (Nova's `compute/api.py`, `crypto.py` and `vtpm.py`).
//!
//! A secret is its user's, and only the user's token opens it: it is made, read and deleted here, while there is a request.
//! Whatever starts the guest gets the passphrase with its task, sealed, and that goes with the task.

use crate::Inner;
use crate::call::Call;
use crate::faults::Fault;
use crate::neighbours::unavailable;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clients::{KeyError, SecretType};
use db::accept;
use db::instances::{self, Instance, VtpmSecret};
use sql::Tx;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::ServerId;
use types::server::Flavor;
use types::tpm::{Security, Wanted};

/// Random bytes of a passphrase; it is their base64, as in Nova.
const BYTES: usize = 384;

/// The TPM that a server has with a flavor. What cannot be meant was refused when it was asked for.
fn with_flavor(server: &Instance, flavor: &Flavor) -> Option<Wanted> {
    let nothing = BTreeMap::new();
    let image = server.image_properties().unwrap_or(&nothing);
    scheduler::tpm(flavor, image).ok().flatten()
}

fn unsupported(server: ServerId, operation: &str) -> Fault {
    Fault::bad_request(format!(
        "Operation '{operation}' not supported for vTPM-enabled instance ({server})."
    ))
}

/// Refuses what a server with a TPM cannot do.
pub fn refuse(server: &Instance, operation: &str) -> Result<(), Fault> {
    match with_flavor(server, &server.flavor) {
        Some(_) => Err(unsupported(server.id, operation)),
        None => Ok(()),
    }
}

/// Only a host that keeps the passphrase can give it to another.
pub fn refuse_live(server: &Instance) -> Result<(), Fault> {
    match with_flavor(server, &server.flavor) {
        Some(tpm) if tpm.security != Security::Host => {
            Err(unsupported(server.id, "live-migration"))
        }
        _ => Ok(()),
    }
}

/// Refuses a new image that would give the server a TPM.
pub fn refuse_image(
    server: &Instance,
    properties: &BTreeMap<String, String>,
    operation: &str,
) -> Result<(), Fault> {
    match scheduler::tpm(&server.flavor, properties) {
        Ok(Some(_)) => Err(unsupported(server.id, operation)),
        _ => Ok(()),
    }
}

/// Refuses a flavor for which the secret would have to become somebody else's.
pub fn refuse_flavor(server: &Instance, flavor: &Flavor) -> Result<(), Fault> {
    let (Some(new), Some(secret)) = (with_flavor(server, flavor), server.kept.vtpm_secret) else {
        return Ok(());
    };
    if (new.security == Security::Deployment) == secret.of_cloud {
        return Ok(());
    }
    Err(Fault::bad_request(
        "Resize between 'deployment' TPM secret security and other TPM secret security modes is not supported.",
    ))
}

/// A secret, and what goes with a task.
#[derive(Clone)]
pub struct Handed {
    secret: VtpmSecret,
    /// It was made for this request.
    new: bool,
    /// The passphrase; none where its host must have it, or needs none.
    sealed: Option<String>,
}

impl Handed {
    /// Writes it to a server that is on record, and to the task that works on it.
    pub fn keep(&self, tx: &mut Tx<'_>, server: &mut Instance) -> Result<(), Fault> {
        if self.new {
            if server.kept.vtpm_secret.is_some() {
                let id = server.id;
                return Err(Fault::conflict(format!(
                    "Instance {id} has changed meanwhile; try again"
                )));
            }
            server.kept.vtpm_secret = Some(self.secret);
            instances::set_kept(tx, server.id, &server.kept)?;
        }
        Ok(self.hand_over(tx, server.id)?)
    }

    /// Where the passphrase of a new server's TPM is.
    pub fn secret(&self) -> VtpmSecret {
        self.secret
    }

    /// Gives the passphrase to the task that works on a server.
    pub fn hand_over(&self, tx: &mut Tx<'_>, server: ServerId) -> Result<(), sql::Error> {
        match &self.sealed {
            Some(sealed) => db::tasks::hand_passphrase(tx, server, sealed),
            None => Ok(()),
        }
    }
}

async fn token(call: &Call, of_cloud: bool) -> Result<String, Fault> {
    token_of(&call.api, &call.token, of_cloud).await
}

/// The cloud's token, or that of the request.
async fn token_of(api: &Inner, token: &str, of_cloud: bool) -> Result<String, Fault> {
    if of_cloud {
        return api.deps.tokens.token().await.map_err(unavailable);
    }
    Ok(token.to_owned())
}

fn fault(server: ServerId, error: KeyError) -> Fault {
    match error {
        KeyError::NotAllowed(said) => {
            Fault::forbidden(format!("The vTPM secret of instance {server}: {said}"))
        }
        KeyError::NotFound(_) => Fault::conflict(format!(
            "The vTPM secret of instance {server} is not in the key manager any more."
        )),
        KeyError::Unreachable(reason) | KeyError::Unexpected(reason) => {
            tracing::warn!(%server, reason, "the key manager failed");
            Fault::unavailable(
                "A service that this request needs does not answer: the key manager.",
            )
        }
    }
}

/// Makes the secret of a server.
async fn make(call: &Call, server: ServerId, tpm: Wanted) -> Result<Handed, Fault> {
    let of_cloud = tpm.security == Security::Deployment;
    let random: Vec<u8> = (0..BYTES).map(|_| rand::random()).collect();
    let passphrase = STANDARD.encode(random);
    let name = format!("vTPM secret for instance {server}");
    let token = token(call, of_cloud).await?;
    let keys = &call.api.deps.keys;
    let kind = SecretType::Passphrase;
    let stored = keys.store(&token, &name, kind, passphrase.as_bytes()).await;
    let id = stored.map_err(|error| fault(server, error))?;
    let id = id.parse().map_err(|_| {
        let words = format!("a secret is called {id}, which is no UUID");
        fault(server, KeyError::Unexpected(words))
    })?;
    Ok(Handed {
        secret: VtpmSecret { id, of_cloud },
        new: true,
        sealed: Some(call.api.deps.secrets.seal(&passphrase)),
    })
}

/// Makes the secrets of new servers; all or none.
pub async fn make_all(
    call: &Call,
    servers: &[ServerId],
    tpm: Wanted,
) -> Result<Vec<Handed>, Fault> {
    let mut all = Unused {
        call,
        made: Vec::new(),
    };
    for server in servers {
        match make(call, *server, tpm).await {
            Ok(made) => all.made.push(made),
            Err(error) => {
                take_back(call, &all.keep()).await;
                return Err(error);
            }
        }
    }
    Ok(all.keep())
}

/// Secrets that are being made for a request: they are deleted when its client leaves.
struct Unused<'a> {
    call: &'a Call,
    made: Vec<Handed>,
}

impl Unused<'_> {
    fn keep(&mut self) -> Vec<Handed> {
        std::mem::take(&mut self.made)
    }
}

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        let made = self.keep();
        if made.is_empty() {
            return;
        }
        let (api, token) = (Arc::clone(&self.call.api), self.call.token.clone());
        tokio::spawn(async move {
            for handed in made {
                forget_with(&api, &token, handed.secret).await;
            }
        });
    }
}

/// The passphrase of the TPM that a server gets or has. `needed`: the host must have it from here.
async fn of_server(
    call: &Call,
    server: &Instance,
    tpm: Wanted,
    needed: bool,
) -> Result<Handed, Fault> {
    let Some(secret) = server.kept.vtpm_secret else {
        return make(call, server.id, tpm).await;
    };
    let handed = |sealed| Handed {
        secret,
        new: false,
        sealed,
    };
    if !needed && tpm.security != Security::Host {
        return Ok(handed(None));
    }
    let token = token(call, secret.of_cloud).await?;
    let id = secret.id.to_string();
    match call.api.deps.keys.payload(&token, &id).await {
        Ok(payload) => {
            let text = String::from_utf8_lossy(&payload.0);
            Ok(handed(Some(call.api.deps.secrets.seal(&text))))
        }
        // The host has kept it.
        Err(_) if !needed => Ok(handed(None)),
        Err(error) => Err(fault(server.id, error)),
    }
}

/// What a flow needs that starts the guest as the server is, or was before it was resized.
pub async fn for_flow(call: &Call, server: &Instance, flow: &str) -> Result<Option<Handed>, Fault> {
    let (flavor, starts) = match (flow, &server.kept.unsettled) {
        (accept::REVERT_RESIZE, Some(moving)) => (&moving.old_flavor, moving.ran),
        (accept::START | accept::REBOOT | accept::RESUME | accept::RESTORE, _) => {
            (&server.flavor, true)
        }
        _ => return Ok(None),
    };
    let Some(tpm) = with_flavor(server, flavor) else {
        return Ok(None);
    };
    let needed = starts && tpm.security != Security::Host;
    of_server(call, server, tpm, needed).await.map(Some)
}

/// What a move needs: the other host does not have the passphrase, nor has the old one if the guest comes back there.
pub async fn for_move(
    call: &Call,
    server: &Instance,
    flavor: &Flavor,
) -> Result<Option<Handed>, Fault> {
    let tpm = with_flavor(server, flavor).or_else(|| with_flavor(server, &server.flavor));
    let Some(tpm) = tpm else {
        return Ok(None);
    };
    let runs = server.vm_state == types::VmState::Active;
    of_server(call, server, tpm, runs).await.map(Some)
}

/// Deletes secrets that were made for what was refused.
pub async fn take_back<'a>(call: &Call, all: impl IntoIterator<Item = &'a Handed>) {
    for handed in all.into_iter().filter(|handed| handed.new) {
        forget(call, handed.secret).await;
    }
}

/// Deletes the secret of a server that is deleted. One that is the cloud's is left to the flow.
pub async fn forget_with_server(call: &Call, server: &Instance) {
    if let Some(secret) = server.kept.vtpm_secret.filter(|secret| !secret.of_cloud) {
        forget(call, secret).await;
    }
}

/// Nothing depends on it: what is left of a server that is deleted its flow tries again.
async fn forget(call: &Call, secret: VtpmSecret) {
    forget_with(&call.api, &call.token, secret).await;
}

async fn forget_with(api: &Inner, token: &str, secret: VtpmSecret) {
    let id = secret.id.to_string();
    let gone = match token_of(api, token, secret.of_cloud).await {
        Ok(token) => api.deps.keys.delete(&token, &id).await,
        Err(fault) => Err(KeyError::Unreachable(fault.message)),
    };
    if let Err(error) = gone {
        tracing::warn!(secret = id, %error, "the secret of a TPM that nobody needs stays in the key manager");
    }
}
