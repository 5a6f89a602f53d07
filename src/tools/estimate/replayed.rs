//! What the requests of a log are to a batch and to a bucket: a receipt that can
//! be merged, and a waiter that collects its verdict.
//!
//! Invariant: nothing is sent from here. A verdict is only noted; the replay acts
//! on it when the limiter is no longer borrowed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::batch::Mergeable;
use crate::limit::{Completion, Permit, RateLimited};

/// A receipt in a batch.
#[derive(Debug)]
pub(super) struct LoggedReceipt {
    pub(super) key: u64,
    pub(super) ids: Vec<u64>,
    pub(super) arrived: Instant,
    pub(super) deadline: Instant,
    /// How long an upstream call with it takes.
    pub(super) took: Duration,
}

impl Mergeable for LoggedReceipt {
    type Key = u64;

    fn key(&self) -> &u64 {
        &self.key
    }

    // A log has no lengths: only the caps bound a batch.
    fn each_id(&self, mut each: impl FnMut(u64, usize)) {
        self.ids.iter().for_each(|id| each(*id, 0));
    }

    fn max_id_bytes(&self) -> usize {
        usize::MAX
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// A waiter, known by its number. Verdicts are collected, and the replay sends the requests.
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) verdicts: Verdicts,
}

/// Waiters that have a verdict; `None` is a refusal.
pub(super) type Verdicts = Rc<RefCell<Vec<(u64, Option<Permit>)>>>;

impl Completion for Waiter {
    fn settle(self, verdict: Result<Permit, RateLimited>) -> bool {
        // Only noted: the limiter is borrowed now, and sending can change the replay's tables.
        self.verdicts.borrow_mut().push((self.id, verdict.ok()));
        // A waiter of a replay never disconnects, so the token is used.
        true
    }
}
