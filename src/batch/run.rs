//! The task of a batch: its window, its wait for a bucket token, its sealing.
//!
//! Invariant: only the task seals and sends. Callers join and wait for their
//! verdict, so no caller can take the batch with it when it disconnects.

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
    ) {
        self.metrics.batches.open.inc();
        let window_end = tokio::time::sleep_until(batch.opened + window);
        self.stay_open(&batch, window_end).await;
        let due = Instant::now();
        let token = if self.limiter.observes() {
            Ok(self.limiter.unheld(Route::Seen))
        } else {
            let token = self.first_token(&batch, &lane, refuse).await;
            token.map(|(permit, waited)| self.limiter.passed(permit, waited, Route::Seen))
        };
        // From here on, receipts of this key open another batch.
        self.open.remove(&batch);
        let callers = batch.seal();
        self.metrics.batches.open.dec();
        match token {
            Err(refused) => refuse(callers, refused),
            Ok(_) if callers.is_empty() => {}
            Ok(pass) => {
                let waited = batch.opened.elapsed().as_secs_f64();
                self.metrics.batches.wait.observe(waited);
                let settlement = Settlement::new(&self, &lane, &upstream, batch.opened, due);
                settlement.settle(callers, pass).await;
            }
        }
    }

    /// Waits until a batch is due: it is full, its window ends, or all windows
    /// end because the gateway drains.
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
