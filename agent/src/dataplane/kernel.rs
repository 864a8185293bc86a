//! The kernel's own maps.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Result, anyhow};
use aya::maps::{HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie};
use weir_abi::{
    Backend, MemberKey, ServiceCounters, ServiceEntry, ServiceKey, SourceRangeKey, Verdict,
    table::{
        BACKENDS, CONFIG, MEMBERS, SERVICE_COUNTERS, SERVICES, SLOTS, SOURCE_RANGES, VERDICTS,
    },
};
use weir_core::plan::{Capacity, Op, Snapshot};

use super::{Config, Dataplane, Error, GracePeriod, Object, mapping::Mapping};
use crate::bpffs::Layout;

/// How long to wait for readers where the kernel offers no grace period to wait for. Far more than a program can take,
/// preemption included: the kernel itself calls a reader stalled after 21 s, and complains.
const GRACE_FALLBACK: Duration = Duration::from_secs(25);

/// The tables of this node.
pub struct Kernel {
    services: HashMap<MapData, ServiceKey, ServiceEntry>,
    slots: Mapping<u32>,
    backends: Mapping<Backend>,
    members: HashMap<MapData, MemberKey, u32>,
    source_ranges: LpmTrie<MapData, SourceRangeKey, u32>,
    config: Config,
    counters: PerCpuArray<MapData, ServiceCounters>,
    cpus: usize,
    capacity: Capacity,
}

impl Kernel {
    /// Opens the pinned maps, which [`Object::open`] has made.
    ///
    /// # Errors
    /// When a map is missing or of another shape.
    pub fn open(layout: &Layout) -> Result<Self> {
        let services = Object::pinned_map(layout, SERVICES)?;
        let slots = Object::pinned_map(layout, SLOTS)?;
        let backends = Object::pinned_map(layout, BACKENDS)?;
        let counters = Object::pinned_map(layout, SERVICE_COUNTERS)?;
        let members = Object::pinned_map(layout, MEMBERS)?;
        let source_ranges = Object::pinned_map(layout, SOURCE_RANGES)?;
        let capacity = Capacity {
            services: services.info()?.max_entries(),
            slots: slots.info()?.max_entries(),
            backends: backends.info()?.max_entries(),
            ids: counters.info()?.max_entries(),
            members: members.info()?.max_entries(),
            source_ranges: source_ranges.info()?.max_entries(),
        };
        let mapping = |map, source| Error::Mapping { map, source };
        Ok(Self {
            slots: Mapping::new(slots.fd(), capacity.slots).map_err(|e| mapping(SLOTS, e))?,
            backends: Mapping::new(backends.fd(), capacity.backends)
                .map_err(|e| mapping(BACKENDS, e))?,
            services: HashMap::try_from(aya::maps::Map::HashMap(services))?,
            members: HashMap::try_from(aya::maps::Map::HashMap(members))?,
            source_ranges: LpmTrie::try_from(aya::maps::Map::LpmTrie(source_ranges))?,
            config: Config::new(&Object::pinned_map(layout, CONFIG)?)?,
            counters: PerCpuArray::try_from(aya::maps::Map::PerCpuArray(counters))?,
            cpus: aya::util::nr_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?,
            capacity,
        })
    }

    /// What the programs are told of the node. Whoever writes it beside this value must do so through the same one.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    fn write_slots(&mut self, offset: u32, ids: &[u32]) -> Result<(), Error> {
        let start = offset as usize;
        let end = start + ids.len();
        // All of them or none.
        if end > self.slots.len() {
            return Err(out_of_range(SLOTS, end - 1));
        }
        for (index, id) in (start..end).zip(ids) {
            self.slots.write(index, *id);
        }
        Ok(())
    }
}

impl Dataplane for Kernel {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn snapshot(&mut self) -> Result<Snapshot, Error> {
        let services = self
            .services
            .iter()
            .collect::<Result<Vec<_>, MapError>>()
            .map_err(|e| map_error(SERVICES, e))?;
        let used = services
            .iter()
            .map(|(_, entry)| u64::from(entry.slots_offset) + u64::from(entry.slots_count))
            .max()
            .unwrap_or(0);
        let used = usize::try_from(used).unwrap_or(usize::MAX);
        let slots = (0..used.min(self.slots.len()))
            .filter_map(|index| self.slots.read(index))
            .collect();
        // Generations of free ids matter too: an id must not come back under a generation that a flow remembers.
        let backends = (0..self.backends.len())
            .filter_map(|index| self.backends.read(index))
            .collect();
        let members = self.members.keys().collect::<Result<_, MapError>>();
        let source_ranges = (self.source_ranges.keys())
            .map(|key| key.map(|key| (key.data(), key.prefix_len())))
            .collect::<Result<_, MapError>>();
        Ok(Snapshot {
            services,
            slots,
            backends,
            members: members.map_err(|e| map_error(MEMBERS, e))?,
            source_ranges: source_ranges.map_err(|e| map_error(SOURCE_RANGES, e))?,
        })
    }

    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        match op {
            Op::WriteBackend { id, backend } => {
                let index = *id as usize;
                if !self.backends.write(index, *backend) {
                    return Err(out_of_range(BACKENDS, index));
                }
                Ok(())
            }
            Op::WriteSlots { offset, ids } => self.write_slots(*offset, ids),
            Op::ResetCounters { id } => {
                PerCpuValues::try_from(vec![ServiceCounters::default(); self.cpus])
                    .map_err(MapError::IoError)
                    .and_then(|zeros| self.counters.set(*id, zeros, 0))
                    .map_err(|e| map_error(SERVICE_COUNTERS, e))
            }
            Op::SetService { key, entry } => self
                .services
                .insert(key, entry, 0)
                .map_err(|e| map_error(SERVICES, e)),
            Op::RemoveService { key } => removed(SERVICES, self.services.remove(key)),
            Op::SetMember { key } => self
                .members
                .insert(key, 1, 0)
                .map_err(|e| map_error(MEMBERS, e)),
            Op::RemoveMember { key } => removed(MEMBERS, self.members.remove(key)),
            Op::SetSourceRange { key, prefix_len } => self
                .source_ranges
                .insert(&lpm_trie::Key::new(*prefix_len, *key), 1, 0)
                .map_err(|e| map_error(SOURCE_RANGES, e)),
            Op::RemoveSourceRange { key, prefix_len } => {
                let key = lpm_trie::Key::new(*prefix_len, *key);
                removed(SOURCE_RANGES, self.source_ranges.remove(&key))
            }
            Op::BumpEpoch => self.config.next_epoch(),
        }
    }

    fn grace_period(&mut self) {
        wait_for_programs();
    }

    fn begin_grace_period(&mut self) -> GracePeriod {
        GracePeriod::watched_by(wait_for_programs)
    }
}

/// Waits until every program that runs now has ended.
pub(super) fn wait_for_programs() {
    /// `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu()` (`kernel/sched/membarrier.c`), and programs at these hooks run
    /// inside an RCU read-side section.
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // EINVAL on kernels booted with nohz_full.
        std::thread::sleep(GRACE_FALLBACK);
    }
}

/// The counters' own handles: read when metrics are scraped, beside whoever writes the tables.
pub struct Counters {
    services: PerCpuArray<MapData, ServiceCounters>,
    verdicts: PerCpuArray<MapData, u64>,
}

impl Counters {
    /// Opens the pinned counters.
    ///
    /// # Errors
    /// When a map is missing or of another shape.
    pub fn open(layout: &Layout) -> Result<Self> {
        let open = |name| -> Result<_> {
            Ok(aya::maps::Map::PerCpuArray(Object::pinned_map(
                layout, name,
            )?))
        };
        Ok(Self {
            services: PerCpuArray::try_from(open(SERVICE_COUNTERS)?)?,
            verdicts: PerCpuArray::try_from(open(VERDICTS)?)?,
        })
    }

    /// The counters of the service port with that id, over all CPUs. Zero when they cannot be read.
    #[must_use]
    pub fn service(&self, id: u32) -> ServiceCounters {
        let mut sum = ServiceCounters::default();
        if let Ok(values) = self.services.get(&id, 0) {
            for value in values.iter() {
                sum.translated += value.translated;
                sum.refused += value.refused;
            }
        }
        sum
    }

    /// How often the verdict was given, over all CPUs. Zero when it cannot be read.
    #[must_use]
    pub fn verdict(&self, verdict: Verdict) -> u64 {
        self.verdicts
            .get(&(verdict as u32), 0)
            .map_or(0, |values| values.iter().sum())
    }
}

/// Gone already is what was asked for.
fn removed(map: &'static str, result: Result<(), MapError>) -> Result<(), Error> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(|e| map_error(map, e)),
    }
}

fn map_error(map: &'static str, source: MapError) -> Error {
    Error::Map { map, source }
}

fn out_of_range(map: &'static str, index: usize) -> Error {
    Error::OutOfRange {
        map,
        index: index as u64,
    }
}
