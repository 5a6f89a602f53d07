//! The budgets that buckets share, and the task that serves their queue.
//!
//! Invariants: a bucket that waits for a shared budget is held here, together
//! with all others, under one lock: what waits, what is next and which tokens
//! are there can never disagree. The task runs exactly while a bucket is held
//! here. The lock is taken after that of an account, never before it.
//!
//! - [`leases`]: the tokens that several gateways share.

mod leases;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::bucket::{Bucket, next_ticket};
use super::flow::{FlowId, Flows};
use super::forecast::{self, BucketRef};
use super::request::{BucketRole, Newcomer, Permit, RateLimited};
use super::shared_queue::{EntryId, SharedQueue};
use crate::cluster::Cluster;
use crate::config::Quota;
use leases::Leases;

/// Idle flows are dropped only where there are more than this many.
const FLOWS_KEPT: usize = 1024;

/// Sends a waiting request its result.
pub(crate) type Sender = oneshot::Sender<Result<Permit, RateLimited>>;

/// Receives the result of a waiting request.
pub(crate) type Receiver = oneshot::Receiver<Result<Permit, RateLimited>>;

/// A tenant as the settings describe it.
#[derive(Debug)]
pub(crate) struct FlowSpec {
    pub(crate) name: Arc<str>,
    pub(crate) weight: NonZeroU32,
    pub(crate) quota: Option<Quota>,
}

/// The share of a bucket in the shared budgets.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) egress: Arc<Egress>,
    pub(crate) flow: Arc<FlowSpec>,
}

/// The owner of a bucket, which takes it back when nothing waits there.
pub(crate) trait BucketOwner: Send + Sync {
    /// Takes the bucket of this entry back, unless something waits there by now.
    fn take_back(&self, role: BucketRole, entry: EntryId);
}

/// What a newcomer at a bucket without tokens gets.
pub(crate) enum Joined {
    /// The token was there.
    Now(Permit),
    /// A queue position.
    Waits { ticket: u64, verdict: Receiver },
}

/// The limits of one wait queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// `batch.max_delay`.
    pub(crate) max_delay: Duration,
    /// `limit.max_queue`.
    pub(crate) max_queue: usize,
}

/// The shared budgets of the gateway.
pub(crate) struct Egress {
    state: Mutex<State>,
    /// Wakes the task when its plan has changed.
    changed: Arc<Notify>,
}

struct State {
    queue: SharedQueue<Sender>,
    /// What several gateways share, if there are several.
    leases: Option<Leases>,
    flows: HashMap<Arc<str>, FlowId>,
    owners: HashMap<EntryId, (Arc<dyn BucketOwner>, BucketRole)>,
    /// The task runs.
    is_served: bool,
    /// Nothing can be handed out before this time. `None`: unknown, recompute.
    idle_until: Option<Instant>,
    forget_at: usize,
}

impl Egress {
    /// Opens the budget of the egress, full.
    pub(crate) fn new(
        quota: Option<Quota>,
        max_wait: Duration,
        cluster: Option<&Arc<Cluster>>,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                queue: SharedQueue::new(Flows::new(quota, max_wait, Instant::now())),
                leases: cluster.map(Leases::new),
                flows: HashMap::new(),
                owners: HashMap::new(),
                is_served: false,
                idle_until: None,
                forget_at: FLOWS_KEPT,
            }),
            changed: Arc::default(),
        }
    }

    /// Applies other quotas and weights; debt is kept.
    pub(crate) fn reconfigure<'f>(
        &self,
        quota: Option<Quota>,
        max_wait: Duration,
        flows: impl Iterator<Item = &'f Arc<FlowSpec>>,
    ) {
        let now = Instant::now();
        let mut state = self.current(now);
        state.queue.flows.set_quota(quota, max_wait, now);
        for spec in flows {
            if let Some(&id) = state.flows.get(&spec.name) {
                state
                    .queue
                    .flows
                    .reconfigure(id, spec.weight, spec.quota, now);
            }
        }
        // The task sleeps until a time that follows from the old quotas.
        self.wake(&mut state);
    }

    /// Takes the tokens for a request at a bucket where nothing waits, after all
    /// ready buckets have been served.
    pub(crate) fn try_acquire(
        &self,
        flow: &FlowSpec,
        bucket: &mut Bucket<Sender>,
        newcomer: &Newcomer,
    ) -> Option<Permit> {
        let now = newcomer.now;
        // Spares the lock, which the buckets of all instances share.
        if bucket.ready_at(now) > now {
            return None;
        }
        let mut state = self.current(now);
        self.catch_up(&mut state, now);
        let flow = state.flow(flow, now);
        state.queue.try_acquire(flow, bucket, newcomer.side(), now)
    }

    /// Whether a request could be admitted now; takes nothing.
    ///
    /// # Errors
    /// The request is refused.
    pub(crate) fn check(
        &self,
        flow: &FlowSpec,
        bucket_ref: BucketRef<'_, Sender>,
        newcomer: &Newcomer,
        limits: QueueLimits,
    ) -> Result<(), RateLimited> {
        let mut state = self.current(newcomer.now);
        self.catch_up(&mut state, newcomer.now);
        let flow = state.flow(flow, newcomer.now);
        let limits = (limits.max_delay, limits.max_queue);
        forecast::admit_shared(&mut state.queue, flow, bucket_ref, newcomer, limits)
    }

    /// Adds a bucket; the task will serve it.
    pub(crate) fn register(
        self: &Arc<Self>,
        flow: &FlowSpec,
        bucket: Bucket<Sender>,
        owner: (Arc<dyn BucketOwner>, BucketRole),
    ) -> EntryId {
        let now = Instant::now();
        let mut state = self.current(now);
        let flow = state.flow(flow, now);
        bucket.set_egress(Some(&self.changed));
        let id = state.queue.register(bucket, flow);
        state.owners.insert(id, owner);
        // Under the lock, so that there is never a second task.
        if !std::mem::replace(&mut state.is_served, true) {
            tokio::spawn(serve(Arc::clone(self)));
        }
        self.wake(&mut state);
        id
    }

    /// Adds a newcomer that was admitted to a bucket that is held here.
    pub(crate) fn join(&self, id: EntryId, newcomer: &Newcomer, max_delay: Duration) -> Joined {
        let (completion, mut verdict) = oneshot::channel();
        let ticket = next_ticket();
        let mut state = self.current(newcomer.now);
        if let Some(bucket) = state.queue.bucket(id) {
            bucket.push(newcomer, max_delay, ticket, completion);
        }
        // A token may be there: what waited can have left since the task last ran.
        state.serve(newcomer.now);
        self.changed.notify_one();
        match verdict.try_recv() {
            Ok(Ok(permit)) => Joined::Now(permit),
            _ => Joined::Waits { ticket, verdict },
        }
    }

    /// Does something with a bucket that is held here.
    pub(crate) fn with<R>(
        &self,
        id: EntryId,
        act: impl FnOnce(&mut Bucket<Sender>) -> R,
    ) -> Option<R> {
        let mut state = self.lock();
        let bucket = state.queue.bucket(id)?;
        let done = act(bucket);
        // `act` may have given it other tokens, or a bound on calls
        // in flight: their wake-ups have to go to this task, too.
        bucket.set_egress(Some(&self.changed));
        self.wake(&mut state);
        Some(done)
    }

    /// Reads a bucket that is held here.
    pub(crate) fn inspect<R>(
        &self,
        id: EntryId,
        inspect: impl FnOnce(&Bucket<Sender>) -> R,
    ) -> Option<R> {
        self.lock().queue.bucket_of(id).map(inspect)
    }

    /// The refusal of a request whose deadline came while it waited here.
    pub(crate) fn too_late(&self, id: EntryId, now: Instant) -> Option<RateLimited> {
        self.lock().queue.too_late(id, now)
    }

    /// Removes a bucket and returns it.
    pub(crate) fn unregister(&self, id: EntryId) -> Option<Bucket<Sender>> {
        let mut state = self.lock();
        state.owners.remove(&id);
        let bucket = state.queue.unregister(id);
        if let Some(bucket) = &bucket {
            bucket.set_egress(None);
        }
        // If it was the last bucket, the task has to end.
        self.wake(&mut state);
        bucket
    }

    #[cfg(test)]
    pub(crate) fn forecast(
        &self,
        flow: &FlowSpec,
        bucket_ref: BucketRef<'_, Sender>,
        newcomer: &Newcomer,
        max_delay: Duration,
    ) -> Instant {
        let mut state = self.current(newcomer.now);
        self.catch_up(&mut state, newcomer.now);
        let flow = state.flow(flow, newcomer.now);
        forecast::in_shared(&state.queue, flow, bucket_ref, newcomer, max_delay)
    }

    /// Hands out what is due by now. The task may not have run yet, and what waits
    /// already goes before a newcomer.
    fn catch_up(&self, state: &mut State, now: Instant) {
        if state.queue.has_entries() && state.idle_until.is_none_or(|until| until <= now) {
            state.serve(now);
            self.changed.notify_one();
        }
    }

    fn wake(&self, state: &mut State) {
        state.idle_until = None;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The flow of this name, under the quota and weight that applied when it
    /// was first used or [renewed](Egress::reconfigure) since.
    fn flow(&mut self, spec: &FlowSpec, now: Instant) -> FlowId {
        if let Some(&id) = self.flows.get(&spec.name) {
            return id;
        }
        if self.queue.flows.count() >= self.forget_at {
            let kept = {
                let used = self.queue.used_flows();
                self.queue.flows.forget_idle(&used, now)
            };
            self.flows.retain(|_, id| kept.contains(id));
            // So the cost of a search is spread over the flows that are opened.
            self.forget_at = (2 * kept.len()).max(FLOWS_KEPT);
        }
        let flows = &mut self.queue.flows;
        let id = flows.open(&spec.name, spec.weight, spec.quota, now);
        self.flows.insert(Arc::clone(&spec.name), id);
        id
    }

    fn serve(&mut self, now: Instant) {
        // Nothing waits: any later time will do.
        let next = self.queue.serve(now);
        self.idle_until = Some(next.unwrap_or(now + Duration::from_secs(3600)));
    }
}

/// Serves the buckets until none is held any more.
async fn serve(egress: Arc<Egress>) {
    loop {
        let now = Instant::now();
        let (next, empty) = {
            let mut state = egress.current(now);
            state.serve(now);
            if !state.queue.has_entries() {
                // Under the lock: from now on `register` starts another task.
                state.is_served = false;
                return;
            }
            let owner = |id| Some((id, state.owners.get(&id)?.clone()));
            let empty: Vec<_> = state
                .queue
                .empty_entries()
                .into_iter()
                .filter_map(owner)
                .collect();
            let idle_until = state.idle_until.unwrap_or(now);
            let asks_at = egress.ask_if_needed(&mut state, now);
            (asks_at.map_or(idle_until, |at| at.min(idle_until)), empty)
        };
        if !empty.is_empty() {
            // Without the lock: `take_back` locks the account first.
            for (entry, (owner, role)) in empty {
                owner.take_back(role, entry);
            }
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = egress.changed.notified() => {}
        }
    }
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").finish_non_exhaustive()
    }
}
