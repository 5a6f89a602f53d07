//! Calls in the order of their arrival, though a log has them in that of their end.
//!
//! Invariants: what leaves here never goes back in time, and no call's time is
//! bent for it; what is held is bounded in number and in time, whatever a log
//! says.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::play::Arrival;

/// A call this much older than the newest has no one before it any more: twice
/// the longest wait of most clients.
pub(super) const SPAN_NANOS: u64 = 60_000_000_000;

/// Calls held at most: 20 to 40 MB. Beyond 4,000 a second they leave earlier.
const HELD: usize = 1 << 18;

const SECOND: u64 = 1_000_000_000;

/// Calls waiting for those before them.
#[derive(Default)]
pub(super) struct Order {
    held: BinaryHeap<Reverse<Held>>,
    released: u64,
    calls: u64,
}

/// A call, in the order in which calls leave.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at: u64,
    /// The log tells the second, and no more. Those of a second come after the
    /// ones that came as it began, so that they are found together.
    whole: bool,
    /// Within a second, a log's order stands.
    number: u64,
    log: usize,
    arrival: Arrival,
}

impl Order {
    /// Takes a call of a log; false if calls that came after it have left.
    pub(super) fn push(&mut self, arrival: Arrival, coarse: bool, log: usize) -> bool {
        if arrival.at < self.released {
            return false;
        }
        self.calls += 1;
        self.held.push(Reverse(Held {
            at: arrival.at,
            whole: coarse && arrival.at.is_multiple_of(SECOND),
            number: self.calls,
            log,
            arrival,
        }));
        true
    }

    /// Gives the calls that nothing can come before, when every log has come
    /// to this moment.
    pub(super) fn release(&mut self, come_to: u64, ready: &mut Vec<Arrival>) {
        while let Some(Reverse(first)) = self.held.peek()
            && (self.held.len() > HELD || first.at.saturating_add(SPAN_NANOS) < come_to)
        {
            self.pop(ready);
        }
    }

    /// Gives all the rest.
    pub(super) fn end(&mut self, ready: &mut Vec<Arrival>) {
        while !self.held.is_empty() {
            self.pop(ready);
        }
    }

    fn pop(&mut self, ready: &mut Vec<Arrival>) {
        match self.held.pop() {
            Some(Reverse(first)) if first.whole => self.spread(first),
            Some(Reverse(first)) => {
                self.released = first.at;
                ready.push(Arrival {
                    at: first.at,
                    ..first.arrival
                });
            }
            None => {}
        }
    }

    /// Calls of one second are taken to come evenly over it, those of each log
    /// by themselves; then they are held like others.
    fn spread(&mut self, first: Held) {
        let at = first.at;
        let mut second = vec![first];
        while let Some(Reverse(next)) = self.held.peek()
            && next.at == at
        {
            second.extend(self.held.pop().map(|Reverse(next)| next));
        }
        // By log: how many it has, and how many of them have their place.
        let logs = second.iter().map(|held| held.log + 1).max().unwrap_or(0);
        let mut counts = vec![(0, 0); logs];
        for held in &second {
            counts[held.log].0 += 1;
        }
        for held in second {
            let (count, placed) = &mut counts[held.log];
            let place = SECOND * *placed / *count;
            *placed += 1;
            self.held.push(Reverse(Held {
                at: at.saturating_add(place),
                whole: false,
                ..held
            }));
        }
    }
}
