//! Ways in which guests talk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bench::Guest;

/// Whether an answer comes. The kernel may take up to a second to let a new cable's carrier take
/// effect, so where an answer is expected (`patience` of a second and more) three questions are put.
pub fn ping(from: &Guest, to: &str, patience: Duration) -> bool {
    let count = if patience >= Duration::from_secs(1) {
        "3"
    } else {
        "1"
    };
    let argv = ["busybox", "ping", "-c", count, "-W", "1", to];
    from.succeeds(&argv)
}

/// A server that runs until dropped.
pub struct Server(Arc<AtomicBool>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tells each client which address it comes from, then echoes.
pub fn tcp_echo(on: &Guest, address: &str) -> Server {
    let listener = on.within(|| TcpListener::bind(address).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let from = stream.peer_addr().unwrap().ip().to_string();
                let _ = stream.write_all(format!("{from}\n").as_bytes());
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Server(stop)
}

pub fn connect(from: &Guest, to: &str, patience: Duration) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = from.within(|| TcpStream::connect_timeout(&to, patience))?;
    stream.set_read_timeout(Some(patience))?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {}
    Ok(stream)
}

pub fn still_talks(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"ping"
}

/// The address that the server saw.
pub fn tcp_talk(from: &Guest, to: &str, patience: Duration) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = from.within(|| TcpStream::connect_timeout(&to, patience))?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {
        text.push(char::from(byte[0]));
    }
    Ok(text)
}

pub fn udp_echo(on: &Guest, address: &str) -> Server {
    let socket = on.within(|| UdpSocket::bind(address).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
    Server(stop)
}

pub fn udp_talk(from: &Guest, own: &str, to: &str, patience: Duration) -> bool {
    from.within(|| {
        let socket = UdpSocket::bind(own).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 64];
        socket.send_to(b"hello", to).is_ok()
            && socket
                .recv(&mut buffer)
                .is_ok_and(|n| &buffer[..n] == b"hello")
    })
}

/// Asks a name server from a guest (its address must be configured already).
pub fn resolve(guest: &Guest, server: &str, name: &str) -> String {
    guest.configure("10.0.0.1");
    guest.within(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let mut answer = [0; 512];
        let length = (0..10)
            .find_map(|_| {
                socket.send_to(&query, (server, 53)).unwrap();
                socket.recv(&mut answer).ok()
            })
            .expect("an answer of the name server");
        let [a, b, c, d] = answer[length - 4..length].try_into().unwrap();
        std::net::Ipv4Addr::new(a, b, c, d).to_string()
    })
}

/// A request that also lies about who it is.
pub fn http_get(from: &Guest, to: &str, path: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    from.within(|| {
        let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(3)) else {
            return "no connection".to_owned();
        };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let lies = "X-Instance-ID: someone-else\r\nX-Tenant-ID: other\r\nX-Forwarded-For: 10.9.9.9\r\nX-Instance-ID-Signature: 00\r\n";
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n{lies}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    })
}
