//! Parsers of the notations that the API uses inside strings.

use std::net::IpAddr;

/// An address prefix; the bits below the prefix length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The first address.
    pub addr: IpAddr,
    /// How many leading bits are fixed: 0 to 32, or 0 to 128.
    pub prefix_len: u8,
}
