//! A table in parts, each under a lock of its own, so that those who look for
//! different keys seldom meet.
//!
//! Invariant: a key is hashed once, for its part and for its place there, with
//! a secret of the table's own: nobody can choose keys that fall together.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many parts.
pub(crate) const SHARDS: usize = 64;

/// A table in parts.
#[derive(Debug)]
pub(crate) struct Sharded<T> {
    hasher: RandomState,
    shards: Box<[Mutex<T>]>,
}

impl<T> Sharded<T> {
    /// As many parts as `shard` is asked for.
    pub(crate) fn new(shard: impl Fn() -> T) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
        }
    }

    pub(crate) fn hash<K: Hash + ?Sized>(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The part of the keys of this hash. The bits that tell it are in the
    /// middle: a hash table goes by the first and the last.
    pub(crate) fn shard(&self, hash: u64) -> MutexGuard<'_, T> {
        lock(&self.shards[(hash >> 32) as usize % SHARDS])
    }

    /// All parts, one after another.
    pub(crate) fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.shards.iter().map(lock)
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
