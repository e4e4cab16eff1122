//! A password set from outside: the agent in the guest does it, as its host asks it to.

use super::on_host::Act;
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::accept;
use db::instances::Instance;
use journal::{Context, Failure, StepError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use types::agent::{FailureKind, Verb};
use types::image_properties::ImageProperties;
use types::{PowerState, ServerId, VmState};

/// Sets the administrator's password in a guest.
pub struct ChangePassword;

/// To what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct To {
    /// Sealed.
    password: String,
    #[serde(default)]
    user: String,
}

fn failed(server: ServerId, reason: &str) -> Failure {
    let words = format!("Failed to set admin password on {server} because {reason}");
    Failure::new(409, words)
}

/// The administrator's name in a guest (`os_admin_user`, or what its system calls him). Pure.
fn administrator(server: &Instance) -> String {
    let nothing = BTreeMap::new();
    let image = server.image_properties().unwrap_or(&nothing);
    let image = ImageProperties::readable(image);
    let usual = match image.text("os_type") {
        Some("windows") => "Administrator",
        _ => "root",
    };
    image.text("os_admin_user").unwrap_or(usual).to_owned()
}

#[async_trait]
impl Act for ChangePassword {
    const NAME: &'static str = accept::CHANGE_PASSWORD;
    const EVENT: &'static str = "compute_set_admin_password";
    const SETTLED: Option<VmState> = None;
    type Wanted = To;

    async fn prepare(
        _: &Neighbours,
        _: &Context,
        server: &Instance,
        to: &mut To,
    ) -> Result<(), StepError> {
        if server.power_state != PowerState::Running {
            let reason = format!("instance {} is not running", server.id);
            return Err(StepError::Fail(failed(server.id, &reason)));
        }
        to.user = administrator(server);
        Ok(())
    }

    fn verb(to: &To) -> Option<Verb> {
        Some(Verb::EnsurePassword {
            user: to.user.clone(),
            password: to.password.clone(),
        })
    }

    fn refusal(server: ServerId, kind: FailureKind, message: String) -> Failure {
        match kind {
            FailureKind::Guest => {
                Failure::new(501, "Unable to set password on instance").details(message)
            }
            FailureKind::Request => Failure::new(409, message),
            _ => failed(server, "error setting admin password").details(message),
        }
    }
}
