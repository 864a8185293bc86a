//! What the programs must know of the node.

use crate::{Address, crosses_the_border};

/// The one element of `CONFIG`, an mmap-able array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NodeConfig {
    /// What IPv4 traffic is masqueraded as; all zero if the node has no IPv4 address.
    pub masquerade_v4: Address,
    /// What IPv6 traffic is masqueraded as; all zero if the node has no IPv6 address.
    pub masquerade_v6: Address,
    /// Cookie of the node's own network namespace.
    pub netns_cookie: u64,
    /// Grows by one whenever what is remembered in flows may be out of date: a frontend appeared or
    /// went, a local pod came or went.
    pub epoch: u32,
    /// A set of [`flags`].
    pub flags: u32,
    /// First port that masquerading may use, native order.
    pub masquerade_port_first: u16,
    /// Last port that masquerading may use, native order.
    pub masquerade_port_last: u16,
    /// Zero.
    pub reserved: u32,
}
crosses_the_border!(NodeConfig: 56 {
    masquerade_v4: Address, masquerade_v6: Address, netns_cookie: u64, epoch: u32, flags: u32,
    masquerade_port_first: u16, masquerade_port_last: u16, reserved: u32,
});

/// The one element of `LEARNED`, an array: what the programs have found out about the node's traffic. They write, and never take
/// anything back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Learned {
    /// 1 when TCP connections of this node's pods have been translated packet by packet: those of pods that opt out, or that
    /// have a kernel of their own.
    pub tcp_of_pods: u32,
    /// 1 when TCP connections from outside have been.
    pub tcp_from_outside: u32,
}
crosses_the_border!(Learned: 8 { tcp_of_pods: u32, tcp_from_outside: u32 });

/// Switches of [`NodeConfig`].
pub mod flags {
    /// Packets from a local pod to another one are handed over directly, past the node's own stack.
    pub const LOCAL_REDIRECT: u32 = 1;
    /// Some network namespaces are in `OPT_OUT`: look there before a socket is translated.
    pub const OPT_OUTS: u32 = 2;
    /// The node's netfilter translates destinations as well, or still those of old connections: a TCP connection to a service
    /// that no flow knows of is its, unless it begins now.
    pub const OTHERS_TRANSLATE: u32 = 4;
}
