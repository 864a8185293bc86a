//! IP addresses as the kernel tables hold them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address in network byte order; an IPv4 address is its v4-mapped form `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(4))]
pub struct Address(pub [u8; 16]);

#[cfg(feature = "user")]
// SAFETY: bytes only, without padding: any are a valid value.
unsafe impl aya::Pod for Address {}

const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Address {
    /// The v4-mapped form of four bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self::from_words([
            0,
            0,
            u32::from_ne_bytes([0, 0, 0xff, 0xff]),
            u32::from_ne_bytes(v4),
        ])
    }

    /// The four bytes of a v4-mapped address, in network order; `None` for a true IPv6 address.
    #[inline(always)]
    #[must_use]
    pub fn as_v4(&self) -> Option<[u8; 4]> {
        let Self([prefix @ .., a, b, c, d]) = self;
        (*prefix == V4_PREFIX).then_some([*a, *b, *c, *d])
    }

    /// The address as four words whose bytes in memory are in network order, as `bpf_sock_addr.user_ip6` has them.
    #[inline(always)]
    #[must_use]
    pub const fn to_words(self) -> [u32; 4] {
        // SAFETY: both are sixteen bytes, of which any are a valid value. In eBPF, taking them apart one by one is slow.
        unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(self.0) }
    }

    /// The reverse of [`Address::to_words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: as above.
        Self(unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) })
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.as_v4() {
            Some(v4) => Self::V4(Ipv4Addr::from(v4)),
            None => Self::V6(Ipv6Addr::from(address.0)),
        }
    }
}
