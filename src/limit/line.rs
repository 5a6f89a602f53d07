//! The calls that wait at one bucket, in the order in which they will go.
//!
//! Invariant: calls leave first come, first served; receipts yield to calls
//! until they are `max_delay` old (design §3.6), and then take every second
//! token at most while calls wait: a line full of old receipts would else let
//! no call go any more. Pure bookkeeping.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::bucket::Permit;
use super::egress::Claim;
use super::share::Waiting;
use crate::identity::Fingerprint;

/// What kind of call asks for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call passed through: waits in line.
    Call,
    /// A batch of read receipts opened at this moment: yields to calls until
    /// it is older than `batch.max_delay`.
    Receipt {
        /// When the batch was opened.
        opened: Instant,
    },
}

/// Whose turn it is where calls and receipts wait (design §3.6): receipts yield
/// until the first of them is old, and then every second turn is theirs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    /// The last turn was a receipt's: a call is next, if one waits.
    is_calls: bool,
}

impl Turns {
    /// Whether the next turn is a receipt's.
    pub(super) fn is_receipts(&mut self, calls_wait: bool, is_old: bool) -> bool {
        self.is_calls = !calls_wait || is_old && !self.is_calls;
        self.is_calls
    }
}

/// Through what somebody who waits is given a token.
pub(crate) trait Grant {
    /// Gives the token; false if nobody takes it any more.
    fn grant(self, permit: Permit) -> bool;
}

impl Grant for oneshot::Sender<Permit> {
    fn grant(self, permit: Permit) -> bool {
        self.send(permit).is_ok()
    }
}

/// The calls that wait, and what the task serving them needs.
#[derive(Debug)]
pub(super) struct Line<G> {
    pub(super) calls: VecDeque<Waiter<G>>,
    /// The one opened first is in front.
    pub(super) receipts: VecDeque<Waiter<G>>,
    pub(super) max_delay: Duration,
    pub(super) turns: Turns,
    /// Wakes the serving task when its plan has changed.
    pub(super) changed: Arc<Notify>,
    /// What the egress was asked for on behalf of this line, and with which
    /// ticket.
    pub(super) claimed: Option<(u64, Claim)>,
}

#[derive(Debug)]
pub(super) struct Waiter<G> {
    pub(super) ticket: u64,
    pub(super) opened: Instant,
    pub(super) credential: Option<Fingerprint>,
    pub(super) grant: G,
    /// Counts the call in its tenant's line, where it has one.
    pub(super) _waiting: Option<Waiting>,
}

// === impl Line ===

impl<G> Line<G> {
    pub(super) fn new(max_delay: Duration) -> Self {
        Self {
            calls: VecDeque::new(),
            receipts: VecDeque::new(),
            max_delay,
            turns: Turns::default(),
            changed: Arc::new(Notify::new()),
            claimed: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len() + self.receipts.len()
    }

    pub(super) fn push(&mut self, kind: Kind, waiter: Waiter<G>) {
        match kind {
            Kind::Call => self.calls.push_back(waiter),
            Kind::Receipt { opened } => {
                // What is left of a batch that was split or is repeated asks
                // again with the batch's age, and goes before younger ones.
                let place = self.older_than(opened);
                self.receipts.insert(place, waiter);
            }
        }
    }

    /// How many receipts were opened no later than this.
    pub(super) fn older_than(&self, opened: Instant) -> usize {
        self.receipts
            .partition_point(|batch| batch.opened <= opened)
    }

    /// The next to be served: an overdue receipt, unless one has just been,
    /// else a call, else a receipt.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Waiter<G>> {
        let first = self.receipts.front();
        let is_old = first.is_some_and(|batch| batch.opened + self.max_delay <= now);
        if self.turns.is_receipts(!self.calls.is_empty(), is_old) {
            self.receipts.pop_front()
        } else {
            self.calls.pop_front()
        }
    }

    /// As what the head of the line asks the egress: a call does not yield, a
    /// receipt does for a while.
    pub(super) fn claim(&self) -> Option<Claim> {
        if !self.calls.is_empty() {
            return Some(Claim::Call);
        }
        let oldest = self.receipts.front()?;
        Some(Claim::Receipt {
            overdue: oldest.opened + self.max_delay,
        })
    }

    /// Takes somebody out of the line who no longer waits.
    pub(super) fn remove(&mut self, ticket: u64) {
        self.calls.retain(|waiter| waiter.ticket != ticket);
        self.receipts.retain(|waiter| waiter.ticket != ticket);
    }
}

impl Kind {
    pub(super) fn opened(self, now: Instant) -> Instant {
        match self {
            Kind::Call => now,
            Kind::Receipt { opened } => opened,
        }
    }
}
