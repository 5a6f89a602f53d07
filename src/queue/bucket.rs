//! One token bucket with the requests that wait for its tokens.
//!
//! Invariants: nothing here reads a clock, waits or starts a task, so that the
//! gateway, a forecast and an estimate decide alike. A token goes to the
//! request that the wait queue names, and no request takes one past a queue.
//! There is a queue if and only if a task serves it: [`push`](Bucket::push)
//! returns true when it makes one, and [`advance`](Bucket::advance) returns
//! `None` when it removes it.
//!
//! - [`refusals`]: what is refused, when, and with what reason.

mod refusals;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::request::{BucketRole, Completion, Newcomer, Permit};
use super::wait_queue::{Side, WaitQueue, Waiter};
use crate::config::{InstanceLimit, Quota};
use crate::identity::Fingerprint;
use crate::tokens::in_flight::InFlight;
use crate::tokens::{BucketName, BucketTokens, Demand};
pub(crate) use refusals::expiry;

/// The next ticket of the process: tickets order waiters also across buckets,
/// between which they may move.
static TICKETS: AtomicU64 = AtomicU64::new(0);

/// The number of a waiter that joins now.
pub(crate) fn next_ticket() -> u64 {
    TICKETS.fetch_add(1, Ordering::Relaxed)
}

/// A token bucket (GCRA) and its wait queue.
#[derive(Debug)]
pub(crate) struct Bucket<G> {
    tokens: BucketTokens,
    /// There only while something waits, so that an idle bucket stays small.
    queue: Option<Box<WaitQueue<G>>>,
    role: BucketRole,
}

impl<G: Completion> Bucket<G> {
    /// A full bucket; with a name, one that gateways share.
    pub(crate) fn new(
        limit: &InstanceLimit,
        name: Option<BucketName>,
        role: BucketRole,
        now: Instant,
    ) -> Self {
        Self {
            tokens: BucketTokens::new(limit, name, now),
            queue: None,
            role,
        }
    }

    /// A bucket without a limit, in the place of one that is moved.
    pub(crate) fn unlimited(role: BucketRole, now: Instant) -> Self {
        Self {
            tokens: BucketTokens::unlimited(now),
            queue: None,
            role,
        }
    }

    /// A full bucket for every credential.
    pub(crate) fn new_main(limit: &InstanceLimit, now: Instant) -> Self {
        Self::new(limit, None, BucketRole::Main, now)
    }

    /// A copy for a forecast, in which each waiter has another way to learn its
    /// verdict.
    pub(crate) fn copy<H: Completion>(
        &self,
        now: Instant,
        completion: impl Fn(&Waiter<G>) -> H,
    ) -> Bucket<H> {
        let queue = self.queue.as_ref();
        Bucket {
            tokens: self.tokens.simulated(now),
            queue: queue.map(|queue| Box::new(queue.copy(completion))),
            role: self.role,
        }
    }

    /// Takes a token for a request that finds no queue.
    pub(crate) fn try_acquire(&mut self, now: Instant) -> Option<Permit> {
        // A token that is there belongs to what waits.
        if self.queue.is_some() {
            return None;
        }
        let remaining = self.tokens.take(now).ok()?;
        Some(self.permit(now, remaining))
    }

    /// Adds a waiter; true if this makes a queue, which has to be served.
    pub(crate) fn push(
        &mut self,
        newcomer: &Newcomer,
        max_delay: Duration,
        ticket: u64,
        completion: G,
    ) -> bool {
        let first = self.queue.is_none();
        self.queue(max_delay).push(newcomer, ticket, completion);
        first
    }

    /// Adds waiters from another bucket; true as in [`push`](Self::push).
    pub(crate) fn insert(
        &mut self,
        waiters: Vec<(Side, Waiter<G>)>,
        max_delay: Duration,
        now: Instant,
    ) -> bool {
        let first = self.queue.is_none();
        let queue = self.queue(max_delay);
        for (side, waiter) in waiters {
            queue.insert(side, waiter);
        }
        // One of them may have an earlier deadline than what waited here.
        queue.changed.notify_one();
        // This bucket may be paused for longer than the one they come from.
        self.refuse_held(now);
        first
    }

    fn queue(&mut self, max_delay: Duration) -> &mut WaitQueue<G> {
        let tokens = &self.tokens;
        self.queue.get_or_insert_with(|| {
            // The end of a call and the reply of a server wake the task too.
            let changed = tokens.changed().unwrap_or_default();
            Box::new(WaitQueue::new(max_delay, changed))
        })
    }

    /// Hands out every token that is there and refuses the requests whose
    /// deadline has passed. Returns when to call this again and the [`Notify`]
    /// that asks for an earlier call; `None` once nothing waits.
    pub(crate) fn advance(&mut self, now: Instant) -> Option<(Instant, Arc<Notify>)> {
        let next = self.tick(now)?;
        Some((next, Arc::clone(&self.queue.as_ref()?.changed)))
    }

    /// The same, for a caller that needs no wake-up.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Instant> {
        // Before anything is refused: a token that was due by the
        // deadline counts, although the task wakes later.
        let next = self.serve(now)?;
        self.refuse_unreachable(now);
        let expiry = self.expire(now, |bucket| bucket.too_late(now));
        if self.len() == 0 {
            // Otherwise nothing would wake the task for the deadline of the next newcomer.
            self.end(now);
            return None;
        }
        Some(expiry.map_or(next, |expiry| expiry.min(next)))
    }

    /// Ends the queue: nothing waits.
    fn end(&mut self, now: Instant) {
        self.queue = None;
        // Slots that nothing needs any more go back.
        self.reserve(now, usize::MAX);
    }

    /// Hands out every token that is there. Returns when the next one is due;
    /// `None` once nothing waits.
    pub(crate) fn serve(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let Some(side) = self.next(now, |n| self.tokens.due(now, n)) else {
                self.end(now);
                return None;
            };
            if self.ready_at(now) > now {
                self.reserve(now, usize::MAX);
                // It depends on the demand that `reserve` has set.
                return Some(self.ready_at(now));
            }
            self.grant(side, now);
        }
    }

    /// Has tokens reserved for what waits, where they have to be, up to this number.
    pub(crate) fn reserve(&self, now: Instant, most: usize) {
        self.tokens.reserve(now, most, || {
            let queue = self.queue.as_ref();
            queue.map_or_else(Demand::default, |queue| queue.demand(now))
        });
    }

    /// When to try to take the next token: `now` if one can be taken.
    pub(crate) fn ready_at(&self, now: Instant) -> Instant {
        self.tokens.ready_at(now)
    }

    /// Which side has the next token; `slot(n)` is the time of the n-th token.
    pub(crate) fn next(&self, now: Instant, slot: impl Fn(u32) -> Instant) -> Option<Side> {
        self.queue.as_ref()?.next(now, slot)
    }

    /// Gives a token that is there to the head of one side; false if no token
    /// was taken, because there is no head or its deadline has passed. Then
    /// another call finds the next head.
    pub(crate) fn grant(&mut self, side: Side, now: Instant) -> bool {
        let Some(queue) = &mut self.queue else {
            return false;
        };
        let Some(head) = queue.head(side) else {
            return false;
        };
        // Its token would be spent in vain. Batches handle the
        // deadlines of their callers themselves.
        if side == Side::Requests && expiry(head) < now {
            let waiter = queue.pop(side);
            let refused = self.too_late(now);
            waiter.map(|waiter| waiter.completion.settle(Err(refused)));
            return false;
        }
        // A slot can have become too old while a shared budget had no token.
        let Ok(remaining) = self.tokens.take(now) else {
            return false;
        };
        let mut waiter = queue.pop(side);
        // If the request has just left, the next one gets its token. The place of the
        // call was given back with the permit.
        while let Some(next) = waiter {
            let permit = self.permit(now, remaining);
            if next.completion.settle(Ok(permit)) {
                break;
            }
            waiter = self.queue.as_mut().and_then(|queue| queue.pop(side));
        }
        // If this was a probe after one that timed out, the pause is now longer:
        // refuse those it makes late.
        self.refuse_held(now);
        true
    }

    /// The permit for a token that was taken.
    fn permit(&mut self, now: Instant, remaining: Option<u32>) -> Permit {
        Permit {
            granted: now,
            usable_until: self.tokens.usable_until(),
            remaining,
            bucket: self.role,
            place: self.tokens.enter(now),
        }
    }

    /// The task of the egress that serves the bucket, if one does.
    pub(crate) fn set_egress(&self, egress: Option<&Arc<Notify>>) {
        self.tokens.set_egress(egress);
    }

    /// Whether only one token is reserved at a time, where tokens have to be: what waits may belong to
    /// another bucket.
    pub(crate) fn set_one_at_a_time(&mut self, one_at_a_time: bool) {
        self.tokens.set_one_at_a_time(one_at_a_time);
        self.wake();
    }

    /// The calls in flight, where their number is bounded.
    pub(crate) fn in_flight(&self) -> Option<&Arc<InFlight>> {
        self.tokens.in_flight()
    }

    /// How many calls are in flight, where their number is bounded.
    pub(crate) fn calls_in_flight(&self) -> Option<usize> {
        self.in_flight().map(|in_flight| in_flight.count())
    }

    /// Removes a queue in which nothing waits.
    pub(crate) fn drop_empty_queue(&mut self) {
        self.queue.take_if(|queue| queue.is_empty());
    }

    /// Updates the pause after an upstream 429 to a request sent at `sent`, and
    /// refuses everything whose deadline lies within the pause.
    pub(crate) fn on_429(&mut self, now: Instant, sent: Instant, retry_after: Option<Duration>) {
        self.tokens.source_mut().on_429(now, sent, retry_after);
        self.refuse_held(now);
        self.wake();
    }

    /// Whether a 429 has not yet been followed by a success.
    pub(crate) fn is_recovering(&self) -> bool {
        self.tokens.source().is_recovering()
    }

    /// Updates the pause after any other response, or none.
    pub(crate) fn on_other_result(&mut self, now: Instant, sent: Instant, is_accepted: bool) {
        let tokens = self.tokens.source_mut();
        if tokens.on_other_result(now, sent, is_accepted) {
            self.wake();
        }
    }

    /// Sets another limit; debt is kept, and so are calls in flight.
    pub(crate) fn set_limit(
        &mut self,
        limit: &InstanceLimit,
        name: impl FnOnce() -> Option<BucketName>,
        now: Instant,
    ) {
        self.tokens.set_limit(limit, name, now);
        if let (Some(queue), Some(changed)) = (&mut self.queue, self.tokens.changed()) {
            // Wakes the task, which from now on waits for the other one.
            std::mem::replace(&mut queue.changed, changed).notify_one();
        }
        self.wake();
    }

    /// Removes a waiter that has left; false if it does not wait here.
    pub(crate) fn remove(&mut self, ticket: u64) -> bool {
        let removed = (self.queue.as_mut()).is_some_and(|queue| queue.remove(ticket));
        if removed {
            self.wake();
        }
        removed
    }

    /// Takes out the waiters of these credentials.
    pub(crate) fn take_of(
        &mut self,
        belongs: impl Fn(Option<Fingerprint>) -> bool,
    ) -> Vec<(Side, Waiter<G>)> {
        let taken = (self.queue.as_mut()).map(|queue| queue.take_of(belongs));
        self.wake();
        taken.unwrap_or_default()
    }

    fn wake(&self) {
        if let Some(queue) = &self.queue {
            queue.changed.notify_one();
        }
    }

    /// When the token after `before` others is due.
    pub(crate) fn due(&self, now: Instant, before: usize) -> Instant {
        self.tokens
            .due(now, u32::try_from(before).unwrap_or(u32::MAX))
    }

    /// The queue, while something waits.
    pub(crate) fn waiting(&self) -> Option<&WaitQueue<G>> {
        self.queue.as_deref().filter(|queue| !queue.is_empty())
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len())
    }

    /// The present quota.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.tokens.source().quota()
    }

    /// Tokens left, and what is left of a pause.
    pub(crate) fn status(&self, now: Instant) -> (Option<f64>, Duration) {
        let held = self.tokens.source().held_until(now);
        let paused = held.map_or(Duration::ZERO, |until| until - now);
        (self.tokens.source().tokens(now), paused)
    }

    /// Whether dropping the bucket would lose nothing: nothing waits, there is
    /// no pause and every token is back.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.queue.is_none() && self.tokens.is_full(now)
    }

    /// Until when a pause certainly lets no request go; it may be over.
    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.tokens.source().refuses_until()
    }
}
