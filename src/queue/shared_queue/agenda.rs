//! What can be served at one time of a run over the shared queue, and when more can.
//!
//! Invariant: it holds no state of its own. It is built from the buckets, and an
//! entry is taken off before its waiters change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::time::Instant;

use super::{Entry, EntryId};
use crate::queue::bucket::expiry;
use crate::queue::flow::FlowId;
use crate::queue::request::Completion;
use crate::queue::wait_queue::Side;

/// What is ready at one simulated time, and what will be.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// Flows with a token of their own and a bucket that is ready, by start tag.
    pub(super) ready: BTreeSet<(u128, u64, FlowId)>,
    pub(super) next_waiters: HashMap<FlowId, NextWaiters>,
    /// When a bucket or a flow will have a token.
    pub(super) later: BTreeSet<(Instant, Due)>,
    /// When the first request of a bucket will have to be refused.
    pub(super) expiries: BTreeSet<(Instant, EntryId)>,
    /// How many tokens a bucket may have reserved, where not any number.
    pub(super) reservable: BTreeMap<EntryId, usize>,
}

/// The waiters of a flow that are next in their buckets, which have a token.
#[derive(Debug, Default)]
pub(super) struct NextWaiters {
    /// By round-robin sequence number.
    pub(super) requests: BTreeSet<(u64, EntryId)>,
    /// By the time at which they stop yielding.
    pub(super) receipts: BTreeSet<(Instant, EntryId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Entry(EntryId),
    Flow(FlowId),
}

impl Agenda {
    /// Takes an entry off whose waiters are about to change.
    pub(super) fn remove<G: Completion>(&mut self, flow: FlowId, id: EntryId, entry: &Entry<G>) {
        let Some(queue) = entry.bucket.waiting() else {
            return;
        };
        let next_waiters = self.next_waiters.entry(flow).or_default();
        if let Some(request) = queue.head(Side::Requests) {
            self.expiries.remove(&(expiry(request), id));
            next_waiters.requests.remove(&(entry.served, id));
        }
        if let Some(receipt) = queue.head(Side::Receipts) {
            next_waiters.receipts.remove(&(receipt.overdue, id));
        }
    }

    /// How many tokens a bucket may have reserved.
    pub(super) fn reservable(&self, id: EntryId) -> usize {
        self.reservable.get(&id).copied().unwrap_or(usize::MAX)
    }

    /// When something can be done next, if the egress has a token at `due`.
    pub(super) fn next(&self, due: Instant) -> Option<Instant> {
        let served = match self.ready.is_empty() {
            true => self.later.first().map(|(at, _)| *at),
            // A flow is ready, and only the egress has no token.
            false => Some(due),
        };
        let expired = self.expiries.first().map(|(at, _)| *at);
        [served, expired].into_iter().flatten().min()
    }
}

impl NextWaiters {
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.receipts.is_empty()
    }
}
