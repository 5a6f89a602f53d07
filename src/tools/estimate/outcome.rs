//! What a setting would have done with the requests of a log.
//!
//! Invariant: memory does not depend on the length of the log; of the minutes only the
//! worst are kept.

use std::time::Duration;

use super::waits::Waits;

/// Enough for a person to look into.
const WORST: usize = 10;

/// What a setting would have done.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Upstream calls saved by merging.
    pub(super) saved: u64,
    pub(super) refused: u64,
    pub(super) upstream: u64,
    pub(super) receipts: Waits,
    pub(super) others: Waits,
    pub(super) minutes: WorstMinutes,
}

/// One minute of a log under a setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Minute {
    /// Minutes since 1970.
    pub(super) number: u64,
    pub(super) requests: u64,
    pub(super) upstream: u64,
    pub(super) refused: u64,
    pub(super) longest_wait: Duration,
}

/// The worst minutes: those with most refusals, then those with the longest wait.
#[derive(Clone, Debug, Default)]
pub(super) struct WorstMinutes {
    current: Minute,
    /// The worst first.
    worst: Vec<Minute>,
}

impl Outcome {
    /// A request arrived. Times are in nanoseconds since 1970, and never go back.
    pub(super) fn record_arrival(&mut self, at: u64) {
        self.minutes.at(at).requests += 1;
    }

    /// Requests are refused.
    pub(super) fn record_refused(&mut self, count: u64, at: u64) {
        self.refused += count;
        self.minutes.at(at).refused += count;
    }

    /// A request that is no receipt is sent after this wait.
    pub(super) fn record_request(&mut self, wait: Duration, at: u64) {
        self.others.record(wait);
        self.record_call(wait, at);
    }

    /// A batch is sent; `waits` are those of its callers.
    pub(super) fn record_batch(&mut self, waits: &[Duration], at: u64) {
        self.saved += waits.len() as u64 - 1;
        waits.iter().for_each(|wait| self.receipts.record(*wait));
        self.record_call(waits.iter().copied().max().unwrap_or_default(), at);
    }

    fn record_call(&mut self, wait: Duration, at: u64) {
        self.upstream += 1;
        let minute = self.minutes.at(at);
        minute.upstream += 1;
        minute.longest_wait = minute.longest_wait.max(wait);
    }
}

impl WorstMinutes {
    /// The minute of this time.
    fn at(&mut self, nanos: u64) -> &mut Minute {
        let number = nanos / 60_000_000_000;
        if number != self.current.number {
            self.worst = self.all();
            self.current = Minute {
                number,
                ..Minute::default()
            };
        }
        &mut self.current
    }

    /// The worst minutes, the worst first.
    pub(super) fn all(&self) -> Vec<Minute> {
        let mut all = self.worst.clone();
        let rank = |minute: &Minute| (minute.refused, minute.longest_wait, minute.requests);
        if self.current.requests > 0 {
            let place = all.partition_point(|minute| rank(minute) >= rank(&self.current));
            all.insert(place, self.current);
        }
        all.truncate(WORST);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000_000;

    #[test]
    fn the_minutes_with_most_refusals_are_kept_then_those_with_the_longest_wait() {
        let mut outcome = Outcome::default();
        for minute in 1..100 {
            let at = minute * MINUTE + 5;
            outcome.record_arrival(at);
            outcome.record_request(Duration::from_millis(minute), at);
            if minute % 40 == 0 {
                outcome.record_refused(minute, at);
            }
        }
        let worst = outcome.minutes.all();
        let numbers: Vec<_> = worst.iter().map(|minute| minute.number).collect();
        assert_eq!(numbers, [80, 40, 99, 98, 97, 96, 95, 94, 93, 92]);
        assert_eq!((worst[0].refused, worst[0].requests), (80, 1));
        assert_eq!(worst[2].longest_wait, Duration::from_millis(99));
    }

    #[test]
    fn a_batch_saves_all_calls_but_one() {
        let mut outcome = Outcome::default();
        outcome.record_batch(&[Duration::from_millis(50), Duration::ZERO], MINUTE);
        assert_eq!((outcome.saved, outcome.upstream), (1, 1));
    }
}
