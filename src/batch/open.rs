//! Open batches, which still accept callers, and which keys are idle.
//!
//! Invariant: at most one batch of a key accepts callers at any time, and none
//! ever holds more than its caps. Pure bookkeeping: no clock, no I/O.

use std::collections::VecDeque;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config;
use crate::receipt::{IdHash, MergeKey};
use crate::sharded::Sharded;

/// What a batch is made of: a caller, its shadow where merging is only
/// observed, or a receipt of a log.
pub(crate) trait Mergeable {
    /// Equal for receipts that may share a batch.
    type Key: Clone + Eq + Hash + fmt::Debug;

    /// The key of this receipt.
    fn key(&self) -> &Self::Key;
    /// Calls `each` with each id of the receipt, and with the bytes that the id
    /// takes in a merged request of this receipt's form.
    fn each_id(&self, each: impl FnMut(IdHash, usize));
    /// Bytes that all ids of a merged request of this receipt's form may take.
    fn max_id_bytes(&self) -> usize;
    /// The last attempt must begin before this time.
    fn deadline(&self) -> Instant;
}

/// How much a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Distinct ids.
    pub(super) ids: usize,
    /// Callers.
    pub(super) callers: usize,
}

impl Caps {
    pub(crate) fn of(settings: &config::Batch) -> Self {
        Self {
            ids: settings.max_ids,
            callers: settings.max_callers,
        }
    }
}

/// A batch, from its first caller until it is sealed.
#[derive(Debug)]
pub(crate) struct Batch<M: Mergeable> {
    pub(crate) key: M::Key,
    pub(crate) opened: Instant,
    pub(super) caps: Caps,
    state: Mutex<State<M>>,
    /// Notified when the batch is closed before its window ends.
    pub(super) closed: Notify,
}

#[derive(Debug)]
struct State<M> {
    is_open: bool,
    /// In the order of joining. Their deadlines have nearly the same order; a
    /// reload of `limit.max_wait` can change it.
    callers: VecDeque<M>,
    /// The distinct ids of all callers.
    ids: HashTable<IdHash>,
    /// Bytes that the ids take in the merged request.
    bytes: usize,
    /// Bytes that the ids may take in it.
    max_id_bytes: usize,
}

/// How a caller got into a batch.
#[derive(Debug)]
pub(crate) enum Joined<M: Mergeable> {
    /// It joined an open batch.
    Existing,
    /// It is the first caller of this batch.
    New {
        batch: Arc<Batch<M>>,
        /// No other batch of its key was in the table.
        key_was_idle: bool,
    },
}

impl<M: Mergeable> Batch<M> {
    /// Opens a batch with its first caller.
    pub(crate) fn open(first: M, now: Instant, caps: Caps) -> Self {
        let batch = Self::empty(first.key().clone(), now, caps);
        let ids = ids_of(&first);
        let mut state = batch.lock();
        state.add(first, &ids);
        batch.close_if_full(&mut state);
        drop(state);
        batch
    }

    /// A closed batch of these callers. Their ids are not counted: a list that is
    /// sent alone may be longer than the caps.
    pub(crate) fn closed(key: M::Key, callers: Vec<M>, opened: Instant, caps: Caps) -> Self {
        let batch = Self::empty(key, opened, caps);
        let mut state = batch.lock();
        state.callers = callers.into();
        batch.close(&mut state);
        drop(state);
        batch
    }

    fn empty(key: M::Key, opened: Instant, caps: Caps) -> Self {
        let state = State {
            is_open: true,
            callers: VecDeque::new(),
            ids: HashTable::new(),
            bytes: 0,
            max_id_bytes: usize::MAX,
        };
        Self {
            key,
            opened,
            caps,
            state: Mutex::new(state),
            closed: Notify::new(),
        }
    }

    /// Whether the batch accepts callers.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_open
    }

    /// Adds a caller. If it does not fit, closes the batch and returns the caller.
    pub(crate) fn join(&self, caller: M) -> Option<M> {
        // Hashed once, and before the lock is taken.
        let ids = ids_of(&caller);
        let mut state = self.lock();
        if !state.is_open {
            return Some(caller);
        }
        if !state.has_room_for(&ids, caller.max_id_bytes(), self.caps) {
            // Closed although smaller receipts might still fit: otherwise this
            // caller's batch would be a second open one of the key.
            self.close(&mut state);
            return Some(caller);
        }
        state.add(caller, &ids);
        self.close_if_full(&mut state);
        None
    }

    /// Closes the batch and returns its callers.
    pub(crate) fn seal(&self) -> Vec<M> {
        let mut state = self.lock();
        self.close(&mut state);
        // A sealed batch may stay in the table: it keeps no more than its key.
        state.ids = HashTable::new();
        Vec::from(std::mem::take(&mut state.callers))
    }

    /// The earliest deadline of the callers.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.lock().callers.iter().map(M::deadline).min()
    }

    /// The latest deadline of the callers.
    pub(crate) fn last_deadline(&self) -> Option<Instant> {
        self.lock().callers.iter().map(M::deadline).max()
    }

    /// Removes the callers whose deadline is too early. The batch closes with the
    /// last of them.
    pub(crate) fn take_late(&self, is_too_early: impl Fn(Instant) -> bool) -> Vec<M> {
        let mut state = self.lock();
        let callers = std::mem::take(&mut state.callers);
        let (expired, rest): (VecDeque<_>, _) = callers
            .into_iter()
            .partition(|caller| is_too_early(caller.deadline()));
        state.callers = rest;
        let expired = Vec::from(expired);
        if state.callers.is_empty() {
            self.close(&mut state);
        } else if !expired.is_empty() {
            // An id may have had several callers, so it cannot just be removed: the
            // ids of the rest are counted anew.
            let rest = std::mem::take(&mut state.callers);
            state.ids.clear();
            state.bytes = 0;
            for caller in rest {
                let ids = ids_of(&caller);
                state.add(caller, &ids);
            }
        }
        expired
    }

    fn close_if_full(&self, state: &mut State<M>) {
        if state.ids.len() >= self.caps.ids || state.callers.len() >= self.caps.callers {
            self.close(state);
        }
    }

    fn close(&self, state: &mut State<M>) {
        state.is_open = false;
        // Stores a permit if the task of the batch does not wait yet.
        self.closed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // A poisoned state is still consistent: no change under this lock panics
        // halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ids of a caller, each with its bytes in the merged request.
fn ids_of(caller: &impl Mergeable) -> SmallVec<[(IdHash, usize); 1]> {
    // Most callers have one.
    let mut ids = SmallVec::new();
    caller.each_id(|id, cost| ids.push((id, cost)));
    ids
}

impl<M: Mergeable> State<M> {
    /// Adds a caller with its [`ids_of`].
    fn add(&mut self, caller: M, ids: &[(IdHash, usize)]) {
        for &(id, cost) in ids {
            // The ids are hashes already, so the table hashes nothing again.
            let entry = self.ids.entry(id, |it| *it == id, |it| *it);
            if let Entry::Vacant(entry) = entry {
                entry.insert(id);
                self.bytes += cost;
            }
        }
        // The smallest limit counts: the first caller writes the merged request,
        // and when callers expire, any caller may become the first.
        self.max_id_bytes = self.max_id_bytes.min(caller.max_id_bytes());
        self.callers.push_back(caller);
    }

    /// Whether ids fit whose caller's merged request may hold `max_bytes` of them. An id
    /// that its list repeats counts twice, which only closes the batch early.
    fn has_room_for(&self, ids: &[(IdHash, usize)], max_bytes: usize, caps: Caps) -> bool {
        let (mut count, mut bytes) = (self.ids.len(), self.bytes);
        for (id, cost) in ids {
            if self.ids.find(*id, |it| it == id).is_none() {
                count += 1;
                bytes += cost;
            }
        }
        count <= caps.ids && bytes <= self.max_id_bytes.min(max_bytes)
    }
}

/// The last batch of each key: open, or sealed and kept to show that its key is
/// not idle (rule: batch life cycle).
#[derive(Debug)]
pub(super) struct OpenBatches<M: Mergeable>(Sharded<HashTable<Arc<Batch<M>>>>);

impl<M: Mergeable<Key = MergeKey>> OpenBatches<M> {
    pub(super) fn new() -> Self {
        Self(Sharded::new(HashTable::new))
    }

    /// Adds a caller to the open batch of its key, or opens one with it.
    ///
    /// # Errors
    /// Those of `open`.
    pub(super) fn join<E>(
        &self,
        caller: M,
        open: impl FnOnce(M) -> Result<Arc<Batch<M>>, E>,
    ) -> Result<Joined<M>, E> {
        let hash = caller.key().hashed();
        let mut shard = self.0.shard(hash);
        let is_of_key = |batch: &Arc<Batch<M>>| batch.key == *caller.key();
        let hasher = |batch: &Arc<Batch<M>>| batch.key.hashed();
        // The lock of the shard is held while `open` runs, so two receipts of one
        // key cannot open two batches.
        match shard.entry(hash, is_of_key, hasher) {
            Entry::Occupied(mut entry) => match entry.get().join(caller) {
                None => Ok(Joined::Existing),
                Some(caller) => {
                    // On a refusal the closed batch stays; its task removes it.
                    let batch = open(caller)?;
                    *entry.get_mut() = Arc::clone(&batch);
                    Ok(Joined::New {
                        batch,
                        key_was_idle: false,
                    })
                }
            },
            Entry::Vacant(entry) => {
                let batch = open(caller)?;
                entry.insert(Arc::clone(&batch));
                Ok(Joined::New {
                    batch,
                    key_was_idle: true,
                })
            }
        }
    }

    /// Removes a batch, unless a newer one of its key has replaced it.
    pub(super) fn remove(&self, batch: &Arc<Batch<M>>) {
        let hash = batch.key.hashed();
        let mut shard = self.0.shard(hash);
        // By pointer, not by key: a batch that closed early was replaced by a newer
        // one, which must stay.
        if let Ok(entry) = shard.find_entry(hash, |current| Arc::ptr_eq(current, batch)) {
            entry.remove();
        }
    }
}

#[cfg(test)]
impl<M: Mergeable> OpenBatches<M> {
    /// Keys that are not idle.
    pub(super) fn len(&self) -> usize {
        self.0.all().map(|shard| shard.len()).sum()
    }
}
