//! Merging: read receipts of one chat share an upstream call.
//!
//! Owns the life of a batch (design §3.3, §3.4): open → due → sealed →
//! settled. Invariants: every caller is told exactly once; nobody joins a
//! sealed batch; a batch is sent even if all its callers have gone.
//!
//! - [`open`]: a batch that takes callers, and the table of those;
//! - [`ghost`]: what merging would have done, where it is only observed;
//! - [`life`]: the one task of a batch, from its first caller to its token;
//! - [`settle`]: sending, repeating and splitting, until everybody is told;
//! - [`quarantine`]: receipts that failed alone and stay out of batches.

mod ghost;
mod life;
mod open;
mod quarantine;
mod settle;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::retry::budget::TpsBudget;

use crate::body::ClientResponse;
use crate::config::{self, BatchMode};
use crate::http::path;
use crate::http::response_head::ResponseHead;
use crate::limit::{Kind, Lane, Limiter, Refused};
use crate::observe::metrics::Metrics;
use crate::receipt::Receipt;
use crate::upstream::{Upstream, UpstreamError};
use ghost::Ghost;
pub(crate) use open::{Batch, Caps, Member};
use open::{Caller, Offer, Table};
use quarantine::Quarantine;

/// Repeats allowed: 20 % of calls, counted over ten seconds, and one a second
/// besides so that a quiet gateway may repeat too (design §3.4, §7.5).
const BUDGET_SPAN: Duration = Duration::from_secs(10);
const BUDGET_FLOOR_PER_SECOND: u32 = 1;
const BUDGET_SHARE: f32 = 0.2;

/// All open batches of the gateway.
#[derive(Debug)]
pub(crate) struct Batcher {
    settings: ArcSwap<config::Batch>,
    table: Table<Caller>,
    ghosts: Table<Ghost>,
    quarantine: Quarantine,
    limiter: Arc<Limiter>,
    metrics: Arc<Metrics>,
    budget: TpsBudget,
    /// Calls that repeats and splits took beyond what their batches saved,
    /// made up for before more is counted as saved: so `saved_total` never
    /// falls, and still adds up.
    overspent: AtomicU64,
    /// Cancelled on drain: every window ends at once, and later ones do not open.
    flush: CancellationToken,
    /// The batches' tasks, which outlive their callers.
    tasks: TaskTracker,
}

/// What a caller is told.
#[derive(Debug)]
pub(crate) struct Told {
    /// The upstream's answer, or why there is none.
    pub(crate) verdict: Result<Given, Untold>,
    /// How its time was spent.
    pub(crate) timing: Timing,
}

/// An answer of the upstream's.
#[derive(Debug)]
pub(crate) enum Given {
    /// To a call of several callers, or read in full.
    Shared(Arc<Shared>),
    /// To a call of one's own, too long to be held.
    Own(Box<ClientResponse>),
}

/// An answer that any number of callers may be given.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) head: ResponseHead,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// Tokens left in the bucket when its call went; `None` where unlimited.
    pub(crate) remaining: Option<u32>,
}

/// Why a caller gets no answer of the upstream's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Untold {
    /// No token could be had in time.
    Refused(Refused),
    /// The upstream gave no answer.
    Failed(UpstreamError),
}

/// How a caller's time was spent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    /// In the window.
    pub(crate) window: Duration,
    /// Waiting for a token.
    pub(crate) queue: Duration,
    /// From sending to the end of the answer, repeats included.
    pub(crate) upstream: Duration,
    /// Who shared the call.
    pub(crate) callers: usize,
    /// Distinct ids in the call.
    pub(crate) ids: usize,
}

impl Batcher {
    pub(crate) fn new(
        settings: config::Batch,
        limiter: Arc<Limiter>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            quarantine: Quarantine::new(),
            settings: ArcSwap::from_pointee(settings),
            table: Table::new(),
            ghosts: Table::new(),
            limiter,
            metrics,
            budget: TpsBudget::new(BUDGET_SPAN, BUDGET_FLOOR_PER_SECOND, BUDGET_SHARE),
            overspent: AtomicU64::new(0),
            flush: CancellationToken::new(),
            tasks,
        }
    }

    /// Puts other settings in force, for batches opened from now on.
    pub(crate) fn reconfigure(&self, settings: config::Batch) {
        self.settings.store(Arc::new(settings));
    }

    /// Whether receipts are only observed, not merged.
    pub(crate) fn observes(&self) -> bool {
        self.settings.load().mode == BatchMode::Observe
    }

    /// True for a path whose receipts are merged.
    pub(crate) fn is_receipt_path(&self, path: &str) -> bool {
        self.settings
            .load()
            .paths
            .iter()
            .any(|receipt| path::same_segments(receipt, path))
    }

    /// Counts what a batch saved: the callers it told, less the calls it took.
    fn count_saved(&self, told: u64, calls: u64) {
        let mut saved = 0;
        let settle = |overspent: u64| {
            let spent = calls + overspent;
            saved = told.saturating_sub(spent);
            Some(spent.saturating_sub(told))
        };
        self.overspent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, settle)
            .expect("a value is always given");
        self.metrics.saved.inc_by(saved);
    }

    /// Ends every window now and from now on.
    pub(crate) fn flush(&self) {
        self.flush.cancel();
    }

    /// Takes a receipt that `came` just now into a batch. The answer comes
    /// through the receiver, which may be dropped without any effect on the
    /// batch.
    ///
    /// # Errors
    /// A batch opened now could not get a token in time.
    pub(crate) fn join(
        self: &Arc<Self>,
        receipt: Box<Receipt>,
        came: Instant,
        lane: &Lane,
        upstream: &Arc<Upstream>,
    ) -> Result<oneshot::Receiver<Told>, Refused> {
        let settings = self.settings.load();
        let rules = self.limiter.rules();
        let deadline = came + rules.max_wait;
        let observes = rules.observes;
        if observes {
            self.haunt(&receipt, lane);
        }
        if !observes {
            // Also where a batch waits already that it would join.
            lane.check_pause(deadline)?;
        }
        let (answer, told) = oneshot::channel();
        let caps = Caps::of(&settings);
        let alone = self.goes_alone(&receipt, &settings, came);
        let caller = Caller {
            receipt,
            came,
            deadline,
            answer,
        };
        // Those who cannot be served in time are told at once, unless they
        // find a batch that already has its place in line.
        let open = |caller: Caller| {
            if !observes {
                self.limiter
                    .check(lane, Kind::Receipt { opened: came }, deadline)?;
            }
            Ok(Arc::new(Batch::open(caller, came, caps)))
        };
        let batch = if alone {
            let batch = open(caller)?;
            batch.close();
            Some(batch)
        } else {
            match self.table.offer(caller, open)? {
                Offer::Joined => None,
                Offer::Opened(batch) => Some(batch),
            }
        };
        if let Some(batch) = batch {
            let window = if alone {
                Duration::ZERO
            } else {
                settings.window
            };
            let batcher = Arc::clone(self);
            let (lane, upstream) = (lane.clone(), Arc::clone(upstream));
            self.tasks
                .spawn(async move { batcher.live(batch, lane, upstream, window).await });
        }
        Ok(told)
    }

    /// Whether a receipt stays out of batches.
    fn goes_alone(&self, receipt: &Receipt, settings: &config::Batch, now: Instant) -> bool {
        settings.window.is_zero()
            || receipt.ids.len() > settings.max_ids
            || self.quarantine.holds(receipt, now)
    }
}
