//! From a service entry to one of its backends.

use aya_ebpf::helpers::{bpf_get_prandom_u32, generated::bpf_ktime_get_coarse_ns};
use weir_abi::{
    Address, AffinityKey, AffinityValue, Backend, FlowKey, MemberKey, ServiceEntry,
    service::{backend_state, flags},
};

use crate::maps::{AFFINITY, BACKENDS, MEMBERS, SLOTS};

/// A backend and its id.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) id: u32,
    pub(crate) backend: Backend,
}

/// A backend for `client`: the one it had, if the service wants that; otherwise by Maglev with the flow's `hash`, or at
/// random. `None` when the tables do not fit together.
#[inline(always)]
pub(crate) fn backend(entry: &ServiceEntry, client: &Address, hash: u32) -> Option<Chosen> {
    if entry.flags & flags::AFFINITY == 0 {
        return slot(entry, hash);
    }
    let key = AffinityKey {
        client: *client,
        id: entry.id,
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if let Some(chosen) = remembered(entry, &key, now) {
        return Some(chosen);
    }
    let chosen = slot(entry, hash)?;
    let value = AffinityValue {
        last_used: now,
        backend_id: chosen.id,
        generation: chosen.backend.generation,
    };
    // A full LRU map evicts; what still fails costs this client its affinity, not its connection.
    let _ = AFFINITY.insert(key, value, 0);
    Some(chosen)
}

/// The backend that the client had, if the timeout is not over and the backend is still one of the service's.
#[inline(always)]
fn remembered(entry: &ServiceEntry, key: &AffinityKey, now: u64) -> Option<Chosen> {
    let affinity = AFFINITY.get_ptr_mut(key)?;
    // SAFETY: a live value; an LRU element that is reused meanwhile is caught by the checks below.
    let value = unsafe { affinity.read_volatile() };
    if now.saturating_sub(value.last_used) > u64::from(entry.affinity_timeout) * 1_000_000_000 {
        return None;
    }
    let backend = active(value.backend_id)?;
    let member = MemberKey {
        list: entry.list,
        backend_id: value.backend_id,
    };
    if backend.generation != value.generation || MEMBERS.get_ptr(member).is_none() {
        return None;
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*affinity).last_used).write_volatile(now) };
    Some(Chosen {
        id: value.backend_id,
        backend,
    })
}

#[inline(always)]
fn slot(entry: &ServiceEntry, hash: u32) -> Option<Chosen> {
    // The first slot of an empty range is another service's.
    if entry.slots_count == 0 {
        return None;
    }
    let random = if entry.flags & flags::MAGLEV == 0 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    } else {
        hash
    };
    // Scaling instead of a remainder: no division, and no bias worth the name for any number of slots.
    let slot = ((u64::from(random) * u64::from(entry.slots_count)) >> 32) as u32;
    let id = SLOTS.get_ptr(entry.slots_offset.wrapping_add(slot))?;
    // SAFETY: a value of an array map, which never moves; user space writes it through its mapping.
    let id = unsafe { id.read_volatile() };
    active(id).map(|backend| Chosen { id, backend })
}

/// The backend of that id, if it is in use.
#[inline(always)]
pub(crate) fn active(id: u32) -> Option<Backend> {
    let backend = BACKENDS.get_ptr(id)?;
    // SAFETY: as in `slot`. A backend is written before its id is published and rewritten only after a grace period.
    let backend = unsafe { backend.read_volatile() };
    (backend.state == backend_state::ACTIVE).then_some(backend)
}

/// A hash of the flow that is the same on every node, for Maglev.
#[inline(always)]
pub(crate) fn hash(key: &FlowKey) -> u32 {
    let (src, dst) = (key.src.to_words(), key.dst.to_words());
    let ports = (u32::from(key.sport_be) << 16) | u32::from(key.dport_be);
    let mut hash = 0x9e37_79b9_u32;
    for word in [
        src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3], ports,
    ] {
        hash = (hash ^ word).wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 15;
    }
    hash = (hash ^ u32::from(key.proto)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
