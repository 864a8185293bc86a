//! Counters: per-CPU array values.

use crate::crosses_the_border;

/// Value of `SERVICE_COUNTERS`, by service port id, one per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceCounters {
    /// Connections sent to a backend.
    pub translated: u64,
    /// Connections refused or dropped, for whatever reason.
    pub refused: u64,
}
crosses_the_border!(ServiceCounters: 16 { translated: u64, refused: u64 });
