//! `BACKENDS`: ids of distinct endpoints, shared by all lists that hold them.

use std::collections::{BTreeSet, HashMap, HashSet};

use weir_abi::service::backend_state;
use weir_abi::{Address, Backend};

use super::alloc::RangeAllocator;
use super::{Op, Plan};
use crate::backend::BackendAddr;

#[derive(Debug)]
pub(super) struct Backends {
    /// By id, as far as ids were ever used.
    records: Vec<Record>,
    ids: HashMap<BackendAddr, u32>,
    free: RangeAllocator,
    capacity: u32,
    /// Active ids that no slot holds any more, for those who were sent there before.
    lingering: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
struct Record {
    addr: BackendAddr,
    /// How many slots hold the id.
    refs: u32,
    generation: u32,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Free,
    Active,
    /// Not active, but adopted slots hold the id: whoever got it now would receive their traffic.
    Haunted,
    /// To be free once nobody can still hold the id.
    Retired,
}

const NOWHERE: BackendAddr = BackendAddr {
    addr: Address([0; 16]),
    port_be: 0,
    proto: 0,
};

impl Record {
    const UNUSED: Self = Self {
        addr: NOWHERE,
        refs: 0,
        generation: 0,
        life: Life::Free,
    };

    fn to_kernel(&self) -> Backend {
        let active = self.life == Life::Active;
        let addr = if active { self.addr } else { NOWHERE };
        Backend {
            addr: addr.addr,
            port_be: addr.port_be,
            proto: addr.proto,
            state: if active {
                backend_state::ACTIVE
            } else {
                backend_state::FREE
            },
            generation: self.generation,
        }
    }
}

impl Backends {
    /// Takes over a table, and the references that slots hold: ids, each as often as it is in a slot. Ids that the
    /// table does not have are ignored.
    pub(super) fn adopt(
        capacity: u32,
        table: &[Backend],
        held: impl IntoIterator<Item = u32>,
    ) -> Self {
        let used = |backend: &Backend| backend.state != 0 || backend.generation != 0;
        let table = &table[..table.len().min(capacity as usize)];
        let end = table.iter().rposition(used).map_or(0, |last| last + 1);
        let mut records: Vec<Record> = table[..end]
            .iter()
            .map(|backend| Record {
                addr: BackendAddr {
                    addr: backend.addr,
                    port_be: backend.port_be,
                    proto: backend.proto,
                },
                refs: 0,
                generation: backend.generation,
                life: if backend.state == backend_state::ACTIVE {
                    Life::Active
                } else {
                    Life::Free
                },
            })
            .collect();
        if let Some(never_used) = records.first_mut() {
            *never_used = Record::UNUSED;
        }
        for id in held.into_iter().filter(|&id| id != 0 && id < capacity) {
            let record = at(&mut records, id);
            record.refs += 1;
            if record.life == Life::Free {
                record.life = Life::Haunted;
            }
        }
        let mut ids = HashMap::new();
        let mut used = Vec::new();
        for (id, record) in (0..).zip(&records) {
            if record.life == Life::Active {
                ids.entry(record.addr).or_insert(id);
            }
            if record.life != Life::Free {
                used.push((id, 1));
            }
        }
        Self {
            records,
            ids,
            free: RangeAllocator::new(1, capacity, used),
            capacity,
            lingering: BTreeSet::new(),
        }
    }

    /// The backend that an id stands for, if it is in use.
    pub(super) fn get(&self, id: u32) -> Option<&BackendAddr> {
        let record = self.records.get(id as usize)?;
        (record.life == Life::Active).then_some(&record.addr)
    }

    /// The id of a backend, if it has one.
    pub(super) fn id(&self, addr: &BackendAddr) -> Option<u32> {
        self.ids.get(addr).copied()
    }

    /// How many ids are in use or not yet given back.
    pub(super) fn used(&self) -> u32 {
        self.capacity.saturating_sub(1) - self.free.available()
    }

    /// Whether there are ids for all the backends of these lists.
    pub(super) fn room_for<'a>(
        &self,
        lists: impl Iterator<Item = &'a [BackendAddr]> + Clone,
    ) -> Result<(), Lacking> {
        let free = self.free.available();
        // Most of the time there is room even if every backend were new; counting them is dear.
        if lists.clone().map(<[BackendAddr]>::len).sum::<usize>() <= free as usize {
            return Ok(());
        }
        let new: HashSet<&BackendAddr> = (lists.flatten())
            .filter(|addr| !self.ids.contains_key(addr))
            .collect();
        let needed = u32::try_from(new.len()).unwrap_or(u32::MAX);
        if needed <= free {
            Ok(())
        } else {
            Err(Lacking { needed, free })
        }
    }

    /// The id of a backend, with one reference more. A backend that is new gets written.
    pub(super) fn acquire(&mut self, addr: BackendAddr, ops: &mut Vec<Op>) -> Option<u32> {
        if let Some(&id) = self.ids.get(&addr) {
            self.records[id as usize].refs += 1;
            return Some(id);
        }
        let id = self.free.take(1)?;
        let record = at(&mut self.records, id);
        record.addr = addr;
        record.refs = 1;
        record.life = Life::Active;
        let backend = record.to_kernel();
        ops.push(Op::WriteBackend { id, backend });
        self.ids.insert(addr, id);
        Some(id)
    }

    /// One reference less; whether it was the last.
    pub(super) fn drop_ref(&mut self, id: u32) -> bool {
        match self.records.get_mut(id as usize) {
            Some(record) if record.refs > 0 => {
                record.refs -= 1;
                record.refs == 0
            }
            _ => false,
        }
    }

    /// The backends that nobody holds but that were spared, to be asked about again.
    pub(super) fn take_lingering(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.lingering)
    }

    /// Spares a backend that nobody holds, if it still serves those who were sent there before; whether it does.
    pub(super) fn linger(&mut self, id: u32, goes_on: impl Fn(&BackendAddr) -> bool) -> bool {
        let idle = self.records.get(id as usize).filter(|record| {
            record.life == Life::Active
                && record.refs == 0
                && self.ids.get(&record.addr) == Some(&id)
        });
        let lingers = idle.is_some_and(|record| goes_on(&record.addr));
        if lingers {
            self.lingering.insert(id);
        }
        lingers
    }

    /// Retires a backend if nobody holds it: a new generation tells whoever remembers it, at once. Whoever has read its id
    /// from a slot just before still finds it, and remembers what ends with the grace period, by one generation more. The
    /// id is to be given back then; `false` if it is not.
    pub(super) fn retire_if_idle(&mut self, id: u32, plan: &mut Plan) -> bool {
        let Some(record) = self.records.get_mut(id as usize) else {
            return false;
        };
        let was = record.life;
        if record.refs > 0 || !matches!(was, Life::Active | Life::Haunted) {
            return false;
        }
        if was == Life::Haunted {
            record.life = Life::Retired;
        } else {
            // Garbage may have had the same backend twice.
            if self.ids.get(&record.addr) == Some(&id) {
                self.ids.remove(&record.addr);
                plan.dropped.push(record.addr);
            }
            record.generation = record.generation.wrapping_add(1);
            let backend = record.to_kernel();
            plan.ops.push(Op::WriteBackend { id, backend });
            record.life = Life::Retired;
            record.addr = NOWHERE;
            record.generation = record.generation.wrapping_add(1);
            let backend = record.to_kernel();
            plan.after_grace.push(Op::WriteBackend { id, backend });
        }
        true
    }

    /// Ids in use that no slot holds.
    pub(super) fn idle(&self) -> Vec<u32> {
        let records = (0..).zip(&self.records);
        let idle = records.filter(|(_, record)| record.life == Life::Active && record.refs == 0);
        idle.map(|(id, _)| id).collect()
    }

    /// Makes a retired id free.
    pub(super) fn give_back(&mut self, id: u32) {
        at(&mut self.records, id).life = Life::Free;
        self.free.give_back(id, 1);
    }
}

/// What a table lacks.
#[derive(Debug)]
pub(super) struct Lacking {
    pub(super) needed: u32,
    pub(super) free: u32,
}

fn at(records: &mut Vec<Record>, id: u32) -> &mut Record {
    let index = id as usize;
    if records.len() <= index {
        records.resize(index + 1, Record::UNUSED);
    }
    &mut records[index]
}
