//! Bucket tokens for batches: the only file of this module that takes them.
//!
//! Invariants: each upstream call of a batch spends one token; a batch waits as
//! one, and accepts callers until its token is granted (rule: batch life cycle).

use std::time::Duration;

use tokio::time::Instant;

use super::Batcher;
use super::open::{Batch, Mergeable};
use crate::limit::{Acquired, Admission, Kind, Lane, Permit, RateLimited};
use crate::observe::metrics::Route;

impl Batcher {
    /// Whether a batch opened now could get its token by the deadline.
    ///
    /// # Errors
    /// The batch would be refused.
    pub(super) fn check(
        &self,
        lane: &Lane,
        opened: Instant,
        deadline: Instant,
    ) -> Result<(), RateLimited> {
        self.limiter.check(lane, Kind::Receipt { opened }, deadline)
    }

    /// Waits for the first token of a batch, which accepts callers meanwhile.
    /// Callers whose deadline passes are given to `refuse`. Returns the token,
    /// and the time in the queue if the batch had to wait.
    ///
    /// # Errors
    /// No caller of the batch can be served in time.
    pub(super) async fn first_token<M: Mergeable>(
        &self,
        batch: &Batch<M>,
        lane: &Lane,
        refuse: impl Fn(Vec<M>, RateLimited),
    ) -> Result<(Permit, Option<Duration>), RateLimited> {
        let (queued_at, opened) = (Instant::now(), batch.opened);
        // The last deadline: the token is worth taking while one caller can use
        // it. The others are refused below, at their own deadlines.
        let admit = || {
            let deadline = batch.last_deadline().unwrap_or(queued_at);
            let kind = Kind::Receipt { opened };
            self.limiter.admit(lane, kind, deadline)
        };
        let mut ticket = match admit()? {
            Admission::Now(permit) => return Ok((permit, None)),
            Admission::Queued(ticket) => ticket,
        };
        loop {
            // Read again each time: callers join and expire during the wait. A
            // return drops the ticket, so the batch leaves the queue.
            let Some(deadline) = batch.first_deadline() else {
                return Err(self.limiter.too_late(lane));
            };
            tokio::select! {
                // Token first: one that is due exactly at the deadline still counts,
                // as the forecast has promised (rule: admission).
                biased;
                permit = &mut ticket => match permit {
                    Ok(permit) => return Ok((permit, Some(queued_at.elapsed()))),
                    // A pause outlasts the deadline that the ticket was taken with.
                    // Callers that have joined since may have time enough (rule:
                    // pauses): they ask again, and the batch keeps its age.
                    Err(refused) => {
                        let until = Instant::now() + refused.retry_after;
                        refuse(batch.take_late(|deadline| deadline < until), refused);
                        if batch.last_deadline().is_none() {
                            return Err(refused);
                        }
                        ticket = match admit()? {
                            Admission::Now(permit) => return Ok((permit, Some(queued_at.elapsed()))),
                            Admission::Queued(ticket) => ticket,
                        };
                    }
                },
                () = tokio::time::sleep_until(deadline) => {
                    let now = Instant::now();
                    let expired = batch.take_late(|deadline| deadline <= now);
                    if !expired.is_empty() {
                        refuse(expired, self.limiter.too_late(lane));
                    }
                }
            }
        }
    }

    /// Waits for the token of a further call of a batch opened at `opened`: a
    /// retry, or a part of the batch. A full queue is no reason to refuse it,
    /// because its callers were admitted before (rule: splitting).
    ///
    /// # Errors
    /// There is no token by the deadline.
    pub(super) async fn follow_up_token(
        &self,
        lane: &Lane,
        opened: Instant,
        deadline: Instant,
    ) -> Result<Acquired, RateLimited> {
        if lane.rules().observes {
            // Budgets are only observed: no call waits, and no token is taken.
            return Ok(self.limiter.untracked(lane, Route::ReceiptPath));
        }
        let queued_at = Instant::now();
        let kind = Kind::FollowUp { opened };
        let (permit, waited) = match self.limiter.admit(lane, kind, deadline)? {
            Admission::Now(permit) => (permit, None),
            Admission::Queued(ticket) => {
                let too_late = |_| self.limiter.too_late(lane);
                let verdict = tokio::time::timeout_at(deadline, ticket).await;
                (verdict.map_err(too_late)??, Some(queued_at.elapsed()))
            }
        };
        Ok(self.limiter.record_wait(permit, waited, Route::ReceiptPath))
    }
}
