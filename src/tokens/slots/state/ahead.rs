//! Slots that are reserved before a request needs them (rule: cluster).
//!
//! An instance with many requests per second would otherwise cost the server one operation for
//! each, and each request a round trip.
//!
//! Invariants: only tokens that are there now are reserved ahead, and none of them is kept longer than
//! [`USABLE_AHEAD`]. So they are no more than the rate brings back in [`PERIOD`], and a request of
//! another gateway waits no longer for one of them than that.

use std::time::Duration;

use tokio::time::Instant;

use super::State;
use crate::config::Quota;
use crate::tokens::gcra::Usage;

/// As many slots are reserved ahead as requests came in this time.
const PERIOD: Duration = Duration::from_millis(10);

/// How long a slot that was reserved ahead may be used. Longer than [`PERIOD`], because
/// requests do not come evenly.
pub(super) const USABLE_AHEAD: Duration = Duration::from_millis(20);

/// Fewer slots are not worth an operation. A bucket of 400 tokens per second has them.
const FEWEST: usize = 4;

/// What decides how many slots are reserved ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    usage: Usage,
    /// The bucket had too few tokens: none ahead before this time.
    not_before: Instant,
}

impl Ahead {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            usage: Usage::new(now),
            not_before: now,
        }
    }

    pub(super) fn on_used(&mut self, now: Instant) {
        self.usage.record(now, PERIOD);
    }

    /// The server has granted fewer slots than were asked for.
    pub(super) fn on_scarce(&mut self, now: Instant) {
        self.not_before = now + PERIOD;
    }

    /// How many slots requests are expected to need soon.
    fn expected(&self, quota: Option<Quota>, now: Instant) -> usize {
        let Some(quota) = quota.filter(|_| self.not_before <= now) else {
            return 0;
        };
        // What the rate brings back meanwhile: other gateways lose no more than that.
        let back = PERIOD.as_nanos() / quota.interval().as_nanos();
        let back = usize::try_from(back).unwrap_or(usize::MAX);
        let expected = (self.usage.recent(now, PERIOD) as usize).min(back);
        if expected < FEWEST { 0 } else { expected }
    }
}

impl State {
    /// How many slots to have beyond those for which requests wait. None where a slot may turn out
    /// to be of no use: calls in flight or the egress may be bounded, or the bucket may be paused.
    pub(super) fn wanted_ahead(&self, now: Instant) -> usize {
        let is_held = self.pause.is_some() || self.egress.is_some() || self.is_bounded;
        if is_held {
            return 0;
        }
        self.ahead.expected(self.known.quota(), now)
    }

    /// How many of them to ask for. Not for each that was used, but for all when few are left.
    pub(super) fn missing_ahead(&self, wanted: usize) -> usize {
        let spare = (self.reserved.len()).saturating_sub(self.demand.deadlines.len());
        if spare > wanted / 4 {
            return 0;
        }
        wanted - spare
    }
}
