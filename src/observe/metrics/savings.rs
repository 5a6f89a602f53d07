//! Upstream calls saved by merging, for one label.
//!
//! Invariant: the counter never decreases, and it ends up at the responses of all
//! batches minus their upstream calls.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntCounter;

/// The savings of one instance or tenant.
#[derive(Debug)]
pub(crate) struct Savings {
    saved: IntCounter,
    /// Upstream calls that retries and splits took beyond what their batches saved.
    /// Later savings pay for them first, because a counter must not decrease.
    overspent: AtomicU64,
}

impl Savings {
    pub(super) fn new(saved: IntCounter) -> Self {
        Self {
            saved,
            overspent: AtomicU64::new(0),
        }
    }

    /// Counts what a batch saved: callers that got a response of the upstream, minus
    /// its upstream calls.
    pub(crate) fn settle(&self, responses: u64, calls: u64) {
        // Several batches end at the same time. The closure may run more than once, and
        // `saved` keeps the value of the run that was stored.
        let mut saved = 0;
        let settle = |overspent: u64| {
            let spent = calls + overspent;
            saved = responses.saturating_sub(spent);
            Some(spent.saturating_sub(responses))
        };
        self.overspent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, settle)
            .expect("a value is always given");
        self.saved.inc_by(saved);
    }

    /// Upstream calls saved.
    pub(crate) fn get(&self) -> u64 {
        self.saved.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_savings_pay_for_calls_beyond_the_responses() {
        let savings = Savings::new(IntCounter::new("saved", "Saved.").unwrap());
        let mut after = Vec::new();
        for (responses, calls) in [(5, 1), (2, 6), (3, 1), (4, 1)] {
            savings.settle(responses, calls);
            after.push(savings.get());
        }
        assert_eq!(after, [4, 4, 4, 5]);
    }
}
