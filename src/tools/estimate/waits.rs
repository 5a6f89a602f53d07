//! Waiting times, counted so that percentiles need bounded memory.
//!
//! Invariant: a percentile is no more than 4 % above the true one.

use std::time::Duration;

/// Steps in which a wait doubles; one step is 2^(1/20), or 3.5 %.
const STEPS: f64 = 20.0;

/// A histogram of waiting times.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits {
    /// Indexed by the logarithm of the microseconds.
    counts: Vec<u64>,
    total: u64,
}

impl Waits {
    pub(super) fn record(&mut self, wait: Duration) {
        let micros = wait.as_secs_f64() * 1e6;
        let step = if micros < 1.0 {
            0
        } else {
            // At most 730 steps, because no wait is longer than a day.
            (micros.log2() * STEPS) as usize + 1
        };
        if self.counts.len() <= step {
            self.counts.resize(step + 1, 0);
        }
        self.counts[step] += 1;
        self.total += 1;
    }

    /// The nearest rank; `None` if nothing was recorded.
    pub(super) fn percentile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.total * percent).div_ceil(100).max(1);
        // `below` becomes the number of waits up to and including this step.
        let mut below = 0;
        let step = self.counts.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        let micros = match step {
            0 => 0.0,
            // The upper end of the step: a figure may be too high, never too low.
            step => (step as f64 / STEPS).exp2(),
        };
        Some(Duration::from_secs_f64(micros / 1e6))
    }
}
