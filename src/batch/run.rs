//! The task of a batch: its window, its wait for a bucket token, its sealing.
//!
//! Invariant: only this task seals and sends. Callers only wait for their
//! verdict, so a caller that disconnects cannot cancel the batch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::caller::{Caller, refuse};
use super::open::{Batch, Mergeable, OpenBatches};
use super::settle::Settlement;
use super::{Batcher, Windows};
use crate::limit::Lane;
use crate::observe::metrics::Route;
use crate::receipt::MergeKey;
use crate::upstream::Upstream;

/// Settled batches that are kept in a table until their key is idle. Each takes
/// about a kilobyte, and only with `batch.edge = "leading"`.
const MAX_KEPT: usize = 10_000;

impl Batcher {
    /// Runs a batch from its first caller to the last verdict.
    pub(super) async fn run(
        self: Arc<Self>,
        batch: Arc<Batch<Caller>>,
        lane: Lane,
        upstream: Arc<Upstream>,
        windows: Windows,
    ) {
        self.metrics.batches.open.inc();
        self.stay_open(&batch, windows.open).await;
        // The batch is due, not sealed: while it waits for its token it still
        // accepts receipts, so under pressure it grows instead of the queue.
        let due = Instant::now();
        let token = if lane.rules().observes {
            Ok(self.limiter.untracked(&lane, Route::ReceiptPath))
        } else {
            let token = self.first_token(&batch, &lane, refuse).await;
            token.map(|(permit, waited)| {
                self.limiter.record_wait(permit, waited, Route::ReceiptPath)
            })
        };
        // From here on, receipts of this key open another batch: their messages may
        // be newer than what this one is about to send.
        let callers = batch.seal();
        let busy_until = windows.busy.map(|busy| Instant::now() + busy);
        // A batch that is not sent makes no key busy.
        let busy_until = busy_until.filter(|_| token.is_ok());
        if busy_until.is_none() {
            self.open.remove(&batch);
        }
        self.metrics.batches.open.dec();
        match token {
            Err(refused) => refuse(callers, refused),
            // Expired callers end the wait without a token, so this is not expected;
            // but a call without a caller has no request to send.
            Ok(_) if callers.is_empty() => {}
            Ok(acquired) => {
                let waited = batch.opened.elapsed().as_secs_f64();
                self.metrics.batches.wait.observe(waited);
                let settlement = Settlement::new(
                    &self,
                    &lane,
                    &upstream,
                    (batch.opened, due),
                    callers.len(),
                    windows.quarantine,
                );
                settlement.settle(callers, acquired).await;
            }
        }
        if let Some(until) = busy_until {
            if until <= Instant::now() {
                return self.open.remove(&batch);
            }
            // Not in `tasks`: a drain must not wait for it.
            tokio::spawn(async move { self.keep(&self.open, &batch, until).await });
        }
    }

    /// Waits until a batch is due: it is full, its window has ended, or the
    /// gateway drains, which ends all windows.
    pub(super) async fn stay_open<M: Mergeable>(&self, batch: &Batch<M>, window: Duration) {
        // A timer would take a millisecond even for no time at all.
        if window.is_zero() {
            return;
        }
        tokio::select! {
            biased;
            () = batch.closed.notified() => {}
            () = self.flush.cancelled() => {}
            () = tokio::time::sleep_until(batch.opened + window) => {}
        }
    }

    /// Keeps a sealed batch in its table until its key is idle.
    pub(super) async fn keep<M: Mergeable<Key = MergeKey>>(
        &self,
        table: &OpenBatches<M>,
        batch: &Arc<Batch<M>>,
        until: Instant,
    ) {
        // Beyond the bound a key is idle too early, which costs a call.
        if self.kept.fetch_add(1, Ordering::Relaxed) < MAX_KEPT {
            tokio::time::sleep_until(until).await;
        }
        self.kept.fetch_sub(1, Ordering::Relaxed);
        table.remove(batch);
    }
}
