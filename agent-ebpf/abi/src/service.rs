//! The service tables: `SERVICES` (hash), `SLOTS` and `BACKENDS` (mmap-able arrays).
//!
//! A packet or connect costs one hash lookup and two array reads, however many services there are.

use crate::{Address, Verdict, crosses_the_border};

/// Where the one who asks stands, as far as traffic policy is concerned. All policy and topology decisions are taken
/// in user space; the kernel only says which of the two views of a frontend it wants.
pub mod scope {
    /// This node's pods and the node itself.
    pub const INTERNAL: u8 = 0;
    /// Everything that comes in over the node's external devices.
    pub const EXTERNAL: u8 = 1;
}

/// Protocol numbers as in the IP header (IANA), and the wildcard of an address's own entry.
pub mod proto {
    /// No protocol: with port 0, the entry of an address as such (see [`super::ServiceKey::address_only`]).
    pub const ANY: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Key of `SERVICES`: one frontend, seen from one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ServiceKey {
    /// The frontend's address.
    pub addr: Address,
    /// The frontend's port, network order.
    pub port_be: u16,
    /// One of [`proto`].
    pub proto: u8,
    /// One of [`scope`].
    pub scope: u8,
}
crosses_the_border!(ServiceKey: 20 { addr: Address, port_be: u16, proto: u8, scope: u8 });

impl ServiceKey {
    /// The key under which an address is known whatever the port: what makes an unknown port on a known address
    /// different from an unknown address.
    #[inline(always)]
    #[must_use]
    pub const fn address_only(addr: Address, scope: u8) -> Self {
        Self {
            addr,
            port_be: 0,
            proto: proto::ANY,
            scope,
        }
    }
}

/// Value of `SERVICES`: what to do with traffic to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceEntry {
    /// [`ServiceEntry::seal_for`] of the key and the other fields.
    pub seal: u64,
    /// The service port's id: index into `SERVICE_COUNTERS`.
    pub id: u32,
    /// First of the entry's slots in `SLOTS`.
    pub slots_offset: u32,
    /// How many slots; at least 1 when the verdict is [`Verdict::Translate`].
    pub slots_count: u32,
    /// The backend list's id, see [`crate::MemberKey`]; 0 without session affinity.
    pub list: u32,
    /// For how many seconds after its last connection a client stays with its backend; 0 without session affinity.
    pub affinity_timeout: u32,
    /// A [`Verdict`], as `u8`: `Translate`, or why not.
    pub verdict: u8,
    /// A set of [`flags`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
}
crosses_the_border!(ServiceEntry: 32 {
    seal: u64, id: u32, slots_offset: u32, slots_count: u32, list: u32, affinity_timeout: u32,
    verdict: u8, flags: u8, reserved: [u8; 2],
});

/// What else a [`ServiceEntry`] asks for.
pub mod flags {
    /// A client stays with its backend (session affinity ClientIP).
    pub const AFFINITY: u8 = 1;
    /// The slots are a Maglev table, indexed by a hash of the flow; otherwise they are a list to choose from at random.
    pub const MAGLEV: u8 = 2;
    /// Only sources in `SOURCE_RANGES` under the entry's id may come in.
    pub const SOURCE_RANGES: u8 = 4;
}

impl ServiceEntry {
    /// An entry for `key`, sealed.
    #[must_use]
    pub fn new(
        key: &ServiceKey,
        id: u32,
        slots_offset: u32,
        slots_count: u32,
        verdict: Verdict,
    ) -> Self {
        Self {
            seal: 0,
            id,
            slots_offset,
            slots_count,
            list: 0,
            affinity_timeout: 0,
            verdict: verdict as u8,
            flags: 0,
            reserved: [0; 2],
        }
        .sealed(key)
    }

    /// The entry, sealed again for `key` after a field was changed.
    #[must_use]
    pub fn sealed(mut self, key: &ServiceKey) -> Self {
        self.seal = self.seal_for(key);
        self
    }

    /// A checksum over the key and the entry.
    ///
    /// The kernel's hash map may hand the memory of a replaced element to another key while a program still reads it
    /// (`kernel/bpf/hashtab.c`: elements are freed to a per-CPU cache without a grace period). A reader copies the
    /// entry and compares; a copy that is torn or belongs to another frontend does not match and is looked up again.
    #[inline(always)]
    #[must_use]
    pub fn seal_for(&self, key: &ServiceKey) -> u64 {
        let addr = key.addr.to_words();
        let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
        hash = mix(hash, addr[0], addr[1]);
        hash = mix(hash, addr[2], addr[3]);
        let port = ((key.port_be as u32) << 16) | ((key.proto as u32) << 8) | key.scope as u32;
        hash = mix(hash, port, self.id);
        hash = mix(hash, self.slots_offset, self.slots_count);
        hash = mix(hash, self.list, self.affinity_timeout);
        mix(hash, self.verdict as u32, self.flags as u32)
    }

    /// Whether the entry is whole and belongs to `key`.
    #[inline(always)]
    #[must_use]
    pub fn is_sealed_for(&self, key: &ServiceKey) -> bool {
        self.seal == self.seal_for(key)
    }
}

#[inline(always)]
fn mix(hash: u64, high: u32, low: u32) -> u64 {
    let hash = (hash ^ (((high as u64) << 32) | low as u64)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 32)
}

/// The states of a [`Backend`].
pub mod backend_state {
    /// The id is not in use; nothing may be sent there.
    pub const FREE: u8 = 0;
    /// The id is in use.
    pub const ACTIVE: u8 = 1;
}

/// Value of `BACKENDS`, by backend id. Id 0 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Backend {
    /// The endpoint's address.
    pub addr: Address,
    /// The endpoint's port, network order.
    pub port_be: u16,
    /// One of [`proto`].
    pub proto: u8,
    /// One of [`backend_state`].
    pub state: u8,
    /// Grows by one each time the id is retired, so that whoever remembers (id, generation) knows when the backend it
    /// remembers is gone.
    pub generation: u32,
}
crosses_the_border!(Backend: 24 { addr: Address, port_be: u16, proto: u8, state: u8, generation: u32 });

/// Key of `SOURCE_RANGES` (longest prefix match): a service port's id and a source address.
///
/// The prefix length counts the id's 32 bits too: 32 + 96 + 8 for an IPv4 /8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceRangeKey {
    /// The service port's id, native order: only ever matched whole.
    pub id: u32,
    /// The source address.
    pub addr: Address,
}
crosses_the_border!(SourceRangeKey: 20 { id: u32, addr: Address });
