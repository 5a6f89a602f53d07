//! The size of a token bucket, and the rate at which it fills.
//!
//! Invariant: a quota made by [`Quota::new`] fits the 64-bit nanoseconds in which buckets count.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

/// One token in about three hours. With a lower rate, the time to fill a bucket would not fit
/// 64-bit nanoseconds.
const MIN_RATE: f64 = 0.0001;
/// Far above the rate of any instance. One token per microsecond is exact in nanoseconds.
const MAX_RATE: f64 = 1e6;
/// Far above the burst of any instance. `MAX_BURST / MIN_RATE` is about 32 years, well within 64-bit
/// nanoseconds.
pub(super) const MAX_BURST: u32 = 100_000;

/// How many requests may pass at once, and at which rate more may follow.
///
/// `burst` requests pass immediately, then one more every [`interval`](Self::interval). Unlimited is
/// not a quota; it is `Option::None`.
///
/// ```
/// use std::{num::NonZeroU32, time::Duration};
/// use wawp_gateway::config::Quota;
///
/// let quota = Quota::new(0.05, NonZeroU32::MIN)?;
/// assert_eq!(quota.interval(), Duration::from_secs(20));
/// # Ok::<(), wawp_gateway::config::QuotaError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Quota {
    /// Bucket tokens per second; above zero and finite, may be a fraction.
    pub rate: f64,
    /// Bucket tokens in a full bucket.
    pub burst: NonZeroU32,
}

/// A quota outside its bounds; displays what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// The rate is not a number, or out of bounds.
    #[error("a number of requests per second: 0 (unlimited), or {MIN_RATE} to {MAX_RATE}")]
    Rate,
    /// The bucket is too large.
    #[error("a number of requests from 1 to {MAX_BURST}")]
    Burst,
}

impl Quota {
    /// Makes a quota of bucket tokens per second and bucket tokens at once.
    ///
    /// # Errors
    /// The rate is not within 0.0001 and 1000000, or the burst is above 100000.
    pub fn new(rate: f64, burst: NonZeroU32) -> Result<Self, QuotaError> {
        // Also refuses NaN, which is in no range.
        if !(MIN_RATE..=MAX_RATE).contains(&rate) {
            return Err(QuotaError::Rate);
        }
        if burst.get() > MAX_BURST {
            return Err(QuotaError::Burst);
        }
        Ok(Self { rate, burst })
    }

    /// Returns the part of one of so many gateways: at least a burst of one.
    pub fn part(&self, gateways: NonZeroU32) -> Self {
        let burst = NonZeroU32::new(self.burst.get() / gateways);
        Self {
            rate: self.rate / f64::from(gateways.get()),
            burst: burst.unwrap_or(NonZeroU32::MIN),
        }
    }

    /// Returns the time between two bucket tokens: at least a nanosecond, at most a day.
    pub fn interval(&self) -> Duration {
        const DAY_SECONDS: f64 = 86_400.0;
        // The fields are public, so they may be out of bounds.
        let seconds = (1.0 / self.rate).clamp(0.0, DAY_SECONDS);
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(Duration::from_secs(86_400))
            .max(Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests;
