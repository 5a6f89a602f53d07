//! The accounts of one class of calls, by instance or credential.
//!
//! Invariant: the table is bounded, and an account that owes something or on
//! which somebody waits is never dropped. When it is full all newcomers share
//! one account, so a flood of made-up ids costs memory and budget of its own.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

#[cfg(test)]
mod tests;

use super::account::Account;
use super::sharing::Terms;
use crate::identity::{Fingerprint, Identity, InstanceId};
use crate::metrics::{OTHER, Standing};

/// Locks over the table, so that calls of different instances seldom meet.
const SHARDS: usize = 64;

/// Accounts per shard: 64 × 4,096 = 262,144 instances and as many credentials
/// without one in a class, some 125 MB at most.
const SHARD_CAPACITY: usize = 4096;

/// A full shard is searched at most this often: a flood must not buy a search
/// with every made-up id.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// The accounts of one class of calls.
#[derive(Debug)]
pub(super) struct Table {
    /// The class, as messages and `RateLimit` fields name it.
    pub(super) name: Box<str>,
    terms: ArcSwap<Terms>,
    hasher: RandomState,
    instances: Box<[Mutex<Shard<Named>>]>,
    credentials: Box<[Mutex<Shard<Unnamed>>]>,
    /// For calls that name neither instance nor credential.
    nobody: Arc<Account>,
    /// Shared by whoever comes while the table is full.
    overflow: Arc<Account>,
}

/// An account, to be found by what it belongs to.
trait Entry: Hash + Eq {
    fn account(&self) -> &Arc<Account>;
}

/// An instance's account. It knows its name, which is not kept twice.
#[derive(Debug)]
struct Named(Arc<Account>);

/// The account of a credential without an instance.
#[derive(Debug)]
struct Unnamed {
    credential: Fingerprint,
    account: Arc<Account>,
}

#[derive(Debug)]
struct Shard<E> {
    accounts: HashSet<E>,
    /// The most accounts it may hold.
    capacity: usize,
    /// The size at which idle accounts are looked for: twice what the last
    /// search left, so that its cost is spread over the insertions.
    sweep_at: usize,
    swept: Option<Instant>,
}

impl Table {
    pub(super) fn new(name: &str, terms: Terms) -> Self {
        Self::with_capacity(name, terms, SHARD_CAPACITY)
    }

    fn with_capacity(name: &str, terms: Terms, shard_capacity: usize) -> Self {
        Self {
            name: Box::from(name),
            hasher: RandomState::new(),
            instances: shards(shard_capacity),
            credentials: shards(shard_capacity),
            nobody: Arc::new(Account::new(None, &terms)),
            overflow: Arc::new(Account::new(InstanceId::new(OTHER), &terms)),
            terms: ArcSwap::from_pointee(terms),
        }
    }

    /// Finds or opens the account that pays for a call.
    pub(super) fn account(&self, identity: &Identity) -> Arc<Account> {
        match (&identity.instance, identity.credential) {
            (Some(instance), _) => {
                self.find(&self.instances, instance.as_bytes(), Some(instance), Named)
            }
            (None, Some(credential)) => {
                self.find(&self.credentials, &credential, None, |account| Unnamed {
                    credential,
                    account,
                })
            }
            (None, None) => Arc::clone(&self.nobody),
        }
    }

    /// The account of an instance that has called; opens none.
    pub(super) fn known(&self, instance: &str) -> Option<Arc<Account>> {
        let instance = instance.as_bytes();
        let shard = lock(&self.instances[self.shard(instance)]);
        let entry = shard.accounts.get(instance)?;
        Some(Arc::clone(entry.account()))
    }

    fn find<E, Q>(
        &self,
        shards: &[Mutex<Shard<E>>],
        key: &Q,
        instance: Option<&InstanceId>,
        entry: impl FnOnce(Arc<Account>) -> E,
    ) -> Arc<Account>
    where
        E: Entry + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut shard = lock(&shards[self.shard(key)]);
        if let Some(entry) = shard.accounts.get(key) {
            return Arc::clone(entry.account());
        }
        if !shard.has_room() {
            return Arc::clone(&self.overflow);
        }
        let account = Arc::new(Account::new(instance.cloned(), &self.terms.load()));
        shard.accounts.insert(entry(Arc::clone(&account)));
        account
    }

    /// How an instance stands in this class. One without an account has a full
    /// bucket: nothing else is ever forgotten.
    pub(super) fn standing(&self, instance: &str, now: Instant) -> Standing {
        if let Some(account) = self.known(instance) {
            return account.standing(now);
        }
        let quota = self.terms.load().quota;
        Standing {
            tokens: quota.map(|quota| f64::from(quota.burst.get())),
            paused: Duration::ZERO,
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }

    /// The terms in force.
    pub(super) fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// Puts other terms in force; what is owed stays owed.
    pub(super) fn renew(&self, terms: Terms) {
        let terms = Arc::new(terms);
        self.terms.store(Arc::clone(&terms));
        self.nobody.renew(&terms);
        self.overflow.renew(&terms);
        renew(&self.instances, &terms);
        renew(&self.credentials, &terms);
    }
}

impl Entry for Named {
    fn account(&self) -> &Arc<Account> {
        &self.0
    }
}

impl Borrow<[u8]> for Named {
    fn borrow(&self) -> &[u8] {
        self.0.instance.as_ref().map_or(&[], InstanceId::as_bytes)
    }
}

// As what is borrowed, which is what `Borrow` asks for.
impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<[u8]>::borrow(self).hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.instance == other.0.instance
    }
}

impl Eq for Named {}

impl Entry for Unnamed {
    fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Borrow<Fingerprint> for Unnamed {
    fn borrow(&self) -> &Fingerprint {
        &self.credential
    }
}

impl Hash for Unnamed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.credential.hash(state);
    }
}

impl PartialEq for Unnamed {
    fn eq(&self, other: &Self) -> bool {
        self.credential == other.credential
    }
}

impl Eq for Unnamed {}

impl<E: Entry> Shard<E> {
    /// Makes room among the idle when it is time; false when there is none.
    fn has_room(&mut self) -> bool {
        let now = Instant::now();
        let full = self.accounts.len() >= self.capacity;
        let swept_just_now = self.swept.is_some_and(|then| now < then + SWEEP_PAUSE);
        if self.accounts.len() >= self.sweep_at && !(full && swept_just_now) {
            self.swept = Some(now);
            let mut keep = |pressed: bool| {
                // An account in use elsewhere at this moment is not idle.
                self.accounts.retain(|entry| {
                    let account = entry.account();
                    Arc::strong_count(account) > 1 || !account.is_idle(now, pressed)
                });
                self.accounts.len()
            };
            if keep(false) >= self.capacity {
                keep(true);
            }
            self.accounts.shrink_to(64);
            self.sweep_at = (self.accounts.len() * 2).max(64).min(self.capacity);
        }
        self.accounts.len() < self.capacity
    }
}

fn renew<E: Entry>(shards: &[Mutex<Shard<E>>], terms: &Terms) {
    for shard in shards {
        let shard = lock(shard);
        let accounts = shard.accounts.iter().map(Entry::account);
        accounts.for_each(|account| account.renew(terms));
    }
}

fn shards<E>(capacity: usize) -> Box<[Mutex<Shard<E>>]> {
    (0..SHARDS)
        .map(|_| {
            Mutex::new(Shard {
                accounts: HashSet::new(),
                capacity,
                sweep_at: capacity.min(64),
                swept: None,
            })
        })
        .collect()
}

fn lock<E>(shard: &Mutex<Shard<E>>) -> MutexGuard<'_, Shard<E>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
