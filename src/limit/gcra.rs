//! A token bucket without a queue: governor, told what time it is.
//!
//! Invariant: nothing here reads a clock, so that a bucket can be driven in the
//! time of a log as well as in tokio's.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use tokio::time::Instant;

use super::clock::TokioClock;
use crate::config::Quota;

/// A token bucket (GCRA). Whoever holds it lets in one caller at a time.
#[derive(Debug)]
pub(super) struct Gcra {
    limiter: governor::RateLimiter<NotKeyed, InMemoryState, Told, StateInformationMiddleware>,
    quota: Quota,
    clock: TokioClock,
}

/// The clock that governor reads: nanoseconds since the limiter's start.
#[derive(Debug)]
struct Told(AtomicU64);

impl Gcra {
    /// Makes a full bucket.
    pub(super) fn new(quota: Quota, clock: TokioClock, now: Instant) -> Self {
        let rule = governor::Quota::with_period(quota.interval())
            .expect("an interval is never zero")
            .allow_burst(quota.burst);
        let told = Told(AtomicU64::new(clock.nanos(now)));
        let limiter = governor::RateLimiter::direct_with_clock(rule, told).with_middleware();
        Self {
            limiter,
            quota,
            clock,
        }
    }

    /// Makes a bucket that lacks this many tokens, or all of them.
    pub(super) fn owing(quota: Quota, owed: u32, clock: TokioClock, now: Instant) -> Self {
        let gcra = Self::new(quota, clock, now);
        if let Some(owed) = NonZeroU32::new(owed.min(quota.burst.get())) {
            // Fits: no more than the burst of a bucket just made.
            drop(gcra.limiter.check_n(owed));
        }
        gcra
    }

    /// Tokens missing from a full bucket. Takes one to learn it: for a bucket
    /// that is about to be replaced.
    pub(super) fn owed(&self, now: Instant) -> u32 {
        let left = self.take(now).map_or(0, |remaining| remaining + 1);
        self.quota.burst.get().saturating_sub(left)
    }

    /// Takes a token and tells how many are left, or when the next is due.
    pub(super) fn take(&self, now: Instant) -> Result<u32, Instant> {
        let told = self.limiter.clock();
        told.0.store(self.clock.nanos(now), Ordering::Relaxed);
        match self.limiter.check() {
            Ok(taken) => Ok(taken.remaining_burst_capacity()),
            Err(refused) => Err(now + refused.wait_time_from(governor::clock::Clock::now(told))),
        }
    }

    /// The quota in force.
    pub(super) fn quota(&self) -> Quota {
        self.quota
    }
}

impl governor::clock::Clock for Told {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Clone for Told {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}
