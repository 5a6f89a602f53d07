//! What must hold of the upstream's record, whatever has happened.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::load::Outcome;
use super::recorder::{Arrival, CALL};

/// A slot may be used for this long after it is due.
pub(super) const USABLE: Duration = Duration::from_millis(100);
/// For processes that have to wait for a processor. A second burst or a share that is not divided
/// exceeds the budget by more.
pub(super) const SLACK: Duration = Duration::from_millis(500);
/// As `SLACK`, for a caller that waits for several processes.
pub(super) const CALLER_SLACK: Duration = Duration::from_secs(3);

/// A bucket: tokens per second, and tokens at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) rate: f64,
    pub(super) burst: f64,
}

impl Budget {
    /// By how much longer the worst interval would have to be to conform: 0 if all do.
    pub(super) fn excess(&self, arrivals: &[Arrival]) -> Duration {
        let mut worst = 0.0_f64;
        // The theoretical arrival time of GCRA, from the first arrival on.
        let mut tat = 0.0_f64;
        for arrival in arrivals {
            let at = (arrival.at - arrivals[0].at).as_secs_f64();
            tat = tat.max(at) + 1.0 / self.rate;
            worst = worst.max(tat - at - self.burst / self.rate);
        }
        Duration::from_secs_f64(worst)
    }

    /// In no interval more arrive than the burst and the rate permit for an interval longer by
    /// `USABLE`.
    pub(super) fn holds(&self, what: &str, arrivals: &[Arrival]) {
        let excess = self.excess(arrivals);
        println!("{what}: {} arrived; excess {excess:?}", arrivals.len());
        assert!(excess <= USABLE + SLACK, "{what}: excess {excess:?}");
    }
}

/// The arrivals of an instance.
pub(super) fn of(arrivals: &[Arrival], instance: &str) -> Vec<Arrival> {
    let mut of = arrivals.to_vec();
    of.retain(|arrival| arrival.instance == instance);
    of
}

/// The arrivals in this interval.
pub(super) fn between(arrivals: &[Arrival], from: Instant, to: Instant) -> Vec<Arrival> {
    let mut between = arrivals.to_vec();
    between.retain(|arrival| arrival.at >= from && arrival.at < to);
    between
}

/// The longest time without an arrival, from `from` to `to`.
pub(super) fn longest_gap(arrivals: &[Arrival], from: Instant, to: Instant) -> Duration {
    let times = between(arrivals, from, to);
    let times: Vec<_> = times.iter().map(|arrival| arrival.at).collect();
    let starts = std::iter::once(from).chain(times.iter().copied());
    let ends = times.iter().copied().chain(std::iter::once(to));
    let gaps = starts.zip(ends).map(|(start, end)| end - start);
    gaps.max().unwrap()
}

/// Nothing is sent twice or lost, every caller has an answer in time, and none is a failure unless
/// it may be. `max_wait`: that of the settings.
pub(super) fn each_caller_is_answered(
    outcomes: &[Outcome],
    arrivals: &[Arrival],
    max_wait: Duration,
    may_fail: impl Fn(&Outcome) -> bool,
) {
    let mut sent: HashMap<&str, Vec<u16>> = HashMap::new();
    for arrival in arrivals {
        sent.entry(&arrival.id).or_default().push(arrival.status);
    }
    let mut statuses = HashMap::new();
    for outcome in outcomes {
        *statuses.entry(outcome.status).or_insert(0) += 1;
        let sent = sent.remove(&*outcome.id).unwrap_or_default();
        let is_as_sent = match outcome.status {
            200 => sent == [200],
            429 => sent.is_empty() || sent == [429],
            _ => may_fail(outcome) && sent.len() <= 1,
        };
        assert!(is_as_sent, "{outcome:?}: the upstream got {sent:?}");
        let limit = max_wait + CALL + CALLER_SLACK;
        assert!(outcome.took <= limit, "{outcome:?}");
    }
    println!("statuses: {statuses:?}");
    assert!(sent.is_empty(), "arrived without a caller: {sent:?}");
}

/// Requests arrive in the order in which they were sent, but for what the machine delays.
pub(super) fn in_order(outcomes: &[Outcome], arrivals: &[Arrival]) {
    let begun: HashMap<_, _> = outcomes.iter().map(|it| (&*it.id, it.begun)).collect();
    let Some(mut latest) = arrivals.first().map(|first| begun[&*first.id]) else {
        return;
    };
    let mut worst = Duration::ZERO;
    for arrival in arrivals {
        let begun = begun[&*arrival.id];
        worst = worst.max(latest.saturating_duration_since(begun));
        latest = latest.max(begun);
    }
    println!("overtaken by at most {worst:?}");
    assert!(worst <= SLACK, "overtaken by {worst:?}");
}
