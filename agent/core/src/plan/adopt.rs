//! Taking over tables, whatever is in them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops;

use weir_abi::service::backend_state;
use weir_abi::{Address, Backend, ServiceEntry, ServiceKey, Verdict};

use super::alloc::RangeAllocator;
use super::backends::Backends;
use super::guards::Guards;
use super::members::Members;
use super::tables::{Claim, Range, Record, Tables, is_address_only};
use super::{Capacity, Snapshot};

impl Tables {
    /// Takes over what was read from the kernel.
    ///
    /// An entry is only a promise of what the kernel may read through it: until it is replaced or removed, its slots
    /// and the backends in them are not given to anybody else, even if the entry makes no sense. An entry without a
    /// valid seal is never followed by the kernel, so it protects nothing.
    pub(super) fn adopt(capacity: Capacity, snapshot: &Snapshot) -> Self {
        let entries: BTreeMap<ServiceKey, ServiceEntry> =
            snapshot.services.iter().copied().collect();
        let spans = (entries.iter()).filter_map(|(key, entry)| span(key, entry, capacity));
        let unions = unions(spans.collect());

        let slots = |span: &ops::Range<u32>| -> Box<[u32]> {
            let slot = |index: u32| snapshot.slots.get(index as usize).copied();
            span.clone().map(|index| slot(index).unwrap_or(0)).collect()
        };
        let in_use = |&id: &u32| {
            let backend = snapshot.backends.get(id as usize);
            let active = |backend: &Backend| backend.state == backend_state::ACTIVE;
            id != 0 && id < capacity.backends && backend.is_some_and(active)
        };
        let mut ranges = HashMap::new();
        for span in &unions {
            let ids = slots(span);
            let usable = ids.iter().all(in_use);
            let range = Range {
                ids,
                refs: 0,
                usable,
            };
            ranges.insert(span.start, range);
        }

        let mut tables = Self {
            backends: Backends::adopt(
                capacity.backends,
                &snapshot.backends,
                ranges.values().flat_map(|range| range.ids.iter().copied()),
            ),
            free_slots: RangeAllocator::new(
                0,
                capacity.slots,
                unions
                    .iter()
                    .map(|span| (span.start, span.end - span.start)),
            ),
            free_ids: RangeAllocator::new(0, 0, []),
            ranges,
            entries: HashMap::with_capacity(entries.len()),
            addresses: HashMap::new(),
            id_refs: HashMap::new(),
            ports: BTreeMap::new(),
            awaited: HashSet::new(),
            members: Members::adopt(&snapshot.members),
            guards: Guards::adopt(&snapshot.source_ranges),
        };
        // What kind an address's frontends are is only written in the address's own entry.
        let open: HashSet<(Address, u8)> = (entries.iter())
            .filter(|(key, entry)| {
                is_address_only(key)
                    && entry.is_sealed_for(key)
                    && entry.verdict == Verdict::Pass as u8
            })
            .map(|(key, _)| (key.addr, key.scope))
            .collect();
        for (key, entry) in entries {
            let range = span(&key, &entry, capacity).map(|span| {
                let after = unions.partition_point(|union| union.start <= span.start);
                unions[after - 1].start
            });
            let open = open.contains(&(key.addr, key.scope));
            tables.adopt_entry((key, entry), (range, open), capacity);
        }
        let mut ids: Vec<u32> = tables.id_refs.keys().copied().collect();
        ids.sort_unstable();
        let used = ids.into_iter().map(|id| (id, 1));
        tables.free_ids = RangeAllocator::new(1, capacity.ids, used);
        tables
    }

    fn adopt_entry(
        &mut self,
        (key, entry): (ServiceKey, ServiceEntry),
        (range, open): (Option<u32>, bool),
        capacity: Capacity,
    ) {
        let address_only = is_address_only(&key);
        let counts = !address_only && entry.is_sealed_for(&key);
        let id = (counts && entry.id != 0 && entry.id < capacity.ids).then_some(entry.id);
        if let Some(offset) = range {
            self.hold_range(offset);
        }
        if let Some(id) = id {
            *self.id_refs.entry(id).or_default() += 1;
        }
        if !address_only {
            let frontends = self.addresses.entry((key.addr, key.scope)).or_default();
            frontends.add(open);
        }
        let claim = if address_only {
            Claim::Address
        } else {
            Claim::Adopted
        };
        let record = Record {
            entry,
            range,
            id,
            claim,
            open,
        };
        self.entries.insert(key, record);
    }
}

/// The slots that the kernel may read through an entry.
fn span(key: &ServiceKey, entry: &ServiceEntry, capacity: Capacity) -> Option<ops::Range<u32>> {
    let end = entry.slots_offset.saturating_add(entry.slots_count);
    let span = entry.slots_offset..end.min(capacity.slots);
    let followed =
        entry.is_sealed_for(key) && Verdict::from_u8(entry.verdict) == Some(Verdict::Translate);
    (followed && !span.is_empty()).then_some(span)
}

/// Joins the spans that overlap. Ours never do, unless they are equal.
fn unions(mut spans: Vec<ops::Range<u32>>) -> Vec<ops::Range<u32>> {
    spans.sort_unstable_by_key(|span| (span.start, span.end));
    let mut unions: Vec<ops::Range<u32>> = Vec::new();
    for span in spans {
        match unions.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            _ => unions.push(span),
        }
    }
    unions
}
