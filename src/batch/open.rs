//! Batches that take callers.
//!
//! Invariant: at most one batch of a key takes callers at any time, and none
//! ever holds more than its caps. Pure bookkeeping: no clock, no I/O.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexSet;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Told;
use crate::receipt::{MergeKey, MessageId, Receipt};

/// Locks over the table, so that callers of different chats seldom meet.
const SHARDS: usize = 64;

/// Somebody who waits for a verdict.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) receipt: Receipt,
    pub(super) arrived: Instant,
    /// The last attempt must begin before this moment.
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Told>,
}

/// How much a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    pub(super) ids: usize,
    pub(super) callers: usize,
}

/// A batch, from its first caller to its sealing.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) key: MergeKey,
    pub(super) opened: Instant,
    caps: Caps,
    state: Mutex<State>,
    /// Told when the batch takes no more callers before its window ends.
    pub(super) closed: Notify,
}

#[derive(Debug)]
struct State {
    open: bool,
    /// In order of arrival, so in order of deadline too.
    callers: VecDeque<Caller>,
    ids: IndexSet<MessageId>,
    /// What the ids take in the merged request, and may take.
    bytes: usize,
    room: usize,
}

/// What became of a caller.
#[derive(Debug)]
pub(super) enum Offer {
    /// It joined a batch.
    Joined,
    /// It opened this one.
    Opened(Arc<Batch>),
}

type Shard = HashMap<MergeKey, Arc<Batch>>;

/// The batches that take callers, by key.
#[derive(Debug)]
pub(super) struct Table {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

impl Batch {
    pub(super) fn open(first: Caller, now: Instant, caps: Caps) -> Self {
        let batch = Self {
            key: first.receipt.key.clone(),
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

    /// Takes a caller, or gives it back: then the batch is closed.
    fn offer(&self, caller: Caller) -> Option<Caller> {
        let mut state = self.lock();
        if !state.open {
            return Some(caller);
        }
        // A list may name an id twice; counting it twice only closes early.
        let fresh = || {
            caller
                .receipt
                .ids
                .iter()
                .filter(|id| !state.ids.contains(*id))
        };
        let ids = state.ids.len() + fresh().count();
        let bytes = state.bytes + fresh().map(|id| caller.receipt.cost(id)).sum::<usize>();
        let room = state.room.min(caller.receipt.room());
        if ids > self.caps.ids || bytes > room {
            self.shut(&mut state);
            return Some(caller);
        }
        state.take(caller);
        if state.is_full(self.caps) {
            self.shut(&mut state);
        }
        None
    }

    /// Takes no more callers, and hands over those it has.
    pub(super) fn seal(&self) -> Vec<Caller> {
        let mut state = self.lock();
        self.shut(&mut state);
        Vec::from(std::mem::take(&mut state.callers))
    }

    /// The earliest deadline among the callers.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.lock().callers.front().map(|caller| caller.deadline)
    }

    /// The latest deadline among the callers.
    pub(super) fn last_deadline(&self) -> Option<Instant> {
        self.lock().callers.back().map(|caller| caller.deadline)
    }

    /// Hands over the callers whose deadline has come; closes with the last.
    pub(super) fn expire(&self, now: Instant) -> Vec<Caller> {
        let mut state = self.lock();
        let expired = state
            .callers
            .iter()
            .take_while(|caller| caller.deadline <= now)
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

    fn shut(&self, state: &mut State) {
        state.open = false;
        self.closed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, caller: Caller) {
        for id in &caller.receipt.ids {
            if self.ids.insert(id.clone()) {
                self.bytes += caller.receipt.cost(id);
            }
        }
        // Whoever will be first: its request is the one that carries the ids.
        self.room = self.room.min(caller.receipt.room());
        self.callers.push_back(caller);
    }

    fn is_full(&self, caps: Caps) -> bool {
        self.ids.len() >= caps.ids || self.callers.len() >= caps.callers
    }
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Puts a caller into the open batch of its key, or opens one with it.
    ///
    /// # Errors
    /// What `open` says.
    pub(super) fn offer<E>(
        &self,
        caller: Caller,
        open: impl FnOnce(Caller) -> Result<Arc<Batch>, E>,
    ) -> Result<Offer, E> {
        let key = caller.receipt.key.clone();
        let mut shard = self.shard(&key);
        match shard.entry(key) {
            Entry::Occupied(mut entry) => match entry.get().offer(caller) {
                None => Ok(Offer::Joined),
                Some(caller) => {
                    let batch = open(caller)?;
                    entry.insert(Arc::clone(&batch));
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
    pub(super) fn forget(&self, batch: &Arc<Batch>) {
        let mut shard = self.shard(&batch.key);
        if shard
            .get(&batch.key)
            .is_some_and(|current| Arc::ptr_eq(current, batch))
        {
            shard.remove(&batch.key);
        }
    }

    fn shard(&self, key: &MergeKey) -> MutexGuard<'_, Shard> {
        let shard = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
