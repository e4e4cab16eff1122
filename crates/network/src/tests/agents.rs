use super::*;
use std::time::Duration;
use types::network_wanted::{AgentKind, AgentStatus, HostReport, HostWanted, ObjectStatus, Status};
use uuid::Uuid;

/// Seconds that a question waits: as long as it may.
pub(super) const LONG: u64 = 3600;
/// For what comes at once, on the slowest of machines; less than the longest wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(50);

pub(super) async fn until(mut so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "it does not become so");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Cloud {
    pub(super) async fn ask(
        &self,
        method: &str,
        host: &str,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v2.0/agent/hosts/{host}/{path}"))
            .header("x-agent-host", host)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = self.service.agent_router().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub(super) async fn wanted(&self, host: &str, since: u64, wait: u64) -> Option<HostWanted> {
        let (status, body) = self
            .ask(
                "GET",
                host,
                &format!("wanted?since={since}&wait={wait}"),
                Value::Null,
            )
            .await;
        if status == StatusCode::NOT_MODIFIED {
            return None;
        }
        assert_eq!(status, StatusCode::OK, "{body}");
        Some(serde_json::from_value(body).unwrap())
    }

    /// Tells what became of ports.
    pub(super) async fn report(&self, host: &str, ports: &[(&str, &str)]) {
        let ports = ports
            .iter()
            .map(|(id, status)| json!({"id": id, "status": status}));
        let body = json!({"revision": 1, "partial": true, "ports": ports.collect::<Vec<_>>()});
        let (status, answer) = self.ask("PUT", host, "report", body).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    }

    pub(super) async fn bound(&self, network: &str, host: &str) -> Value {
        let port = json!({"port": {"network_id": network, "project_id": "demo", "binding:host_id": host, "device_id": "s1", "device_owner": "compute:nova"}});
        self.make("ports", ADMIN, port).await
    }
}

#[tokio::test]
async fn a_port_goes_to_its_host_and_becomes_active() {
    let cloud = Cloud::new().await;
    let built = cloud.service.bootstrap("adm").await.unwrap();
    let mut have = cloud.wanted("h1", 0, 0).await.unwrap();
    assert!(have.full);
    assert_eq!(
        (have.networks.len(), have.routers.len(), have.ports.len()),
        (2, 1, 0)
    );
    let router = &have.routers[0];
    assert_eq!(
        (router.interfaces.len(), router.gateway.is_some()),
        (1, true)
    );
    assert!(
        have.networks
            .iter()
            .any(|network| network.dhcp.is_some() && !network.external)
    );
    assert!(
        have.networks
            .iter()
            .any(|network| network.dhcp.is_none() && network.external)
    );
    assert!(cloud.wanted("h1", have.revision, 0).await.is_none());

    let waiting = {
        let (cloud, since) = (cloud.clone(), have.revision);
        tokio::spawn(async move { cloud.wanted("h1", since, LONG).await })
    };
    let inner = cloud.service.inner.clone();
    until(|| inner.revision.receiver_count() > 0).await;
    let port = cloud.bound(&built.private_network, "h1").await;
    // Long before its time is over.
    let news = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let news = news.unwrap().unwrap();
    assert!(!news.full);
    have.update(news);
    assert_eq!(have.ports.len(), 1);
    assert_eq!(have.ports[0].id.to_string(), text(&port["id"]));
    assert_eq!(have.security_groups.len(), 1);
    assert_eq!(have.networks.len(), 2);
    let members: Vec<_> = have.security_groups[0]
        .rules
        .iter()
        .filter_map(|rule| rule.remote_group_members.clone())
        .collect();
    assert_eq!(
        members.iter().map(Vec::len).sum::<usize>(),
        1,
        "the port itself: {members:?}"
    );

    let mut events = cloud.service.port_events();
    let wait = {
        let (cloud, id) = (cloud.clone(), text(&port["id"]));
        tokio::spawn(async move {
            cloud
                .get(&format!("agent/ports?ids={id}&wait={LONG}"), ADMIN)
                .await
        })
    };
    // Those of the test and of the question.
    until(|| inner.events.receiver_count() > 1).await;
    let report = HostReport {
        revision: have.revision,
        partial: true,
        ports: vec![ObjectStatus {
            id: have.ports[0].id,
            status: Status::Active,
            detail: None,
        }],
        agents: AgentKind::ALL
            .map(|kind| AgentStatus {
                kind,
                configurations: [("ports".to_owned(), 1)].into(),
            })
            .into(),
        ..HostReport::default()
    };
    // Another host does not speak for it.
    cloud.ask("PUT", "h2", "report", json!(report)).await;
    assert_eq!(
        cloud
            .get(&format!("ports/{}", text(&port["id"])), DEMO)
            .await["port"]["status"],
        "DOWN"
    );
    let (status, _) = cloud.ask("PUT", "h1", "report", json!(report)).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let told = tokio::time::timeout(PATIENCE, wait).await.unwrap();
    assert_eq!(told.unwrap()["active"], true);
    assert_eq!(events.recv().await.unwrap().status, Status::Active);
    assert_eq!(
        cloud
            .get(&format!("ports/{}", text(&port["id"])), DEMO)
            .await["port"]["status"],
        "ACTIVE"
    );
    let agents = cloud.get("agents?host=h1", ADMIN).await;
    assert_eq!(agents["agents"].as_array().unwrap().len(), 4);
    assert_eq!(agents["agents"][0]["alive"], true);

    cloud
        .delete(&format!("ports/{}", text(&port["id"])), DEMO)
        .await;
    have.update(cloud.wanted("h1", have.revision, 5).await.unwrap());
    assert!(have.ports.is_empty() && have.security_groups.is_empty());
    assert_eq!(have.networks.len(), 2, "the gateway host still serves DHCP");
}

#[tokio::test]
async fn partial_answers_end_where_whole_ones_do() {
    let cloud = Cloud::new().await;
    let built = cloud.service.bootstrap("adm").await.unwrap();
    let mut have = [
        cloud.wanted("h1", 0, 0).await.unwrap(),
        cloud.wanted("h2", 0, 0).await.unwrap(),
    ];
    assert!(have[1].networks.is_empty(), "only one host serves DHCP");
    let (network, subnet) = cloud.network(DEMO, "10.7.0.0/24").await;
    let mut ports: Vec<String> = Vec::new();
    for step in 0..24 {
        match step {
            3 => drop(
                cloud
                    .put(
                        &format!("routers/{}/add_router_interface", built.router),
                        ADMIN,
                        json!({"subnet_id": subnet}),
                    )
                    .await,
            ),
            5 => {
                let floating = json!({"floatingip": {"floating_network_id": built.public_network, "port_id": ports[0], "project_id": "demo"}});
                cloud.make("floatingips", ADMIN, floating).await;
            }
            7 => {
                let group = cloud
                    .make(
                        "security-groups",
                        DEMO,
                        json!({"security_group": {"name": "g"}}),
                    )
                    .await;
                let rule = json!({"security_group_rule": {"security_group_id": group["id"], "direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22, "remote_group_id": group["id"]}});
                cloud.make("security-group-rules", DEMO, rule).await;
                cloud
                    .put(
                        &format!("ports/{}", ports[0]),
                        ADMIN,
                        json!({"port": {"security_groups": [group["id"]]}}),
                    )
                    .await;
            }
            9 => drop(
                cloud
                    .put(
                        &format!("ports/{}", ports[1]),
                        ADMIN,
                        json!({"port": {"binding:host_id": "h2"}}),
                    )
                    .await,
            ),
            11 => drop(
                cloud
                    .put(
                        &format!("ports/{}", ports[2]),
                        ADMIN,
                        json!({"port": {"allowed_address_pairs": [{"ip_address": "10.9.9.0/24"}]}}),
                    )
                    .await,
            ),
            14..20 => {
                cloud
                    .delete(&format!("ports/{}", ports.pop().unwrap()), ADMIN)
                    .await
            }
            _ => {
                let host = if step % 2 == 0 { "h1" } else { "h2" };
                let network = if step % 3 == 0 {
                    &network
                } else if step == 4 {
                    &built.private_network
                } else {
                    &network
                };
                ports.push(text(&cloud.bound(network, host).await["id"]));
            }
        }
        for (at, host) in ["h1", "h2"].into_iter().enumerate() {
            if let Some(news) = cloud.wanted(host, have[at].revision, 0).await {
                have[at].update(news);
            }
            let whole = cloud.wanted(host, 0, 0).await.unwrap();
            assert_eq!(sorted(&have[at]), sorted(&whole), "step {step}, {host}");
        }
    }
}

/// Revision and order do not matter.
fn sorted(wanted: &HostWanted) -> Value {
    let mut value = json!(wanted);
    for name in ["revision", "removed", "full"] {
        value.as_object_mut().unwrap().remove(name);
    }
    order(&mut value);
    value
}

fn order(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(order);
            items.sort_by_key(ToString::to_string);
        }
        Value::Object(members) => members.values_mut().for_each(order),
        _ => {}
    }
}

/// Who looks after DHCP and routers when their host is gone for good, or another one is named.
#[tokio::test]
async fn another_host_takes_dhcp_and_routers() {
    let store = sql::Store::temporary().await.unwrap();
    let cloud = Cloud::on(store.clone()).await;
    cloud.service.bootstrap("adm").await.unwrap();
    let serves = async |cloud: &Cloud, host: &str, since: u64| {
        let wanted = cloud.wanted(host, since, 0).await.expect("there is news");
        assert!(wanted.full || since == 0);
        (
            (wanted.networks.len(), wanted.routers.len()),
            wanted.revision,
        )
    };
    let (all, nothing) = ((2, 1), (0, 0));
    let (first, before) = serves(&cloud, "h1", 0).await;
    assert_eq!(first, all);
    for host in ["h1", "h2"] {
        let kinds: Vec<Value> = AgentKind::ALL
            .iter()
            .map(|kind| json!({"kind": kind, "configurations": {}}))
            .collect();
        let report = json!({"revision": 1, "partial": true, "agents": kinds});
        let (status, answer) = cloud.ask("PUT", host, "report", report).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    }
    assert_eq!(serves(&cloud, "h2", 0).await.0, nothing);
    let dead = cloud.get("agents?host=h1", ADMIN).await;
    for agent in dead["agents"].as_array().unwrap() {
        cloud
            .delete(&format!("agents/{}", text(&agent["id"])), ADMIN)
            .await;
    }
    let (second, after) = serves(&cloud, "h2", before).await;
    assert_eq!(second, all);
    // It comes back, and is one like the others.
    assert_eq!(serves(&cloud, "h1", before).await.0, nothing);
    // The settings name it.
    let config = Config {
        gateway_host: Some("h1".to_owned()),
        ..Config::default()
    };
    let service = Service::open(store, config, Arc::new(Names)).await.unwrap();
    service.settle_gateway().await.unwrap();
    let router = service.router();
    let (before_it, cloud) = (cloud, Cloud { service, router });
    assert_eq!(serves(&cloud, "h1", after).await.0, all);
    let (second, now) = serves(&cloud, "h2", after).await;
    assert_eq!(second, nothing);
    // A service that was started before, without the setting, says the same.
    assert_eq!(serves(&before_it, "h1", 0).await.0, all);
    cloud.service.settle_gateway().await.unwrap();
    assert!(cloud.wanted("h2", now, 0).await.is_none());
}

#[tokio::test]
async fn agents_speak_for_themselves_only() {
    let cloud = Cloud::new().await;
    for header in [None, Some("h2")] {
        let mut request = Request::builder().uri("/v2.0/agent/hosts/h1/wanted?since=0&wait=0");
        if let Some(host) = header {
            request = request.header("x-agent-host", host);
        }
        let response = cloud
            .service
            .agent_router()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }
}

/// Hosts with tunnels learn where the other parts of their networks are, and when that changes.
#[tokio::test]
async fn networks_join_the_hosts_that_have_a_part_of_them() {
    let cloud = Cloud::new().await;
    let built = cloud.service.bootstrap("adm").await.unwrap();
    let private: Uuid = built.private_network.parse().unwrap();
    let public: Uuid = built.public_network.parse().unwrap();
    let meet = async |host: &str, tunnel: &str| -> HostWanted {
        let path = format!("wanted?since=0&wait=0&tunnel={tunnel}");
        let (status, body) = cloud.ask("GET", host, &path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_value(body).unwrap()
    };
    let peers = |wanted: &HostWanted, network: Uuid| -> Option<Vec<String>> {
        let found = wanted.networks.iter().find(|n| n.id == network)?;
        let tunnel = found.tunnel.as_ref()?;
        assert!(tunnel.vni > 0);
        Some(tunnel.peers.iter().map(ToString::to_string).collect())
    };
    // A host without tunnels is told of none.
    let alone = cloud.wanted("h0", 0, 0).await.unwrap();
    assert_eq!(peers(&alone, private), None);

    // The first host has DHCP and routers; h0 is it, and has tunnels from now on.
    let mut gateway = meet("h0", "192.0.2.1").await;
    assert_eq!(peers(&gateway, private), Some(vec![]));
    assert_eq!(peers(&gateway, public), None, "the outside is no tunnel");
    let mut h1 = meet("h1", "192.0.2.2").await;
    assert!(h1.networks.is_empty());
    cloud.bound(&built.private_network, "h1").await;
    h1.update(cloud.wanted("h1", h1.revision, 5).await.unwrap());
    assert_eq!(peers(&h1, private), Some(vec!["192.0.2.1".to_owned()]));
    gateway.update(cloud.wanted("h0", gateway.revision, 5).await.unwrap());
    assert_eq!(peers(&gateway, private), Some(vec!["192.0.2.2".to_owned()]));

    // A third part of the network is told to the two others.
    meet("h2", "192.0.2.3").await;
    let port = cloud.bound(&built.private_network, "h2").await;
    h1.update(cloud.wanted("h1", h1.revision, 5).await.unwrap());
    assert_eq!(
        peers(&h1, private),
        Some(vec!["192.0.2.1".to_owned(), "192.0.2.3".to_owned()])
    );
    // The address of a host changes: its agent starts again.
    meet("h2", "192.0.2.33").await;
    h1.update(cloud.wanted("h1", h1.revision, 5).await.unwrap());
    assert_eq!(
        peers(&h1, private),
        Some(vec!["192.0.2.1".to_owned(), "192.0.2.33".to_owned()])
    );
    // Its only port of the network moves to h1.
    let moved = json!({"port": {"binding:host_id": "h1"}});
    let path = format!("ports/{}", text(&port["id"]));
    cloud.put(&path, ADMIN, moved).await;
    h1.update(cloud.wanted("h1", h1.revision, 5).await.unwrap());
    assert_eq!(peers(&h1, private), Some(vec!["192.0.2.1".to_owned()]));
}

/// OSSA-2013-020: a port in a group of many takes no more statements than one in a group of few, and its host is told of
/// that port and of the group, not of the group's other members.
#[tokio::test]
async fn a_large_group_costs_its_next_member_no_more() {
    let notes = sql::testing::Notes::default();
    let store = sql::Store::temporary().await.unwrap();
    let cloud = Cloud::on(store.noting(&notes)).await;
    let (network, _) = cloud.network(DEMO, "10.7.0.0/24").await;
    let mut have = cloud.wanted("h1", 0, 0).await.unwrap();
    let mut costs = Vec::new();
    for size in 1..=40 {
        notes.take();
        cloud.bound(&network, "h1").await;
        let news = cloud.wanted("h1", have.revision, 0).await.unwrap();
        costs.push(notes.take().len());
        assert!(!news.full);
        assert_eq!((news.ports.len(), news.security_groups.len()), (1, 1));
        let members = news.security_groups[0]
            .rules
            .iter()
            .filter_map(|rule| rule.remote_group_members.as_ref());
        assert_eq!(members.map(Vec::len).sum::<usize>(), size);
        have.update(news);
    }
    assert_eq!(costs[4], costs[39], "{costs:?}");
}
