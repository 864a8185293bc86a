//! Changing addresses and ports of a packet, checksums included.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::TcContext,
};
use weir_abi::{Address, FlowKey, service::proto};

use crate::{
    packet::{L3, Packet, Part, load},
    sctp,
    work::Work,
};

/// `BPF_F_IPV6` of newer kernels: a complete checksum of an IPv6 packet stays right (Linux 6.16).
const BPF_F_IPV6: u64 = 1 << 7;

/// The kernel refused a change: the packet is half translated, and must not go on.
pub(crate) struct Refused;

/// Makes the packet one of `to`, which has the same protocol and family.
#[inline(never)]
pub(crate) fn translate(ctx: &TcContext, packet: &Packet, to: &FlowKey) -> Result<(), Refused> {
    let from = &packet.key;
    let same_ports = from.sport_be == to.sport_be && from.dport_be == to.dport_be;
    let addresses = Diff::addresses(from, to, packet.v6);
    if packet.part != Part::Later {
        if from.proto == proto::SCTP && !same_ports {
            sctp::change_ports(ctx, packet, to)?;
        }
        let (offset, flags) = match from.proto {
            proto::TCP => (packet.l4 + 16, 0),
            proto::UDP => (packet.l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
            // SCTP's checksum does not cover addresses.
            _ => (0, 0),
        };
        if offset != 0 {
            transport_checksum(ctx, offset, addresses, flags, packet.v6)?;
            if !same_ports {
                l4_csum(ctx, offset, Diff::ports(from, to), flags)?;
            }
        }
    }
    let ports = [to.sport_be, to.dport_be];
    // Without options or extensions, the ports are next to the addresses.
    let next = packet.part != Part::Later && packet.l4 == L3 + if packet.v6 { 40 } else { 20 };
    match (packet.v6, next) {
        (false, true) => {
            let before = v4_header(packet, addresses, to);
            return store(ctx, L3 + 10, &WithPorts { before, ports });
        }
        (false, false) => store(ctx, L3 + 10, &v4_header(packet, addresses, to))?,
        (true, true) => {
            let before = [to.src, to.dst];
            return store(ctx, L3 + 8, &WithPorts { before, ports });
        }
        (true, false) => store_addresses(ctx, L3, true, to)?,
    }
    if same_ports || packet.part == Part::Later {
        return Ok(());
    }
    store(ctx, packet.l4, &ports)
}

/// What lies before the ports, and the ports.
#[repr(C)]
struct WithPorts<T> {
    before: T,
    ports: [u16; 2],
}

/// The second half of an IPv4 header without options, from its checksum on: what the addresses change there is one write.
#[inline(always)]
fn v4_header(packet: &Packet, change: Diff, to: &FlowKey) -> [u16; 5] {
    let halves = |address: Address| {
        let [a, b, c, d] = address.to_words()[3].to_ne_bytes();
        [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
    };
    let ([s, r], [d, e]) = (halves(to.src), halves(to.dst));
    let checksum = !fold(u64::from(!packet.header_checksum) + change.0);
    [checksum, s, r, d, e]
}

/// Makes the packet quoted by an ICMP error one of `to`, and the error itself one from `outer_src` to `outer_dst`.
#[inline(always)]
pub(crate) fn translate_quote(ctx: &TcContext, work: &Work) -> Result<(), Refused> {
    let Work {
        packet,
        quote,
        to,
        outer,
        ..
    } = work;
    let addresses = Diff::addresses(&packet.key, to, packet.v6);
    let ports = Diff::ports(&packet.key, to);
    let ports = quoted_checksum(ctx, work, addresses, ports)?;
    let outer_from = FlowKey {
        src: quote.outer_src,
        dst: quote.outer_dst,
        ..packet.key
    };
    let outer_addresses = Diff::addresses(&outer_from, outer, packet.v6);
    let checksum = packet.l4 + 2;
    if packet.v6 {
        // The quoted header has no checksum of its own, and the outer addresses are in the pseudo header.
        l4_csum(ctx, checksum, addresses, 0)?;
        transport_checksum(ctx, checksum, outer_addresses, 0, true)?;
    } else {
        // What the quoted addresses add to the error's checksum, the quoted header's own checksum takes away.
        l3_csum(ctx, quote.l3 + 10, addresses)?;
        l3_csum(ctx, L3 + 10, outer_addresses)?;
    }
    l4_csum(ctx, checksum, ports, 0)?;
    store(ctx, quote.l4, &[to.sport_be, to.dport_be])?;
    store_addresses(ctx, quote.l3, packet.v6, to)?;
    store_addresses(ctx, L3, packet.v6, outer)
}

/// Changes the checksum of the quoted transport header, if the quote goes so far, so that the sender finds what it has sent.
/// Returns what that and the change of the ports add to the error's own checksum.
#[inline(always)]
fn quoted_checksum(
    ctx: &TcContext,
    work: &Work,
    addresses: Diff,
    ports: Diff,
) -> Result<Diff, Refused> {
    let offset = match work.packet.key.proto {
        proto::TCP => work.quote.l4 + 16,
        proto::UDP => work.quote.l4 + 6,
        _ => return Ok(ports),
    };
    let old = load::<u16>(ctx, offset).unwrap_or(0);
    if old == 0 || offset + 2 > work.packet.end {
        return Ok(ports);
    }
    let change = addresses.0 + ports.0;
    let new = match !fold(u64::from(!old) + change) {
        0 => 0xffff,
        new => new,
    };
    store(ctx, offset, &new)?;
    Ok(Diff(u64::from(fold(
        ports.0 + u64::from(new) + u64::from(!old),
    ))))
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub(crate) fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Changes two bytes of the IPv4 header at `offset`, and its checksum with them.
#[inline(always)]
pub(crate) fn replace_header_word(
    ctx: &TcContext,
    offset: u32,
    old: u16,
    new: u16,
) -> Result<(), Refused> {
    // SAFETY: the context is valid; the kernel checks the offset.
    done(unsafe { bpf_l3_csum_replace(ctx.skb.skb, L3 + 10, old.into(), new.into(), 2) })?;
    store(ctx, offset, &new)
}

/// What a change adds to a checksum (`__wsum`). Worked out here: fewer instructions than the call of a helper takes.
#[derive(Clone, Copy)]
struct Diff(u64);

impl Diff {
    #[inline(always)]
    fn addresses(from: &FlowKey, to: &FlowKey, v6: bool) -> Self {
        let (src, dst) = (from.src.to_words(), from.dst.to_words());
        let (new_src, new_dst) = (to.src.to_words(), to.dst.to_words());
        if v6 {
            Self::words(&src, &new_src).and(Self::words(&dst, &new_dst))
        } else {
            Self::words(&[src[3], dst[3]], &[new_src[3], new_dst[3]])
        }
    }

    #[inline(always)]
    fn ports(from: &FlowKey, to: &FlowKey) -> Self {
        let word = |key: &FlowKey| {
            let (s, d) = (key.sport_be.to_ne_bytes(), key.dport_be.to_ne_bytes());
            u32::from_ne_bytes([s[0], s[1], d[0], d[1]])
        };
        Self::words(&[word(from)], &[word(to)])
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Self(self.0 + other.0).folded()
    }

    #[inline(always)]
    fn words<const N: usize>(from: &[u32; N], to: &[u32; N]) -> Self {
        let mut sum = 0;
        for (from, to) in from.iter().zip(to) {
            sum += u64::from(!*from) + u64::from(*to);
        }
        Self(sum).folded()
    }

    #[inline(always)]
    fn folded(self) -> Self {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        Self((sum & 0xffff_ffff) + (sum >> 32))
    }
}

#[inline(always)]
fn store_addresses(ctx: &TcContext, l3: u32, v6: bool, to: &FlowKey) -> Result<(), Refused> {
    let (src, dst) = (to.src.to_words(), to.dst.to_words());
    if v6 {
        store(
            ctx,
            l3 + 8,
            &[
                src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3],
            ],
        )
    } else {
        store(ctx, l3 + 12, &[src[3], dst[3]])
    }
}

#[inline(always)]
fn transport_checksum(
    ctx: &TcContext,
    offset: u32,
    diff: Diff,
    flags: u64,
    v6: bool,
) -> Result<(), Refused> {
    let flags = flags | u64::from(BPF_F_PSEUDO_HDR);
    if v6 && l4_csum(ctx, offset, diff, flags | BPF_F_IPV6).is_ok() {
        return Ok(());
    }
    l4_csum(ctx, offset, diff, flags)
}

#[inline(always)]
fn l4_csum(ctx: &TcContext, offset: u32, diff: Diff, flags: u64) -> Result<(), Refused> {
    // SAFETY: the context is valid; the kernel checks the offset.
    done(unsafe { bpf_l4_csum_replace(ctx.skb.skb, offset, 0, diff.0, flags) })
}

#[inline(always)]
fn l3_csum(ctx: &TcContext, offset: u32, diff: Diff) -> Result<(), Refused> {
    // SAFETY: as above.
    done(unsafe { bpf_l3_csum_replace(ctx.skb.skb, offset, 0, diff.0, 0) })
}

/// Writes a value into the packet, checksums aside.
#[inline(always)]
pub(crate) fn store<T>(ctx: &TcContext, offset: u32, value: &T) -> Result<(), Refused> {
    store_with(ctx, offset, value, 0)
}

/// Writes a value that no checksum in the packet covers: a sum that the device made over the whole packet is corrected.
#[inline(always)]
pub(crate) fn store_summed<T>(ctx: &TcContext, offset: u32, value: &T) -> Result<(), Refused> {
    store_with(ctx, offset, value, u64::from(BPF_F_RECOMPUTE_CSUM))
}

#[inline(always)]
fn store_with<T>(ctx: &TcContext, offset: u32, value: &T, flags: u64) -> Result<(), Refused> {
    // SAFETY: the value is live and of that size; the kernel checks the offset.
    done(unsafe {
        bpf_skb_store_bytes(
            ctx.skb.skb,
            offset,
            core::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
            flags,
        )
    })
}

#[inline(always)]
fn done(result: i64) -> Result<(), Refused> {
    if result == 0 { Ok(()) } else { Err(Refused) }
}
