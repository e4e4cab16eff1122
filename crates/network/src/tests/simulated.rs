//! With the agents of simulated hosts, over the socket that real agents use.

use super::*;
use network_agent::{HttpSource, sim};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_become_active_wherever_they_are_bound() {
    let cloud = Cloud::new().await;
    let built = cloud.service.bootstrap("adm").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agents.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let stop = CancellationToken::new();
    let serving = web::serve(
        web::Listener::Unix(listener),
        cloud.service.agent_router(),
        stop.clone(),
    );
    tokio::spawn(serving);
    for host in ["h0", "h1", "h2"] {
        let source = HttpSource::new(web::client::Client::unix("network", &socket), host);
        tokio::spawn(sim::Agent::run(
            Arc::new(source),
            Duration::from_secs(20),
            stop.clone(),
        ));
    }
    let begun = Instant::now();
    let mut ids = Vec::new();
    for n in 0..60 {
        ids.push(text(
            &cloud
                .bound(&built.private_network, &format!("h{}", n % 3))
                .await["id"],
        ));
    }
    let wait = format!("agent/ports?ids={}&wait=60", ids.join(","));
    assert_eq!(cloud.get(&wait, ADMIN).await["active"], true);
    eprintln!("60 ports active after {:?}", begun.elapsed());

    let moved = json!({"port": {"binding:host_id": "h1"}});
    cloud.put(&format!("ports/{}", ids[0]), ADMIN, moved).await;
    assert_eq!(cloud.get(&wait, ADMIN).await["active"], true);

    let floating = json!({"floatingip": {"floating_network_id": built.public_network, "port_id": ids[0], "project_id": "demo"}});
    let floating = cloud.make("floatingips", ADMIN, floating).await;
    let path = format!("floatingips/{}", text(&floating["id"]));
    let deadline = Instant::now() + Duration::from_secs(60);
    while cloud.get(&path, DEMO).await["floatingip"]["status"] != "ACTIVE" {
        assert!(Instant::now() < deadline, "the floating IP stays down");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cloud.delete(&format!("ports/{}", ids[0]), DEMO).await;
    let lost = cloud.get(&wait, ADMIN).await;
    assert_eq!(lost["active"], false, "one is gone: nobody waits for it");

    let body = json!({"look": {"mend": true}});
    let deadline = Instant::now() + Duration::from_secs(120);
    let answer = loop {
        let (status, answer) = cloud
            .call("POST", "agents/looks", ADMIN, body.clone())
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        if answer["silent"] == json!([]) || Instant::now() > deadline {
            break answer;
        }
    };
    let looks = ["h0", "h1", "h2"].map(|host| json!({"host": host, "differences": []}));
    assert_eq!(answer, json!({"looks": looks, "silent": [], "unasked": []}));
    stop.cancel();
}

#[tokio::test]
async fn only_services_wait_for_ports() {
    let cloud = Cloud::new().await;
    let path = "agent/ports?ids=3f2504e0-4f89-41d3-9a0c-0305e82c3301&wait=0";
    assert_eq!(cloud.refused("GET", path, DEMO, json!(null)).await.0, 403);
    assert_eq!(
        cloud
            .refused("GET", "agent/ports?ids=x", ADMIN, json!(null))
            .await
            .0,
        400
    );
}
