//! A token bucket's size and speed.

use std::{num::NonZeroU32, time::Duration};

/// One call in about three hours: slower, and a full bucket's time no longer fits the 64-bit nanoseconds it is kept in.
const MIN_RATE: f64 = 0.0001;
/// Far beyond any instance.
const MAX_RATE: f64 = 1e6;
/// Far beyond any instance; `MAX_BURST / MIN_RATE` is about 32 years, well inside 64-bit nanoseconds.
pub(super) const MAX_BURST: u32 = 100_000;

/// How many calls may go at once, and how fast they come back.
///
/// `burst` calls may go at any moment, then one more every [`interval`](Self::interval). Unlimited is not a quota:
/// where it is allowed, it is `Option::None`.
///
/// ```
/// use std::{num::NonZeroU32, time::Duration};
/// use wawp_gateway::config::Quota;
///
/// let quota = Quota::new(0.05, NonZeroU32::MIN)?;
/// assert_eq!(quota.interval(), Duration::from_secs(20));
/// # Ok::<(), wawp_gateway::config::QuotaError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// Tokens per second; above zero and finite, may be a fraction.
    pub rate: f64,
    /// Tokens in a full bucket.
    pub burst: NonZeroU32,
}

/// A quota outside its bounds; displays what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// The rate is not a number, or out of bounds.
    #[error("a number of calls per second: 0 (unlimited), or {MIN_RATE} to {MAX_RATE}")]
    Rate,
    /// The bucket is too large.
    #[error("a number of calls from 1 to {MAX_BURST}")]
    Burst,
}

impl Quota {
    /// Makes a quota of tokens per second and tokens at once.
    ///
    /// # Errors
    /// When the rate is not within 0.0001 and 1000000, or the burst beyond 100000.
    pub fn new(rate: f64, burst: NonZeroU32) -> Result<Self, QuotaError> {
        if !(MIN_RATE..=MAX_RATE).contains(&rate) {
            return Err(QuotaError::Rate);
        }
        if burst.get() > MAX_BURST {
            return Err(QuotaError::Burst);
        }
        Ok(Self { rate, burst })
    }

    /// Returns the time in which one token comes back; at least a nanosecond, at most a day.
    pub fn interval(&self) -> Duration {
        const DAY_SECONDS: f64 = 86_400.0;
        // Bounded here as well, because the fields are open.
        let seconds = (1.0 / self.rate).clamp(0.0, DAY_SECONDS);
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(Duration::from_secs(86_400))
            .max(Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_quota() {
        for (rate, burst, made) in [
            (10.0, 20, Ok(())),
            (MIN_RATE, MAX_BURST, Ok(())),
            (MAX_RATE, 1, Ok(())),
            (0.0, 1, Err(QuotaError::Rate)),
            (-1.0, 1, Err(QuotaError::Rate)),
            (f64::NAN, 1, Err(QuotaError::Rate)),
            (f64::INFINITY, 1, Err(QuotaError::Rate)),
            (MIN_RATE / 2.0, 1, Err(QuotaError::Rate)),
            (MAX_RATE * 2.0, 1, Err(QuotaError::Rate)),
            (1.0, MAX_BURST + 1, Err(QuotaError::Burst)),
        ] {
            let burst = NonZeroU32::new(burst).unwrap();
            assert_eq!(Quota::new(rate, burst).map(|_| ()), made, "{rate} {burst}");
        }
    }

    #[test]
    fn an_interval_is_within_its_bounds_whatever_the_fields_say() {
        let (nano, day) = (Duration::from_nanos(1), Duration::from_secs(86_400));
        for (rate, interval) in [
            (10.0, Duration::from_millis(100)),
            (0.05, Duration::from_secs(20)),
            (MIN_RATE, Duration::from_secs(10_000)),
            (MAX_RATE, Duration::from_micros(1)),
            (1e300, nano),
            (f64::INFINITY, nano),
            (1e-300, day),
            (0.0, day),
            (f64::NAN, day),
        ] {
            assert_eq!(
                Quota {
                    rate,
                    burst: NonZeroU32::MIN
                }
                .interval(),
                interval,
                "{rate}"
            );
        }
    }

    #[test]
    fn a_full_bucket_fits_the_nanoseconds_it_is_kept_in() {
        let burst = NonZeroU32::new(MAX_BURST).unwrap();
        let full = Quota::new(MIN_RATE, burst).unwrap().interval() * MAX_BURST;
        assert!(full.as_nanos() < u128::from(u64::MAX / 2));
    }
}
