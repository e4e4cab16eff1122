use super::agents::{LONG, PATIENCE, until};
use super::*;
use crate::api::looks;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;
use types::network_wanted::{Look, Looked};

const LOOKS: &str = "agents/looks";

impl Cloud {
    /// Its agents are alive.
    async fn alive(&self, host: &str) {
        self.lives(host, json!({"looks": 1})).await;
    }

    async fn lives(&self, host: &str, figures: Value) {
        let agents =
            ["bridge", "dhcp"].map(|kind| json!({"kind": kind, "configurations": figures}));
        let body = json!({"revision": 1, "partial": true, "agents": agents});
        self.tell(host, body).await;
    }

    async fn tell(&self, host: &str, body: Value) {
        let (status, answer) = self.ask("PUT", host, "report", body).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    }

    async fn looked(&self, host: &str, number: u64, differences: &[&str]) {
        let differences = differences.iter().map(|line| (*line).to_owned());
        let look = Looked {
            number,
            differences: differences.collect(),
        };
        let body = json!({"revision": 1, "partial": true, "look": look});
        self.tell(host, body).await;
    }

    /// The look that a host is told of when it asks for everything.
    async fn pending(&self, host: &str) -> Option<Look> {
        self.wanted(host, 0, 0).await.unwrap().look
    }
}

#[tokio::test]
async fn hosts_look_at_once_and_are_asked_once() {
    let cloud = Cloud::new().await;
    cloud.service.bootstrap("adm").await.unwrap();
    let mut waiting = Vec::new();
    for host in ["h1", "h2"] {
        let since = cloud.wanted(host, 0, 0).await.unwrap().revision;
        cloud.alive(host).await;
        let cloud = cloud.clone();
        let wait = async move { cloud.wanted(host, since, LONG).await };
        waiting.push((host, tokio::spawn(wait)));
    }
    let inner = cloud.service.inner.clone();
    until(|| inner.revision.receiver_count() > 1).await;
    let asked = {
        let cloud = cloud.clone();
        let body = json!({"look": {"mend": true}});
        tokio::spawn(async move { cloud.call("POST", LOOKS, ADMIN, body).await })
    };
    for (host, wait) in waiting {
        let news = tokio::time::timeout(PATIENCE, wait).await.unwrap();
        let news = news.unwrap().unwrap();
        assert!(news.changes_nothing(), "{news:?}");
        let look = news.look.unwrap();
        assert!(look.mend);
        assert_eq!(cloud.pending(host).await, Some(look), "its agent restarts");
        let found = match host {
            "h1" => &["ip link del dev tapstray"][..],
            _ => &[],
        };
        cloud.looked(host, look.number, found).await;
        assert_eq!(cloud.pending(host).await, None);
        assert!(cloud.wanted(host, news.revision, 0).await.is_none());
    }
    let (status, answer) = tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    let expected = json!({
        "looks": [
            {"host": "h1", "differences": ["ip link del dev tapstray"]},
            {"host": "h2", "differences": []},
        ],
        "silent": [],
        "unasked": [],
    });
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn who_does_not_answer_is_named() {
    let cloud = Cloud::new().await;
    let cx = cloud.service.own_context();
    for host in ["h1", "h2"] {
        cloud.wanted(host, 0, 0).await.unwrap();
        cloud.alive(host).await;
    }
    // One of an older release is not asked.
    cloud.wanted("h3", 0, 0).await.unwrap();
    cloud.lives("h3", json!({})).await;
    let told = looks::tell(&cloud.service, &cx, false).await.unwrap();
    let (number, hosts) = (told.number, told.hosts);
    let hosts_of_all = BTreeSet::from(["h1".to_owned(), "h2".to_owned()]);
    assert_eq!(hosts, hosts_of_all);
    let older = BTreeMap::from([("h3".to_owned(), "is of an older release")]);
    assert_eq!(told.unasked, older);
    // One speaks of another look, one of none.
    cloud.looked("h1", number + 1, &["x"]).await;
    cloud.alive("h2").await;
    let now = async || {
        let done = looks::answers(&cloud.service, &cx, number, &hosts, Instant::now());
        done.await.unwrap()
    };
    assert_eq!(now().await, json!({"looks": [], "silent": ["h1", "h2"]}));
    cloud.looked("h1", number, &["x"]).await;
    let one = json!({"looks": [{"host": "h1", "differences": ["x"]}], "silent": ["h2"]});
    assert_eq!(now().await, one);
    // Any news brings it to who has not answered, until it has.
    let network = cloud.network(DEMO, "10.7.0.0/24").await.0;
    let since = cloud.wanted("h2", 0, 0).await.unwrap().revision;
    cloud.bound(&network, "h2").await;
    let news = cloud.wanted("h2", since, 0).await.unwrap();
    let look = Look {
        number,
        mend: false,
    };
    assert_eq!((news.ports.len(), news.look), (1, Some(look)));
    // The next look goes to both; an answer to the one before is none to it.
    let told = looks::tell(&cloud.service, &cx, true).await;
    let next = told.unwrap().number;
    assert!(next > number);
    cloud.looked("h2", number, &[]).await;
    for host in ["h1", "h2"] {
        let look = cloud.pending(host).await.unwrap();
        assert_eq!((look.number, look.mend), (next, true));
    }
    let both = json!([{"host": "h1", "differences": ["x"]}, {"host": "h2", "differences": []}]);
    assert_eq!(now().await["looks"], both);
}

#[tokio::test]
async fn only_administrators_have_hosts_looked_at() {
    let cloud = Cloud::new().await;
    let good = json!({"look": {"mend": false}});
    let refused = cloud.refused("POST", LOOKS, DEMO, good.clone()).await;
    assert_eq!(refused, (403, "PolicyNotAuthorized".to_owned()));
    for bad in [
        json!(null),
        json!({}),
        json!({"look": []}),
        json!({"look": {"mend": "perhaps"}}),
        json!({"look": {"host": "h1"}}),
    ] {
        let refused = cloud.refused("POST", LOOKS, ADMIN, bad.clone()).await;
        assert_eq!(refused, (400, "HTTPBadRequest".to_owned()), "{bad}");
    }
    let (status, answer) = cloud.call("POST", LOOKS, ADMIN, good).await;
    assert_eq!(status, StatusCode::OK);
    let nothing = json!({"looks": [], "silent": [], "unasked": []});
    assert_eq!(answer, nothing, "no host at all");
}

/// Nobody waits for hosts that are down; they are named.
#[tokio::test]
async fn hosts_without_living_agents_are_not_asked() {
    let store = sql::Store::temporary().await.unwrap();
    let config = Config {
        agent_down_seconds: 0,
        ..Config::default()
    };
    let service = Service::open(store, config, Arc::new(Names)).await.unwrap();
    let router = service.router();
    let cloud = Cloud { service, router };
    cloud.alive("h1").await;
    let body = json!({"look": {}});
    let (_, answer) = cloud.call("POST", LOOKS, ADMIN, body).await;
    let down = json!([{"host": "h1", "reason": "is down"}]);
    assert_eq!(answer, json!({"looks": [], "silent": [], "unasked": down}));
    assert_eq!(cloud.pending("h1").await, None);
}

#[tokio::test]
async fn a_look_costs_the_same_statements_for_many_hosts() {
    let notes = sql::testing::Notes::default();
    let store = sql::Store::temporary().await.unwrap();
    let cloud = Cloud::on(store.noting(&notes)).await;
    let cx = cloud.service.own_context();
    let mut costs = Vec::new();
    for host in 0..40 {
        cloud.alive(&format!("h{host}")).await;
        notes.take();
        let told = looks::tell(&cloud.service, &cx, false).await.unwrap();
        assert_eq!(told.hosts.len(), host + 1);
        let done = looks::answers(
            &cloud.service,
            &cx,
            told.number,
            &told.hosts,
            Instant::now(),
        );
        done.await.unwrap();
        costs.push(notes.take().len());
    }
    assert_eq!(costs[1], costs[39], "{costs:?}");
}
