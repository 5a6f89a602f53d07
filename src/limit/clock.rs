//! Where the buckets' time begins.
//!
//! governor's own clock reads the operating system and would ignore a paused
//! runtime. Invariant: every bucket of one limiter counts from the same start.

use tokio::time::Instant;

/// The moment from which a limiter's time is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokioClock {
    start: Instant,
}

impl TokioClock {
    /// Starts at the present moment.
    pub(super) fn new() -> Self {
        Self::from(Instant::now())
    }

    /// Starts at this moment.
    pub(super) fn from(start: Instant) -> Self {
        Self { start }
    }

    /// Nanoseconds since the start; 64 bits hold 584 years of them.
    pub(super) fn nanos(self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}
