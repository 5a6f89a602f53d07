//! The one task of a batch: its window, its wait for a token, its sealing.
//!
//! Invariant: the task alone seals and sends; callers only join and listen, so
//! none of them can take the batch down with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::open::{Batch, Caller};
use super::settle::Sender;
use super::{Batcher, Timing, Told, Untold};
use crate::limit::{Admission, Kind, Lane, Refused};
use crate::metrics::Route;
use crate::upstream::Upstream;

impl Batcher {
    /// Lives a batch from its first caller to the last verdict.
    pub(super) async fn live(
        self: Arc<Self>,
        batch: Arc<Batch>,
        lane: Lane,
        upstream: Arc<Upstream>,
        window: Duration,
    ) {
        self.metrics.batches_open.inc();
        tokio::select! {
            biased;
            () = batch.closed.notified() => {}
            () = self.flush.cancelled() => {}
            // The window runs from the first caller; later ones do not move it.
            () = tokio::time::sleep_until(batch.opened + window) => {}
        }
        let due = Instant::now();
        let granted = self.wait_for_token(&batch, &lane).await;
        self.table.forget(&batch);
        let callers = batch.seal();
        self.metrics.batches_open.dec();
        let sealed = Instant::now();
        match granted {
            Err(refused) => refuse(callers, refused),
            Ok(_) if callers.is_empty() => {}
            Ok(pass) => {
                self.metrics
                    .batch_wait
                    .observe((sealed - batch.opened).as_secs_f64());
                let sender = Sender {
                    batcher: &self,
                    lane: &lane,
                    upstream: &upstream,
                    opened: batch.opened,
                    due,
                    sealed,
                };
                sender.settle(callers, pass).await;
            }
        }
    }

    /// Stands in line for a token while the batch goes on taking callers.
    async fn wait_for_token(
        &self,
        batch: &Batch,
        lane: &Lane,
    ) -> Result<crate::limit::Pass, Refused> {
        let asked = Instant::now();
        let deadline = batch.last_deadline().unwrap_or(asked);
        let mut ticket = match self.limiter.admit(
            lane,
            Kind::Receipt {
                opened: batch.opened,
            },
            deadline,
        )? {
            Admission::Now(permit) => return Ok(self.limiter.passed(permit, None, Route::Seen)),
            Admission::Queued(ticket) => ticket,
        };
        loop {
            let Some(deadline) = batch.first_deadline() else {
                return Err(self.limiter.too_late(lane));
            };
            tokio::select! {
                biased;
                permit = &mut ticket => return Ok(self.limiter.passed(permit, Some(asked.elapsed()), Route::Seen)),
                () = tokio::time::sleep_until(deadline) => {
                    let expired = batch.expire(Instant::now());
                    if !expired.is_empty() {
                        refuse(expired, self.limiter.too_late(lane));
                    }
                }
            }
        }
    }
}

/// Tells callers that no token could be had.
pub(super) fn refuse(callers: impl IntoIterator<Item = Caller>, refused: Refused) {
    for caller in callers {
        caller.tell(Err(Untold::Refused(refused)), Timing::default());
    }
}

impl Caller {
    /// Tells the caller; one that has gone is not missed.
    pub(super) fn tell(self, verdict: Result<super::Given, Untold>, timing: Timing) {
        drop(self.answer.send(Told { verdict, timing }));
    }
}
