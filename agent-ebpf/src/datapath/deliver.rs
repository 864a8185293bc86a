//! Where a packet goes once it is decided and translated.

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_redir_neigh},
    helpers::generated::{
        bpf_fib_lookup as fib_lookup, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type,
    },
    programs::TcContext,
};
use weir_abi::{FlowKey, service::proto};

use crate::packet::{L3, load};
use crate::rewrite::{Refused, store};

/// The next program, if there is one, then the stack (`TCX_NEXT`).
pub(crate) const NEXT: i32 = -1;
/// `TCX_DROP`.
pub(crate) const DROP: i32 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_SUCCESS` and `BPF_FIB_LKUP_RET_NO_NEIGH`.
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGH: i64 = 7;
const PACKET_HOST: u32 = 0;

/// Hands the packet to the local pod whose veth has the host side `ifindex`, past this node's own stack.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext, ifindex: u32) -> i32 {
    // SAFETY: the context is valid.
    let kind = unsafe { (&raw const (*ctx.skb.skb).pkt_type).read_volatile() };
    if kind != PACKET_HOST {
        // Addressed to the bridge the pod is on, not to the veth it came in by: the receiver would not take it for its own.
        // SAFETY: as above.
        let _ = unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) };
    }
    // SAFETY: the helper takes any index; one that is gone drops the packet.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Sends the packet out to its destination by this node's routes. The stack would drop it, as it has one of the node's own
/// addresses as its source.
#[inline(never)]
pub(crate) fn to_neighbour(ctx: &TcContext, key: &FlowKey, v6: bool) -> i32 {
    if live_on(ctx, v6).is_err() {
        return DROP;
    }
    // SAFETY: all zero is a valid value of this type.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fib.family = if v6 { AF_INET6 } else { AF_INET };
    fib.l4_protocol = key.proto;
    if key.proto != proto::SCTP {
        fib.sport = key.sport_be;
        fib.dport = key.dport_be;
    }
    let (src, dst) = (key.src.to_words(), key.dst.to_words());
    if v6 {
        fib.__bindgen_anon_3.ipv6_src = src;
        fib.__bindgen_anon_4.ipv6_dst = dst;
    } else {
        fib.__bindgen_anon_3.ipv4_src = src[3];
        fib.__bindgen_anon_4.ipv4_dst = dst[3];
    }
    fib.ifindex = ifindex(ctx);
    // SAFETY: the context is valid and `fib` live.
    let result = unsafe {
        fib_lookup(
            ctx.skb.skb.cast(),
            &raw mut fib,
            size_of::<bpf_fib_lookup>() as i32,
            0,
        )
    };
    if result != FIB_SUCCESS && result != FIB_NO_NEIGH {
        // No route, or a packet too large for it: the stack knows what to say to that.
        return NEXT;
    }
    // SAFETY: all zero is a valid value of this type.
    let mut next: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    next.nh_family = u32::from(fib.family);
    // SAFETY: the lookup left the next hop's address in the destination of its family.
    unsafe {
        if v6 {
            next.__bindgen_anon_1.ipv6_nh = fib.__bindgen_anon_4.ipv6_dst;
        } else {
            next.__bindgen_anon_1.ipv4_nh = fib.__bindgen_anon_4.ipv4_dst;
        }
    }
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
        return store(ctx, L3 + 7, &(limit - 1));
    }
    let old: u16 = load(ctx, L3 + 8).ok_or(Refused)?;
    let [ttl, protocol] = old.to_ne_bytes();
    if ttl <= 1 {
        return Err(Refused);
    }
    let new = u16::from_ne_bytes([ttl - 1, protocol]);
    crate::rewrite::replace_header_word(ctx, L3 + 8, old, new)
}

/// The device that the packet is at.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the hook.
    unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() }
}
