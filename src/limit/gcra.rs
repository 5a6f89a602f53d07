//! A token bucket without a queue: governor, told what time it is.
//!
//! Nothing here reads a clock, so that a bucket can be driven in the time of a
//! log as well as in tokio's. Invariants: a token that [`Gcra::due`] says is
//! there can be taken; one moment and the quota are all that is kept, as there
//! are as many buckets as instances.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use tokio::time::Instant;

use crate::config::Quota;

/// A token bucket (GCRA), or one that never runs out.
#[derive(Debug)]
pub(super) struct Gcra {
    /// When every token will be back: the theoretical arrival time. Without a
    /// quota, when a token was last taken.
    full: Instant,
    /// `None`: unlimited.
    quota: Option<Quota>,
}

/// governor's limiter, for one decision.
type Decision = governor::RateLimiter<NotKeyed, Arrival, Told, StateInformationMiddleware>;

/// The clock that governor reads: nanoseconds since the limiter's start.
#[derive(Debug)]
struct Told(AtomicU64);

/// The theoretical arrival time on governor's clock; an atomic only because
/// governor asks for it.
#[derive(Debug)]
struct Arrival(AtomicU64);

/// The present moment on governor's clock: longer ago than any bucket takes to
/// fill up (a day for each of 100,000 tokens, `config::Quota`), and no more than
/// half of what 64 bits hold.
const NOW: u64 = 1 << 63;

// === impl Gcra ===

impl Gcra {
    /// Makes a full bucket.
    pub(super) fn new(quota: Option<Quota>, now: Instant) -> Self {
        Self { full: now, quota }
    }

    /// Puts another quota in force, or none; what is owed stays owed, but for
    /// what is more than the new bucket holds.
    pub(super) fn requote(&mut self, quota: Option<Quota>, now: Instant) {
        if self.quota == quota {
            return;
        }
        let owed = self.owed(now);
        let still = quota.map(|quota| quota.interval() * owed.min(quota.burst.get()));
        self.full = now + still.unwrap_or_default();
        self.quota = quota;
    }

    /// When a call has its token that comes at this moment behind so many
    /// others: at once, or later.
    pub(super) fn due(&self, from: Instant, before: u32) -> Instant {
        let Some(quota) = self.quota else { return from };
        let interval = quota.interval();
        let spared = interval * (quota.burst.get() - 1);
        let full = self.full.max(from) + interval.saturating_mul(before);
        full.checked_sub(spared).map_or(from, |due| due.max(from))
    }

    /// Takes a token and tells how many are left (`None`: unlimited), or when
    /// the next is due.
    pub(super) fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        let Some(quota) = self.quota else {
            self.full = now;
            return Ok(None);
        };
        let rule = governor::Quota::with_period(quota.interval())
            .expect("an interval is never zero")
            .allow_burst(quota.burst);
        let missing = nanos(self.full.saturating_duration_since(now));
        let arrival = Arrival(AtomicU64::new(NOW + missing));
        // Made anew each time (it is a few multiplications): kept, it would
        // take more memory than all else that is known of an instance.
        let limiter = Decision::new(rule, arrival, Told(AtomicU64::new(0)));
        limiter.clock().0.store(NOW, Ordering::Relaxed);
        let Ok(taken) = limiter.check() else {
            return Err(self.due(now, 0));
        };
        let arrival = limiter.into_state_store().0.into_inner();
        self.full = now + Duration::from_nanos(arrival - NOW);
        Ok(Some(taken.remaining_burst_capacity()))
    }

    /// Tokens at hand, with the part of one that is on its way back; `None`
    /// where they are unlimited.
    pub(super) fn tokens(&self, now: Instant) -> Option<f64> {
        let quota = self.quota?;
        let missing = self.full.saturating_duration_since(now).as_secs_f64();
        let burst = f64::from(quota.burst.get());
        Some((burst - missing / quota.interval().as_secs_f64()).max(0.0))
    }

    /// Calls that have a token by then at most.
    pub(super) fn within(&self, now: Instant, then: Instant) -> u128 {
        let (Some(quota), Some(tokens)) = (self.quota, self.tokens(now)) else {
            return u128::MAX;
        };
        let time = then.saturating_duration_since(now).as_secs_f64();
        (tokens + time / quota.interval().as_secs_f64()).ceil() as u128
    }

    /// The quota in force; `None`: unlimited.
    pub(super) fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Whether every token is back.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full <= now
    }

    /// Tokens missing from a full bucket; one on its way back counts.
    fn owed(&self, now: Instant) -> u32 {
        let Some(quota) = self.quota else { return 0 };
        let missing = self.full.saturating_duration_since(now).as_nanos();
        let owed = missing.div_ceil(quota.interval().as_nanos());
        u32::try_from(owed).unwrap_or(u32::MAX)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NOW)
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
        let before = Nanos::new(self.0.load(Ordering::Relaxed));
        let (taken, after) = decide(Some(before))?;
        self.0.store(after.as_u64(), Ordering::Relaxed);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn quota(rate: f64, burst: u32) -> Quota {
        Quota::new(rate, NonZeroU32::new(burst).unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_there_from_the_moment_foretold_and_not_before() {
        for (rate, burst) in [(3.0, 1), (3.0, 4), (0.05, 2), (999.0, 20)] {
            let mut gcra = Gcra::new(Some(quota(rate, burst)), Instant::now());
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
        let now = Instant::now;
        let mut budget = Gcra::new(Some(quota(1.0, 5)), now());
        let take = |budget: &mut Gcra| std::iter::from_fn(|| budget.take(now()).ok()).count();
        budget.take(now()).unwrap();
        budget.take(now()).unwrap();
        tokio::time::advance(Duration::from_millis(500)).await;
        budget.requote(Some(quota(2.0, 8)), now());
        assert_eq!(take(&mut budget), 6, "two are owed, one of them half back");
        budget.requote(Some(quota(2.0, 3)), now());
        assert_eq!(take(&mut budget), 0, "more is owed than the burst");
        budget.requote(None, now());
        assert_eq!(budget.take(now()), Ok(None));
        budget.requote(Some(quota(2.0, 3)), now());
        assert_eq!(take(&mut budget), 3, "what was unlimited is not owed");
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_bucket_that_settings_allow_is_counted_to_its_end() {
        let now = Instant::now();
        let mut gcra = Gcra::new(Some(quota(0.0001, 100_000)), now);
        for left in (0..100_000).rev() {
            assert_eq!(gcra.take(now), Ok(Some(left)));
        }
        let due = now + quota(0.0001, 1).interval();
        assert_eq!(gcra.take(now), Err(due));
        assert_eq!(gcra.take(due), Ok(Some(0)));
    }
}
