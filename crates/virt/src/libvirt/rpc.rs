//! One connection to libvirt's daemon: packets, replies matched by serial number, events.
//!
//! A packet is its length (32 bits, counting itself), a header of six 32-bit numbers (program, version, procedure,
//! type, serial, status) and a body in XDR ("libvirt RPC infrastructure" in libvirt's internals documentation).

#[cfg(test)]
pub(super) mod scripted;

use super::xdr::{Decoder, Encoder, Malformed};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

/// The number of libvirt's main RPC program and its version.
const PROGRAM: u32 = 0x2000_8086;
const VERSION: u32 = 1;
const HEADER: usize = 28;
/// Largest packet accepted (libvirt's own limit is 32 MiB).
const LARGEST: usize = 32 << 20;
const CALL: u32 = 0;
const REPLY: u32 = 1;
const MESSAGE: u32 = 2;
const STATUS_OK: u32 = 0;

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The daemon is not there or went away; whether the call was carried out is not known.
    #[error("no connection to libvirt: {0}")]
    Closed(String),
    /// The daemon did not answer in time.
    #[error("libvirt did not answer within {0:?}")]
    Late(Duration),
    /// The daemon answered with an error: libvirt's number and text.
    #[error("{message} (libvirt error {code})")]
    Refused {
        /// `virErrorNumber`.
        code: u32,
        /// Text for people.
        message: String,
    },
    /// The answer could not be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// An event message: procedure number and body.
pub type EventMessage = (u32, Vec<u8>);

type Waiting = Arc<Mutex<Option<HashMap<u32, oneshot::Sender<Result<Vec<u8>, RpcError>>>>>>;

/// An open connection. Dropping it closes the socket.
pub struct Connection {
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    serial: AtomicU32,
    reader: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Connection {
    /// Connects to the first of the sockets that accepts. `events` receives event messages and is dropped when the
    /// connection ends.
    pub async fn open(
        sockets: &[PathBuf],
        events: Option<mpsc::Sender<EventMessage>>,
    ) -> Result<Self, RpcError> {
        let stream = connect(sockets).await?;
        let (read, write) = stream.into_split();
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (outgoing, queue) = mpsc::unbounded_channel();
        tokio::spawn(write_packets(write, queue));
        let reader = tokio::spawn(read_packets(read, waiting.clone(), events)).abort_handle();
        Ok(Self {
            outgoing,
            waiting,
            serial: AtomicU32::new(1),
            reader,
        })
    }

    /// Whether the daemon has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Calls a procedure and waits for its answer.
    pub async fn call(
        &self,
        procedure: u32,
        body: Encoder,
        timeout: Duration,
    ) -> Result<Vec<u8>, RpcError> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.as_mut().ok_or_else(closed)?.insert(serial, answer);
        }
        let forget = Forget {
            waiting: &self.waiting,
            serial,
        };
        self.outgoing
            .send(packet(procedure, serial, body))
            .map_err(|_| closed())?;
        let result = tokio::time::timeout(timeout, answered).await;
        drop(forget);
        match result {
            Err(_) => Err(RpcError::Late(timeout)),
            Ok(Err(_)) => Err(closed()),
            Ok(Ok(answer)) => answer,
        }
    }
}

/// Takes the serial out of the table however the call ends, a dropped future included.
struct Forget<'a> {
    waiting: &'a Waiting,
    serial: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
        {
            waiting.remove(&self.serial);
        }
    }
}

fn closed() -> RpcError {
    RpcError::Closed("the connection was closed".into())
}

async fn connect(sockets: &[PathBuf]) -> Result<UnixStream, RpcError> {
    let mut problem = None;
    for path in sockets {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = problem.or_else(|| Some(describe(path, &error))),
        }
    }
    Err(RpcError::Closed(
        problem.unwrap_or_else(|| "no socket is configured".into()),
    ))
}

fn describe(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn packet(procedure: u32, serial: u32, body: Encoder) -> Vec<u8> {
    let body = body.finish();
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let head = [length, PROGRAM, VERSION, procedure, CALL, serial, STATUS_OK];
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(head.into_iter().flat_map(u32::to_be_bytes));
    bytes.extend(body);
    bytes
}

async fn write_packets(mut socket: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = queue.recv().await {
        if socket.write_all(&bytes).await.is_err() {
            return; // the reader sees the end of the connection and answers the callers
        }
    }
}

async fn read_packets(
    mut socket: OwnedReadHalf,
    waiting: Waiting,
    events: Option<mpsc::Sender<EventMessage>>,
) {
    let problem = loop {
        match read_packet(&mut socket).await {
            Ok(packet) => deliver(packet, &waiting, events.as_ref()).await,
            Err(error) => break RpcError::Closed(error.to_string()),
        }
    };
    let orphans = waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    for (_, answer) in orphans.into_iter().flatten() {
        answer.send(Err(problem.clone())).ok();
    }
}

struct Packet {
    program: u32,
    procedure: u32,
    kind: u32,
    serial: u32,
    status: u32,
    body: Vec<u8>,
}

async fn read_packet(socket: &mut OwnedReadHalf) -> std::io::Result<Packet> {
    let mut head = [0; HEADER];
    socket.read_exact(&mut head).await?;
    let word = |n: usize| {
        u32::from_be_bytes([
            head[4 * n],
            head[4 * n + 1],
            head[4 * n + 2],
            head[4 * n + 3],
        ])
    };
    let length = word(0) as usize;
    if !(HEADER..=LARGEST).contains(&length) {
        return Err(std::io::Error::other("packet of impossible length"));
    }
    let mut body = vec![0; length - HEADER];
    socket.read_exact(&mut body).await?;
    Ok(Packet {
        program: word(1),
        procedure: word(3),
        kind: word(4),
        serial: word(5),
        status: word(6),
        body,
    })
}

async fn deliver(packet: Packet, waiting: &Waiting, events: Option<&mpsc::Sender<EventMessage>>) {
    match packet.kind {
        REPLY => {
            let mut table = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = table
                .as_mut()
                .and_then(|table| table.remove(&packet.serial))
            {
                let result = if packet.status == STATUS_OK {
                    Ok(packet.body)
                } else {
                    Err(refusal(&packet.body))
                };
                answer.send(result).ok();
            }
        }
        MESSAGE if packet.program == PROGRAM => {
            if let Some(events) = events {
                events.send((packet.procedure, packet.body)).await.ok();
            }
        }
        _ => {}
    }
}

/// The error body starts with the error's number, its domain, and an optional message; the rest is detail.
fn refusal(body: &[u8]) -> RpcError {
    let mut decoder = Decoder::new(body);
    let mut read = || -> Result<RpcError, Malformed> {
        let code = decoder.u32()?;
        decoder.i32()?;
        let message = decoder
            .optional_string()?
            .unwrap_or_else(|| "no message".into());
        Ok(RpcError::Refused { code, message })
    };
    read().unwrap_or(RpcError::Malformed(Malformed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::net::UnixListener;

    const SOON: Duration = Duration::from_secs(60);

    /// A daemon that reads one call and then does as told with the socket.
    async fn daemon(
        answer: impl FnOnce(u32, u32) -> Vec<Vec<u32>> + Send + 'static,
    ) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; HEADER];
            socket.read_exact(&mut head).await.unwrap();
            let word = |n: usize| u32::from_be_bytes(head[4 * n..4 * n + 4].try_into().unwrap());
            assert_eq!(
                (word(1), word(2), word(4), word(6)),
                (PROGRAM, VERSION, CALL, STATUS_OK)
            );
            let mut body = vec![0; word(0) as usize - HEADER];
            socket.read_exact(&mut body).await.unwrap();
            for words in answer(word(3), word(5)) {
                let length = 4 * (words.len() as u32 + 1);
                let bytes: Vec<u8> = [length]
                    .into_iter()
                    .chain(words)
                    .flat_map(u32::to_be_bytes)
                    .collect();
                socket.write_all(&bytes).await.unwrap();
            }
        });
        (folder, path)
    }

    #[tokio::test]
    async fn answers_go_to_their_caller_and_events_aside() {
        let (_folder, path) = daemon(|procedure, serial| {
            assert_eq!(procedure, 66);
            vec![
                vec![PROGRAM, VERSION, 318, MESSAGE, 0, STATUS_OK, 77],
                vec![PROGRAM, VERSION, 66, REPLY, serial + 100, STATUS_OK, 1],
                vec![PROGRAM, VERSION, 66, REPLY, serial, STATUS_OK, 42],
            ]
        })
        .await;
        let (events, mut received) = mpsc::channel(4);
        let missing = path.with_file_name("missing");
        let connection = Connection::open(&[missing, path], Some(events))
            .await
            .unwrap();
        assert_eq!(
            connection.call(66, Encoder::default(), SOON).await.unwrap(),
            [0, 0, 0, 42]
        );
        assert_eq!(received.recv().await.unwrap(), (318, vec![0, 0, 0, 77]));
        let after = connection.call(66, Encoder::default(), SOON).await;
        assert!(matches!(after, Err(RpcError::Closed(_))), "{after:?}");
        assert!(connection.is_closed());
        assert!(received.recv().await.is_none());
    }

    #[tokio::test]
    async fn refusals_lost_daemons_and_silence() {
        let text = u32::from_be_bytes(*b"nope");
        let (_folder, path) = daemon(move |p, serial| {
            vec![vec![
                PROGRAM, VERSION, p, REPLY, serial, 1, 42, 10, 1, 4, text,
            ]]
        })
        .await;
        let connection = Connection::open(&[path], None).await.unwrap();
        let refused = connection
            .call(24, Encoder::default(), SOON)
            .await
            .unwrap_err();
        assert_eq!(
            refused,
            RpcError::Refused {
                code: 42,
                message: "nope".into()
            }
        );

        let (_folder, path) = daemon(|_, _| vec![vec![1]]).await;
        let connection = Connection::open(&[path], None).await.unwrap();
        assert!(matches!(
            connection.call(24, Encoder::default(), SOON).await,
            Err(RpcError::Closed(_))
        ));

        let folder = tempfile::tempdir().unwrap();
        let silent = folder.path().join("sock");
        let _listener = UnixListener::bind(&silent).unwrap();
        let connection = Connection::open(&[silent], None).await.unwrap();
        let wait = Duration::from_millis(20);
        assert_eq!(
            connection.call(24, Encoder::default(), wait).await,
            Err(RpcError::Late(wait))
        );
        assert!(matches!(
            Connection::open(&[folder.path().join("none")], None).await,
            Err(RpcError::Closed(_))
        ));
    }
}
