//! Netlink requests and their answers.

use std::{io, net::IpAddr, os::fd::OwnedFd, time::Duration};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::SocketAddrNetlink,
    recv, sendto, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Length of `struct nlmsghdr`, and of `struct nlattr`.
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Length of `struct ifaddrmsg`.
const ADDRESS_MESSAGE: usize = 8;

/// The addresses of this network namespace, loopback ones included, sorted, each once. Without IPv6 addresses that mean
/// something on one link only.
///
/// # Errors
/// When the kernel does not list them.
pub(crate) fn addresses() -> io::Result<Vec<IpAddr>> {
    // The protocol of routes is netlink's first.
    let mut answers = Vec::new();
    Connection::open(None)?.request(
        RTM_GETADDR,
        &[0; ADDRESS_MESSAGE],
        Expect::Dump,
        |answer| {
            answers.push(answer.to_vec());
        },
    )?;
    let address = |answer: &Vec<u8>| {
        let find = |wanted| {
            let mut found =
                attributes(answer.get(ADDRESS_MESSAGE..)?).filter(|(kind, _)| *kind == wanted);
            found.next().map(|(_, value)| value)
        };
        // Of a point-to-point link, the first is the peer's.
        let bytes = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .ok()
    };
    let of_one_link = |addr: &IpAddr| matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let mut found: Vec<IpAddr> = answers.iter().filter_map(address).collect();
    found.retain(|addr| !of_one_link(addr));
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// What is expected back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Success or an error.
    Acknowledgement,
    /// Any number of messages.
    Dump,
}

/// A socket of one netlink protocol, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// Sends one request and returns the payloads of the messages that answer it.
///
/// # Errors
/// The kernel's answer when it is an error.
pub(crate) fn request(
    protocol: Protocol,
    message_type: u16,
    payload: &[u8],
    expect: Expect,
) -> io::Result<Vec<Vec<u8>>> {
    let mut answers = Vec::new();
    Connection::open(protocol)?.request(message_type, payload, expect, |answer| {
        answers.push(answer.to_vec());
    })?;
    Ok(answers)
}

impl Connection {
    /// Opens a socket in this thread's network namespace; `None` is `NETLINK_ROUTE`.
    ///
    /// # Errors
    /// When the kernel has no netlink of this protocol.
    pub(crate) fn open(protocol: impl Into<Option<Protocol>>) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol.into(),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(5)))?;
        Ok(Self {
            socket,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Sends a request, and hands the payload of each message that answers it to `answer`.
    ///
    /// # Errors
    /// The kernel's answer when it is an error. After another error the connection is of no use any more.
    pub(crate) fn request(
        &mut self,
        message_type: u16,
        payload: &[u8],
        expect: Expect,
        mut answer: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let flags = NLM_F_REQUEST
            | if expect == Expect::Dump {
                NLM_F_DUMP
            } else {
                NLM_F_ACK
            };
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend(
            u32::try_from(HEADER + payload.len())
                .unwrap_or(u32::MAX)
                .to_ne_bytes(),
        );
        message.extend(message_type.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        sendto(
            &self.socket,
            &message,
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;
        loop {
            let (_, length) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
            let received = &self.buffer[..length.min(self.buffer.len())];
            if received.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (kind, payload) in messages(received) {
                match kind {
                    // What ends a dump says as well whether it went wrong on the way.
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match word(payload, 0).map(u32::cast_signed) {
                            Some(error @ ..0) => {
                                Err(io::Error::from_raw_os_error(error.saturating_neg()))
                            }
                            Some(_) => Ok(()),
                            None if kind == NLMSG_DONE => Ok(()),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ => answer(payload),
                }
            }
        }
    }
}

/// Splits what was received into (type, payload).
pub(crate) fn messages(mut received: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(received, 0)? as usize;
        let kind = u16::from_ne_bytes([*received.get(4)?, *received.get(5)?]);
        let payload = received.get(HEADER..length)?;
        received = received
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, payload))
    })
}

/// Splits attributes into (type, value).
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits are flags.
        Some((kind & 0x3fff, value))
    })
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let bytes = [7, 0, 1, 0, b'a', b'b', 0, 0xff, 6, 0, 3, 0x40, b'c', 0];
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(1, &b"ab\0"[..]), (3, &b"c\0"[..])]);
    }

    #[test]
    fn broken_lengths_end_the_list() {
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(messages(&[16, 0]).count(), 0);
    }

    #[test]
    fn addresses_are_those_of_this_namespace() {
        let thread = std::thread::spawn(|| {
            // SAFETY: only this thread's network namespace is replaced; descriptors stay shared as before.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("tests run as root");
            assert_eq!(addresses().unwrap(), Vec::<IpAddr>::new());
            for arguments in [
                "link set lo up",
                "addr add 192.0.2.7/24 dev lo",
                "addr add 192.0.2.9 peer 192.0.2.10 dev lo",
                "addr add 2001:db8::7/64 dev lo nodad",
                "addr add fe80::7/64 dev lo nodad",
            ] {
                let status = std::process::Command::new("ip")
                    .args(arguments.split(' '))
                    .status()
                    .expect("iproute2 is installed");
                assert!(status.success(), "ip {arguments}");
            }
            let found: Vec<String> = addresses()
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(
                found,
                ["127.0.0.1", "192.0.2.7", "192.0.2.9", "::1", "2001:db8::7"]
            );
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
