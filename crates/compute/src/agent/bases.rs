//! A disk goes on with the base that it stands on. That is the image of its server only as long as the server is neither
//! shelved and brought back nor rebuilt in vain, and the image service may have forgotten it: so whoever takes a disk over
//! asks the disk, and gets its base from where it was.

use super::{Agent, failure};
use crate::images::{Failure, is_gone};
use crate::peers;
use types::agent::{FailureKind, GuestPlan};
use types::{HostName, PowerState, ServerId};
use virt::libvirt::image::BaseImage;
use virt::{DiskFormat, GuestSpec};

impl Agent {
    /// The specification of a guest whose disk is here, or aside here.
    pub(super) async fn spec_of_present(
        &self,
        id: ServerId,
        plan: &GuestPlan,
    ) -> Result<GuestSpec, Failure> {
        let path = self.hypervisor.disk_base(id).await.map_err(failure)?;
        let Some(path) = path.filter(|_| plan.image.is_some()) else {
            return self.spec(id, plan).await;
        };
        let read = tokio::fs::metadata(&path).await;
        let read =
            read.map_err(|error| failure(virt::HypervisorError::disk(path.display(), &error)))?;
        let base = BaseImage {
            path,
            format: DiskFormat::Raw,
            virtual_bytes: read.len(),
        };
        self.spec_on(id, plan, Some(base)).await
    }

    /// The specification of a guest whose disk comes from another host.
    pub(super) async fn spec_of_coming(
        &self,
        id: ServerId,
        plan: &GuestPlan,
        from: &HostName,
    ) -> Result<GuestSpec, Failure> {
        let base = self.base_of_coming(id, plan, from).await?;
        self.spec_on(id, plan, base).await
    }

    async fn base_of_coming(
        &self,
        id: ServerId,
        plan: &GuestPlan,
        from: &HostName,
    ) -> Result<Option<BaseImage>, Failure> {
        let needed = self.hypervisor.needs_image_files();
        let cache = self.images.as_ref().filter(|_| needed);
        let (Some(cache), Some(image)) = (cache, &plan.image) else {
            return self.base_of_image(id, plan).await;
        };
        let peer = self.peers.reach(from).await.ok_or_else(|| {
            let words = format!("this host knows no way to {from}");
            (FailureKind::Host, words)
        })?;
        let Some(base) = peers::base_of(&peer, id).await? else {
            return self.base_of_image(id, plan).await;
        };
        if base.name == image.id.to_string() {
            match self.base_of_image(id, plan).await {
                Err(failure) if is_gone(&failure, image) => {}
                found => return found,
            }
        } else if let Some(here) = cache.named(&base.name) {
            return Ok(Some(here));
        }
        tracing::info!(server = %id, base = base.name, host = %from, "the base of a disk is copied from another host");
        let stop = self.handed.waits(id);
        let copied = cache.ensure_base(&peer, id, &base, &stop).await;
        copied.map(Some)
    }

    /// Fetches early what a guest that comes will need. An image that is no good, or gone, may not be the one that its disk
    /// stands on, and what it stands on comes with the disk.
    pub(super) async fn prepare(
        &self,
        id: ServerId,
        plan: &GuestPlan,
    ) -> Result<PowerState, Failure> {
        let base = match self.base_of_image(id, plan).await {
            Err((FailureKind::Request, reason)) => {
                tracing::info!(server = %id, reason, "an image is not fetched before its guest comes");
                None
            }
            found => found?,
        };
        self.spec_on(id, plan, base).await?;
        Ok(PowerState::NoState)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::scripted::{Scripted, plan, work};
    use crate::peers::{Peers, Way};
    use axum::Router;
    use axum::routing::get;
    use std::collections::HashMap;
    use std::sync::Arc;
    use tokio::sync::Notify;
    use types::agent::{Verb, WorkOutcome};
    use web::client::Client;

    /// Knows one host, whose power goes when it is asked for a guest.
    struct Dark(Arc<Client>);

    #[async_trait::async_trait]
    impl Peers for Dark {
        async fn reach(&self, _host: &HostName) -> Option<Arc<Client>> {
            Some(Arc::clone(&self.0))
        }

        async fn moves(&self, _host: &HostName, _server: ServerId, _way: Way) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn a_deletion_does_not_wait_for_a_guest_that_does_not_come() {
        let asked = Arc::new(Notify::new());
        let told = Arc::clone(&asked);
        let aside = get(move || {
            told.notify_one();
            std::future::pending::<()>()
        });
        let router = Router::new().route("/aside/{server}", aside);
        let dark = Client::in_process("the other host", router);
        let mut host = Scripted::start(Arc::new(Dark(Arc::new(dark))));
        let server = ServerId::random();
        let landing = work(
            server,
            1,
            Verb::EnsureLanded {
                plan: Box::new(plan()),
                from: "dark".into(),
                on: true,
            },
        );
        host.hand(&landing, 1);
        asked.notified().await;
        let deletion = work(server, 1, Verb::EnsureAbsent);
        host.hand(&deletion, 1);
        let mut outcomes = HashMap::new();
        for _ in 0..2 {
            let report = host.reported().await;
            outcomes.insert(report.key, report.outcome);
        }
        let landed = &outcomes[&landing.key];
        let called_off = matches!(
            landed,
            WorkOutcome::Failed {
                kind: FailureKind::Cancelled,
                ..
            }
        );
        assert!(called_off, "{landed:?}");
        let gone = WorkOutcome::done(PowerState::NoState);
        assert_eq!(outcomes[&deletion.key], gone);
    }
}
