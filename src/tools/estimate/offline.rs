//! The buckets of the gateway in the time of a log.
//!
//! Invariant: what is decided here is decided by the very code that decides in
//! a gateway ([`Bucket`]); only the caller serves the queues, because it sets
//! the clock. A log names no credentials and no tenants, so there is one bucket
//! per instance and class, and no shared budget.

use std::collections::HashMap;

use http::Method;
use tokio::time::Instant;

use crate::config::{Classes, Config, InstanceLimit};
use crate::http::path;
use crate::queue::bucket::{Bucket, next_ticket};
use crate::queue::forecast;
use crate::queue::request::{Completion, Kind, Newcomer, Permit, RateLimited};

/// Arrivals between two searches for idle buckets.
const SWEEP_EVERY: usize = 65_536;

/// A class of requests, and an instance by its hash.
pub(super) type BucketKey = (usize, u64);

/// The buckets of one estimate.
pub(super) struct OfflineLimiter<G> {
    config: Config,
    limits: Vec<InstanceLimit>,
    buckets: HashMap<BucketKey, Bucket<G>>,
    arrivals: usize,
}

/// What a request for a token gets.
#[derive(Debug)]
pub(super) enum Entry {
    /// The token was there.
    Now(Permit),
    /// A position in the queue.
    Queued {
        ticket: u64,
        /// The queue has just been made: it has to be served.
        first: bool,
    },
}

impl<G: Completion> OfflineLimiter<G> {
    /// Opens full buckets under these settings.
    pub(super) fn new(config: &Config) -> Self {
        let limit = |quota, max_in_flight| InstanceLimit {
            class: None,
            quota,
            max_in_flight,
        };
        let base = std::iter::once(limit(config.limit.quota, None));
        let classes = config.limit.classes.iter();
        let classes = classes.map(|class| limit(class.quota, class.max_in_flight));
        Self {
            limits: base.chain(classes).collect(),
            config: config.clone(),
            buckets: HashMap::new(),
            arrivals: 0,
        }
    }

    /// Takes a token or a position in the queue; then `serve` says when it has to
    /// be served.
    ///
    /// # Errors
    /// The queue is full, or the token would come after `deadline`.
    pub(super) fn admit(
        &mut self,
        key: BucketKey,
        kind: Kind,
        (now, deadline): (Instant, Instant),
        completion: impl FnOnce() -> G,
    ) -> Result<Entry, RateLimited> {
        self.arrivals += 1;
        if self.arrivals.is_multiple_of(SWEEP_EVERY) {
            self.buckets.retain(|_, bucket| !bucket.is_idle(now));
        }
        let limit = &self.limits[key.0];
        let bucket = self.buckets.entry(key);
        let bucket = bucket.or_insert_with(|| Bucket::new_main(limit, now));
        if let Some(permit) = bucket.try_acquire(now) {
            return Ok(Entry::Now(permit));
        }
        let newcomer = newcomer(kind, now, deadline);
        let max_delay = self.config.batch.max_delay;
        forecast::admit(bucket, &newcomer, max_delay, self.config.limit.max_queue)?;
        let ticket = next_ticket();
        let first = bucket.push(&newcomer, max_delay, ticket, completion());
        Ok(Entry::Queued { ticket, first })
    }

    /// Whether a request could be admitted now; takes nothing.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(super) fn check(
        &self,
        key: BucketKey,
        kind: Kind,
        now: Instant,
        deadline: Instant,
    ) -> Result<(), RateLimited> {
        let Some(bucket) = self.buckets.get(&key) else {
            return Ok(());
        };
        let newcomer = newcomer(kind, now, deadline);
        let max_delay = self.config.batch.max_delay;
        forecast::admit(bucket, &newcomer, max_delay, self.config.limit.max_queue)
    }

    /// Hands out every token that is there; returns when to call this again.
    pub(super) fn serve(&mut self, key: BucketKey, now: Instant) -> Option<Instant> {
        let bucket = self.buckets.get_mut(&key)?;
        bucket.advance(now).map(|(next, _)| next)
    }

    /// Removes a waiter that has left from its queue.
    pub(super) fn leave(&mut self, key: BucketKey, ticket: u64) {
        if let Some(bucket) = self.buckets.get_mut(&key) {
            bucket.remove(ticket);
        }
    }
}

fn newcomer(kind: Kind, now: Instant, deadline: Instant) -> Newcomer {
    Newcomer {
        kind,
        now,
        deadline,
        credential: None,
    }
}

/// The class of a request: 0 is the base limit.
pub(super) fn class_of(
    (config, classes): (&Config, &Classes),
    method: &Method,
    path: &str,
    instance: Option<&str>,
) -> usize {
    let path = path::normalize(path);
    let mut receipts = config.batch.paths.iter();
    let is_receipt = receipts.any(|receipt| path::same_segments(receipt, &path));
    let class = classes.class_of(method, &path, is_receipt, instance);
    class.map_or(0, |class| class + 1)
}
