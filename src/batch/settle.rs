//! Sending a sealed batch until every caller has a verdict (design §3.4).
//!
//! Invariants: each attempt is paid for with a token; a caller never gets
//! another caller's failure where its own request could have succeeded; an
//! outage multiplies no calls.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use indexmap::IndexSet;
use tokio::time::Instant;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::Budget;
use tower::util::rng::HasherRng;

use super::life::refuse;
use super::open::Caller;
use super::{Batcher, Given, Shared, Timing, Untold};
use crate::body::{AnswerBody, RequestBody};
use crate::limit::{Admission, Kind, Lane, Pass, Refused};
use crate::metrics::Route;
use crate::retry_after;
use crate::upstream::{Answer, Collected, Failure, Upstream};

/// Longer answers are not held for sharing. Answers to receipts are a few
/// hundred bytes (wawp-api §1).
const MAX_SHARED: usize = 1024 * 1024;

/// The first wait before a repeat, doubling, with jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(1);
/// Each wait is stretched by up to this share of itself.
const BACKOFF_JITTER: f64 = 0.5;

/// What it takes to send a batch.
pub(super) struct Sender<'b> {
    pub(super) batcher: &'b Arc<Batcher>,
    pub(super) lane: &'b Lane,
    pub(super) upstream: &'b Upstream,
    pub(super) opened: Instant,
    /// The window was over.
    pub(super) due: Instant,
    /// The first token was there.
    pub(super) sealed: Instant,
}

/// What came of a call.
enum Outcome {
    /// An answer that was read to its end.
    Whole(Arc<Shared>),
    /// An answer too long to be held: it goes to one caller as it comes.
    Long(http::response::Parts, AnswerBody),
    Failed(Failure),
}

/// Verdicts of the upstream's, and the calls they took.
#[derive(Clone, Copy, Default)]
struct Tally {
    told: u64,
    calls: u64,
}

impl Sender<'_> {
    /// Sends a batch, already paid for, and tells everybody in it.
    pub(super) async fn settle(&self, callers: Vec<Caller>, pass: Pass) {
        let metrics = &self.batcher.metrics;
        metrics.batch_callers.observe(callers.len() as f64);
        metrics.batch_ids.observe(distinct_ids(&callers) as f64);
        let tally = self.settle_group(callers, pass).await;
        self.batcher
            .metrics
            .saved
            .inc_by(tally.told.saturating_sub(tally.calls));
    }

    /// Sends one call for a group; where somebody in it may be to blame for
    /// the failure, both halves are sent, each paying for itself.
    fn settle_group(
        &self,
        mut group: Vec<Caller>,
        pass: Pass,
    ) -> Pin<Box<dyn Future<Output = Tally> + Send + '_>> {
        Box::pin(async move {
            let mut tally = Tally::default();
            let ids = distinct_ids(&group);
            let outcome = self.deliver(&mut group, pass, &mut tally).await;
            if group.len() > 1 && outcome.blames_somebody() {
                self.batcher.metrics.splits.inc();
                let other = group.split_off(group.len() / 2);
                let halves = tokio::join!(self.pay_and_settle(group), self.pay_and_settle(other));
                for half in [halves.0, halves.1] {
                    tally.told += half.told;
                    tally.calls += half.calls;
                }
                return tally;
            }
            if let ([alone], true) = (&*group, outcome.blames_somebody()) {
                let length = self.batcher.settings.load().quarantine;
                self.batcher
                    .quarantine
                    .add(&alone.receipt, Instant::now(), length);
            }
            tally.told += group.len() as u64;
            self.tell(group, outcome, ids);
            tally
        })
    }

    /// Waits for another token, then sends.
    async fn pay_and_settle(&self, mut group: Vec<Caller>) -> Tally {
        match self.pay(&mut group).await {
            Ok(pass) => self.settle_group(group, pass).await,
            Err(refused) => {
                refuse(group, refused);
                Tally::default()
            }
        }
    }

    /// Takes a token for a group. Callers whose deadline comes meanwhile are
    /// told so at that moment, and the others go on waiting.
    async fn pay(&self, group: &mut Vec<Caller>) -> Result<Pass, Refused> {
        let limiter = &self.batcher.limiter;
        let asked = Instant::now();
        let kind = Kind::Receipt {
            opened: self.opened,
        };
        let mut ticket = None;
        loop {
            let now = Instant::now();
            let late: Vec<_> = group
                .extract_if(.., |caller| caller.deadline <= now)
                .collect();
            if !late.is_empty() {
                refuse(late, limiter.too_late(self.lane));
            }
            // In order of arrival, so in order of deadline.
            let (Some(first), Some(last)) = (group.first(), group.last()) else {
                return Err(limiter.too_late(self.lane));
            };
            let ticket = match &mut ticket {
                Some(ticket) => ticket,
                none => match limiter.admit(self.lane, kind, last.deadline)? {
                    Admission::Now(permit) => return Ok(limiter.passed(permit, None, Route::Seen)),
                    Admission::Queued(queued) => none.insert(queued),
                },
            };
            tokio::select! {
                biased;
                permit = ticket => return Ok(limiter.passed(permit, Some(asked.elapsed()), Route::Seen)),
                () = tokio::time::sleep_until(first.deadline) => {}
            }
        }
    }

    /// Makes one call, and makes it again while that can help, somebody still
    /// has time and the budget allows.
    async fn deliver(&self, group: &mut Vec<Caller>, mut pass: Pass, tally: &mut Tally) -> Outcome {
        let mut backoff = backoff();
        loop {
            self.batcher.budget.deposit();
            tally.calls += 1;
            let outcome = self.attempt(group, pass).await;
            let deadline = group.iter().map(|caller| caller.deadline).max();
            let has_time = deadline.is_some_and(|deadline| Instant::now() < deadline);
            if !has_time {
                return outcome;
            }
            if outcome.is_throttled() {
                // The bucket has learned its pause; whoever cannot wait it
                // out gets the upstream's own 429.
                let mut waiting = std::mem::take(group);
                match self.pay(&mut waiting).await {
                    Ok(paid) => pass = paid,
                    Err(_) => {
                        *group = waiting;
                        return outcome;
                    }
                }
                *group = waiting;
            } else if outcome.is_worth_repeating() && self.batcher.budget.withdraw() {
                backoff.next_backoff().await;
                let mut waiting = std::mem::take(group);
                let paid = self.pay(&mut waiting).await;
                *group = waiting;
                match paid {
                    Ok(paid) => pass = paid,
                    Err(_) => return outcome,
                }
            } else {
                return outcome;
            }
            self.batcher.metrics.retries.inc();
        }
    }

    /// One call. A lone caller's is its own request, unchanged.
    async fn attempt(&self, group: &[Caller], pass: Pass) -> Outcome {
        let request = compose(group);
        match self.upstream.call(request, Route::Seen).await {
            Err(failure) => Outcome::Failed(failure),
            Ok(Answer { head, body, .. }) => {
                self.lane
                    .answered(&pass.permit, head.status, retry_after::of(&head.headers));
                match body.collect(MAX_SHARED).await {
                    Ok(Collected::Whole(body, trailers)) => Outcome::Whole(Arc::new(Shared {
                        head,
                        body,
                        trailers,
                    })),
                    Ok(Collected::Longer(held, rest)) if group.len() == 1 => {
                        Outcome::Long(head, AnswerBody::resumed(held, rest))
                    }
                    Ok(Collected::Longer(..)) => Outcome::Failed(Failure::TooLong),
                    Err(failure) => Outcome::Failed(failure),
                }
            }
        }
    }

    fn tell(&self, group: Vec<Caller>, outcome: Outcome, ids: usize) {
        let upstream = self.sealed.elapsed();
        let callers = group.len();
        let timing = |caller: &Caller| Timing {
            window: self.due.saturating_duration_since(caller.arrived),
            queue: self
                .sealed
                .saturating_duration_since(self.due.max(caller.arrived)),
            upstream,
            callers,
            ids,
        };
        let share: Box<dyn Fn() -> Result<Given, Untold>> = match outcome {
            Outcome::Whole(shared) => Box::new(move || Ok(Given::Shared(Arc::clone(&shared)))),
            Outcome::Failed(failure) => Box::new(move || Err(Untold::Failed(failure))),
            Outcome::Long(head, body) => {
                for caller in group {
                    let timing = timing(&caller);
                    return caller.tell(Ok(Given::Own(head, body)), timing);
                }
                return;
            }
        };
        for caller in group {
            let timing = timing(&caller);
            caller.tell(share(), timing);
        }
    }
}

impl Outcome {
    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Whole(shared) => Some(shared.head.status),
            Self::Long(head, _) => Some(head.status),
            Self::Failed(_) => None,
        }
    }

    /// Someone's id or the length of the list may be the reason.
    fn blames_somebody(&self) -> bool {
        matches!(
            self.status().map(|status| status.as_u16()),
            Some(400 | 413 | 414 | 422 | 500)
        )
    }

    fn is_throttled(&self) -> bool {
        self.status() == Some(StatusCode::TOO_MANY_REQUESTS)
    }

    /// Nobody in the batch is to blame, and another attempt may go better.
    fn is_worth_repeating(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.is_connection_fault(),
            _ => matches!(self.status().map(|status| status.as_u16()), Some(502..=504)),
        }
    }
}

fn compose(group: &[Caller]) -> Request<RequestBody> {
    match group {
        [alone] => alone.receipt.own_request(),
        [first, ..] => {
            let ids: IndexSet<_> = group
                .iter()
                .flat_map(|caller| &caller.receipt.ids)
                .collect();
            first.receipt.merged_request(ids.into_iter())
        }
        [] => unreachable!("a group without callers is never sent"),
    }
}

fn distinct_ids(group: &[Caller]) -> usize {
    group
        .iter()
        .flat_map(|caller| &caller.receipt.ids)
        .collect::<IndexSet<_>>()
        .len()
}

fn backoff() -> ExponentialBackoff {
    ExponentialBackoffMaker::new(
        BACKOFF_FIRST,
        BACKOFF_LONGEST,
        BACKOFF_JITTER,
        HasherRng::default(),
    )
    .expect("the first wait is shorter than the longest, and the jitter positive")
    .make_backoff()
}
