//! Who waits for which moment.
//!
//! Invariant: as many entries as wait, in the order of their deadlines, and of
//! their coming where these are equal.

use std::collections::BTreeMap;
use std::task::Waker;

use tokio::time::Instant;

/// Where somebody stands: the deadline, and a number of one's own.
pub(super) type Place = (Instant, u64);

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Place, Waker>,
    /// Places given so far.
    given: u64,
}

impl Queue {
    /// A place for another one who waits for this moment.
    pub(super) fn place(&mut self, deadline: Instant) -> Place {
        self.given += 1;
        (deadline, self.given)
    }

    /// Has whoever has this place woken by `waker`; says whether the first
    /// deadline is a sooner one now.
    pub(super) fn put(&mut self, place: Place, waker: Waker) -> bool {
        let first = self.first();
        self.waiting.insert(place, waker);
        first.is_none_or(|first| place.0 < first)
    }

    /// Whoever had this place waits no longer.
    pub(super) fn leave(&mut self, place: Place) {
        self.waiting.remove(&place);
    }

    /// The first deadline.
    pub(super) fn first(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(place, _)| place.0)
    }

    /// Takes out the next of those whose moment has come, `now` included.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Waker> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Takes all of them out.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }
}
