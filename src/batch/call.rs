//! One upstream call for one or several callers, with its retries.
//!
//! Invariants: each attempt spends a token; only a call that a retry can help is
//! retried, within the callers' deadlines and the retry budget (rule: retries).
//! A caller whose deadline passes gets the result of the last call with its ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::util::rng::HasherRng;

use super::Batcher;
use super::caller::{BatchResponse, Caller, NoResponse, SharedResponse, Timing, refuse};
use super::reply::{CallSize, LastCall, Reply};
use crate::body::{ClientResponse, UpstreamRequest};
use crate::http::retry_after;
use crate::limit::{Acquired, Lane};
use crate::observe::metrics::Route;
use crate::receipt::{NotMerged, merge};
use crate::upstream::{Collected, Upstream, UpstreamError, UpstreamResponse};

/// Longer responses are not held for sharing. Responses to receipts have a few
/// hundred bytes.
const MAX_SHARED: usize = 1024 * 1024;

/// The wait before the first retry. It doubles up to `BACKOFF_LONGEST`; each wait
/// is lengthened at random by up to `BACKOFF_JITTER` of itself.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(1);
const BACKOFF_JITTER: f64 = 0.5;

/// What the calls of a batch have in common.
pub(super) struct CallContext<'b> {
    pub(super) batcher: &'b Batcher,
    pub(super) lane: &'b Lane,
    pub(super) upstream: &'b Upstream,
    /// When the batch was opened.
    pub(super) opened: Instant,
    /// When its window ended.
    pub(super) due: Instant,
    /// How long a caller that failed alone stays out of batches.
    pub(super) quarantine_time: Duration,
    /// Callers when it was sealed.
    pub(super) callers: usize,
    pub(super) others: Others,
    pub(super) tally: Tally,
}

/// What the calls carry for other gateways.
#[derive(Debug, Default)]
pub(super) struct Others {
    pub(super) callers: usize,
    pub(super) ids: Vec<String>,
}

/// Calls of a batch, and callers that got a response of the upstream.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) calls: AtomicU64,
    pub(super) responses: AtomicU64,
}

impl CallContext<'_> {
    /// Makes one call and retries it while that can help; waits for the token
    /// first unless `acquired` has it. Callers whose deadline passes meanwhile get
    /// their verdict and leave the list. `None` if all left before the first
    /// attempt.
    pub(super) async fn send(
        &self,
        callers: &mut Vec<Caller>,
        acquired: Option<Acquired>,
        last: Option<LastCall>,
    ) -> Option<LastCall> {
        let acquired = match acquired {
            Some(acquired) => acquired,
            None => self.follow_up(callers, last.as_ref()).await?,
        };
        Some(self.send_and_retry(callers, acquired).await)
    }

    async fn send_and_retry(&self, callers: &mut Vec<Caller>, mut acquired: Acquired) -> LastCall {
        let mut backoff = backoff();
        loop {
            let last = self.attempt(callers, acquired).await;
            let Some(next) = self.retry_at(&last.reply, &mut backoff) else {
                return last;
            };
            // The wait for the token begins at `next`; it cannot end before a pause.
            let earliest = self.lane.paused_until().map_or(next, |end| end.max(next));
            // A 429 pauses the bucket, which then sends one probe (rule: pauses).
            // That bounds these retries already; they need no retry budget.
            let is_bounded = last.reply.is_throttled();
            // The caller with the most time decides whether a retry is made: it can
            // use one that is too late for the others.
            let Some(latest) = callers.iter().max_by_key(|caller| caller.deadline) else {
                return last;
            };
            if latest.deadline <= earliest || !is_bounded && !self.may_retry(latest) {
                return last;
            }
            // A caller that has no time for this retry gets its verdict now, because
            // waiting cannot change it.
            self.settle_late(callers, earliest, &last);
            tokio::time::sleep_until(next).await;
            match self.follow_up(callers, Some(&last)).await {
                Some(follow_up) => acquired = follow_up,
                None => return last,
            }
            self.batcher.metrics.batches.retries.inc();
        }
    }

    fn may_retry(&self, caller: &Caller) -> bool {
        self.batcher.retry_budget.withdraw(&caller.receipt.identity)
    }

    /// When a call is to be sent again; `None` if that cannot help.
    fn retry_at(&self, reply: &Reply, backoff: &mut ExponentialBackoff) -> Option<Instant> {
        if let Reply::Long(_) = reply {
            // Its caller can only get it now: it is not held for a later verdict.
            return None;
        }
        if reply.is_throttled() {
            // At once, because the next token comes only after the pause. Where
            // budgets are only observed nothing would wait: no retry there.
            return (!self.lane.rules().observes).then(Instant::now);
        }
        let backoff = reply.is_worth_a_retry().then(|| backoff.next_backoff())?;
        let retry_after = reply.retry_after().unwrap_or_default();
        // A `Retry-After` that overflows the clock lies beyond all deadlines.
        let earliest = Instant::now().checked_add(retry_after)?;
        Some(backoff.deadline().max(earliest))
    }

    /// Waits for the token of another call. A caller gets its verdict when its
    /// deadline passes; the others go on waiting. `None` if no caller is left.
    pub(super) async fn follow_up(
        &self,
        callers: &mut Vec<Caller>,
        last: Option<&LastCall>,
    ) -> Option<Acquired> {
        let settle_late = |callers: &mut Vec<Caller>, then| match last {
            Some(last) => self.settle_late(callers, then, last),
            // After the recheck of a common failure, or where a leader has ended: no call is
            // known to have carried the ids of these. They get a 429 like new callers.
            None => {
                let late = take_late(callers, then);
                refuse(late, self.batcher.limiter.too_late(self.lane));
            }
        };
        settle_late(callers, Instant::now());
        let latest = callers.iter().map(|caller| caller.deadline).max()?;
        let token = self.batcher.follow_up_token(self.lane, self.opened, latest);
        tokio::pin!(token);
        loop {
            let first = callers.iter().map(|caller| caller.deadline).min()?;
            tokio::select! {
                // A token that is due exactly at a deadline still counts.
                biased;
                token = &mut token => match token {
                    Ok(acquired) => return Some(acquired),
                    // A pause may have begun since these callers were admitted. A caller
                    // whose ids were sent gets that result, never our 429.
                    Err(refused) => {
                        let all = std::mem::take(callers);
                        match last {
                            Some(last) => self.settle(all, last.share()),
                            None => refuse(all, refused),
                        }
                        return None;
                    }
                },
                () = tokio::time::sleep_until(first) => settle_late(callers, first),
            }
        }
    }

    /// One attempt. A single caller's own request is sent, unchanged.
    async fn attempt(&self, callers: &mut [Caller], acquired: Acquired) -> LastCall {
        let more: Vec<_> = self.others.ids.iter().map(|id| id.as_bytes()).collect();
        let (mut request, ids) = merge(callers.iter().map(|caller| &*caller.receipt), &more);
        let size = CallSize {
            callers: callers.len() + self.others.callers,
            ids,
        };
        // Retries deposit too: the budget is a share of all calls.
        self.batcher
            .retry_budget
            .deposit(&callers[0].receipt.identity);
        self.tally.calls.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let reply = self.exchange(&mut request, acquired, size).await;
        let took = began.elapsed();
        callers
            .iter_mut()
            .for_each(|caller| caller.in_calls += took);
        LastCall { reply, size, took }
    }

    async fn exchange(
        &self,
        request: &mut UpstreamRequest,
        mut acquired: Acquired,
        size: CallSize,
    ) -> Reply {
        // Dropped when the response has ended.
        let place = acquired.permit.send();
        let response = match self.upstream.call(request, Route::ReceiptPath).await {
            Ok(response) => response,
            Err(failure) => {
                self.lane.on_no_response(&acquired.permit);
                return Reply::Failed(failure);
            }
        };
        let UpstreamResponse { head, body, .. } = response;
        // With the head, not at the end of the body: until then the bucket would
        // grant tokens for calls that get a 429 too.
        self.lane
            .on_response(&acquired.permit, head.status(), retry_after::of_429(&head));
        match body.collect(MAX_SHARED).await {
            Ok(Collected::Whole { body, trailers }) => Reply::Whole(Arc::new(SharedResponse {
                head: *head,
                body,
                trailers,
                remaining: acquired.permit.remaining,
            })),
            // Only one caller: what was read so far is passed on with the rest, so the
            // gateway never holds more than the limit.
            Ok(Collected::Longer(held, rest)) if size.callers == 1 => {
                let mut body = rest.into_client_body(held);
                body.hold(place);
                Reply::Long(Box::new(ClientResponse { head, body }))
            }
            // Dropping the rest closes the connection. Each caller then gets a call of
            // its own (rule: settling).
            Ok(Collected::Longer(..)) => Reply::Failed(UpstreamError::TooLong),
            Err(failure) => Reply::Failed(failure),
        }
    }

    /// Gives callers the verdict of a call.
    pub(super) fn settle(&self, mut callers: Vec<Caller>, last: LastCall) {
        // For `saved_total`: a caller without a response saved no call.
        if !matches!(last.reply, Reply::Failed(_)) {
            let count = callers.len() as u64;
            self.tally.responses.fetch_add(count, Ordering::Relaxed);
        }
        // `share` cannot copy a streamed response, so the last caller gets the
        // original. A streamed response has only that caller.
        let (only, now) = (callers.pop(), Instant::now());
        for caller in callers {
            self.settle_one(caller, last.share(), now);
        }
        if let Some(caller) = only {
            self.settle_one(caller, last, now);
        }
    }

    fn settle_one(&self, caller: Caller, last: LastCall, now: Instant) {
        // A caller may join after the window, while the batch waits for its token:
        // it has spent no time in the window.
        let since_due = now.saturating_duration_since(self.due.max(caller.arrived));
        let timing = Timing {
            window: self.due.saturating_duration_since(caller.arrived),
            queue: since_due.saturating_sub(caller.in_calls),
            upstream: caller.in_calls,
            callers: last.size.callers,
            ids: last.size.ids,
            not_merged: match (last.size.callers, self.callers) {
                (1, 1) => Some(caller.if_alone),
                (1, _) => Some(NotMerged::Split),
                _ => None,
            },
        };
        let response = match last.reply {
            Reply::Whole(shared) => Ok(BatchResponse::Shared(shared)),
            Reply::Long(response) => Ok(BatchResponse::Streamed(response)),
            Reply::Failed(failure) => Err(NoResponse::Failed(failure)),
        };
        caller.settle(response, timing);
    }

    /// Gives the callers that have no time left at `then` the verdict of the
    /// last call with their ids.
    fn settle_late(&self, callers: &mut Vec<Caller>, then: Instant, last: &LastCall) {
        let late = take_late(callers, then);
        if !late.is_empty() {
            self.settle(late, last.share());
        }
    }
}

/// Removes the callers that have no time left at `then`.
fn take_late(callers: &mut Vec<Caller>, then: Instant) -> Vec<Caller> {
    let is_late = |caller: &mut Caller| caller.deadline <= then;
    callers.extract_if(.., is_late).collect()
}

fn backoff() -> ExponentialBackoff {
    ExponentialBackoffMaker::new(
        BACKOFF_FIRST,
        BACKOFF_LONGEST,
        BACKOFF_JITTER,
        HasherRng::default(),
    )
    .expect("the first pause is shorter than the longest, and the jitter positive")
    .make_backoff()
}
