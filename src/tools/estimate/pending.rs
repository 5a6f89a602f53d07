//! What is open in a replay: requests and batches that have not been sent.
//!
//! Invariant: a request is worth sending until its deadline, a batch as long as
//! one of its callers waits.

use std::time::Duration;

use tokio::time::Instant;

use super::offline::BucketKey;
use super::replayed::LoggedReceipt;
use crate::batch::Batch;
use crate::limit::Kind;

/// A request or a batch that has not been sent.
pub(super) struct Open {
    pub(super) bucket: BucketKey,
    /// Its ticket in the queue of the bucket.
    pub(super) ticket: Option<u64>,
    pub(super) pending: Pending,
}

/// What waits for a bucket token.
pub(super) enum Pending {
    /// A request that is passed through: its arrival, and how long its call takes.
    Other(Instant, Duration),
    Batch(Batch<LoggedReceipt>),
}

impl Pending {
    /// How it asks for a token, and the time after which one is of no use.
    pub(super) fn request(&self, max_wait: Duration, now: Instant) -> (Kind, Instant) {
        match self {
            Self::Other(arrived, _) => (Kind::Request, *arrived + max_wait),
            Self::Batch(batch) => {
                let opened = batch.opened;
                (
                    Kind::Receipt { opened },
                    batch.last_deadline().unwrap_or(now),
                )
            }
        }
    }

    /// The first deadline of a batch. The queue watches those of requests itself.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        match self {
            Self::Other(..) => None,
            Self::Batch(batch) => batch.first_deadline(),
        }
    }
}
