//! The table of flows, also while it moves to a map of another size under running programs.
//!
//! As long as some programs know only the old map, `FLOWS_BEFORE`, what is new goes there ([`BEFORE`]). Then it goes to the
//! new one, `FLOWS`, which is looked into first, and the agent copies the rest; while it does, what is not in the new map is
//! looked for in the old one ([`BOTH`]). So every packet finds its flow at any time. When the table does not move, all this
//! costs is one look where nothing was found and where something is inserted or removed.
//!
//! [`BOTH`]: weir_abi::flow::moving::BOTH

use aya_ebpf::bindings::BPF_NOEXIST;
use weir_abi::{
    Flow, FlowKey,
    flow::moving::{BEFORE, NOT},
};

use crate::maps::{FLOWS, FLOWS_BEFORE, FLOWS_MOVE};

const EEXIST: i32 = -17;

/// The flow of that key: a live value of one of the maps.
#[inline(always)]
pub(crate) fn get(key: &FlowKey) -> Option<*mut Flow> {
    if let Some(flow) = FLOWS.get_ptr_mut(key) {
        return Some(flow);
    }
    if moving() == NOT {
        return None;
    }
    FLOWS_BEFORE.get_ptr_mut(key)
}

/// Inserts a flow, as `how` says: `BPF_ANY` or `BPF_NOEXIST`. Negative when it is not done.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, flow: &Flow, how: u32) -> i32 {
    let moving = moving();
    if moving != NOT {
        return insert_moving(key, flow, how, moving);
    }
    result(FLOWS.insert(key, flow, u64::from(how)))
}

/// Removes a flow, if it is there.
#[inline(always)]
pub(crate) fn remove(key: &FlowKey) {
    let _ = FLOWS.remove(key);
    if moving() != NOT {
        let _ = FLOWS_BEFORE.remove(key);
    }
}

#[inline(never)]
fn insert_moving(key: &FlowKey, flow: &Flow, how: u32, moving: u32) -> i32 {
    let new = FLOWS.get_ptr(key).is_some();
    if how == BPF_NOEXIST && (new || FLOWS_BEFORE.get_ptr(key).is_some()) {
        return EEXIST;
    }
    let how = u64::from(how);
    if moving == BEFORE && !new {
        return result(FLOWS_BEFORE.insert(key, flow, how));
    }
    result(FLOWS.insert(key, flow, how))
}

#[inline(always)]
fn result(result: Result<(), i32>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => error,
    }
}

/// One of [`weir_abi::flow::moving`].
#[inline(always)]
fn moving() -> u32 {
    // SAFETY: a live value; user space changes it.
    FLOWS_MOVE
        .get_ptr(0)
        .map_or(NOT, |moving| unsafe { moving.read_volatile() })
}
