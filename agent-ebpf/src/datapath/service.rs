//! From a destination to the service entry that decides about it.

use weir_abi::{Address, ServiceEntry, ServiceKey, Verdict};

use crate::maps::SERVICES;

/// How often a frontend is looked up again when its entry was being replaced under our eyes. One retry is nearly always
/// enough: the new entry is already linked when the old one's memory is given away.
const ATTEMPTS: usize = 4;

/// What the tables say of a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Not a service's address.
    Unknown,
    /// The frontend's entry was found, or its address's entry when the port is unknown.
    Found,
    /// Every attempt met an entry that does not belong to its key.
    Unsealed,
}

/// To be filled by [`lookup`].
pub(crate) const NO_ENTRY: ServiceEntry = ServiceEntry {
    seal: 0,
    id: 0,
    slots_offset: 0,
    slots_count: 0,
    list: 0,
    affinity_timeout: 0,
    verdict: Verdict::InconsistentTables as u8,
    flags: 0,
    reserved: [0; 2],
};

/// Looks a destination up: the frontend first, then its address alone. Copies what it found to `entry`.
#[inline(never)]
pub(crate) fn lookup(key: &ServiceKey, entry: &mut ServiceEntry) -> Lookup {
    match sealed_entry(key, entry) {
        Lookup::Unknown => sealed_entry(&ServiceKey::address_only(key.addr, key.scope), entry),
        found => found,
    }
}

/// Whether an address is that of any frontend.
#[inline(always)]
pub(crate) fn has_frontends(addr: &Address, scope: u8) -> bool {
    let known = ServiceKey::address_only(*addr, scope);
    SERVICES.get_ptr(known).is_some()
}

#[inline(always)]
fn sealed_entry(key: &ServiceKey, copy: &mut ServiceEntry) -> Lookup {
    for _ in 0..ATTEMPTS {
        let Some(entry) = SERVICES.get_ptr(key) else {
            return Lookup::Unknown;
        };
        // SAFETY: the map returned a live value; the copy may be torn, which the seal tells.
        *copy = unsafe { entry.read_volatile() };
        if copy.is_sealed_for(key) {
            return Lookup::Found;
        }
    }
    Lookup::Unsealed
}

/// The key of a destination seen from `scope`.
#[inline(always)]
pub(crate) fn key(addr: Address, port_be: u16, proto: u8, scope: u8) -> ServiceKey {
    ServiceKey {
        addr,
        port_be,
        proto,
        scope,
    }
}

/// The entry's verdict; what is not in the enum is a table we do not understand.
#[inline(always)]
pub(crate) fn verdict(entry: &ServiceEntry) -> Verdict {
    Verdict::from_u8(entry.verdict).unwrap_or(Verdict::InconsistentTables)
}
