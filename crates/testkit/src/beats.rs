//! Agents that say what they have when a test wants it.

use crate::Cluster;
use std::time::Duration;
use types::agent::{GuestSeen, Heartbeat, Noted, SERVICE_VERSION};
use types::{HostName, PowerState, ServerId, Timestamp};

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
        for host in self.hosts.iter().filter(|host| host.runs()) {
            let heard = Timestamp::now();
            let guests = host.guests().await;
            let mut beat = self.event(&host.name, &guests, heard);
            beat.complete = complete;
            if complete {
                let files = virt::Hypervisor::stray_files(&*host.sim, Duration::ZERO).await;
                beat.strays = files.unwrap();
            }
            beat.moving = virt::Hypervisor::moving(host.sim.as_ref()).await;
            self.say_of(&beat).await;
        }
    }

    /// What a host says when its guests have done something, looked at not before that time.
    pub fn event(
        &self,
        host: &HostName,
        guests: &[(ServerId, PowerState)],
        heard: Timestamp,
    ) -> Heartbeat {
        let seen = |(server, power): &(ServerId, PowerState)| GuestSeen {
            server: *server,
            power: power.code(),
        };
        Heartbeat {
            host: host.clone(),
            node: types::NodeId::random(),
            incarnation: 0,
            version: SERVICE_VERSION,
            facts: None,
            guests: guests.iter().map(seen).collect(),
            strays: Vec::new(),
            moving: Vec::new(),
            complete: false,
            introduction: false,
            first: false,
            heard: Some(heard),
        }
    }

    /// Says it in the place of the host's agent.
    pub async fn say_of(&self, beat: &Heartbeat) -> Noted {
        let answer = self.heard_of(beat).await;
        assert!(answer.status.is_success());
        serde_json::from_value(answer.json()).unwrap()
    }

    /// Says it in the place of the host's agent, which may be refused.
    pub async fn heard_of(&self, beat: &Heartbeat) -> web::client::Answer {
        let client = web::client::Client::in_process("the conductor", self.desk.router());
        let body = serde_json::to_value(beat).unwrap();
        let path = format!("/agent/{}/heartbeat", beat.host);
        let headers = http::HeaderMap::new();
        let answer = client.call(http::Method::POST, &path, headers, Some(&body));
        answer.await.unwrap()
    }
}
