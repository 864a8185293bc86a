//! A small kernel: tables that are written one operation at a time, and readers who may still follow what they read
//! before the last grace period.

use std::collections::{BTreeMap, BTreeSet};

use std::net::IpAddr;

use weir_abi::service::{backend_state, flags};
use weir_abi::{Address, Backend, MemberKey, ServiceEntry, ServiceKey, SourceRangeKey, Verdict};

use crate::compile::SourceRange;
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

/// Some clients, of both families.
const CLIENTS: [&str; 5] = [
    "192.0.2.1",
    "192.0.2.129",
    "198.51.100.1",
    "2001:db8::1",
    "fd00::1",
];

/// Whether each of [`CLIENTS`] may come in.
type Admitted = [bool; CLIENTS.len()];

/// A program that has read an entry.
#[derive(Clone, Debug)]
struct Reader {
    key: ServiceKey,
    entry: ServiceEntry,
    /// What it led to then,
    seen: Seen,
    /// and for whom.
    admitted: Admitted,
}

#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) capacity: Capacity,
    pub(super) services: BTreeMap<ServiceKey, ServiceEntry>,
    pub(super) slots: Vec<u32>,
    pub(super) backends: Vec<Backend>,
    /// List and backend id.
    pub(super) members: BTreeSet<(u32, u32)>,
    /// Id, address and prefix length of both.
    pub(super) source_ranges: BTreeSet<(u32, Address, u32)>,
    pub(super) epoch: u32,
    /// Ids whose counters were reset, in order.
    pub(super) resets: Vec<u32>,
    /// Who has read something since the last grace period.
    in_flight: Vec<Reader>,
    /// Whether the tables were in order to begin with: then they must be so forever.
    sane: bool,
    /// Whether there may be things that nobody has asked for yet.
    pub(super) leftovers: bool,
}

const ZERO_BACKEND: Backend = Backend {
    addr: Address([0; 16]),
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
            members: BTreeSet::new(),
            source_ranges: BTreeSet::new(),
            epoch: 0,
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
        let members = snapshot.members.iter();
        kernel.members = members.map(|key| (key.list, key.backend_id)).collect();
        let ranges = snapshot.source_ranges.iter();
        kernel.source_ranges = ranges.map(|(key, len)| (key.id, key.addr, *len)).collect();
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
            members: (self.members.iter())
                .map(|&(list, backend_id)| MemberKey { list, backend_id })
                .collect(),
            source_ranges: (self.source_ranges.iter())
                .map(|&(id, addr, prefix_len)| (SourceRangeKey { id, addr }, prefix_len))
                .collect(),
        }
    }

    /// Who may come in through an entry.
    fn admitted(&self, entry: &ServiceEntry) -> Admitted {
        CLIENTS.map(|client| {
            let addr = Address::from(client.parse::<IpAddr>().expect("an address"));
            let matches = |(id, prefix, prefix_len): &(u32, Address, u32)| {
                let of = |addr| SourceRange::of_key(&SourceRangeKey { id: *id, addr }, *prefix_len);
                // A prefix that does not cover the id is everybody's.
                match of(*prefix) {
                    None => *prefix_len < 32,
                    range => *id == entry.id && range == of(addr),
                }
            };
            entry.flags & flags::SOURCE_RANGES == 0 || self.source_ranges.iter().any(matches)
        })
    }

    /// Panics unless every backend of every list with session affinity is known as a member.
    fn assert_members(&self) {
        for (key, entry) in &self.services {
            for member in self.members_of(entry) {
                assert!(
                    self.members.contains(&member),
                    "{key:?}: {member:?} is no member"
                );
            }
        }
    }

    fn members_of(&self, entry: &ServiceEntry) -> BTreeSet<(u32, u32)> {
        if entry.flags & flags::AFFINITY == 0 || entry.verdict != Verdict::Translate as u8 {
            return BTreeSet::new();
        }
        let slots = entry.slots_offset..entry.slots_offset + entry.slots_count;
        slots
            .map(|slot| (entry.list, self.slots[slot as usize]))
            .collect()
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
            let backend = *self.backends.get(*id as usize)?;
            // Of which generation it is matters to those only who remember it.
            Some(Backend {
                generation: 0,
                ..backend
            })
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
        self.in_flight.push(Reader {
            key,
            entry,
            seen: self.follow(&key, &entry),
            admitted: self.admitted(&entry),
        });
    }

    /// One operation; afterwards whoever is running must still see what it saw.
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::WriteBackend { id, backend } => {
                assert_ne!(*id, 0, "backend id 0 is never used");
                let former = &mut self.backends[*id as usize];
                // Told to whoever remembers it: first that it is nobody's any more, then that it is nothing any more.
                let told = backend.state == backend_state::FREE
                    || former.state == backend_state::ACTIVE && former.addr == backend.addr;
                let expected = former.generation.wrapping_add(u32::from(told));
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
            Op::SetMember { key } => {
                let backend = self.backends.get(key.backend_id as usize);
                let state = backend.map(|backend| backend.state);
                assert_eq!(state, Some(backend_state::ACTIVE), "{key:?}: {backend:?}");
                assert!(
                    self.members.insert((key.list, key.backend_id)),
                    "{key:?} again"
                );
                let size = self.members.len();
                assert!(size <= self.capacity.members as usize, "MEMBERS overflows");
            }
            Op::RemoveMember { key } => {
                let removed = self.members.remove(&(key.list, key.backend_id));
                assert!(removed, "{key:?} is not there to be removed");
            }
            Op::SetSourceRange { key, prefix_len } => {
                assert!((32..=160).contains(prefix_len), "{prefix_len}");
                let added = self.source_ranges.insert((key.id, key.addr, *prefix_len));
                assert!(added, "{key:?}/{prefix_len} again");
                let size = self.source_ranges.len();
                let room = self.capacity.source_ranges as usize;
                assert!(size <= room, "SOURCE_RANGES overflows");
            }
            Op::RemoveSourceRange { key, prefix_len } => {
                let removed = self.remove_source_range(key, *prefix_len);
                assert!(removed, "{key:?}/{prefix_len} is not there to be removed");
            }
            Op::BumpEpoch => self.epoch += 1,
        }
        // What nobody has asked for yet may have had its id taken over.
        if self.sane && !self.leftovers {
            self.assert_members();
        }
        for Reader {
            key, entry, seen, ..
        } in &self.in_flight
        {
            assert_eq!(
                self.follow(key, entry),
                *seen,
                "after {op:?}, behind {key:?}"
            );
        }
    }

    /// Removes the range of that prefix, whatever was written below it.
    fn remove_source_range(&mut self, key: &SourceRangeKey, prefix_len: u32) -> bool {
        let before = self.source_ranges.len();
        let wanted = SourceRange::of_key(key, prefix_len);
        self.source_ranges.retain(|&(id, addr, len)| {
            let other = SourceRangeKey { id, addr };
            let same = match &wanted {
                Some(wanted) => SourceRange::of_key(&other, len).as_ref() == Some(wanted),
                None => other == *key,
            };
            len != prefix_len || !same
        });
        self.source_ranges.len() < before
    }

    /// Panics if somebody is kept out whom both the old and the new tables let in, or let in whom both keep out: by what
    /// is in the tables, or by what a program has read that still runs. A frontend that passes from one port to another
    /// may still go by the first one's new ranges until it is the other's.
    fn assert_admits(&self, after: &BTreeMap<ServiceKey, (u32, Admitted)>, op: &Op) {
        for reader in &self.in_flight {
            let Some((id, end)) = after.get(&reader.key) else {
                continue;
            };
            let passed_on = *id != reader.entry.id;
            let by_entry = self.admitted(&reader.entry);
            for (client, now) in by_entry.into_iter().enumerate() {
                let (was, will) = (reader.admitted[client], end[client]);
                assert!(
                    now == was || now == will || (now && passed_on),
                    "after {op:?}, {:?} admits {}: {now}",
                    reader.key,
                    CLIENTS[client]
                );
            }
        }
    }

    fn all_admitted(&self) -> BTreeMap<ServiceKey, (u32, Admitted)> {
        let admitted =
            |(key, entry): (&ServiceKey, &ServiceEntry)| (*key, (entry.id, self.admitted(entry)));
        self.services.iter().map(admitted).collect()
    }

    /// Applies a plan, stopping after `stop` operations if that comes first; whether it was applied to its end.
    ///
    /// After every operation, each key must lead to what it led to before, or to what it will lead to in the end.
    pub(super) fn apply_until(&mut self, plan: &Plan, stop: usize) -> bool {
        let before = self.seen();
        let (after, admitted) = {
            let mut end = self.clone();
            end.sane = false;
            end.in_flight.clear();
            for op in &plan.ops {
                end.apply(op);
            }
            (end.seen(), end.all_admitted())
        };
        self.assert_epoch(plan, &before, &after);
        let keys: BTreeSet<&ServiceKey> = before.keys().chain(after.keys()).collect();
        for (count, op) in plan.ops.iter().enumerate() {
            if count == stop {
                return false;
            }
            self.apply(op);
            if self.sane {
                self.assert_admits(&admitted, op);
            }
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

    /// Panics unless the plan ends with a new epoch if frontends come or go, or if others of an address are treated
    /// in another way.
    fn assert_epoch(
        &self,
        plan: &Plan,
        before: &BTreeMap<ServiceKey, Seen>,
        after: &BTreeMap<ServiceKey, Seen>,
    ) {
        let bumps = plan.ops.iter().filter(|op| **op == Op::BumpEpoch).count();
        let last = plan.ops.last() == Some(&Op::BumpEpoch);
        assert_eq!(bumps, usize::from(last), "{:?}", plan.ops);
        let known = |seen: &BTreeMap<ServiceKey, Seen>| {
            let treated = |(key, seen): (&ServiceKey, &Seen)| {
                let address = *key == ServiceKey::address_only(key.addr, key.scope);
                (*key, address.then(|| seen.clone()))
            };
            seen.iter().map(treated).collect::<Vec<_>>()
        };
        assert!(
            last || known(before) == known(after),
            "no new epoch: {:?}",
            plan.ops
        );
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
        assert_eq!(counts.members as usize, self.members.len());
        assert_eq!(counts.source_ranges as usize, self.source_ranges.len());
        if !self.sane {
            return;
        }
        let members = self
            .services
            .values()
            .flat_map(|entry| self.members_of(entry));
        let members: BTreeSet<(u32, u32)> = members.collect();
        if !self.leftovers {
            assert_eq!(self.members, members);
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
