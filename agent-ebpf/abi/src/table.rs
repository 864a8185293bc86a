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

/// `CONFIG`: array of one [`crate::NodeConfig`], mmap-able.
pub const CONFIG: &str = "CONFIG";
/// `LEARNED`: array of one [`crate::Learned`].
pub const LEARNED: &str = "LEARNED";
/// `ENDPOINTS`: [`crate::Address`] -> [`crate::Endpoint`].
pub const ENDPOINTS: &str = "ENDPOINTS";
/// `FLOWS`: LRU of [`crate::FlowKey`] -> [`crate::Flow`].
pub const FLOWS: &str = "FLOWS";
/// While `FLOWS` takes another map's place: that map.
pub const FLOWS_BEFORE: &str = "FLOWS_BEFORE";
/// `FLOWS_MOVE`: array of one `u32`, of [`crate::flow::moving`]. Not pinned.
pub const FLOWS_MOVE: &str = "FLOWS_MOVE";
/// `FRAGMENTS`: LRU of [`crate::FragmentKey`] -> [`crate::FragmentPorts`].
pub const FRAGMENTS: &str = "FRAGMENTS";
/// `AFFINITY`: LRU of [`crate::AffinityKey`] -> [`crate::AffinityValue`].
pub const AFFINITY: &str = "AFFINITY";
/// `MEMBERS`: [`crate::MemberKey`] -> `u32`, always 1.
pub const MEMBERS: &str = "MEMBERS";
/// `SOURCE_RANGES`: longest prefix match of [`crate::SourceRangeKey`] -> `u32`, always 1.
pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
/// `DATAGRAM_ORIGINS`: LRU of [`crate::DatagramPeer`] -> [`crate::DatagramOrigin`].
pub const DATAGRAM_ORIGINS: &str = "DATAGRAM_ORIGINS";
/// `OPT_OUT`: network namespace cookies (`u64`) -> `u32`, always 1: sockets there are not translated.
pub const OPT_OUT: &str = "OPT_OUT";

/// Frontends, each counted once per scope, plus one entry per address.
pub const SERVICES_CAPACITY: u32 = 1 << 18;
/// Slots: the endpoints of every service port, with room for as many again while they are replaced.
pub const SLOTS_CAPACITY: u32 = 1 << 20;
/// Distinct (address, port, protocol) endpoints.
pub const BACKENDS_CAPACITY: u32 = 1 << 18;
/// Service ports with counters.
pub const SERVICE_COUNTERS_CAPACITY: u32 = 1 << 16;
/// Local pods, each counted once per address.
pub const ENDPOINTS_CAPACITY: u32 = 1 << 12;
/// Directions of flows.
pub const FLOWS_CAPACITY: u32 = 1 << 18;
/// Fragmented datagrams under way.
pub const FRAGMENTS_CAPACITY: u32 = 1 << 13;
/// Clients of services with session affinity.
pub const AFFINITY_CAPACITY: u32 = 1 << 16;
/// Endpoints of services with session affinity, once per list.
pub const MEMBERS_CAPACITY: u32 = 1 << 17;
/// Source ranges of all services.
pub const SOURCE_RANGES_CAPACITY: u32 = 1 << 16;
/// Services that unconnected UDP sockets of the node itself talk to.
pub const DATAGRAM_ORIGINS_CAPACITY: u32 = 1 << 16;
/// Pods whose sockets are not translated.
pub const OPT_OUT_CAPACITY: u32 = 1 << 12;
