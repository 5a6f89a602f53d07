//! The clock governor reads: tokio's, so that simulated time moves the buckets too.
//!
//! governor's own clock reads the operating system and would ignore a paused
//! runtime. Invariant: every bucket of one limiter counts from the same start.

use std::time::Duration;

use tokio::time::Instant;

/// Time since the limiter was made, as tokio tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokioClock {
    start: Instant,
}

impl TokioClock {
    /// Starts a clock at the present moment.
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl governor::clock::Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }
}
