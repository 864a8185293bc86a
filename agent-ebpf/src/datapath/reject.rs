//! Answers to what cannot be served: a TCP reset, or an ICMP error, sent back where the packet came from.

use aya_ebpf::{
    helpers::generated::{
        bpf_csum_diff, bpf_l4_csum_replace, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail,
    },
    programs::TcContext,
};
use weir_abi::{Address, FlowKey, service::proto};

use crate::{
    deliver::{DROP, ifindex},
    maps, nat,
    packet::{L3, Packet, Part, load, tcp},
    rewrite::{Refused, fold, replace_header_word, store, store_summed},
    work::{QUOTED, Work},
};

/// What our own packets start with.
const TTL: u8 = 64;
/// `BPF_ADJ_ROOM_MAC`: room between the Ethernet and the IP header.
const ROOM_MAC: u32 = 1;

/// What an ICMP error says: type and code, and the word behind the checksum.
#[derive(Clone, Copy)]
struct Message {
    v4: [u8; 2],
    v6: [u8; 2],
    /// Network order.
    word_be: u32,
}

/// Tells the sender that nobody listens: a reset for TCP, port unreachable for the rest. Errors, resets and later fragments
/// are never answered (RFC 1122, 3.2.2).
#[inline(never)]
pub(crate) fn refuse(ctx: &TcContext, work: &mut Work) -> i32 {
    let packet = &work.packet;
    if packet.key.proto == proto::TCP {
        return match reset(ctx, packet) {
            Ok(()) => back(ctx),
            Err(Refused) => DROP,
        };
    }
    let message = Message {
        v4: [3, 3],
        v6: [1, 4],
        word_be: 0,
    };
    // As the service, where the sender expects an answer from.
    work.outer.src = packet.key.dst;
    answer(ctx, work, &message)
}

/// Tells the sender that the packet is larger than the path to where it is going takes.
#[inline(never)]
pub(crate) fn too_big(ctx: &TcContext, work: &mut Work) -> i32 {
    // SAFETY: that is what the lookup leaves there then.
    let mtu = u32::from(unsafe { work.fib.__bindgen_anon_1.mtu_result });
    let message = Message {
        v4: [3, 4],
        v6: [2, 0],
        word_be: mtu.to_be(),
    };
    as_node(work);
    answer(ctx, work, &message)
}

/// Tells the sender that this is where the packet's time to live ends.
#[inline(never)]
pub(crate) fn expired(ctx: &TcContext, work: &mut Work) -> i32 {
    let message = Message {
        v4: [11, 0],
        v6: [3, 0],
        word_be: 0,
    };
    as_node(work);
    answer(ctx, work, &message)
}

/// The node speaks for itself, if it has an address of the family.
#[inline(always)]
fn as_node(work: &mut Work) {
    let own = maps::config().map(|config| nat::own_address(work.packet.v6, config));
    work.outer.src = match own {
        Some(own) if own != Address([0; 16]) => own,
        _ => work.packet.key.dst,
    };
}

#[inline(always)]
fn answer(ctx: &TcContext, work: &mut Work, message: &Message) -> i32 {
    if work.packet.part == Part::Later {
        return DROP;
    }
    work.outer.dst = work.packet.key.src;
    match error(ctx, work, message) {
        Ok(()) => back(ctx),
        Err(Refused) => DROP,
    }
}

/// Turns the segment into its own reset (RFC 9293, 3.10.7.1). It keeps its options and data, so that its checksum can be
/// changed by what changes; a receiver ignores both on a reset. Swapping addresses and ports does not change the sum.
#[inline(never)]
fn reset(ctx: &TcContext, packet: &Packet) -> Result<(), Refused> {
    // A fragment would stay one, and never be put together.
    if packet.tcp_flags & tcp::RST != 0 || packet.part != Part::Whole {
        return Err(Refused);
    }
    let l4 = packet.l4;
    let old: [u32; 4] = load(ctx, l4 + 4).ok_or(Refused)?;
    let [sequence, acknowledged, control, _] = old;
    let offset_flags = control.to_ne_bytes();
    let mut new_control = offset_flags;
    let (new_sequence, new_acknowledged) = if packet.tcp_flags & tcp::ACK != 0 {
        new_control[1] = tcp::RST;
        (acknowledged, 0)
    } else {
        new_control[1] = tcp::RST | tcp::ACK;
        let header = u32::from(offset_flags[0] >> 4) * 4;
        let data = packet.end.saturating_sub(l4).saturating_sub(header);
        let flags = packet.tcp_flags;
        let length = data + u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
        (0, u32::from_be(sequence).wrapping_add(length).to_be())
    };
    let mut before = [sequence, acknowledged, control];
    let mut after = [
        new_sequence,
        new_acknowledged,
        u32::from_ne_bytes(new_control),
    ];
    // SAFETY: both are live and of that size.
    let diff = unsafe { bpf_csum_diff(before.as_mut_ptr(), 12, after.as_mut_ptr(), 12, 0) };
    // SAFETY: the context is valid; the kernel checks the offset.
    let result =
        unsafe { bpf_l4_csum_replace(ctx.skb.skb, l4 + 16, 0, diff as u64 & 0xffff_ffff, 0) };
    if result != 0 {
        return Err(Refused);
    }
    store(ctx, l4 + 4, &after)?;
    store(ctx, l4, &[packet.key.dport_be, packet.key.sport_be])?;
    swap_addresses(ctx, packet)?;
    start_anew(ctx, packet.v6)?;
    swap_ethernet(ctx)
}

/// The way back may be longer than what is left of the packet's time to live.
#[inline(always)]
fn start_anew(ctx: &TcContext, v6: bool) -> Result<(), Refused> {
    if v6 {
        return store_summed(ctx, L3 + 7, &TTL);
    }
    let old: u16 = load(ctx, L3 + 8).ok_or(Refused)?;
    let [_, protocol] = old.to_ne_bytes();
    replace_header_word(ctx, L3 + 8, old, u16::from_ne_bytes([TTL, protocol]))
}

/// Turns the packet into an ICMP error from and to [`Work::outer`], which quotes its headers.
#[inline(never)]
fn error(ctx: &TcContext, work: &mut Work, message: &Message) -> Result<(), Refused> {
    let (packet, quote) = (&work.packet, &mut work.headers);
    // The IP header and the start of what it carries: what a sender needs to find its socket. The kernel does not cut a
    // packet short of the checksum that is still to be filled in, which of SCTP and TCP comes late.
    let transport = match packet.key.proto {
        proto::TCP => 20,
        proto::SCTP => 12,
        _ => 8,
    };
    let quoted = u64::from(packet.l4.wrapping_sub(L3).wrapping_add(transport));
    if quoted > QUOTED as u64 {
        return Err(Refused);
    }
    // Opaque, since the compiler would make one comparison of the two, whose result the verifier cannot follow.
    let quoted = core::hint::black_box(quoted);
    if quoted < 28 {
        return Err(Refused);
    }
    *quote = [0; QUOTED / 4];
    // SAFETY: the buffer has room for `quoted` bytes; the context is valid.
    let loaded = unsafe {
        aya_ebpf::helpers::generated::bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            L3,
            quote.as_mut_ptr().cast(),
            quoted as u32,
        )
    };
    let quoted = quoted as u32;
    // SAFETY: the context is valid; the kernel checks the lengths.
    let resized = unsafe {
        bpf_skb_change_tail(ctx.skb.skb, L3 + quoted, 0)
            | bpf_skb_adjust_room(ctx.skb.skb, if packet.v6 { 48 } else { 28 }, ROOM_MAC, 0)
    };
    if loaded != 0 || resized != 0 {
        return Err(Refused);
    }
    // SAFETY: live and of that size.
    let sum = unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            quote.as_mut_ptr(),
            QUOTED as u32,
            0,
        )
    };
    let sum = u32::from(fold(sum as u64 & 0xffff_ffff));
    if packet.v6 {
        icmpv6_header(ctx, &work.outer, quoted, sum, message)?;
    } else {
        icmp_header(ctx, &work.outer, quoted, sum, message)?;
    }
    swap_ethernet(ctx)
}

#[inline(always)]
fn icmp_header(
    ctx: &TcContext,
    outer: &FlowKey,
    quoted: u32,
    sum: u32,
    message: &Message,
) -> Result<(), Refused> {
    let (src, dst) = (outer.src.to_words()[3], outer.dst.to_words()[3]);
    let length = ((28 + quoted) as u16).to_be_bytes();
    let mut ip = [
        u32::from_ne_bytes([0x45, 0, length[0], length[1]]),
        0,
        u32::from_ne_bytes([TTL, 1, 0, 0]),
        src,
        dst,
    ];
    // SAFETY: live and of that size.
    let header_sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, ip.as_mut_ptr(), 20, 0) };
    let checksum = !fold(header_sum as u64 & 0xffff_ffff);
    let [a, b] = checksum.to_ne_bytes();
    ip[2] = u32::from_ne_bytes([TTL, 1, a, b]);
    store(ctx, L3, &ip)?;
    let icmp = icmp_start(message.v4, message.word_be, sum);
    store(ctx, L3 + 20, &icmp)
}

/// The first eight bytes of an ICMP error, whose other bytes, and pseudo header if it has one, add up to `sum`.
#[inline(always)]
fn icmp_start([kind, code]: [u8; 2], word_be: u32, sum: u32) -> [u32; 2] {
    let sum =
        u64::from(u32::from_ne_bytes([kind, code, 0, 0])) + u64::from(word_be) + u64::from(sum);
    let [a, b] = (!fold(sum)).to_ne_bytes();
    [u32::from_ne_bytes([kind, code, a, b]), word_be]
}

#[inline(always)]
fn icmpv6_header(
    ctx: &TcContext,
    outer: &FlowKey,
    quoted: u32,
    sum: u32,
    message: &Message,
) -> Result<(), Refused> {
    let (src, dst) = (outer.src.to_words(), outer.dst.to_words());
    let payload = 8 + quoted;
    let length = (payload as u16).to_be_bytes();
    let ip = [
        u32::from_ne_bytes([0x60, 0, 0, 0]),
        u32::from_ne_bytes([length[0], length[1], 58, TTL]),
        src[0],
        src[1],
        src[2],
        src[3],
        dst[0],
        dst[1],
        dst[2],
        dst[3],
    ];
    store(ctx, L3, &ip)?;
    // RFC 8200, 8.1.
    let mut pseudo = [
        src[0],
        src[1],
        src[2],
        src[3],
        dst[0],
        dst[1],
        dst[2],
        dst[3],
        payload.to_be(),
        58_u32.to_be(),
    ];
    // SAFETY: live and of that size.
    let pseudo_sum =
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, pseudo.as_mut_ptr(), 40, sum) };
    let icmp = icmp_start(
        message.v6,
        message.word_be,
        fold(pseudo_sum as u64 & 0xffff_ffff).into(),
    );
    store(ctx, L3 + 40, &icmp)
}

#[inline(always)]
fn swap_addresses(ctx: &TcContext, packet: &Packet) -> Result<(), Refused> {
    let (src, dst) = (packet.key.src.to_words(), packet.key.dst.to_words());
    if packet.v6 {
        store(
            ctx,
            L3 + 8,
            &[
                dst[0], dst[1], dst[2], dst[3], src[0], src[1], src[2], src[3],
            ],
        )
    } else {
        store(ctx, L3 + 12, &[dst[3], src[3]])
    }
}

#[inline(always)]
fn swap_ethernet(ctx: &TcContext) -> Result<(), Refused> {
    let old: [u8; 12] = load(ctx, 0).ok_or(Refused)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l] = old;
    store(ctx, 0, &[g, h, i, j, k, l, a, b, c, d, e, f])
}

/// Out of the device the packet came in by.
#[inline(always)]
fn back(ctx: &TcContext) -> i32 {
    // SAFETY: the helper takes any index.
    unsafe { bpf_redirect(ifindex(ctx), 0) as i32 }
}
