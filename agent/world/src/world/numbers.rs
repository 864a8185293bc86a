//! Addresses and identifiers given to pods.

use std::collections::BTreeSet;

use crate::address::{FIRST_POD, LAST_POD};
use crate::error::{Error, Result};

/// Host parts of the pod addresses of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct HostNumbers {
    taken: BTreeSet<u8>,
    had: BTreeSet<u8>,
}

impl HostNumbers {
    pub(super) fn take(&mut self, host: u8) -> Result<()> {
        if !(FIRST_POD..=LAST_POD).contains(&host) {
            return Err(Error::Refused(format!(
                "host part {host} is not between {FIRST_POD} and {LAST_POD}"
            )));
        }
        self.had.insert(host);
        if self.taken.insert(host) {
            Ok(())
        } else {
            Err(Error::Refused(format!(
                "two pods of a node ask for host part {host}"
            )))
        }
    }

    /// The lowest one that no pod has had; when all have been had, the lowest free one.
    pub(super) fn take_any(&mut self) -> Result<u8> {
        let lowest_outside =
            |set: &BTreeSet<u8>| (FIRST_POD..=LAST_POD).find(|host| !set.contains(host));
        let host = lowest_outside(&self.had)
            .or_else(|| lowest_outside(&self.taken))
            .ok_or_else(|| {
                Error::Refused(format!("a node has at most {LAST_POD} addresses of pods"))
            })?;
        self.take(host).map(|()| host)
    }

    pub(super) fn free(&mut self, host: u8) {
        self.taken.remove(&host);
    }
}

/// UIDs of pods and ids of containers: no two worlds share one.
#[derive(Debug)]
pub(super) struct Identifiers(u64);

impl Identifiers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The splitmix64 sequence: consecutive seeds give unrelated numbers.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A version 4 UUID.
    pub(super) fn uid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 48) & 0x3fff,
            low & 0xffff_ffff_ffff,
        )
    }

    /// A container's id: 64 hexadecimal digits.
    pub(super) fn container(&mut self) -> String {
        (0..4).map(|_| format!("{:016x}", self.next())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_reused_only_when_asked_or_when_none_is_left() {
        let mut hosts = HostNumbers::default();
        assert_eq!(hosts.take_any().ok(), Some(2));
        hosts.free(2);
        assert_eq!(hosts.take_any().ok(), Some(3));
        assert!(hosts.take(2).is_ok());
        assert!(hosts.take(3).is_err());
        for _ in 4..=LAST_POD {
            assert!(hosts.take_any().is_ok());
        }
        assert!(hosts.take_any().is_err());
        hosts.free(77);
        assert_eq!(hosts.take_any().ok(), Some(77));
    }

    #[test]
    fn a_uid_is_a_uuid() {
        let mut identifiers = Identifiers::new(7);
        let uid = identifiers.uid();
        let lengths: Vec<usize> = uid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_ne!(uid, identifiers.uid());
        assert_eq!(identifiers.container().len(), 64);
    }
}
