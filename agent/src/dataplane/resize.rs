//! Tables of another size: new maps with the old ones' content take their place under running programs.
//!
//! The order keeps every packet on whole tables, and the node recoverable wherever the agent is stopped:
//!
//! 1. The new maps are made, pinned in a directory of their own; programs that use them are loaded, which takes longest.
//! 2. What only agents write is copied: nobody does meanwhile, as there is only one.
//! 3. Each pin changes places with its old map's: both are whole, so that any mixture of them is.
//! 4. Each link's program is replaced in place. From the first to the last of them, some programs work on the old tables and
//!    some on the new ones, which say the same.
//! 5. The old maps go.
//!
//! `FLOWS` is written by the programs themselves, all the time. So the new programs know both maps: until the last of the old
//! ones has gone, they go on with the old map; then they take the new one, and look into the old one for what is not there
//! yet, while it is copied. See `flows.rs` of the datapath.
//!
//! An agent that finds the directory of an interrupted resize does 4 and 5 first with what is pinned.

use std::{collections::BTreeSet, fs, io, os::fd::AsFd as _, time::Duration};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, lpm_trie};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    time::{ClockId, clock_gettime},
};
use tracing::{info, warn};
use weir_abi::{
    Backend, Flow, FlowKey, MemberKey, ServiceCounters, ServiceEntry, ServiceKey, SourceRangeKey,
    flow::{
        flags, kind,
        moving::{BEFORE, BOTH, NOT},
    },
    service::{backend_state, proto},
    table,
};
use weir_core::plan::Capacity;

use super::{batch, kernel::wait_for_programs, mapping::Mapping};
use crate::{
    attach::Replacements,
    bpffs::{self, Layout},
};

/// How large the tables are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The tables that the agent writes.
    pub tables: Capacity,
    /// `FLOWS`.
    pub flows: u32,
}

impl From<&Capacity> for Sizes {
    fn from(tables: &Capacity) -> Self {
        Self {
            tables: *tables,
            flows: table::FLOWS_CAPACITY,
        }
    }
}

impl Sizes {
    /// By name.
    pub(super) fn by_name(&self) -> [(&'static str, u32); 7] {
        let tables = &self.tables;
        [
            (table::SERVICES, tables.services),
            (table::SLOTS, tables.slots),
            (table::BACKENDS, tables.backends),
            (table::SERVICE_COUNTERS, tables.ids),
            (table::MEMBERS, tables.members),
            (table::SOURCE_RANGES, tables.source_ranges),
            (table::FLOWS, self.flows),
        ]
    }
}

/// Without a packet for so long, a flow is not in use any more: as long as the programs wait before its ports can be
/// another's.
const IDLE: Duration = Duration::from_secs(120);
const IDLE_TCP: Duration = Duration::from_secs(8000);

/// Which tables get another size, and what they hold.
pub(super) struct Resize {
    names: BTreeSet<&'static str>,
    content: Content,
}

/// What the tables hold that only agents write.
#[derive(Default)]
struct Content {
    services: Vec<(ServiceKey, ServiceEntry)>,
    members: Vec<MemberKey>,
    source_ranges: Vec<lpm_trie::Key<SourceRangeKey>>,
    /// One more than the highest slot, backend and service port id in use.
    slots: u32,
    backends: u32,
    ids: u32,
}

/// What is in the way: how many of a table are in use, in what way.
struct InUse(u32, &'static str);

impl Resize {
    /// Which tables have another size than the one wanted, and can have it; `None` if there are none. Those that hold too much
    /// for a smaller size are named in a warning, and keep the one they have.
    pub(super) fn needed(layout: &Layout, wanted: &Sizes) -> Result<Option<Self>> {
        let differs = wanted.by_name().into_iter().filter(|(name, size)| {
            let pinned = MapInfo::from_pin(layout.map(name));
            pinned.is_ok_and(|info| info.max_entries() != *size)
        });
        let differs: Vec<_> = differs.collect();
        if differs.is_empty() {
            return Ok(None);
        }
        let content = Content::read(layout).context("cannot read the tables to be resized")?;
        let mut names = BTreeSet::new();
        for (name, size) in differs {
            let pinned = open(layout, name)?;
            let has = pinned.info()?.max_entries();
            let InUse(used, what) = match content.in_use(name) {
                Some(used) => used,
                None if size < has => InUse(
                    live_flows(&pinned)?.saturating_add(spare(size)),
                    "are in use or set aside for one CPU",
                ),
                None => InUse(0, ""),
            };
            if used > size {
                warn!(
                    table = name,
                    wanted = size,
                    has,
                    "the table cannot be made smaller: {used} {what}; it keeps its size until a restart finds less in it"
                );
                continue;
            }
            names.insert(name);
        }
        if names.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { names, content }))
    }

    /// Whether the table gets another size.
    pub(super) fn changes(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Fills the new maps, but for `FLOWS`.
    pub(super) fn copy(&self, layout: &Layout) -> Result<()> {
        for name in &self.names {
            let (from, to) = (open(layout, name)?, open_resized(layout, name)?);
            let copied = self.content.copy(name, from, to);
            copied.with_context(|| format!("cannot copy {name}"))?;
        }
        Ok(())
    }

    /// Lets the pins change places.
    pub(super) fn exchange_pins(&self, layout: &Layout) -> Result<()> {
        for name in &self.names {
            let (old, new) = (layout.map(name), layout.resized(name));
            renameat_with(CWD, &old, CWD, &new, RenameFlags::EXCHANGE)
                .with_context(|| format!("cannot put the new {name} in the old one's place"))?;
        }
        Ok(())
    }

    /// Puts the new programs at the links, and removes the old maps.
    pub(super) fn finish(
        self,
        layout: &Layout,
        replacements: &Replacements,
        moving: Option<Moving>,
    ) -> Result<()> {
        switch(layout, replacements, moving)?;
        info!(tables = ?self.names, "the tables have their new sizes");
        Ok(())
    }
}

/// `FLOWS_MOVE` of the new programs.
pub(super) struct Moving(Array<MapData, u32>);

impl Moving {
    pub(super) fn new(map: Map) -> Result<Self> {
        Ok(Self(Array::try_from(map)?))
    }

    /// Sets it for every packet from now on.
    fn set(&mut self, moving: u32) -> Result<()> {
        self.0
            .set(0, moving, 0)
            .context("cannot write FLOWS_MOVE")?;
        wait_for_programs();
        Ok(())
    }
}

/// Puts programs at the links that use what is pinned, and removes the maps aside; from those of flows, if they move, these are
/// taken first.
fn switch(layout: &Layout, replacements: &Replacements, moving: Option<Moving>) -> Result<()> {
    if let Some(mut moving) = moving {
        moving.set(BEFORE)?;
        replacements.carry_out();
        wait_for_programs();
        moving.set(BOTH)?;
        // From here on, nothing new comes into the old map.
        let old = open_resized(layout, table::FLOWS)?;
        copy_flows(&old, &open(layout, table::FLOWS)?).context("cannot copy FLOWS")?;
        moving.set(NOT)?;
    } else {
        replacements.carry_out();
        wait_for_programs();
    }
    let removed = bpffs::remove_tree(&layout.resize_dir());
    removed.map(drop).context("cannot remove the old tables")
}

/// Whether an agent was stopped while it resized tables.
pub(super) fn was_interrupted(layout: &Layout) -> bool {
    layout.resize_dir().exists()
}

/// Makes the directory of the new maps.
pub(super) fn begin(layout: &Layout) -> Result<()> {
    let dir = layout.resize_dir();
    fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Whether the flows of an interrupted resize are still in the map aside. Nothing is written to the new map before every
/// program knows both.
pub(super) fn has_flows_aside(layout: &Layout) -> bool {
    open_resized(layout, table::FLOWS)
        .map_err(io::Error::other)
        .and_then(|aside| batch::count::<FlowKey, Flow>(&aside))
        .is_ok_and(|count| count > 0)
}

/// Goes on with an interrupted resize. The programs use what is pinned, with the flows aside as those before.
pub(super) fn finish_interrupted(
    layout: &Layout,
    replacements: &Replacements,
    moving: Option<Moving>,
) -> Result<()> {
    switch(layout, replacements, moving)?;
    info!("finished the resize of tables that an earlier agent had begun");
    Ok(())
}

impl Content {
    fn read(layout: &Layout) -> Result<Self> {
        let mut content = Self::default();
        batch::read(&open(layout, table::SERVICES)?, |keys, entries| {
            let elements = keys.iter().copied().zip(entries.iter().copied());
            content.services.extend(elements);
            Ok(())
        })?;
        batch::read::<_, u32>(&open(layout, table::MEMBERS)?, |keys, _| {
            content.members.extend_from_slice(keys);
            Ok(())
        })?;
        batch::read::<_, u32>(&open(layout, table::SOURCE_RANGES)?, |keys, _| {
            content.source_ranges.extend_from_slice(keys);
            Ok(())
        })?;
        for (_, entry) in &content.services {
            let end = entry.slots_offset.saturating_add(entry.slots_count);
            content.slots = content.slots.max(end);
            content.ids = content.ids.max(entry.id.saturating_add(1));
        }
        let backends = mapping::<Backend>(&open(layout, table::BACKENDS)?)?;
        let in_use = (0..backends.len()).rev().find(|id| {
            let backend = backends.read(*id);
            backend.is_some_and(|backend| backend.state != backend_state::FREE)
        });
        content.backends = in_use.map_or(0, |id| id as u32 + 1);
        Ok(content)
    }

    /// What of the table is in use; `None` for flows.
    fn in_use(&self, name: &str) -> Option<InUse> {
        const USED: &str = "are in use";
        Some(match name {
            table::SERVICES => InUse(self.services.len() as u32, USED),
            table::MEMBERS => InUse(self.members.len() as u32, USED),
            table::SOURCE_RANGES => InUse(self.source_ranges.len() as u32, USED),
            table::SLOTS => InUse(self.slots, "reach to the last one in use"),
            table::BACKENDS => InUse(self.backends, "reach to the last one in use"),
            table::SERVICE_COUNTERS => InUse(self.ids, "reach to the last one in use"),
            _ => return None,
        })
    }

    fn copy(&self, name: &str, from: MapData, to: MapData) -> Result<()> {
        match name {
            table::SERVICES => {
                let (keys, entries): (Vec<_>, Vec<_>) = self.services.iter().copied().unzip();
                batch::write(&to, &keys, &entries)?;
            }
            table::MEMBERS => batch::write(&to, &self.members, &vec![1; self.members.len()])?,
            table::SOURCE_RANGES => {
                let ones = vec![1; self.source_ranges.len()];
                batch::write(&to, &self.source_ranges, &ones)?;
            }
            table::SLOTS => copy_array::<u32>(&from, &to)?,
            // Of the free ones too: an id must not come back under a generation that a flow remembers.
            table::BACKENDS => copy_array::<Backend>(&from, &to)?,
            table::SERVICE_COUNTERS => {
                let from = PerCpuArray::<_, ServiceCounters>::try_from(Map::PerCpuArray(from))?;
                let mut to = PerCpuArray::<_, ServiceCounters>::try_from(Map::PerCpuArray(to))?;
                let ids: BTreeSet<u32> = self.services.iter().map(|(_, entry)| entry.id).collect();
                for id in ids {
                    // An entry of nonsense may have an id that the table does not.
                    if let Ok(counted) = from.get(&id, 0) {
                        to.set(id, counted, 0)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn copy_array<T: Copy>(from: &MapData, to: &MapData) -> Result<()> {
    let (from, mut to) = (mapping::<T>(from)?, mapping::<T>(to)?);
    for index in 0..from.len().min(to.len()) {
        if let Some(value) = from.read(index) {
            to.write(index, value);
        }
    }
    Ok(())
}

/// Copies what the new map does not have: everything, or what is in use if not all fits.
fn copy_flows(from: &MapData, to: &MapData) -> Result<()> {
    const NOEXIST: u64 = 1;
    let at = now();
    let room = to.info()?.max_entries();
    let all = batch::count::<FlowKey, Flow>(from)?.saturating_add(spare(room)) <= room;
    let to = MapData::from_fd(to.fd().as_fd().try_clone_to_owned()?)?;
    let mut to = HashMap::<_, FlowKey, Flow>::try_from(Map::LruHashMap(to))?;
    batch::read::<FlowKey, Flow>(from, |keys, flows| {
        let elements = keys.iter().zip(flows);
        for (key, flow) in elements.filter(|(key, flow)| all || is_live(key, flow, at)) {
            match to.insert(key, flow, NOEXIST) {
                // A program was there first.
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == io::ErrorKind::AlreadyExists => {}
                inserted => inserted.map_err(io::Error::other)?,
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// How many places of an LRU map may be unused when it makes room nevertheless: each CPU keeps some for itself
/// (`LOCAL_FREE_TARGET` in `kernel/bpf/bpf_lru_list.c`).
fn spare(size: u32) -> u32 {
    let cpus = aya::util::nr_cpus().unwrap_or(1);
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    cpus.saturating_mul(128).min(size / 2)
}

/// How many flows are in use.
fn live_flows(flows: &MapData) -> io::Result<u32> {
    let at = now();
    let mut live = 0;
    batch::read::<FlowKey, Flow>(flows, |keys, flows| {
        let elements = keys.iter().zip(flows);
        live += elements
            .filter(|(key, flow)| is_live(key, flow, at))
            .count() as u32;
        Ok(())
    })?;
    Ok(live)
}

/// Whether a flow is in use: one that leads nowhere else is found again with the next packet.
fn is_live(key: &FlowKey, flow: &Flow, now: u64) -> bool {
    let open = key.proto == proto::TCP && flow.flags & flags::CLOSING == 0;
    let idle = nanoseconds(if open { IDLE_TCP } else { IDLE });
    flow.kind != kind::DIRECT && now.saturating_sub(flow.last_seen) < idle
}

/// The clock of flows.
fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn mapping<T: Copy>(map: &MapData) -> Result<Mapping<T>> {
    Ok(Mapping::new(map.fd(), map.info()?.max_entries())?)
}

fn open(layout: &Layout, name: &str) -> Result<MapData> {
    let path = layout.map(name);
    MapData::from_pin(&path).with_context(|| format!("cannot open the map {}", path.display()))
}

fn open_resized(layout: &Layout, name: &str) -> Result<MapData> {
    let path = layout.resized(name);
    MapData::from_pin(&path).with_context(|| format!("cannot open the map {}", path.display()))
}

#[cfg(test)]
mod tests {
    use weir_abi::Address;

    use super::*;

    fn flow(kind: u8, last_seen: u64) -> Flow {
        let address = Address([0; 16]);
        let key = FlowKey {
            src: address,
            dst: address,
            sport_be: 0,
            dport_be: 0,
            proto: proto::TCP,
            reserved: [0; 3],
        };
        Flow {
            to: key,
            last_seen,
            packets: 1,
            bytes: 1,
            backend_id: 1,
            generation: 0,
            epoch: 0,
            ifindex: 0,
            service_id: 1,
            kind,
            flags: 0,
            reserved: [0; 2],
        }
    }

    #[test]
    fn what_is_in_use_is_what_the_programs_would_not_give_away() {
        let at = nanoseconds(Duration::from_secs(100_000));
        let ago = |seconds| at - nanoseconds(Duration::from_secs(seconds));
        let tcp = flow(kind::FORWARD, 0).to;
        let udp = FlowKey {
            proto: proto::UDP,
            ..tcp
        };
        assert!(is_live(&tcp, &flow(kind::FORWARD, ago(7000)), at));
        assert!(!is_live(&tcp, &flow(kind::FORWARD, ago(9000)), at));
        assert!(is_live(&udp, &flow(kind::REVERSE, ago(100)), at));
        assert!(!is_live(&udp, &flow(kind::REVERSE, ago(130)), at));
        assert!(!is_live(&tcp, &flow(kind::DIRECT, at), at));
        let closing = Flow {
            flags: flags::CLOSING,
            ..flow(kind::FORWARD, ago(130))
        };
        assert!(!is_live(&tcp, &closing, at));
    }
}
