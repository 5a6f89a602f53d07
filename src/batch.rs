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
//! - [`call`]: one upstream call with its retries, bounded by [`retry_budget`];
//! - [`split`]: which calls follow a rejected one, with [`rejection`]: when two
//!   failures are the same;
//! - [`quarantine`]: receipts that failed alone and stay out of batches;
//! - [`remembered`]: the bounded table under both memories of failures;
//! - [`shadow`]: what merging would have done, where it is only observed.

mod call;
mod caller;
mod open;
mod quarantine;
mod rejection;
mod remembered;
mod retry_budget;
mod run;
mod settle;
mod shadow;
mod split;
mod tokens;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::limit::{Lane, Limiter, Refused};
use crate::observe::metrics::Metrics;
use crate::receipt::Receipt;
use crate::upstream::Upstream;
use caller::Caller;
pub(crate) use caller::{BatchResponse, NoResponse, Timing, Verdict};
pub(crate) use open::{Batch, Caps, Mergeable};
use open::{Joined, OpenBatches};
use quarantine::Quarantine;
use rejection::CommonFailures;
use retry_budget::RetryBudget;
use shadow::Shadow;

/// All batches of the gateway.
#[derive(Debug)]
pub(crate) struct Batcher {
    open: OpenBatches<Caller>,
    open_shadows: OpenBatches<Shadow>,
    quarantine: Quarantine,
    common_failures: CommonFailures,
    retry_budget: RetryBudget,
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    /// Upstream calls that retries and splits took beyond what their batches
    /// saved. Later savings pay for them first: `saved_total` is a counter and
    /// must not decrease.
    overspent: AtomicU64,
    /// Cancelled on drain: all windows end, and no later batch has one.
    flush: CancellationToken,
    /// The tasks of the batches, which outlive their callers.
    tasks: TaskTracker,
}

impl Batcher {
    pub(crate) fn new(limiter: Arc<Limiter>, metrics: Arc<Metrics>, tasks: TaskTracker) -> Self {
        Self {
            open: OpenBatches::new(),
            open_shadows: OpenBatches::new(),
            quarantine: Quarantine::new(),
            common_failures: CommonFailures::new(),
            retry_budget: RetryBudget::new(),
            limiter,
            metrics,
            overspent: AtomicU64::new(0),
            flush: CancellationToken::new(),
            tasks,
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
    ) -> Result<oneshot::Receiver<Verdict>, Refused> {
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
        let alone = self.goes_alone(&receipt, settings, arrived);
        let (sender, verdict) = oneshot::channel();
        let caller = Caller {
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
            // Not in the table: no other receipt may find and join it.
            Joined::New(Arc::new(Batch::alone(caller, arrived, caps)))
        } else {
            self.open.join(caller, |caller| {
                check()?;
                Ok(Arc::new(Batch::open(caller, arrived, caps)))
            })?
        };
        if let Joined::New(batch) = joined {
            let window = if alone {
                Duration::ZERO
            } else {
                settings.window
            };
            // A task, not the caller's future: the batch is sent even if the
            // caller disconnects, and a drain waits for it.
            let (lane, upstream) = (lane.clone(), Arc::clone(upstream));
            let quarantine = settings.quarantine;
            let run = Arc::clone(self).run(batch, lane, upstream, window, quarantine);
            self.tasks.spawn(run);
        }
        Ok(verdict)
    }

    /// Whether a receipt stays out of batches.
    fn goes_alone(&self, receipt: &Receipt, settings: &config::Batch, now: Instant) -> bool {
        // `batch.window = "0ms"` turns merging off. A list above `max_ids` fits no
        // batch.
        if settings.window.is_zero() || receipt.id_count() > settings.max_ids {
            return true;
        }
        // While all receipts of this key fail, its own failure does not show that
        // its ids are bad. In quarantine, each would cost an upstream call.
        self.quarantine.holds(receipt, now) && self.common_failures.of(&receipt.key, now).is_none()
    }

    /// Counts what a batch saved: callers that got a response of the upstream,
    /// minus its upstream calls.
    fn count_saved(&self, responses: u64, calls: u64) {
        // Several batches end at the same time. The closure may run more than
        // once, and `saved` keeps the value of the run that was stored.
        let mut saved = 0;
        let settle = |overspent: u64| {
            let spent = calls + overspent;
            saved = responses.saturating_sub(spent);
            Some(spent.saturating_sub(responses))
        };
        self.overspent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, settle)
            .expect("a value is always given");
        self.metrics.saved.inc_by(saved);
    }
}
