//! Which problems the gateway and each instance have now.
//!
//! Invariant: thresholds are those of [`problems`](super::problems).

use std::cmp::Reverse;
use std::time::SystemTime;

use tokio::time::Instant;

use super::history::{History, Recent, Totals};
use super::problems::{
    CERTIFICATE_DAYS, DRAIN_SECONDS, ERROR_RATIO, Kind, MIN_RATE, Problem, QUEUE_RATIO,
    UNLINKED_COUNT, UNLINKED_RATIO, UPSTREAM_ERROR_RATIO,
};
use crate::grouped::grouped;
use crate::observe::metrics::Metrics;

/// The problems of the gateway as a whole. `samples` are those of the last two minutes,
/// and the present one.
pub(super) fn gateway(
    metrics: &Metrics,
    history: &History,
    samples: (&[Totals], &Totals),
    now: SystemTime,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |kind, detail| problems.push(Problem::new(kind, None, detail));
    // Before the first sample there is nothing to compare with.
    if let (Some(old), new) = (samples.0.first(), samples.1) {
        let seconds = (new.at - old.at).as_secs_f64();
        let mut judge = |kind, failed: u64, all: u64, threshold| {
            if let Some(share) = share(failed, all).filter(|share| *share > threshold)
                && all as f64 > seconds * MIN_RATE
            {
                let percent = share * 100.0;
                add(
                    kind,
                    format!("{percent:.0} % of {} in two minutes", grouped(all)),
                );
            }
        };
        let requests = new.requests - old.requests;
        judge(
            Kind::ErrorRatioHigh,
            new.errors - old.errors,
            requests,
            ERROR_RATIO,
        );
        judge(
            Kind::UpstreamFailing,
            new.upstream_errors - old.upstream_errors,
            new.upstream - old.upstream,
            UPSTREAM_ERROR_RATIO,
        );
    }
    let scraped = metrics.scraped();
    let in_flight = metrics.in_flight.get();
    if let Some(seconds) = scraped.drain_seconds(now)
        && in_flight > 0
        && seconds < DRAIN_SECONDS
    {
        let left = seconds.max(0.0);
        add(
            Kind::DrainAboutToCut,
            format!("{in_flight} in flight, {left:.0} s left"),
        );
    }
    if history.reload_failed(Instant::now()) {
        add(
            Kind::ReloadFailed,
            "the old settings are in force; the log names every mistake".to_owned(),
        );
    }
    if let Some(seconds) = scraped.certificate_seconds(now)
        && seconds < 24 * 3600 * CERTIFICATE_DAYS as i64
    {
        let hours = seconds / 3600;
        add(Kind::CertificateExpires, format!("{hours} hours left"));
    }
    problems
}

/// The present state of an instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present<'n> {
    pub(super) name: &'n str,
    pub(super) queued: i64,
    pub(super) max_queue: i64,
    /// Seconds left of its longest pause.
    pub(super) pause: f64,
    /// 429 of the API since the start.
    pub(super) throttled: u64,
}

/// The problems of one instance, the most severe first.
pub(super) fn instance(of: Present<'_>, recent: &Recent) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |kind, detail| problems.push(Problem::new(kind, Some(of.name), detail));
    let counts = recent.counts;
    let ratio = |failed: u64| share(failed, counts.requests).unwrap_or(0.0);
    if counts.unlinked >= UNLINKED_COUNT && ratio(counts.unlinked) > UNLINKED_RATIO {
        let percent = ratio(counts.unlinked) * 100.0;
        add(
            Kind::InstanceUnlinked,
            format!("{percent:.0} % of its requests"),
        );
    }
    if counts.failed >= UNLINKED_COUNT && ratio(counts.failed) > UPSTREAM_ERROR_RATIO {
        let percent = ratio(counts.failed) * 100.0;
        add(
            Kind::InstanceFailing,
            format!("{percent:.0} % of its requests"),
        );
    }
    if counts.rejected > 0 {
        let refused = counts.rejected;
        add(
            Kind::RefusingRequests,
            format!("{} in two minutes", grouped(refused)),
        );
    }
    if let Some(share) = share(of.queued.max(0) as u64, of.max_queue.max(0) as u64)
        && share > QUEUE_RATIO
    {
        let percent = share * 100.0;
        add(Kind::QueueNearFull, format!("{percent:.0} %"));
    }
    // One of the two, because they have the same alert.
    if of.pause > 0.0 {
        add(Kind::Paused, format!("{:.0} s left", of.pause.ceil()));
    } else if recent.is_throttled {
        add(
            Kind::InstanceThrottled,
            format!("{} since the start", grouped(of.throttled)),
        );
    }
    problems.sort_by_key(|problem| (Reverse(problem.severity), problem.kind));
    problems
}

/// A part of a whole; `None` of nothing.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::super::history::Counts;
    use super::*;

    const NO_PROBLEM: Present<'_> = Present {
        name: "1",
        queued: 0,
        max_queue: 1000,
        pause: 0.0,
        throttled: 0,
    };

    /// The kinds of problems of an instance with 100 requests in two minutes.
    fn kinds(present: Present<'_>, counts: Counts, is_throttled: bool) -> Vec<Kind> {
        let recent = Recent {
            seconds: 120.0,
            counts: Counts {
                requests: 100,
                ..counts
            },
            is_throttled,
        };
        let problems = instance(present, &recent);
        problems.iter().map(|problem| problem.kind).collect()
    }

    #[test]
    fn a_problem_begins_above_its_threshold() {
        let none = Counts::default();
        assert_eq!(kinds(NO_PROBLEM, none, false), []);
        let queued = |queued| Present {
            queued,
            ..NO_PROBLEM
        };
        assert_eq!(kinds(queued(800), none, false), []);
        assert_eq!(kinds(queued(801), none, false), [Kind::QueueNearFull]);
        let unlinked = |unlinked| Counts { unlinked, ..none };
        assert_eq!(kinds(NO_PROBLEM, unlinked(50), false), []);
        assert_eq!(
            kinds(NO_PROBLEM, unlinked(51), false),
            [Kind::InstanceUnlinked]
        );
        let failed = |failed| Counts { failed, ..none };
        assert_eq!(kinds(NO_PROBLEM, failed(10), false), []);
        assert_eq!(
            kinds(NO_PROBLEM, failed(11), false),
            [Kind::InstanceFailing]
        );
        assert_eq!(kinds(NO_PROBLEM, none, true), [Kind::InstanceThrottled]);
    }

    #[test]
    fn the_most_severe_problem_comes_first() {
        let present = Present {
            queued: 900,
            pause: 3.5,
            ..NO_PROBLEM
        };
        let counts = Counts {
            rejected: 1,
            unlinked: 60,
            ..Counts::default()
        };
        assert_eq!(
            kinds(present, counts, true),
            [
                Kind::InstanceUnlinked,
                Kind::RefusingRequests,
                Kind::QueueNearFull,
                Kind::Paused,
            ]
        );
    }

    #[test]
    fn a_few_failures_of_a_quiet_gateway_are_no_problem() {
        let (metrics, history) = (Metrics::new(1), History::default());
        let (now, began) = (SystemTime::now(), Instant::now());
        let totals = |at, requests, errors| Totals {
            at,
            requests,
            upstream: requests,
            receipts: 0,
            receipt_calls: 0,
            errors,
            upstream_errors: errors,
        };
        let old = [totals(began, 0, 0)];
        let kinds = |requests, errors| -> Vec<Kind> {
            let new = totals(
                began + std::time::Duration::from_secs(120),
                requests,
                errors,
            );
            let problems = gateway(&metrics, &history, (&old, &new), now);
            problems.iter().map(|problem| problem.kind).collect()
        };
        assert_eq!(kinds(12, 12), []);
        assert_eq!(kinds(200, 10), []);
        assert_eq!(kinds(200, 11), [Kind::ErrorRatioHigh]);
        assert_eq!(
            kinds(200, 21),
            [Kind::ErrorRatioHigh, Kind::UpstreamFailing]
        );
    }
}
