//! Resize and cold migration as requests: what is accepted, what is refused and how, and what is counted.

use super::harness::{Cloud, DEMO};
use super::server_create::cloud;
use super::server_life::{finish, host_is_up, make};
use db::instances::{Change, Expected, Instance};
use db::migrations::Status;
use serde_json::{Value, json};
use types::{ServerId, TaskState, Timestamp, VmState};

/// A cloud with a server that runs, and flavors to resize it to.
async fn running() -> (Cloud, String) {
    let cloud = cloud().await;
    for (id, ram, vcpus, disk) in [
        ("2", 1024, 2, 2),
        ("huge", 1024, 200, 2),
        ("diskless", 512, 1, 0),
        ("slim", 64, 1, 1),
    ] {
        let flavor =
            json!({"flavor": {"name": id, "id": id, "ram": ram, "vcpus": vcpus, "disk": disk}});
        cloud.send("admin", 1, "POST", "/flavors", flavor).await;
    }
    let private = json!({"flavor": {"name": "p", "id": "p", "ram": 512, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": false}});
    cloud.send("admin", 1, "POST", "/flavors", private).await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    host_is_up(&cloud).await;
    (cloud, id)
}

async fn act(cloud: &Cloud, token: &str, id: &str, version: u16, body: Value) -> (u16, String) {
    let path = format!("/servers/{id}/action");
    let answer = cloud.send(token, version, "POST", &path, body).await;
    (answer.status.as_u16(), answer.fault().1)
}

fn resize(flavor: Value) -> Value {
    json!({"resize": {"flavorRef": flavor}})
}

async fn stored(cloud: &Cloud, id: &str) -> Instance {
    let id: ServerId = id.parse().unwrap();
    let found = cloud.store.read(move |tx| db::instances::get(tx, id)).await;
    found.unwrap().unwrap()
}

async fn used(cloud: &Cloud) -> (Value, Value) {
    let limits = cloud.get("member", 57, "/limits").await.json();
    let absolute = &limits["limits"]["absolute"];
    (
        absolute["totalCoresUsed"].clone(),
        absolute["totalRAMUsed"].clone(),
    )
}

/// What the flow does at its end.
pub async fn arrived(cloud: &Cloud, id: &str) {
    let id: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let server = db::instances::get(tx, id)?.unwrap();
        let now = Timestamp::now();
        db::tasks::take_over(tx, server.task_id.unwrap())?;
        db::moves::arrive(tx, &server)?;
        let moving = server.kept.unsettled.unwrap();
        db::migrations::set_status(tx, moving.migration, Status::Finished, now)?;
        let change = Change {
            vm_state: Some(VmState::Resized),
            task_state: Some(None),
            task_id: Some(None),
            ..Change::default()
        };
        let expected = Expected::Generation(server.generation);
        assert!(db::instances::transition(tx, id, expected, &change, now)?);
        Ok(())
    };
    cloud.store.write(write).await.unwrap();
}

#[tokio::test]
async fn a_resize_is_accepted_counted_and_shown() {
    let (cloud, id) = running().await;
    assert_eq!(used(&cloud).await, (json!(1), json!(512)));
    assert_eq!(
        act(&cloud, "member", &id, 90, resize(json!("2"))).await.0,
        202
    );
    let server = stored(&cloud, &id).await;
    assert_eq!(server.task_state, Some(TaskState::ResizePrep));
    let moving = server.kept.unsettled.clone().unwrap();
    assert_eq!((moving.ran, moving.new_flavor.vcpus), (true, 2));
    assert_eq!(used(&cloud).await, (json!(2), json!(1024)));
    let shown = cloud
        .get("admin", 80, &format!("/servers/{id}"))
        .await
        .json();
    assert_eq!(
        (
            &shown["server"]["status"],
            &shown["server"]["flavor"]["vcpus"]
        ),
        (&json!("RESIZE"), &json!(1)),
        "the flavor is the old one until it has arrived"
    );
    let list = cloud.get("admin", 80, "/os-migrations").await.json();
    let record = &list["migrations"][0];
    assert_eq!(
        (
            &record["status"],
            &record["migration_type"],
            &record["source_compute"],
            &record["dest_compute"]
        ),
        (
            &json!("pre-migrating"),
            &json!("resize"),
            &json!("h1"),
            &Value::Null
        )
    );
    assert_eq!(
        (&record["project_id"], &record["user_id"]),
        (&json!(DEMO), &json!("demo-user"))
    );
    let path = format!("/servers/{id}/os-instance-actions");
    let actions = cloud.get("member", 90, &path).await.json();
    assert_eq!(actions["instanceActions"][0]["action"], "resize");

    arrived(&cloud, &id).await;
    let shown = cloud
        .get("member", 90, &format!("/servers/{id}"))
        .await
        .json();
    assert_eq!(
        (
            &shown["server"]["status"],
            &shown["server"]["flavor"]["vcpus"]
        ),
        (&json!("VERIFY_RESIZE"), &json!(2))
    );
    let confirm = json!({"confirmResize": null});
    assert_eq!(act(&cloud, "member", &id, 90, confirm.clone()).await.0, 204);
    let server = stored(&cloud, &id).await;
    assert_eq!(server.task_state, Some(TaskState::ResizeConfirming));
    let words =
        format!("Cannot 'confirmResize' instance {id} while it is in task_state resize_confirming");
    assert_eq!(act(&cloud, "member", &id, 90, confirm).await, (409, words));
}

#[tokio::test]
async fn refusals() {
    let (cloud, id) = running().await;
    let cases: &[(&str, u16, Value, u16, &str)] = &[
        (
            "member",
            90,
            resize(json!("none")),
            400,
            "Flavor none could not be found.",
        ),
        (
            "member",
            90,
            resize(json!("p")),
            400,
            "Flavor p could not be found.",
        ),
        (
            "member",
            90,
            resize(json!("1")),
            400,
            "When resizing, instances must change flavor!",
        ),
        (
            "member",
            90,
            resize(json!(1)),
            400,
            "When resizing, instances must change flavor!",
        ),
        (
            "member",
            90,
            resize(json!("diskless")),
            400,
            "Server disk was unable to be resized because: Resize to zero disk flavor is not allowed.",
        ),
        (
            "member",
            90,
            resize(json!("huge")),
            403,
            "Quota exceeded for cores: Requested 199, but already used 1 of 20 cores",
        ),
        (
            "member",
            90,
            resize(json!("")),
            400,
            "Invalid input for field/attribute flavorRef. Value: . '' should be non-empty",
        ),
        (
            "member",
            90,
            json!({"resize": {}}),
            400,
            "Invalid input for field/attribute resize. Value: {}. 'flavorRef' is a required property",
        ),
        (
            "admin",
            90,
            json!({"migrate": {"host": "h1"}}),
            400,
            "Cannot migrate to the host where the server exists.",
        ),
        (
            "admin",
            90,
            json!({"migrate": {"host": "nowhere"}}),
            400,
            "Compute host nowhere could not be found.",
        ),
        (
            "manager",
            90,
            json!({"migrate": {"host": "h2"}}),
            403,
            "Policy doesn't allow os_compute_api:os-migrate-server:migrate:host to be performed.",
        ),
        (
            "member",
            90,
            json!({"migrate": null}),
            403,
            "Policy doesn't allow os_compute_api:os-migrate-server:migrate to be performed.",
        ),
    ];
    for (token, version, body, status, message) in cases {
        let answer = act(&cloud, token, &id, *version, body.clone()).await;
        assert_eq!(answer, (*status, (*message).to_owned()), "{body}");
    }
    let server = stored(&cloud, &id).await;
    assert_eq!((server.task_state, server.kept.unsettled), (None, None));
    assert_eq!(used(&cloud).await, (json!(1), json!(512)));
    // Below 2.56 the value says nothing.
    let old = json!({"migrate": {"host": "h1"}});
    assert_eq!(act(&cloud, "manager", &id, 55, old).await.0, 202);
    let server = stored(&cloud, &id).await;
    assert_eq!(server.kept.unsettled.unwrap().old_flavor.id.as_str(), "1");
}

#[tokio::test]
async fn the_images_wishes_hold_for_the_new_flavor() {
    let (cloud, id) = running().await;
    let too_small = (
        400,
        "Flavor's memory is too small for requested image.".to_owned(),
    );
    edit(&cloud, &id, |server| {
        let image = server.image.as_mut().unwrap();
        image.min_ram = 128;
        let never = "Disabled".to_owned();
        image
            .properties
            .insert("auto_disk_config".to_owned(), never);
    })
    .await;
    let slim = act(&cloud, "member", &id, 90, resize(json!("slim"))).await;
    assert_eq!(slim, too_small);
    let mut auto = resize(json!("2"));
    auto["resize"]["OS-DCF:diskConfig"] = "AUTO".into();
    let image = super::harness::IMAGE;
    let words = format!("Requested image {image} has automatic disk resize disabled.");
    assert_eq!(act(&cloud, "member", &id, 90, auto).await, (400, words));
    // Of a volume, its image says how much memory it wants.
    edit(&cloud, &id, |server| {
        server.image = None;
        server.kept.boot_volume = Some(db::instances::BootVolume {
            min_ram: 2048,
            ..Default::default()
        });
    })
    .await;
    let refused = act(&cloud, "member", &id, 90, resize(json!("2"))).await;
    assert_eq!(refused, too_small);
    edit(&cloud, &id, |server| {
        server.kept.boot_volume = Some(db::instances::BootVolume {
            min_ram: 1024,
            ..Default::default()
        });
    })
    .await;
    let taken = act(&cloud, "member", &id, 90, resize(json!("2"))).await;
    assert_eq!(taken.0, 202, "{}", taken.1);
}

/// Writes the server as it is after this change.
async fn edit(cloud: &Cloud, id: &str, change: fn(&mut Instance)) {
    let id: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let mut server = db::instances::get(tx, id)?.unwrap();
        change(&mut server);
        db::instances::rewrite(tx, &server)
    };
    cloud.store.write(write).await.unwrap();
}

#[tokio::test]
async fn hosts_must_be_up() {
    let (cloud, id) = running().await;
    let silent = |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        for service in db::hosts::services(tx)? {
            db::hosts::set_forced_down(tx, service.uuid, true, Timestamp::now())?;
        }
        Ok(())
    };
    cloud.store.write(silent).await.unwrap();
    let down = (409, "Service is unavailable at this time.".to_owned());
    assert_eq!(
        act(&cloud, "member", &id, 90, resize(json!("2"))).await,
        down
    );
    assert_eq!(
        act(&cloud, "manager", &id, 90, json!({"migrate": null})).await,
        down
    );
}

#[tokio::test]
async fn a_burst_does_not_get_past_the_limit() {
    let (cloud, first) = running().await;
    let second = make(&cloud, "member", "b").await;
    finish(&cloud, &second, VmState::Active).await;
    let limits = json!({"quota_set": {"cores": 3}});
    let path = format!("/os-quota-sets/{DEMO}");
    assert_eq!(
        cloud.send("admin", 90, "PUT", &path, limits).await.status,
        200
    );
    let (a, b) = tokio::join!(
        act(&cloud, "member", &first, 90, resize(json!("2"))),
        act(&cloud, "member", &second, 90, resize(json!("2"))),
    );
    let mut statuses = [a.0, b.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 403]);
    assert_eq!(used(&cloud).await.0, json!(3));
}

#[tokio::test]
async fn what_did_not_move_is_not_confirmed() {
    let (cloud, id) = running().await;
    let uuid: ServerId = id.parse().unwrap();
    let resized = move |tx: &mut sql::Tx<'_>| -> Result<bool, sql::Error> {
        let server = db::instances::get(tx, uuid)?.unwrap();
        let change = Change {
            vm_state: Some(VmState::Resized),
            ..Change::default()
        };
        let expected = Expected::Generation(server.generation);
        db::instances::transition(tx, uuid, expected, &change, Timestamp::now())
    };
    assert!(cloud.store.write(resized).await.unwrap());
    let never = (400, "Instance has not been resized.".to_owned());
    for action in ["confirmResize", "revertResize"] {
        assert_eq!(
            act(&cloud, "member", &id, 90, json!({ action: null })).await,
            never
        );
    }
}

#[tokio::test]
async fn a_reset_server_moves_again_when_its_move_has_an_end() {
    for end in ["confirmResize", "revertResize"] {
        let (cloud, id) = running().await;
        assert_eq!(
            act(&cloud, "member", &id, 90, resize(json!("2"))).await.0,
            202
        );
        arrived(&cloud, &id).await;
        let reset = json!({"os-resetState": {"state": "active"}});
        assert_eq!(act(&cloud, "admin", &id, 90, reset).await.0, 202);
        let words =
            "has a resize that is neither confirmed nor reverted; confirm or revert it first";
        assert_eq!(
            act(&cloud, "member", &id, 90, resize(json!("1"))).await,
            (409, format!("Instance {id} {words}"))
        );
        let ended = act(&cloud, "member", &id, 90, json!({ end: null })).await;
        assert!([202, 204].contains(&ended.0), "{end}: {ended:?}");
        let server = stored(&cloud, &id).await;
        assert!(server.task_state.is_some(), "{end}");
    }
}
