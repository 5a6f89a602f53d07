//! Merging: read receipts of one chat share an upstream call.
//!
//! Owns the life of a batch (rule: batch life cycle): open, due, sealed, settled.
//! Invariants: each caller gets one verdict; a sealed batch accepts no caller; a
//! batch is sent even if all its callers have disconnected.
//!
//! - [`open`]: batches that accept callers;
//! - [`run`]: the task of a batch, from its first caller to its sealing;
//! - [`tokens`]: the bucket tokens that its calls spend;
//! - [`settle`]: from a sealed batch to the verdict of each [`caller`];
//! - [`call`]: one upstream call with its retries, bounded by [`retry_budget`]; [`reply`]: its result;
//! - [`split`]: which calls follow a rejected one, with [`rejection`]: when two
//!   failures are the same;
//! - [`quarantine`]: receipts that failed alone and stay out of batches;
//! - [`remembered`]: the bounded table under both memories of failures;
//! - [`shared`]: batches that several gateways share;
//! - [`shadow`]: what merging would have done, where it is only observed.

mod call;
mod caller;
mod open;
mod quarantine;
mod rejection;
mod remembered;
mod reply;
mod retry_budget;
mod run;
mod settle;
mod shadow;
mod shared;
mod split;
mod tokens;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Cluster;
use crate::config::{self, BatchEdge};
use crate::limit::{Lane, Limiter, RateLimited};
use crate::observe::metrics::Metrics;
use crate::receipt::{NotMerged, Receipt};
use crate::upstream::Upstream;
use caller::Caller;
pub(crate) use caller::{BatchResponse, NoResponse, Timing, Verdict};
pub(crate) use open::{Batch, Caps, Mergeable};
use open::{Joined, OpenBatches};
use quarantine::Quarantine;
use rejection::CommonFailures;
use retry_budget::RetryBudget;
use shadow::Shadow;
use shared::SharedBatches;

/// All batches of the gateway.
#[derive(Debug)]
pub(crate) struct Batcher {
    open: OpenBatches<Caller>,
    open_shadows: OpenBatches<Shadow>,
    quarantine: Quarantine,
    common_failures: CommonFailures,
    retry_budget: RetryBudget,
    /// `None`: gateways share no batches.
    shared: Option<Arc<SharedBatches>>,
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    /// Cancelled on drain: all windows end, and no later batch has one.
    flush: CancellationToken,
    /// The tasks of the batches, which outlive their callers.
    tasks: TaskTracker,
    /// Settled batches that are kept until their key is idle.
    kept: AtomicUsize,
}

/// The times of a batch, by the settings under which it was opened.
#[derive(Clone, Copy, Debug)]
struct Windows {
    /// From its first caller until it is due.
    open: Duration,
    /// From its sealing until its key is idle, if its call ends sooner. `None`: the
    /// key is idle from the sealing on.
    busy: Option<Duration>,
    /// How long a caller that failed alone stays out of batches.
    quarantine: Duration,
}

impl Windows {
    fn of(settings: &config::Batch, is_alone: bool, key_was_idle: bool) -> Self {
        let is_leading = settings.edge == BatchEdge::Leading && !is_alone;
        let is_due_at_once = is_alone || is_leading && key_was_idle;
        Self {
            open: match is_due_at_once {
                true => Duration::ZERO,
                false => settings.window,
            },
            busy: is_leading.then_some(settings.window),
            quarantine: settings.quarantine,
        }
    }
}

impl Batcher {
    pub(crate) fn new(limiter: Arc<Limiter>, metrics: Arc<Metrics>, tasks: TaskTracker) -> Self {
        Self::in_cluster(None, limiter, metrics, tasks)
    }

    /// Batches that the gateways of a cluster share, if there is one.
    pub(crate) fn in_cluster(
        cluster: Option<&Arc<Cluster>>,
        limiter: Arc<Limiter>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            shared: cluster.map(|cluster| SharedBatches::new(Arc::clone(cluster))),
            open: OpenBatches::new(),
            open_shadows: OpenBatches::new(),
            quarantine: Quarantine::new(),
            common_failures: CommonFailures::new(),
            retry_budget: RetryBudget::new(),
            limiter,
            metrics,
            flush: CancellationToken::new(),
            tasks,
            kept: AtomicUsize::new(0),
        }
    }

    /// Keeps up with the other gateways, until the process ends.
    pub(crate) async fn follow_cluster(&self) {
        if let Some(shared) = &self.shared {
            shared.listen().await;
        }
    }

    /// Ends every window now and from now on.
    pub(crate) fn flush(&self) {
        self.flush.cancel();
    }

    /// Adds a receipt to the open batch of its key, or opens one under these
    /// settings, which it keeps. The receiver delivers the verdict; dropping it has
    /// no effect on the batch.
    ///
    /// # Errors
    /// A new batch would be needed and could not get a token in time.
    pub(crate) fn join(
        self: &Arc<Self>,
        settings: &config::Batch,
        receipt: Box<Receipt>,
        arrived: Instant,
        lane: &Lane,
        upstream: &Arc<Upstream>,
    ) -> Result<oneshot::Receiver<Verdict>, RateLimited> {
        let rules = lane.rules();
        let deadline = arrived + rules.max_wait;
        if rules.observes {
            // The receipt is merged for real but takes no token: only its shadow
            // shows what the budgets would have done (rule: observe mode).
            self.shadow(settings, &receipt, lane);
        } else {
            // A receipt that would join a waiting batch is refused too (rule: pauses).
            lane.check_pause(deadline)?;
        }
        let caps = Caps::of(settings);
        let goes_alone = self.goes_alone(&receipt, settings, arrived);
        let alone = goes_alone.is_some();
        let (sender, verdict) = oneshot::channel();
        let caller = Caller {
            if_alone: goes_alone.unwrap_or_else(|| receipt.reason_if_alone()),
            receipt,
            arrived,
            deadline,
            in_calls: Duration::ZERO,
            member: 0,
            verdict: sender,
        };
        // Only for a new batch: a caller of an open batch shares its token. A
        // refusal must come now, not when the deadline has passed (rule: admission).
        let check = || match rules.observes {
            true => Ok(()),
            false => self.check(lane, arrived, deadline),
        };
        let joined = if alone {
            check()?;
            let key = caller.receipt.key.clone();
            // Not in the table: no other receipt may find and join it.
            Joined::New {
                batch: Arc::new(Batch::closed(key, vec![caller], arrived, caps)),
                key_was_idle: false,
            }
        } else {
            self.open.join(caller, |caller| {
                check()?;
                Ok(Arc::new(Batch::open(caller, arrived, caps)))
            })?
        };
        if let Joined::New {
            batch,
            key_was_idle,
        } = joined
        {
            let windows = Windows::of(settings, alone, key_was_idle);
            // A task, not the caller's future: the batch is sent even if the
            // caller disconnects, and a drain waits for it.
            let (lane, upstream) = (lane.clone(), Arc::clone(upstream));
            let run = Arc::clone(self).run(batch, lane, upstream, windows);
            // Boxed: it is large, and moved several times until it runs.
            self.tasks.spawn(Box::pin(run));
        }
        Ok(verdict)
    }

    /// Why a receipt stays out of batches.
    fn goes_alone(
        &self,
        receipt: &Receipt,
        settings: &config::Batch,
        now: Instant,
    ) -> Option<NotMerged> {
        if let Some(reason) = fits_no_batch(receipt, settings) {
            return Some(reason);
        }
        // While all receipts of this key fail, its own failure does not show that
        // its ids are bad. In quarantine, each would cost an upstream call.
        let is_held = self.quarantine.holds(receipt, now)
            && self.common_failures.of(&receipt.key, now).is_none();
        is_held.then_some(NotMerged::Quarantined)
    }
}

/// Why these settings keep a receipt out of batches at any time.
pub(crate) fn fits_no_batch(receipt: &Receipt, settings: &config::Batch) -> Option<NotMerged> {
    if settings.window.is_zero() {
        return Some(NotMerged::MergingOff);
    }
    // Such a list fits no batch.
    (receipt.id_count() > settings.max_ids).then_some(NotMerged::TooManyIds)
}
