//! The kernel's tables as they are once every operation so far is applied, with who needs what.

use std::collections::{BTreeMap, HashMap};

use weir_abi::service::proto;
use weir_abi::{Address, ServiceEntry, ServiceKey, Verdict};

use super::alloc::RangeAllocator;
use super::backends::Backends;
use super::{Op, Plan, ServicePort};
use crate::compile::BackendAddr;

#[derive(Debug)]
pub(super) struct Tables {
    pub(super) backends: Backends,
    pub(super) free_slots: RangeAllocator,
    pub(super) free_ids: RangeAllocator,
    /// The ranges of slots that entries refer to, by offset.
    pub(super) ranges: HashMap<u32, Range>,
    /// All of `SERVICES`.
    pub(super) entries: HashMap<ServiceKey, Record>,
    /// How many frontends an address has in a scope. It has an entry of its own as long as there is one.
    pub(super) addresses: HashMap<(Address, u8), u32>,
    /// How many entries and ports refer to a service port's id.
    pub(super) id_refs: HashMap<u32, u32>,
    /// The ports of the planned services, by id.
    pub(super) ports: BTreeMap<u32, Port>,
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
    /// Addresses that were without a frontend at some moment.
    pub(super) bare: Vec<(Address, u8)>,
}

pub(super) fn is_address_only(key: &ServiceKey) -> bool {
    key.port_be == 0 && key.proto == proto::ANY
}

/// The entry of an address.
pub(super) fn address_entry(key: &ServiceKey) -> ServiceEntry {
    ServiceEntry::new(key, 0, 0, 0, Verdict::UnknownPort)
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
        range: Option<u32>,
        draft: &mut Draft,
    ) {
        let claim = Claim::Port(entry.id);
        let former = self.entries.get_mut(&key);
        if let Some(record) = former
            && record.entry == entry
        {
            record.claim = claim;
            return;
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
        };
        match self.entries.insert(key, record) {
            Some(former) => self.forget(&former, draft),
            None => *self.addresses.entry((key.addr, key.scope)).or_default() += 1,
        }
        draft.plan.ops.push(Op::SetService { key, entry });
    }

    /// Sees to it that an address has its entry.
    pub(super) fn set_address(&mut self, addr: Address, scope: u8, draft: &mut Draft) {
        let key = ServiceKey::address_only(addr, scope);
        let entry = address_entry(&key);
        if self
            .entries
            .get(&key)
            .is_some_and(|record| record.entry == entry)
        {
            return;
        }
        let record = Record {
            entry,
            range: None,
            id: None,
            claim: Claim::Address,
        };
        if let Some(former) = self.entries.insert(key, record) {
            self.forget(&former, draft);
        }
        draft.plan.ops.push(Op::SetService { key, entry });
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
        self.forget(&record, draft);
        let address = (key.addr, key.scope);
        if let Some(frontends) = self.addresses.get_mut(&address) {
            *frontends -= 1;
            if *frontends == 0 {
                self.addresses.remove(&address);
                draft.bare.push(address);
            }
        }
    }

    /// Removes the entries of addresses that have no frontend left.
    pub(super) fn remove_bare_addresses(&mut self, draft: &mut Draft) {
        for (addr, scope) in std::mem::take(&mut draft.bare) {
            let key = ServiceKey::address_only(addr, scope);
            if !self.addresses.contains_key(&(addr, scope))
                && let Some(record) = self.entries.remove(&key)
            {
                draft.plan.ops.push(Op::RemoveService { key });
                self.forget(&record, draft);
            }
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

    /// Retires the backends that have nobody left at the end of the plan.
    pub(super) fn retire_idle(&mut self, draft: &mut Draft) {
        let Plan {
            after_grace,
            retired,
            ..
        } = &mut draft.plan;
        for id in draft.idle.drain(..) {
            if self.backends.retire_if_idle(id, after_grace) {
                retired.backends.push(id);
            }
        }
    }
}
