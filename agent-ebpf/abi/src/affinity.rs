//! Session affinity.

use crate::{Address, crosses_the_border};

/// Key of `AFFINITY` (LRU): a client of a service port, whichever of the service's addresses it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AffinityKey {
    /// The client: its address on the packet path; at the socket, where it has none yet, its network namespace's cookie in
    /// the last eight bytes, and before it in native order 1 for IPv6, 0 for IPv4.
    pub client: Address,
    /// The service port's id.
    pub id: u32,
}
crosses_the_border!(AffinityKey: 20 { client: Address, id: u32 });

/// Value of `AFFINITY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AffinityValue {
    /// When the client last connected, by the kernel's coarse monotonic clock, in nanoseconds.
    pub last_used: u64,
    /// The backend it was sent to.
    pub backend_id: u32,
    /// That backend's generation then.
    pub generation: u32,
}
crosses_the_border!(AffinityValue: 16 { last_used: u64, backend_id: u32, generation: u32 });

/// Key of `MEMBERS`: a backend is in a backend list. Only lists of services with session affinity have members here: they
/// tell whether a remembered backend is still one of the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct MemberKey {
    /// The list: four times the service port's id, plus two for IPv6, plus one for the list of local endpoints. The
    /// families are apart because a client at the socket is known by something that has none.
    pub list: u32,
    /// The backend.
    pub backend_id: u32,
}
crosses_the_border!(MemberKey: 8 { list: u32, backend_id: u32 });
