//! Agents that say what they have when a test wants it.

use crate::Cluster;
use std::time::Duration;
use types::agent::Heartbeat;

impl Cluster {
    /// Every running agent says what its guests do now, and what comes of it has ended: those that must not run are
    /// switched off.
    pub async fn look_again(&self) {
        self.beat().await;
        self.idle().await;
    }

    /// Every running agent says what its guests do now, as it does on their events.
    pub async fn beat(&self) {
        self.say(false).await;
    }

    /// Every running agent says all that it has, as it does now and then.
    pub async fn list(&self) {
        self.say(true).await;
    }

    async fn say(&self, complete: bool) {
        let client = web::client::Client::in_process("the conductor", self.desk.router());
        for host in self.hosts.iter().filter(|host| host.runs()) {
            let guests = host.guests().await;
            let beat = Heartbeat {
                host: host.name.clone(),
                node: types::NodeId::random(),
                incarnation: 0,
                facts: None,
                guests: guests
                    .into_iter()
                    .map(|(server, power)| conductor::agents::seen(server, power))
                    .collect(),
                strays: match complete {
                    true => virt::Hypervisor::stray_files(&*host.sim, Duration::ZERO)
                        .await
                        .unwrap(),
                    false => Vec::new(),
                },
                moving: virt::Hypervisor::moving(host.sim.as_ref()).await,
                complete,
                introduction: false,
            };
            let body = serde_json::to_value(&beat).unwrap();
            let path = format!("/agent/{}/heartbeat", host.name);
            let headers = http::HeaderMap::new();
            let answer = client
                .call(http::Method::POST, &path, headers, Some(&body))
                .await
                .unwrap();
            assert!(answer.status.is_success());
        }
    }
}
