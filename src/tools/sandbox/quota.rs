//! Requests per second and instance, as the upstream counts them.
//!
//! Owns one GCRA state per instance in tokio's time. It refuses and never waits.
//! Invariant: an instance whose burst is full again is removed, so that the table stays small.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Checks between two clean-ups: rare enough to cost nothing per request, frequent enough to keep the table small.
const SWEEP_EVERY: u64 = 4_096;

/// The longest period between two requests.
const SLOWEST: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The quotas of all instances.
pub(super) struct Quotas {
    limiter: RateLimiter<String, HashMapStateStore<String>, TokioClock, NoOpMiddleware<Nanos>>,
    checks: AtomicU64,
}

/// Tokio's time for governor, whose own clock does not stop when a test pauses time.
#[derive(Clone, Debug)]
struct TokioClock {
    start: Instant,
}

impl Quotas {
    /// Makes quotas of `rate` requests per second; `None` if the rate limits nothing (0, or not a number).
    ///
    /// A burst of 0 becomes 1, since nothing could ever pass.
    pub(super) fn new(rate: f64, burst: u32, start: Instant) -> Option<Self> {
        if !rate.is_finite() || rate <= 0.0 {
            return None;
        }
        // The reciprocal of a tiny rate exceeds what `Duration` can hold.
        let period = Duration::try_from_secs_f64(rate.recip()).unwrap_or(SLOWEST);
        let period = period.clamp(Duration::from_nanos(1), SLOWEST);
        // governor counts nanoseconds in 64 bits; a burst beyond that would wrap around.
        let largest = u64::MAX / 4 / u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let burst = burst.min(u32::try_from(largest).unwrap_or(u32::MAX));
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period)?.allow_burst(burst);
        Some(Self {
            limiter: RateLimiter::hashmap_with_clock(quota, TokioClock { start }),
            checks: AtomicU64::new(0),
        })
    }

    /// Whether the instance may make a request now; if so, it is counted.
    pub(super) fn admits(&self, instance: &str) -> bool {
        // A client can invent instance ids without end, so full buckets are dropped from time to
        // time.
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&instance.to_owned()).is_ok()
    }
}

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.start.elapsed().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_instance_has_a_burst_and_then_its_rate() {
        let quotas = Quotas::new(2.0, 3, Instant::now()).unwrap();
        let admitted = |instance| (0..10).filter(|_| quotas.admits(instance)).count();
        assert_eq!(admitted("a"), 3);
        assert_eq!(
            admitted("b"),
            3,
            "one instance must not use another's quota"
        );
        tokio::time::advance(Duration::from_millis(499)).await;
        assert_eq!(admitted("a"), 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(admitted("a"), 1);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(admitted("a"), 3, "an idle hour fills the burst and no more");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_instances_are_removed() {
        let quotas = Quotas::new(10.0, 1, Instant::now()).unwrap();
        for n in 0..3 * SWEEP_EVERY {
            tokio::time::advance(Duration::from_millis(1)).await;
            quotas.admits(&format!("made-up-{n}"));
        }
        assert!(
            quotas.limiter.len() <= SWEEP_EVERY as usize + 101,
            "{}",
            quotas.limiter.len()
        );
    }

    #[test]
    fn odd_rates_neither_panic_nor_limit() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Quotas::new(rate, 5, Instant::now()).is_none(), "{rate}");
        }
        for rate in [f64::MIN_POSITIVE, 1e-9, 0.05, 1e12, f64::MAX] {
            for burst in [0, 1, u32::MAX] {
                let quotas = Quotas::new(rate, burst, Instant::now()).unwrap();
                assert!(quotas.admits("a"), "{rate} {burst}");
            }
        }
    }
}
