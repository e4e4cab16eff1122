use super::*;
use std::time::Duration;

async fn imported(cloud: &Cloud, id: &str, data: &'static str) -> Value {
    let stage = Request::put(format!("/v2/images/{id}/stage"))
        .header("x-auth-token", ALICE)
        .header("content-type", "application/octet-stream");
    cloud
        .send(stage.body(Body::from(data)).unwrap())
        .await
        .is(204);
    let path = format!("/v2/images/{id}/import");
    let body = json!({"method": {"name": "glance-direct"}});
    cloud.call(ALICE, "POST", &path, body).await.is(202);
    for _ in 0..3000 {
        let tasks = cloud
            .get(ALICE, &format!("/v2/images/{id}/tasks"))
            .await
            .is(200)
            .json();
        let tasks = tasks["tasks"].as_array().unwrap().clone();
        if tasks[0]["status"] != "processing" {
            return tasks[0].clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the import does not end");
}

#[tokio::test]
async fn an_import_is_a_task() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({})).await;
    let none = cloud
        .get(ALICE, &format!("/v2/images/{id}/tasks"))
        .await
        .json();
    assert_eq!(none, json!({"tasks": []}));
    let task = imported(&cloud, &id, "hello").await;
    assert_eq!(
        (&task["status"], &task["type"]),
        (&json!("success"), &json!("api_image_import"))
    );
    assert_eq!(
        (&task["owner"], &task["result"]["image_id"]),
        (&json!("p1"), &json!(id))
    );
    assert_eq!(
        task["input"]["import_req"]["method"]["name"],
        "glance-direct"
    );
    cloud
        .get(BOB, &format!("/v2/images/{id}/tasks"))
        .await
        .is(404);
    // Tasks as such are the administrators'.
    cloud.get(ALICE, "/v2/tasks").await.is(403);
    let all = cloud.get(ADMIN, "/v2/tasks").await.is(200).json();
    assert_eq!(all["tasks"][0]["id"], task["id"]);
    let own = all["tasks"][0]["self"].as_str().unwrap();
    assert_eq!(cloud.get(ADMIN, own).await.is(200).json()["message"], "");
    cloud.get(ADMIN, "/v2/tasks/nothing").await.is(404);
}

/// What another process works on stays as it is, until that process is gone.
#[tokio::test]
async fn an_interrupted_import_ends_with_its_process() {
    let cloud = Cloud::new().await;
    let (staged, whole) = (
        cloud.create(ALICE, json!({})).await,
        cloud.create(ALICE, json!({})).await,
    );
    cloud.put_file(ALICE, &whole, "data").await.is(204);
    let (root, now) = (cloud.folder.path().join("images"), types::Timestamp::now());
    for id in [&staged, &whole] {
        std::fs::write(root.join("staging").join(id), "data").unwrap();
        let task = crate::model::Task {
            id: id.clone(),
            kind: "api_image_import".to_owned(),
            status: "processing".to_owned(),
            owner: "p1".to_owned(),
            user_id: "someone".to_owned(),
            image_id: id.clone(),
            request_id: String::new(),
            input: "{}".to_owned(),
            message: String::new(),
            created_at: now,
            updated_at: now,
            expires_at: None,
        };
        let added = cloud.store.write(move |tx| crate::db::add_task(tx, &task));
        added.await.unwrap();
    }
    let (queued, importing) = (
        crate::model::Status::Queued,
        crate::model::Status::Importing,
    );
    let changed = cloud.service.change_status(&staged, queued, importing);
    changed.await.unwrap();
    let folder = &cloud.service.inner.folder;
    let take = |id| crate::work::Work::take(folder, id).unwrap().unwrap();
    let working = (take(&staged), take(&whole));
    let other = cloud.restarted().await;
    let state = async |id: &String| {
        let answer = cloud.get(ADMIN, &format!("/v2/tasks/{id}")).await;
        let task = answer.is(200).json()["status"].clone();
        (cloud.status(id).await, task)
    };
    let is = |image: &str, task: &str| (image.to_owned(), json!(task));
    assert_eq!(state(&staged).await, is("importing", "processing"));
    assert_eq!(state(&whole).await, is("active", "processing"));
    drop(working);
    other.recover().await.unwrap();
    assert_eq!(state(&staged).await, is("uploading", "failure"));
    // Only its end could not be said any more.
    assert_eq!(state(&whole).await, is("active", "success"));
    let mut wanted = [staged.clone(), whole];
    let mut files = cloud.files();
    wanted.sort();
    files.sort();
    assert_eq!(files, wanted);
    let path = format!("/v2/images/{staged}/import");
    let body = json!({"method": {"name": "glance-direct"}});
    cloud.call(ALICE, "POST", &path, body).await.is(202);
}

#[tokio::test]
async fn a_refused_import_says_why() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({"disk_format": "qcow2"})).await;
    let task = imported(&cloud, &id, "this is no qcow2").await;
    assert_eq!(task["status"], "failure");
    assert_ne!(task["message"], "");
    assert_eq!(cloud.status(&id).await, "queued");
}

#[tokio::test]
async fn tasks_that_are_asked_for() {
    let cloud = Cloud::new().await;
    let task = |from: &str| json!({"type": "import", "input": {"import_from": from, "import_from_format": "raw", "image_properties": {}}});
    cloud
        .call(ALICE, "POST", "/v2/tasks", task("http://127.0.0.1/x"))
        .await
        .is(403);
    for from in [
        "file:///etc/passwd",
        "http://no-such-host.invalid/x",
        "",
        "http://",
    ] {
        cloud
            .call(ADMIN, "POST", "/v2/tasks", task(from))
            .await
            .is(400);
    }
    cloud
        .call(ADMIN, "POST", "/v2/tasks", json!({"type": "export"}))
        .await
        .is(400);
    cloud
        .call(ADMIN, "POST", "/v2/tasks", task("http://127.0.0.1/x"))
        .await
        .is(501);
}
