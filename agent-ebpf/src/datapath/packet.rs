//! Parsing: options and extension headers are walked, not skipped over, and nothing is trusted that was not read.

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use weir_abi::{Address, FlowKey, service::proto};

use crate::work::Work;

/// Offset of the IP header: every device Weir attaches to has Ethernet headers.
pub(crate) const L3: u32 = 14;

const ETH_P_IP: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// IPv6 extension headers (RFC 8200), by their protocol numbers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
/// More of them in one packet than any sender has a reason for.
const MAX_EXTENSIONS: usize = 8;

/// A packet of interest.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    /// Addresses, ports and protocol. Of an ICMP error: those of the packet that it quotes.
    pub(crate) key: FlowKey,
    /// Offset of the transport header.
    pub(crate) l4: u32,
    /// Offset of the packet's end by its IP header: short frames are padded beyond it.
    pub(crate) end: u32,
    /// Which part of a fragmented datagram this is.
    pub(crate) part: Part,
    /// Identification of a fragmented datagram.
    pub(crate) fragment_id_be: u32,
    /// The checksum of an IPv4 header, as it is in memory.
    pub(crate) header_checksum: u16,
    /// Flags of a TCP header.
    pub(crate) tcp_flags: u8,
    /// Whether this is IPv6.
    pub(crate) v6: bool,
}

impl Packet {
    /// Whether it asks for a TCP connection.
    #[inline(always)]
    pub(crate) const fn opens(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The fragment that has the transport header.
    First,
    /// Another fragment: it has no ports.
    Later,
}

/// What a packet turned out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP, UDP or SCTP.
    Transport,
    /// One of them, which ends before its header does. There are no ports.
    Malformed,
    /// An ICMP error that quotes such a packet.
    IcmpError,
    /// Anything else.
    Other,
}

/// The packet quoted by an ICMP error. Its key is the [`Packet`]'s.
#[derive(Clone, Copy)]
pub(crate) struct Quote {
    /// The error's own source.
    pub(crate) outer_src: Address,
    /// The error's own destination.
    pub(crate) outer_dst: Address,
    /// Offset of the quoted IP header.
    pub(crate) l3: u32,
    /// Offset of the quoted transport header.
    pub(crate) l4: u32,
}

/// `TH_*` of RFC 9293, 3.1.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;
}

/// An IP header, as far as it concerns us.
#[derive(Clone, Copy)]
struct Ip {
    src: Address,
    dst: Address,
    proto: u8,
    l4: u32,
    end: u32,
    part: Part,
    id_be: u32,
    checksum: u16,
}

/// Parses a packet into `work`.
#[inline(never)]
pub(crate) fn parse(ctx: &TcContext, work: &mut Work) -> Kind {
    let v6 = match u32::from(u16::from_be(protocol_be(ctx))) {
        ETH_P_IP => false,
        ETH_P_IPV6 => true,
        _ => return Kind::Other,
    };
    // A VLAN on top of this device, which has hooks of its own if it concerns us.
    if vlan_present(ctx) {
        return Kind::Other;
    }
    let Some(ip) = ip(ctx, L3, v6) else {
        return Kind::Other;
    };
    match ip.proto {
        proto::TCP | proto::UDP | proto::SCTP => transport(ctx, work, &ip, v6),
        ICMP if !v6 => icmp(ctx, work, &ip, false),
        ICMPV6 if v6 => icmp(ctx, work, &ip, true),
        _ => Kind::Other,
    }
}

#[inline(always)]
fn transport(ctx: &TcContext, work: &mut Work, ip: &Ip, v6: bool) -> Kind {
    set(&mut work.packet, ip, v6);
    let packet = &mut work.packet;
    if packet.end == L3 {
        // Too long for the field (RFC 2675, and what the kernel aggregates).
        packet.end = ctx.len();
    }
    if ip.part == Part::Later {
        return Kind::Transport;
    }
    let header = match ip.proto {
        proto::TCP => 20,
        proto::UDP => 8,
        _ => 12,
    };
    if ip.l4 + header > packet.end || ip.l4 + header > ctx.len() {
        return Kind::Malformed;
    }
    let ports = if ip.proto == proto::TCP {
        let Some(start) = load::<[u16; 7]>(ctx, ip.l4) else {
            return Kind::Malformed;
        };
        packet.tcp_flags = start[6].to_ne_bytes()[1];
        [start[0], start[1]]
    } else {
        let Some(ports) = load::<[u16; 2]>(ctx, ip.l4) else {
            return Kind::Malformed;
        };
        ports
    };
    packet.key.sport_be = ports[0];
    packet.key.dport_be = ports[1];
    Kind::Transport
}

#[inline(always)]
fn icmp(ctx: &TcContext, work: &mut Work, ip: &Ip, v6: bool) -> Kind {
    if ip.part == Part::Later {
        return Kind::Other;
    }
    let Some(kind) = load::<u8>(ctx, ip.l4) else {
        return Kind::Other;
    };
    // RFC 792: destination unreachable, time exceeded, parameter problem. RFC 4443: everything below 128 is an error.
    let error = if v6 {
        kind < 128
    } else {
        matches!(kind, 3 | 11 | 12)
    };
    if !error {
        return Kind::Other;
    }
    work.quote.outer_src = ip.src;
    work.quote.outer_dst = ip.dst;
    let (l3, l4) = (ip.l4 + 8, ip.l4);
    let Some(quoted) = self::ip(ctx, l3, v6) else {
        return Kind::Other;
    };
    if quoted.part == Part::Later || !matches!(quoted.proto, proto::TCP | proto::UDP | proto::SCTP)
    {
        return Kind::Other;
    }
    let Some(ports) = load::<[u16; 2]>(ctx, quoted.l4) else {
        return Kind::Other;
    };
    set(&mut work.packet, &quoted, v6);
    work.packet.l4 = l4;
    work.packet.end = ip.end;
    work.packet.key.sport_be = ports[0];
    work.packet.key.dport_be = ports[1];
    work.quote.l3 = l3;
    work.quote.l4 = quoted.l4;
    Kind::IcmpError
}

/// Only the reserved bytes are not written: they are zero from the beginning.
#[inline(always)]
fn set(packet: &mut Packet, ip: &Ip, v6: bool) {
    packet.key.src = ip.src;
    packet.key.dst = ip.dst;
    packet.key.sport_be = 0;
    packet.key.dport_be = 0;
    packet.key.proto = ip.proto;
    packet.l4 = ip.l4;
    packet.end = ip.end;
    packet.part = ip.part;
    packet.fragment_id_be = ip.id_be;
    packet.header_checksum = ip.checksum;
    packet.tcp_flags = 0;
    packet.v6 = v6;
}

#[inline(always)]
fn ip(ctx: &TcContext, l3: u32, v6: bool) -> Option<Ip> {
    if v6 { ipv6(ctx, l3) } else { ipv4(ctx, l3) }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, l3: u32) -> Option<Ip> {
    let header = load::<[u32; 5]>(ctx, l3)?;
    let [first, _, high, low] = header[0].to_ne_bytes();
    let length = u32::from(first & 0xf) * 4;
    if first >> 4 != 4 || length < 20 {
        return None;
    }
    let [id_high, id_low, flags_high, flags_low] = header[1].to_ne_bytes();
    let fragment = u16::from_be_bytes([flags_high, flags_low]);
    let (offset, more) = (fragment & 0x1fff, fragment & 0x2000 != 0);
    let [_, proto, sum_high, sum_low] = header[2].to_ne_bytes();
    Some(Ip {
        src: Address::from_v4(header[3].to_ne_bytes()),
        dst: Address::from_v4(header[4].to_ne_bytes()),
        proto,
        l4: l3 + length,
        end: l3 + u32::from(u16::from_be_bytes([high, low])),
        part: part(offset, more),
        id_be: u32::from(u16::from_ne_bytes([id_high, id_low])),
        checksum: u16::from_ne_bytes([sum_high, sum_low]),
    })
}

#[inline(always)]
fn ipv6(ctx: &TcContext, l3: u32) -> Option<Ip> {
    let header = load::<[u32; 10]>(ctx, l3)?;
    let first = header[0].to_ne_bytes()[0];
    let [high, low, proto, _] = header[1].to_ne_bytes();
    let payload = u32::from(u16::from_be_bytes([high, low]));
    if first >> 4 != 6 {
        return None;
    }
    let mut ip = Ip {
        src: Address::from_words([header[2], header[3], header[4], header[5]]),
        dst: Address::from_words([header[6], header[7], header[8], header[9]]),
        proto,
        l4: l3 + 40,
        // None at all means that it is too long for the field.
        end: if payload == 0 { l3 } else { l3 + 40 + payload },
        part: Part::Whole,
        id_be: 0,
        checksum: 0,
    };
    for _ in 0..MAX_EXTENSIONS {
        let length = match ip.proto {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY => {
                let extension = load::<[u8; 4]>(ctx, ip.l4)?;
                // With segments left, the destination is only the next stop, and no checksum covers it.
                if ip.proto == ROUTING && extension[3] != 0 {
                    return None;
                }
                ip.proto = extension[0];
                (u32::from(extension[1]) + 1) * 8
            }
            AUTHENTICATION => {
                let extension = load::<[u8; 2]>(ctx, ip.l4)?;
                ip.proto = extension[0];
                (u32::from(extension[1]) + 2) * 4
            }
            FRAGMENT => {
                let extension = load::<[u8; 8]>(ctx, ip.l4)?;
                let fragment = u16::from_be_bytes([extension[2], extension[3]]);
                ip.proto = extension[0];
                ip.part = part(fragment >> 3, fragment & 1 != 0);
                ip.id_be =
                    u32::from_ne_bytes([extension[4], extension[5], extension[6], extension[7]]);
                // What follows in a later fragment is data, whatever it looks like.
                if ip.part == Part::Later {
                    return Some(ip);
                }
                8
            }
            _ => return Some(ip),
        };
        ip.l4 += length;
    }
    None
}

#[inline(always)]
fn part(offset: u16, more: bool) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    }
}

/// Reads a value at an offset of the packet, wherever it lies in the socket buffer.
#[inline(always)]
pub(crate) fn load<T: Copy>(ctx: &TcContext, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper fills the whole value, or fails.
    let result = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            offset,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: filled; only used for integers and arrays of them.
    Some(unsafe { value.assume_init() })
}

#[inline(always)]
fn vlan_present(ctx: &TcContext) -> bool {
    // SAFETY: the kernel hands a valid context to the hook.
    unsafe { (&raw const (*ctx.skb.skb).vlan_present).read_volatile() != 0 }
}

#[inline(always)]
fn protocol_be(ctx: &TcContext) -> u16 {
    // SAFETY: the kernel hands a valid context to the hook.
    unsafe { (&raw const (*ctx.skb.skb).protocol).read_volatile() as u16 }
}
