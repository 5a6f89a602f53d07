//! Receipts that failed alone stay out of batches for a while.
//!
//! Invariant: what is kept out is an id under one merge key, nobody and
//! nothing else; the table is bounded, whatever the ids and keys are made of,
//! and a full one forgets the oldest.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indexmap::IndexMap;
use tokio::time::Instant;

use crate::receipt::{MessageId, Receipt};

/// Ids kept out at a time.
const CAPACITY: usize = 10_000;

/// Ids of one receipt that are: no one receipt pushes out all others.
const MOST_OF_ONE: usize = CAPACITY / 10;

/// Ids that made a call fail, or the whole-chat form that did.
#[derive(Debug)]
pub(super) struct Quarantine {
    /// By a hash of id and merge key, whose own bytes may be a hundred
    /// thousand: should two fall together, a receipt goes alone for nothing.
    until: Mutex<IndexMap<u64, Instant>>,
    hasher: RandomState,
    /// Nothing was ever kept out: then no receipt takes the lock.
    unused: AtomicBool,
}

impl Quarantine {
    pub(super) fn new() -> Self {
        Self {
            until: Mutex::default(),
            hasher: RandomState::new(),
            unused: AtomicBool::new(true),
        }
    }

    /// Whether a receipt must go alone.
    pub(super) fn holds(&self, receipt: &Receipt, now: Instant) -> bool {
        if self.unused.load(Ordering::Relaxed) {
            return false;
        }
        let until = self.lock();
        let mut entries = self.entries(receipt);
        !until.is_empty()
            && entries.any(|entry| until.get(&entry).is_some_and(|until| now < *until))
    }

    /// Keeps a receipt's ids out of batches.
    pub(super) fn add(&self, receipt: &Receipt, now: Instant, length: Duration) {
        if length.is_zero() {
            return;
        }
        self.unused.store(false, Ordering::Relaxed);
        let fresh: IndexMap<_, _> = self
            .entries(receipt)
            .take(MOST_OF_ONE)
            .map(|entry| (entry, now + length))
            .collect();
        let mut until = self.lock();
        // Those that come again go behind all others.
        until.retain(|entry, until| now < *until && !fresh.contains_key(entry));
        until.extend(fresh);
        let excess = until.len().saturating_sub(CAPACITY);
        drop(until.drain(..excess));
    }

    fn entries(&self, receipt: &Receipt) -> impl Iterator<Item = u64> {
        let whole_chat = receipt.ids.is_empty().then_some(None::<&MessageId>);
        let ids = receipt.ids.iter().map(Some);
        let entry = |id| self.hasher.hash_one((&receipt.key, id));
        whole_chat.into_iter().chain(ids).map(entry)
    }

    fn lock(&self) -> MutexGuard<'_, IndexMap<u64, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;

    use super::*;

    fn receipt(chat: &str, ids: usize) -> Receipt {
        let ids: Vec<_> = (0..ids).map(|id| format!("false_1@c.us_{id}")).collect();
        let body = format!(r#"{{"chatId":"{chat}","messageIds":{ids:?}}}"#);
        let request = Request::post("/v2/send/seen?instance_id=1&access_token=t");
        let (head, ()) = request.body(()).unwrap().into_parts();
        Receipt::read(head, Bytes::from(body)).unwrap()
    }

    #[test]
    fn one_long_receipt_pushes_out_nobody_and_many_only_the_oldest() {
        let (quarantine, now) = (Quarantine::new(), Instant::now());
        let minute = Duration::from_secs(60);
        let first = receipt("first", 0);
        quarantine.add(&first, now, minute);
        for chat in 0..9 {
            quarantine.add(&receipt(&chat.to_string(), 2000), now, minute);
        }
        assert!(quarantine.holds(&first, now));
        assert!(!quarantine.holds(&receipt("second", 0), now));
        quarantine.add(&receipt("9", 2000), now, minute);
        assert!(!quarantine.holds(&first, now));
        assert!(quarantine.holds(&receipt("0", 2), now));
        assert_eq!(quarantine.lock().len(), CAPACITY);
        assert!(!quarantine.holds(&receipt("0", 2), now + minute));
    }
}
