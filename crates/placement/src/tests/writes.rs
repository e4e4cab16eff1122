//! Everything that is written, and by many at once.

use super::*;

fn amounts(vcpus: u64) -> Value {
    json!({"resources": {"VCPU": vcpus}})
}

type Step = (
    &'static str,
    &'static str,
    String,
    Option<Value>,
    u16,
    &'static str,
);

/// Providers, inventories and allocations through their lives: (version, method, path, body, status, code).
#[tokio::test]
async fn what_is_written() {
    let mine = Uuid::from_u128(5);
    let rp = format!("/resource_providers/{mine}");
    let (one, two) = (Uuid::from_u128(11), Uuid::from_u128(12));
    let inventory = json!({"total": 4, "reserved": 1});
    let put = |vcpus: u64, generation: Value| json!({"allocations": {mine.to_string(): amounts(vcpus)}, "project_id": "p1", "user_id": "u1", "consumer_generation": generation, "consumer_type": "INSTANCE"});
    let none = |generation: u64| json!({"allocations": {}, "project_id": "p1", "user_id": "u1", "consumer_generation": generation, "consumer_type": "INSTANCE"});
    let old_form = json!({"allocations": [{"resource_provider": {"uuid": mine.to_string()}, "resources": {"VCPU": 1}}]});
    let undefined = "placement.undefined_code";
    let concurrent = "placement.concurrent_update";
    let steps: Vec<Step> = vec![
        (
            "1.23",
            "POST",
            "/resource_providers".into(),
            Some(json!({"name": "mine", "uuid": mine.to_string()})),
            200,
            "",
        ),
        (
            "1.23",
            "POST",
            "/resource_providers".into(),
            Some(json!({"name": "mine"})),
            409,
            "placement.duplicate_name",
        ),
        (
            "1.23",
            "POST",
            "/resource_providers".into(),
            Some(json!({"title": "mine"})),
            400,
            undefined,
        ),
        (
            "1.19",
            "POST",
            "/resource_providers".into(),
            Some(json!({"name": "other"})),
            201,
            "",
        ),
        (
            "1.23",
            "PUT",
            rp.clone(),
            Some(json!({"name": "other"})),
            409,
            "placement.duplicate_name",
        ),
        (
            "1.23",
            "PUT",
            rp.clone(),
            Some(json!({"name": "renamed"})),
            200,
            "",
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories"),
            Some(json!({"inventories": {"VCPU": inventory}, "resource_provider_generation": 7})),
            409,
            concurrent,
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories"),
            Some(json!({"inventories": {"GOLD": inventory}, "resource_provider_generation": 0})),
            400,
            undefined,
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories"),
            Some(json!({"inventories": {"VCPU": {"total": 0}}, "resource_provider_generation": 0})),
            400,
            undefined,
        ),
        (
            "1.25",
            "PUT",
            format!("{rp}/inventories"),
            Some(
                json!({"inventories": {"VCPU": {"total": 4, "reserved": 4}}, "resource_provider_generation": 0}),
            ),
            400,
            undefined,
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories"),
            Some(json!({"inventories": {"VCPU": inventory}, "resource_provider_generation": 0})),
            200,
            "",
        ),
        (
            "1.23",
            "POST",
            format!("{rp}/inventories"),
            Some(json!({"resource_class": "DISK_GB", "total": 9})),
            201,
            "",
        ),
        (
            "1.23",
            "POST",
            format!("{rp}/inventories"),
            Some(json!({"resource_class": "DISK_GB", "total": 9})),
            409,
            concurrent,
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories/DISK_GB"),
            Some(json!({"total": 8, "resource_provider_generation": 2})),
            200,
            "",
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories/MEMORY_MB"),
            Some(json!({"total": 8, "resource_provider_generation": 3})),
            400,
            undefined,
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(put(2, Value::Null)),
            204,
            "",
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(put(3, Value::Null)),
            409,
            concurrent,
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(put(4, json!(1))),
            409,
            undefined,
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(put(3, json!(1))),
            204,
            "",
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{two}"),
            Some(put(1, Value::Null)),
            409,
            undefined,
        ),
        (
            "1.38",
            "PUT",
            "/allocations/x".into(),
            Some(put(1, Value::Null)),
            400,
            undefined,
        ),
        (
            "1.37",
            "PUT",
            format!("/allocations/{two}"),
            Some(put(1, Value::Null)),
            400,
            undefined,
        ),
        // The capacity of 3 changes hands in one request.
        (
            "1.38",
            "POST",
            "/allocations".into(),
            Some(json!({one.to_string(): put(1, json!(2)), two.to_string(): put(2, Value::Null)})),
            204,
            "",
        ),
        (
            "1.38",
            "POST",
            "/allocations".into(),
            Some(json!({one.to_string(): none(3), two.to_string(): put(4, json!(1))})),
            409,
            undefined,
        ),
        (
            "1.23",
            "DELETE",
            rp.clone(),
            None,
            409,
            "placement.resource_provider.inuse",
        ),
        (
            "1.23",
            "DELETE",
            format!("{rp}/inventories/VCPU"),
            None,
            409,
            "placement.inventory.inuse",
        ),
        (
            "1.23",
            "DELETE",
            format!("{rp}/inventories/DISK_GB"),
            None,
            204,
            "",
        ),
        (
            "1.23",
            "DELETE",
            format!("{rp}/inventories/DISK_GB"),
            None,
            404,
            undefined,
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(none(3)),
            204,
            "",
        ),
        (
            "1.23",
            "DELETE",
            format!("/allocations/{one}"),
            None,
            404,
            undefined,
        ),
        (
            "1.23",
            "DELETE",
            format!("/allocations/{two}"),
            None,
            204,
            "",
        ),
        (
            "1.0",
            "PUT",
            format!("/allocations/{two}"),
            Some(old_form),
            204,
            "",
        ),
        (
            "1.23",
            "DELETE",
            format!("/allocations/{two}"),
            None,
            204,
            "",
        ),
        ("1.23", "DELETE", format!("{rp}/inventories"), None, 204, ""),
        ("1.23", "DELETE", rp.clone(), None, 204, ""),
        ("1.23", "DELETE", rp.clone(), None, 404, undefined),
    ];
    for TestStore { name, store, .. } in &databases().await {
        let service = cloud(store).await;
        for (step, (version, method, path, body, status, code)) in steps.iter().enumerate() {
            let reply = ask(&service, "admin", version, method, path, body.clone()).await;
            let what = format!(
                "{name} {step}: {version} {method} {path}: {} {}",
                reply.status, reply.body
            );
            assert_eq!(reply.status, *status, "{what}");
            if !code.is_empty() {
                assert_eq!(reply.body["errors"][0]["code"], json!(code), "{what}");
            }
        }
    }
}

/// Everybody at once wants the last vCPUs: no more are given out than there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_never_over_commit() {
    for TestStore { name, store, .. } in &databases().await {
        let service = cloud(store).await;
        let mut tasks = Vec::new();
        for n in 100..120u128 {
            let service = service.clone();
            tasks.push(tokio::spawn(async move {
                let body = json!({"allocations": {RP2.to_string(): amounts(1)}, "project_id": "p1", "user_id": "u1"});
                ask(&service, "admin", "1.12", "PUT", &format!("/allocations/{}", Uuid::from_u128(n)), Some(body)).await.status
            }));
        }
        let mut given = 0;
        for task in tasks {
            let status = task.await.unwrap();
            assert!([204, 409].contains(&status), "{name}: {status}");
            given += u32::from(status == 204);
        }
        let used = get(
            &service,
            "1.0",
            &format!("/resource_providers/{RP2}/usages"),
        )
        .await
        .body["usages"]["VCPU"]
            .clone();
        assert_eq!((given, used), (8, json!(8)), "{name}");
    }
}
