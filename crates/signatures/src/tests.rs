#![allow(clippy::unwrap_used)]
use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::{Pss, RsaPrivateKey};
use std::collections::BTreeMap;
use types::Timestamp;
use types::image_check::{HashMethod, KeyType, Signed};

/// What the lines of the vectors are signatures of.
const MESSAGE: &[u8] = b"the bytes of an image\n";

fn digest(method: HashMethod, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::new(method);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    hasher.update(first);
    hasher.update(second);
    hasher.finish()
}

/// Key type, hash method, public key and signature, made with Python's `cryptography` as Glance's guide says.
fn vectors() -> Vec<Signed> {
    let lines = include_str!("../testdata/vectors.txt").lines();
    let read = |line: &str| {
        let [key_type, hash, public_key, signature] =
            line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let key_type = KeyType::ALL
            .into_iter()
            .find(|one| one.as_str() == key_type);
        let hash = HashMethod::ALL.into_iter().find(|one| one.as_str() == hash);
        Signed {
            certificate: "c".to_owned(),
            hash: hash.unwrap(),
            key_type: key_type.unwrap(),
            public_key: public_key.to_owned(),
            signature: signature.to_owned(),
        }
    };
    lines.map(read).collect()
}

#[test]
fn signatures_that_others_made_are_verified() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 8);
    for (index, signed) in vectors.iter().enumerate() {
        let right = digest(signed.hash, MESSAGE);
        verify(signed, &right).unwrap_or_else(|error| panic!("line {index}: {error}"));
        let wrong = digest(signed.hash, b"the bytes of another\n");
        let mut broken = vec![(signed.clone(), wrong)];
        // Another's signature, another kind of key, another hash, half a signature, no key.
        let other = &vectors[(index + 3) % vectors.len()];
        let with = |change: &dyn Fn(&mut Signed)| {
            let mut changed = signed.clone();
            change(&mut changed);
            changed
        };
        let half = &signed.signature[..signed.signature.len() / 8 * 4];
        for changed in [
            with(&|one| one.signature.clone_from(&other.signature)),
            with(&|one| one.public_key.clone_from(&other.public_key)),
            with(&|one| one.key_type = KeyType::ALL[(one.key_type as usize + 1) % 3]),
            with(&|one| one.signature = half.to_owned()),
            with(&|one| one.signature = "?".to_owned()),
            with(&|one| one.public_key = String::new()),
        ] {
            broken.push((changed, right.clone()));
        }
        for (case, (signed, digest)) in broken.iter().enumerate() {
            let error = verify(signed, digest).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("Signature verification for the image failed: "),
                "line {index}, case {case}: {text}"
            );
        }
    }
}

fn properties() -> BTreeMap<String, String> {
    [
        ("img_signature", "c2ln\nbmVk"),
        ("img_signature_hash_method", "SHA-256"),
        ("img_signature_key_type", "RSA-PSS"),
        ("img_signature_certificate_uuid", "the-id"),
        ("os_distro", "x"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[test]
fn properties_are_understood_or_named() {
    let wanted = Wanted::read(&properties()).unwrap();
    let expected = Wanted {
        certificate: "the-id".to_owned(),
        hash: HashMethod::Sha256,
        key_type: KeyType::RsaPss,
        signature: "c2lnbmVk".to_owned(),
    };
    assert_eq!(wanted, expected);
    for name in properties().keys().filter(|name| *name != "os_distro") {
        let mut without = properties();
        without.remove(name);
        let error = Wanted::read(&without).unwrap_err().to_string();
        assert!(error.contains(&format!("no property {name}.")), "{error}");
    }
    let table = [
        ("img_signature", "not base64!", "is not base64"),
        ("img_signature", "", "is not base64"),
        (
            "img_signature_hash_method",
            "MD5",
            "must be one of SHA-224, SHA-256, SHA-384, SHA-512",
        ),
        ("img_signature_hash_method", "sha-256", "must be one of"),
        (
            "img_signature_key_type",
            "DSA",
            "cannot be verified in this cloud",
        ),
        (
            "img_signature_key_type",
            "ECC_SECT571K1",
            "cannot be verified in this cloud",
        ),
        ("img_signature_key_type", "RSA", "is no type of keys"),
    ];
    for (name, value, words) in table {
        let mut changed = properties();
        changed.insert(name.to_owned(), value.to_owned());
        let error = Wanted::read(&changed).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(name), "{error}");
    }
}

/// A certificate with its key, which may sign others.
struct Made {
    pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// What is special of a certificate to be made.
#[derive(Clone)]
struct Plan {
    name: &'static str,
    ca: IsCa,
    usages: Vec<KeyUsagePurpose>,
    years: (i32, i32),
    /// It may only sign for some names (RFC 5280, 4.2.1.10), which is critical.
    limited: bool,
}

fn authority(name: &'static str) -> Plan {
    Plan {
        name,
        ca: IsCa::Ca(BasicConstraints::Unconstrained),
        usages: vec![KeyUsagePurpose::KeyCertSign],
        years: (2020, 2040),
        limited: false,
    }
}

fn leaf(name: &'static str) -> Plan {
    Plan {
        ca: IsCa::NoCa,
        usages: vec![KeyUsagePurpose::DigitalSignature],
        ..authority(name)
    }
}

fn p384() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()
}

fn make(plan: &Plan, pair: KeyPair, by: Option<&Made>) -> Made {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, plan.name);
    params.is_ca = plan.ca;
    params.key_usages.clone_from(&plan.usages);
    params.name_constraints = plan.limited.then(|| NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    params.not_before = date_time_ymd(plan.years.0, 1, 1);
    params.not_after = date_time_ymd(plan.years.1, 1, 1);
    let made = match by {
        Some(by) => params.signed_by(&pair, &by.issuer),
        None => params.self_signed(&pair),
    }
    .unwrap();
    Made {
        pem: made.pem(),
        der: made.der().to_vec(),
        issuer: Issuer::new(params, pair),
    }
}

fn trusted(list: &[(&str, &Made)]) -> Vec<Trusted> {
    list.iter()
        .map(|(id, made)| Trusted {
            id: (*id).to_owned(),
            certificate: Ok(Certificate::read(&made.der).unwrap()),
        })
        .collect()
}

fn now() -> Timestamp {
    Timestamp::parse("2030-06-01T00:00:00Z").unwrap()
}

fn judged(certificate: &Made, by: &[Trusted]) -> Result<(), String> {
    let certificate = Certificate::read(certificate.pem.as_bytes()).unwrap();
    validate("the-id", &certificate, by, now()).map_err(|error| error.to_string())
}

#[test]
fn a_chain_leads_up_to_one_that_signed_itself() {
    let root = make(&authority("root"), p384(), None);
    let p256 = KeyPair::generate().unwrap();
    let middle = make(&authority("middle"), p256, Some(&root));
    let signer = make(&leaf("signer"), p384(), Some(&middle));
    let all = trusted(&[("m", &middle), ("r", &root)]);
    judged(&signer, &all).unwrap();
    judged(&middle, &all).unwrap();
    judged(&root, &all).unwrap();
    // Nobody's, a namesake's, and one whose chain has a gap or no end.
    let other = make(&authority("root"), p384(), None);
    let table = [
        (vec![], "the issuer of the certificate is missing"),
        (
            trusted(&[("r", &root)]),
            "the issuer of the certificate is missing",
        ),
        (
            trusted(&[("m", &middle)]),
            "the issuer of certificate m is missing",
        ),
        (
            trusted(&[("m", &middle), ("o", &other)]),
            "the issuer of certificate m is missing",
        ),
        (
            trusted(&[("s", &signer), ("r", &root)]),
            "s does not count: it may not sign",
        ),
    ];
    for (by, words) in table {
        let error = judged(&signer, &by).unwrap_err();
        assert!(
            error.starts_with(
                "Image signature certificate validation failed for certificate: the-id. "
            ),
            "{error}"
        );
        assert!(error.contains(words), "{error}");
    }
    // One that could not be had says why; it is not missed where another chain is whole.
    let lost = || Trusted {
        id: "lost".to_owned(),
        certificate: Err("the key manager has no secret lost".to_owned()),
    };
    let error = judged(&signer, &[lost()]).unwrap_err();
    assert!(
        error.contains("lost does not count: the key manager has no secret lost."),
        "{error}"
    );
    let error = judged(&signer, &[(); 50].map(|()| lost())).unwrap_err();
    assert!(
        error.contains("Nor do 47 more. Trust all certificates up to one"),
        "{error}"
    );
    let mut more = trusted(&[("m", &middle), ("r", &root)]);
    more.insert(0, lost());
    judged(&signer, &more).unwrap();
}

/// What is wrong with a certificate.
type Change = dyn Fn(&mut Plan);

#[test]
fn certificates_that_may_not_be_used_are_told() {
    let root = make(&authority("root"), p384(), None);
    let with = |change: &Change| {
        let mut plan = authority("middle");
        change(&mut plan);
        let middle = make(&plan, p384(), Some(&root));
        let signer = make(&leaf("signer"), p384(), Some(&middle));
        judged(&signer, &trusted(&[("m", &middle), ("r", &root)]))
    };
    with(&|_| {}).unwrap();
    let table: [(&Change, &str); 6] = [
        (
            &|plan| plan.ca = IsCa::NoCa,
            "m does not count: it may not sign certificates",
        ),
        (
            &|plan| plan.ca = IsCa::ExplicitNoCa,
            "m does not count: it may not sign certificates",
        ),
        (
            &|plan| plan.usages = Vec::new(),
            "m does not count: it may not sign certificates",
        ),
        (
            &|plan| plan.usages = vec![KeyUsagePurpose::CrlSign],
            "m does not count: it may not sign certificates",
        ),
        (
            &|plan| plan.years = (2010, 2020),
            "m does not count: it is outside its valid date range",
        ),
        (
            &|plan| plan.limited = true,
            "m does not count: it has a critical extension",
        ),
    ];
    for (change, words) in table {
        let error = with(change).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    for years in [(2010, 2020), (2035, 2040)] {
        let plan = Plan {
            years,
            ..leaf("signer")
        };
        let signer = make(&plan, p384(), Some(&root));
        let error = judged(&signer, &trusted(&[("r", &root)])).unwrap_err();
        assert!(
            error.contains("The certificate is outside its valid date range"),
            "{error}"
        );
    }
}

#[test]
fn a_path_is_not_longer_than_it_may_be() {
    for (most, right) in [(0, false), (1, true), (2, true)] {
        let mut plan = authority("root");
        plan.ca = IsCa::Ca(BasicConstraints::Constrained(most));
        let root = make(&plan, p384(), None);
        let middle = make(&authority("middle"), p384(), Some(&root));
        let signer = make(&leaf("signer"), p384(), Some(&middle));
        let all = trusted(&[("m", &middle), ("r", &root)]);
        assert_eq!(judged(&signer, &all).is_ok(), right, "{most}");
        let direct = make(&leaf("direct"), p384(), Some(&root));
        judged(&direct, &all).unwrap();
    }
}

#[test]
fn authorities_that_issued_each_other_end_nothing() {
    let (a, b) = (
        make(&authority("a"), p384(), None),
        make(&authority("b"), p384(), None),
    );
    let again = |made: &Made| {
        KeyPair::from_pkcs8_pem_and_sign_algo(
            &made.issuer.key().serialize_pem(),
            &rcgen::PKCS_ECDSA_P384_SHA384,
        )
        .unwrap()
    };
    let a_by_b = make(&authority("a"), again(&a), Some(&b));
    let b_by_a = make(&authority("b"), again(&b), Some(&a));
    let signer = make(&leaf("signer"), p384(), Some(&a));
    let error = judged(&signer, &trusted(&[("x", &a_by_b), ("y", &b_by_a)])).unwrap_err();
    assert!(error.contains("is missing"), "{error}");
    judged(
        &signer,
        &trusted(&[("x", &a_by_b), ("y", &b_by_a), ("b", &b), ("a", &a)]),
    )
    .unwrap();
}

/// An owner's RSA key, certified by an authority with one, from the properties to the bytes.
#[test]
fn an_image_is_signed_certified_and_verified() {
    let rng = &mut rsa::rand_core::OsRng;
    let keys: Vec<RsaPrivateKey> = (0..2)
        .map(|_| RsaPrivateKey::new(rng, 2048).unwrap())
        .collect();
    let pair = |key: &RsaPrivateKey| {
        let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap();
        KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &rcgen::PKCS_RSA_SHA512).unwrap()
    };
    let root = make(&authority("root"), pair(&keys[0]), None);
    let signer = make(&leaf("signer"), pair(&keys[1]), Some(&root));
    judged(&signer, &trusted(&[("r", &root)])).unwrap();
    let stranger = make(&authority("root"), pair(&keys[1]), None);
    assert!(judged(&signer, &trusted(&[("r", &stranger)])).is_err());

    let hashed = digest(HashMethod::Sha256, MESSAGE);
    let longest = 256 - 32 - 2;
    let sign = |salt: usize| {
        let padding = Pss::new_with_salt::<sha2::Sha256>(salt);
        let made = keys[1].sign_with_rng(&mut rsa::rand_core::OsRng, padding, &hashed);
        STANDARD.encode(made.unwrap())
    };
    let certificate = Certificate::read(&signer.der).unwrap();
    for (salt, right) in [(longest, true), (32, false)] {
        let mut all = properties();
        all.insert("img_signature".to_owned(), sign(salt));
        let signed = Wanted::read(&all).unwrap().with(&certificate).unwrap();
        assert_eq!(
            STANDARD.decode(&signed.public_key).unwrap(),
            keys[1]
                .to_public_key()
                .to_public_key_der()
                .unwrap()
                .as_bytes()
        );
        assert_eq!(verify(&signed, &hashed).is_ok(), right, "{salt}");
        assert!(verify(&signed, &digest(HashMethod::Sha256, b"else")).is_err());
    }
    // The key is not of the type that the image says.
    let mut wrong = properties();
    wrong.insert(
        "img_signature_key_type".to_owned(),
        "ECC_SECP384R1".to_owned(),
    );
    let error = Wanted::read(&wrong)
        .unwrap()
        .with(&certificate)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the key of certificate the-id is RSA"),
        "{error}"
    );
}

#[test]
fn what_is_no_certificate_is_none() {
    let root = make(&authority("root"), p384(), None);
    let key = root.issuer.key().serialize_pem();
    for bytes in [
        &b""[..],
        b"-----BEGIN CERTIFICATE-----\n",
        key.as_bytes(),
        &root.der[..40],
    ] {
        assert!(Certificate::read(bytes).is_none());
    }
    let wrapped = format!("\n{}", root.pem);
    assert!(Certificate::read(wrapped.as_bytes()).is_some());
}
