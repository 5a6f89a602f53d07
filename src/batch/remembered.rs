//! A bounded table whose entries expire.
//!
//! Invariant: the table never holds more than its capacity; a full table drops
//! its oldest entries. A table that was never used costs one atomic load.

use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Remembered<K, V> {
    /// From the oldest to the youngest. The time is the end of the entry.
    entries: Mutex<IndexMap<K, (V, Instant)>>,
    capacity: usize,
    /// Set until the first failure: healthy gateways never take the lock.
    is_unused: AtomicBool,
}

impl<K: Eq + Hash, V: Copy> Remembered<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: Mutex::default(),
            capacity,
            is_unused: AtomicBool::new(true),
        }
    }

    /// Whether the table never had an entry.
    pub(super) fn is_unused(&self) -> bool {
        self.is_unused.load(Ordering::Relaxed)
    }

    /// The value of the first of these keys that has an entry.
    pub(super) fn find<'k>(&self, keys: impl Iterator<Item = &'k K>, now: Instant) -> Option<V>
    where
        K: 'k,
    {
        if self.is_unused() {
            return None;
        }
        let entries = self.lock();
        keys.filter_map(|key| entries.get(key))
            .find(|(_, until)| now < *until)
            .map(|(value, _)| *value)
    }

    /// Adds entries that expire at `until`.
    pub(super) fn extend(&self, fresh: impl Iterator<Item = (K, V)>, now: Instant, until: Instant) {
        // Relaxed: a worker that sees this late misses the entry, which costs at most
        // one more failed call.
        self.is_unused.store(false, Ordering::Relaxed);
        let fresh: IndexMap<_, _> = fresh.map(|(key, value)| (key, (value, until))).collect();
        let mut entries = self.lock();
        // Renewed entries move to the end, as the youngest. Expired ones are dropped
        // in the same pass: there is no timer for them.
        entries.retain(|key, (_, until)| now < *until && !fresh.contains_key(key));
        entries.extend(fresh);
        let excess = entries.len().saturating_sub(self.capacity);
        drop(entries.drain(..excess));
    }

    /// Removes the entry of a key.
    pub(super) fn remove(&self, key: &K) {
        if !self.is_unused() {
            self.lock().shift_remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, IndexMap<K, (V, Instant)>> {
        // No change under this lock panics halfway.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_table_forgets_its_oldest_entries_and_time_forgets_the_others() {
        let (table, now) = (Remembered::new(3), Instant::now());
        let until = now + Duration::from_secs(1);
        let find = |key: u8, now| table.find([key].iter(), now);
        assert_eq!(find(1, now), None);
        table.extend([(1, 'a'), (2, 'b'), (3, 'c')].into_iter(), now, until);
        // Renewed, the first entry is the youngest.
        table.extend([(1, 'd')].into_iter(), now, until);
        table.extend([(4, 'e')].into_iter(), now, until);
        let all = [1, 2, 3, 4].map(|key| find(key, now));
        assert_eq!(all, [Some('d'), None, Some('c'), Some('e')]);
        assert_eq!(find(1, until), None);
        table.remove(&4);
        assert_eq!(find(4, now), None);
        assert_eq!(table.find([4, 3].iter(), now), Some('c'));
    }
}
