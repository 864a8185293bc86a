//! `SOURCE_RANGES`: who may come to the guarded frontends of a service port.

use std::collections::{BTreeMap, BTreeSet};

use weir_abi::SourceRangeKey;

use super::Op;
use crate::compile::SourceRange;

/// The table, by service port id.
#[derive(Debug, Default)]
pub(super) struct Guards {
    ids: BTreeMap<u32, Guard>,
    count: usize,
    /// Keys that belong to no id: whoever wrote them, they let sources in everywhere.
    foreign: Vec<(SourceRangeKey, u32)>,
}

#[derive(Debug, Default)]
struct Guard {
    /// The ranges that the table has.
    present: BTreeSet<SourceRange>,
    /// The ranges that it should have: a part of them.
    wanted: BTreeSet<SourceRange>,
}

impl Guards {
    /// Takes over a table. Nobody has asked for anything in it yet.
    pub(super) fn adopt(keys: &[(SourceRangeKey, u32)]) -> Self {
        let mut guards = Self::default();
        for &(key, prefix_len) in keys {
            match SourceRange::of_key(&key, prefix_len) {
                Some((id, range)) => {
                    let guard = guards.ids.entry(id).or_default();
                    guards.count += usize::from(guard.present.insert(range));
                }
                None => {
                    guards.count += 1;
                    guards.foreign.push((key, prefix_len));
                }
            }
        }
        guards
    }

    /// How many entries the table has.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// How many of these ranges the table does not have for an id.
    pub(super) fn missing(&self, id: Option<u32>, ranges: &[SourceRange]) -> usize {
        match id.and_then(|id| self.ids.get(&id)) {
            None => ranges.len(),
            Some(guard) => {
                let missing = ranges.iter().filter(|range| !guard.present.contains(range));
                missing.count()
            }
        }
    }

    /// Adds what an id should have and does not. Whether it has more than that: what [`Guards::sweep`] removes, once no
    /// program goes by an entry of before that asks for it. Until then its source may still come in: it must, if the
    /// new entry does not ask at all.
    pub(super) fn want(&mut self, id: u32, ranges: &[SourceRange], ops: &mut Vec<Op>) -> bool {
        if ranges.is_empty() && !self.ids.contains_key(&id) {
            return false;
        }
        let guard = self.ids.entry(id).or_default();
        for range in ranges {
            if guard.present.insert(*range) {
                self.count += 1;
                let (key, prefix_len) = range.key(id);
                ops.push(Op::SetSourceRange { key, prefix_len });
            }
        }
        guard.wanted = ranges.iter().copied().collect();
        guard.present.len() > guard.wanted.len()
    }

    /// Removes what an id should not have.
    pub(super) fn sweep(&mut self, id: u32, ops: &mut Vec<Op>) {
        let Some(guard) = self.ids.get_mut(&id) else {
            return;
        };
        let stale: Vec<SourceRange> = guard.present.difference(&guard.wanted).copied().collect();
        for range in stale {
            guard.present.remove(&range);
            self.count -= 1;
            let (key, prefix_len) = range.key(id);
            ops.push(Op::RemoveSourceRange { key, prefix_len });
        }
        if guard.present.is_empty() {
            self.ids.remove(&id);
        }
    }

    /// Removes the keys that belong to no id.
    pub(super) fn sweep_foreign(&mut self, ops: &mut Vec<Op>) {
        for (key, prefix_len) in self.foreign.drain(..) {
            self.count -= 1;
            ops.push(Op::RemoveSourceRange { key, prefix_len });
        }
    }

    /// The ids of which something is present that nobody has asked for, in order.
    pub(super) fn unswept(&self) -> Vec<u32> {
        let unswept = self.ids.iter();
        let unswept = unswept.filter(|(_, guard)| guard.present.len() > guard.wanted.len());
        unswept.map(|(id, _)| *id).collect()
    }
}
