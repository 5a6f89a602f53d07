//! A token bucket without a queue: governor, told what time it is.
//!
//! Nothing here reads a clock, so that a bucket can be driven in the time of a
//! log as well as in tokio's. Invariant: a token that [`Gcra::due`] says is there can be taken. There is
//! one theoretical arrival time, governor's, kept where it can be read without
//! taking anything.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use tokio::time::Instant;

use super::clock::TokioClock;
use crate::config::Quota;

/// A token bucket (GCRA).
#[derive(Debug)]
pub(super) struct Gcra {
    limiter: governor::RateLimiter<NotKeyed, Arrival, Told, StateInformationMiddleware>,
    arrival: Arrival,
    /// The moment from which governor counts.
    began: Instant,
    quota: Quota,
    clock: TokioClock,
}

/// The clock that governor reads: nanoseconds since the limiter's start.
#[derive(Debug)]
struct Told(AtomicU64);

/// The theoretical arrival time: when every token will be back. governor's own
/// store keeps it to itself. In nanoseconds, zero until a token is taken; an
/// atomic only because governor asks for it, behind the lock of its owner.
#[derive(Clone, Debug, Default)]
struct Arrival(Arc<AtomicU64>);

// === impl Gcra ===

impl Gcra {
    /// Makes a full bucket.
    pub(super) fn new(quota: Quota, clock: TokioClock, now: Instant) -> Self {
        let rule = governor::Quota::with_period(quota.interval())
            .expect("an interval is never zero")
            .allow_burst(quota.burst);
        let arrival = Arrival::default();
        let told = Told(AtomicU64::new(clock.nanos(now)));
        let limiter = governor::RateLimiter::new(rule, arrival.clone(), told);
        Self {
            limiter,
            arrival,
            began: now,
            quota,
            clock,
        }
    }

    /// Puts another quota in force, or none; what is owed stays owed.
    pub(super) fn requote(budget: &mut Option<Self>, quota: Option<Quota>, clock: TokioClock) {
        if budget.as_ref().map(Self::quota) == quota {
            return;
        }
        let now = Instant::now();
        let owed = budget.as_ref().and_then(|old| old.owed(now));
        *budget = quota.map(|quota| {
            let gcra = Self::new(quota, clock, now);
            if let Some(owed) = owed {
                // Fits: no more than the burst of a bucket just made.
                drop(gcra.limiter.check_n(owed.min(quota.burst)));
            }
            gcra
        });
    }

    /// When a call has its token that comes at this moment behind so many
    /// others: at once, or later.
    pub(super) fn due(&self, from: Instant, before: u32) -> Instant {
        let spared = self.quota.interval() * (self.quota.burst.get() - 1);
        let full = self.full().max(from) + self.quota.interval().saturating_mul(before);
        full.checked_sub(spared).map_or(from, |due| due.max(from))
    }

    /// Takes a token and tells how many are left, or when the next is due.
    pub(super) fn take(&self, now: Instant) -> Result<u32, Instant> {
        let told = self.limiter.clock();
        told.0.store(self.clock.nanos(now), Ordering::Relaxed);
        match self.limiter.check() {
            Ok(taken) => Ok(taken.remaining_burst_capacity()),
            Err(_) => Err(self.due(now, 0)),
        }
    }

    /// Tokens at hand, with the part of one that is on its way back.
    pub(super) fn tokens(&self, now: Instant) -> f64 {
        let missing = self.full().saturating_duration_since(now).as_secs_f64();
        let burst = f64::from(self.quota.burst.get());
        (burst - missing / self.quota.interval().as_secs_f64()).max(0.0)
    }

    /// The quota in force.
    pub(super) fn quota(&self) -> Quota {
        self.quota
    }

    /// Tokens missing from a full bucket, if any; one on its way back counts.
    fn owed(&self, now: Instant) -> Option<NonZeroU32> {
        let missing = self.full().saturating_duration_since(now).as_nanos();
        let owed = missing.div_ceil(self.quota.interval().as_nanos());
        NonZeroU32::new(u32::try_from(owed).unwrap_or(u32::MAX))
    }

    fn full(&self) -> Instant {
        self.began + Duration::from_nanos(self.arrival.0.load(Ordering::Relaxed))
    }
}

// === impl Told, Arrival ===

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

impl StateStore for Arrival {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let before = NonZeroU64::new(self.0.load(Ordering::Relaxed));
        let (taken, after) = decide(before.map(|nanos| Nanos::new(nanos.get())))?;
        self.0.store(after.as_u64(), Ordering::Relaxed);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(rate: f64, burst: u32) -> Quota {
        Quota::new(rate, NonZeroU32::new(burst).unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_there_from_the_moment_foretold_and_not_before() {
        for (rate, burst) in [(3.0, 1), (3.0, 4), (0.05, 2), (999.0, 20)] {
            let gcra = Gcra::new(quota(rate, burst), TokioClock::new(), Instant::now());
            for taken in 0..3 * burst {
                let now = Instant::now();
                let due = gcra.due(now, 0);
                assert_eq!(due == now, taken < burst, "{taken} of {burst} at {rate}/s");
                if due > now {
                    tokio::time::advance(due - now - Duration::from_nanos(1)).await;
                    assert_eq!(gcra.take(Instant::now()), Err(due));
                    tokio::time::advance(Duration::from_nanos(1)).await;
                }
                let foretold = gcra.due(due, 1);
                gcra.take(due).unwrap();
                assert_eq!(gcra.due(due, 0), foretold);
            }
            // A long rest brings back the burst, and no more.
            tokio::time::advance(Duration::from_secs(86_400)).await;
            let now = Instant::now();
            assert_eq!(gcra.due(now, burst - 1), now);
            assert_eq!(gcra.due(now, burst), now + quota(rate, burst).interval());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_quota_keeps_what_is_owed() {
        let clock = TokioClock::new();
        let mut budget = Some(Gcra::new(quota(1.0, 5), clock, Instant::now()));
        let take = |budget: &Option<Gcra>| {
            let gcra = budget.as_ref().unwrap();
            std::iter::from_fn(|| gcra.take(Instant::now()).ok()).count()
        };
        budget.as_ref().unwrap().take(Instant::now()).unwrap();
        budget.as_ref().unwrap().take(Instant::now()).unwrap();
        tokio::time::advance(Duration::from_millis(500)).await;
        Gcra::requote(&mut budget, Some(quota(2.0, 8)), clock);
        assert_eq!(take(&budget), 6, "two are owed, one of them half back");
        Gcra::requote(&mut budget, Some(quota(2.0, 3)), clock);
        assert_eq!(take(&budget), 0, "more is owed than the burst");
        Gcra::requote(&mut budget, None, clock);
        assert!(budget.is_none());
    }
}
