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
