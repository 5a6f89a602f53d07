//! What waits for nothing but the shared budgets, where a server lends their tokens.
//!
//! Invariant: nothing changes here.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{EntryId, SharedQueue};
use crate::queue::bucket::Bucket;
use crate::queue::flow::FlowId;
use crate::queue::request::Completion;
use crate::queue::wait_queue::Side;

/// A token of the shared budgets is asked for when the bucket has one within this time. What is
/// lent is due within twice that, so that both can be used at the same time for as long.
const AHEAD: Duration = Duration::from_millis(50);

/// The requests and receipts of a flow that wait for nothing but the shared budgets,
/// or soon will.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowDemand {
    pub(crate) count: u32,
    /// Since when the first has waited.
    pub(crate) since: Instant,
}

/// What all flows wait for.
#[derive(Debug, Default)]
pub(crate) struct SharedDemand {
    pub(crate) by_flow: BTreeMap<FlowId, FlowDemand>,
    /// When there will be more.
    pub(crate) grows_at: Option<Instant>,
}

impl<G: Completion> SharedQueue<G> {
    /// What has a token of its bucket by now, or soon.
    pub(crate) fn demand(&self, now: Instant) -> SharedDemand {
        let mut demand = SharedDemand::default();
        for entry in self.entries.values() {
            let Some(queue) = entry.bucket.waiting() else {
                continue;
            };
            let ready = ready_by(&entry.bucket, now, now + AHEAD);
            if ready < entry.bucket.len() {
                let grows_at = entry.bucket.due(now, ready).checked_sub(AHEAD);
                let grows_at = grows_at.map(|at| at.max(now));
                let earlier = |known: Instant| grows_at.map_or(known, |at| at.min(known));
                demand.grows_at = demand.grows_at.map(earlier).or(grows_at);
            }
            // A receipt counts as waiting from the time at which it stops yielding.
            let heads = [Side::Requests, Side::Receipts].map(|side| queue.head(side));
            let since = heads.into_iter().flatten().map(|head| head.overdue).min();
            let (Some(since), true) = (since, ready > 0) else {
                continue;
            };
            let known = demand.by_flow.entry(entry.flow);
            let known = known.or_insert(FlowDemand { count: 0, since });
            let ready = u32::try_from(ready).unwrap_or(u32::MAX);
            known.count = known.count.saturating_add(ready);
            known.since = known.since.min(since);
        }
        demand
    }

    /// How many tokens the buckets of scarce flows may have reserved: as many as the flow has been
    /// lent. A token that is reserved is lost if the shared budgets have none in time, and a bucket
    /// that waits for them keeps what it has.
    pub(super) fn reservable(&self, now: Instant) -> BTreeMap<EntryId, usize> {
        let (mut reservable, mut by_flow) = (BTreeMap::new(), BTreeMap::new());
        if !self.flows.are_lent() {
            return reservable;
        }
        for (id, entry) in &self.entries {
            let Some(lent) = self.flows.scarce(entry.flow, now) else {
                continue;
            };
            // None for a bucket whose own token is not due soon: a slot could be lost there.
            reservable.insert(*id, 0);
            if entry.bucket.due(now, 0) <= now + AHEAD {
                let (_, buckets) = by_flow.entry(entry.flow).or_insert((lent, Vec::new()));
                buckets.push((entry.served, *id));
            }
        }
        for (lent, mut buckets) in by_flow.into_values() {
            // Those that are served next.
            buckets.sort_unstable();
            let (each, more) = (lent / buckets.len(), lent % buckets.len());
            for (rank, (_, id)) in buckets.into_iter().enumerate() {
                reservable.insert(id, each + usize::from(rank < more));
            }
        }
        reservable
    }
}

/// How many of the waiters of a bucket have its token by this time.
fn ready_by<G: Completion>(bucket: &Bucket<G>, now: Instant, until: Instant) -> usize {
    let (mut ready, mut later) = (0, bucket.len());
    // Tokens are due one after the other.
    while ready < later {
        let middle = ready + (later - ready) / 2;
        if bucket.due(now, middle) <= until {
            ready = middle + 1;
        } else {
            later = middle;
        }
    }
    ready
}
