//! Allocation of contiguous ranges of table indices.

use std::collections::{BTreeMap, BTreeSet};

/// The free indices of a table, as ranges that never touch.
///
/// A request is served from the smallest free range that holds it, the lowest of equals; what is given back grows
/// together with its neighbours. Under churn of ranges whose sizes repeat, as endpoint lists do, that keeps the large
/// free ranges whole. Everything costs O(log n) in the number of free ranges.
#[derive(Debug)]
pub(super) struct RangeAllocator {
    /// Offset to length.
    free: BTreeMap<u32, u32>,
    /// The same ranges as (length, offset).
    by_len: BTreeSet<(u32, u32)>,
    available: u32,
}

impl RangeAllocator {
    /// All of `start..end` is free but for `used`: ranges (offset, length) that are sorted, within `start..end` and do
    /// not overlap.
    pub(super) fn new(start: u32, end: u32, used: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut allocator = Self {
            free: BTreeMap::new(),
            by_len: BTreeSet::new(),
            available: 0,
        };
        let mut next = start;
        for (offset, len) in used.into_iter().chain([(end, 0)]) {
            allocator.insert(next, offset.saturating_sub(next));
            next = offset + len;
        }
        allocator
    }

    /// How many indices are free, in however many ranges.
    pub(super) fn available(&self) -> u32 {
        self.available
    }

    /// The first index of `len` free ones in a row, which are now taken.
    pub(super) fn take(&mut self, len: u32) -> Option<u32> {
        let &(found, offset) = self.by_len.range((len, 0)..).next()?;
        self.remove(offset, found);
        self.insert(offset + len, found - len);
        Some(offset)
    }

    /// Makes indices free that were taken.
    pub(super) fn give_back(&mut self, mut offset: u32, mut len: u32) {
        if let Some((&before, &before_len)) = self.free.range(..offset).next_back() {
            debug_assert!(before + before_len <= offset, "given back twice");
            if before + before_len == offset {
                self.remove(before, before_len);
                (offset, len) = (before, before_len + len);
            }
        }
        if let Some((&after, &after_len)) = self.free.range(offset..).next() {
            debug_assert!(offset + len <= after, "given back twice");
            if offset + len == after {
                self.remove(after, after_len);
                len += after_len;
            }
        }
        self.insert(offset, len);
    }

    fn insert(&mut self, offset: u32, len: u32) {
        if len > 0 {
            self.free.insert(offset, len);
            self.by_len.insert((len, offset));
            self.available += len;
        }
    }

    fn remove(&mut self, offset: u32, len: u32) {
        self.free.remove(&offset);
        self.by_len.remove(&(len, offset));
        self.available -= len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the allocator says is free, index by index.
    fn free(allocator: &RangeAllocator, end: u32) -> Vec<bool> {
        let mut free = vec![false; end as usize];
        for (&offset, &len) in &allocator.free {
            for index in offset..offset + len {
                assert!(!std::mem::replace(&mut free[index as usize], true));
            }
        }
        let ranges: BTreeSet<(u32, u32)> = allocator.free.iter().map(|(&o, &l)| (l, o)).collect();
        assert_eq!(ranges, allocator.by_len);
        let count = free.iter().filter(|free| **free).count();
        assert_eq!(allocator.available() as usize, count);
        free
    }

    #[test]
    fn starts_around_what_is_used() {
        let allocator = RangeAllocator::new(1, 10, [(1, 2), (3, 1), (6, 2)]);
        let free = free(&allocator, 10);
        let indices: Vec<_> = (0..10).filter(|&index| free[index]).collect();
        assert_eq!(indices, [4, 5, 8, 9]);
        assert_eq!(RangeAllocator::new(0, 3, [(0, 3)]).available(), 0);
        assert_eq!(RangeAllocator::new(1, 1, []).available(), 0);
    }

    #[test]
    fn prefers_the_smallest_hole_then_the_lowest() {
        let mut allocator = RangeAllocator::new(0, 100, [(4, 1), (7, 1), (10, 1)]);
        assert_eq!(allocator.take(2), Some(5));
        assert_eq!(allocator.take(2), Some(8));
        assert_eq!(allocator.take(4), Some(0));
        assert_eq!(allocator.take(2), Some(11));
        assert_eq!(allocator.take(88), None);
        assert_eq!(allocator.take(87), Some(13));
    }

    /// 10,000 lists that are replaced over and over, each time taking the new range before the old one goes.
    #[test]
    fn churn_does_not_break_the_table_into_pieces() {
        const LISTS: usize = 10_000;
        let mut random = 1_u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        let mut lists = Vec::new();
        // Room for half as much again as there is on average.
        let mut allocator = RangeAllocator::new(0, 160_000, []);
        let mut size = move || 1 + next(20);
        for _ in 0..LISTS {
            let len = size();
            lists.push((allocator.take(len).expect("room"), len));
        }
        for round in 0..20 {
            for list in &mut lists {
                let len = size();
                let offset = allocator.take(len).unwrap_or_else(|| {
                    panic!(
                        "round {round}: no {len} in a row among {}",
                        allocator.available()
                    )
                });
                allocator.give_back(list.0, list.1);
                *list = (offset, len);
            }
        }
        for (offset, len) in lists {
            allocator.give_back(offset, len);
        }
        assert_eq!(allocator.take(160_000), Some(0));
    }

    proptest! {
        #[test]
        fn never_gives_out_twice_and_loses_nothing(
            operations in prop::collection::vec((any::<bool>(), 1_u32..12, any::<prop::sample::Index>()), 0..200),
        ) {
            const END: u32 = 64;
            let mut allocator = RangeAllocator::new(1, END, []);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (take, len, which) in operations {
                if take {
                    let before = free(&allocator, END);
                    match allocator.take(len) {
                        Some(offset) => {
                            prop_assert!((offset..offset + len).all(|index| before[index as usize]));
                            taken.push((offset, len));
                        }
                        None => {
                            let longest = before.split(|free| !free).map(<[bool]>::len).max();
                            prop_assert!(longest < Some(len as usize));
                        }
                    }
                } else if !taken.is_empty() {
                    let (offset, len) = taken.swap_remove(which.index(taken.len()));
                    allocator.give_back(offset, len);
                }
                let mut expected = vec![true; END as usize];
                expected[0] = false;
                for &(offset, len) in &taken {
                    expected[offset as usize..(offset + len) as usize].fill(false);
                }
                prop_assert_eq!(free(&allocator, END), expected);
            }
            for (offset, len) in taken {
                allocator.give_back(offset, len);
            }
            prop_assert_eq!(allocator.take(END - 1), Some(1));
        }
    }
}
