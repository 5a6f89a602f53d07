//! A table in shards, each behind its own lock, so that requests for different
//! keys rarely wait for each other.
//!
//! Invariant: a key is hashed once, for the choice of the shard and for the table in it. The hash
//! has a random key, so a client cannot choose keys that collide.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of shards of each table.
pub(crate) const SHARDS: usize = 64;

/// A table in shards.
#[derive(Debug)]
pub(crate) struct Sharded<T> {
    hasher: RandomState,
    shards: Box<[Mutex<T>]>,
}

impl<T> Sharded<T> {
    /// A table whose shards are made by `shard`.
    pub(crate) fn new(shard: impl Fn() -> T) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
        }
    }

    /// The hash of a key, for [`shard`](Self::shard) and for the tables in the
    /// shards.
    pub(crate) fn hash<K: Hash + ?Sized>(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Locks the shard of all keys with this hash.
    pub(crate) fn shard(&self, hash: u64) -> MutexGuard<'_, T> {
        // Bits from the middle: a hash table uses the first and the last ones,
        // and would fill badly if all its keys had these in common.
        lock(&self.shards[(hash >> 32) as usize % SHARDS])
    }

    /// Locks one shard after another.
    pub(crate) fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.shards.iter().map(lock)
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not take the whole table out of service.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
