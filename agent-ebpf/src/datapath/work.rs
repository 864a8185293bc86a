//! What a packet program works on.

use aya_ebpf::bindings::bpf_fib_lookup;
use weir_abi::{Flow, FlowKey, ServiceEntry};

use crate::packet::{Packet, Quote};

/// The longest quoted headers: an IPv6 header with a few extensions, and the first eight bytes behind them.
pub(crate) const QUOTED: usize = 104;

/// Lives in a per-CPU map, since it is more than a program's stack of 512 bytes has room for. Every field is written before
/// it is read, for each packet.
pub(crate) struct Work {
    /// The packet.
    pub(crate) packet: Packet,
    /// What an ICMP error quotes.
    pub(crate) quote: Quote,
    /// What the packet becomes.
    pub(crate) to: FlowKey,
    /// What an ICMP error itself becomes.
    pub(crate) outer: FlowKey,
    /// [`weir_abi::NodeConfig::epoch`], read before any table: what is decided by older tables is decided anew.
    pub(crate) epoch: u32,
    /// The entry of the service it is addressed to.
    pub(crate) entry: ServiceEntry,
    /// Where the node's routes lead.
    pub(crate) fib: bpf_fib_lookup,
    /// The headers that an ICMP error of ours quotes.
    pub(crate) headers: [u32; QUOTED / 4],
    /// The flow that is being made.
    pub(crate) flow: Flow,
    /// The flow of its answers.
    pub(crate) answers: Flow,
}
