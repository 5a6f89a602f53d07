//! Receipts that failed alone stay out of batches for a while.
//!
//! Invariant: what is kept out is an id under one merge key, nobody and
//! nothing else; the table is bounded, and a full one forgets the oldest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indexmap::IndexMap;
use tokio::time::Instant;

use crate::receipt::{MergeKey, MessageId, Receipt};

/// Ids kept out at a time.
const CAPACITY: usize = 10_000;

/// Ids that made a call fail; `None` stands for the whole-chat form.
#[derive(Debug)]
pub(super) struct Quarantine {
    until: Mutex<IndexMap<(MergeKey, Option<MessageId>), Instant>>,
    /// Nothing was ever kept out: then no receipt takes the lock.
    unused: AtomicBool,
}

impl Quarantine {
    pub(super) fn new() -> Self {
        Self {
            until: Mutex::default(),
            unused: AtomicBool::new(true),
        }
    }

    /// Whether a receipt must go alone.
    pub(super) fn holds(&self, receipt: &Receipt, now: Instant) -> bool {
        if self.unused.load(Ordering::Relaxed) {
            return false;
        }
        let until = self.lock();
        !until.is_empty()
            && entries(receipt).any(|entry| until.get(&entry).is_some_and(|until| now < *until))
    }

    /// Keeps a receipt's ids out of batches.
    pub(super) fn add(&self, receipt: &Receipt, now: Instant, length: Duration) {
        if length.is_zero() {
            return;
        }
        self.unused.store(false, Ordering::Relaxed);
        let mut until = self.lock();
        until.retain(|_, until| now < *until);
        for entry in entries(receipt) {
            until.insert(entry, now + length);
        }
        let excess = until.len().saturating_sub(CAPACITY);
        drop(until.drain(..excess));
    }

    fn lock(&self) -> MutexGuard<'_, IndexMap<(MergeKey, Option<MessageId>), Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entries(receipt: &Receipt) -> impl Iterator<Item = (MergeKey, Option<MessageId>)> {
    let whole_chat = receipt.ids.is_empty().then_some(None);
    let ids = receipt.ids.iter().cloned().map(Some);
    whole_chat
        .into_iter()
        .chain(ids)
        .map(|id| (receipt.key.clone(), id))
}
