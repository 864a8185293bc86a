//! Ending sockets from outside (`SOCK_DESTROY` of sock_diag(7)).

use std::io;

use rustix::net::netlink::SOCK_DIAG;

use super::{Finding, Group, State, Thing};
use crate::netlink::{Expect, request};

const SOCK_DESTROY: u16 = 21;

pub(super) fn findings() -> Vec<Finding> {
    let thing = Thing {
        name: "ending sockets",
        group: Group::General,
        gives: "connections to a pod that is gone end at once",
        costs: "such connections end when TCP gives up, after minutes (CONFIG_INET_DIAG_DESTROY)",
    };
    let finding = match destroy_none() {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => thing.is(State::Ok, ""),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            thing.is(State::Missing, "this kernel does not have it")
        }
        Err(error) => thing.is(State::Unknown, error.to_string()),
        Ok(()) => thing.is(
            State::Unknown,
            "the kernel found a socket that cannot exist",
        ),
    };
    vec![finding]
}

/// Asks for the end of a socket that cannot exist: TCP from 0.0.0.0:0 to 0.0.0.0:0 with a cookie that is never given.
fn destroy_none() -> io::Result<()> {
    // `struct inet_diag_req_v2`: family, protocol, ext, pad, states, then `struct inet_diag_sockid` of zeros.
    let mut payload = [0_u8; 56];
    payload[0] = libc::AF_INET as u8;
    payload[1] = libc::IPPROTO_TCP as u8;
    payload[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request(SOCK_DIAG, SOCK_DESTROY, &payload, Expect::Acknowledgement).map(drop)
}
