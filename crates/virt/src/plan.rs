//! Between the words of the agent protocol (`types::agent`) and those of this crate.

use crate::disks::Disk;
use crate::facts::HostFacts;
use crate::hypervisor::HypervisorError;
use crate::libvirt::image::BaseImage;
use crate::spec::{BadProperty, ConfigFile, GuestMetadata, GuestSpec, Hardware, RootDisk, Vif};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use types::ServerId;
use types::agent::{self, FailureKind, GuestPlan};

/// A plan that makes no guest.
#[derive(Debug, thiserror::Error)]
pub enum BadPlan {
    /// An image property no host accepts.
    #[error(transparent)]
    Property(#[from] BadProperty),
    /// A file of the config drive is not base64.
    #[error("config drive file '{0}' is not base64")]
    ConfigFile(String),
}

impl GuestSpec {
    /// The specification of a planned guest on its base image. `base` is `None` where no image files are needed
    /// ([`crate::Hypervisor::needs_image_files`]) or the plan has no image: the root disk is then empty.
    ///
    /// # Errors
    /// The plan asks for what cannot be.
    pub fn from_plan(
        id: ServerId,
        plan: &GuestPlan,
        base: Option<&BaseImage>,
    ) -> Result<Self, BadPlan> {
        let size_gib = u64::from(plan.root_gb);
        let disks: Vec<Disk> = plan.disks.iter().map(Disk::from_plan).collect();
        let from_volume = disks.iter().any(|disk| disk.root);
        let root = match base {
            _ if from_volume => RootDisk::Volume,
            Some(base) => RootDisk::Image {
                base: base.path.clone(),
                format: base.format,
                size_gib,
            },
            None => RootDisk::Blank { size_gib },
        };
        let config_drive = plan
            .config_drive
            .as_ref()
            .map(|files| files.iter().map(config_file).collect());
        Ok(Self {
            id,
            instance_name: format!("instance-{:08x}", plan.number),
            metadata: metadata(plan),
            vcpus: plan.vcpus.max(1),
            memory_mib: u64::from(plan.memory_mb),
            root,
            config_drive: config_drive.transpose()?,
            vifs: plan.vifs.iter().map(vif).collect(),
            hardware: Hardware::from_properties(&plan.hardware)?,
            serial_number: id.to_string(),
            rescue: None,
            disks,
            tpm: plan.tpm,
            // Whoever has fetched its files puts them in.
            kernel: None,
        })
    }
}

fn metadata(plan: &GuestPlan) -> GuestMetadata {
    GuestMetadata {
        display_name: plan.name.clone(),
        project_id: plan.project_id.clone(),
        user_id: plan.user_id.clone(),
        flavor_name: plan.flavor_name.clone(),
        flavor_disk_gib: u64::from(plan.root_gb),
        flavor_ephemeral_gib: u64::from(plan.ephemeral_gb),
        flavor_swap_mib: u64::from(plan.swap_mb),
        image_id: plan.image.as_ref().map(|image| image.id.to_string()),
        created_at: types::Timestamp::now().iso_seconds_z(),
        ..GuestMetadata::default()
    }
}

fn config_file((path, text): &(String, String)) -> Result<ConfigFile, BadPlan> {
    let content = STANDARD
        .decode(text)
        .map_err(|_| BadPlan::ConfigFile(path.clone()))?;
    Ok(ConfigFile {
        path: path.clone(),
        content,
    })
}

/// An interface as the agent protocol describes it.
pub fn vif(vif: &agent::GuestVif) -> Vif {
    Vif {
        port_id: vif.port_id.clone(),
        mac: vif.mac.clone(),
        tap: vif.tap.clone(),
        mtu: vif.mtu,
        model: None,
    }
}

impl HypervisorError {
    /// What the conductor needs to know of the failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Unavailable(_) => FailureKind::Unavailable,
            Self::NotFound(_) => FailureKind::NotFound,
            Self::Disk { .. } | Self::Rejected(_) | Self::Injected(_) => FailureKind::Host,
            Self::Image(_) | Self::NoAgent | Self::DiskTooSmall => FailureKind::Request,
            Self::AgentSilent(_) | Self::Guest(_) => FailureKind::Guest,
            Self::Cancelled => FailureKind::Cancelled,
            Self::PostCopyBroke => FailureKind::PostCopy,
            Self::InPostCopy => FailureKind::Request,
            Self::Timeout(_) => FailureKind::Timeout,
        }
    }
}

impl HostFacts {
    /// The facts as the agent reports them of a hypervisor that answers.
    pub fn report(&self, host_ip: &str) -> agent::HostFacts {
        agent::HostFacts {
            hypervisor_type: self.hypervisor_type.clone(),
            hypervisor_version: self.hypervisor_version,
            hypervisor_hostname: self.hypervisor_hostname.clone(),
            vcpus: self.vcpus,
            memory_mb: self.memory_mib,
            disk_gb: self.disk_gib,
            free_disk_gb: self.disk_free_gib,
            memory_mb_used: self.memory_used_mib,
            cpu_info: serde_json::to_value(&self.cpu_info).unwrap_or_default(),
            host_ip: host_ip.to_owned(),
            supported: self.supported.clone(),
            traits: crate::traits::of(self),
            storage: self.storage.clone(),
            healthy: true,
            problem: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::spec::DiskFormat;

    fn plan() -> GuestPlan {
        serde_json::from_value(serde_json::json!({
            "number": 42, "name": "web", "project_id": "p", "user_id": "u", "flavor_name": "m1.nano", "vcpus": 2,
            "memory_mb": 128, "root_gb": 1, "ephemeral_gb": 0, "swap_mb": 0, "image": null,
            "vifs": [{"port_id": "x", "mac": "fa:16:3e:00:00:01", "tap": "tapx", "mtu": 1450}],
            "config_drive": [["openstack/latest/user_data", "aGVsbG8="]],
            "hardware": {"hw_machine_type": "q35", "os_type": "linux"}
        }))
        .unwrap()
    }

    #[test]
    fn plans_become_specifications() {
        let id = ServerId::random();
        let base = BaseImage {
            path: "/i/_base/x".into(),
            format: DiskFormat::Raw,
            virtual_bytes: 512,
        };
        let spec = GuestSpec::from_plan(id, &plan(), Some(&base)).unwrap();
        assert_eq!(spec.instance_name, "instance-0000002a");
        assert_eq!(spec.hardware.machine.as_deref(), Some("q35"));
        assert_eq!(spec.config_drive.unwrap()[0].content, b"hello");
        assert_eq!(
            (spec.vcpus, spec.memory_mib, spec.vifs[0].tap.as_str()),
            (2, 128, "tapx")
        );
        assert!(matches!(spec.root, RootDisk::Image { size_gib: 1, .. }));
        let blank = GuestSpec::from_plan(
            id,
            &GuestPlan {
                config_drive: None,
                ..plan()
            },
            None,
        )
        .unwrap();
        assert_eq!(
            (blank.root, blank.config_drive),
            (RootDisk::Blank { size_gib: 1 }, None)
        );
    }

    #[test]
    fn bad_plans_are_named() {
        let id = ServerId::random();
        let mut bad = plan();
        bad.config_drive = Some(vec![("f".into(), "***".into())]);
        assert!(
            matches!(GuestSpec::from_plan(id, &bad, None), Err(BadPlan::ConfigFile(name)) if name == "f")
        );
        bad = plan();
        bad.hardware.insert("hw_disk_bus".into(), "floppy".into());
        assert!(matches!(
            GuestSpec::from_plan(id, &bad, None),
            Err(BadPlan::Property(_))
        ));
    }
}
