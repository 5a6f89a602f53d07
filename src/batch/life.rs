//! The one task of a batch: its window, its wait for a token, its sealing.
//!
//! Invariant: the task alone seals and sends; callers only join and listen, so
//! none of them can take the batch down with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::open::{Batch, Caller, Member};
use super::settle::{Group, Sender};
use super::{Batcher, Timing, Told, Untold};
use crate::limit::{Admission, Kind, Lane, Permit, Refused};
use crate::observe::metrics::Route;
use crate::upstream::Upstream;

impl Batcher {
    /// Lives a batch from its first caller to the last verdict.
    pub(super) async fn live(
        self: Arc<Self>,
        batch: Arc<Batch<Caller>>,
        lane: Lane,
        upstream: Arc<Upstream>,
        window: Duration,
    ) {
        self.metrics.batches_open.inc();
        let over = tokio::time::sleep_until(batch.opened + window);
        self.stay_open(&batch, over).await;
        let due = Instant::now();
        let granted = if self.limiter.observes() {
            Ok(self.limiter.unheld(Route::Seen))
        } else {
            self.wait_for_token(&batch, &lane, refuse)
                .await
                .map(|(permit, waited)| self.limiter.passed(permit, waited, Route::Seen))
        };
        self.table.forget(&batch);
        let (callers, ids) = batch.seal();
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
                sender.settle(Group { callers, ids }, pass).await;
            }
        }
    }

    /// Waits until a batch is due: full, its window over, or all windows.
    ///
    /// The window runs from the first caller; later ones do not move it.
    pub(super) async fn stay_open<M: Member>(
        &self,
        batch: &Batch<M>,
        over: impl Future<Output = ()>,
    ) {
        tokio::select! {
            biased;
            () = batch.closed.notified() => {}
            () = self.flush.cancelled() => {}
            () = over => {}
        }
    }

    /// Stands in line for a token while the batch goes on taking callers; says
    /// how long it stood there.
    pub(super) async fn wait_for_token<M: Member>(
        &self,
        batch: &Batch<M>,
        lane: &Lane,
        refuse: impl Fn(Vec<M>, Refused),
    ) -> Result<(Permit, Option<Duration>), Refused> {
        let asked = Instant::now();
        let deadline = batch.last_deadline().unwrap_or(asked);
        let mut ticket = match self.limiter.admit(
            lane,
            Kind::Receipt {
                opened: batch.opened,
            },
            deadline,
        )? {
            Admission::Now(permit) => return Ok((permit, None)),
            Admission::Queued(ticket) => ticket,
        };
        loop {
            let Some(deadline) = batch.first_deadline() else {
                return Err(self.limiter.too_late(lane));
            };
            tokio::select! {
                biased;
                permit = &mut ticket => return Ok((permit?, Some(asked.elapsed()))),
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
pub(super) fn refuse(callers: Vec<Caller>, refused: Refused) {
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
