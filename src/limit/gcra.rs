//! A token bucket without a queue: governor on tokio's clock.

use std::num::NonZeroU32;

use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use tokio::time::Instant;

use super::clock::TokioClock;
use crate::config::Quota;

/// A token bucket (GCRA).
#[derive(Debug)]
pub(super) struct Gcra {
    limiter: governor::RateLimiter<NotKeyed, InMemoryState, TokioClock, StateInformationMiddleware>,
    quota: Quota,
}

impl Gcra {
    /// Makes a full bucket.
    pub(super) fn new(quota: Quota, clock: TokioClock) -> Self {
        let rule = governor::Quota::with_period(quota.interval())
            .expect("an interval is never zero")
            .allow_burst(quota.burst);
        let limiter = governor::RateLimiter::direct_with_clock(rule, clock).with_middleware();
        Self { limiter, quota }
    }

    /// The same debt under another quota.
    pub(super) fn requoted(&self, quota: Quota, clock: TokioClock) -> Self {
        let other = Self::new(quota, clock);
        // Taking one tells what is left; this bucket is not used again.
        let left = self
            .limiter
            .check()
            .map_or(0, |taken| taken.remaining_burst_capacity() + 1);
        let owed = self
            .quota
            .burst
            .get()
            .saturating_sub(left)
            .min(quota.burst.get());
        if let Some(owed) = NonZeroU32::new(owed) {
            // Fits: no more than the burst of a bucket just made.
            drop(other.limiter.check_n(owed));
        }
        other
    }

    /// Takes a token and tells how many are left, or when the next is due.
    pub(super) fn take(&self, now: Instant) -> Result<u32, Instant> {
        match self.limiter.check() {
            Ok(taken) => Ok(taken.remaining_burst_capacity()),
            Err(refused) => {
                let clock = self.limiter.clock();
                Err(now + refused.wait_time_from(governor::clock::Clock::now(clock)))
            }
        }
    }

    /// The quota in force.
    pub(super) fn quota(&self) -> Quota {
        self.quota
    }
}
