//! Packets as people think of them, made into frames with every length and checksum right.
//!
//! A test says what goes in and what it expects to come out, both as [`Packet`]s; frames are compared byte for byte, so that
//! every field and checksum counts.

use std::net::IpAddr;

use crate::checksum::{crc32c, internet, octets, pseudo_header};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// Of the Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    /// Destination and source.
    pub(crate) mac: [[u8; 6]; 2],
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    /// IPv4 identification.
    pub(crate) id: u16,
    /// IPv4 options: a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers: their number, and all of them behind the first byte, which is filled in.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) body: Body,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Tcp {
        ports: [u16; 2],
        seq: u32,
        ack: u32,
        flags: u8,
        options: Vec<u8>,
        data: Vec<u8>,
    },
    /// Without a checksum, if the sender wants none.
    Udp {
        ports: [u16; 2],
        summed: bool,
        data: Vec<u8>,
    },
    Sctp {
        ports: [u16; 2],
        data: Vec<u8>,
    },
    /// Type and code, the word behind the checksum, and what is quoted.
    Icmp {
        kind: [u8; 2],
        word: u32,
        quote: Vec<u8>,
    },
    /// Whatever else.
    Raw(u8, Vec<u8>),
}

impl Packet {
    /// A packet of `proto` with 24 bytes of data; of TCP a SYN with the options that Linux sends.
    pub(crate) fn new(proto: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        let ports = [src.1, dst.1];
        let data: Vec<u8> = (1..=24).collect();
        let body = match proto {
            TCP => Body::Tcp {
                ports,
                seq: 0x0102_0304,
                ack: 0,
                flags: SYN,
                options: vec![
                    2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
                ],
                data: Vec::new(),
            },
            UDP => Body::Udp {
                ports,
                summed: true,
                data,
            },
            SCTP => Body::Sctp { ports, data },
            other => Body::Raw(other, data),
        };
        Self {
            mac: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]],
            src: src.0,
            dst: dst.0,
            ttl: 60,
            id: 0x4711,
            options: Vec::new(),
            extensions: Vec::new(),
            body,
        }
    }

    /// A segment of an established TCP connection.
    pub(crate) fn segment(mut self, with: u8, payload: &[u8]) -> Self {
        if let Body::Tcp {
            ack,
            flags,
            options,
            data,
            ..
        } = &mut self.body
        {
            (*ack, *flags, *data) = (0x0a0b_0c0d, with, payload.to_vec());
            options.truncate(0);
        }
        self
    }

    /// The same packet from elsewhere.
    pub(crate) fn from(mut self, (addr, port): (IpAddr, u16)) -> Self {
        self.src = addr;
        self.ports_mut()[0] = port;
        self
    }

    /// The same packet to elsewhere.
    pub(crate) fn to(mut self, (addr, port): (IpAddr, u16)) -> Self {
        self.dst = addr;
        self.ports_mut()[1] = port;
        self
    }

    /// The same packet one hop further.
    pub(crate) fn hop(mut self) -> Self {
        self.ttl -= 1;
        self
    }

    /// A packet the other way.
    pub(crate) fn answer(mut self) -> Self {
        std::mem::swap(&mut self.src, &mut self.dst);
        self.ports_mut().swap(0, 1);
        self
    }

    fn ports_mut(&mut self) -> &mut [u16; 2] {
        match &mut self.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } | Body::Sctp { ports, .. } => ports,
            other => panic!("{other:?} has no ports"),
        }
    }

    fn v6(&self) -> bool {
        self.dst.is_ipv6()
    }

    /// The whole frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let (proto, payload) = self.payload();
        self.framed(proto, &payload, 0)
    }

    /// The IP packet alone, as an ICMP error quotes it.
    pub(crate) fn quoted(&self, transport_bytes: usize) -> Vec<u8> {
        let headers = self.frame().len() - ETHERNET - self.payload().1.len();
        self.frame()[ETHERNET..ETHERNET + headers + transport_bytes].to_vec()
    }

    /// The datagram cut into frames of at most `size` bytes of payload, a multiple of eight.
    pub(crate) fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let (proto, payload) = self.payload();
        let pieces: Vec<&[u8]> = payload.chunks(size).collect();
        let last = pieces.len() - 1;
        let frame = |(index, piece): (usize, &&[u8])| {
            let offset = u16::try_from(index * size / 8).expect("a fragment's offset");
            let more = u16::from(index < last);
            if !self.v6() {
                return self.framed(proto, piece, offset | more << 13);
            }
            let mut packet = self.clone();
            let mut fragment = vec![0];
            fragment.extend((offset << 3 | more).to_be_bytes());
            fragment.extend([0xca, 0xfe, 0xba, 0xbe]);
            packet.extensions.push((FRAGMENT, fragment));
            packet.framed(proto, piece, 0)
        };
        pieces.iter().enumerate().map(frame).collect()
    }

    fn framed(&self, proto: u8, payload: &[u8], fragment: u16) -> Vec<u8> {
        let mut frame = self.mac.concat();
        if self.v6() {
            frame.extend([0x86, 0xdd]);
            frame.extend(self.ipv6(proto, payload.len()));
        } else {
            frame.extend([0x08, 0x00]);
            frame.extend(self.ipv4(proto, payload.len(), fragment));
        }
        frame.extend(payload);
        frame
    }

    fn ipv4(&self, proto: u8, payload: usize, fragment: u16) -> Vec<u8> {
        let length = 20 + self.options.len();
        let words = u8::try_from(length / 4).expect("options fit");
        let total = u16::try_from(length + payload).expect("a packet's length");
        let mut header = vec![0x40 | words, 0];
        header.extend(total.to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, proto, 0, 0]);
        header.extend(octets(self.src));
        header.extend(octets(self.dst));
        header.extend(&self.options);
        let checksum = internet(&[&header]);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6(&self, proto: u8, payload: usize) -> Vec<u8> {
        let mut numbers = self.extensions.iter().map(|(number, _)| *number);
        let first = numbers.next().unwrap_or(proto);
        let mut tail = Vec::new();
        for (_, bytes) in &self.extensions {
            tail.push(numbers.next().unwrap_or(proto));
            tail.extend(bytes);
        }
        let length = u16::try_from(tail.len() + payload).expect("a packet's length");
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([first, self.ttl]);
        header.extend(octets(self.src));
        header.extend(octets(self.dst));
        header.extend(tail);
        header
    }

    /// The protocol's number, and header and data of it.
    fn payload(&self) -> (u8, Vec<u8>) {
        match &self.body {
            Body::Tcp {
                ports,
                seq,
                ack,
                flags,
                options,
                data,
            } => {
                let words = u8::try_from(5 + options.len() / 4).expect("options fit");
                let mut bytes = ports.map(u16::to_be_bytes).concat();
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                bytes.extend([words << 4, *flags, 0xfa, 0xf0, 0, 0, 0, 0]);
                bytes.extend(options);
                bytes.extend(data);
                (TCP, self.summed(TCP, bytes, 16))
            }
            Body::Udp {
                ports,
                summed,
                data,
            } => {
                let length = u16::try_from(8 + data.len()).expect("a datagram's length");
                let mut bytes = ports.map(u16::to_be_bytes).concat();
                bytes.extend(length.to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(data);
                (
                    UDP,
                    if *summed {
                        self.summed(UDP, bytes, 6)
                    } else {
                        bytes
                    },
                )
            }
            Body::Sctp { ports, data } => {
                let mut bytes = ports.map(u16::to_be_bytes).concat();
                bytes.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0]);
                bytes.extend(data);
                let checksum = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&checksum);
                (SCTP, bytes)
            }
            Body::Icmp { kind, word, quote } => {
                let mut bytes = kind.to_vec();
                bytes.extend([0, 0]);
                bytes.extend(word.to_be_bytes());
                bytes.extend(quote);
                if self.v6() {
                    return (ICMPV6, self.summed(ICMPV6, bytes, 2));
                }
                let checksum = internet(&[&bytes]);
                bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
                (ICMP, bytes)
            }
            Body::Raw(proto, bytes) => (*proto, bytes.clone()),
        }
    }

    fn summed(&self, proto: u8, mut bytes: Vec<u8>, offset: usize) -> Vec<u8> {
        let pseudo = pseudo_header(self.src, self.dst, proto, bytes.len());
        let mut checksum = internet(&[&pseudo, &bytes]);
        if checksum == 0 && proto == UDP {
            checksum = 0xffff;
        }
        bytes[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// The ports of a frame whose IP header has no options and extensions.
pub(crate) fn ports(frame: &[u8]) -> [u16; 2] {
    let transport = ETHERNET + if frame[12] == 0x86 { 40 } else { 20 };
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    [port(transport), port(transport + 2)]
}

/// Extension headers, as [`Packet::extensions`] has them.
pub(crate) fn extension(number: u8) -> (u8, Vec<u8>) {
    match number {
        // Four bytes of header less the next protocol's number, the rest to a multiple of four: see RFC 4302.
        AUTHENTICATION => (number, [&[4, 0, 0][..], &[7; 20]].concat()),
        // Of the routing header: type 4, no segments left.
        43 => (number, vec![0, 4, 0, 0, 0, 0, 0]),
        // Padding (PadN) is an option that everybody knows.
        _ => (number, [&[1, 1, 12][..], &[0; 12]].concat()),
    }
}
