//! How late the machine wakes: what a timer is set earlier by.
//!
//! A core that has slept for the length of a window takes 50 to 100 µs to wake
//! where it is a virtual one, and whoever waits is late by that each time
//! (`cargo bench --bench compare -- lone`). Invariant: what is taken off a wait
//! is little more than the least that wakes were late by of late, and never
//! more than [`MOST`]: being early costs another wake.

use std::time::Duration;

/// What a wake may be late by because a core slept: beyond that a worker was
/// busy, which it need not be the next time.
const MOST: Duration = Duration::from_micros(200);
/// One part in so many of what a wake was later than expected is believed.
const SLOWLY: u32 = 8;

/// What a wake is late by at least, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Lateness(Duration);

impl Lateness {
    /// Learns from a timer that was noticed this long after it was to fire.
    pub(super) fn observe(&mut self, late: Duration) {
        let late = late.min(MOST);
        self.0 = match late.checked_sub(self.0) {
            Some(more) => self.0 + more / SLOWLY,
            None => late,
        };
    }

    /// How long a timer is to be set for, so that it is noticed after `wait`;
    /// none if that is so short that no core falls asleep meanwhile, as what is
    /// left after a wake that was early.
    pub(super) fn ahead_of(&self, wait: Duration) -> Option<Duration> {
        (wait > MOST).then(|| wait - self.0)
    }
}
