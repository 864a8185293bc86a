//! Names and default capacities of the kernel tables.

/// `SERVICES`: [`crate::ServiceKey`] -> [`crate::ServiceEntry`].
pub const SERVICES: &str = "SERVICES";
/// `SLOTS`: array of backend ids (`u32`), mmap-able.
pub const SLOTS: &str = "SLOTS";
/// `BACKENDS`: array of [`crate::Backend`], mmap-able.
pub const BACKENDS: &str = "BACKENDS";
/// `SOCKET_ORIGINS`: socket storage of [`crate::SocketOrigin`].
pub const SOCKET_ORIGINS: &str = "SOCKET_ORIGINS";
/// `SERVICE_COUNTERS`: per-CPU array of [`crate::ServiceCounters`], by service port id.
pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
/// `VERDICTS`: per-CPU array of `u64`, by [`crate::Verdict`].
pub const VERDICTS: &str = "VERDICTS";

/// Frontends, each counted once per scope, plus one entry per address.
pub const SERVICES_CAPACITY: u32 = 1 << 18;
/// Slots: the endpoints of every service port, with room for as many again while they are replaced.
pub const SLOTS_CAPACITY: u32 = 1 << 20;
/// Distinct (address, port, protocol) endpoints.
pub const BACKENDS_CAPACITY: u32 = 1 << 18;
/// Service ports with counters.
pub const SERVICE_COUNTERS_CAPACITY: u32 = 1 << 16;
