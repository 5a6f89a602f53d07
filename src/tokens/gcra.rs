//! A token bucket without a queue (the generic cell rate algorithm), and a count
//! of what was used lately.
//!
//! Nothing here reads a clock, so that a bucket can be driven in the time of a
//! log as well as in tokio's. Invariants: a token that [`Gcra::due`] promises
//! can be taken at that time; the theoretical arrival time and the quota are
//! all that is kept, because there are as many buckets as instances.
//!
//! The formula is written out here: `governor` keeps its state in an atomic and
//! cannot say when the n-th token will be due, and the forecasts need that.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Quota;

/// A token bucket (GCRA), or one that never runs out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gcra {
    /// When every token will be back: the theoretical arrival time. Without a
    /// quota, when a token was last taken.
    full: Instant,
    /// `None`: unlimited.
    quota: Option<Quota>,
}

impl Gcra {
    /// Makes a full bucket.
    pub(crate) fn new(quota: Option<Quota>, now: Instant) -> Self {
        Self { full: now, quota }
    }

    /// Sets another quota, or none. Debt is kept, except for what is more than
    /// the new bucket holds.
    pub(crate) fn set_quota(&mut self, quota: Option<Quota>, now: Instant) {
        if self.quota == quota {
            return;
        }
        // Debt is kept in tokens: the same length of time is another number at another rate.
        let debt = self.debt(now);
        let still = quota.map(|quota| quota.interval() * debt.min(quota.burst.get()));
        self.full = now + still.unwrap_or_default();
        self.quota = quota;
    }

    /// When the token after `before` others is there, for a request that
    /// arrives at `from`: at that time, or later.
    pub(crate) fn due(&self, from: Instant, before: u32) -> Instant {
        let Some(quota) = self.quota else { return from };
        let interval = quota.interval();
        let spare = interval * (quota.burst.get() - 1);
        let full = self.full.max(from) + interval.saturating_mul(before);
        // A time before the clock began has passed.
        full.checked_sub(spare).map_or(from, |due| due.max(from))
    }

    /// Takes a token and returns how many are left (`None`: unlimited).
    ///
    /// # Errors
    /// No token is there; the error is the time of the next one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<Option<u32>, Instant> {
        let Some(quota) = self.quota else {
            // Shows when the bucket was last used, for accounts that are remembered for a while.
            self.full = now;
            return Ok(None);
        };
        let interval = quota.interval();
        let burst = quota.burst.get();
        let missing = self.full.saturating_duration_since(now);
        // Less than one whole token is there.
        if missing > interval * (burst - 1) {
            return Err(self.due(now, 0));
        }
        let missing = missing + interval;
        self.full = now + missing;
        // A token that is only partly back cannot be used.
        let taken = nanos(missing).div_ceil(nanos(interval));
        let taken = u32::try_from(taken).unwrap_or(burst);
        Ok(Some(burst.saturating_sub(taken)))
    }

    /// Empties the bucket, so that the next token is due at `next`.
    pub(crate) fn empty_until(&mut self, next: Instant) {
        // What `due` subtracts, so that the next token is due exactly at `next`.
        let spare = |quota: Quota| quota.interval() * (quota.burst.get() - 1);
        self.full = next + self.quota.map(spare).unwrap_or_default();
    }

    /// Tokens in the bucket, with the fraction that has come back; `None` where
    /// they are unlimited.
    pub(crate) fn tokens(&self, now: Instant) -> Option<f64> {
        let quota = self.quota?;
        let missing = self.full.saturating_duration_since(now).as_secs_f64();
        let burst = f64::from(quota.burst.get());
        Some((burst - missing / quota.interval().as_secs_f64()).max(0.0))
    }

    /// The present quota; `None`: unlimited.
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// When every token will be back.
    pub(crate) fn full(&self) -> Instant {
        self.full
    }

    /// Whether every token is back.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full <= now
    }

    /// Tokens missing from a full bucket; one that is coming back counts.
    fn debt(&self, now: Instant) -> u32 {
        let Some(quota) = self.quota else { return 0 };
        let missing = self.full.saturating_duration_since(now);
        let debt = nanos(missing).div_ceil(nanos(quota.interval()));
        u32::try_from(debt).unwrap_or(u32::MAX)
    }
}

/// A full bucket's time fits in 64 bits of nanoseconds (see [`Quota`]).
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The calls of the present and the previous period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    since: Instant,
    current: u32,
    previous: u32,
}

impl Usage {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            current: 0,
            previous: 0,
        }
    }

    pub(crate) fn record(&mut self, now: Instant, period: Duration) {
        let (current, previous) = self.at(now, period);
        if now.saturating_duration_since(self.since) >= period {
            self.since = now;
        }
        (self.current, self.previous) = (current + 1, previous);
    }

    /// Calls of the present and of the previous period.
    fn at(&self, now: Instant, period: Duration) -> (u32, u32) {
        let age = now.saturating_duration_since(self.since);
        if age < period {
            (self.current, self.previous)
        } else if age < period * 2 {
            (0, self.current)
        } else {
            (0, 0)
        }
    }

    /// Calls in the last period, by a two-counter sliding window: exact if
    /// arrivals are even.
    pub(crate) fn recent(&self, now: Instant, period: Duration) -> u32 {
        let (current, previous) = self.at(now, period);
        let age = now.saturating_duration_since(self.since);
        // Counters move only with the next call, so the present period may have ended.
        let age = if age < period {
            age
        } else {
            age.saturating_sub(period)
        };
        let left = 1.0 - (age.as_secs_f64() / period.as_secs_f64()).min(1.0);
        current + (f64::from(previous) * left).ceil() as u32
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
    async fn tokens_are_there_from_the_promised_time_and_not_before() {
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
                let promised = gcra.due(due, 1);
                gcra.take(due).unwrap();
                assert_eq!(gcra.due(due, 0), promised);
            }
            // A long rest brings back the burst, and no more.
            tokio::time::advance(Duration::from_secs(86_400)).await;
            let now = Instant::now();
            assert_eq!(gcra.due(now, burst - 1), now);
            assert_eq!(gcra.due(now, burst), now + quota(rate, burst).interval());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_quota_keeps_the_debt() {
        let now = Instant::now;
        let mut budget = Gcra::new(Some(quota(1.0, 5)), now());
        let take = |budget: &mut Gcra| std::iter::from_fn(|| budget.take(now()).ok()).count();
        budget.take(now()).unwrap();
        budget.take(now()).unwrap();
        tokio::time::advance(Duration::from_millis(500)).await;
        budget.set_quota(Some(quota(2.0, 8)), now());
        assert_eq!(take(&mut budget), 6, "a debt of two, one of them half back");
        budget.set_quota(Some(quota(2.0, 3)), now());
        assert_eq!(take(&mut budget), 0, "the debt is more than the burst");
        budget.set_quota(None, now());
        assert_eq!(budget.take(now()), Ok(None));
        budget.set_quota(Some(quota(2.0, 3)), now());
        assert_eq!(take(&mut budget), 3, "unlimited calls leave no debt");
    }

    #[tokio::test(start_paused = true)]
    async fn usage_counts_even_calls_exactly_and_forgets_them_within_two_periods() {
        const PERIOD: Duration = Duration::from_secs(1);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut usage = Usage::new(start);
        for ms in (0..5000).step_by(100) {
            usage.record(at(ms), PERIOD);
            for ms in [ms, ms + 50, ms + 99] {
                let exact = (ms / 100 + 1).min(10) as u32;
                let recent = usage.recent(at(ms), PERIOD);
                // What is left of the previous period is rounded up.
                assert!((exact..=exact + 2).contains(&recent), "{recent} at {ms} ms");
            }
        }
        let burst = || {
            let mut usage = Usage::new(start);
            (0..10).for_each(|_| usage.record(start, PERIOD));
            usage
        };
        // The period that has passed counts by the part that is less than a period ago.
        for (ms, left) in [
            (999, 10),
            (1000, 10),
            (1500, 5),
            (1999, 1),
            (2000, 0),
            (9000, 0),
        ] {
            assert_eq!(burst().recent(at(ms), PERIOD), left, "{ms} ms");
        }
        for (again, left) in [(999, 11), (1000, 6), (1500, 11), (2000, 1), (9000, 1)] {
            let mut usage = burst();
            usage.record(at(again), PERIOD);
            let later = at(if again == 1000 { 1500 } else { again });
            assert_eq!(usage.recent(later, PERIOD), left, "again after {again} ms");
        }
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
