//! Where a packet goes once it is decided and translated.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH,
        bpf_fib_lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::generated::{
        bpf_fib_lookup as fib_lookup, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type,
    },
    programs::TcContext,
};
use weir_abi::{FlowKey, service::proto};

use crate::{
    packet::{L3, Packet, load},
    rewrite::{self, Refused, store_summed},
};

/// The next program, if there is one, then the stack (`TCX_NEXT`).
pub(crate) const NEXT: i32 = -1;
/// `TCX_DROP`.
pub(crate) const DROP: i32 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Of `skb->pkt_type` (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

/// Hands the packet to the local pod whose veth has the host side `ifindex`, past this node's own stack.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext, ifindex: u32) -> i32 {
    // SAFETY: the context is valid.
    match unsafe { (&raw const (*ctx.skb.skb).pkt_type).read_volatile() } {
        PACKET_HOST => {}
        // Addressed to another port of the bridge the pod is on, not to the veth it came in by: the receiver would not take
        // it for its own.
        PACKET_OTHERHOST => {
            // SAFETY: as above.
            let _ = unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) };
        }
        // Addressed to all: not for us to say who takes it.
        _ => return NEXT,
    }
    // SAFETY: the helper takes any index; one that is gone drops the packet.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// What the node's routes say of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// There is a next hop.
    Found,
    /// The packet is larger than the path's MTU.
    TooBig,
    /// This is the last hop of its time to live.
    Expired,
    /// No route, or one that only the stack can take.
    Unknown,
}

/// Looks up how this node would send out a packet of `key`, which has the size of `packet`: the next hop, or the MTU that is
/// too small, is left in `fib`.
#[inline(never)]
pub(crate) fn route(
    ctx: &TcContext,
    key: &FlowKey,
    packet: &Packet,
    fib: &mut bpf_fib_lookup,
) -> Route {
    let v6 = packet.v6;
    let live: u8 = load(ctx, if v6 { L3 + 7 } else { L3 + 8 }).unwrap_or(0);
    if live <= 1 {
        return Route::Expired;
    }
    let (sport, dport) = if key.proto == proto::SCTP {
        (0, 0)
    } else {
        (key.sport_be, key.dport_be)
    };
    fib.family = if v6 { AF_INET6 } else { AF_INET };
    fib.l4_protocol = key.proto;
    fib.sport = sport;
    fib.dport = dport;
    fib.__bindgen_anon_1.tot_len = size(ctx, packet);
    fib.ifindex = ifindex(ctx);
    fib.__bindgen_anon_2.flowinfo = 0;
    fib.__bindgen_anon_5.tbid = 0;
    let (src, dst) = (key.src.to_words(), key.dst.to_words());
    if v6 {
        fib.__bindgen_anon_3.ipv6_src = src;
        fib.__bindgen_anon_4.ipv6_dst = dst;
    } else {
        fib.__bindgen_anon_3.ipv4_src = src[3];
        fib.__bindgen_anon_4.ipv4_dst = dst[3];
    }
    // The neighbour is found when the packet is sent.
    // SAFETY: the context is valid and `fib` live.
    let result = unsafe {
        fib_lookup(
            ctx.skb.skb.cast(),
            core::ptr::from_mut(fib),
            size_of::<bpf_fib_lookup>() as i32,
            BPF_FIB_LOOKUP_SKIP_NEIGH,
        )
    } as u32;
    match result {
        BPF_FIB_LKUP_RET_SUCCESS => Route::Found,
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig,
        _ => Route::Unknown,
    }
}

/// The length of the IP packet; of those that it will be cut into, if the device or the stack put several together. Zero, which
/// asks for no comparison with a route's MTU, for what is cut by rules of its own.
#[inline(always)]
fn size(ctx: &TcContext, packet: &Packet) -> u16 {
    // SAFETY: the kernel hands a valid context to the hook.
    let segment = unsafe { (&raw const (*ctx.skb.skb).gso_size).read_volatile() };
    if segment == 0 {
        return (packet.end - L3) as u16;
    }
    if packet.key.proto != proto::TCP {
        return 0;
    }
    let offset: u8 = load(ctx, packet.l4 + 12).unwrap_or(0);
    (packet.l4 - L3 + u32::from(offset >> 4) * 4 + segment) as u16
}

/// Sends the packet out to the next hop that [`route`] has found. The stack would drop it, as it has one of the node's own
/// addresses as its source.
#[inline(always)]
pub(crate) fn to_neighbour(ctx: &TcContext, fib: &bpf_fib_lookup, v6: bool) -> i32 {
    if live_on(ctx, v6).is_err() {
        return DROP;
    }
    let mut next = bpf_redir_neigh {
        nh_family: u32::from(fib.family),
        // An IPv4 route may have an IPv6 next hop (RFC 5549): of the one kind or the other, it is in the destination.
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            // SAFETY: every member of the union is made of integers, and all of it was written.
            ipv6_nh: unsafe { fib.__bindgen_anon_4.ipv6_dst },
        },
    };
    // SAFETY: `next` is live; the kernel checks the index.
    unsafe {
        bpf_redirect_neigh(
            fib.ifindex,
            &raw mut next,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        ) as i32
    }
}

/// Takes one from the packet's time to live, as every hop does.
#[inline(always)]
fn live_on(ctx: &TcContext, v6: bool) -> Result<(), Refused> {
    if v6 {
        let limit: u8 = load(ctx, L3 + 7).ok_or(Refused)?;
        if limit <= 1 {
            return Err(Refused);
        }
        // No checksum of the header's own makes up for it in a sum over the whole packet.
        return store_summed(ctx, L3 + 7, &(limit - 1));
    }
    let old: u16 = load(ctx, L3 + 8).ok_or(Refused)?;
    let [ttl, protocol] = old.to_ne_bytes();
    if ttl <= 1 {
        return Err(Refused);
    }
    let new = u16::from_ne_bytes([ttl - 1, protocol]);
    rewrite::replace_header_word(ctx, L3 + 8, old, new)
}

/// The device that the packet is at.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the hook.
    unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() }
}
