//! A slot that is reserved, and the reservation that it came with.

use std::time::Duration;

use tokio::time::Instant;

use crate::tokens::micros::offset;

/// A slot that is reserved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// When it was due at the server, which may be before it was reserved.
    due: Instant,
    /// From when on it may be used.
    pub(super) from: Instant,
    /// How long from then on.
    pub(super) usable: Duration,
}

/// The last reservations, between which no other gateway had one: their slots can go back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reservation {
    /// The tat after them, in the server's time.
    pub(super) tat: i64,
    /// The time between two of their slots.
    pub(super) step: i64,
    /// How many slots they gave.
    pub(super) count: usize,
}

impl Reservation {
    /// Adds the next one, or begins anew with it.
    pub(super) fn then(self, next: Self) -> Self {
        let begins = next.tat - next.step * next.count as i64;
        let is_next = begins == self.tat && next.step == self.step;
        let before = if is_next { self.count } else { 0 };
        Self {
            count: before + next.count,
            ..next
        }
    }

    /// The last slots go back. Returns by how much that moves the tat.
    pub(super) fn give_back(&mut self, slots: usize) -> i64 {
        let back = slots as i64 * self.step;
        self.tat -= back;
        self.count -= slots;
        back
    }
}

impl Slot {
    /// A slot that becomes known now.
    pub(super) fn new(due: Instant, now: Instant, usable: Duration) -> Self {
        let from = due.max(now);
        Self { due, from, usable }
    }

    pub(super) fn is_usable(&self, now: Instant) -> bool {
        now <= self.from + self.usable
    }

    /// Moves it with a pause.
    pub(super) fn shift(&mut self, micros: i64) {
        self.due = offset(self.due, micros);
        self.from = self.from.max(self.due);
    }
}
