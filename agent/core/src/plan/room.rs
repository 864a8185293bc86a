//! Whether a service fits.

use std::collections::{BTreeMap, BTreeSet};

use weir_abi::{ServiceKey, table};

use super::members::list_id;
use super::programmed::Programmed;
use super::service::{Outline, PortOutline};

/// A table that is full, how much is needed of it and how much it has.
type Lacking = (&'static str, u32, u32);

impl Programmed {
    /// Takes a range of slots for each new list, once it is certain that everything else fits too.
    ///
    /// Takes nothing if there is no room for everything.
    pub(super) fn reserve(&mut self, outline: &Outline<'_>) -> Result<Vec<u32>, Lacking> {
        self.room_for_admission(outline)?;
        let tables = &mut self.tables;

        let addresses: BTreeSet<ServiceKey> = (outline.keys.iter())
            .map(|key| ServiceKey::address_only(key.addr, key.scope))
            .collect();
        let keys = outline.keys.iter().chain(&addresses);
        let known =
            |key: &ServiceKey| tables.entries.contains_key(key) || tables.awaited.contains(key);
        let needed = count(keys.filter(|key| !known(key)).count());
        let free = self
            .capacity
            .services
            .saturating_sub(count(tables.entries.len() + tables.awaited.len()));
        if needed > free {
            return Err((table::SERVICES, needed, free));
        }

        let needed = count(
            outline
                .ports
                .iter()
                .filter(|port| port.id.is_none())
                .count(),
        );
        let free = tables.free_ids.available();
        if needed > free {
            return Err((table::SERVICE_COUNTERS, needed, free));
        }

        (tables.backends.room_for(outline.new_lists.iter().copied()))
            .map_err(|lacking| (table::BACKENDS, lacking.needed, lacking.free))?;

        let mut offsets = Vec::with_capacity(outline.new_lists.len());
        for list in &outline.new_lists {
            let needed = count(list.len());
            let Some(offset) = tables.free_slots.take(needed) else {
                let free = tables.free_slots.available();
                for (offset, list) in offsets.into_iter().zip(&outline.new_lists) {
                    tables.free_slots.give_back(offset, count(list.len()));
                }
                return Err((table::SLOTS, needed, free));
            };
            offsets.push(offset);
        }
        Ok(offsets)
    }

    /// Whether there is room for the members of the lists with session affinity, and for the source ranges.
    fn room_for_admission(&self, outline: &Outline<'_>) -> Result<(), Lacking> {
        let tables = &self.tables;
        let needed: usize = (outline.ports.iter())
            .map(|port| self.missing_members(port))
            .sum();
        let free = self
            .capacity
            .members
            .saturating_sub(count(tables.members.len()));
        if count(needed) > free {
            return Err((table::MEMBERS, count(needed), free));
        }
        let needed: usize = (outline.ports.iter())
            .map(|port| tables.guards.missing(port.id, &port.desired.source_ranges))
            .sum();
        let free = (self.capacity.source_ranges).saturating_sub(count(tables.guards.len()));
        if count(needed) > free {
            return Err((table::SOURCE_RANGES, count(needed), free));
        }
        Ok(())
    }

    fn missing_members(&self, port: &PortOutline<'_>) -> usize {
        if port.desired.affinity_timeout == 0 {
            return 0;
        }
        // Of a port without an id nothing can be there yet; any id will do to tell its lists apart.
        let id = port.id.unwrap_or(0);
        let lists: BTreeMap<u32, usize> = (port.frontends.iter())
            .filter_map(|(frontend, ..)| {
                Some((
                    list_id(id, frontend.key.addr, frontend.policy),
                    frontend.list?,
                ))
            })
            .collect();
        let missing = |(list, index): (u32, usize)| {
            let backends = port.desired.lists.get(index).into_iter().flatten();
            let there = |backend| {
                let backend = self.tables.backends.id(backend);
                port.id.is_some() && backend.is_some_and(|id| self.tables.members.has(list, id))
            };
            backends.filter(|backend| !there(backend)).count()
        };
        lists.into_iter().map(missing).sum()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
