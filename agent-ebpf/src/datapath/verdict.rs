//! Counting verdicts.

use core::sync::atomic::{AtomicU64, Ordering};

use weir_abi::Verdict;

use crate::maps::{SERVICE_COUNTERS, VERDICTS};

/// Counts `verdict`, for the node and for the service port `id`.
#[inline(always)]
pub(crate) fn count(verdict: Verdict, id: u32) {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: a live, aligned value of a per-CPU array.
        unsafe { add_one(counter) };
    }
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(id) {
        // SAFETY: a live, aligned value of a per-CPU array.
        let counter = unsafe {
            match verdict {
                Verdict::Translate => &raw mut (*counters).translated,
                _ => &raw mut (*counters).refused,
            }
        };
        // SAFETY: points into that value.
        unsafe { add_one(counter) };
    }
}

/// Atomic, since a program may be preempted by another one on its CPU.
///
/// # Safety
/// `counter` is a live, aligned map value.
#[inline(always)]
unsafe fn add_one(counter: *mut u64) {
    // SAFETY: as the caller promises; all writers are atomic.
    let counter = unsafe { AtomicU64::from_ptr(counter) };
    counter.fetch_add(1, Ordering::Relaxed);
}
