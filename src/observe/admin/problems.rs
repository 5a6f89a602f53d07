//! What is wrong now.
//!
//! Owns the kinds of problems, each with its alert, its severity and its section of
//! the runbook. Invariant: a problem of the page begins at the threshold of its alert
//! in `grafana/rules/`, which a test compares. The page judges the present or the last
//! two minutes, where most alerts wait for minutes more.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is: the `severity` of the alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Amber.
    Warning,
    /// Red.
    Critical,
}

/// A kind of problem. The order is that of the page, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    DrainAboutToCut,
    ErrorRatioHigh,
    InstanceUnlinked,
    UpstreamFailing,
    InstanceFailing,
    RefusingRequests,
    QueueNearFull,
    Paused,
    InstanceThrottled,
    ClusterFallback,
    ReloadFailed,
    CertificateExpires,
}

/// Responses with a 5xx, of all.
pub(super) const ERROR_RATIO: f64 = 0.05;
/// Upstream calls that fail, of all; also the requests of one instance.
pub(super) const UPSTREAM_ERROR_RATIO: f64 = 0.1;
/// Below this many requests per second a ratio means nothing.
pub(super) const MIN_RATE: f64 = 0.1;
/// Requests of an instance with a 401 or 404, of all.
pub(super) const UNLINKED_RATIO: f64 = 0.5;
/// The fewest 401 and 404, or failures of an instance, that are a problem.
pub(super) const UNLINKED_COUNT: u64 = 3;
/// The fewest 429 of the API in [`THROTTLED_MINUTES`] that are a problem.
pub(super) const THROTTLED_COUNT: usize = 3;
pub(super) const THROTTLED_MINUTES: u64 = 15;
/// The part of `limit.max_queue` that is in use.
pub(super) const QUEUE_RATIO: f64 = 0.8;
pub(super) const RELOAD_MINUTES: u64 = 15;
pub(super) const CERTIFICATE_DAYS: u64 = 7;
/// Seconds left of `server.drain_timeout`.
pub(super) const DRAIN_SECONDS: f64 = 15.0;

impl Kind {
    /// The alert that fires if it lasts.
    pub(super) fn alert(self) -> &'static str {
        match self {
            Self::DrainAboutToCut => "WawpGatewayDrainAboutToCut",
            Self::ErrorRatioHigh => "WawpGatewayErrorRatioHigh",
            Self::InstanceUnlinked => "WawpGatewayInstanceUnlinked",
            Self::UpstreamFailing | Self::InstanceFailing => "WawpGatewayUpstreamFailing",
            Self::RefusingRequests => "WawpGatewayRefusingCalls",
            Self::QueueNearFull => "WawpGatewayQueueNearFull",
            Self::Paused | Self::InstanceThrottled => "WawpGatewayInstanceThrottled",
            Self::ClusterFallback => "WawpGatewayClusterFallback",
            Self::ReloadFailed => "WawpGatewayReloadFailed",
            Self::CertificateExpires => "WawpGatewayCertificateExpires",
        }
    }

    pub(super) fn severity(self) -> Severity {
        match self {
            Self::DrainAboutToCut | Self::ErrorRatioHigh | Self::InstanceUnlinked => {
                Severity::Critical
            }
            _ => Severity::Warning,
        }
    }

    /// The section of the runbook.
    pub(super) fn runbook(self) -> &'static str {
        match self {
            Self::DrainAboutToCut => "drain-about-to-cut-requests",
            Self::ErrorRatioHigh => "error-ratio-high",
            Self::InstanceUnlinked => "instance-unlinked",
            Self::UpstreamFailing | Self::InstanceFailing => "upstream-failing",
            Self::RefusingRequests => "refusing-requests",
            Self::QueueNearFull => "queue-near-full",
            Self::Paused | Self::InstanceThrottled => "instance-throttled",
            Self::ClusterFallback => "cluster-fallback",
            Self::ReloadFailed => "reload-failed",
            Self::CertificateExpires => "certificate-expires",
        }
    }

    /// In one or two words, for the table of instances.
    pub(super) fn short(self) -> &'static str {
        match self {
            Self::DrainAboutToCut => "about to cut",
            Self::ErrorRatioHigh => "5xx",
            Self::InstanceUnlinked => "not linked?",
            Self::UpstreamFailing | Self::InstanceFailing => "API fails",
            Self::RefusingRequests => "refusing",
            Self::QueueNearFull => "queue nearly full",
            Self::Paused => "paused",
            Self::InstanceThrottled => "throttled",
            Self::ClusterFallback => "without cluster",
            Self::ReloadFailed => "reload failed",
            Self::CertificateExpires => "certificate",
        }
    }

    /// What it means, as the beginning of a sentence.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::DrainAboutToCut => "The drain is about to cut requests",
            Self::ErrorRatioHigh => "Many requests get a 5xx",
            Self::InstanceUnlinked => "The phone may not be linked (401, 404)",
            Self::UpstreamFailing => "The API fails",
            Self::InstanceFailing => "The API fails for some instances",
            Self::RefusingRequests => "Refusing requests",
            Self::QueueNearFull => "The queue is nearly full",
            Self::Paused => "Paused by the API (429)",
            Self::InstanceThrottled => "Throttled by the API again and again (429)",
            Self::ClusterFallback => "The server of the cluster cannot be used",
            Self::ReloadFailed => "The last reload failed",
            Self::CertificateExpires => "The certificate expires soon",
        }
    }
}

/// A problem of the gateway, or of one instance.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) alert: &'static str,
    pub(super) runbook: &'static str,
    #[serde(skip)]
    pub(super) kind: Kind,
    pub(super) instance: Option<Box<str>>,
    /// How much: "12 % of 300 requests".
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(kind: Kind, instance: Option<&str>, detail: String) -> Self {
        Self {
            severity: kind.severity(),
            alert: kind.alert(),
            runbook: kind.runbook(),
            kind,
            instance: instance.map(Box::from),
            detail,
        }
    }
}

/// All problems of one kind, as one line of the page.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) kind: Kind,
    /// Each instance with its detail, or the detail of the gateway's own problem.
    pub(super) text: String,
}

/// More instances than this are only counted.
const NAMED: usize = 4;

/// One line for each kind, the most severe first.
pub(super) fn lines(problems: &[Problem]) -> Vec<Line> {
    let mut kinds: Vec<_> = problems.iter().map(|problem| problem.kind).collect();
    kinds.sort_by_key(|kind| (std::cmp::Reverse(kind.severity()), *kind));
    kinds.dedup();
    let line = |kind: Kind| {
        let of: Vec<_> = problems.iter().filter(|it| it.kind == kind).collect();
        let named = of.iter().take(NAMED).map(|problem| {
            problem.instance.as_ref().map_or_else(
                || problem.detail.clone(),
                |instance| format!("{instance} ({})", problem.detail),
            )
        });
        let mut text = named.collect::<Vec<_>>().join(", ");
        if let Some(more @ 1..) = of.len().checked_sub(NAMED) {
            // Writing into a `String` cannot fail.
            write!(text, " and {more} more").ok();
        }
        Line { kind, text }
    };
    kinds.into_iter().map(line).collect()
}

#[cfg(test)]
pub(super) const ALL: [Kind; 12] = [
    Kind::DrainAboutToCut,
    Kind::ErrorRatioHigh,
    Kind::InstanceUnlinked,
    Kind::UpstreamFailing,
    Kind::InstanceFailing,
    Kind::RefusingRequests,
    Kind::QueueNearFull,
    Kind::Paused,
    Kind::InstanceThrottled,
    Kind::ClusterFallback,
    Kind::ReloadFailed,
    Kind::CertificateExpires,
];

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = include_str!("../../../grafana/rules/wawp-gateway.yml");

    /// The text of an alert in the rules.
    fn alert(name: &str) -> &'static str {
        let start = format!("- alert: {name}\n");
        let (_, rest) = RULES.split_once(&start).expect(name);
        rest.split("- alert: ").next().unwrap()
    }

    #[test]
    fn severity_and_runbook_are_those_of_the_alert() {
        for kind in ALL {
            let alert = alert(kind.alert());
            let severity = match kind.severity() {
                Severity::Warning => "severity: warning\n",
                Severity::Critical => "severity: critical\n",
            };
            assert!(alert.contains(severity), "{kind:?}");
            let runbook = format!("README.md#{}\n", kind.runbook());
            assert!(alert.contains(&runbook), "{kind:?}");
        }
    }

    #[test]
    fn thresholds_are_those_of_the_alert() {
        for (kind, parts) in [
            (
                Kind::ErrorRatioHigh,
                vec![format!("> {ERROR_RATIO}"), format!("> {MIN_RATE}")],
            ),
            (
                Kind::UpstreamFailing,
                vec![format!("> {UPSTREAM_ERROR_RATIO}"), format!("> {MIN_RATE}")],
            ),
            (
                Kind::InstanceUnlinked,
                vec![
                    format!("> {UNLINKED_RATIO}"),
                    format!(">= {UNLINKED_COUNT}"),
                ],
            ),
            (
                Kind::InstanceThrottled,
                vec![
                    format!(">= {THROTTLED_COUNT}"),
                    format!("increase{THROTTLED_MINUTES}m"),
                ],
            ),
            (Kind::QueueNearFull, vec![format!("> {QUEUE_RATIO}")]),
            (Kind::RefusingRequests, vec!["> 0\n".to_owned()]),
            (
                Kind::ReloadFailed,
                vec![format!("[{RELOAD_MINUTES}m]) > 0")],
            ),
            (
                Kind::CertificateExpires,
                vec![format!("< {CERTIFICATE_DAYS} * 24 * 3600")],
            ),
            (Kind::DrainAboutToCut, vec![format!("< {DRAIN_SECONDS}")]),
            (
                Kind::ClusterFallback,
                vec!["{state=\"fallback\"} == 1\n".to_owned()],
            ),
        ] {
            let alert = alert(kind.alert());
            for part in parts {
                assert!(alert.contains(&part), "{kind:?}: {part} is not in {alert}");
            }
        }
    }

    #[test]
    fn one_line_for_each_kind_with_the_most_severe_first() {
        let of = |kind, instance: &str| Problem::new(kind, Some(instance), "9 %".to_owned());
        let mut problems: Vec<_> = (0..6).map(|n| of(Kind::Paused, &format!("p{n}"))).collect();
        problems.push(of(Kind::RefusingRequests, "r"));
        problems.push(of(Kind::InstanceUnlinked, "u"));
        let lines = lines(&problems);
        let lines: Vec<_> = lines.iter().map(|line| (line.kind, &*line.text)).collect();
        let paused = "p0 (9 %), p1 (9 %), p2 (9 %), p3 (9 %) and 2 more";
        assert_eq!(
            lines,
            [
                (Kind::InstanceUnlinked, "u (9 %)"),
                (Kind::RefusingRequests, "r (9 %)"),
                (Kind::Paused, paused),
            ]
        );
    }
}
