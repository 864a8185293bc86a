//! The kernel tables. Their names and value types are in `weir-abi`; user space pins and fills them.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray},
};
use weir_abi::{
    Backend, ServiceCounters, ServiceEntry, ServiceKey, SocketOrigin, Verdict,
    table::{BACKENDS_CAPACITY, SERVICE_COUNTERS_CAPACITY, SERVICES_CAPACITY, SLOTS_CAPACITY},
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

#[btf_map]
pub(crate) static SOCKET_ORIGINS: SkStorage<SocketOrigin> = SkStorage::new();

#[map]
pub(crate) static SERVICE_COUNTERS: PerCpuArray<ServiceCounters> =
    PerCpuArray::with_max_entries(SERVICE_COUNTERS_CAPACITY, 0);

#[map]
pub(crate) static VERDICTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Verdict::ALL.len() as u32, 0);
