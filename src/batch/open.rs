//! Batches that take callers.
//!
//! Invariant: at most one batch of a key takes callers at any time, and none
//! ever holds more than its caps. Pure bookkeeping: no clock, no I/O.

use std::collections::VecDeque;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use indexmap::IndexSet;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Told;
use crate::config;
use crate::receipt::{MergeKey, MessageId, Receipt};
use crate::sharded::Sharded;

impl Caps {
    pub(crate) fn of(settings: &config::Batch) -> Self {
        Self {
            ids: settings.max_ids,
            callers: settings.max_callers,
        }
    }
}

/// What a batch is made of.
pub(crate) trait Member {
    /// Equal for members that may share a batch.
    type Key: Clone + Eq + Hash + fmt::Debug;
    /// What there is one of in a batch, however many bring it.
    type Id: Clone + Eq + Hash + fmt::Debug;

    fn key(&self) -> &Self::Key;
    fn ids(&self) -> &[Self::Id];
    /// Bytes that an id takes in a request of this member's form.
    fn cost(&self, id: &Self::Id) -> usize;
    /// Bytes that the ids of a request of this member's form may take.
    fn room(&self) -> usize;
    /// The last attempt must begin before this moment.
    fn deadline(&self) -> Instant;
}

/// Somebody who waits for a verdict.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) receipt: Box<Receipt>,
    /// When its last byte came.
    pub(super) came: Instant,
    /// The last attempt must begin before this moment.
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Told>,
}

/// How much a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(super) ids: usize,
    pub(super) callers: usize,
}

impl Member for Caller {
    type Key = MergeKey;
    type Id = MessageId;

    fn key(&self) -> &MergeKey {
        &self.receipt.key
    }

    fn ids(&self) -> &[MessageId] {
        &self.receipt.ids
    }

    fn cost(&self, id: &MessageId) -> usize {
        self.receipt.form().cost(id)
    }

    fn room(&self) -> usize {
        self.receipt.room()
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// A batch, from its first member to its sealing.
#[derive(Debug)]
pub(crate) struct Batch<M: Member> {
    pub(crate) key: M::Key,
    pub(crate) opened: Instant,
    caps: Caps,
    state: Mutex<State<M>>,
    /// Told when the batch takes no more members before its window ends.
    pub(crate) closed: Notify,
}

#[derive(Debug)]
struct State<M: Member> {
    open: bool,
    /// As they joined: in order of deadline, but for the moment that one worker
    /// took longer than another to read a receipt.
    callers: VecDeque<M>,
    ids: IndexSet<M::Id>,
    /// What the ids take in the merged request, and may take.
    bytes: usize,
    room: usize,
}

/// What became of a caller.
#[derive(Debug)]
pub(crate) enum Offer<M: Member> {
    /// It joined a batch.
    Joined,
    /// It opened this one.
    Opened(Arc<Batch<M>>),
}

/// The batches that take callers, by key: they know it.
#[derive(Debug)]
pub(crate) struct Table<M: Member>(Sharded<HashTable<Arc<Batch<M>>>>);

impl<M: Member> Batch<M> {
    pub(crate) fn open(first: M, now: Instant, caps: Caps) -> Self {
        let batch = Self {
            key: first.key().clone(),
            opened: now,
            caps,
            state: Mutex::new(State {
                open: true,
                callers: VecDeque::new(),
                ids: IndexSet::new(),
                bytes: 0,
                room: usize::MAX,
            }),
            closed: Notify::new(),
        };
        let mut state = batch.lock();
        state.take(first);
        if state.is_full(caps) {
            batch.shut(&mut state);
        }
        drop(state);
        batch
    }

    /// Takes no more callers.
    pub(super) fn close(&self) {
        self.shut(&mut self.lock());
    }

    /// Whether it takes callers.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// Takes a caller, or gives it back: then the batch is closed.
    pub(crate) fn offer(&self, caller: M) -> Option<M> {
        let mut state = self.lock();
        if !state.open {
            return Some(caller);
        }
        if !state.has_room_for(&caller, self.caps) {
            self.shut(&mut state);
            return Some(caller);
        }
        state.take(caller);
        if state.is_full(self.caps) {
            self.shut(&mut state);
        }
        None
    }

    /// Takes no more callers, and hands over those it has, with the union of
    /// their ids.
    pub(crate) fn seal(&self) -> (Vec<M>, IndexSet<M::Id>) {
        let mut state = self.lock();
        self.shut(&mut state);
        let callers = Vec::from(std::mem::take(&mut state.callers));
        (callers, std::mem::take(&mut state.ids))
    }

    /// The earliest deadline among the callers.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.lock().callers.front().map(|caller| caller.deadline())
    }

    /// The latest deadline among the callers.
    pub(crate) fn last_deadline(&self) -> Option<Instant> {
        self.lock().callers.back().map(|caller| caller.deadline())
    }

    /// Hands over the callers whose deadline has come; closes with the last.
    pub(crate) fn expire(&self, now: Instant) -> Vec<M> {
        let mut state = self.lock();
        let expired = state
            .callers
            .iter()
            .take_while(|caller| caller.deadline() <= now)
            .count();
        let expired: Vec<_> = state.callers.drain(..expired).collect();
        if state.callers.is_empty() {
            self.shut(&mut state);
        } else if !expired.is_empty() {
            let left = std::mem::take(&mut state.callers);
            (state.ids, state.bytes) = (IndexSet::new(), 0);
            for caller in left {
                state.take(caller);
            }
        }
        expired
    }

    fn shut(&self, state: &mut State<M>) {
        state.open = false;
        self.closed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Member> State<M> {
    fn take(&mut self, caller: M) {
        for id in caller.ids() {
            if self.ids.insert(id.clone()) {
                self.bytes += caller.cost(id);
            }
        }
        // Whoever will be first: its request is the one that carries the ids.
        self.room = self.room.min(caller.room());
        self.callers.push_back(caller);
    }

    fn has_room_for(&self, caller: &M, caps: Caps) -> bool {
        let room = self.room.min(caller.room());
        let fits = |fresh: &mut dyn Iterator<Item = &M::Id>| {
            let (mut ids, mut bytes) = (self.ids.len(), self.bytes);
            for id in fresh {
                ids += 1;
                bytes += caller.cost(id);
            }
            ids <= caps.ids && bytes <= room
        };
        // As if all its ids were new: nearly always true, and nothing to hash.
        let mut ids = caller.ids().iter();
        // A list may name an id twice; counting it twice only closes early.
        let mut fresh = ids.clone().filter(|id| !self.ids.contains(*id));
        fits(&mut ids) || fits(&mut fresh)
    }

    fn is_full(&self, caps: Caps) -> bool {
        self.ids.len() >= caps.ids || self.callers.len() >= caps.callers
    }
}

impl<M: Member> Table<M> {
    pub(super) fn new() -> Self {
        Self(Sharded::new(HashTable::new))
    }

    /// Puts a caller into the open batch of its key, or opens one with it.
    ///
    /// # Errors
    /// What `open` says.
    pub(super) fn offer<E>(
        &self,
        caller: M,
        open: impl FnOnce(M) -> Result<Arc<Batch<M>>, E>,
    ) -> Result<Offer<M>, E> {
        let hash = self.0.hash(caller.key());
        let mut shard = self.0.shard(hash);
        let is_its = |batch: &Arc<Batch<M>>| batch.key == *caller.key();
        let hasher = |batch: &Arc<Batch<M>>| self.0.hash(&batch.key);
        match shard.entry(hash, is_its, hasher) {
            Entry::Occupied(mut entry) => match entry.get().offer(caller) {
                None => Ok(Offer::Joined),
                Some(caller) => {
                    let batch = open(caller)?;
                    *entry.get_mut() = Arc::clone(&batch);
                    Ok(Offer::Opened(batch))
                }
            },
            Entry::Vacant(entry) => {
                let batch = open(caller)?;
                entry.insert(Arc::clone(&batch));
                Ok(Offer::Opened(batch))
            }
        }
    }

    /// Forgets a batch, if it is still the one of its key.
    pub(super) fn forget(&self, batch: &Arc<Batch<M>>) {
        let hash = self.0.hash(&batch.key);
        let mut shard = self.0.shard(hash);
        if let Ok(entry) = shard.find_entry(hash, |current| Arc::ptr_eq(current, batch)) {
            entry.remove();
        }
    }
}
