//! The kernel tables. Their names and value types are in `weir-abi`; user space pins and fills them.

use crate::work::Work;
use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
};
use weir_abi::{
    Address, AffinityKey, AffinityValue, Backend, DatagramOrigin, DatagramPeer, Endpoint, Flow,
    FlowKey, FragmentKey, FragmentPorts, Learned, MemberKey, NodeConfig, ServiceCounters,
    ServiceEntry, ServiceKey, SocketOrigin, SourceRangeKey, Verdict,
    table::{
        AFFINITY_CAPACITY, BACKENDS_CAPACITY, DATAGRAM_ORIGINS_CAPACITY, ENDPOINTS_CAPACITY,
        FLOWS_CAPACITY, FRAGMENTS_CAPACITY, MEMBERS_CAPACITY, OPT_OUT_CAPACITY,
        SERVICE_COUNTERS_CAPACITY, SERVICES_CAPACITY, SLOTS_CAPACITY, SOURCE_RANGES_CAPACITY,
    },
};

/// Not preallocated: an empty cluster costs nothing.
#[map]
pub(crate) static SERVICES: HashMap<ServiceKey, ServiceEntry> =
    HashMap::with_max_entries(SERVICES_CAPACITY, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static SLOTS: Array<u32> = Array::with_max_entries(SLOTS_CAPACITY, BPF_F_MMAPABLE);

#[map]
pub(crate) static BACKENDS: Array<Backend> =
    Array::with_max_entries(BACKENDS_CAPACITY, BPF_F_MMAPABLE);

#[map]
pub(crate) static SOURCE_RANGES: LpmTrie<SourceRangeKey, u32> =
    LpmTrie::with_max_entries(SOURCE_RANGES_CAPACITY, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, AffinityValue> =
    LruHashMap::with_max_entries(AFFINITY_CAPACITY, 0);

#[map]
pub(crate) static MEMBERS: HashMap<MemberKey, u32> =
    HashMap::with_max_entries(MEMBERS_CAPACITY, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static CONFIG: Array<NodeConfig> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub(crate) static LEARNED: Array<Learned> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static ENDPOINTS: HashMap<Address, Endpoint> =
    HashMap::with_max_entries(ENDPOINTS_CAPACITY, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow> =
    LruHashMap::with_max_entries(FLOWS_CAPACITY, 0);

/// The map that `FLOWS` takes over from, while it does; otherwise one that nobody uses.
#[map]
pub(crate) static FLOWS_BEFORE: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1, 0);

#[map]
pub(crate) static FLOWS_MOVE: Array<u32> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(FRAGMENTS_CAPACITY, 0);

#[map]
pub(crate) static OPT_OUT: HashMap<u64, u32> =
    HashMap::with_max_entries(OPT_OUT_CAPACITY, BPF_F_NO_PREALLOC);

#[btf_map]
pub(crate) static SOCKET_ORIGINS: SkStorage<SocketOrigin> = SkStorage::new();

#[map]
pub(crate) static DATAGRAM_ORIGINS: LruHashMap<DatagramPeer, DatagramOrigin> =
    LruHashMap::with_max_entries(DATAGRAM_ORIGINS_CAPACITY, 0);

#[map]
pub(crate) static SERVICE_COUNTERS: PerCpuArray<ServiceCounters> =
    PerCpuArray::with_max_entries(SERVICE_COUNTERS_CAPACITY, 0);

#[map]
pub(crate) static VERDICTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Verdict::ALL.len() as u32, 0);

/// What a packet program works on: more than fits on its stack.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's [`Work`].
#[inline(always)]
pub(crate) fn work() -> Option<&'static mut Work> {
    // SAFETY: a live value that nobody else uses: packet programs run with bottom halves disabled and never nest.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// What the programs know of the node.
#[inline(always)]
pub(crate) fn config() -> Option<&'static NodeConfig> {
    // SAFETY: the one element of an array map is never moved or freed while the program runs; fields that user space
    // changes are read one at a time.
    CONFIG.get_ptr(0).map(|config| unsafe { &*config })
}

/// What the programs have learned of the node.
#[inline(always)]
pub(crate) fn learned() -> Option<&'static Learned> {
    // SAFETY: the one element of an array map is never moved or freed; its fields are read one at a time.
    LEARNED.get_ptr(0).map(|learned| unsafe { &*learned })
}
