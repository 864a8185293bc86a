//! Who may come in through a load balancer: `spec.loadBalancerSourceRanges`.

use std::net::{IpAddr, Ipv6Addr};

use weir_abi::{Address, SourceRangeKey};

use crate::model::{Cidr, Family, Service};
use crate::state::Cluster;

/// A prefix of source addresses that are let in, as `SOURCE_RANGES` has it; the bits below its length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// The first address.
    pub addr: Address,
    /// How many leading bits of [`SourceRange::addr`] are fixed, 0 to 128: 96 more than in an IPv4 CIDR.
    pub prefix_len: u32,
}

/// The bits of a [`SourceRangeKey`] before the address.
const ID_BITS: u32 = 32;
const MAPPED_BITS: u32 = 96;

impl SourceRange {
    /// Its key in `SOURCE_RANGES` for the service port with that id, and the key's prefix length, which counts the id's
    /// bits too.
    #[must_use]
    pub fn key(&self, id: u32) -> (SourceRangeKey, u32) {
        let addr = self.addr;
        (SourceRangeKey { id, addr }, ID_BITS + self.prefix_len)
    }

    /// The service port's id and the range that a key stands for, with the bits below the prefix length cleared; `None`
    /// if the prefix does not even cover the id, or is longer than a key.
    #[must_use]
    pub fn of_key(key: &SourceRangeKey, prefix_len: u32) -> Option<(u32, Self)> {
        let prefix_len = prefix_len.checked_sub(ID_BITS).filter(|len| *len <= 128)?;
        Some((key.id, Self::masked(key.addr.0, prefix_len)))
    }

    fn masked(addr: [u8; 16], prefix_len: u32) -> Self {
        let mask = u128::MAX.checked_shl(128 - prefix_len).unwrap_or(0);
        Self {
            addr: Address((u128::from_be_bytes(addr) & mask).to_be_bytes()),
            prefix_len,
        }
    }

    fn bits(&self) -> u128 {
        u128::from_be_bytes(self.addr.0)
    }
}

impl From<Cidr> for SourceRange {
    fn from(cidr: Cidr) -> Self {
        let before = if cidr.addr.is_ipv4() { MAPPED_BITS } else { 0 };
        Self {
            addr: cidr.addr.into(),
            prefix_len: before + u32::from(cidr.prefix_len),
        }
    }
}

/// Who may come in through the load balancer addresses of a service.
#[derive(Debug, Default)]
pub(super) struct Guard {
    v4: Vec<Cidr>,
    v6: Vec<Cidr>,
}

impl Guard {
    /// The guard of a service, as kube-proxy has it (`pkg/proxy/nftables/proxier.go`, firewall chains): a family of
    /// which there is no range is not guarded. If this node's own address is in a range, the load balancer's addresses
    /// may come too: they are often addresses of the node's own interfaces, and then what the node sends there has them
    /// as its source.
    pub(super) fn of(cluster: &Cluster, service: &Service) -> Self {
        let of_family = |family| {
            let balancers = service.load_balancer_ips.iter().copied();
            let balancers: Vec<IpAddr> = balancers.filter(|ip| Family::of(ip) == family).collect();
            if balancers.is_empty() {
                return Vec::new();
            }
            let ranges = service.source_ranges.iter().copied();
            let mut ranges: Vec<Cidr> = ranges.filter(|r| Family::of(&r.addr) == family).collect();
            let node = cluster
                .this_node()
                .and_then(|node| node.primary_address(family));
            if node.is_some_and(|node| ranges.iter().any(|range| range.contains(node))) {
                ranges.extend(balancers.into_iter().map(Cidr::of_host));
            }
            ranges
        };
        Self {
            v4: of_family(Family::V4),
            v6: of_family(Family::V6),
        }
    }

    /// Whether only some may come to addresses of a family.
    pub(super) fn guards(&self, family: Family) -> bool {
        match family {
            Family::V4 => !self.v4.is_empty(),
            Family::V6 => !self.v6.is_empty(),
        }
    }

    /// Those who may, sorted, each once.
    ///
    /// In the table IPv4 is a part of IPv6 (`::ffff:0:0/96`), so an IPv6 prefix around it would let in everybody of
    /// IPv4. Where that matters such a prefix gives way to the prefixes that make up the rest of it.
    pub(super) fn ranges(&self) -> Vec<SourceRange> {
        let everybody_of_v4 = self.v4.is_empty() || self.v4.iter().any(|cidr| cidr.prefix_len == 0);
        let mut ranges: Vec<SourceRange> = self.v4.iter().copied().map(SourceRange::from).collect();
        for range in self.v6.iter().copied().map(SourceRange::from) {
            if everybody_of_v4 {
                ranges.push(range);
            } else {
                push_without_v4(range, &mut ranges);
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    }
}

/// Adds a range of IPv6 but for the IPv4 addresses in it.
fn push_without_v4(range: SourceRange, ranges: &mut Vec<SourceRange>) {
    let mapped = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0));
    let IpAddr::V6(mapped) = mapped else { return };
    let covers = range.prefix_len <= MAPPED_BITS
        && SourceRange::masked(mapped.octets(), range.prefix_len).bits() == range.bits();
    if !covers {
        ranges.push(range);
        return;
    }
    // On the way down to the mapped prefix, the half that is not on the way stays in.
    for prefix_len in range.prefix_len + 1..=MAPPED_BITS {
        let sibling = mapped.to_bits() ^ (1 << (128 - prefix_len));
        ranges.push(SourceRange::masked(sibling.to_be_bytes(), prefix_len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        let (addr, prefix_len) = text.split_once('/').expect("a CIDR");
        Cidr {
            addr: addr.parse().expect("an address"),
            prefix_len: prefix_len.parse().expect("a length"),
        }
    }

    fn guard(v4: &[&str], v6: &[&str]) -> Guard {
        let cidrs = |texts: &[&str]| texts.iter().map(|text| cidr(text)).collect();
        Guard {
            v4: cidrs(v4),
            v6: cidrs(v6),
        }
    }

    /// Whether the table would let an address in: longest prefix match, any match is a yes.
    fn lets_in(ranges: &[SourceRange], addr: &str) -> bool {
        let addr = Address::from(addr.parse::<IpAddr>().expect("an address"));
        let matches = |range: &SourceRange| SourceRange::masked(addr.0, range.prefix_len) == *range;
        ranges.iter().any(matches)
    }

    #[test]
    fn each_family_lets_in_its_own() {
        let ranges = guard(&["10.0.0.0/8", "192.0.2.1/32"], &["2001:db8::/32"]).ranges();
        assert_eq!(ranges.len(), 3);
        for (addr, expected) in [
            ("10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(lets_in(&ranges, addr), expected, "{addr}");
        }
    }

    #[test]
    fn everybody_of_ipv6_is_nobody_of_ipv4() {
        for v6 in ["::/0", "::/1", "::/64", "::/80", "::ffff:0:0/95", "::/95"] {
            let ranges = guard(&["10.0.0.0/8"], &[v6]).ranges();
            assert!(lets_in(&ranges, "10.0.0.1"), "{v6}");
            assert!(!lets_in(&ranges, "11.0.0.1"), "{v6}");
            assert!(!lets_in(&ranges, "0.0.0.0") && !lets_in(&ranges, "255.255.255.255"));
            let whole = cidr(v6);
            for addr in [
                "::1",
                "::fffe:0:1",
                "::fffe:ffff:ffff",
                "::1:0:0:0",
                "1::1",
                "ffff::",
            ] {
                let expected = whole.contains(addr.parse().expect("an address"));
                assert_eq!(lets_in(&ranges, addr), expected, "{v6} {addr}");
            }
        }
        // Where all of IPv4 may come anyway, or is not guarded, nothing needs to be taken apart.
        assert_eq!(guard(&["0.0.0.0/0"], &["::/0"]).ranges().len(), 2);
        assert_eq!(guard(&[], &["::/0"]).ranges().len(), 1);
        assert_eq!(guard(&["10.0.0.0/8"], &["2000::/3"]).ranges().len(), 2);
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let range = SourceRange::from(cidr("10.0.0.0/8"));
        let (key, prefix_len) = range.key(7);
        assert_eq!(prefix_len, 32 + 96 + 8);
        assert_eq!(SourceRange::of_key(&key, prefix_len), Some((7, range)));
        let mut unmasked = key;
        unmasked.addr.0[15] = 9;
        assert_eq!(SourceRange::of_key(&unmasked, prefix_len), Some((7, range)));
        assert_eq!(SourceRange::of_key(&key, 31), None);
        assert_eq!(SourceRange::of_key(&key, 161), None);
        let everybody = SourceRange::of_key(&key, 32).expect("all of one id");
        assert_eq!((everybody.1.prefix_len, everybody.1.bits()), (0, 0));
    }
}
