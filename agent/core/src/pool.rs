//! Sharing of equal values.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Gives equal values one allocation. Values that nobody uses any more are let go now and then.
#[derive(Debug)]
pub(crate) struct Pool<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// Size at which to look for values that nobody uses.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 64;

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    /// The value that everybody uses in place of this one.
    pub(crate) fn share(&mut self, value: Arc<T>) -> Arc<T> {
        match self.values.get(&*value) {
            Some(shared) => shared.clone(),
            None => {
                self.add(value.clone());
                value
            }
        }
    }

    /// Whether a value is shared already.
    pub(crate) fn find(&self, value: &T) -> Option<Arc<T>> {
        self.values.get(value).cloned()
    }

    fn add(&mut self, value: Arc<T>) {
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = FIRST_SWEEP.max(self.values.len() * 2);
        }
        self.values.insert(value);
    }
}

impl Pool<str> {
    /// The shared string equal to `text`.
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        self.find(text).unwrap_or_else(|| {
            let value = Arc::<str>::from(text);
            self.add(value.clone());
            value
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one() {
        let mut pool = Pool::default();
        let first = pool.get("node-1");
        assert!(Arc::ptr_eq(&first, &pool.get("node-1")));
        assert!(Arc::ptr_eq(&first, &pool.share("node-1".into())));
        assert!(!Arc::ptr_eq(&first, &pool.get("node-2")));
    }

    #[test]
    fn unused_values_do_not_pile_up() {
        let mut pool = Pool::default();
        let kept = pool.get("kept");
        for i in 0..100_000 {
            pool.get(&i.to_string());
        }
        assert!(
            pool.values.len() <= FIRST_SWEEP + 1,
            "{}",
            pool.values.len()
        );
        assert!(Arc::ptr_eq(&kept, &pool.get("kept")));
    }
}
