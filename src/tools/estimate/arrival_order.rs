//! Requests in the order of their arrival; logs have them in the order of their end.
//!
//! Invariants: requests are released in the order of their times, and no time is changed
//! to achieve that; the number of held requests is bounded.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::arrival::Arrival;

/// A request is released when the log has reached this much later a time (one minute): no earlier
/// request is expected then. It is twice the timeout of most clients.
pub(super) const SPAN_NANOS: u64 = 60_000_000_000;

/// Maximum of held requests, 20 to 40 MB. Above 4,000 requests per second they are
/// released earlier.
const HELD: usize = 1 << 18;

const SECOND: u64 = 1_000_000_000;

/// Requests that wait for earlier ones.
#[derive(Default)]
pub(super) struct ArrivalOrder {
    held: BinaryHeap<Reverse<Held>>,
    /// The time of the last released request.
    released: u64,
    pushed: u64,
}

/// A held request. The order of its fields is the order of release.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at: u64,
    /// The log has whole seconds only. These sort after requests at the start of
    /// the second, so that all of one second are found together.
    is_whole_second: bool,
    /// Keeps the order of the log within a second.
    number: u64,
    log: usize,
    arrival: Arrival,
}

impl ArrivalOrder {
    /// Holds a request of a log; false if later requests have been released.
    pub(super) fn push(&mut self, arrival: Arrival, is_coarse: bool, log: usize) -> bool {
        // A replay cannot go back: the buckets have already moved past this time.
        if arrival.at < self.released {
            return false;
        }
        self.pushed += 1;
        self.held.push(Reverse(Held {
            at: arrival.at,
            is_whole_second: is_coarse && arrival.at.is_multiple_of(SECOND),
            number: self.pushed,
            log,
            arrival,
        }));
        true
    }

    /// Releases the requests that no later line can precede, when every log has
    /// reached this time.
    pub(super) fn release(&mut self, reached: u64, ready: &mut Vec<Arrival>) {
        while let Some(Reverse(first)) = self.held.peek()
            && (self.held.len() > HELD || first.at.saturating_add(SPAN_NANOS) < reached)
        {
            self.pop(ready);
        }
    }

    /// Releases all.
    pub(super) fn finish(&mut self, ready: &mut Vec<Arrival>) {
        while !self.held.is_empty() {
            self.pop(ready);
        }
    }

    /// Releases the earliest request, or spreads its second first.
    fn pop(&mut self, ready: &mut Vec<Arrival>) {
        match self.held.pop() {
            // Not released yet: its new time may be later than that of other held requests.
            Some(Reverse(first)) if first.is_whole_second => self.spread(first),
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

    /// Spreads the requests of one second evenly over it, for each log separately;
    /// then they are held like others.
    fn spread(&mut self, first: Held) {
        let at = first.at;
        let mut second = vec![first];
        while let Some(Reverse(next)) = self.held.peek()
            && next.at == at
        {
            second.extend(self.held.pop().map(|Reverse(next)| next));
        }
        // For each log: its requests in this second, and how many have been spread.
        let logs = second.iter().map(|held| held.log + 1).max().unwrap_or(0);
        // Per log: replicas log independently, and each has its own distribution over the second.
        let mut counts = vec![(0, 0); logs];
        for held in &second {
            counts[held.log].0 += 1;
        }
        for held in second {
            let (count, spread) = &mut counts[held.log];
            // Evenly, because the order within the second is all that the log shows. All at its
            // start would be a burst that never happened.
            let offset = SECOND * *spread / *count;
            *spread += 1;
            self.held.push(Reverse(Held {
                at: at.saturating_add(offset),
                is_whole_second: false,
                ..held
            }));
        }
    }
}
