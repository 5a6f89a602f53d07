//! Sending a sealed batch until every caller has a verdict (design §3.4).
//!
//! Invariants: each attempt is paid for with a token; a caller never gets
//! another caller's failure where its own request could have succeeded; an
//! outage multiplies no calls.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_LENGTH;
use indexmap::IndexSet;
use tokio::time::{Instant, Sleep};
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::Budget;
use tower::util::rng::HasherRng;

use super::life::refuse;
use super::open::Caller;
use super::{Batcher, Given, Shared, Timing, Untold};
use crate::body::{ClientResponse, UpstreamRequest};
use crate::http::retry_after;
use crate::limit::{Admission, Kind, Lane, Pass, Refused};
use crate::observe::metrics::Route;
use crate::receipt::MessageId;
use crate::upstream::{Collected, Upstream, UpstreamError, UpstreamResponse};

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
    Long(Box<ClientResponse>),
    Failed(UpstreamError),
}

/// Callers that share a call.
pub(super) struct Group {
    /// As they joined.
    pub(super) callers: Vec<Caller>,
    /// The union of their ids, in the order they were first seen.
    pub(super) ids: IndexSet<MessageId>,
}

/// Who and what shared a call.
#[derive(Clone, Copy)]
struct Load {
    callers: usize,
    ids: usize,
}

/// Verdicts of the upstream's, and the calls they took.
#[derive(Clone, Copy, Default)]
struct Tally {
    told: u64,
    calls: u64,
}

impl Sender<'_> {
    /// Sends a batch, already paid for, and tells everybody in it.
    pub(super) async fn settle(&self, group: Group, pass: Pass) {
        let load = group.load();
        let metrics = &self.batcher.metrics;
        metrics.batch_callers.observe(load.callers as f64);
        metrics.batch_ids.observe(load.ids as f64);
        let tally = self.settle_group(group, pass).await;
        self.batcher.count_saved(tally.told, tally.calls);
    }

    /// Sends one call for a group; where one of them and not another may be to
    /// blame for the failure, both halves are sent, each paying for itself.
    fn settle_group(
        &self,
        mut group: Group,
        pass: Pass,
    ) -> Pin<Box<dyn Future<Output = Tally> + Send + '_>> {
        Box::pin(async move {
            let mut tally = Tally::default();
            let (outcome, load) = self.deliver(&mut group, pass, &mut tally).await;
            if group.callers.len() > 1
                && (outcome.is_too_long() || outcome.blames_somebody() && group.may_disagree())
            {
                self.batcher.metrics.splits.inc();
                let other = group.split_off_half();
                let halves = tokio::join!(self.pay_and_settle(group), self.pay_and_settle(other));
                for half in [halves.0, halves.1] {
                    tally.told += half.told;
                    tally.calls += half.calls;
                }
                return tally;
            }
            // The others, if there are any, asked for the same.
            if let ([alone, ..], true) = (&*group.callers, outcome.blames_somebody()) {
                let length = self.batcher.settings.load().quarantine;
                self.batcher
                    .quarantine
                    .add(&alone.receipt, Instant::now(), length);
            }
            tally.count(group.callers.len(), &outcome);
            self.tell(group.callers, outcome, load);
            tally
        })
    }

    /// Waits for another token, then sends.
    async fn pay_and_settle(&self, mut group: Group) -> Tally {
        let mut tally = Tally::default();
        match self.pay(&mut group, None, &mut tally).await {
            Ok(pass) => self.settle_group(group, pass).await,
            Err(refused) => {
                refuse(group.callers, refused);
                tally
            }
        }
    }

    /// Takes a token for a group. Callers whose deadline comes meanwhile are
    /// told so at that moment, and the others go on waiting. What they are
    /// told is the `last` verdict, where there is one already.
    async fn pay(
        &self,
        group: &mut Group,
        last: Option<(&Outcome, Load)>,
        tally: &mut Tally,
    ) -> Result<Pass, Refused> {
        let limiter = &self.batcher.limiter;
        if limiter.observes() {
            return Ok(limiter.unheld(Route::Seen));
        }
        let asked = Instant::now();
        // Once admitted, a receipt keeps its place: no full queue refuses it.
        let kind = Kind::FollowUp {
            opened: self.opened,
        };
        let mut ticket = None;
        loop {
            let late = group.take_late(Instant::now());
            match last.and_then(|(outcome, load)| Some((outcome.share()?, load))) {
                _ if late.is_empty() => {}
                Some((outcome, load)) => {
                    tally.count(late.len(), &outcome);
                    self.tell(late, outcome, load);
                }
                None => refuse(late, limiter.too_late(self.lane)),
            }
            let (Some(first), Some(latest)) = (group.callers.first(), group.callers.last()) else {
                return Err(limiter.too_late(self.lane));
            };
            let ticket = match &mut ticket {
                Some(ticket) => ticket,
                none => match limiter.admit(self.lane, kind, latest.deadline)? {
                    Admission::Now(permit) => return Ok(limiter.passed(permit, None, Route::Seen)),
                    Admission::Queued(queued) => none.insert(queued),
                },
            };
            tokio::select! {
                biased;
                permit = ticket => return Ok(limiter.passed(permit?, Some(asked.elapsed()), Route::Seen)),
                () = tokio::time::sleep_until(first.deadline) => {}
            }
        }
    }

    /// Makes one call, and makes it again while that can help, somebody still
    /// has time and the budget allows. Whoever runs out of time before that is
    /// told what came of the last attempt; the others stay in the group.
    async fn deliver(
        &self,
        group: &mut Group,
        mut pass: Pass,
        tally: &mut Tally,
    ) -> (Outcome, Load) {
        let mut backoff = backoff();
        loop {
            let load = group.load();
            self.batcher.budget.deposit();
            tally.calls += 1;
            let outcome = self.attempt(group, pass).await;
            let pause = if outcome.is_throttled() {
                if self.batcher.limiter.observes() {
                    // No line keeps the pause: without it this would be a flood.
                    return (outcome, load);
                }
                // The bucket has learned its pause, and the line keeps it.
                None
            } else if outcome.is_worth_repeating() {
                Some(backoff.next_backoff())
            } else {
                return (outcome, load);
            };
            let next = pause.as_ref().map_or_else(Instant::now, Sleep::deadline);
            let has_time = |caller: &Caller| caller.deadline > next;
            if !group.callers.iter().any(has_time)
                || (pause.is_some() && !self.batcher.budget.withdraw())
            {
                return (outcome, load);
            }
            if let Some(outcome) = outcome.share() {
                let late = group.take_late(next);
                tally.count(late.len(), &outcome);
                self.tell(late, outcome, load);
            }
            if let Some(pause) = pause {
                pause.await;
            }
            match self.pay(group, Some((&outcome, load)), tally).await {
                Ok(paid) => pass = paid,
                Err(_) => return (outcome, load),
            }
            self.batcher.metrics.retries.inc();
        }
    }

    /// One call. A lone caller's is its own request, unchanged.
    async fn attempt(&self, group: &Group, pass: Pass) -> Outcome {
        let mut request = group.request();
        let answer = self.upstream.call(&mut request, Route::Seen).await;
        let UpstreamResponse { head, body, .. } = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.lane.unanswered(&pass.permit);
                return Outcome::Failed(failure);
            }
        };
        self.lane
            .answered(&pass.permit, head.status(), retry_after::asked(&head));
        match body.collect(MAX_SHARED).await {
            Ok(Collected::Whole { body, trailers }) => Outcome::Whole(Arc::new(Shared {
                head,
                body,
                trailers,
                remaining: pass.permit.remaining,
            })),
            Ok(Collected::Longer(held, rest)) if group.callers.len() == 1 => {
                let body = rest.into_client_body(held);
                Outcome::Long(Box::new(ClientResponse { head, body }))
            }
            Ok(Collected::Longer(..)) => Outcome::Failed(UpstreamError::TooLong),
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn tell(&self, callers: Vec<Caller>, outcome: Outcome, load: Load) {
        let upstream = self.sealed.elapsed();
        let timing = |caller: &Caller| Timing {
            window: self.due.saturating_duration_since(caller.came),
            queue: self
                .sealed
                .saturating_duration_since(self.due.max(caller.came)),
            upstream,
            callers: load.callers,
            ids: load.ids,
        };
        let verdict = |outcome| match outcome {
            Outcome::Whole(shared) => Ok(Given::Shared(shared)),
            Outcome::Long(answer) => Ok(Given::Own(answer)),
            Outcome::Failed(failure) => Err(Untold::Failed(failure)),
        };
        let mut callers = callers.into_iter();
        // All but the last are given a share; what cannot be shared has one
        // caller, which is the last.
        let last = callers.next_back();
        for caller in callers {
            let timing = timing(&caller);
            let share = outcome
                .share()
                .unwrap_or(Outcome::Failed(UpstreamError::TooLong));
            caller.tell(verdict(share), timing);
        }
        if let Some(caller) = last {
            let timing = timing(&caller);
            caller.tell(verdict(outcome), timing);
        }
    }
}

impl Outcome {
    /// The same for somebody else; `None` for what only one caller can have.
    fn share(&self) -> Option<Self> {
        match self {
            Self::Whole(shared) => Some(Self::Whole(Arc::clone(shared))),
            Self::Failed(failure) => Some(Self::Failed(*failure)),
            Self::Long(..) => None,
        }
    }

    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Whole(shared) => Some(shared.head.status()),
            Self::Long(answer) => Some(answer.status()),
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

    /// The answer is one that only a caller of its own can be given.
    fn is_too_long(&self) -> bool {
        matches!(self, Self::Failed(UpstreamError::TooLong))
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

impl Group {
    fn of(callers: Vec<Caller>) -> Self {
        let ids = callers.iter().flat_map(|caller| &caller.receipt.ids);
        Self {
            ids: ids.cloned().collect(),
            callers,
        }
    }

    fn load(&self) -> Load {
        Load {
            callers: self.callers.len(),
            ids: self.ids.len(),
        }
    }

    /// The one request for all of them. A lone caller's is its own, unchanged.
    fn request(&self) -> UpstreamRequest {
        match &*self.callers {
            [alone] => alone.receipt.own_request(),
            [first, ..] => first.receipt.merged_request(self.ids.iter()),
            [] => unreachable!("a group without callers is never sent"),
        }
    }

    /// Whether somebody's own request would be another than the one for all, by
    /// its ids or a field that is not in the key. Where nobody's is, splitting
    /// would make the same call again and again.
    fn may_disagree(&self) -> bool {
        let fields = |caller: &Caller| {
            let mut fields = caller.receipt.head().headers.clone();
            // That of the ids, which are compared by themselves.
            fields.remove(CONTENT_LENGTH);
            fields
        };
        let first = self.callers.first().map(fields);
        self.callers.iter().any(|caller| {
            let ids: IndexSet<_> = caller.receipt.ids.iter().collect();
            ids.len() < self.ids.len() || Some(fields(caller)) != first
        })
    }

    /// Takes out the later half.
    fn split_off_half(&mut self) -> Self {
        let later = self.callers.split_off(self.callers.len() / 2);
        *self = Self::of(std::mem::take(&mut self.callers));
        Self::of(later)
    }

    /// Takes out those who have no time left at `then`.
    fn take_late(&mut self, then: Instant) -> Vec<Caller> {
        let late: Vec<_> = self
            .callers
            .extract_if(.., |caller| caller.deadline <= then)
            .collect();
        if !late.is_empty() {
            *self = Self::of(std::mem::take(&mut self.callers));
        }
        late
    }
}

impl Tally {
    fn count(&mut self, callers: usize, outcome: &Outcome) {
        // A caller that got no answer was saved nothing.
        if !matches!(outcome, Outcome::Failed(_)) {
            self.told += callers as u64;
        }
    }
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
