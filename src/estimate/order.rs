//! Calls in the order of their arrival, though a log has them in that of their end.
//!
//! Invariants: what leaves here never goes back in time; what is held is
//! bounded in number and in time, whatever a log says.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::play::Arrival;

/// A call this much older than the newest has no one before it any more: twice
/// the longest wait of most clients.
const SPAN_NANOS: u64 = 60_000_000_000;

/// Calls held at most: some 15 MB.
const HELD: usize = 1 << 18;

const SECOND: u64 = 1_000_000_000;

/// Calls waiting for those before them.
#[derive(Default)]
pub(super) struct Order {
    /// With the number of the line: within a second, a log's order stands.
    held: BinaryHeap<Reverse<(u64, u64, Arrival, bool)>>,
    newest: u64,
    released: u64,
    lines: u64,
    /// Calls of one second, of which the log tells no more.
    second: Vec<Arrival>,
}

impl Order {
    /// Takes a call, and gives those that nothing can come before.
    pub(super) fn push(&mut self, arrival: Arrival, coarse: bool, ready: &mut Vec<Arrival>) {
        self.lines += 1;
        self.newest = self.newest.max(arrival.at);
        self.held
            .push(Reverse((arrival.at, self.lines, arrival, coarse)));
        while let Some(Reverse((at, ..))) = self.held.peek()
            && (self.held.len() > HELD || at + SPAN_NANOS < self.newest)
        {
            self.release(ready);
        }
    }

    /// Gives all the rest.
    pub(super) fn end(&mut self, ready: &mut Vec<Arrival>) {
        while !self.held.is_empty() {
            self.release(ready);
        }
        self.spread(ready);
    }

    fn release(&mut self, ready: &mut Vec<Arrival>) {
        let Some(Reverse((_, _, mut arrival, coarse))) = self.held.pop() else {
            return;
        };
        arrival.at = arrival.at.max(self.released);
        self.released = arrival.at;
        let whole = coarse && arrival.at.is_multiple_of(SECOND);
        let other = self
            .second
            .first()
            .is_some_and(|first| first.at != arrival.at);
        if other || !whole || self.second.len() >= HELD {
            self.spread(ready);
        }
        if whole {
            self.second.push(arrival);
        } else {
            ready.push(arrival);
        }
    }

    /// Calls of one second are taken to come evenly over it.
    fn spread(&mut self, ready: &mut Vec<Arrival>) {
        let count = self.second.len().max(1) as u64;
        for (place, mut arrival) in self.second.drain(..).enumerate() {
            arrival.at += SECOND * place as u64 / count;
            ready.push(arrival);
        }
    }
}
