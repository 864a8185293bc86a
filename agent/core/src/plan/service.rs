//! Planning one service.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use weir_abi::service::flags;
use weir_abi::{ServiceEntry, ServiceKey, Verdict};

use super::members::list_id;
use super::programmed::{Blocked, Programmed};
use super::tables::{Claim, Draft, Port, Range, is_address_only};
use super::{Op, PlanError, ServicePort};
use crate::backend::BackendAddr;
use crate::compile::{DesiredPort, DesiredService, Frontend};
use crate::maglev;
use crate::model::{BackendSelection, ObjectName};

/// What is to become of a service, decided before anything is touched: it happens as a whole or not at all.
#[derive(Default)]
pub(super) struct Outline<'a> {
    pub(super) ports: Vec<PortOutline<'a>>,
    /// What the slots hold that no range holds yet.
    pub(super) new_lists: Vec<&'a [BackendAddr]>,
    /// Every frontend that the service gets.
    pub(super) keys: HashSet<ServiceKey>,
    conflicts: Vec<PlanError>,
}

pub(super) struct PortOutline<'a> {
    pub(super) desired: &'a DesiredPort,
    /// The id it has, or takes over; a new one otherwise.
    pub(super) id: Option<u32>,
    pub(super) frontends: Vec<(&'a Frontend, Verdict, Option<Source>)>,
    /// Whether the slots are Maglev tables.
    maglev: Vec<bool>,
}

/// Where a frontend finds its list.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// In the range at that offset.
    Range(u32),
    /// Index into [`Outline::new_lists`].
    New(usize),
}

/// What the slots of one list hold.
type Slots<'a> = Cow<'a, [BackendAddr]>;

/// What the slots of each of a port's lists hold: the list itself, or its Maglev table.
fn slots(port: &DesiredPort) -> Vec<Slots<'_>> {
    let slots = |list| match port.selection {
        BackendSelection::Random => Cow::Borrowed(list),
        BackendSelection::Maglev => maglev_slots(list).unwrap_or(Cow::Borrowed(list)),
    };
    port.lists.iter().map(|list| slots(&**list)).collect()
}

fn maglev_slots(list: &[BackendAddr]) -> Option<Slots<'_>> {
    let table = maglev::table(list)?;
    Some(table.into_iter().map(|index| list[index]).collect())
}

impl Programmed {
    /// Plans one service. If it does not fit, nothing happens but that it is remembered.
    pub(super) fn plan_service(&mut self, desired: DesiredService, draft: &mut Draft) {
        let name = desired.name.clone();
        let former = self.unblock(&desired);
        let slots: Vec<Vec<Slots<'_>>> = desired.ports.iter().map(slots).collect();
        let outline = self.outline(&desired, &slots);
        let full = match self.reserve(&outline) {
            Ok(offsets) => {
                self.commit(&desired, &outline, &offsets, draft);
                None
            }
            Err((table, needed, free)) => Some(PlanError::Full {
                service: name.clone(),
                table,
                needed,
                free,
            }),
        };
        let Outline { conflicts, .. } = outline;
        drop(slots);
        if full.is_some() || !conflicts.is_empty() {
            self.block(desired, full, conflicts);
        }
        if let Some(former) = former
            && self.settled
        {
            self.let_go_of_spared(&name, &former, draft);
        }
    }

    /// Leftovers were spared for a service that did not fit: without the service nobody wants them.
    fn let_go_of_spared(&mut self, name: &ObjectName, former: &Blocked, draft: &mut Draft) {
        let blocked = self.blocked.get(name);
        let still_spared: HashSet<ServiceKey> = blocked
            .iter()
            .flat_map(|blocked| blocked.desired.keys())
            .collect();
        for key in former.desired.keys() {
            if self.claim(&key) == Some(Claim::Adopted) && !still_spared.contains(&key) {
                self.tables.orphan(key, draft);
            }
        }
    }

    fn block(
        &mut self,
        desired: DesiredService,
        full: Option<PlanError>,
        conflicts: Vec<PlanError>,
    ) {
        for conflict in &conflicts {
            if let PlanError::Conflict { key, .. } = conflict {
                let waiting = self.waiting.entry(*key).or_default();
                waiting.insert(desired.name.clone());
            }
        }
        let name = desired.name.clone();
        let blocked = Blocked {
            desired,
            full,
            conflicts,
        };
        self.blocked.insert(name, blocked);
    }

    fn unblock(&mut self, desired: &DesiredService) -> Option<Blocked> {
        let former = self.blocked.remove(&desired.name)?;
        for conflict in &former.conflicts {
            if let PlanError::Conflict { key, .. } = conflict
                && let Some(waiting) = self.waiting.get_mut(key)
            {
                waiting.remove(&desired.name);
                if waiting.is_empty() {
                    self.waiting.remove(key);
                }
            }
        }
        Some(former)
    }

    fn outline<'a>(&self, desired: &'a DesiredService, slots: &'a [Vec<Slots<'a>>]) -> Outline<'a> {
        let mut outline = Outline::default();
        let mut inherited = HashSet::new();
        for (port, slots) in desired.ports.iter().zip(slots) {
            let own = self.port_id(desired, port);
            let mut accepted: Vec<&Frontend> = Vec::with_capacity(port.frontends.len());
            for frontend in &port.frontends {
                match self.owner(&frontend.key, desired, &outline.keys) {
                    None => {
                        outline.keys.insert(frontend.key);
                        accepted.push(frontend);
                    }
                    Some(conflict) => outline.conflicts.push(conflict),
                }
            }
            let id = own.or_else(|| {
                let id = (accepted.iter()).find_map(|frontend| self.heirloom(&frontend.key));
                id.filter(|&id| inherited.insert(id))
            });
            let frontends = self.find_lists(slots, own, &accepted, &mut outline.new_lists);
            let maglev = slots.iter().map(|slots| matches!(slots, Cow::Owned(_)));
            outline.ports.push(PortOutline {
                desired: port,
                id,
                frontends,
                maglev: maglev.collect(),
            });
        }
        outline
    }

    /// The id of a port of this service that is planned already.
    fn port_id(&self, desired: &DesiredService, port: &DesiredPort) -> Option<u32> {
        let ids = self.services.get(&desired.name)?;
        ids.iter().copied().find(|id| {
            self.tables.ports.get(id).is_some_and(|known| {
                known.port.proto == port.proto && known.port.port_name == port.port_name
            })
        })
    }

    /// Who else has a frontend.
    fn owner(
        &self,
        key: &ServiceKey,
        desired: &DesiredService,
        taken: &HashSet<ServiceKey>,
    ) -> Option<PlanError> {
        let service = &desired.name;
        let owner = match self.claim(key) {
            _ if taken.contains(key) || is_address_only(key) => service,
            None | Some(Claim::Adopted | Claim::Orphaned) => return None,
            Some(Claim::Port(id)) => match self.tables.ports.get(&id) {
                Some(port) if port.port.name != *service => &port.port.name,
                _ => return None,
            },
            Some(Claim::Address) => service,
        };
        Some(PlanError::Conflict {
            service: service.clone(),
            key: *key,
            owner: owner.clone(),
        })
    }

    /// The id that an earlier agent has given to the port with this frontend, unless another port has it by now.
    fn heirloom(&self, key: &ServiceKey) -> Option<u32> {
        let record = self.tables.entries.get(key)?;
        let id = record.id.filter(|_| record.claim == Claim::Adopted)?;
        (!self.tables.ports.contains_key(&id)).then_some(id)
    }

    /// Finds for each frontend the range that holds its list, among those of the port's own entries.
    fn find_lists<'a>(
        &self,
        slots: &'a [Slots<'a>],
        own: Option<u32>,
        frontends: &[&'a Frontend],
        new_lists: &mut Vec<&'a [BackendAddr]>,
    ) -> Vec<(&'a Frontend, Verdict, Option<Source>)> {
        let known_keys = own
            .and_then(|id| self.tables.ports.get(&id))
            .map(|port| &port.keys);
        let keys = frontends.iter().map(|frontend| &frontend.key);
        let mut ranges: Vec<u32> = (keys.chain(known_keys.into_iter().flatten()))
            .filter_map(|key| self.tables.entries.get(key)?.range)
            .collect();
        ranges.sort_unstable();
        ranges.dedup();

        let first_new = new_lists.len();
        let mut sources: Vec<Option<Source>> = vec![None; slots.len()];
        let mut find = |index: usize| -> Option<Source> {
            let list: &[BackendAddr] = slots.get(index).filter(|list| !list.is_empty())?;
            if sources[index].is_none() {
                let held = ranges
                    .iter()
                    .find(|&&offset| self.tables.range_holds(offset, list));
                let new = || new_lists[first_new..].iter().position(|new| *new == list);
                sources[index] = Some(match held {
                    Some(&offset) => Source::Range(offset),
                    None => Source::New(new().map_or_else(
                        || {
                            new_lists.push(list);
                            new_lists.len() - 1
                        },
                        |position| first_new + position,
                    )),
                });
            }
            sources[index]
        };
        (frontends.iter())
            .map(|frontend| {
                let translate = frontend.verdict == Verdict::Translate;
                let source = frontend.list.filter(|_| translate).and_then(&mut find);
                // Without a list there is nothing to translate to.
                let verdict = match source {
                    None if translate => Verdict::NoEndpoints,
                    _ => frontend.verdict,
                };
                (*frontend, verdict, source)
            })
            .collect()
    }

    fn commit(
        &mut self,
        desired: &DesiredService,
        outline: &Outline<'_>,
        offsets: &[u32],
        draft: &mut Draft,
    ) {
        for (list, &offset) in outline.new_lists.iter().zip(offsets) {
            self.write_list(list, offset, draft);
        }
        // A list may pass from one frontend to another: it must not be dropped in between.
        let sources = outline.ports.iter().flat_map(|port| &port.frontends);
        let pinned: Vec<u32> = sources
            .filter_map(|(.., source)| match source {
                Some(Source::Range(offset)) => Some(*offset),
                _ => None,
            })
            .collect();
        for &offset in &pinned {
            self.tables.hold_range(offset);
        }
        let former = self.services.remove(&desired.name).unwrap_or_default();
        let mut ids = Vec::with_capacity(desired.ports.len());
        for outlined in &outline.ports {
            let Some(id) = self.port(desired, outlined, draft) else {
                continue;
            };
            ids.push(id);
            let ranges: Vec<Option<u32>> = (outlined.frontends.iter())
                .map(|(.., source)| match source {
                    Some(Source::Range(offset)) => Some(*offset),
                    Some(Source::New(index)) => offsets.get(*index).copied(),
                    None => None,
                })
                .collect();
            self.admit(id, outlined, &ranges, draft);
            for (index, range) in ranges.into_iter().enumerate() {
                self.set_frontend(id, outlined, (index, range), draft);
            }
        }
        let addresses = outline.keys.iter().map(|key| (key.addr, key.scope));
        draft.addresses.extend(addresses);
        for id in former.into_iter().filter(|id| !ids.contains(id)) {
            if let Some(port) = self.tables.ports.remove(&id) {
                self.abandon(id, &port.keys, draft);
                self.tables.admit(id, BTreeMap::new(), &[], draft);
                self.tables.drop_id(id, draft);
            }
        }
        for offset in pinned {
            self.tables.drop_range(offset, draft);
        }
        if !ids.is_empty() {
            self.services.insert(desired.name.clone(), ids);
        }
    }

    fn write_list(&mut self, list: &[BackendAddr], offset: u32, draft: &mut Draft) {
        let ops = &mut draft.plan.ops;
        let backends = &mut self.tables.backends;
        let ids: Vec<u32> = (list.iter())
            .filter_map(|&addr| backends.acquire(addr, ops))
            .collect();
        // The room was counted, so every backend has got its id.
        debug_assert_eq!(ids.len(), list.len());
        let range = Range {
            ids: ids.clone().into(),
            refs: 0,
            usable: true,
        };
        self.tables.ranges.insert(offset, range);
        ops.push(Op::WriteSlots { offset, ids });
    }

    /// The id of a port, which has just these frontends from now on.
    fn port(
        &mut self,
        desired: &DesiredService,
        outlined: &PortOutline<'_>,
        draft: &mut Draft,
    ) -> Option<u32> {
        let keys: Vec<ServiceKey> = (outlined.frontends.iter())
            .map(|(frontend, ..)| frontend.key)
            .collect();
        if let Some(id) = outlined.id
            && let Some(known) = self.tables.ports.get_mut(&id)
        {
            let mut former = std::mem::replace(&mut known.keys, keys);
            former.retain(|key| !known.keys.contains(key));
            self.abandon(id, &former, draft);
            return Some(id);
        }
        let id = match outlined.id {
            Some(id) => id,
            None => {
                let id = self.tables.free_ids.take(1)?;
                self.tables.clear(id, &mut draft.plan.ops);
                draft.plan.ops.push(Op::ResetCounters { id });
                id
            }
        };
        *self.tables.id_refs.entry(id).or_default() += 1;
        let port = ServicePort {
            name: desired.name.clone(),
            port_name: outlined.desired.port_name.clone(),
            proto: outlined.desired.proto,
        };
        self.tables.ports.insert(id, Port { port, keys });
        Some(id)
    }

    /// Lets in, ahead of the entries that ask for it, who may come to a port, and tells which backends are its lists'.
    fn admit(
        &mut self,
        id: u32,
        outlined: &PortOutline<'_>,
        ranges: &[Option<u32>],
        draft: &mut Draft,
    ) {
        let port = outlined.desired;
        let mut lists: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        if port.affinity_timeout > 0 {
            for ((frontend, ..), range) in outlined.frontends.iter().zip(ranges) {
                let list = list_id(id, frontend.key.addr, frontend.policy);
                let range = range.and_then(|offset| self.tables.ranges.get(&offset));
                if let Some(range) = range
                    && !lists.contains_key(&list)
                {
                    lists.insert(list, range.ids.iter().copied().collect());
                }
            }
        }
        (self.tables).admit(id, lists, &port.source_ranges, draft);
    }

    fn set_frontend(
        &mut self,
        id: u32,
        outlined: &PortOutline<'_>,
        (index, range): (usize, Option<u32>),
        draft: &mut Draft,
    ) {
        let Some(&(frontend, verdict, _)) = outlined.frontends.get(index) else {
            return;
        };
        let port = outlined.desired;
        let slots = range.and_then(|offset| {
            let range = self.tables.ranges.get(&offset)?;
            Some((offset, u32::try_from(range.ids.len()).ok()?))
        });
        let (offset, count) = slots.unwrap_or((0, 0));
        let key = frontend.key;
        let mut entry = ServiceEntry::new(&key, id, offset, count, verdict);
        if verdict == Verdict::Translate {
            if port.affinity_timeout > 0 {
                entry.flags |= flags::AFFINITY;
                entry.affinity_timeout = port.affinity_timeout;
                entry.list = list_id(id, key.addr, frontend.policy);
            }
            let maglev = frontend.list.and_then(|list| outlined.maglev.get(list));
            if maglev == Some(&true) {
                entry.flags |= flags::MAGLEV;
            }
        }
        if frontend.guarded {
            entry.flags |= flags::SOURCE_RANGES;
        }
        let entry = entry.sealed(&key);
        self.tables.set(key, entry, (range, frontend.open), draft);
    }

    /// Lets go of frontends that a port has had, unless another port of the service has them now.
    fn abandon(&mut self, id: u32, keys: &[ServiceKey], draft: &mut Draft) {
        for &key in keys {
            if self.claim(&key) == Some(Claim::Port(id)) {
                self.tables.orphan(key, draft);
            }
        }
    }
}

impl DesiredService {
    /// The keys of all its frontends.
    pub(super) fn keys(&self) -> impl Iterator<Item = ServiceKey> {
        let frontends = self.ports.iter().flat_map(|port| &port.frontends);
        frontends.map(|frontend| frontend.key)
    }
}
