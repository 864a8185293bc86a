//! What the kernel's netfilter is told to do, and does.

use std::io;

use rustix::net::netlink::NETFILTER;

use crate::netlink::{Expect, attributes, request};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`
const GET_CHAINS: u16 = 10 << 8 | 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT`: where destinations are translated.
const BEFORE_ROUTING: [u32; 2] = [0, 3];

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`
const GET_CONNECTIONS: u16 = 1 << 8 | 1;
const CONNECTION_STATUS: u16 = 3;
const CONNECTION_STATUS_MASK: u16 = 26;
/// `IPS_DST_NAT`
const TRANSLATED: u32 = 1 << 5;

/// Length of `struct nfgenmsg`, which begins every message; all zero, it asks for any family.
const HEADER: usize = 4;

/// A chain of nftables; what iptables-nft makes is among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The table's name.
    pub(crate) table: String,
    /// Its own.
    pub(crate) name: String,
    /// Whether it is of type `nat` at a hook before routing.
    pub(crate) translates_destinations: bool,
}

/// All chains of this network namespace; none where the kernel has no nftables.
///
/// # Errors
/// When the kernel does not list them.
pub(crate) fn chains() -> io::Result<Vec<Chain>> {
    let chains = dump(GET_CHAINS, &[0; HEADER])?;
    Ok(chains.iter().filter_map(|answer| chain(answer)).collect())
}

fn chain(answer: &[u8]) -> Option<Chain> {
    let of_chain = |wanted| find(answer.get(HEADER..)?, wanted);
    let text = |value: &[u8]| {
        String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
    };
    let hook = of_chain(CHAIN_HOOK).and_then(|hook| {
        Some(u32::from_be_bytes(
            find(hook, HOOK_NUMBER)?.try_into().ok()?,
        ))
    });
    let of_type_nat = of_chain(CHAIN_TYPE).is_some_and(|kind| kind.starts_with(b"nat"));
    Some(Chain {
        table: text(of_chain(CHAIN_TABLE)?),
        name: text(of_chain(CHAIN_NAME)?),
        translates_destinations: of_type_nat
            && hook.is_some_and(|hook| BEFORE_ROUTING.contains(&hook)),
    })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = attributes(bytes);
    all.find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// Whether any connection is tracked whose destination was translated.
///
/// # Errors
/// When the kernel does not list them.
pub(crate) fn has_translated_connections() -> io::Result<bool> {
    // The status that is asked for, and which of its bits count (since Linux 5.9).
    let mut payload = vec![0; HEADER];
    for kind in [CONNECTION_STATUS, CONNECTION_STATUS_MASK] {
        payload.extend(8_u16.to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(TRANSLATED.to_be_bytes());
    }
    Ok(!dump(GET_CONNECTIONS, &payload)?.is_empty())
}

/// As [`request`], of a kernel that may lack what is asked.
fn dump(message: u16, payload: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    match request(NETFILTER, message, payload, Expect::Dump) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT)
            ) =>
        {
            Ok(Vec::new())
        }
        result => result,
    }
}
