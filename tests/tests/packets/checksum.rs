//! Checksums, worked out from scratch: what the programs change step by step must come to the same.

use std::net::IpAddr;

/// The Internet checksum (RFC 1071) of `parts` one after another; only the last may have an odd length.
pub(crate) fn internet(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// The pseudo header that transport checksums cover (RFC 9293, 3.1; RFC 8200, 8.1).
pub(crate) fn pseudo_header(src: IpAddr, dst: IpAddr, proto: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("a packet's length");
    let mut header = octets(src);
    header.extend(octets(dst));
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, proto]);
    header
}

/// SCTP's checksum (RFC 9260, appendix A): CRC32c, as it is written into the packet.
pub(crate) fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 {
                crc >> 1
            } else {
                (crc >> 1) ^ 0x82f6_3b78
            };
        }
    }
    (!crc).to_le_bytes()
}

/// An address's bytes.
pub(crate) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[test]
fn known_values() {
    // RFC 1071, section 3, and the check value of CRC-32/ISCSI.
    assert_eq!(
        internet(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]),
        !0xddf2
    );
    assert_eq!(crc32c(b"123456789"), 0xe306_9283_u32.to_le_bytes());
}
