#![allow(clippy::unwrap_used)]

use crate::testing::{TestStore, databases};
use crate::tests::{forward, own_port};
use crate::{Dialect, Error, Store};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An authority whose key nobody has.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBWDCB/qADAgECAhQUcZ3BW5dQeHQ6Y8+cj5c48+/dyzAKBggqhkjOPQQDAjAR
MQ8wDQYDVQQDDAZOb2JvZHkwIBcNMjYxMTI5MjEwOTExWhgPMjEyNjExMDUyMTA5
MTFaMBExDzANBgNVBAMMBk5vYm9keTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BFi3SyMIBbxjE1mmZBAktIy9Izq54NAx2tqsDQtOAnGuIAeHvd8E0JT9htYu6Mip
VSl8hOIGUniLEY4iWrhy5xSjMjAwMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYE
FDp9B6MNejL6eOVxpbLauo+E9yNsMAoGCCqGSM49BAMCA0kAMEYCIQCfSgJSu+HB
aRQdm8gw0VNkjXFEsg/ETs3rPjCTyl+PnAIhANFCLdwOQeoga0FRf5DucoZP/f+A
G95X6ukuIDhMxsUu
-----END CERTIFICATE-----
";

/// What `scripts/test-databases.sh` made for its servers: the authority's certificate (`ca.pem`), that of another one
/// (`other.pem`), and a client's certificate and key.
fn certificates() -> Option<PathBuf> {
    let folder = std::env::var_os("KILONOVA_TEST_DATABASE_CERTIFICATES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: TLS, for KILONOVA_TEST_DATABASE_CERTIFICATES is not set");
    }
    folder
}

async fn servers() -> Vec<TestStore> {
    let mut servers = databases().await;
    servers.retain(|test| test.name != "sqlite");
    servers
}

/// The options that name these files, in the order of authority, certificate and key.
fn with(url: &str, files: &[&Path]) -> url::Url {
    let mut url = url::Url::parse(url).unwrap();
    let names = match url.scheme() {
        "mysql" => ["ssl_ca", "ssl_cert", "ssl_key"],
        _ => ["sslrootcert", "sslcert", "sslkey"],
    };
    if url.scheme() != "mysql" {
        url.query_pairs_mut().append_pair("sslmode", "verify-full");
    }
    for (name, file) in names.iter().zip(files) {
        url.query_pairs_mut()
            .append_pair(name, file.to_str().unwrap());
    }
    url
}

/// The cipher of a connection, as the server knows it.
async fn cipher(store: &Store) -> Option<String> {
    let (sql, column) = match store.dialect() {
        Dialect::Mysql => ("SHOW STATUS LIKE 'Ssl_cipher'", 1),
        _ => (
            "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
            0,
        ),
    };
    let said: Option<String> = store
        .read(move |tx| tx.query_one(sql, &[])?.get(column))
        .await
        .unwrap();
    said.filter(|cipher| !cipher.is_empty())
}

#[tokio::test]
async fn a_connection_is_encrypted_where_the_url_says_so() {
    let Some(files) = certificates() else { return };
    for test in servers().await {
        assert_eq!(cipher(&test.store).await, None, "{}", test.name);
        let url = with(test.url(), &[&files.join("ca.pem")]);
        let store = Store::open(url.as_str()).await.unwrap();
        let cipher = cipher(&store).await.unwrap();
        assert!(cipher.starts_with("TLS_"), "{}: {cipher}", test.name);
        store
            .write(|tx| tx.execute("CREATE TABLE things (body TEXT)", &[]))
            .await
            .unwrap();
        // More than one record of TLS.
        let long = "x".repeat(60_000);
        let body = long.clone();
        store
            .write(move |tx| {
                let params = [body.as_str().into()];
                tx.execute("INSERT INTO things (body) VALUES (?)", &params)
            })
            .await
            .unwrap();
        let read: String = store
            .read(|tx| tx.query_one("SELECT body FROM things", &[])?.get(0))
            .await
            .unwrap();
        assert!(read == long, "{}", test.name);
    }
}

#[tokio::test]
async fn a_server_that_cannot_prove_its_name_is_refused() {
    let Some(files) = certificates() else { return };
    for test in servers().await {
        let mut elsewhere = with(test.url(), &[&files.join("ca.pem")]);
        elsewhere.set_host(Some("localhost")).unwrap();
        let stranger = with(test.url(), &[&files.join("other.pem")]);
        for (url, reason) in [
            (elsewhere, "not valid for name"),
            (stranger, "UnknownIssuer"),
        ] {
            let error = Store::open(url.as_str()).await.err().unwrap();
            let text = error.to_string();
            assert!(text.contains(reason), "{}: {text}", test.name);
            assert!(!text.contains(url.password().unwrap()), "{text}");
        }
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let Some(files) = certificates() else { return };
    let (ca, own, key) = (
        files.join("ca.pem"),
        files.join("client.pem"),
        files.join("client.key"),
    );
    for test in servers().await {
        let mut url = url::Url::parse(test.url()).unwrap();
        // Both servers let this user in with a certificate of their authority only.
        url.set_username("certified").unwrap();
        let without = Store::open(with(url.as_str(), &[&ca]).as_str()).await;
        assert!(matches!(without, Err(Error::Url(_))), "{}", test.name);
        let with = with(url.as_str(), &[&ca, &own, &key]);
        let store = Store::open(with.as_str()).await;
        let store = store.unwrap_or_else(|error| panic!("{}: {error}", test.name));
        assert!(cipher(&store).await.is_some(), "{}", test.name);
    }
}

/// Seen through a forwarding port that goes away and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_is_encrypted_too() {
    let Some(files) = certificates() else { return };
    for test in servers().await {
        let mut url = with(test.url(), &[&files.join("ca.pem")]);
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let front = own_port(Ipv4Addr::LOCALHOST).await;
        let address = front.local_addr().unwrap();
        url.set_port(Some(address.port())).unwrap();
        let links = Arc::new(());
        let forwarding = tokio::spawn(forward(front, target.clone(), Arc::clone(&links)));
        let store = Store::open(url.as_str()).await.unwrap();
        let first = connection(&store).await;
        forwarding.abort();
        let _ = forwarding.await;
        let front = tokio::net::TcpListener::bind(address).await.unwrap();
        let forwarding = tokio::spawn(forward(front, target, links));
        assert!(cipher(&store).await.is_some(), "{}", test.name);
        assert_ne!(connection(&store).await, first, "{}", test.name);
        forwarding.abort();
    }
}

async fn connection(store: &Store) -> i64 {
    let sql = match store.dialect() {
        Dialect::Mysql => "SELECT CONNECTION_ID()",
        _ => "SELECT pg_backend_pid()",
    };
    store
        .read(move |tx| tx.query_one(sql, &[])?.get(0))
        .await
        .unwrap()
}

#[tokio::test]
async fn files_that_are_no_use_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let missing = folder.path().join("missing.pem");
    let empty = file("empty.pem", "");
    let nonsense = file(
        "nonsense.pem",
        "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n",
    );
    for server in [
        "postgres://u:s3cret@127.0.0.1:1/d",
        "mysql://u:s3cret@127.0.0.1:1/d",
    ] {
        for path in [&missing, &empty, &nonsense] {
            let error = Store::open(with(server, &[path]).as_str()).await.err();
            let error = error.unwrap();
            assert!(matches!(error, Error::Url(_)), "{error}");
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{server}: {text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}

#[tokio::test]
async fn options_that_would_not_secure_the_connection_are_refused() {
    for (url, wanted) in [
        (
            "postgres://u:s3cret@h/d?sslnegotiation=direct",
            "needs sslrootcert=FILE",
        ),
        (
            "postgres://u:s3cret@%2Frun%2Fpg/d?sslrootcert=/ca.pem",
            "unix socket",
        ),
        (
            "mysql://u:s3cret@h/d?ssl_ca=/ca.pem&socket=/run/mysqld.sock",
            "socket",
        ),
        (
            "mysql://u:s3cret@h/d?ssl_ca=/ca.pem&danger_accept_invalid_certs=true",
            "ssl_ca=FILE",
        ),
        ("mysql://u:s3cret@h/d?root_cert_path=/ca.pem", "ssl_ca=FILE"),
        ("mysql://u:s3cret@h/d?sslmode=require", "sslmode"),
    ] {
        let error = Store::open(url).await.err().unwrap();
        assert!(matches!(error, Error::Url(_)), "{url}: {error}");
        let text = error.to_string();
        assert!(text.contains(wanted), "{url}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

/// Somebody in between who says that there is no TLS gets no login.
#[tokio::test]
async fn a_server_without_tls_is_told_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, AUTHORITY).unwrap();
    let cases = [
        (
            "postgres",
            decline_as_postgres as fn(&mut TcpStream),
            "does not support TLS",
            &[][..],
        ),
        (
            "mysql",
            greet_as_mysql,
            "does not have this capability",
            // COM_QUIT.
            &[1, 0, 0, 0, 1],
        ),
    ];
    for (scheme, speak, reason, last) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut link, _) = listener.accept().unwrap();
            // Who logs in all the same waits for an answer.
            link.set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            speak(&mut link);
            let mut heard = Vec::new();
            link.read_to_end(&mut heard).map(|_| heard)
        });
        let url = with(
            &format!("{scheme}://u:s3cret@127.0.0.1:{port}/d"),
            &[&authority],
        );
        let error = Store::open(url.as_str()).await.err().unwrap();
        assert!(matches!(error, Error::Unreachable(_)), "{scheme}: {error}");
        assert!(error.to_string().contains(reason), "{scheme}: {error}");
        assert_eq!(server.join().unwrap().unwrap(), last, "{scheme}");
    }
}

/// Answers the request for TLS with no.
fn decline_as_postgres(link: &mut TcpStream) {
    link.read_exact(&mut [0; 8]).unwrap();
    link.write_all(b"N").unwrap();
}

/// The first message of a server that has all but CLIENT_SSL of what a client needs.
fn greet_as_mysql(link: &mut TcpStream) {
    let mut greeting = vec![10];
    greeting.extend(b"8.0.0\0\x01\0\0\0saltsalt\0");
    // CLIENT_PROTOCOL_41 and CLIENT_SECURE_CONNECTION; utf8mb4; autocommit; CLIENT_PLUGIN_AUTH; length of the salt.
    greeting.extend([0x00, 0x82, 45, 2, 0, 8, 0, 21]);
    greeting.extend([0; 10]);
    greeting.extend(b"saltsaltsalt\0mysql_native_password\0");
    let length = u8::try_from(greeting.len()).unwrap();
    link.write_all(&[length, 0, 0, 0]).unwrap();
    link.write_all(&greeting).unwrap();
}
