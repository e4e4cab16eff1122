#![allow(clippy::unwrap_used)]
use super::*;
use axum::routing::get;
use axum::{Router, http::Response};
use futures_util::StreamExt;
use types::image_check::ImageCheck;

fn image() -> GuestImage {
    GuestImage {
        id: ImageId::random(),
        disk_format: "raw".to_owned(),
        size: 5,
        sha512: None,
        check: None,
    }
}

/// A conductor from which no second byte comes.
fn slow() -> Client {
    let never = || async {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("h")]);
        let body = first.chain(futures_util::stream::pending());
        Response::new(Body::from_stream(body))
    };
    let router = Router::new().route("/agent/{host}/images/{image}", get(never));
    Client::in_process("the conductor", router)
}

#[tokio::test]
async fn a_fetch_that_is_called_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
    let (client, image, stop) = (slow(), image(), CancellationToken::new());
    let bases = folder.path().join("_base");
    let files = || std::fs::read_dir(&bases).unwrap().count();
    let calling_off = async {
        while files() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stop.cancel();
    };
    let fetching = cache.ensure(&client, "h", &image, 0, &stop);
    let (fetched, ()) = tokio::join!(fetching, calling_off);
    assert_eq!(fetched.unwrap_err().0, FailureKind::Cancelled);
    assert_eq!(files(), 0);
    // One that waits for another's fetch is not kept by it.
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    second.cancel();
    let others = cache.ensure(&client, "h", &image, 0, &first);
    let own = async {
        let waited = cache.ensure(&client, "h", &image, 0, &second).await;
        first.cancel();
        waited
    };
    let (others, own) = tokio::join!(others, own);
    assert_eq!(own.unwrap_err().0, FailureKind::Cancelled);
    assert_eq!(others.unwrap_err().0, FailureKind::Cancelled);
}

/// As when the time is over that the work has.
#[tokio::test]
async fn a_fetch_that_nobody_waits_for_any_more_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
    let (client, image, stop) = (slow(), image(), CancellationToken::new());
    let bases = folder.path().join("_base");
    let files = || std::fs::read_dir(&bases).unwrap().count();
    let begun = async {
        while files() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    {
        let fetching = std::pin::pin!(cache.ensure(&client, "h", &image, 0, &stop));
        let begun = std::pin::pin!(begun);
        let first = futures_util::future::select(fetching, begun).await;
        assert!(matches!(first, futures_util::future::Either::Right(_)));
    }
    assert_eq!(files(), 0);
}

/// Gone, not what it should be, and an image service that is away: each says so, and nothing is left.
#[tokio::test]
async fn images_that_cannot_be_had_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
    let bases = folder.path().join("_base");
    let table = [
        (StatusCode::NOT_FOUND, FailureKind::Request, "is gone"),
        (
            StatusCode::OK,
            FailureKind::Request,
            "is not what the image service said it is",
        ),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            FailureKind::Unavailable,
            "could not be fetched: 503",
        ),
    ];
    for (status, kind, words) in table {
        let answer = move || async move { (status, "four") };
        let router = Router::new().route("/agent/{host}/images/{image}", get(answer));
        let client = Client::in_process("the conductor", router);
        let (image, stop) = (image(), CancellationToken::new());
        let fetched = cache.ensure(&client, "h", &image, 0, &stop).await;
        let (told, message) = fetched.unwrap_err();
        assert_eq!(told, kind, "{message}");
        assert!(message.contains(words), "{message}");
        assert!(message.contains(&image.id.to_string()), "{message}");
        assert_eq!(std::fs::read_dir(&bases).unwrap().count(), 0);
    }
}

/// A conductor that gives these bytes, and counts how often.
fn giving(bytes: &'static [u8]) -> (Client, Arc<std::sync::atomic::AtomicUsize>) {
    let times = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&times);
    let answer = move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move { bytes }
    };
    let router = Router::new().route("/agent/{host}/images/{image}", get(answer));
    (Client::in_process("the conductor", router), times)
}

/// What the vectors are signatures of.
const MESSAGE: &[u8] = b"the bytes of an image\n";
const OTHER: &[u8] = b"the bytes of anything\n";

fn signature(of: (&str, &str)) -> ImageCheck {
    let vectors = include_str!("../../signatures/testdata/vectors.txt");
    let lines = vectors
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.into_iter().find(|line| (line[0], line[1]) == of);
    let line = found.unwrap();
    let document = serde_json::json!({ "check": "signed", "certificate": "the-certificate", "hash": line[1],
        "key_type": line[0], "public_key": line[2], "signature": line[3] });
    serde_json::from_value(document).unwrap()
}

fn wanted(check: Option<ImageCheck>) -> GuestImage {
    GuestImage {
        size: MESSAGE.len() as u64,
        check,
        ..image()
    }
}

#[tokio::test]
async fn an_image_that_is_not_what_was_signed_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
    let bases = folder.path().join("_base");
    let signed = signature(("RSA-PSS", "SHA-224"));
    let refused = ImageCheck::Refused {
        reason: "nobody knows".to_owned(),
    };
    for (bytes, check, words, fetched) in [
        (
            OTHER,
            signed,
            "Signature verification for the image failed",
            1,
        ),
        (MESSAGE, refused, "nobody knows", 0),
    ] {
        let (client, times) = giving(bytes);
        let stop = CancellationToken::new();
        let image = wanted(Some(check));
        let failed = cache.ensure(&client, "h", &image, 0, &stop).await;
        let (kind, message) = failed.unwrap_err();
        assert_eq!(kind, FailureKind::Request);
        assert!(message.contains(words), "{message}");
        assert_eq!(times.load(std::sync::atomic::Ordering::SeqCst), fetched);
        assert_eq!(std::fs::read_dir(&bases).unwrap().count(), 0);
    }
}

/// The base is there because of a server that asked for no signature; another one has it verified.
#[tokio::test]
async fn a_base_that_is_here_is_held_against_each_servers_signature() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
    let (client, times) = giving(MESSAGE);
    let fetched = || times.load(std::sync::atomic::Ordering::SeqCst);
    let (stop, plain) = (CancellationToken::new(), wanted(None));
    let with = |check| GuestImage {
        check: Some(check),
        ..plain.clone()
    };
    let ensure = async |image: &GuestImage| cache.ensure(&client, "h", image, 0, &stop).await;
    let base = ensure(&plain).await.unwrap();
    assert_eq!(
        (ensure(&plain).await.unwrap(), fetched()),
        (base.clone(), 1)
    );
    // SHA-512 is known of it, SHA-224 is looked up once.
    for (of, times) in [
        (("ECC_SECP384R1", "SHA-512"), 1),
        (("ECC_SECP384R1", "SHA-224"), 2),
        (("RSA-PSS", "SHA-224"), 2),
    ] {
        let right = ensure(&with(signature(of))).await;
        assert_eq!((right.unwrap(), fetched()), (base.clone(), times), "{of:?}");
    }
    let ImageCheck::Signed(mut wrong) = signature(("RSA-PSS", "SHA-224")) else {
        panic!("signed");
    };
    wrong.hash = types::image_check::HashMethod::Sha512;
    let failed = ensure(&with(ImageCheck::Signed(wrong))).await.unwrap_err();
    assert_eq!((failed.0, fetched()), (FailureKind::Request, 2));
    let refused = ImageCheck::Refused {
        reason: "nobody knows".to_owned(),
    };
    assert!(ensure(&with(refused)).await.is_err());
    assert!(ensure(&plain).await.is_ok());
}

/// As an older release has left it: nothing is noted of the base.
#[tokio::test]
async fn a_base_of_which_nothing_is_noted_is_looked_up() {
    let sha512 = {
        use signatures::Hasher;
        let mut hasher = Hasher::new(types::image_check::HashMethod::Sha512);
        hasher.update(MESSAGE);
        hex::encode(hasher.finish())
    };
    for (sha512, right) in [(Some(sha512), true), (None, false)] {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
        let image = GuestImage {
            sha512,
            ..wanted(Some(signature(("ECC_SECP521R1", "SHA-256"))))
        };
        let base = folder.path().join("_base").join(image.id.to_string());
        std::fs::write(&base, MESSAGE).unwrap();
        let (client, _) = giving(MESSAGE);
        let stop = CancellationToken::new();
        let found = cache.ensure(&client, "h", &image, 0, &stop).await;
        assert_eq!(found.is_ok(), right);
        if let Err((kind, message)) = found {
            assert_eq!(kind, FailureKind::Host);
            assert!(message.contains("it cannot be told"), "{message}");
        }
    }
}

/// A host from which no second byte comes, or all of them.
fn host(whole: bool) -> Client {
    let base = move || async move {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("QFI\u{fb}")]);
        if whole {
            return Response::new(Body::from_stream(first));
        }
        Response::new(Body::from_stream(
            first.chain(futures_util::stream::pending()),
        ))
    };
    let name = || async { r#"{"name": "b1", "size": 5}"# };
    let routes = Router::new()
        .route("/base/{server}", get(name))
        .route("/base/{server}/data", get(base));
    Client::in_process("the other host", routes)
}

#[tokio::test]
async fn a_base_comes_from_the_host_that_has_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
    let files = || {
        std::fs::read_dir(folder.path().join("_base"))
            .unwrap()
            .count()
    };
    let (server, stop) = (ServerId::random(), CancellationToken::new());
    let base = peers::base_of(&host(true), server).await.unwrap().unwrap();
    assert_eq!((base.name.as_str(), base.size), ("b1", 5));
    assert!(cache.named("b1").is_none());

    stop.cancel();
    let called_off = cache.ensure_base(&host(false), server, &base, &stop).await;
    assert_eq!(called_off.unwrap_err().0, FailureKind::Cancelled);
    assert_eq!(files(), 0);
    let longer = peers::Listed {
        size: 6,
        name: "b1".to_owned(),
    };
    let stop = CancellationToken::new();
    let cut = cache.ensure_base(&host(true), server, &longer, &stop).await;
    assert_eq!(cut.unwrap_err().0, FailureKind::Unavailable);
    assert_eq!(files(), 0);

    // What is in it does not matter: the other host uses it as raw, so does this one.
    let taken = cache.ensure_base(&host(true), server, &base, &stop).await;
    let taken = taken.unwrap();
    assert_eq!(&std::fs::read(&taken.path).unwrap()[..4], b"QFI\xc3");
    assert_eq!(cache.named("b1"), Some(taken.clone()));
    // One that is here is not copied again.
    let again = cache.ensure_base(&host(false), server, &base, &stop).await;
    assert_eq!(again.unwrap(), taken);
    assert_eq!(files(), 2, "the base and a note");
}

#[tokio::test]
async fn only_plain_names_of_bases_are_taken() {
    for (said, fine) in [
        (r#"{"name": "b1", "size": 5}"#, true),
        (r#"{"name": "../b1", "size": 5}"#, false),
        (r#"{"name": "", "size": 5}"#, false),
        ("nonsense", false),
    ] {
        let routes = Router::new().route("/base/{server}", get(move || async move { said }));
        let host = Client::in_process("the other host", routes);
        let base = peers::base_of(&host, ServerId::random()).await;
        assert_eq!(base.is_ok(), fine, "{said}");
    }
    let before = Client::in_process("the other host", Router::new());
    let none = peers::base_of(&before, ServerId::random()).await.unwrap();
    assert!(none.is_none());
}

/// What it was made of was seen on another host only.
#[tokio::test]
async fn a_copied_base_is_nothing_that_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
    let plain = wanted(None);
    let copy = folder.path().join("copy");
    std::fs::write(&copy, b"something else").unwrap();
    let id = plain.id.to_string();
    cache.bases.take_over(&id, &copy, COPIED).unwrap();
    let (client, _) = giving(MESSAGE);
    let stop = CancellationToken::new();
    assert!(cache.ensure(&client, "h", &plain, 0, &stop).await.is_ok());
    let signed = GuestImage {
        check: Some(signature(("ECC_SECP384R1", "SHA-512"))),
        ..plain
    };
    for _ in 0..2 {
        let refused = cache.ensure(&client, "h", &signed, 0, &stop).await;
        let (kind, words) = refused.unwrap_err();
        assert_eq!(kind, FailureKind::Host);
        assert!(words.contains("it cannot be told"), "{words}");
    }
}
