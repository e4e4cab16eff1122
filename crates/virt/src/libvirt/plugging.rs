//! How a running guest gets a disk or an interface. What it may have is in its stored specification before libvirt is asked:
//! whoever takes it away again finds it there, whatever became of the call.

use super::rpc::RpcError;
use super::{Libvirt, explain};
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::GuestSpec;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

impl Libvirt {
    /// Plugs a device (XML) into a running guest that is to be as `spec` says then, and stays as `before` says where libvirt
    /// refuses that. libvirt goes on with a call that nobody waits for any more: until it has ended, nothing else is done with
    /// the guest. `has` finds the device in the guest's description.
    pub(super) async fn plug_device(
        &self,
        lock: OwnedMutexGuard<()>,
        (before, spec): (GuestSpec, GuestSpec),
        device: String,
        has: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<()> {
        let id = spec.id;
        self.write_spec(spec).await?;
        let (jobs, domain) = (Arc::clone(&self.jobs), self.reference(id));
        let plugging = tokio::spawn(async move {
            let plugged = jobs.plug(&domain, &device).await;
            (plugged, lock)
        });
        let ended = plugging.await;
        let (plugged, _lock) =
            ended.map_err(|error| HypervisorError::Unavailable(error.to_string()))?;
        let Err(error) = plugged else {
            return Ok(());
        };
        if matches!(error, RpcError::Refused { .. }) {
            // So is the repeat of a call whose answer was lost.
            if has(&self.describe(id).await?) {
                return Ok(());
            }
            self.write_spec(before).await?;
        }
        Err(explain(error))
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::disks::{Connection, Disk, DiskSource, NbdServer};
    use crate::libvirt::rpc::scripted::{Answer, Scripted};
    use crate::libvirt::xdr::{Decoder, Encoder};
    use crate::libvirt::{Acceleration, LibvirtConfig};
    use std::sync::Mutex;
    use std::time::Duration;
    use tokio::sync::Semaphore;
    use types::ServerId;

    const DESCRIBE: u32 = 14;
    const INFO: u32 = 16;
    const ATTACH: u32 = 160;
    const DETACH: u32 = 161;
    const STATS: u32 = 344;
    const REFUSED: u32 = 1;
    const VOLUME: &str = "volume-1";

    /// What libvirt does with a running guest.
    pub(crate) struct Guest {
        device: Mutex<String>,
        takes_devices: bool,
        /// How many devices may be attached now.
        attaching: Semaphore,
    }

    impl Guest {
        pub(crate) fn new(takes_devices: bool, attaching: usize) -> Self {
            Self {
                device: Mutex::default(),
                takes_devices,
                attaching: Semaphore::new(attaching),
            }
        }

        fn device(&self) -> String {
            self.device.lock().unwrap().clone()
        }

        async fn answer(self: Arc<Self>, procedure: u32, body: Vec<u8>) -> Answer {
            let empty = Encoder::default();
            match procedure {
                // It runs, with this memory and one processor.
                INFO => Ok(empty.i32(1).u32(0).u32(1024).u32(0).u32(1024).u32(1)),
                // Of no domain.
                STATS => Ok(empty.u32(0)),
                DESCRIBE => Ok(empty.string(&format!("<domain>{}</domain>", self.device()))),
                ATTACH => {
                    self.attaching.acquire().await.unwrap().forget();
                    if !self.takes_devices {
                        return Err(REFUSED);
                    }
                    *self.device.lock().unwrap() = device_in(&body);
                    Ok(empty)
                }
                DETACH => {
                    self.device.lock().unwrap().clear();
                    Ok(empty)
                }
                _ => Ok(empty),
            }
        }
    }

    /// The device that a call is about: it follows the domain.
    fn device_in(body: &[u8]) -> String {
        let mut decoder = Decoder::new(body);
        decoder.string().unwrap();
        decoder.fixed::<16>().unwrap();
        decoder.i32().unwrap();
        decoder.string().unwrap()
    }

    /// A host with this guest.
    pub(crate) struct Host {
        guest: Arc<Guest>,
        daemon: Scripted,
        pub(crate) libvirt: Arc<Libvirt>,
        pub(crate) id: ServerId,
        _home: tempfile::TempDir,
    }

    impl Host {
        pub(crate) async fn of(guest: Guest) -> Self {
            let guest = Arc::new(guest);
            let its = Arc::clone(&guest);
            let daemon = Scripted::start(move |procedure, body| {
                Box::pin(Arc::clone(&its).answer(procedure, body))
            });
            let home = tempfile::Builder::new()
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .tempdir()
                .unwrap();
            let config = LibvirtConfig {
                run: home.path().join("run"),
                sockets: daemon.sockets(),
                acceleration: Acceleration::Emulation,
                ..LibvirtConfig::system(home.path().join("instances"))
            };
            let libvirt = Libvirt::open(config).await.unwrap();
            let spec = GuestSpec {
                vifs: Vec::new(),
                ..crate::sim::tests::spec(1)
            };
            let files = libvirt.instances.guest(spec.id);
            std::fs::create_dir(&files.folder).unwrap();
            files.write_spec(&spec).unwrap();
            Self {
                guest,
                daemon,
                libvirt,
                id: spec.id,
                _home: home,
            }
        }

        /// The volumes and ports that are on record.
        fn on_record(&self) -> Vec<String> {
            let spec = self.libvirt.read_spec(self.id).unwrap().unwrap();
            let volumes = spec.disks.iter().filter_map(Disk::volume_id);
            let ports = spec.vifs.iter().map(|vif| vif.port_id.as_str());
            volumes.chain(ports).map(str::to_owned).collect()
        }
    }

    fn volume() -> Disk {
        let connection = Connection::Nbd {
            server: NbdServer::Unix {
                path: "/run/volume".to_owned(),
            },
            export: "export".to_owned(),
            read_only: false,
            shareable: false,
        };
        Disk {
            id: "b".to_owned(),
            device: None,
            bus: None,
            device_type: None,
            root: false,
            source: DiskSource::Volume {
                volume_id: VOLUME.to_owned(),
                connection,
            },
        }
    }

    /// Nobody else may have the volume while libvirt is still about to plug it in.
    #[tokio::test]
    async fn a_volume_that_nobody_waits_for_any_more_is_taken_out_after_all() {
        let host = Host::of(Guest::new(true, 0)).await;
        let (libvirt, id) = (Arc::clone(&host.libvirt), host.id);
        let plugging = tokio::spawn(async move { libvirt.plug_disk(id, &volume()).await });
        host.daemon.until_called(ATTACH).await;
        assert_eq!(host.on_record(), [VOLUME]);
        plugging.abort();
        assert!(plugging.await.unwrap_err().is_cancelled());

        let libvirt = Arc::clone(&host.libvirt);
        let mut pulling = tokio::spawn(async move { libvirt.pull_disk(id, VOLUME).await });
        let early = tokio::time::timeout(Duration::from_millis(300), &mut pulling).await;
        assert!(early.is_err(), "libvirt is at it still: {early:?}");
        host.guest.attaching.add_permits(1);
        pulling.await.unwrap().unwrap();
        host.daemon.until_called(DETACH).await;
        assert_eq!(host.guest.device(), "");
        assert_eq!(host.on_record(), [""; 0]);
    }

    #[tokio::test]
    async fn what_libvirt_refuses_is_not_left_on_record() {
        let host = Host::of(Guest::new(false, 2)).await;
        let vif = crate::sim::tests::spec(1).vifs.remove(0);
        let refused = [
            host.libvirt.plug_disk(host.id, &volume()).await,
            host.libvirt.plug_in(host.id, &vif).await,
        ];
        for refused in refused {
            assert!(matches!(refused, Err(HypervisorError::Rejected(_))));
            assert_eq!(host.on_record(), [""; 0]);
        }
    }

    #[tokio::test]
    async fn what_a_guest_has_got_is_on_record() {
        let host = Host::of(Guest::new(true, 2)).await;
        host.libvirt.plug_disk(host.id, &volume()).await.unwrap();
        assert!(host.guest.device().contains(VOLUME));
        assert_eq!(host.on_record(), [VOLUME]);
        let vif = crate::sim::tests::spec(1).vifs.remove(0);
        host.libvirt.plug_in(host.id, &vif).await.unwrap();
        assert!(host.guest.device().contains(&vif.tap));
        assert_eq!(host.on_record(), [VOLUME, vif.port_id.as_str()]);
    }
}
