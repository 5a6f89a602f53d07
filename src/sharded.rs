//! A table in shards, each behind its own lock, so that requests for different
//! keys rarely wait for each other.
//!
//! Invariant: a key is hashed once, for the choice of the shard and for the table in it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use siphasher::sip::SipHasher13;

/// The number of shards of each table.
pub(crate) const SHARDS: usize = 64;

/// Its secret is random, so no client can construct keys with equal hashes.
static HASHER: LazyLock<SipHasher13> = LazyLock::new(|| {
    let random = RandomState::new();
    SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1))
});

/// The hash of a key, in one go. The hasher of the standard library expects bytes that
/// come in pieces, and takes more instructions.
pub(crate) fn hash_of(key: &[u8]) -> u64 {
    HASHER.hash(key)
}

/// A table in shards.
#[derive(Debug)]
pub(crate) struct Sharded<T>(Box<[Mutex<T>]>);

impl<T> Sharded<T> {
    /// A table whose shards are made by `shard`.
    pub(crate) fn new(shard: impl Fn() -> T) -> Self {
        Self((0..SHARDS).map(|_| Mutex::new(shard())).collect())
    }

    /// Locks the shard of all keys with this hash.
    pub(crate) fn shard(&self, hash: u64) -> MutexGuard<'_, T> {
        // Bits from the middle: a hash table uses the first and the last ones,
        // and would fill badly if all its keys had these in common.
        lock(&self.0[(hash >> 32) as usize % SHARDS])
    }

    /// Locks one shard after another.
    pub(crate) fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(lock)
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not take the whole table out of service.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
