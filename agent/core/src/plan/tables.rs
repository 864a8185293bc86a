//! The kernel's tables as they are once every operation so far is applied, with who needs what.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use weir_abi::service::proto;
use weir_abi::{Address, ServiceEntry, ServiceKey, Verdict};

use super::alloc::RangeAllocator;
use super::backends::Backends;
use super::guards::Guards;
use super::members::{self, Members};
use super::{Op, Plan, ServicePort};
use crate::backend::BackendAddr;
use crate::compile::SourceRange;

#[derive(Debug)]
pub(super) struct Tables {
    pub(super) backends: Backends,
    pub(super) free_slots: RangeAllocator,
    pub(super) free_ids: RangeAllocator,
    /// The ranges of slots that entries refer to, by offset.
    pub(super) ranges: HashMap<u32, Range>,
    /// All of `SERVICES`.
    pub(super) entries: HashMap<ServiceKey, Record>,
    /// The addresses that have frontends in a scope. Each has an entry of its own as long as it has one.
    pub(super) addresses: HashMap<(Address, u8), Frontends>,
    /// The entries of addresses that are to come with the end of the plan.
    pub(super) awaited: HashSet<ServiceKey>,
    pub(super) members: Members,
    pub(super) guards: Guards,
    /// How many entries and ports refer to a service port's id.
    pub(super) id_refs: HashMap<u32, u32>,
    /// The ports of the planned services, by id.
    pub(super) ports: BTreeMap<u32, Port>,
}

/// The frontends of an address in a scope.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frontends {
    /// How many there are.
    count: u32,
    /// How many of them leave the address's other ports alone.
    open: u32,
}

impl Frontends {
    pub(super) fn add(&mut self, open: bool) {
        self.count += 1;
        self.open += u32::from(open);
    }

    fn remove(&mut self, open: bool) {
        self.count -= 1;
        self.open -= u32::from(open);
    }

    /// What becomes of traffic to ports of the address that no service has. An address that is a cluster IP and nothing
    /// else has no other ports, and who tries one is refused. As soon as it is anything else too (a node's address, a
    /// load balancer's, an external one), it may have ports that are none of our business: one service must not take
    /// them from whoever has them.
    fn unknown_port(self) -> Verdict {
        if self.open == 0 {
            Verdict::UnknownPort
        } else {
            Verdict::Pass
        }
    }
}

/// A list of backends in `SLOTS`.
#[derive(Debug)]
pub(super) struct Range {
    /// What the slots hold.
    pub(super) ids: Box<[u32]>,
    /// How many entries refer to the range.
    pub(super) refs: u32,
    /// Whether every slot holds a backend that is in use. What is not so is foreign; nothing new may refer to it.
    pub(super) usable: bool,
}

/// An element of `SERVICES`.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) entry: ServiceEntry,
    /// The range whose slots the kernel may read through the entry.
    pub(super) range: Option<u32>,
    /// The service port id that the entry keeps from being reused.
    pub(super) id: Option<u32>,
    pub(super) claim: Claim,
    /// Whether it leaves the address's other ports alone.
    pub(super) open: bool,
}

/// Who wants an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Found in the tables; no service has asked for it yet.
    Adopted,
    /// Nobody any more; it is removed at the end of the plan unless somebody asks for it.
    Orphaned,
    /// The port with that id.
    Port(u32),
    /// It is the entry of an address, wanted as long as the address has frontends.
    Address,
}

/// A port of a planned service.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) port: ServicePort,
    pub(super) keys: Vec<ServiceKey>,
}

/// A plan in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) plan: Plan,
    /// Backends that were without a reference at some moment.
    pub(super) idle: Vec<u32>,
    /// Frontends that were nobody's at some moment.
    pub(super) orphans: Vec<ServiceKey>,
    /// Addresses that have lost a frontend, or have one of another kind.
    pub(super) addresses: Vec<(Address, u8)>,
    /// Lists that may have members that are not wanted.
    pub(super) member_lists: Vec<u32>,
    /// Service port ids of nobody, which may have source ranges nevertheless.
    pub(super) guards: Vec<u32>,
    /// Whether flows that remember "not a service" must be looked at again.
    pub(super) new_epoch: bool,
}

pub(super) fn is_address_only(key: &ServiceKey) -> bool {
    key.port_be == 0 && key.proto == proto::ANY
}

impl Tables {
    /// Whether a range holds exactly this list.
    pub(super) fn range_holds(&self, offset: u32, list: &[BackendAddr]) -> bool {
        self.ranges.get(&offset).is_some_and(|range| {
            let mut pairs = range.ids.iter().zip(list);
            range.usable
                && range.ids.len() == list.len()
                && pairs.all(|(&id, addr)| self.backends.get(id) == Some(addr))
        })
    }

    /// Whether an entry leads somewhere, or says why not, as entries of ours do.
    pub(super) fn is_sound(&self, key: &ServiceKey) -> bool {
        let Some(record) = self.entries.get(key) else {
            return false;
        };
        let entry = &record.entry;
        let whole = |range: &Range| {
            range.usable
                && record.range == Some(entry.slots_offset)
                && range.ids.len() == entry.slots_count as usize
        };
        entry.is_sealed_for(key)
            && match Verdict::from_u8(entry.verdict) {
                None => false,
                Some(Verdict::Translate) => {
                    let range = record.range.and_then(|offset| self.ranges.get(&offset));
                    range.is_some_and(whole)
                }
                Some(_) => true,
            }
    }

    /// Sets a frontend. What its former entry referred to is no longer needed by it.
    pub(super) fn set(
        &mut self,
        key: ServiceKey,
        entry: ServiceEntry,
        (range, open): (Option<u32>, bool),
        draft: &mut Draft,
    ) {
        let claim = Claim::Port(entry.id);
        let address = (key.addr, key.scope);
        if let Some(record) = self.entries.get_mut(&key) {
            if record.open != open {
                let frontends = self.addresses.entry(address).or_default();
                frontends.remove(record.open);
                frontends.add(open);
                draft.addresses.push(address);
                record.open = open;
            }
            if record.entry == entry {
                record.claim = claim;
                return;
            }
        }
        if let Some(offset) = range {
            self.hold_range(offset);
        }
        *self.id_refs.entry(entry.id).or_default() += 1;
        let id = Some(entry.id);
        let record = Record {
            entry,
            range,
            id,
            claim,
            open,
        };
        match self.entries.insert(key, record) {
            Some(former) => self.forget(&former, draft),
            None => {
                self.addresses.entry(address).or_default().add(open);
                let key = ServiceKey::address_only(key.addr, key.scope);
                if !self.entries.contains_key(&key) {
                    self.awaited.insert(key);
                }
                draft.addresses.push(address);
                draft.new_epoch = true;
            }
        }
        draft.plan.ops.push(Op::SetService { key, entry });
    }

    /// Sees to it that an address has its right entry, or none if it has no frontends.
    fn settle_address(&mut self, addr: Address, scope: u8, draft: &mut Draft) {
        let key = ServiceKey::address_only(addr, scope);
        let Some(frontends) = self.addresses.get(&(addr, scope)) else {
            if let Some(record) = self.entries.remove(&key) {
                draft.plan.ops.push(Op::RemoveService { key });
                draft.new_epoch = true;
                self.forget(&record, draft);
            }
            return;
        };
        let entry = ServiceEntry::new(&key, 0, 0, 0, frontends.unknown_port());
        let known = self.entries.get(&key);
        if known.is_some_and(|record| record.entry == entry) {
            return;
        }
        let record = Record {
            entry,
            range: None,
            id: None,
            claim: Claim::Address,
            open: false,
        };
        if let Some(former) = self.entries.insert(key, record) {
            self.forget(&former, draft);
        }
        draft.plan.ops.push(Op::SetService { key, entry });
        draft.new_epoch = true;
    }

    /// Sees to it that the addresses whose frontends have changed have their right entries.
    pub(super) fn settle_addresses(&mut self, draft: &mut Draft) {
        let mut addresses = std::mem::take(&mut draft.addresses);
        addresses.sort_unstable();
        addresses.dedup();
        for (addr, scope) in addresses {
            self.settle_address(addr, scope, draft);
        }
        self.awaited.clear();
    }

    /// Gives the lists of a service port their members, and its guarded frontends their ranges.
    pub(super) fn admit(
        &mut self,
        id: u32,
        mut lists: BTreeMap<u32, BTreeSet<u32>>,
        ranges: &[SourceRange],
        draft: &mut Draft,
    ) {
        let ops = &mut draft.plan.ops;
        for list in members::lists_of(id) {
            let wanted = lists.remove(&list).unwrap_or_default();
            if self.members.want(list, wanted, ops) {
                draft.member_lists.push(list);
            }
        }
        if self.guards.want(id, ranges, ops) {
            draft.plan.retired.guards.push(id);
        }
    }

    /// Removes what an earlier agent has left under an id that nothing refers to.
    pub(super) fn clear(&mut self, id: u32, ops: &mut Vec<Op>) {
        for list in members::lists_of(id) {
            self.members.want(list, BTreeSet::new(), ops);
            self.members.sweep(list, ops);
        }
        self.guards.want(id, &[], ops);
        self.guards.sweep(id, ops);
    }

    /// Removes members that are no longer wanted, and ranges that never were.
    pub(super) fn sweep(&mut self, draft: &mut Draft) {
        let ops = &mut draft.plan.ops;
        for list in draft.member_lists.drain(..) {
            self.members.sweep(list, ops);
        }
        for id in draft.guards.drain(..) {
            self.guards.sweep(id, ops);
        }
    }

    /// Leaves a frontend of a port to whoever asks for it.
    pub(super) fn orphan(&mut self, key: ServiceKey, draft: &mut Draft) {
        if let Some(record) = self.entries.get_mut(&key) {
            record.claim = Claim::Orphaned;
            draft.orphans.push(key);
        }
    }

    /// Removes a frontend.
    pub(super) fn remove(&mut self, key: ServiceKey, draft: &mut Draft) {
        let Some(record) = self.entries.remove(&key) else {
            return;
        };
        draft.plan.ops.push(Op::RemoveService { key });
        draft.new_epoch = true;
        self.forget(&record, draft);
        let address = (key.addr, key.scope);
        if let Some(frontends) = self.addresses.get_mut(&address) {
            frontends.remove(record.open);
            if frontends.count == 0 {
                self.addresses.remove(&address);
            }
            draft.addresses.push(address);
        }
    }

    fn forget(&mut self, record: &Record, draft: &mut Draft) {
        if let Some(id) = record.id {
            self.drop_id(id, draft);
        }
        if let Some(offset) = record.range {
            self.drop_range(offset, draft);
        }
    }

    /// One that refers to a range more.
    pub(super) fn hold_range(&mut self, offset: u32) {
        if let Some(range) = self.ranges.get_mut(&offset) {
            range.refs += 1;
        }
    }

    /// One that refers to a range less.
    pub(super) fn drop_range(&mut self, offset: u32, draft: &mut Draft) {
        let Some(range) = self.ranges.get_mut(&offset) else {
            return;
        };
        range.refs -= 1;
        if range.refs > 0 {
            return;
        }
        if let Some(range) = self.ranges.remove(&offset) {
            let len = u32::try_from(range.ids.len()).unwrap_or(u32::MAX);
            draft.plan.retired.ranges.push((offset, len));
            let idle = range.ids.iter().filter(|&&id| self.backends.drop_ref(id));
            draft.idle.extend(idle);
        }
    }

    /// One that refers to a service port's id less.
    pub(super) fn drop_id(&mut self, id: u32, draft: &mut Draft) {
        if let Some(refs) = self.id_refs.get_mut(&id) {
            *refs -= 1;
            if *refs == 0 {
                self.id_refs.remove(&id);
                draft.plan.retired.ids.push(id);
            }
        }
    }

    /// Retires the backends that have nobody left at the end of the plan, but for those that go on.
    pub(super) fn retire_idle(
        &mut self,
        draft: &mut Draft,
        goes_on: impl Fn(&BackendAddr) -> bool,
    ) {
        let lingering = self.backends.take_lingering();
        for id in draft.idle.drain(..).chain(lingering) {
            if self.backends.linger(id, &goes_on) {
                continue;
            }
            if self.backends.retire_if_idle(id, &mut draft.plan) {
                draft.plan.retired.backends.push(id);
            }
        }
    }
}
