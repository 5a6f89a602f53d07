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

    /// Makes a bucket that lacks this many tokens, or all of them.
    pub(super) fn owing(quota: Quota, owed: u32, clock: TokioClock) -> Self {
        let gcra = Self::new(quota, clock);
        if let Some(owed) = NonZeroU32::new(owed.min(quota.burst.get())) {
            // Fits: no more than the burst of a bucket just made.
            drop(gcra.limiter.check_n(owed));
        }
        gcra
    }

    /// Tokens missing from a full bucket. Takes one to learn it: for a bucket
    /// that is about to be replaced.
    pub(super) fn owed(&self) -> u32 {
        let left = self
            .limiter
            .check()
            .map_or(0, |taken| taken.remaining_burst_capacity() + 1);
        self.quota.burst.get().saturating_sub(left)
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
