//! Budgets on paper: the buckets of the gateway in the time of a log.
//!
//! Invariant: what is decided here is decided by the very code that decides in
//! a gateway ([`State`]); only who serves a line differs, which is whoever
//! turns the clock. A log tells no credentials and no shares, so there is one
//! bucket per instance and class, and no egress.

use std::collections::HashMap;

use http::Method;
use tokio::time::Instant;

use super::bucket::{Entry, State};
use super::line::{Grant, Kind};
use super::{Refused, Rules};
use crate::config::{Config, Quota};
use crate::http::path;

/// Arrivals between two searches for buckets that hold nothing any more.
const SWEEP_EVERY: usize = 65_536;

/// Whose bucket: a class of calls, and an instance by its hash.
pub(crate) type Purse = (usize, u64);

/// The buckets of one estimate.
pub(crate) struct Paper<G> {
    rules: Rules,
    quotas: Vec<Option<Quota>>,
    buckets: HashMap<Purse, State<G>>,
    asked: usize,
}

impl<G: Grant> Paper<G> {
    /// Opens full buckets under these settings.
    pub(crate) fn new(config: &Config) -> Self {
        let base = std::iter::once(config.limit.quota);
        let classes = config.limit.classes.iter().map(|class| class.quota);
        Self {
            rules: Rules::new(config, None),
            quotas: base.chain(classes).collect(),
            buckets: HashMap::new(),
            asked: 0,
        }
    }

    /// Takes a token or a place in line; then `serve` says when it must be served.
    ///
    /// # Errors
    /// The line is full, or the token would come after `deadline`.
    pub(crate) fn admit(
        &mut self,
        purse: Purse,
        kind: Kind,
        now: Instant,
        deadline: Instant,
        grant: impl FnOnce() -> G,
    ) -> Result<Entry, Refused> {
        self.asked += 1;
        if self.asked.is_multiple_of(SWEEP_EVERY) {
            self.buckets.retain(|_, bucket| !bucket.is_idle(now));
        }
        let quota = self.quotas.get(purse.0).copied().flatten();
        let bucket = self
            .buckets
            .entry(purse)
            .or_insert_with(|| State::new(quota, now));
        bucket.admit(kind, (now, deadline), None, &self.rules, grant)
    }

    /// Tells whether a call could be admitted now, taking nothing.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(crate) fn check(
        &self,
        purse: Purse,
        kind: Kind,
        now: Instant,
        deadline: Instant,
    ) -> Result<(), Refused> {
        match self.buckets.get(&purse) {
            Some(bucket) => bucket.check(kind, now, deadline, &self.rules),
            None => Ok(()),
        }
    }

    /// Hands out every token that is there; says when to look again.
    pub(crate) fn serve(&mut self, purse: Purse, now: Instant) -> Option<Instant> {
        let bucket = self.buckets.get_mut(&purse)?;
        bucket.advance(now, |_| {}).map(|(next, _)| next)
    }

    /// Takes somebody out of the line who no longer waits.
    pub(crate) fn leave(&mut self, purse: Purse, ticket: u64) {
        if let Some(bucket) = self.buckets.get_mut(&purse) {
            bucket.leave(ticket);
        }
    }
}

/// The class a call belongs to: 0 is the base limit.
pub(crate) fn class_of(config: &Config, method: &Method, path: &str) -> usize {
    let path = path::normalize(path);
    let mut receipts = config.batch.paths.iter();
    let is_receipt = receipts.any(|receipt| path::same_segments(receipt, &path));
    let class = config.limit.class_of(method, &path, is_receipt);
    class.map_or(0, |class| class + 1)
}
