//! SCTP's checksum, CRC32c (RFC 9260, 6.8): it covers the ports, and no incremental change of it is a helper's job.
//!
//! A CRC is linear: the checksums of two packets that differ in four bytes differ by those bytes' difference, advanced by as
//! many zero bytes as there are to the packet's end. To advance by 2^k bytes is a multiplication by a constant matrix.

use aya_ebpf::programs::TcContext;
use weir_abi::FlowKey;

use crate::{
    packet::{Packet, Part, load},
    rewrite::{Refused, store},
};

/// The polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// An IP packet has fewer than 2^16 bytes.
const POWERS: usize = 16;

/// `ADVANCE[k][n][v]`: the four bits v at the nibble n, advanced by 2^k bytes.
static ADVANCE: [Matrix; POWERS] = advance();
type Matrix = [[u32; 16]; 8];

const fn advance() -> [Matrix; POWERS] {
    let mut table = [[[0; 16]; 8]; POWERS];
    let mut power = 0;
    while power < POWERS {
        let mut entry = 0;
        while entry < 8 * 16 {
            let (nibble, value) = (entry / 16, entry % 16);
            let bits = (value as u32) << (4 * nibble);
            table[power][nibble][value] = if power == 0 {
                next_byte(bits)
            } else {
                let half = &table[power - 1];
                multiply(half, multiply(half, bits))
            };
            entry += 1;
        }
        power += 1;
    }
    table
}

const fn next_byte(mut crc: u32) -> u32 {
    let mut bit = 0;
    while bit < 8 {
        crc = (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
        bit += 1;
    }
    crc
}

#[inline(always)]
const fn multiply(matrix: &Matrix, vector: u32) -> u32 {
    let mut product = 0;
    let mut nibble = 0;
    while nibble < 8 {
        product ^= matrix[nibble][(vector >> (4 * nibble)) as usize & 15];
        nibble += 1;
    }
    product
}

/// Changes the checksum of a packet whose ports become those of `to`. That of a fragmented one cannot be: it is the whole
/// packet's, whose length the first fragment does not tell.
#[inline(never)]
pub(crate) fn change_ports(ctx: &TcContext, packet: &Packet, to: &FlowKey) -> Result<(), Refused> {
    if packet.part != Part::Whole {
        return Err(Refused);
    }
    let old: u32 = load(ctx, packet.l4 + 8).ok_or(Refused)?;
    // The device is to fill it in, over whatever the packet will be.
    if old == 0 {
        return Ok(());
    }
    let from = &packet.key;
    let difference = |a: u16, b: u16| (a ^ b).to_ne_bytes();
    let [a, b] = difference(from.sport_be, to.sport_be);
    let [c, d] = difference(from.dport_be, to.dport_be);
    let change = advanced(
        u32::from_le_bytes([a, b, c, d]),
        packet.end.wrapping_sub(packet.l4),
    );
    store(ctx, packet.l4 + 8, &(u32::from_le(old) ^ change).to_le())
}

#[inline(always)]
fn advanced(mut crc: u32, bytes: u32) -> u32 {
    for (power, matrix) in ADVANCE.iter().enumerate() {
        // Without a branch: the verifier would follow both ways of each of them.
        let wanted = core::hint::black_box(0_u32.wrapping_sub((bytes >> power) & 1));
        crc = (multiply(matrix, crc) & wanted) | (crc & !wanted);
    }
    crc
}
