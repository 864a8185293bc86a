//! Counting verdicts.

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
        let counter = if verdict == Verdict::Translate {
            // SAFETY: a live, aligned value of a per-CPU array.
            unsafe { &raw mut (*counters).translated }
        } else {
            // SAFETY: as above.
            unsafe { &raw mut (*counters).refused }
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
    // `core` has no read-modify-write atomics for this target, as it cannot compare and exchange before BPF ISA v3.
    #[cfg(target_arch = "bpf")]
    // SAFETY: as the caller promises; the instruction adds to that value and touches nothing else.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {one}",
            counter = in(reg) counter,
            one = in(reg) 1_u64,
            options(nostack),
        );
    }
    // Only ever type-checked, by clippy on the host.
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as the caller promises.
    unsafe {
        *counter += 1;
    }
}
