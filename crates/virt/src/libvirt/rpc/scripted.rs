//! A daemon for tests that answers each call as it is told to.

#![allow(clippy::unwrap_used)]

use super::{Encoder, HEADER, PROGRAM, REPLY, STATUS_OK, VERSION};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, watch};

/// The body of an answer, or libvirt's number of an error.
pub(crate) type Answer = Result<Encoder, u32>;
/// An answer that may take its time.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Script = Arc<dyn Fn(u32, Vec<u8>) -> Answering + Send + Sync>;
/// The number of the connection, and the procedure.
type Called = (usize, u32);

/// A daemon with its socket.
pub(crate) struct Scripted {
    folder: tempfile::TempDir,
    called: watch::Sender<Vec<Called>>,
}

impl Scripted {
    /// One that answers a procedure with these arguments so.
    pub(crate) fn start(
        answer: impl Fn(u32, Vec<u8>) -> Answering + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("sock")).unwrap();
        let called = watch::Sender::new(Vec::new());
        let noted = called.clone();
        let script: Script = Arc::new(answer);
        tokio::spawn(async move {
            for number in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, number, noted.clone(), Arc::clone(&script)));
            }
        });
        Self { folder, called }
    }

    /// Where it listens.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        vec![self.folder.path().join("sock")]
    }

    /// All calls so far.
    pub(crate) fn called(&self) -> Vec<Called> {
        self.called.borrow().clone()
    }

    /// Waits until somebody has called this.
    pub(crate) async fn until_called(&self, procedure: u32) {
        let mut called = self.called.subscribe();
        let is_there = |all: &Vec<Called>| all.iter().any(|(_, one)| *one == procedure);
        called.wait_for(is_there).await.unwrap();
    }
}

async fn serve(
    socket: UnixStream,
    number: usize,
    called: watch::Sender<Vec<Called>>,
    script: Script,
) {
    let (mut read, write) = socket.into_split();
    let write = Arc::new(Mutex::new(write));
    let mut head = [0; HEADER];
    while read.read_exact(&mut head).await.is_ok() {
        let word = |n: usize| u32::from_be_bytes(head[4 * n..4 * n + 4].try_into().unwrap());
        let (length, procedure, serial) = (word(0) as usize, word(3), word(5));
        let mut body = vec![0; length - HEADER];
        read.read_exact(&mut body).await.unwrap();
        called.send_modify(|all| all.push((number, procedure)));
        let (answering, write) = (script(procedure, body), Arc::clone(&write));
        tokio::spawn(async move {
            let (status, body) = match answering.await {
                Ok(body) => (STATUS_OK, body),
                Err(code) => {
                    let refused = Encoder::default().u32(code).i32(10);
                    (1, refused.some_string("refused"))
                }
            };
            let body = body.finish();
            let length = u32::try_from(HEADER + body.len()).unwrap();
            let head = [length, PROGRAM, VERSION, procedure, REPLY, serial, status];
            let head = head.into_iter().flat_map(u32::to_be_bytes);
            let packet: Vec<u8> = head.chain(body).collect();
            // Whoever has called may be gone.
            let _ = write.lock().await.write_all(&packet).await;
        });
    }
}
