//! `MEMBERS`: which backends are in the lists of services with session affinity.

use std::collections::{BTreeSet, HashMap};

use weir_abi::{Address, MemberKey};

use super::Op;
use crate::model::TrafficPolicy;

/// How many lists a service port can have: one for each family and policy.
pub(super) const LISTS_PER_PORT: u32 = 4;

/// The id of a service port's list for addresses like this one, under that policy. It is a list of its own for each
/// family: a client may be known by something that has no family, and must not be sent from one to the other.
pub(super) fn list_id(id: u32, addr: Address, policy: TrafficPolicy) -> u32 {
    let family = if addr.as_v4().is_some() { 0 } else { 2 };
    let policy = match policy {
        TrafficPolicy::Cluster => 0,
        TrafficPolicy::Local => 1,
    };
    first_list(id) + family + policy
}

fn first_list(id: u32) -> u32 {
    id.wrapping_mul(LISTS_PER_PORT)
}

/// The ids of all lists that a service port can have.
pub(super) fn lists_of(id: u32) -> impl Iterator<Item = u32> {
    (0..LISTS_PER_PORT).map(move |index| first_list(id).wrapping_add(index))
}

/// The table, by list.
#[derive(Debug, Default)]
pub(super) struct Members {
    lists: HashMap<u32, List>,
    count: usize,
}

#[derive(Debug, Default)]
struct List {
    /// The backends that the table has.
    present: BTreeSet<u32>,
    /// The backends that it should have: a part of them.
    wanted: BTreeSet<u32>,
}

impl Members {
    /// Takes over a table. Nobody has asked for anything in it yet.
    pub(super) fn adopt(keys: &[MemberKey]) -> Self {
        let mut members = Self::default();
        for key in keys {
            let list = members.lists.entry(key.list).or_default();
            members.count += usize::from(list.present.insert(key.backend_id));
        }
        members
    }

    /// How many entries the table has.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether the table has an entry.
    pub(super) fn has(&self, list: u32, backend: u32) -> bool {
        let list = self.lists.get(&list);
        list.is_some_and(|list| list.present.contains(&backend))
    }

    /// Adds what a list should have and does not. Whether it has more than that: what [`Members::sweep`] removes.
    pub(super) fn want(&mut self, id: u32, wanted: BTreeSet<u32>, ops: &mut Vec<Op>) -> bool {
        if wanted.is_empty() && !self.lists.contains_key(&id) {
            return false;
        }
        let list = self.lists.entry(id).or_default();
        for &backend_id in &wanted {
            if list.present.insert(backend_id) {
                self.count += 1;
                let key = MemberKey {
                    list: id,
                    backend_id,
                };
                ops.push(Op::SetMember { key });
            }
        }
        list.wanted = wanted;
        list.present.len() > list.wanted.len()
    }

    /// Removes what a list should not have.
    pub(super) fn sweep(&mut self, id: u32, ops: &mut Vec<Op>) {
        let Some(list) = self.lists.get_mut(&id) else {
            return;
        };
        let stale: Vec<u32> = list.present.difference(&list.wanted).copied().collect();
        for backend_id in stale {
            list.present.remove(&backend_id);
            self.count -= 1;
            let key = MemberKey {
                list: id,
                backend_id,
            };
            ops.push(Op::RemoveMember { key });
        }
        if list.present.is_empty() {
            self.lists.remove(&id);
        }
    }

    /// The lists of which something is present that nobody has asked for, in a fixed order.
    pub(super) fn unswept(&self) -> BTreeSet<u32> {
        let unswept = self.lists.iter();
        let unswept = unswept.filter(|(_, list)| list.present.len() > list.wanted.len());
        unswept.map(|(id, _)| *id).collect()
    }
}
