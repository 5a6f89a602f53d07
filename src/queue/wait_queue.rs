//! The requests that wait at one bucket, and which of them is next.
//!
//! Invariants: requests leave in the order in which they joined. Receipts yield
//! to requests until they are `max_delay` old; then they take at most every
//! second token while requests wait, and never one whose loss makes a waiting
//! request late (rule: yielding). Pure bookkeeping: no clock, no tokens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::request::{Kind, Newcomer};
use crate::identity::Fingerprint;
use crate::tokens::Demand;

/// A request or a batch of receipts that waits.
#[derive(Debug)]
pub(crate) struct Waiter<G> {
    /// Grows with each waiter of the gateway: the order of arrival.
    pub(crate) ticket: u64,
    /// Receipts: when it stops yielding; receipts are ordered by it. Requests: when
    /// it arrived.
    pub(crate) overdue: Instant,
    pub(crate) deadline: Instant,
    pub(crate) credential: Option<Fingerprint>,
    pub(crate) completion: G,
}

/// Requests or receipts: the two sides between which tokens alternate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Requests,
    Receipts,
}

/// Lets overdue receipts take every second token at most while requests wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alternator {
    receipt_was_last: bool,
}

impl Alternator {
    /// Whether the rule allows a receipt to go before a waiting request.
    pub(crate) fn allows_receipt(self) -> bool {
        !self.receipt_was_last
    }

    /// Records which side took a token.
    pub(crate) fn record(&mut self, side: Side) {
        self.receipt_was_last = side == Side::Receipts;
    }
}

/// The requests and receipts that wait at one bucket.
#[derive(Debug)]
pub(crate) struct WaitQueue<G> {
    /// In the order of arrival.
    requests: VecDeque<Waiter<G>>,
    /// The one that is overdue first is in front.
    receipts: VecDeque<Waiter<G>>,
    alternator: Alternator,
    /// `batch.max_delay`.
    max_delay: Duration,
    /// Wakes the task that serves the queue when its plan has changed.
    pub(crate) changed: Arc<Notify>,
}

impl<G> WaitQueue<G> {
    pub(crate) fn new(max_delay: Duration, changed: Arc<Notify>) -> Self {
        Self {
            requests: VecDeque::new(),
            receipts: VecDeque::new(),
            alternator: Alternator::default(),
            max_delay,
            changed,
        }
    }

    /// The same waiters in the same order, each with another way to learn its
    /// verdict.
    pub(crate) fn copy<H>(&self, completion: impl Fn(&Waiter<G>) -> H) -> WaitQueue<H> {
        let copy = |waiters: &VecDeque<Waiter<G>>| {
            let waiters = waiters.iter().map(|waiter| Waiter {
                ticket: waiter.ticket,
                overdue: waiter.overdue,
                deadline: waiter.deadline,
                credential: waiter.credential,
                completion: completion(waiter),
            });
            waiters.collect()
        };
        WaitQueue {
            requests: copy(&self.requests),
            receipts: copy(&self.receipts),
            alternator: self.alternator,
            max_delay: self.max_delay,
            changed: Arc::clone(&self.changed),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len() + self.receipts.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waiting requests and waiting receipts.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.requests.len(), self.receipts.len())
    }

    /// Adds a waiter.
    pub(crate) fn push(&mut self, newcomer: &Newcomer, ticket: u64, completion: G) {
        let (side, overdue) = newcomer.queue_key(self.max_delay);
        let waiter = Waiter {
            ticket,
            overdue,
            deadline: newcomer.deadline,
            credential: newcomer.credential,
            completion,
        };
        self.insert(side, waiter);
    }

    /// Adds a waiter from another queue, where its arrival puts it.
    pub(crate) fn insert(&mut self, side: Side, waiter: Waiter<G>) {
        match side {
            Side::Requests => {
                // A waiter that moves keeps its position by arrival;
                // a newcomer has the largest ticket.
                let index = self
                    .requests
                    .partition_point(|other| other.ticket < waiter.ticket);
                self.requests.insert(index, waiter);
            }
            Side::Receipts => {
                let index = self.receipts_before(waiter.overdue);
                self.receipts.insert(index, waiter);
            }
        }
    }

    /// How many receipts are ahead of one with this `overdue` time.
    pub(crate) fn receipts_before(&self, overdue: Instant) -> usize {
        self.receipts
            // `<=`: of the same age, the one that joined first goes first.
            .partition_point(|receipt| receipt.overdue <= overdue)
    }

    /// The receipts, the next to go first.
    pub(crate) fn receipts(&self) -> impl Iterator<Item = &Waiter<G>> {
        self.receipts.iter()
    }

    /// The head of one side.
    pub(crate) fn head(&self, side: Side) -> Option<&Waiter<G>> {
        match side {
            Side::Requests => self.requests.front(),
            Side::Receipts => self.receipts.front(),
        }
    }

    /// Which side has the next token at `now`, if any waits; `slot(n)` is the
    /// time of this queue's n-th token from now on.
    pub(crate) fn next(&self, now: Instant, slot: impl Fn(u32) -> Instant) -> Option<Side> {
        match (self.requests.front(), self.receipts.front()) {
            (None, None) => None,
            (None, Some(_)) => Some(Side::Receipts),
            (Some(_), Some(_)) if self.receipt_may_go(now, slot) => Some(Side::Receipts),
            (Some(_), _) => Some(Side::Requests),
        }
    }

    /// Whether the first receipt may take the token before a waiting request.
    pub(crate) fn receipt_may_go(&self, now: Instant, slot: impl Fn(u32) -> Instant) -> bool {
        let first = self.receipts.front();
        first.is_some_and(|first| first.overdue <= now)
            && (self.requests.is_empty() || self.alternator.allows_receipt())
            // The receipt takes a token, so each request gets the one after its own.
            && !self.is_late(&slot, |before| slot(before.saturating_add(1)))
    }

    /// Whether some waiting request meets its deadline with the token times
    /// `slot`, but misses it with `later_slot`.
    pub(crate) fn is_late(
        &self,
        slot: impl Fn(u32) -> Instant,
        later_slot: impl Fn(u32) -> Instant,
    ) -> bool {
        (0..).zip(&self.requests).any(|(before, request)| {
            // One that is late in any case holds no receipt back.
            later_slot(before) > request.deadline && slot(before) <= request.deadline
        })
    }

    /// Takes out the head of one side.
    pub(crate) fn pop(&mut self, side: Side) -> Option<Waiter<G>> {
        self.alternator.record(side);
        match side {
            Side::Requests => self.requests.pop_front(),
            Side::Receipts => self.receipts.pop_front(),
        }
    }

    /// Removes a waiter that has left; false if it does not wait here.
    pub(crate) fn remove(&mut self, ticket: u64) -> bool {
        let before = self.len();
        for side in [&mut self.requests, &mut self.receipts] {
            side.retain(|waiter| waiter.ticket != ticket);
        }
        self.len() < before
    }

    /// Takes out the requests with a deadline up to this time. Batches watch
    /// the deadlines of their callers themselves.
    pub(crate) fn take_expired(&mut self, until: Instant) -> Vec<Waiter<G>> {
        let expired = |request: &Waiter<G>| request.deadline <= until;
        extract(&mut self.requests, expired)
    }

    /// Takes out everything that has a deadline before this time.
    pub(crate) fn take_late(&mut self, before: Instant) -> Vec<Waiter<G>> {
        let is_late = |waiter: &Waiter<G>| waiter.deadline < before;
        let mut late = extract(&mut self.requests, is_late);
        late.append(&mut extract(&mut self.receipts, is_late));
        late
    }

    /// Takes out the requests that miss their deadline with the token times `slot`.
    pub(crate) fn take_unreachable(&mut self, slot: impl Fn(u32) -> Instant) -> Vec<Waiter<G>> {
        let mut late = Vec::new();
        let mut before = 0;
        for request in std::mem::take(&mut self.requests) {
            // One that is refused takes no token, so those behind it come earlier.
            if slot(before) > request.deadline {
                late.push(request);
            } else {
                before += 1;
                self.requests.push_back(request);
            }
        }
        late
    }

    /// What needs a token: all requests and overdue receipts, else the first receipt.
    pub(crate) fn demand(&self, now: Instant) -> Demand {
        let overdue = self
            .receipts
            .iter()
            .filter(|receipt| receipt.overdue <= now);
        let all = self.requests.iter().chain(overdue);
        let deadlines: Vec<_> = all.map(|waiter| waiter.deadline).collect();
        // It goes after all others, so a slot for it would be kept in vain while they wait.
        let yielding = self.receipts.front().filter(|_| deadlines.is_empty());
        Demand {
            yielding: yielding.map(|receipt| receipt.deadline),
            deadlines,
        }
    }

    /// The earliest deadline of the waiting requests.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        // Not that of the head: requests from before a reload have another `limit.max_wait`.
        self.requests.iter().map(|request| request.deadline).min()
    }

    /// Takes out the waiters whose credential is one of these.
    pub(crate) fn take_of(
        &mut self,
        belongs: impl Fn(Option<Fingerprint>) -> bool,
    ) -> Vec<(Side, Waiter<G>)> {
        let belongs = |waiter: &Waiter<G>| belongs(waiter.credential);
        let requests = extract(&mut self.requests, belongs);
        let receipts = extract(&mut self.receipts, belongs);
        let requests = requests.into_iter().map(|it| (Side::Requests, it));
        let receipts = receipts.into_iter().map(|it| (Side::Receipts, it));
        requests.chain(receipts).collect()
    }
}

/// Takes out the waiters that meet the condition; usually there is none.
fn extract<G>(
    waiters: &mut VecDeque<Waiter<G>>,
    condition: impl Fn(&Waiter<G>) -> bool,
) -> Vec<Waiter<G>> {
    if !waiters.iter().any(&condition) {
        return Vec::new();
    }
    let all = std::mem::take(waiters).into_iter();
    let (extracted, rest): (VecDeque<_>, _) = all.partition(condition);
    *waiters = rest;
    Vec::from(extracted)
}

impl Newcomer {
    /// The side of the queue that it joins.
    pub(crate) fn side(&self) -> Side {
        self.queue_key(Duration::ZERO).0
    }

    /// The side of the queue that it joins, and the key that orders receipts there.
    pub(crate) fn queue_key(&self, max_delay: Duration) -> (Side, Instant) {
        match self.kind {
            Kind::Request => (Side::Requests, self.now),
            Kind::Receipt { opened } => (Side::Receipts, opened + max_delay),
            // Earlier than every receipt that yields, and in order of age.
            Kind::FollowUp { opened } => (Side::Receipts, opened),
        }
    }
}
