//! The kernel's table of connections, over netlink (`nfnetlink_conntrack.h`): reading it and
//! taking entries out, so that what a rule no longer allows ends at once.
//!
//! Messages are built and read by hand; there are only two of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt,
};

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Sender's port; 0 where there are none.
    pub sport: u16,
    /// Receiver's port; for ICMP the type in the upper and the code in the lower byte.
    pub dport: u16,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Its zone.
    pub zone: u16,
    /// As its first packet was sent.
    pub orig: Tuple,
    /// As its answers come.
    pub reply: Tuple,
    /// The kernel's own words for `orig`, to name it again.
    raw_orig: Vec<u8>,
}

const CT_NEW: u16 = 0x0100;
const CT_GET: u16 = 0x0101;
const CT_DELETE: u16 = 0x0102;
const NLM_ERROR: u16 = 2;
const NLM_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const HEADER: usize = 16;
const NFGEN: usize = 4;
/// Error of a connection that ended by itself in the meantime.
const ENOENT: i32 = -2;

/// Reads the connections of the namespace that the calling thread is in and removes those that
/// `unwanted` picks; tells how many.
///
/// # Errors
/// When the kernel does not answer.
pub fn cut(unwanted: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let socket = open()?;
    let mut doomed = Vec::new();
    send(
        &socket,
        &message(CT_GET, REQUEST | DUMP, 0, &[]),
        SendFlags::empty(),
    )?;
    receive(&socket, |kind, payload| {
        if kind == CT_NEW
            && let Some(flow) = parse_flow(payload)
            && unwanted(&flow)
        {
            doomed.push(flow);
        }
    })?;
    for flow in &doomed {
        delete(&socket, flow)?;
    }
    Ok(doomed.len())
}

fn open() -> io::Result<OwnedFd> {
    let fd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(Duration::from_secs(5)))?;
    Ok(fd)
}

fn delete(socket: &OwnedFd, flow: &Flow) -> io::Result<()> {
    let mut attributes = Vec::new();
    attribute(&mut attributes, TUPLE_ORIG | NESTED, &flow.raw_orig);
    attribute(&mut attributes, ZONE, &flow.zone.to_be_bytes());
    let family = if flow.orig.src.is_ipv4() { 2 } else { 10 };
    send(
        socket,
        &message(CT_DELETE, REQUEST | ACK, family, &attributes),
        SendFlags::empty(),
    )?;
    match receive(socket, |_, _| ()) {
        Err(error) if error.raw_os_error() == Some(-ENOENT) => Ok(()),
        other => other,
    }
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + NFGEN + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + NFGEN + attributes.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Takes messages until the kernel says that this was all.
fn receive(socket: &OwnedFd, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, payload, after)) = next_message(rest) {
            rest = after;
            match kind {
                NLM_DONE => return Ok(()),
                NLM_ERROR => return ended(payload),
                _ => each(kind, payload.get(NFGEN..).unwrap_or_default()),
            }
        }
    }
}

fn ended(payload: &[u8]) -> io::Result<()> {
    let code = payload
        .first_chunk()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-code))
    }
}

fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?;
    Some((
        kind,
        payload,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// The attributes in `bytes`: type without flags, and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

fn parse_flow(bytes: &[u8]) -> Option<Flow> {
    let raw_orig = find(bytes, TUPLE_ORIG)?;
    let zone = find(bytes, ZONE)
        .and_then(|value| value.try_into().ok())
        .map_or(0, u16::from_be_bytes);
    Some(Flow {
        zone,
        orig: parse_tuple(raw_orig)?,
        reply: parse_tuple(find(bytes, TUPLE_REPLY)?)?,
        raw_orig: raw_orig.to_vec(),
    })
}

fn parse_tuple(bytes: &[u8]) -> Option<Tuple> {
    let (ip, proto) = (find(bytes, 1)?, find(bytes, 2)?);
    let v4 = |kind| {
        Some(IpAddr::from(Ipv4Addr::from(
            <[u8; 4]>::try_from(find(ip, kind)?).ok()?,
        )))
    };
    let v6 = |kind| {
        Some(IpAddr::from(Ipv6Addr::from(
            <[u8; 16]>::try_from(find(ip, kind)?).ok()?,
        )))
    };
    let number = |kind| find(proto, kind).and_then(|value| value.first().copied());
    let port = |kind| {
        find(proto, kind)
            .and_then(|value| value.try_into().ok())
            .map(u16::from_be_bytes)
    };
    let icmp = |kind, code| {
        Some(u16::from_be_bytes([
            number(kind)?,
            number(code).unwrap_or(0),
        ]))
    };
    Some(Tuple {
        src: v4(1).or_else(|| v6(3))?,
        dst: v4(2).or_else(|| v6(4))?,
        protocol: number(1)?,
        sport: port(2).unwrap_or(0),
        dport: port(3)
            .or_else(|| icmp(5, 6))
            .or_else(|| icmp(8, 9))
            .unwrap_or(0),
    })
}

#[cfg(test)]
pub(crate) fn test_flow(zone: u16, orig: Tuple, reply: Tuple) -> Flow {
    Flow {
        zone,
        orig,
        reply,
        raw_orig: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn nested(kind: u16, parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut inner = Vec::new();
        for (kind, value) in parts {
            attribute(&mut inner, *kind, value);
        }
        let mut out = Vec::new();
        attribute(&mut out, kind | NESTED, &inner);
        out
    }

    fn tuple(kind: u16, src: [u8; 4], dst: [u8; 4], proto: &[(u16, &[u8])]) -> Vec<u8> {
        let mut inner = nested(1, &[(1, &src), (2, &dst)]);
        inner.extend(nested(2, proto));
        let mut out = Vec::new();
        attribute(&mut out, kind | NESTED, &inner);
        out
    }

    #[test]
    fn a_flow_is_read_from_the_kernels_words() {
        let tcp: &[(u16, &[u8])] = &[(1, &[6]), (2, &[0x30, 0x39]), (3, &[0, 22])];
        let back: &[(u16, &[u8])] = &[(1, &[6]), (2, &[0, 22]), (3, &[0x30, 0x39])];
        let mut bytes = tuple(TUPLE_ORIG, [192, 0, 2, 1], [10, 0, 0, 5], tcp);
        bytes.extend(tuple(TUPLE_REPLY, [10, 0, 0, 5], [192, 0, 2, 1], back));
        attribute(&mut bytes, ZONE, &[0, 7]);
        let flow = parse_flow(&bytes).unwrap();
        assert_eq!(flow.zone, 7);
        assert_eq!(
            (
                flow.orig.src.to_string().as_str(),
                flow.orig.dport,
                flow.orig.sport
            ),
            ("192.0.2.1", 22, 12345)
        );
        assert_eq!(flow.reply.dst.to_string(), "192.0.2.1");
        for end in 0..bytes.len() {
            // Cut short anywhere, it is no flow or a flow without zone, never a panic.
            let _ = parse_flow(&bytes[..end]);
        }
    }

    #[test]
    fn icmp_has_type_and_code_for_a_port() {
        let echo: &[(u16, &[u8])] = &[(1, &[1]), (4, &[0, 1]), (5, &[8]), (6, &[0])];
        let bytes = tuple(TUPLE_ORIG, [10, 0, 0, 1], [10, 0, 0, 2], echo);
        let flow = parse_tuple(find(&bytes, TUPLE_ORIG).unwrap()).unwrap();
        assert_eq!((flow.protocol, flow.dport), (1, 0x0800));
    }
}
