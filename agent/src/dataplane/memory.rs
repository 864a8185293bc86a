//! Tables in memory, which fail where a test tells them to.

use std::collections::{BTreeMap, HashMap, HashSet};

use weir_abi::{
    Backend, MemberKey, ServiceEntry, ServiceKey, SourceRangeKey, service::backend_state,
};
use weir_core::plan::{Capacity, Op, Snapshot};

use super::{Dataplane, Error};

/// Tables in memory. Also what benches use to leave the kernel out.
pub struct Memory {
    capacity: Capacity,
    services: HashMap<ServiceKey, ServiceEntry>,
    slots: Vec<u32>,
    backends: Vec<Backend>,
    members: HashSet<MemberKey>,
    source_ranges: BTreeMap<(u32, [u8; 16], u32), SourceRangeKey>,
    epoch: u32,
    fail_at: Option<u64>,
    applied: u64,
    grace_periods: u64,
}

impl Memory {
    /// Empty tables of that size.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        let free = Backend {
            addr: weir_abi::Address([0; 16]),
            port_be: 0,
            proto: 0,
            state: backend_state::FREE,
            generation: 0,
        };
        Self {
            capacity,
            services: HashMap::new(),
            slots: vec![0; capacity.slots as usize],
            backends: vec![free; capacity.backends as usize],
            members: HashSet::new(),
            source_ranges: BTreeMap::new(),
            epoch: 0,
            fail_at: None,
            applied: 0,
            grace_periods: 0,
        }
    }

    /// Lets the next `operations` operations succeed and the one after them fail, once.
    pub fn fail_after(&mut self, operations: u64) {
        self.fail_at = Some(self.applied + operations);
    }

    /// How many operations were applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// How many grace periods were waited for.
    #[must_use]
    pub fn grace_periods(&self) -> u64 {
        self.grace_periods
    }

    /// What a connect to `key` could be sent to now, as the kernel would choose: `None` for an unknown frontend, empty
    /// where it would be refused. A backend that is not in use counts as inconsistent and is an error.
    ///
    /// # Errors
    /// What is wrong with the tables.
    pub fn resolve(&self, key: &ServiceKey) -> Result<Option<Vec<Backend>>, String> {
        let entry = self.services.get(key);
        entry.map(|entry| self.follow(key, entry)).transpose()
    }

    /// Where a program gets now that has read `entry` under `key` at some time: see [`Memory::resolve`].
    ///
    /// # Errors
    /// What is wrong with the tables.
    pub fn follow(&self, key: &ServiceKey, entry: &ServiceEntry) -> Result<Vec<Backend>, String> {
        if !entry.is_sealed_for(key) {
            return Err(format!("{key:?}: the entry is not sealed for its key"));
        }
        let offset = entry.slots_offset as usize;
        let ids = self
            .slots
            .get(offset..offset + entry.slots_count as usize)
            .ok_or_else(|| format!("{key:?}: slots out of range"))?;
        ids.iter()
            .map(|id| match self.backends.get(*id as usize) {
                Some(backend) if backend.state == backend_state::ACTIVE => Ok(*backend),
                other => Err(format!(
                    "{key:?}: slot holds backend {id}, which is {other:?}"
                )),
            })
            .collect()
    }

    /// The entry under `key`.
    #[must_use]
    pub fn entry(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.services.get(key)
    }

    /// How often flows were to be looked at again.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// How many frontends there are.
    #[must_use]
    pub fn frontends(&self) -> usize {
        self.services.len()
    }

    /// How many backends are in use.
    #[must_use]
    pub fn active_backends(&self) -> usize {
        let active = |backend: &&Backend| backend.state == backend_state::ACTIVE;
        self.backends.iter().filter(active).count()
    }
}

impl Dataplane for Memory {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn snapshot(&mut self) -> Result<Snapshot, Error> {
        Ok(Snapshot {
            services: self.services.iter().map(|(k, v)| (*k, *v)).collect(),
            slots: self.slots.clone(),
            backends: self.backends.clone(),
            members: self.members.iter().copied().collect(),
            source_ranges: (self.source_ranges.iter())
                .map(|((.., prefix_len), key)| (*key, *prefix_len))
                .collect(),
        })
    }

    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        if self.fail_at.is_some_and(|at| self.applied >= at) {
            self.fail_at = None;
            return Err(Error::Injected);
        }
        self.applied += 1;
        match op {
            Op::WriteBackend { id, backend } => {
                let slot = self
                    .backends
                    .get_mut(*id as usize)
                    .ok_or(Error::OutOfRange {
                        map: weir_abi::table::BACKENDS,
                        index: u64::from(*id),
                    })?;
                *slot = *backend;
            }
            Op::WriteSlots { offset, ids } => {
                let start = *offset as usize;
                let slots =
                    self.slots
                        .get_mut(start..start + ids.len())
                        .ok_or(Error::OutOfRange {
                            map: weir_abi::table::SLOTS,
                            index: (start + ids.len()) as u64,
                        })?;
                slots.copy_from_slice(ids);
            }
            Op::ResetCounters { .. } => {}
            Op::SetService { key, entry } => {
                self.services.insert(*key, *entry);
            }
            Op::RemoveService { key } => {
                self.services.remove(key);
            }
            Op::SetMember { key } => {
                self.members.insert(*key);
            }
            Op::RemoveMember { key } => {
                self.members.remove(key);
            }
            Op::SetSourceRange { key, prefix_len } => {
                let prefix = (key.id, key.addr.0, *prefix_len);
                self.source_ranges.insert(prefix, *key);
            }
            Op::RemoveSourceRange { key, prefix_len } => {
                self.source_ranges
                    .remove(&(key.id, key.addr.0, *prefix_len));
            }
            Op::BumpEpoch => self.epoch = self.epoch.wrapping_add(1),
        }
        Ok(())
    }

    fn grace_period(&mut self) {
        self.grace_periods += 1;
    }
}
