//! Images whose properties make no sense, or do not agree with the flavor, are refused when a request is taken in. Every
//! property is in the table's own tests; here is where it is looked at.

use super::harness::{Answer, Cloud, IMAGE, KERNEL, ODD, RAMDISK};
use super::server_create::{body, cloud};
use super::server_life::{finish, host_is_up, make};
use serde_json::{Value, json};
use types::VmState;

fn refused(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert!(answer.fault().1.starts_with(words), "{}", answer.text);
}

async fn flavor(cloud: &Cloud, id: &str, specs: Value) {
    let wanted = json!({ "flavor": { "name": id, "id": id, "ram": 64, "vcpus": 2, "disk": 1 } });
    let made = cloud.send("admin", 1, "POST", "/flavors", wanted).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let path = format!("/flavors/{id}/os-extra_specs");
    let specs = json!({ "extra_specs": specs });
    let made = cloud.send("admin", 1, "POST", &path, specs).await;
    assert_eq!(made.status, 200, "{}", made.text);
}

/// What the image says, and how the request ends.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "hw_disk_bus",
        "floppy",
        "Invalid image metadata. Error: Field value floppy is invalid (image property hw_disk_bus)",
    ),
    (
        "hw_watchdog_action",
        "bark",
        "Invalid image metadata. Error: Field value bark is invalid",
    ),
    (
        "hw_cpu_sockets",
        "two",
        "Invalid image metadata. Error: invalid literal for int() with base 10: 'two'",
    ),
    (
        "vm_mode",
        "x",
        "Invalid image metadata. Error: Virtual machine mode 'x' is not valid",
    ),
    (
        "hw_rescue_device",
        "tape",
        "Invalid image metadata. Error: Field value tape is invalid",
    ),
];

#[tokio::test]
async fn values_that_cannot_be() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let action = format!("/servers/{id}/action");
    let act = async |wanted: Value| cloud.send("member", 90, "POST", &action, wanted).await;
    let odd = || body(json!({ "imageRef": ODD, "networks": "none" }));
    for (name, value, words) in WRONG {
        *cloud.odd.lock().unwrap() = json!({ *name: value });
        for query in ["", "?dry_run=true"] {
            let path = format!("/servers{query}");
            let answer = cloud.send("member", 90, "POST", &path, odd()).await;
            refused(&answer, 400, words);
        }
        let rebuild = json!({ "rebuild": { "imageRef": ODD } });
        refused(&act(rebuild).await, 400, words);
        let rescue = json!({ "rescue": { "rescue_image_ref": ODD } });
        refused(&act(rescue).await, 400, words);
    }
    let server = cloud.get("member", 90, &format!("/servers/{id}")).await;
    assert_eq!(server.json()["server"]["status"], "ACTIVE");
    assert_eq!(
        server.json()["server"]["OS-EXT-STS:task_state"],
        Value::Null
    );
}

#[tokio::test]
async fn values_in_other_words() {
    let cloud = cloud().await;
    let good = [
        ("hw_qemu_guest_agent", "on"),
        ("hw_qemu_guest_agent", "TRUE"),
        ("hw_vif_model", "igb"),
        ("hw_vif_model", "VirtualE1000"),
        ("hw_boot_menu", "perhaps"),
        ("os_type", "Linux"),
        ("anything_else", "goes"),
    ];
    for (name, value) in good {
        *cloud.odd.lock().unwrap() = json!({ name: value });
        let wanted = body(json!({ "imageRef": ODD, "networks": "none" }));
        let made = cloud.send("member", 90, "POST", "/servers", wanted).await;
        assert_eq!(made.status, 202, "{name}={value}: {}", made.text);
    }
    // A volume's snapshot has no bytes to rescue anybody.
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    *cloud.odd.lock().unwrap() = json!({ "block_device_mapping": r#"[{"snapshot_id": "s"}]"# });
    let rescue = json!({ "rescue": { "rescue_image_ref": ODD } });
    let action = format!("/servers/{id}/action");
    let answer = cloud.send("member", 90, "POST", &action, rescue).await;
    let words = format!("Requested rescue image '{ODD}' is not supported");
    refused(&answer, 400, &words);
}

#[tokio::test]
async fn flavors_that_say_something_else() {
    let cloud = cloud().await;
    let table = [
        (
            json!({ "hw:pmu": "true" }),
            json!({ "hw_pmu": "false" }),
            "Flavor f0 has hw:pmu extra spec explicitly set to True, conflicting with image",
        ),
        (
            json!({ "hw:serial_port_count": "1" }),
            json!({ "hw_serial_port_count": "2" }),
            "Forbidden to exceed flavor value of number of serial ports passed in image meta.",
        ),
        (
            json!({ "hw:cpu_max_sockets": "1" }),
            json!({ "hw_cpu_sockets": "2" }),
            "Image vCPU topology (sockets=2, cores=0, threads=0) exceeds the limits of the flavor or image (sockets=1,",
        ),
        (
            json!({ "hw:virtio_packed_ring": "true" }),
            json!({ "hw_virtio_packed_ring": "no" }),
            "Flavor has hw:virtio_packed_ring extra spec explicitly set to True, conflicting with image",
        ),
        (
            json!({ "hw:vif_multiqueue_enabled": "true" }),
            json!({ "hw_vif_multiqueue_enabled": "no" }),
            "Flavor f4 has hw:vif_multiqueue_enabled extra spec",
        ),
    ];
    for (number, (specs, image, words)) in table.into_iter().enumerate() {
        let id = format!("f{number}");
        flavor(&cloud, &id, specs).await;
        *cloud.odd.lock().unwrap() = image;
        let odd = |flavor: &str| {
            body(json!({ "imageRef": ODD, "flavorRef": flavor, "networks": "none" }))
        };
        for query in ["", "?dry_run=true"] {
            let path = format!("/servers{query}");
            let answer = cloud.send("member", 90, "POST", &path, odd(&id)).await;
            refused(&answer, 400, words);
        }
        // With another image there is such a server, which then shall have this one.
        let plain = body(json!({ "imageRef": IMAGE, "flavorRef": id, "networks": "none" }));
        let server = built(&cloud, plain).await;
        let rebuild = json!({ "rebuild": { "imageRef": ODD } });
        refused(&act(&cloud, &server, rebuild).await, 400, words);
        // And with another flavor, which then shall have this one.
        let server = built(&cloud, odd("1")).await;
        let resize = json!({ "resize": { "flavorRef": id } });
        refused(&act(&cloud, &server, resize).await, 400, words);
    }
    // Only new servers are asked for this one.
    flavor(
        &cloud,
        "near",
        json!({ "hw:pci_numa_affinity_policy": "required" }),
    )
    .await;
    *cloud.odd.lock().unwrap() = json!({ "hw_pci_numa_affinity_policy": "legacy" });
    let odd = body(json!({ "imageRef": ODD, "flavorRef": "near", "networks": "none" }));
    let answer = cloud.send("member", 90, "POST", "/servers", odd).await;
    let words = "Image property 'hw_pci_numa_affinity_policy' is not permitted to override";
    refused(&answer, 403, words);
}

/// A server that runs.
async fn built(cloud: &Cloud, wanted: Value) -> String {
    let made = cloud.send("member", 90, "POST", "/servers", wanted).await;
    assert_eq!(made.status, 202, "{}", made.text);
    let id = made.json()["server"]["id"].as_str().unwrap().to_owned();
    finish(cloud, &id, VmState::Active).await;
    host_is_up(cloud).await;
    id
}

async fn act(cloud: &Cloud, id: &str, wanted: Value) -> Answer {
    let action = format!("/servers/{id}/action");
    cloud.send("member", 90, "POST", &action, wanted).await
}

/// What a server is shown with.
async fn kernels(cloud: &Cloud, id: &str) -> (String, String) {
    let server = cloud.get("admin", 90, &format!("/servers/{id}")).await;
    let server = &server.json()["server"];
    let shown = |name: &str| {
        let shown = &server[format!("OS-EXT-SRV-ATTR:{name}")];
        shown.as_str().unwrap().to_owned()
    };
    (shown("kernel_id"), shown("ramdisk_id"))
}

#[tokio::test]
async fn kernels_of_images() {
    let cloud = cloud().await;
    let odd = || body(json!({ "imageRef": ODD, "networks": "none" }));
    let plain = body(json!({ "imageRef": IMAGE, "networks": "none" }));
    let both = || (KERNEL.to_owned(), RAMDISK.to_owned());
    let none = || (String::new(), String::new());
    let says = |kernel: &str, ramdisk: &str| {
        *cloud.odd.lock().unwrap() = json!({ "kernel_id": kernel, "ramdisk_id": ramdisk });
    };
    says(KERNEL, RAMDISK);
    let with = built(&cloud, odd()).await;
    assert_eq!(kernels(&cloud, &with).await, both());
    let without = built(&cloud, plain).await;
    assert_eq!(kernels(&cloud, &without).await, none());
    says("nokernel", RAMDISK);
    let on_disk = built(&cloud, odd()).await;
    assert_eq!(kernels(&cloud, &on_disk).await, none());
    // An image without a kernel has its RAM disk for nothing, as in Nova.
    *cloud.odd.lock().unwrap() = json!({ "ramdisk_id": RAMDISK });
    let half = built(&cloud, odd()).await;
    assert_eq!(
        kernels(&cloud, &half).await,
        (String::new(), RAMDISK.to_owned())
    );

    let table = [
        (format!("kernel_id={KERNEL}"), vec![&with]),
        (format!("kernel_id={}", &KERNEL[30..]), vec![&with]),
        (format!("ramdisk_id={RAMDISK}"), vec![&with, &half]),
        ("kernel_id=^$".to_owned(), vec![&without, &on_disk, &half]),
        (format!("kernel_id={RAMDISK}"), vec![]),
    ];
    for (query, wanted) in table {
        let path = format!("/servers?all_tenants=1&{query}");
        let found = cloud.get("admin", 90, &path).await.json();
        let found = found["servers"].as_array().unwrap().clone();
        let mut found: Vec<&str> = found
            .iter()
            .map(|server| server["id"].as_str().unwrap())
            .collect();
        let mut wanted: Vec<&str> = wanted.iter().map(|id| id.as_str()).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{query}");
    }

    let listed = async |query: &str| -> Vec<String> {
        let path = format!("/servers?all_tenants=1&{query}&sort_key=created_at&sort_dir=asc");
        let found = cloud.get("admin", 90, &path).await.json();
        let found = found["servers"].as_array().unwrap().iter();
        let id = |server: &Value| server["id"].as_str().unwrap().to_owned();
        found.map(id).collect()
    };
    let mut first = listed("sort_key=kernel_id&sort_dir=desc").await;
    assert_eq!(first.remove(0), with);
    assert_eq!(first, [&*without, &*on_disk, &*half]);
    let next = format!("sort_key=kernel_id&sort_dir=desc&limit=1&marker={with}");
    assert_eq!(listed(&next).await, [&*without]);
    let mut last = listed("sort_key=ramdisk_id&sort_dir=asc").await;
    assert_eq!(last.split_off(2), [&*with, &*half]);
    assert_eq!(last, [&*without, &*on_disk]);

    // Another image has another kernel, or none.
    let rebuild = |image: &str| json!({ "rebuild": { "imageRef": image } });
    assert_eq!(act(&cloud, &with, rebuild(IMAGE)).await.status, 202);
    assert_eq!(kernels(&cloud, &with).await, none());
    says(KERNEL, RAMDISK);
    assert_eq!(act(&cloud, &without, rebuild(ODD)).await.status, 202);
    assert_eq!(kernels(&cloud, &without).await, both());

    finish(&cloud, &with, VmState::Active).await;
    for (kernel, ramdisk) in [(ABSENT, RAMDISK), (KERNEL, ABSENT), ("no id", RAMDISK)] {
        says(kernel, ramdisk);
        for query in ["", "?dry_run=true"] {
            let path = format!("/servers{query}");
            let answer = cloud.send("member", 90, "POST", &path, odd()).await;
            refused(&answer, 400, "Can not find requested image");
        }
        let answer = act(&cloud, &with, rebuild(ODD)).await;
        refused(&answer, 400, "Cannot find image for rebuild");
    }
}

/// No image has this id.
const ABSENT: &str = "70a599e0-31e7-49b7-b260-868f441e86ff";
