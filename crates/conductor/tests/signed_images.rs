#![allow(clippy::unwrap_used)]
//! Stories of servers whose images are signed: what the host finds in the bytes decides.

use testkit::{Cluster, Options};
use types::agent::GuestImage;
use types::image_check::{HashMethod, ImageCheck, KeyType, Signed};
use types::server::ImageRef;
use types::{ServerId, VmState};
use virt::Hypervisor;

/// What the vectors are signatures of.
const MESSAGE: &[u8] = b"the bytes of an image\n";
const OTHER: &[u8] = b"the bytes of anything\n";

/// A signature of [`MESSAGE`] on P-384 with SHA-512.
fn signed() -> ImageCheck {
    let vectors = include_str!("../../signatures/testdata/vectors.txt");
    let mut lines = vectors.lines().map(|line| line.split(' '));
    let found = lines.find_map(|mut fields| {
        let kind = (fields.next()?, fields.next()?);
        let key = (fields.next()?, fields.next()?);
        (kind == ("ECC_SECP384R1", "SHA-512")).then_some(key)
    });
    let (public_key, signature) = found.unwrap();
    ImageCheck::Signed(Signed {
        certificate: "the-certificate".to_owned(),
        hash: HashMethod::Sha512,
        key_type: KeyType::EccSecp384r1,
        public_key: public_key.to_owned(),
        signature: signature.to_owned(),
    })
}

fn refused() -> ImageCheck {
    ImageCheck::Refused {
        reason: "Signature verification for the image failed: the key manager was away.".to_owned(),
    }
}

/// An image with these bytes, as the API puts it down.
fn image(cluster: &Cluster, bytes: &[u8], check: ImageCheck) -> ImageRef {
    let id = types::ImageId::random();
    cluster.images.put(&id.to_string(), bytes);
    let document = serde_json::json!({ "id": id, "name": "i", "disk_format": "raw", "container_format": "bare",
        "size": bytes.len(), "min_disk": 0, "min_ram": 0, "sha512": null, "properties": {}, "check": check });
    serde_json::from_value(document).unwrap()
}

async fn made_of(cluster: &Cluster, image: &ImageRef) -> ServerId {
    let image = image.clone();
    let server = cluster
        .create_with(|server| server.image = Some(image))
        .await;
    cluster.idle().await;
    server
}

async fn clean(cluster: &Cluster) {
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_server_is_made_of_what_was_signed() {
    let cluster = Cluster::new(Options::default()).await;
    let image = image(&cluster, MESSAGE, signed());
    let server = cluster.server(made_of(&cluster, &image).await).await;
    assert_eq!((server.vm_state, server.fault), (VmState::Active, None));
    assert_eq!(cluster.images.fetched(&image.id.to_string()), 1);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_server_whose_image_is_not_what_was_signed_is_in_error_at_once() {
    let cluster = Cluster::new(Options::default()).await;
    let image = image(&cluster, OTHER, signed());
    let id = made_of(&cluster, &image).await;
    let server = cluster.server(id).await;
    assert_eq!((server.vm_state, server.host), (VmState::Error, None));
    let fault = server.fault.unwrap();
    assert_eq!(fault.code, 500);
    for words in [
        "Signature verification for the image failed: ",
        "the-certificate",
        "Sign the image anew",
    ] {
        assert!(fault.message.contains(words), "{}", fault.message);
    }
    // No other host was asked.
    assert_eq!(cluster.images.fetched(&image.id.to_string()), 1);
    clean(&cluster).await;
    cluster.delete(id).await;
    cluster.idle().await;
    clean(&cluster).await;
}

#[tokio::test]
async fn an_image_of_which_too_little_is_known_is_not_fetched() {
    let cluster = Cluster::new(Options::default()).await;
    let image = image(&cluster, MESSAGE, refused());
    let server = cluster.server(made_of(&cluster, &image).await).await;
    assert_eq!((server.vm_state, server.host), (VmState::Error, None));
    let message = server.fault.unwrap().message;
    assert!(message.contains("the key manager was away"), "{message}");
    assert_eq!(cluster.images.fetched(&image.id.to_string()), 0);
    clean(&cluster).await;
}

/// What a host has seen for a server that asked for no signature, or trusted others, lets no other server in.
#[tokio::test]
async fn each_server_has_its_own_signature_verified() {
    let cluster = Cluster::new(Options {
        hosts: 1,
        ..Options::default()
    })
    .await;
    let good = image(&cluster, OTHER, signed());
    let unchecked = ImageRef {
        check: None,
        ..good.clone()
    };
    let states = async |image: &ImageRef| {
        let server = cluster.server(made_of(&cluster, image).await).await;
        server.vm_state
    };
    assert_eq!(states(&unchecked).await, VmState::Active);
    assert_eq!(states(&good).await, VmState::Error);
    let right = image(&cluster, MESSAGE, signed());
    assert_eq!(states(&right).await, VmState::Active);
    let distrusted = ImageRef {
        check: Some(refused()),
        ..right.clone()
    };
    assert_eq!(states(&distrusted).await, VmState::Error);
    assert_eq!(states(&right).await, VmState::Active);
    // The host knew it by then.
    assert_eq!(cluster.images.fetched(&right.id.to_string()), 1);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_rebuild_with_a_bad_image_leaves_the_guest_as_it_was() {
    let cluster = Cluster::new(Options::default()).await;
    let good = image(&cluster, MESSAGE, signed());
    let id = made_of(&cluster, &good).await;
    let host = cluster.server(id).await.host.unwrap();
    for (bytes, ends) in [(OTHER, VmState::Error), (MESSAGE, VmState::Active)] {
        let other = image(&cluster, bytes, signed());
        let change = move |tx: &mut sql::Tx<'_>| {
            let mut server = db::instances::get(tx, id)?.unwrap();
            server.image = Some(other.clone());
            db::instances::rewrite(tx, &server)
        };
        let changed: Result<(), sql::Error> = cluster.store.write(change).await;
        changed.unwrap();
        cluster.act(id, "rebuild", serde_json::json!({})).await;
        cluster.idle().await;
        let server = cluster.server(id).await;
        assert_eq!((server.vm_state, server.host), (ends, Some(host.clone())));
        let failed = server.fault.map(|fault| fault.message);
        let told = failed.is_some_and(|words| words.contains("Signature verification"));
        assert_eq!(told, ends == VmState::Error);
        let sim = &cluster.host(&host).sim;
        let guest = virt::Hypervisor::guest(&**sim, id).await.unwrap();
        assert_eq!(guest.unwrap().power, types::PowerState::Running);
    }
    clean(&cluster).await;
}

/// The host gets a server's kernel and RAM disk, which it holds against their signatures like any image.
#[tokio::test]
async fn kernels_are_verified_and_reach_the_host() {
    let cluster = Cluster::new(Options::default()).await;
    let boot = |image: &ImageRef, format: &str| GuestImage {
        disk_format: format.to_owned(),
        ..GuestImage::from(image)
    };
    let kernel = boot(&image(&cluster, MESSAGE, signed()), "aki");
    let ramdisk = boot(&image(&cluster, MESSAGE, signed()), "ari");
    let forged = boot(&image(&cluster, OTHER, signed()), "ari");
    let disk = boot(&image(&cluster, MESSAGE, signed()), "qcow2");
    let with = async |kernel: &GuestImage, ramdisk: &GuestImage| {
        let (kernel, ramdisk) = (kernel.clone(), ramdisk.clone());
        let server = cluster.create_with(|server| {
            (server.kept.kernel, server.kept.ramdisk) = (Some(kernel), Some(ramdisk));
        });
        let server = server.await;
        cluster.idle().await;
        cluster.server(server).await
    };
    let server = with(&kernel, &ramdisk).await;
    assert_eq!((server.vm_state, server.fault), (VmState::Active, None));
    let sim = &cluster.host(&server.host.unwrap()).sim;
    let spec = sim.stored_spec(server.id).await.unwrap().unwrap();
    let found = spec.kernel.unwrap();
    assert_eq!(found.image.base.to_str(), Some(&*kernel.id.to_string()));
    let its = found.ramdisk.unwrap().base;
    assert_eq!(its.to_str(), Some(&*ramdisk.id.to_string()));
    for (kernel, ramdisk, words) in [
        (
            &kernel,
            &forged,
            "Signature verification for the image failed",
        ),
        (&disk, &ramdisk, "is no kernel and no RAM disk"),
    ] {
        let server = with(kernel, ramdisk).await;
        assert_eq!((server.vm_state, server.host), (VmState::Error, None));
        let message = server.fault.unwrap().message;
        assert!(message.contains(words), "{message}");
    }
    clean(&cluster).await;
}
