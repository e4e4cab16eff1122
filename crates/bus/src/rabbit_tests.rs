#![allow(clippy::unwrap_used)]
use super::*;
use futures_util::FutureExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

#[test]
fn transport_urls_are_read_as_oslo_reads_them() {
    for (text, urls) in [
        (
            "rabbit://guest:guest@127.0.0.1:5672/",
            vec!["amqp://guest:guest@127.0.0.1:5672/%2f"],
        ),
        ("rabbit://h", vec!["amqp://h/%2f"]),
        (
            "rabbit://u:p@h1:5672,u:p@h2:5673/nova?ssl=0",
            vec!["amqp://u:p@h1:5672/nova", "amqp://u:p@h2:5673/nova"],
        ),
        ("amqp://u:p@[::1]:5672/v", vec!["amqp://u:p@[::1]:5672/v"]),
    ] {
        assert_eq!(Brokers::parse(text).unwrap().0, urls, "{text}");
    }
    for bad in [
        "",
        "guest@h",
        "rabbit://",
        "rabbit:///v",
        "rabbit://u:p@h:x/",
    ] {
        assert_eq!(Brokers::parse(bad), Err(BadTransport::Form), "{bad}");
    }
    for tls in ["rabbit://h/?ssl=1", "rabbit://h/v?x=2&ssl=True"] {
        assert_eq!(Brokers::parse(tls), Err(BadTransport::Tls), "{tls}");
    }
    let kafka = Brokers::parse("kafka://h").unwrap_err().to_string();
    assert!(kafka.contains("kafka"), "{kafka}");
    let shown = format!("{:?}", Brokers::parse("rabbit://u:s3cret@h:1/").unwrap());
    assert!(
        shown.contains("h:1") && !shown.contains("s3cret"),
        "{shown}"
    );
}

/// Without a broker the bells of a process still ring in it, at once, and nothing piles up.
#[tokio::test]
async fn a_broker_that_is_away_holds_up_nothing() {
    let brokers = Brokers::parse(&format!("rabbit://127.0.0.1:{}/", free_port())).unwrap();
    let bus = Bus::over(brokers, CancellationToken::new());
    let mut listener = bus.listen(Bell::Tasks);
    for _ in 0..WAITING * 4 {
        bus.ring(Bell::Tasks);
    }
    assert!(listener.rung().now_or_never().is_some(), "at once");
}

/// Hears a bell that the other process rings again and again.
async fn heard(from: &Bus, by: &Bus, bell: &Bell) -> bool {
    let mut listener = by.listen(bell.clone());
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        from.ring(bell.clone());
        let waited = tokio::time::timeout(Duration::from_millis(100), listener.rung());
        if waited.await.is_ok() {
            return true;
        }
    }
    false
}

/// A private broker; `None` where there is none on this machine.
struct Broker {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<tokio::process::Child>,
}

impl Broker {
    async fn start() -> Option<Self> {
        let port = free_port();
        let mut broker = Self {
            folder: tempfile::tempdir().unwrap(),
            port,
            process: None,
        };
        broker.again().await.then_some(broker)
    }

    /// Starts it; false when RabbitMQ is not installed.
    async fn again(&mut self) -> bool {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/test-broker.sh");
        let process = tokio::process::Command::new(script)
            .arg(self.folder.path())
            .arg(self.port.to_string())
            .stdin(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let process = self.process.insert(process.unwrap());
        let until = Instant::now() + Duration::from_secs(300);
        while Instant::now() < until {
            if let Some(ended) = process.try_wait().unwrap() {
                assert_eq!(ended.code(), Some(3), "the broker does not start");
                return false;
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the broker does not start");
    }

    async fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        drop(process.stdin.take());
        process.wait().await.unwrap();
    }
}

/// None of those that the system gives to whoever asks for any: nobody takes it before it is used, or while its server
/// is away.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst));
        let port = 20_000 + (next % 10_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bells_ring_in_other_processes_also_after_the_broker_was_killed() {
    let Some(mut broker) = Broker::start().await else {
        eprintln!("skipped: RabbitMQ is not installed");
        return;
    };
    // The first place is one where nobody listens.
    let url = format!(
        "rabbit://guest:guest@127.0.0.1:{},guest:guest@127.0.0.1:{}/",
        free_port(),
        broker.port
    );
    let brokers = Brokers::parse(&url).unwrap();
    let stop = CancellationToken::new();
    let left = Bus::over(brokers.clone(), stop.clone());
    let right = Bus::over(brokers, stop.clone());
    for bell in [
        Bell::Tasks,
        Bell::Host("h1".into()),
        Bell::Addresses,
        Bell::Answer(Uuid::new_v4()),
    ] {
        assert!(heard(&left, &right, &bell).await, "{bell:?}");
        assert!(heard(&right, &left, &bell).await, "{bell:?}");
    }
    broker.kill().await;
    let mut here = left.listen(Bell::Tasks);
    left.ring(Bell::Tasks);
    here.rung().await;
    // Whoever comes back looks at everything: it may have missed a bell.
    let mut missed = right.listen(Bell::Addresses);
    assert!(broker.again().await);
    tokio::time::timeout(Duration::from_secs(120), missed.rung())
        .await
        .expect("all bells ring when the broker is back");
    assert!(heard(&left, &right, &Bell::Tasks).await);
    assert!(heard(&right, &left, &Bell::Tasks).await);
    stop.cancel();
    broker.kill().await;
}
