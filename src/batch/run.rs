//! The task of a batch: its window, its wait for a bucket token, its sealing.
//!
//! Invariant: only this task seals and sends. Callers only wait for their
//! verdict, so a caller that disconnects cannot cancel the batch.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::caller::{Caller, refuse};
use super::open::{Batch, Mergeable, OpenBatches};
use super::settle::Settlement;
use super::shared::{Follow, Followed, Lead, Role};
use super::{Batcher, Windows};
use crate::limit::{Acquired, Lane, RateLimited};
use crate::observe::metrics::Route;
use crate::receipt::MergeKey;
use crate::upstream::Upstream;

/// Settled batches that are kept in a table until their key is idle. Each takes
/// about a kilobyte, and only with `batch.edge = "leading"`.
const MAX_KEPT: usize = 10_000;

/// A batch on its way to the upstream.
struct Run<'b> {
    batcher: &'b Batcher,
    lane: &'b Lane,
    upstream: &'b Upstream,
    windows: Windows,
    /// When its window ends, or has ended.
    due: Instant,
}

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
        let role = match &self.shared {
            Some(shared) if batch.is_open() && !windows.open.is_zero() => {
                // Boxed like all of a cluster: batches without one need no room for it.
                Box::pin(Arc::clone(shared).join(&batch.key, windows.open)).await
            }
            _ => Role::Local,
        };
        let run = Run {
            batcher: &self,
            lane: &lane,
            upstream: &upstream,
            windows,
            due: batch.opened + windows.open,
        };
        let busy_until = match role {
            Role::Local => run.send(&batch).await,
            Role::Lead(lead) => Box::pin(run.lead(&batch, *lead)).await,
            Role::Follow(follow) => Box::pin(run.follow(&batch, &follow)).await,
        };
        if let Some(until) = busy_until {
            if until <= Instant::now() {
                return self.open.remove(&batch);
            }
            // Not in `tasks`: a drain must not wait for it.
            tokio::spawn(async move { self.keep(&self.open, &batch, until).await });
        }
    }

    /// Waits until a batch is due: it is full, its window ends at `until`, or the
    /// gateway drains, which ends all windows.
    pub(super) async fn stay_open<M: Mergeable>(&self, batch: &Batch<M>, until: Instant) {
        // A timer would take a millisecond even for no time at all.
        if until <= Instant::now() {
            return;
        }
        tokio::select! {
            biased;
            () = batch.closed.notified() => {}
            () = self.flush.cancelled() => {}
            () = tokio::time::sleep_until(until) => {}
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

impl<'b> Run<'b> {
    /// Waits for the window and the token of a batch, and sends it. Returns until when its key is
    /// busy.
    async fn send(mut self, batch: &Arc<Batch<Caller>>) -> Option<Instant> {
        let token = self.window_and_token(batch).await;
        let (callers, busy_until) = self.seal(batch, token.is_ok());
        self.settle(batch, callers, token).await;
        busy_until
    }

    /// Does the same for a batch that others may follow.
    async fn lead(mut self, batch: &Arc<Batch<Caller>>, lead: Lead) -> Option<Instant> {
        // Also during the window, which may be longer than the lease.
        let token = lead.during(self.window_and_token(batch)).await;
        // A slot has to be used in time, so the server has no longer to return the followers.
        let usable_until = token.as_ref().ok().and_then(|it| it.permit.usable_until);
        let mut closed = lead.close(usable_until).await;
        let (callers, busy_until) = self.seal(batch, token.is_ok());
        match self.begin(batch, callers, token) {
            None => closed.conclude(None).await,
            Some((callers, acquired)) => {
                closed.fit(&callers, batch.caps);
                let settlement = self.settlement(batch, callers.len());
                match closed.has_followers() {
                    true => settlement.settle_for_all(callers, acquired, closed).await,
                    false => {
                        let own = settlement.settle(callers, acquired);
                        tokio::join!(own, closed.conclude(None));
                    }
                }
            }
        }
        busy_until
    }

    /// Waits for the verdict of the batch that this one follows, or else sends it.
    async fn follow(mut self, batch: &Arc<Batch<Caller>>, follow: &Follow) -> Option<Instant> {
        self.window(batch, follow.open_until(self.due)).await;
        let (callers, busy_until) = self.seal(batch, true);
        match follow.verdict(&callers).await {
            Followed::Added(last) => {
                let settlement = self.settlement(batch, callers.len());
                settlement.settle_followed(callers, last).await;
            }
            Followed::NotAdded => {
                let rest = Batch::closed(batch.key.clone(), callers, batch.opened, batch.caps);
                let token = self.token(&rest).await;
                self.settle(&rest, rest.seal(), token).await;
            }
        }
        busy_until
    }

    async fn settle(
        &self,
        batch: &Batch<Caller>,
        callers: Vec<Caller>,
        token: Result<Acquired, RateLimited>,
    ) {
        if let Some((callers, acquired)) = self.begin(batch, callers, token) {
            let settlement = self.settlement(batch, callers.len());
            settlement.settle(callers, acquired).await;
        }
    }

    async fn window_and_token(&mut self, batch: &Batch<Caller>) -> Result<Acquired, RateLimited> {
        self.window(batch, self.due).await;
        self.token(batch).await
    }

    async fn window(&mut self, batch: &Batch<Caller>, until: Instant) {
        self.batcher.stay_open(batch, until).await;
        self.due = Instant::now();
    }

    /// Waits for the token. The batch is due, not sealed: it still accepts receipts, so under
    /// pressure it grows instead of the queue.
    async fn token(&self, batch: &Batch<Caller>) -> Result<Acquired, RateLimited> {
        let limiter = &self.batcher.limiter;
        if self.lane.rules().observes {
            return Ok(limiter.untracked(self.lane, Route::ReceiptPath));
        }
        let token = self.batcher.first_token(batch, self.lane, refuse).await;
        token.map(|(permit, waited)| limiter.record_wait(permit, waited, Route::ReceiptPath))
    }

    /// Takes the callers out of a batch. From here on, receipts of this key open another batch: their
    /// messages may be newer than what this one is about to send. Also returns until when its key
    /// is busy.
    fn seal(&self, batch: &Arc<Batch<Caller>>, is_sent: bool) -> (Vec<Caller>, Option<Instant>) {
        let callers = batch.seal();
        self.batcher.metrics.batches.open.dec();
        let busy_until = self.windows.busy.map(|busy| Instant::now() + busy);
        // A batch that is not sent makes no key busy.
        let busy_until = busy_until.filter(|_| is_sent);
        if busy_until.is_none() {
            self.batcher.open.remove(batch);
        }
        (callers, busy_until)
    }

    /// The callers and the token of a batch that is sent now; `None` if it is not.
    fn begin(
        &self,
        batch: &Batch<Caller>,
        callers: Vec<Caller>,
        token: Result<Acquired, RateLimited>,
    ) -> Option<(Vec<Caller>, Acquired)> {
        match token {
            Err(refused) => {
                refuse(callers, refused);
                None
            }
            // Expired callers end the wait without a token, so this is not expected;
            // but a call without a caller has no request to send.
            Ok(_) if callers.is_empty() => None,
            Ok(acquired) => {
                let waited = batch.opened.elapsed().as_secs_f64();
                self.batcher.metrics.batches.wait.observe(waited);
                Some((callers, acquired))
            }
        }
    }

    fn settlement(&self, batch: &Batch<Caller>, callers: usize) -> Settlement<'b> {
        let times = (batch.opened, self.due);
        let quarantine = self.windows.quarantine;
        Settlement::new(
            self.batcher,
            self.lane,
            self.upstream,
            times,
            callers,
            quarantine,
        )
    }
}
