//! TCP to no service: most of what pods send. Nothing of it is remembered, but where ports could be mistaken.

use aya_ebpf::programs::TcContext;
use weir_abi::{Address, Endpoint, NodeConfig, endpoint::flags, service::scope};

use crate::{
    deliver::{self, NEXT},
    flow::{self, redirects},
    learned,
    maps::ENDPOINTS,
    packet::{Packet, tcp},
    service,
    work::Work,
};

/// What is known of a pod's TCP packet before any flow is looked at.
pub(crate) enum Known {
    /// Everything: it is on its way.
    Sent(i32),
    /// It is addressed to no service; it may be an answer.
    ToNoService,
    /// Nothing.
    Nothing,
}

/// Sends a pod's TCP packet its way if none of the flows can be the packet's, and it begins none: to a local pod, at the price of
/// one lookup.
#[inline(always)]
pub(crate) fn without_flows(ctx: &TcContext, packet: &Packet, config: &NodeConfig) -> Known {
    if learned::of_pods_tcp() {
        return Known::Nothing;
    }
    let to = ENDPOINTS.get_ptr(&packet.key.dst);
    if (packet.opens() || to.is_none()) && service::has_frontends(&packet.key.dst, scope::INTERNAL)
    {
        return Known::Nothing;
    }
    if to.is_none() && learned::of_any_tcp() {
        return Known::ToNoService;
    }
    Known::Sent(deliver(ctx, to, config))
}

/// Sends a TCP packet its way that is none of a flow's, and whose destination is no service.
///
/// A client whose connections are translated packet by packet, or a server of such, may have a connection without translation
/// between the same ports. So theirs are remembered, by the first packet of each side.
#[inline(never)]
pub(crate) fn pass_on(ctx: &TcContext, work: &mut Work, config: &NodeConfig) -> i32 {
    let key = &work.packet.key;
    // Otherwise [`without_flows`] has looked already.
    let to = if learned::of_pods_tcp() {
        ENDPOINTS.get_ptr(&key.dst)
    } else {
        None
    };
    if work.packet.tcp_flags & tcp::SYN != 0
        && (is_translated(to) || is_translated(ENDPOINTS.get_ptr(&key.src)))
    {
        flow::direct(work, config);
    }
    deliver(ctx, to, config)
}

/// To a local pod directly, where that is wanted, else up the stack.
#[inline(always)]
fn deliver(ctx: &TcContext, to: Option<*const Endpoint>, config: &NodeConfig) -> i32 {
    match to {
        // SAFETY: a live value of the map.
        Some(endpoint) if redirects(config) => deliver::to_pod(ctx, unsafe { (*endpoint).ifindex }),
        _ => NEXT,
    }
}

/// Notes that connections of a pod are translated packet by packet, if it is one of this node's.
#[inline(always)]
pub(crate) fn mark_translated(pod: &Address) {
    if let Some(endpoint) = ENDPOINTS.get_ptr_mut(pod)
        // SAFETY: a live value of the map. Should the element be reused in this very moment, another pod's connections are
        // remembered without need.
        && unsafe { (*endpoint).flags } & flags::TRANSLATED == 0
    {
        // SAFETY: as above.
        unsafe { (*endpoint).flags |= flags::TRANSLATED };
    }
}

#[inline(always)]
fn is_translated(pod: Option<*const Endpoint>) -> bool {
    // SAFETY: a live value of the map.
    pod.is_some_and(|endpoint| unsafe { (*endpoint).flags } & flags::TRANSLATED != 0)
}
