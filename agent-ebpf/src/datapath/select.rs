//! From a service entry to one of its backends.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use weir_abi::{Backend, ServiceEntry, service::backend_state};

use crate::maps::{BACKENDS, SLOTS};

/// A backend chosen at random, each of the entry's slots equally likely. `None` when the tables do not fit together.
#[inline(always)]
pub(crate) fn random(entry: &ServiceEntry) -> Option<Backend> {
    // The first slot of an empty range is another service's.
    if entry.slots_count == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    // Scaling instead of a remainder: no division, and no bias worth the name for any number of slots.
    let slot = ((u64::from(random) * u64::from(entry.slots_count)) >> 32) as u32;
    let id = SLOTS.get(entry.slots_offset.wrapping_add(slot))?;
    // SAFETY: both are values of array maps, which never move; user space writes them through its mapping.
    let id = unsafe { core::ptr::from_ref(id).read_volatile() };
    let backend = BACKENDS.get_ptr(id)?;
    // SAFETY: as above. A backend is written before its id is published and rewritten only after a grace period.
    let backend = unsafe { backend.read_volatile() };
    (backend.state == backend_state::ACTIVE).then_some(backend)
}
