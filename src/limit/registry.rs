//! The accounts of one group of classes, by instance or credential.
//!
//! Invariant: the registry is bounded, and an account that has debt or
//! waiting requests is never dropped. When it is full all new names share one
//! account, so a flood of made-up ids costs no more memory, and no budget but
//! its own.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use hashbrown::HashTable;
use tokio::time::Instant;

#[cfg(test)]
mod tests;

use super::account::Account;
use super::credentials::Change;
use super::policy::Policy;
use crate::identity::{Fingerprint, Identity, InstanceId};
use crate::observe::metrics::{BucketStatus, OTHER};
use crate::sharded::{Sharded, hash_of};

/// Accounts per shard: 64 × 4,096 = 262,144 instances and as many credentials
/// without one in a class, some 125 MB at most.
const SHARD_CAPACITY: usize = 4096;

/// A full shard is searched at most this often: a flood must not buy a search
/// with every made-up id.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// The accounts of one group of classes, which differ by instance only.
#[derive(Debug)]
pub(super) struct Registry {
    policy: ArcSwap<Policy>,
    instances: Sharded<Shard<Arc<Account>>>,
    credentials: Sharded<Shard<Unnamed>>,
    /// For requests that name neither instance nor credential.
    anonymous: Arc<Account>,
    /// Shared by all new names while the registry is full.
    overflow: Arc<Account>,
}

/// An account, found by what it belongs to.
trait Entry {
    type Key: Eq + ?Sized;

    fn hash(key: &Self::Key) -> u64;
    fn key(&self) -> &Self::Key;
    fn account(&self) -> &Arc<Account>;
}

/// The account of a credential without an instance.
#[derive(Debug)]
struct Unnamed {
    credential: Fingerprint,
    account: Arc<Account>,
}

#[derive(Debug)]
struct Shard<E> {
    accounts: HashTable<E>,
    /// The most accounts it may hold.
    capacity: usize,
    /// The size at which idle accounts are searched: twice what the last search
    /// left, so that its cost is spread over the insertions.
    sweep_at: usize,
    swept: Option<Instant>,
}

impl Registry {
    pub(super) fn new(policy: Policy) -> Self {
        Self::with_capacity(policy, SHARD_CAPACITY)
    }

    fn with_capacity(policy: Policy, shard_capacity: usize) -> Self {
        Self {
            instances: Sharded::new(|| Shard::new(shard_capacity)),
            credentials: Sharded::new(|| Shard::new(shard_capacity)),
            anonymous: Arc::new(Account::new(None, &policy)),
            overflow: Arc::new(Account::new(InstanceId::new(OTHER), &policy)),
            policy: ArcSwap::from_pointee(policy),
        }
    }

    /// Finds or opens the account that a request draws on. What is verified for the
    /// instance in another class (`all`) is verified in a new account too.
    pub(super) fn account(&self, identity: &Identity, all: &[Arc<Self>]) -> Arc<Account> {
        let (account, is_new) = self.find_or_open(identity);
        if is_new && let Some(instance) = &identity.instance {
            // The lock of the shard is released: `known` takes it again.
            for known in all.iter().filter_map(|other| other.known(instance)) {
                if !Arc::ptr_eq(&known, &account) {
                    account.adopt(known.verified().all(), || self.policy.load_full());
                }
            }
        }
        account
    }

    fn find_or_open(&self, identity: &Identity) -> (Arc<Account>, bool) {
        match (&identity.instance, identity.credential) {
            (Some(instance), _) => {
                self.find(&self.instances, instance.as_bytes(), Some(instance), |it| {
                    it
                })
            }
            (None, Some(credential)) => {
                self.find(&self.credentials, &credential, None, |account| Unnamed {
                    credential,
                    account,
                })
            }
            (None, None) => (Arc::clone(&self.anonymous), false),
        }
    }

    /// The account of an instance, if there is one.
    pub(super) fn known(&self, instance: &str) -> Option<Arc<Account>> {
        let instance = instance.as_bytes();
        let hash = hash_of(instance);
        self.instances.shard(hash).get(hash, instance)
    }

    fn find<E: Entry>(
        &self,
        shards: &Sharded<Shard<E>>,
        key: &E::Key,
        instance: Option<&InstanceId>,
        entry: impl FnOnce(Arc<Account>) -> E,
    ) -> (Arc<Account>, bool) {
        let hasher = |entry: &E| E::hash(entry.key());
        let hash = E::hash(key);
        let mut shard = shards.shard(hash);
        if let Some(account) = shard.get(hash, key) {
            return (account, false);
        }
        if !shard.has_room(hasher) {
            return (Arc::clone(&self.overflow), false);
        }
        // Under the lock of the shard: a reload that stores
        // another policy after this finds the account there.
        let account = Arc::new(Account::new(instance.cloned(), &self.policy.load()));
        let entry = entry(Arc::clone(&account));
        shard.accounts.insert_unique(hash, entry, hasher);
        (account, true)
    }

    /// Tokens and pause of an instance in this class. One without an account has
    /// a full bucket: no other is ever dropped.
    pub(super) fn status(&self, instance: &str, now: Instant) -> BucketStatus {
        let account = self.known(instance);
        let status = account.and_then(|account| account.with_main(|bucket| bucket.status(now)));
        let (tokens, paused) = status.unwrap_or_else(|| {
            let policy = self.policy.load();
            let quota = policy.limit_of(Some(instance)).quota;
            let full = quota.map(|quota| f64::from(quota.burst.get()));
            (full, Duration::ZERO)
        });
        BucketStatus { tokens, paused }
    }

    /// The present policy.
    pub(super) fn policy(&self) -> Guard<Arc<Policy>> {
        self.policy.load()
    }

    /// Applies another policy; debt is kept.
    pub(super) fn reconfigure(&self, policy: Policy) {
        let policy = Arc::new(policy);
        // First, so that an account that is opened meanwhile begins with it.
        self.policy.store(Arc::clone(&policy));
        self.anonymous.reconfigure(&policy);
        self.overflow.reconfigure(&policy);
        reconfigure(&self.instances, &policy);
        reconfigure(&self.credentials, &policy);
    }
}

/// Records in the accounts of an instance, one for each group of classes, whether the upstream
/// accepts a credential.
pub(super) fn verify(all: &[Arc<Registry>], instance: &InstanceId, change: Change) {
    for registry in all {
        if let Some(account) = registry.known(instance) {
            account.verify(change, || registry.policy.load_full());
        }
    }
}

/// The account knows its instance, which is not kept twice.
impl Entry for Arc<Account> {
    type Key = [u8];

    fn hash(key: &[u8]) -> u64 {
        hash_of(key)
    }

    fn key(&self) -> &[u8] {
        self.instance().map_or(&[], InstanceId::as_bytes)
    }

    fn account(&self) -> &Arc<Account> {
        self
    }
}

impl Entry for Unnamed {
    type Key = Fingerprint;

    fn hash(key: &Fingerprint) -> u64 {
        hash_of(&key.to_bytes())
    }

    fn key(&self) -> &Fingerprint {
        &self.credential
    }

    fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl<E: Entry> Shard<E> {
    fn new(capacity: usize) -> Self {
        Self {
            accounts: HashTable::new(),
            capacity,
            sweep_at: capacity.min(64),
            swept: None,
        }
    }

    fn get(&self, hash: u64, key: &E::Key) -> Option<Arc<Account>> {
        let entry = self.accounts.find(hash, |entry| entry.key() == key)?;
        Some(Arc::clone(entry.account()))
    }

    /// Drops idle accounts when it is time; false if there is no room then.
    fn has_room(&mut self, hasher: impl Fn(&E) -> u64) -> bool {
        let now = Instant::now();
        let full = self.accounts.len() >= self.capacity;
        let swept_just_now = self.swept.is_some_and(|then| now < then + SWEEP_PAUSE);
        if self.accounts.len() >= self.sweep_at && !(full && swept_just_now) {
            self.swept = Some(now);
            let mut keep = |is_table_full: bool| {
                // An account in use elsewhere at this time is not idle.
                self.accounts.retain(|entry| {
                    let account = entry.account();
                    Arc::strong_count(account) > 1 || !account.is_idle(now, is_table_full)
                });
                self.accounts.len()
            };
            // Verified accounts go only if the others did not make room.
            if keep(false) >= self.capacity {
                keep(true);
            }
            // The memory of a flood is given back.
            self.accounts.shrink_to(64, hasher);
            self.sweep_at = (self.accounts.len() * 2).max(64).min(self.capacity);
        }
        self.accounts.len() < self.capacity
    }
}

fn reconfigure<E: Entry>(shards: &Sharded<Shard<E>>, policy: &Policy) {
    for shard in shards.all() {
        let accounts = shard.accounts.iter().map(Entry::account);
        accounts.for_each(|account| account.reconfigure(policy));
    }
}
