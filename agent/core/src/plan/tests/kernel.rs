//! A small kernel: tables that are written one operation at a time, and readers who may still follow what they read
//! before the last grace period.

use std::collections::{BTreeMap, BTreeSet};

use weir_abi::service::backend_state;
use weir_abi::{Backend, ServiceEntry, ServiceKey, Verdict};

use crate::plan::{Capacity, Op, Plan, Programmed, Snapshot};

/// What a program sees behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The seal does not fit: the program does not follow the entry.
    Broken,
    /// No translation, and why.
    Verdict(u8),
    /// The backends it chooses from; `None` beyond the end of a table.
    List(Vec<Option<Backend>>),
}

impl Seen {
    /// Panics unless a program can use what it sees.
    fn assert_whole(&self, key: &ServiceKey) {
        match self {
            Self::Broken => panic!("the seal of {key:?} does not fit"),
            Self::Verdict(verdict) => assert!(
                Verdict::from_u8(*verdict).is_some_and(|verdict| verdict != Verdict::Translate),
                "{key:?} has verdict {verdict}"
            ),
            Self::List(list) => {
                assert!(!list.is_empty(), "{key:?} has no backends");
                for backend in list {
                    let state = backend.map(|backend| backend.state);
                    assert_eq!(
                        state,
                        Some(backend_state::ACTIVE),
                        "{key:?} leads to {backend:?}"
                    );
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) capacity: Capacity,
    pub(super) services: BTreeMap<ServiceKey, ServiceEntry>,
    pub(super) slots: Vec<u32>,
    pub(super) backends: Vec<Backend>,
    /// Ids whose counters were reset, in order.
    pub(super) resets: Vec<u32>,
    /// What was read since the last grace period, and what it led to then.
    in_flight: Vec<(ServiceKey, ServiceEntry, Seen)>,
    /// Whether the tables were in order to begin with: then they must be so forever.
    sane: bool,
    /// Whether there may be things that nobody has asked for yet.
    pub(super) leftovers: bool,
}

const ZERO_BACKEND: Backend = Backend {
    addr: weir_abi::Address([0; 16]),
    port_be: 0,
    proto: 0,
    state: backend_state::FREE,
    generation: 0,
};

impl Kernel {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            services: BTreeMap::new(),
            slots: vec![0; capacity.slots as usize],
            backends: vec![ZERO_BACKEND; capacity.backends as usize],
            resets: Vec::new(),
            in_flight: Vec::new(),
            sane: true,
            leftovers: false,
        }
    }

    /// A kernel with these tables, in whatever state.
    pub(super) fn with(capacity: Capacity, snapshot: Snapshot) -> Self {
        let mut kernel = Self::new(capacity);
        kernel.services = snapshot.services.into_iter().collect();
        kernel.slots[..snapshot.slots.len()].copy_from_slice(&snapshot.slots);
        kernel.backends[..snapshot.backends.len()].copy_from_slice(&snapshot.backends);
        kernel.sane = false;
        kernel.leftovers = true;
        kernel.grace();
        kernel
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            services: self
                .services
                .iter()
                .map(|(key, entry)| (*key, *entry))
                .collect(),
            slots: self.slots.clone(),
            backends: self.backends.clone(),
        }
    }

    fn follow(&self, key: &ServiceKey, entry: &ServiceEntry) -> Seen {
        if !entry.is_sealed_for(key) {
            return Seen::Broken;
        }
        if entry.verdict != Verdict::Translate as u8 {
            return Seen::Verdict(entry.verdict);
        }
        // One beyond the end stands for all that are beyond.
        let end = entry.slots_offset.saturating_add(entry.slots_count);
        let slots = entry.slots_offset..end.min(self.capacity.slots + 1);
        let backend = |slot: u32| {
            let id = self.slots.get(slot as usize)?;
            self.backends.get(*id as usize).copied()
        };
        Seen::List(slots.map(backend).collect())
    }

    /// What programs see now, by key.
    pub(super) fn seen(&self) -> BTreeMap<ServiceKey, Seen> {
        self.services
            .iter()
            .map(|(key, entry)| (*key, self.follow(key, entry)))
            .collect()
    }

    /// Every program that was running has ended.
    pub(super) fn grace(&mut self) {
        self.in_flight.clear();
        for (key, entry) in self.services.clone() {
            self.read(key, entry);
        }
    }

    fn read(&mut self, key: ServiceKey, entry: ServiceEntry) {
        let seen = self.follow(&key, &entry);
        self.in_flight.push((key, entry, seen));
    }

    /// One operation; afterwards whoever is running must still see what it saw.
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::WriteBackend { id, backend } => {
                assert_ne!(*id, 0, "backend id 0 is never used");
                let former = &mut self.backends[*id as usize];
                let expected = match backend.state {
                    backend_state::FREE => former.generation.wrapping_add(1),
                    _ => former.generation,
                };
                assert_eq!(backend.generation, expected, "{former:?} -> {backend:?}");
                *former = *backend;
            }
            Op::WriteSlots { offset, ids } => {
                let start = *offset as usize;
                self.slots[start..start + ids.len()].copy_from_slice(ids);
            }
            Op::ResetCounters { id } => {
                assert!(*id != 0 && *id < self.capacity.ids, "counters of {id}");
                self.resets.push(*id);
            }
            Op::SetService { key, entry } => {
                self.services.insert(*key, *entry);
                let size = self.services.len();
                assert!(
                    size <= self.capacity.services as usize,
                    "SERVICES overflows"
                );
                self.read(*key, *entry);
                self.follow(key, entry).assert_whole(key);
            }
            Op::RemoveService { key } => {
                let removed = self.services.remove(key);
                assert!(removed.is_some(), "{key:?} is not there to be removed");
            }
        }
        for (key, entry, seen) in &self.in_flight {
            assert_eq!(
                self.follow(key, entry),
                *seen,
                "after {op:?}, behind {key:?}"
            );
        }
    }

    /// Applies a plan, stopping after `stop` operations if that comes first; whether it was applied to its end.
    ///
    /// After every operation, each key must lead to what it led to before, or to what it will lead to in the end.
    pub(super) fn apply_until(&mut self, plan: &Plan, stop: usize) -> bool {
        let before = self.seen();
        let after = {
            let mut end = self.clone();
            end.sane = false;
            end.in_flight.clear();
            for op in &plan.ops {
                end.apply(op);
            }
            end.seen()
        };
        let keys: BTreeSet<&ServiceKey> = before.keys().chain(after.keys()).collect();
        for (count, op) in plan.ops.iter().enumerate() {
            if count == stop {
                return false;
            }
            self.apply(op);
            let now = self.seen();
            for key in &keys {
                let seen = now.get(*key);
                let expected = seen == before.get(*key) || seen == after.get(*key);
                assert!(expected, "{key:?} leads to {seen:?} after {op:?}");
            }
            if self.sane {
                now.iter().for_each(|(key, seen)| seen.assert_whole(key));
            }
        }
        if plan.ops.len() >= stop {
            return false;
        }
        self.grace();
        for (count, op) in plan.after_grace.iter().enumerate() {
            if plan.ops.len() + count == stop {
                return false;
            }
            assert!(
                matches!(op, Op::WriteBackend { .. }),
                "{op:?} after the grace period"
            );
            self.apply(op);
        }
        true
    }

    /// Plans, applies and releases.
    pub(super) fn run(&mut self, programmed: &mut Programmed, plan: Plan) {
        assert!(self.apply_until(&plan, usize::MAX));
        programmed.release(plan.retired);
        self.assert_agrees(programmed);
    }

    /// Panics if the agent believes anything else about what is in use than what is.
    pub(super) fn assert_agrees(&self, programmed: &Programmed) {
        let counts = programmed.counts();
        assert_eq!(counts.services as usize, self.services.len());
        for (key, entry) in &self.services {
            assert_eq!(programmed.entry(key), Some(entry), "{key:?}");
        }
        if !self.sane {
            return;
        }
        let ranges: BTreeSet<(u32, u32)> = (self.services.values())
            .map(|entry| (entry.slots_offset, entry.slots_count))
            .collect();
        let slots = ranges
            .iter()
            .flat_map(|&(offset, count)| offset..offset + count);
        let slots: BTreeSet<u32> = slots.collect();
        assert_eq!(counts.slots as usize, slots.len());
        let used: BTreeSet<u32> = slots
            .iter()
            .map(|&slot| self.slots[slot as usize])
            .collect();
        let active: BTreeSet<u32> = (0..)
            .zip(&self.backends)
            .filter(|&(id, backend)| id != 0 && backend.state == backend_state::ACTIVE)
            .map(|(id, _)| id)
            .collect();
        assert_eq!(counts.backends as usize, active.len());
        let with_ids = self.services.values().filter(|entry| entry.id != 0);
        let ids: BTreeSet<u32> = (with_ids.map(|entry| entry.id))
            .chain(programmed.service_ports().map(|(_, id)| id))
            .collect();
        assert_eq!(counts.ids as usize, ids.len());
        if self.leftovers {
            assert!(active.is_superset(&used));
        } else {
            assert_eq!(active, used);
            assert_eq!(ids.len(), programmed.service_ports().count());
        }
    }

    /// From now on the tables must be in order.
    pub(super) fn assert_sane(&mut self) {
        self.sane = true;
        self.seen()
            .iter()
            .for_each(|(key, seen)| seen.assert_whole(key));
    }
}
