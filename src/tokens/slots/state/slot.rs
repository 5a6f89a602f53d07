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

/// The last reservation, whose slots can go back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reservation {
    /// The tat after it, in the server's time.
    pub(super) tat: i64,
    /// The time between two of its slots.
    pub(super) step: i64,
    /// How many slots it gave.
    pub(super) count: usize,
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
