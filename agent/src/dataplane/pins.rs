//! What is pinned where tables should be, and whether it can be taken over.

use std::fs;

use anyhow::{Context as _, Result};
use aya::maps::{MapInfo, MapType, lpm_trie};
use tracing::warn;
use weir_abi::{
    Address, AffinityKey, AffinityValue, Backend, DatagramOrigin, DatagramPeer, Endpoint, Flow,
    FlowKey, FragmentKey, FragmentPorts, Learned, MemberKey, NodeConfig, ServiceCounters,
    ServiceEntry, ServiceKey, SocketOrigin, SourceRangeKey, table,
};

use super::PINNED_MAPS;
use crate::bpffs::{self, Layout};

/// `BPF_F_MMAPABLE`
const MMAPABLE: u32 = 1 << 10;

/// A map's type, the sizes of its keys and values, and the flags it needs.
type Shape = (MapType, usize, usize, u32);

/// What the map of that name looks like.
fn shape(name: &str) -> Option<Shape> {
    const fn sizes<K, V>(kind: MapType, flags: u32) -> Shape {
        (kind, size_of::<K>(), size_of::<V>(), flags)
    }
    Some(match name {
        table::SERVICES => sizes::<ServiceKey, ServiceEntry>(MapType::Hash, 0),
        table::SLOTS => sizes::<u32, u32>(MapType::Array, MMAPABLE),
        table::BACKENDS => sizes::<u32, Backend>(MapType::Array, MMAPABLE),
        table::MEMBERS => sizes::<MemberKey, u32>(MapType::Hash, 0),
        table::SOURCE_RANGES => sizes::<lpm_trie::Key<SourceRangeKey>, u32>(MapType::LpmTrie, 0),
        table::AFFINITY => sizes::<AffinityKey, AffinityValue>(MapType::LruHash, 0),
        table::CONFIG => sizes::<u32, NodeConfig>(MapType::Array, MMAPABLE),
        table::LEARNED => sizes::<u32, Learned>(MapType::Array, 0),
        table::ENDPOINTS => sizes::<Address, Endpoint>(MapType::Hash, 0),
        table::FLOWS => sizes::<FlowKey, Flow>(MapType::LruHash, 0),
        table::FRAGMENTS => sizes::<FragmentKey, FragmentPorts>(MapType::LruHash, 0),
        table::OPT_OUT => sizes::<u64, u32>(MapType::Hash, 0),
        table::SOCKET_ORIGINS => sizes::<u32, SocketOrigin>(MapType::SkStorage, 0),
        table::DATAGRAM_ORIGINS => sizes::<DatagramPeer, DatagramOrigin>(MapType::LruHash, 0),
        table::SERVICE_COUNTERS => sizes::<u32, ServiceCounters>(MapType::PerCpuArray, 0),
        table::VERDICTS => sizes::<u32, u64>(MapType::PerCpuArray, 0),
        _ => return None,
    })
}

/// Removes what is pinned under a table's name and is no such table: nothing could be done with it. Whatever uses it goes on.
///
/// # Errors
/// When it cannot be removed.
pub(super) fn remove_nonsense(layout: &Layout) -> Result<()> {
    for name in PINNED_MAPS {
        let path = layout.map(name);
        // Of a link to nowhere as well.
        if fs::symlink_metadata(&path).is_err() {
            continue;
        }
        let found = MapInfo::from_pin(&path).ok();
        if found.is_some_and(|info| fits(name, &info)) {
            continue;
        }
        warn!(path = %path.display(), "what is pinned there is not this table; it is made anew");
        bpffs::clear(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn fits(name: &str, info: &MapInfo) -> bool {
    shape(name).is_some_and(|(kind, key, value, flags)| {
        info.map_type().is_ok_and(|found| found == kind)
            && info.key_size() as usize == key
            && info.value_size() as usize == value
            && info.map_flags() & flags == flags
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pinned_map_has_a_shape() {
        for name in PINNED_MAPS {
            assert!(shape(name).is_some(), "{name}");
        }
        assert!(shape("ELSE").is_none());
    }
}
