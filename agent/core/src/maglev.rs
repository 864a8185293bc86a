//! Maglev's lookup tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4).
//!
//! Every backend has a permutation of the table's slots; in turn each takes the first slot of its own that is free. So
//! all have the same share, give or take a slot, and when one goes, nearly all slots of the others stay as they were.
//! A permutation, and whose turn comes first, depends on nothing but who the backends are: every node of a cluster
//! makes the same table, whatever it has gone through.
//!
//! The size is a prime, so that every step through the slots reaches them all, and is chosen by the number of backends:
//! at least a hundred slots for each (the paper's advice for shares within 1 % of each other), as long as there are no
//! more than 655. Beyond that the table stays at 65,521 slots, so that a single one never takes more than a sixteenth
//! of `SLOTS` as it is by default. From one size to the next all flows are dealt out anew; that happens between 10 and
//! 11 backends and between 163 and 164.

use crate::backend::BackendAddr;

/// The sizes, all prime.
const SIZES: [u32; 3] = [1021, 16_381, 65_521];
const SLOTS_PER_BACKEND: usize = 100;

/// How many slots the table of that many backends has; `None` if it would not do them justice: there are none, or more
/// than slots in the largest table.
#[must_use]
pub fn table_size(backends: usize) -> Option<u32> {
    let [.., largest] = SIZES;
    if backends == 0 || backends > largest as usize {
        return None;
    }
    let enough = |size: &&u32| **size as usize >= backends.saturating_mul(SLOTS_PER_BACKEND);
    Some(SIZES.iter().find(enough).copied().unwrap_or(largest))
}

/// The table for distinct backends in any order: for each slot the index of its backend. `None` as in [`table_size`].
#[must_use]
pub fn table(backends: &[BackendAddr]) -> Option<Vec<usize>> {
    let size = table_size(backends.len())?;
    let mut turns: Vec<Turn> = (backends.iter().enumerate())
        .map(|(index, backend)| Turn::new(index, backend, size))
        .collect();
    turns.sort_unstable_by_key(|turn| (turn.rank, backends[turn.index]));

    let mut table: Vec<Option<usize>> = vec![None; size as usize];
    let mut free = size;
    for turn in (0..turns.len()).cycle() {
        if free == 0 {
            break;
        }
        let turn = &mut turns[turn];
        // The permutation visits every slot, so it comes to a free one.
        while table[turn.slot as usize].is_some() {
            turn.advance(size);
        }
        table[turn.slot as usize] = Some(turn.index);
        free -= 1;
    }
    table.into_iter().collect()
}

/// A backend on its way through its permutation.
struct Turn {
    index: usize,
    rank: u64,
    slot: u32,
    skip: u32,
}

impl Turn {
    fn new(index: usize, backend: &BackendAddr, size: u32) -> Self {
        let below = |hash: u64, limit: u32| u32::try_from(hash % u64::from(limit)).unwrap_or(0);
        let offset = hash(backend, 0x243f_6a88_85a3_08d3);
        Self {
            index,
            rank: offset,
            slot: below(offset, size),
            skip: below(hash(backend, 0x1319_8a2e_0370_7344), size - 1) + 1,
        }
    }

    fn advance(&mut self, size: u32) {
        self.slot = (self.slot + self.skip) % size;
    }
}

/// A hash of who the backend is, the same on every machine.
fn hash(backend: &BackendAddr, seed: u64) -> u64 {
    let [a, b, c, d] = backend.addr.to_words().map(u32::from_be);
    let port = u16::from_be(backend.port_be);
    let words = [
        (u64::from(a) << 32) | u64::from(b),
        (u64::from(c) << 32) | u64::from(d),
        (u64::from(port) << 8) | u64::from(backend.proto),
    ];
    words.into_iter().fold(seed, |hash, word| mix(hash ^ word))
}

/// The finaliser of splitmix64 (Steele et al. 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::Protocol;

    fn backends(count: u16) -> Vec<BackendAddr> {
        let backend = |number: u16| {
            let [high, low] = number.to_be_bytes();
            BackendAddr::new(IpAddr::from([10, 0, high, low]), 8080, Protocol::Tcp)
        };
        (0..count).map(backend).collect()
    }

    /// The backend of each slot.
    fn owners(backends: &[BackendAddr]) -> Vec<BackendAddr> {
        let table = table(backends).expect("a table");
        table.into_iter().map(|index| backends[index]).collect()
    }

    #[test]
    fn sizes_are_prime_and_grow_with_the_backends() {
        for size in SIZES {
            assert!(
                (2..size)
                    .take_while(|d| d * d <= size)
                    .all(|d| size % d != 0),
                "{size}"
            );
        }
        for (backends, size) in [
            (0, None),
            (1, Some(1021)),
            (10, Some(1021)),
            (11, Some(16_381)),
            (163, Some(16_381)),
            (164, Some(65_521)),
            (655, Some(65_521)),
            (65_521, Some(65_521)),
            (65_522, None),
        ] {
            assert_eq!(table_size(backends), size, "{backends}");
        }
        assert_eq!(table(&[]), None);
    }

    #[test]
    fn every_backend_has_the_same_share_but_for_a_slot() {
        for count in [1, 2, 3, 7, 10, 11, 50, 163, 200, 1000] {
            let backends = backends(count);
            let mut shares = vec![0_usize; backends.len()];
            let table = table(&backends).expect("a table");
            table.iter().for_each(|&index| shares[index] += 1);
            let fair = table.len() / backends.len();
            assert!(
                shares
                    .iter()
                    .all(|&share| share == fair || share == fair + 1),
                "{count}: {shares:?}"
            );
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let mut list = backends(50);
        let table = owners(&list);
        list.reverse();
        list.swap(3, 30);
        assert_eq!(owners(&list), table);
    }

    /// Tables of one service on nodes of different versions must agree: whoever changes the table changes this.
    #[test]
    fn the_table_is_the_same_everywhere() {
        let table = table(&backends(5)).expect("a table");
        let digest = table
            .iter()
            .fold(0, |digest, &index| mix(digest ^ index as u64));
        assert_eq!(format!("{digest:016x}"), "1c55552c94946722");
    }

    /// How many of the slots that were not the removed backend's have another owner now, in percent.
    fn moved_percent(count: u16, removed: u16) -> f64 {
        let all = backends(count);
        let mut rest = all.clone();
        let gone = rest.remove(removed.into());
        let (before, after) = (owners(&all), owners(&rest));
        assert_eq!(before.len(), after.len());
        let others = before.iter().zip(&after).filter(|(was, _)| **was != gone);
        let (mut kept, mut moved) = (0_u32, 0_u32);
        for (was, is) in others {
            if was == is { kept += 1 } else { moved += 1 }
        }
        100.0 * f64::from(moved) / f64::from(kept + moved)
    }

    #[test]
    fn a_removed_backend_moves_few_flows_of_the_others() {
        let mut all = Vec::new();
        for count in [2, 3, 5, 10, 20, 50, 100, 163, 250] {
            for removed in (0..count).step_by(usize::from(count / 5).max(1)) {
                let moved = moved_percent(count, removed);
                assert!(moved < 5.0, "{count} less {removed}: {moved} %");
                all.push(moved);
            }
        }
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!(mean < 2.5, "{mean} %");
    }
}
