//! The last two minutes, kept by the gateway so that a reload of the page shows them.
//!
//! Invariants: memory is bounded by `metrics.max_instances`; requests do nothing for
//! it, because a task reads the counters every two seconds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::problems::{RELOAD_MINUTES, THROTTLED_COUNT, THROTTLED_MINUTES};
use crate::observe::metrics::{Codes, InstanceSeries, Metrics, Reason, Route, UpstreamFailure};

/// The time between two samples of the gateway.
pub(super) const STEP: Duration = Duration::from_secs(2);
/// 60 steps are two minutes.
pub(super) const STEPS: usize = 60;
/// Every so many samples one of each instance is kept, so that a thousand instances take
/// little memory.
const INSTANCE_EVERY: u64 = 5;
/// Twelve intervals of ten seconds.
const INSTANCE_SAMPLES: usize = STEPS / INSTANCE_EVERY as usize + 1;

/// The counters of the gateway at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    pub(super) at: Instant,
    pub(super) requests: u64,
    pub(super) upstream: u64,
    pub(super) receipts: u64,
    pub(super) receipt_calls: u64,
    /// Responses with a 5xx.
    pub(super) errors: u64,
    /// Upstream calls with a 5xx or without a complete response.
    pub(super) upstream_errors: u64,
}

/// The counters of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) rejected: u64,
    /// 401 and 404 of the API.
    pub(super) unlinked: u64,
    /// 5xx of the API, and no response.
    pub(super) failed: u64,
}

/// What an instance did lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Recent {
    pub(super) seconds: f64,
    pub(super) counts: Counts,
    /// It got so many 429 in so little time that the alert about them fires.
    pub(super) is_throttled: bool,
}

/// The samples of one instance.
#[derive(Debug, Default)]
struct InstanceHistory {
    samples: VecDeque<(Instant, Counts)>,
    throttled: u64,
    /// When the last 429 were counted, at most [`THROTTLED_COUNT`].
    throttled_at: VecDeque<Instant>,
}

#[derive(Debug, Default)]
struct Samples {
    taken: u64,
    totals: VecDeque<Totals>,
    instances: HashMap<Box<str>, InstanceHistory>,
    reload_failures: u64,
    reload_failed_at: Option<Instant>,
}

/// The last two minutes of the gateway.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Samples>);

impl Totals {
    pub(super) fn read(metrics: &Metrics, at: Instant) -> Self {
        let total = |of: &[Codes; 2], route| of[route as usize].total();
        let receipts = total(&metrics.requests, Route::ReceiptPath);
        let receipt_calls = total(&metrics.upstream, Route::ReceiptPath);
        let errors = metrics.requests.iter().map(|codes| codes.server_errors());
        let failed = metrics
            .upstream
            .iter()
            .map(|codes| codes.server_errors() + codes.error().get());
        Self {
            at,
            requests: receipts + total(&metrics.requests, Route::Other),
            upstream: receipt_calls + total(&metrics.upstream, Route::Other),
            receipts,
            receipt_calls,
            errors: errors.sum(),
            upstream_errors: failed.sum::<u64>() + metrics.upstream_broken_off.get(),
        }
    }
}

impl Counts {
    pub(super) fn read(series: &InstanceSeries) -> Self {
        let requests = |route| series.requests(route).get();
        let errors = |failure| series.errors(failure).get();
        Self {
            requests: requests(Route::ReceiptPath) + requests(Route::Other),
            rejected: Reason::ALL
                .map(|reason| series.rejected(reason).get())
                .iter()
                .sum(),
            unlinked: errors(UpstreamFailure::Unauthorized) + errors(UpstreamFailure::NotFound),
            failed: errors(UpstreamFailure::Server) + errors(UpstreamFailure::NoResponse),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            // Counters only grow, and `before` was read earlier.
            requests: self.requests - before.requests,
            rejected: self.rejected - before.rejected,
            unlinked: self.unlinked - before.unlinked,
            failed: self.failed - before.failed,
        }
    }
}

impl History {
    /// Takes samples until the process ends.
    pub(super) async fn record(self: Arc<Self>, gateway: crate::gateway::Gateway) {
        let mut ticks = tokio::time::interval(STEP);
        // After a stall one sample is enough.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sample(gateway.metrics(), Instant::now());
        }
    }

    fn sample(&self, metrics: &Metrics, now: Instant) {
        let named = metrics.named_instances();
        let mut samples = self.lock();
        samples.totals.push_back(Totals::read(metrics, now));
        if samples.totals.len() > STEPS + 1 {
            samples.totals.pop_front();
        }
        let failures = metrics.reload_failures.get();
        // The counter has no time: that of the sample is late by two seconds at most.
        if failures > samples.reload_failures {
            samples.reload_failures = failures;
            samples.reload_failed_at = Some(now);
        }
        if samples.taken.is_multiple_of(INSTANCE_EVERY) {
            for series in named {
                let of = samples.instances.entry(series.name.clone()).or_default();
                of.sample(&series, now);
            }
        }
        samples.taken += 1;
    }

    /// The samples of the gateway, oldest first.
    pub(super) fn totals(&self) -> Vec<Totals> {
        self.lock().totals.iter().copied().collect()
    }

    /// What an instance did in the last two minutes.
    pub(super) fn recent(&self, series: &InstanceSeries, now: Instant) -> Recent {
        let samples = self.lock();
        let counts = Counts::read(series);
        match samples.instances.get(&series.name) {
            Some(of) => of.recent(counts, now),
            // It appeared after the last sample, so all of its requests are recent.
            None => Recent {
                seconds: (STEP * INSTANCE_EVERY as u32).as_secs_f64(),
                counts,
                is_throttled: false,
            },
        }
    }

    /// Whether a reload failed so lately that the alert about it fires.
    pub(super) fn reload_failed(&self, now: Instant) -> bool {
        let failed_at = self.lock().reload_failed_at;
        failed_at.is_some_and(|at| now - at < minutes(RELOAD_MINUTES))
    }

    fn lock(&self) -> MutexGuard<'_, Samples> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InstanceHistory {
    fn sample(&mut self, series: &InstanceSeries, now: Instant) {
        if self.samples.is_empty() {
            // Its first requests came after the sample before: they count as recent.
            let before = now.checked_sub(STEP * INSTANCE_EVERY as u32);
            let before = before.unwrap_or(now);
            self.samples.push_back((before, Counts::default()));
        }
        self.samples.push_back((now, Counts::read(series)));
        if self.samples.len() > INSTANCE_SAMPLES {
            self.samples.pop_front();
        }
        let throttled = series.throttled.get();
        // More than these would only be removed again.
        for _ in 0..(throttled - self.throttled).min(THROTTLED_COUNT as u64) {
            self.throttled_at.push_back(now);
            if self.throttled_at.len() > THROTTLED_COUNT {
                self.throttled_at.pop_front();
            }
        }
        self.throttled = throttled;
    }

    fn recent(&self, counts: Counts, now: Instant) -> Recent {
        let Some(&(at, before)) = self.samples.front() else {
            return Recent::default();
        };
        let oldest = self.throttled_at.front();
        Recent {
            seconds: (now - at).as_secs_f64(),
            counts: counts.since(before),
            is_throttled: self.throttled_at.len() == THROTTLED_COUNT
                && oldest.is_some_and(|at| now - *at < minutes(THROTTLED_MINUTES)),
        }
    }
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples `metrics` for so many steps, from `now` on; returns the end.
    fn steps(history: &History, metrics: &Metrics, now: Instant, count: u32) -> Instant {
        for step in 1..=count {
            history.sample(metrics, now + STEP * step);
        }
        now + STEP * count
    }

    #[test]
    fn two_minutes_are_kept_and_no_more() {
        let (history, metrics) = (History::default(), Metrics::new(1));
        let series = metrics.instance("1");
        let requests = &metrics.requests[Route::Other as usize];
        let began = Instant::now();
        let mut now = began;
        for _ in 0..500 {
            requests.code(http::StatusCode::OK).inc();
            series.requests(Route::Other).inc();
            now = steps(&history, &metrics, now, 1);
        }
        let totals = history.totals();
        assert_eq!(totals.len(), STEPS + 1);
        let (first, last) = (totals.first().unwrap(), totals.last().unwrap());
        assert_eq!(last.at - first.at, Duration::from_secs(120));
        assert_eq!(last.requests - first.requests, 60);
        let recent = history.recent(&series, now);
        assert!((118.0..=128.0).contains(&recent.seconds), "{recent:?}");
        assert_eq!(recent.counts.requests as f64, recent.seconds / 2.0);
        let kept = history.lock().instances["1"].samples.len();
        assert_eq!(kept, INSTANCE_SAMPLES);
    }

    #[test]
    fn the_first_requests_of_an_instance_are_recent() {
        let (history, metrics) = (History::default(), Metrics::new(1));
        let now = steps(&history, &metrics, Instant::now(), 20);
        let series = metrics.instance("1");
        series.rejected(Reason::MaxWait).inc_by(3);
        assert_eq!(history.recent(&series, now).counts.rejected, 3);
        let now = steps(&history, &metrics, now, 10);
        assert_eq!(history.recent(&series, now).counts.rejected, 3);
        let now = steps(&history, &metrics, now, 80);
        assert_eq!(history.recent(&series, now).counts.rejected, 0);
    }

    #[test]
    fn three_429_in_a_quarter_of_an_hour_are_throttling() {
        let (history, metrics) = (History::default(), Metrics::new(1));
        let series = metrics.instance("1");
        let mut now = Instant::now();
        for (more, is_throttled) in [(2, false), (1, true)] {
            series.throttled.inc_by(more);
            now = steps(&history, &metrics, now, 5);
            assert_eq!(history.recent(&series, now).is_throttled, is_throttled);
        }
        // Nearly fifteen minutes after the first two, then after.
        now = steps(&history, &metrics, now, 440);
        assert!(history.recent(&series, now).is_throttled);
        now = steps(&history, &metrics, now, 10);
        assert!(!history.recent(&series, now).is_throttled);
    }

    #[test]
    fn a_failed_reload_is_remembered_for_a_quarter_of_an_hour() {
        let (history, metrics) = (History::default(), Metrics::new(1));
        let now = steps(&history, &metrics, Instant::now(), 1);
        assert!(!history.reload_failed(now));
        metrics.reload_failures.inc();
        let now = steps(&history, &metrics, now, 1);
        assert!(history.reload_failed(now));
        assert!(!history.reload_failed(now + minutes(RELOAD_MINUTES)));
    }
}
