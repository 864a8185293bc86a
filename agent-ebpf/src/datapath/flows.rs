//! The table of flows, also while it moves to a map of another size under running programs.
//!
//! As long as some programs know only the old map, `FLOWS_BEFORE`, what is new goes there ([`FLOWS_STAY`]). Then it goes to
//! the new one, `FLOWS`, which is looked into first, and the agent copies the rest; while it does, what is not in the new map
//! is looked for in the old one ([`FLOWS_MOVE`]). So every packet finds its flow at any time. When the table does not move,
//! none of this costs anything but one flag, tested where nothing was found and where something is inserted.

use aya_ebpf::bindings::BPF_NOEXIST;
use weir_abi::{
    Flow, FlowKey,
    config::flags::{FLOWS_MOVE, FLOWS_STAY},
};

use crate::maps::{self, FLOWS, FLOWS_BEFORE};

const EEXIST: i32 = -17;

/// The flow of that key: a live value of one of the maps.
#[inline(always)]
pub(crate) fn get(key: &FlowKey) -> Option<*mut Flow> {
    if let Some(flow) = FLOWS.get_ptr_mut(key) {
        return Some(flow);
    }
    if flags() & FLOWS_MOVE == 0 {
        return None;
    }
    FLOWS_BEFORE.get_ptr_mut(key)
}

/// Inserts a flow, as `how` says: `BPF_ANY` or `BPF_NOEXIST`. Negative when it is not done.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, flow: &Flow, how: u32) -> i32 {
    let flags = flags();
    if flags & FLOWS_MOVE != 0 {
        return insert_moving(key, flow, how, flags);
    }
    result(FLOWS.insert(key, flow, u64::from(how)))
}

/// Removes a flow, if it is there.
#[inline(always)]
pub(crate) fn remove(key: &FlowKey) {
    let _ = FLOWS.remove(key);
    if flags() & FLOWS_MOVE != 0 {
        let _ = FLOWS_BEFORE.remove(key);
    }
}

#[inline(never)]
fn insert_moving(key: &FlowKey, flow: &Flow, how: u32, flags: u32) -> i32 {
    let new = FLOWS.get_ptr(key).is_some();
    if how == BPF_NOEXIST && (new || FLOWS_BEFORE.get_ptr(key).is_some()) {
        return EEXIST;
    }
    let how = u64::from(how);
    if flags & FLOWS_STAY != 0 && !new {
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

#[inline(always)]
fn flags() -> u32 {
    // SAFETY: a live field; user space changes it.
    maps::config().map_or(0, |config| unsafe {
        (&raw const config.flags).read_volatile()
    })
}
