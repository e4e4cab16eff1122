//! What is put down of an image's signature when a request is taken in.

use super::harness::{Cloud, IMAGE, SIGNED};
use super::server_create::{body, cloud_with};
use super::server_life::finish;
use crate::Signatures;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use types::VmState;
use types::image_check::{ImageCheck, KeyType};

/// A certificate of `signer` by `root`, which signed itself.
fn certificates() -> [(String, Vec<u8>); 2] {
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let kind = rcgen::DnType::CommonName;
        params.distinguished_name.push(kind, name);
        params
    };
    let pair = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let (mut root, root_pair) = (params("root"), pair());
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_made = root.self_signed(&root_pair).unwrap();
    let issuer = Issuer::new(root, root_pair);
    let signer = params("signer").signed_by(&pair(), &issuer).unwrap();
    [
        ("root".to_owned(), root_made.der().to_vec()),
        ("signer".to_owned(), signer.pem().into_bytes()),
    ]
}

async fn cloud(signatures: Signatures) -> Cloud {
    let cloud = cloud_with(crate::Config {
        signatures,
        ..super::harness::config()
    })
    .await;
    cloud.keys.set_secrets("member", certificates());
    cloud
}

fn off() -> Signatures {
    Signatures::default()
}

fn verifying() -> Signatures {
    Signatures {
        verify: true,
        ..off()
    }
}

fn validating(trusted: &[&str]) -> Signatures {
    Signatures {
        validate: true,
        trusted: trusted.iter().map(|id| (*id).to_owned()).collect(),
        ..verifying()
    }
}

/// What a server that is made so must have of its image's bytes.
async fn check_of_new(cloud: &Cloud, change: Value) -> (String, Option<ImageCheck>) {
    let mut wanted = json!({ "networks": "none" });
    for (name, value) in change.as_object().unwrap() {
        wanted[name] = value.clone();
    }
    let made = cloud
        .send("member", 63, "POST", "/servers", body(wanted))
        .await;
    assert_eq!(made.status, 202, "{}", made.text);
    let id = made.json()["server"]["id"].as_str().unwrap().to_owned();
    let check = check_of(cloud, &id).await;
    (id, check)
}

async fn check_of(cloud: &Cloud, id: &str) -> Option<ImageCheck> {
    let id = id.parse().unwrap();
    let server: Result<_, sql::Error> =
        cloud.store.read(move |tx| db::instances::get(tx, id)).await;
    server.unwrap().unwrap().image.unwrap().check
}

fn is_signed(check: Option<&ImageCheck>) -> bool {
    matches!(check, Some(ImageCheck::Signed(signed))
        if signed.key_type == KeyType::EccSecp384r1 && signed.signature == "c2lnbmVk" && signed.certificate == "signer")
}

#[tokio::test]
async fn signatures_are_looked_up_where_somebody_wants_it() {
    let trusting = json!({ "imageRef": SIGNED, "trusted_image_certificates": ["root"] });
    let plain = json!({ "imageRef": SIGNED });
    let unsigned = json!({ "imageRef": IMAGE });
    let stranger =
        json!({ "imageRef": SIGNED, "trusted_image_certificates": ["nobody", "signer"] });
    // The words of the refusal; none where the image is signed as it should be.
    let table = [
        (off(), &trusting, None),
        (verifying(), &plain, None),
        (verifying(), &trusting, None),
        (validating(&["root"]), &plain, None),
        (validating(&["nobody"]), &trusting, None),
        (
            verifying(),
            &unsigned,
            Some(
                "Signature verification for the image failed: the image has no property img_signature_certificate_uuid.",
            ),
        ),
        (
            off(),
            &stranger,
            Some(
                "Image signature certificate validation failed for certificate: signer. nobody does not count: the key manager has no secret with this id. signer does not count: it may not sign certificates",
            ),
        ),
        (
            validating(&[]),
            &plain,
            Some("name those that you trust in trusted_image_certificates"),
        ),
        (
            validating(&["nobody"]),
            &plain,
            Some("nobody does not count"),
        ),
    ];
    for (index, (settings, change, refusal)) in table.into_iter().enumerate() {
        let cloud = cloud(settings).await;
        let (_, check) = check_of_new(&cloud, change.clone()).await;
        match (check, refusal) {
            (check, None) => assert!(is_signed(check.as_ref()), "row {index}: {check:?}"),
            (Some(ImageCheck::Refused { reason }), Some(words)) => {
                assert!(reason.contains(words), "row {index}: {reason}");
            }
            (check, _) => panic!("row {index}: {check:?}"),
        }
    }
    let cloud = cloud(off()).await;
    assert_eq!(check_of_new(&cloud, plain).await.1, None);
}

#[tokio::test]
async fn what_the_key_manager_lacks_is_the_servers_fault() {
    let cloud = cloud(verifying()).await;
    let broken = b"-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n".to_vec();
    for (secret, words) in [
        (Some(None), "has no secret with this id"),
        (Some(Some(broken)), "it is no X.509 certificate"),
        (None, "the key manager does not answer; try again later"),
    ] {
        cloud.keys.set_down(secret.is_none());
        let kept = secret.flatten();
        let kept = kept.map(|secret: Vec<u8>| ("signer".to_owned(), secret));
        cloud.keys.set_secrets("member", kept);
        let (_, check) = check_of_new(&cloud, json!({ "imageRef": SIGNED })).await;
        let Some(ImageCheck::Refused { reason }) = check else {
            panic!("{check:?}");
        };
        let begin = "Signature verification for the image failed: certificate signer, which the image names, could not be \
                     had: ";
        assert!(
            reason.starts_with(begin) && reason.contains(words),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn the_clouds_certificates_are_kept_and_shown_as_the_servers() {
    let cloud = cloud(validating(&["root"])).await;
    let (id, check) = check_of_new(&cloud, json!({ "imageRef": SIGNED })).await;
    assert!(is_signed(check.as_ref()));
    let path = format!("/servers/{id}");
    let shown = async || {
        let server = cloud.get("member", 63, &path).await.json();
        server["server"]["trusted_image_certificates"].clone()
    };
    assert_eq!(shown().await, json!(["root"]));
    // A rebuild looks everything up again.
    let action = format!("{path}/action");
    let rebuild = async |change: Value| {
        finish(&cloud, &id, VmState::Active).await;
        let body = json!({ "rebuild": change });
        let taken = cloud.send("member", 63, "POST", &action, body).await;
        assert_eq!(taken.status, 202, "{}", taken.text);
        check_of(&cloud, &id).await
    };
    let other = json!({ "imageRef": SIGNED, "trusted_image_certificates": ["signer"] });
    let refused = rebuild(other).await;
    assert!(
        matches!(refused, Some(ImageCheck::Refused { .. })),
        "{refused:?}"
    );
    let kept = rebuild(json!({ "imageRef": SIGNED })).await;
    assert!(matches!(kept, Some(ImageCheck::Refused { .. })), "{kept:?}");
    assert_eq!(shown().await, json!(["signer"]));
    let reset = json!({ "imageRef": SIGNED, "trusted_image_certificates": null });
    assert!(is_signed(rebuild(reset).await.as_ref()));
    assert_eq!(shown().await, json!(["root"]));
    // What boots from a volume is not verified: where certificates are wanted it is refused.
    let device = json!([{ "boot_index": 0, "uuid": IMAGE, "source_type": "image", "destination_type": "volume", "volume_size": 1 }]);
    let volume = json!({ "server": { "name": "v", "flavorRef": "1", "networks": "none", "block_device_mapping_v2": device } });
    let refused = cloud.send("member", 63, "POST", "/servers", volume).await;
    let words = "Image certificate validation is not supported when booting from volume";
    assert_eq!(
        (refused.status.as_u16(), refused.fault().1.as_str()),
        (400, words)
    );
}
