//! The task of a batch: its window, its wait for a bucket token, its sealing.
//!
//! Invariant: only this task seals and sends. Callers only wait for their
//! verdict, so a caller that disconnects cannot cancel the batch.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Batcher;
use super::caller::{Caller, refuse};
use super::open::{Batch, Mergeable};
use super::settle::Settlement;
use crate::limit::Lane;
use crate::observe::metrics::Route;
use crate::upstream::Upstream;

impl Batcher {
    /// Runs a batch from its first caller to the last verdict.
    pub(super) async fn run(
        self: Arc<Self>,
        batch: Arc<Batch<Caller>>,
        lane: Lane,
        upstream: Arc<Upstream>,
        window: Duration,
        quarantine_time: Duration,
    ) {
        self.metrics.batches.open.inc();
        let window_end = tokio::time::sleep_until(batch.opened + window);
        self.stay_open(&batch, window_end).await;
        // The batch is due, not sealed: while it waits for its token it still
        // accepts receipts, so under pressure it grows instead of the queue.
        let due = Instant::now();
        let token = if lane.rules().observes {
            Ok(self.limiter.untracked(Route::Seen))
        } else {
            let token = self.first_token(&batch, &lane, refuse).await;
            token.map(|(permit, waited)| self.limiter.record_wait(permit, waited, Route::Seen))
        };
        // From here on, receipts of this key open another batch: their messages may
        // be newer than what this one is about to send.
        self.open.remove(&batch);
        let callers = batch.seal();
        self.metrics.batches.open.dec();
        match token {
            Err(refused) => refuse(callers, refused),
            // Expired callers end the wait without a token, so this is not expected;
            // but a call without a caller has no request to send.
            Ok(_) if callers.is_empty() => {}
            Ok(acquired) => {
                let waited = batch.opened.elapsed().as_secs_f64();
                self.metrics.batches.wait.observe(waited);
                let settlement =
                    Settlement::new(&self, &lane, &upstream, batch.opened, due, quarantine_time);
                settlement.settle(callers, acquired).await;
            }
        }
    }

    /// Waits until a batch is due: it is full, its window has ended, or the
    /// gateway drains, which ends all windows.
    pub(super) async fn stay_open<M: Mergeable>(
        &self,
        batch: &Batch<M>,
        window_end: impl Future<Output = ()>,
    ) {
        tokio::select! {
            biased;
            () = batch.closed.notified() => {}
            () = self.flush.cancelled() => {}
            () = window_end => {}
        }
    }
}
