//! Servers as the API would leave them when it accepts a request.

use crate::Cluster;
use crate::cluster::{PROJECT, USER};
use crate::network::NETWORK;
use db::accept;
use db::instances::Instance;
use sql::Tx;
use std::collections::BTreeMap;
use types::server::{WantedInterface, WantedNetworks};
use types::{PowerState, ServerId, TaskState, Timestamp, VmState};

/// What a server shows while a flow works on it.
pub(crate) fn shown_while(flow: &str, hard: bool) -> Option<TaskState> {
    Some(match flow {
        accept::START => TaskState::PoweringOn,
        accept::STOP => TaskState::PoweringOff,
        accept::REBOOT if hard => TaskState::RebootingHard,
        accept::REBOOT => TaskState::Rebooting,
        accept::PAUSE => TaskState::Pausing,
        accept::UNPAUSE => TaskState::Unpausing,
        accept::SUSPEND => TaskState::Suspending,
        accept::RESUME => TaskState::Resuming,
        accept::SOFT_DELETE => TaskState::SoftDeleting,
        accept::RESTORE => TaskState::Restoring,
        accept::RESCUE => TaskState::Rescuing,
        accept::UNRESCUE => TaskState::Unrescuing,
        accept::REBUILD => TaskState::Rebuilding,
        accept::SNAPSHOT | accept::SNAPSHOT_VOLUMES => TaskState::ImageSnapshotPending,
        accept::BACKUP => TaskState::ImageBackup,
        accept::CHANGE_PASSWORD => TaskState::UpdatingPassword,
        accept::EVACUATE => TaskState::Rebuilding,
        accept::LIVE_MIGRATION => TaskState::Migrating,
        accept::SHELVE => TaskState::Shelving,
        accept::RESIZE => TaskState::ResizePrep,
        accept::CONFIRM_RESIZE => TaskState::ResizeConfirming,
        accept::REVERT_RESIZE => TaskState::ResizeReverting,
        accept::SHELVE_OFFLOAD => TaskState::ShelvingOffloading,
        accept::UNSHELVE | accept::UNSHELVE_IN_PLACE => TaskState::Unshelving,
        _ => return None,
    })
}

/// A server as the API accepts it.
pub(crate) fn new_instance() -> Instance {
    Instance {
        number: 0,
        id: ServerId::random(),
        project_id: PROJECT.into(),
        user_id: USER.into(),
        display_name: "server".to_owned(),
        description: None,
        hostname: "server".to_owned(),
        vm_state: VmState::Building,
        task_state: Some(TaskState::Scheduling),
        power_state: PowerState::NoState,
        generation: 0,
        task_id: None,
        host: None,
        node: None,
        node_id: None,
        availability_zone: None,
        pinned_zone: None,
        launched_on: None,
        flavor: Cluster::flavor(),
        image: None,
        key_name: None,
        key_data: None,
        user_data: None,
        config_drive: false,
        access_ip_v4: None,
        access_ip_v6: None,
        metadata: BTreeMap::new(),
        networks: WantedNetworks::These(vec![WantedInterface::Network {
            network_id: NETWORK.to_owned(),
            fixed_ip: None,
            tag: None,
        }]),
        network_info: Vec::new(),
        security_groups: Vec::new(),
        scheduler_hints: serde_json::json!({}),
        admin_pass: None,
        locked: false,
        locked_by: None,
        locked_reason: None,
        reservation_id: "r-00000001".to_owned(),
        launch_index: 0,
        root_device_name: Some("/dev/vda".to_owned()),
        progress: 0,
        fault: None,
        created_at: Timestamp::now(),
        updated_at: None,
        launched_at: None,
        terminated_at: None,
        deleted: false,
        kept: db::instances::Kept::default(),
    }
}

impl Cluster {
    /// What the API does for a server with a TPM when it has accepted something.
    pub(crate) fn hands_passphrase(
        &self,
    ) -> impl Fn(&mut Tx<'_>, &Instance) -> Result<(), sql::Error> + Send + 'static {
        let sealed = *self.passphrase.lock().unwrap();
        let sealed = sealed.map(|clear| format!("sealed {clear}"));
        move |tx, server| match &sealed {
            Some(sealed) if server.kept.vtpm_secret.is_some() => {
                db::tasks::hand_passphrase(tx, server.id, sealed)
            }
            _ => Ok(()),
        }
    }

    /// Gives a server that is about to be made a TPM.
    pub fn with_tpm(server: &mut Instance, security: &str) {
        let specs = [
            ("hw:tpm_version", "2.0"),
            ("hw:tpm_secret_security", security),
        ];
        let specs = specs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        server.flavor.extra_specs.extend(specs);
        server.kept.vtpm_secret = Some(db::instances::VtpmSecret {
            id: uuid::Uuid::new_v4(),
            of_cloud: security == "deployment",
        });
    }
}
