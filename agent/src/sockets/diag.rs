//! Finding and ending sockets of this thread's network namespace (sock_diag(7)).

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::net::netlink::SOCK_DIAG;
use weir_core::model::Protocol;

use super::{Ended, Endpoint};
use crate::netlink::{Connection, Expect};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// Length of `struct inet_diag_sockid`, and where it is in `struct inet_diag_msg`.
const ID: usize = 48;
const ID_AT: usize = 4;

/// States of `include/net/tcp_states.h`, as the bits of a request. UDP uses the first for "connected".
const ESTABLISHED: u32 = 1 << 1;
const SYN_SENT: u32 = 1 << 2;
const SYN_RECV: u32 = 1 << 3;
const FIN_WAIT1: u32 = 1 << 4;
const FIN_WAIT2: u32 = 1 << 5;
const CLOSE_WAIT: u32 = 1 << 8;
const LAST_ACK: u32 = 1 << 9;
const CLOSING: u32 = 1 << 11;

/// Whatever waits for its peer. Not TIME_WAIT, which ends by itself, and not LISTEN.
const TCP_STATES: u32 =
    ESTABLISHED | SYN_SENT | SYN_RECV | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT | LAST_ACK | CLOSING;
const UDP_STATES: u32 = ESTABLISHED;

/// A socket, as the kernel is to find it again: `id` has its cookie, so that no other socket can be meant.
struct Found {
    family: u8,
    id: [u8; ID],
}

/// Ends the connections to `endpoints` of this thread's network namespace and counts them.
///
/// # Errors
/// When sockets cannot be listed.
pub(super) fn end_here(endpoints: &HashSet<Endpoint>, ended: &mut Ended) -> io::Result<()> {
    let mut connection = Connection::open(SOCK_DIAG)?;
    for (protocol, number, states) in [
        (Protocol::Tcp, libc::IPPROTO_TCP as u8, TCP_STATES),
        (Protocol::Udp, libc::IPPROTO_UDP as u8, UDP_STATES),
    ] {
        let wanted: HashSet<SocketAddr> = endpoints
            .iter()
            .filter(|endpoint| endpoint.protocol == protocol)
            .map(|endpoint| endpoint.addr)
            .collect();
        if wanted.is_empty() {
            continue;
        }
        // An IPv6 socket can be connected to an IPv4 address; not the other way round.
        let v4 = wanted.iter().any(SocketAddr::is_ipv4);
        let families = [(libc::AF_INET, v4), (libc::AF_INET6, true)];
        for family in families.into_iter().filter(|(_, any)| *any) {
            let found = match find(&mut connection, family.0 as u8, number, states, &wanted) {
                Ok(found) => found,
                // No diagnosis of this family or protocol, in this kernel or as a module.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    ended.unsupported = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for socket in found {
                let request = request(socket.family, number, u32::MAX, &socket.id);
                match connection.request(SOCK_DESTROY, &request, Expect::Acknowledgement, |_| {}) {
                    Ok(()) if protocol == Protocol::Tcp => ended.tcp += 1,
                    Ok(()) => ended.udp += 1,
                    // It has ended by itself meanwhile.
                    Err(error)
                        if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        ended.unsupported = true;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// The sockets of a family and protocol whose remote address is one of `wanted`.
fn find(
    connection: &mut Connection,
    family: u8,
    protocol: u8,
    states: u32,
    wanted: &HashSet<SocketAddr>,
) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let request = request(family, protocol, states, &[0; ID]);
    connection.request(SOCK_DIAG_BY_FAMILY, &request, Expect::Dump, |answer| {
        if let Some((socket, remote)) = parse(answer)
            && wanted.contains(&remote)
        {
            found.push(socket);
        }
    })?;
    Ok(found)
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut request = vec![family, protocol, 0, 0];
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}

/// Reads the head of a `struct inet_diag_msg`: the socket and its remote address, a v4-mapped one as IPv4.
fn parse(answer: &[u8]) -> Option<(Found, SocketAddr)> {
    let family = *answer.first()?;
    let id: [u8; ID] = answer.get(ID_AT..ID_AT + ID)?.try_into().ok()?;
    let port = u16::from_be_bytes([id[2], id[3]]);
    let address: [u8; 16] = id[20..36].try_into().ok()?;
    let address = match i32::from(family) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = address;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(address)).to_canonical(),
        _ => return None,
    };
    Some((Found { family, id }, SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_addresses_are_read_of_every_family() {
        let message = |family: i32, address: &[u8]| {
            let mut message = vec![0; 72];
            message[0] = family as u8;
            message[6..8].copy_from_slice(&8080_u16.to_be_bytes());
            message[24..24 + address.len()].copy_from_slice(address);
            message
        };
        let remote = |message: &[u8]| parse(message).map(|(_, remote)| remote);
        let v4 = Ipv4Addr::new(192, 0, 2, 7);
        let v6: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let plain = message(libc::AF_INET, &v4.octets());
        assert_eq!(remote(&plain), Some((v4, 8080).into()));
        let mapped = message(libc::AF_INET6, &v4.to_ipv6_mapped().octets());
        assert_eq!(remote(&mapped), Some((v4, 8080).into()));
        let six = message(libc::AF_INET6, &v6.octets());
        assert_eq!(remote(&six), Some((v6, 8080).into()));
        assert_eq!(remote(&message(libc::AF_UNIX, &[])), None);
        assert_eq!(remote(&plain[..40]), None);
    }
}
