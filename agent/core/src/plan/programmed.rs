//! What the kernel's tables hold, as far as this agent knows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use weir_abi::{ServiceEntry, ServiceKey};

use super::tables::{Claim, Draft, Tables, is_address_only};
use super::{Capacity, Op, Plan, PlanError, Retired, ServicePort, Snapshot};
use crate::backend::BackendAddr;
use crate::compile::DesiredService;
use crate::model::ObjectName;

/// How many entries of each table are in use, or not yet free for use again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// `SERVICES`.
    pub services: u32,
    /// `SLOTS`.
    pub slots: u32,
    /// `BACKENDS`.
    pub backends: u32,
    /// `SERVICE_COUNTERS`.
    pub ids: u32,
    /// `MEMBERS`.
    pub members: u32,
    /// `SOURCE_RANGES`.
    pub source_ranges: u32,
}

/// What the kernel's tables hold.
///
/// Every plan moves it forward as though each of the plan's operations succeeded. Whoever fails to apply one must
/// adopt anew from a fresh snapshot.
#[derive(Debug)]
pub struct Programmed {
    pub(super) capacity: Capacity,
    pub(super) tables: Tables,
    /// The ids of each planned service's ports.
    pub(super) services: HashMap<ObjectName, Vec<u32>>,
    /// The services that are not as they should be.
    pub(super) blocked: BTreeMap<ObjectName, Blocked>,
    /// Who waits for a frontend that another service has.
    pub(super) waiting: HashMap<ServiceKey, BTreeSet<ObjectName>>,
    /// Whether leftovers were removed: from then on, what is claimed by nobody is wanted by nobody.
    pub(super) settled: bool,
    /// Whether leftovers were spared for services that do not fit.
    spared: bool,
    /// Whether something has become free since the services that did not fit were last tried.
    freed: bool,
    /// Service port ids some of whose source ranges no program asks for any more.
    unguarded: Vec<u32>,
    /// Sets apart what is retired by different values of this type.
    instance: u64,
}

/// A service that is not as it should be.
#[derive(Debug)]
pub(super) struct Blocked {
    /// How it should be.
    pub(super) desired: DesiredService,
    /// Why it does not fit, if that is why.
    pub(super) full: Option<PlanError>,
    /// The frontends that others have.
    pub(super) conflicts: Vec<PlanError>,
}

impl Programmed {
    /// Empty tables.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        Self::adopt(capacity, Snapshot::default())
    }

    /// Tables that an earlier agent, or this one, has left, in whatever state. What makes no sense in them is replaced
    /// or removed like any other leftover.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a snapshot is large and of no use afterwards"
    )]
    pub fn adopt(capacity: Capacity, snapshot: Snapshot) -> Self {
        static INSTANCES: AtomicU64 = AtomicU64::new(1);
        Self {
            capacity,
            tables: Tables::adopt(capacity, &snapshot),
            services: HashMap::new(),
            blocked: BTreeMap::new(),
            waiting: HashMap::new(),
            settled: false,
            spared: false,
            freed: false,
            unguarded: Vec::new(),
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Plans the way to the desired state of the given services, each named once, and of those that had to wait for what
    /// is free now.
    /// All others stay as they are.
    pub fn plan(&mut self, desired: impl Iterator<Item = DesiredService>) -> Plan {
        self.plan_sparing(desired, |_| false)
    }

    /// As [`Programmed::plan`], but backends that no list has any more stay known to those who were sent there before, as long
    /// as `goes_on` says so and every service fits. It is asked again with every plan.
    pub fn plan_sparing(
        &mut self,
        desired: impl Iterator<Item = DesiredService>,
        goes_on: impl Fn(&BackendAddr) -> bool,
    ) -> Plan {
        let mut draft = Draft::default();
        self.sweep_unguarded(&mut draft);
        let mut tried = BTreeSet::new();
        for desired in desired {
            self.plan_one(desired, &mut tried, &mut draft);
        }

        let mut again = BTreeSet::new();
        if std::mem::take(&mut self.freed) {
            let full = self
                .blocked
                .iter()
                .filter(|(_, blocked)| blocked.full.is_some());
            again.extend(full.map(|(name, _)| name.clone()));
        }
        let mut seen = 0;
        loop {
            for key in &draft.orphans[seen..] {
                again.extend(self.waiting.get(key).into_iter().flatten().cloned());
            }
            seen = draft.orphans.len();
            let Some(name) = again.pop_first() else { break };
            if let Some(desired) = self
                .blocked
                .get(&name)
                .map(|blocked| blocked.desired.clone())
            {
                self.plan_one(desired, &mut tried, &mut draft);
            }
        }

        for key in std::mem::take(&mut draft.orphans) {
            if self.claim(&key) == Some(Claim::Orphaned) {
                self.tables.remove(key, &mut draft);
                self.freed = true;
            }
        }
        if self.spared {
            self.find_unasked_for(&mut draft);
        }
        let mut plan = self.finish(draft, goes_on);
        let still_blocked = tried.iter().filter_map(|name| self.blocked.get(name));
        plan.errors = still_blocked.flat_map(Blocked::errors).cloned().collect();
        plan
    }

    fn plan_one(
        &mut self,
        desired: DesiredService,
        tried: &mut BTreeSet<ObjectName>,
        draft: &mut Draft,
    ) {
        let name = desired.name.clone();
        self.plan_service(desired, draft);
        if self.blocked.contains_key(&name) {
            tried.insert(name);
        }
    }

    /// Once every service was planned: removes the frontends that none of them claimed, and backends that nothing
    /// refers to. A service that does not fit keeps the frontends that it had.
    pub fn plan_leftovers(&mut self) -> Plan {
        self.plan_leftovers_sparing(|_| false)
    }

    /// As [`Programmed::plan_leftovers`], sparing backends as [`Programmed::plan_sparing`] does.
    pub fn plan_leftovers_sparing(&mut self, goes_on: impl Fn(&BackendAddr) -> bool) -> Plan {
        let mut draft = Draft::default();
        let full = self
            .blocked
            .values()
            .filter(|blocked| blocked.full.is_some());
        let wanted: HashSet<ServiceKey> = full.flat_map(|blocked| blocked.desired.keys()).collect();
        // Nonsense is not worth sparing: it may be what takes the room.
        let spared = |key: &ServiceKey| wanted.contains(key) && self.tables.is_sound(key);
        let adopted = (self.tables.entries.iter())
            .filter(|(_, record)| record.claim == Claim::Adopted)
            .map(|(key, _)| *key);
        let mut leftovers: Vec<ServiceKey> = adopted.filter(|key| !spared(key)).collect();
        leftovers.sort_unstable();
        for key in leftovers {
            self.tables.remove(key, &mut draft);
        }
        let addresses = self
            .tables
            .entries
            .keys()
            .filter(|key| is_address_only(key));
        let addresses = addresses.map(|key| (key.addr, key.scope));
        draft.addresses.extend(addresses);
        self.find_unasked_for(&mut draft);
        // An agent that stopped in the middle of a plan did not come to it.
        draft.new_epoch = true;
        draft.idle.extend(self.tables.backends.idle());
        self.settled = true;
        self.freed = true;
        self.finish(draft, goes_on)
    }

    /// Finds the members and source ranges that no port has asked for. Entries that were spared keep theirs.
    fn find_unasked_for(&mut self, draft: &mut Draft) {
        let spared = self.tables.entries.values();
        let spared = spared.filter(|record| record.claim == Claim::Adopted);
        let spared: Vec<&ServiceEntry> = spared.map(|record| &record.entry).collect();
        self.spared = !spared.is_empty();
        let lists: HashSet<u32> = spared.iter().map(|entry| entry.list).collect();
        let ids: HashSet<u32> = spared.iter().map(|entry| entry.id).collect();
        let unswept = self.tables.members.unswept().into_iter();
        draft
            .member_lists
            .extend(unswept.filter(|list| !lists.contains(list)));
        // Those of a planned port are on their way already.
        let unswept = self.tables.guards.unswept().into_iter();
        let of_nobody = |id: &u32| !ids.contains(id) && !self.tables.ports.contains_key(id);
        draft.guards.extend(unswept.filter(of_nobody));
    }

    /// Removes the source ranges that nobody asks for any more.
    fn sweep_unguarded(&mut self, draft: &mut Draft) {
        let ops = &mut draft.plan.ops;
        self.tables.guards.sweep_foreign(ops);
        for id in std::mem::take(&mut self.unguarded) {
            self.tables.guards.sweep(id, ops);
        }
        self.freed |= !ops.is_empty();
    }

    fn finish(&mut self, mut draft: Draft, goes_on: impl Fn(&BackendAddr) -> bool) -> Plan {
        self.tables.settle_addresses(&mut draft);
        self.freed |= !draft.member_lists.is_empty() || !draft.guards.is_empty();
        self.tables.sweep(&mut draft);
        let crowded = self.blocked.values().any(|blocked| blocked.full.is_some());
        self.tables
            .retire_idle(&mut draft, |backend| !crowded && goes_on(backend));
        if draft.new_epoch {
            draft.plan.ops.push(Op::BumpEpoch);
        }
        draft.plan.retired.instance = self.instance;
        draft.plan
    }

    /// Gives back what a plan retired, once its `after_grace` was applied. What another value of this type has retired
    /// is ignored: adoption has found out by itself what is free.
    pub fn release(&mut self, retired: Retired) {
        if retired.instance != self.instance || retired.is_empty() {
            return;
        }
        for (offset, len) in retired.ranges {
            self.tables.free_slots.give_back(offset, len);
        }
        for id in retired.backends {
            self.tables.backends.give_back(id);
        }
        for id in retired.ids {
            self.tables.free_ids.give_back(id, 1);
        }
        self.unguarded.extend(retired.guards);
        self.freed = true;
    }

    /// Whether a service that did not fit may fit now, or something is to be removed that nobody uses any more: plan
    /// again, if only with no service at all.
    #[must_use]
    pub fn wants_plan(&self) -> bool {
        let waits = |blocked: &Blocked| blocked.full.is_some();
        !self.unguarded.is_empty() || self.freed && self.blocked.values().any(waits)
    }

    /// What is not programmed as it should be, by service.
    pub fn errors(&self) -> impl Iterator<Item = &PlanError> {
        self.blocked.values().flat_map(Blocked::errors)
    }

    /// The tables' capacity.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// How much of it is in use.
    #[must_use]
    pub fn counts(&self) -> TableCounts {
        let Capacity { slots, ids, .. } = self.capacity;
        TableCounts {
            services: u32::try_from(self.tables.entries.len()).unwrap_or(u32::MAX),
            slots: slots - self.tables.free_slots.available(),
            backends: self.tables.backends.used(),
            ids: ids.saturating_sub(1) - self.tables.free_ids.available(),
            members: u32::try_from(self.tables.members.len()).unwrap_or(u32::MAX),
            source_ranges: u32::try_from(self.tables.guards.len()).unwrap_or(u32::MAX),
        }
    }

    /// The service ports and their ids, by id.
    pub fn service_ports(&self) -> impl Iterator<Item = (&ServicePort, u32)> {
        self.tables.ports.iter().map(|(&id, port)| (&port.port, id))
    }

    /// The entry of a frontend or address.
    #[must_use]
    pub fn entry(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.tables.entries.get(key).map(|record| &record.entry)
    }

    pub(super) fn claim(&self, key: &ServiceKey) -> Option<Claim> {
        self.tables.entries.get(key).map(|record| record.claim)
    }
}

impl Blocked {
    fn errors(&self) -> impl Iterator<Item = &PlanError> {
        self.full.iter().chain(&self.conflicts)
    }
}
