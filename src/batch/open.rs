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
    /// Bytes that the ids take in a merged request, and may take in one that
    /// any of the callers leads.
    length: usize,
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

/// The batches that take callers, by key.
#[derive(Debug)]
pub(super) struct Table {
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<MergeKey, Arc<Batch>>>]>,
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
                length: 0,
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
    fn offer(&self, caller: Caller) -> Result<(), Caller> {
        let mut state = self.lock();
        if !state.open {
            return Err(caller);
        }
        let fresh = caller
            .receipt
            .ids
            .iter()
            .filter(|id| !state.ids.contains(*id));
        // A list may name an id twice; counting it twice only closes early.
        let (count, length) = fresh.fold((0, 0), |(count, length), id| {
            (count + 1, length + caller.receipt.length_of(id))
        });
        if state.ids.len() + count > self.caps.ids
            || state.length + length > state.room.min(caller.receipt.room())
        {
            self.shut(&mut state);
            return Err(caller);
        }
        state.take(caller);
        if state.is_full(self.caps) {
            self.shut(&mut state);
        }
        Ok(())
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
            state.ids.clear();
            state.length = 0;
            for caller in std::mem::take(&mut state.callers) {
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
        let receipt = &caller.receipt;
        self.room = self.room.min(receipt.room());
        for id in &receipt.ids {
            if self.ids.insert(id.clone()) {
                self.length += receipt.length_of(id);
            }
        }
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
                Ok(()) => Ok(Offer::Joined),
                Err(caller) => {
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

    fn shard(&self, key: &MergeKey) -> MutexGuard<'_, HashMap<MergeKey, Arc<Batch>>> {
        let shard = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
