//! The gateway's metrics, read as Prometheus would read them.
//!
//! Invariant: nothing is counted here; all figures come from the exposition.

use std::iter::Sum;

/// What the gateway counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) receipts: Pair,
    pub(super) others: Pair,
    /// Upstream calls that merging made unnecessary.
    pub(super) saved: u64,
    /// Requests refused because no bucket token came in time.
    pub(super) refused: u64,
    /// Requests without a complete response.
    pub(super) in_flight: u64,
}

/// Requests of one kind and their upstream calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) by_apps: u64,
    pub(super) upstream: u64,
}

impl Figures {
    /// Reads an exposition in Prometheus' text format.
    pub(super) fn read(exposition: &str) -> Self {
        let pair = |route: &str| Pair {
            by_apps: sum(exposition, "wawp_gateway_requests_total", route),
            upstream: sum(exposition, "wawp_gateway_upstream_requests_total", route),
        };
        Self {
            receipts: pair("route=\"seen\""),
            others: pair("route=\"other\""),
            saved: sum(exposition, "wawp_gateway_upstream_requests_saved_total", ""),
            refused: sum(exposition, "wawp_gateway_limit_rejected_total", ""),
            in_flight: sum(exposition, "wawp_gateway_in_flight_requests", ""),
        }
    }

    /// All kinds together.
    pub(super) fn all(&self) -> Pair {
        Pair {
            by_apps: self.receipts.by_apps + self.others.by_apps,
            upstream: self.receipts.upstream + self.others.upstream,
        }
    }
}

impl Pair {
    /// Requests of apps per upstream call.
    pub(super) fn merge_factor(self) -> Option<f64> {
        (self.upstream > 0).then(|| self.by_apps as f64 / self.upstream as f64)
    }
}

/// Requests per upstream call, as text.
pub(super) fn factor(pair: Pair) -> String {
    match pair.merge_factor() {
        Some(factor) => format!("{factor:.1} : 1"),
        None => "-".to_owned(),
    }
}

/// The figures of several gateways together.
impl Sum for Figures {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        let pair = |a: Pair, b: Pair| Pair {
            by_apps: a.by_apps + b.by_apps,
            upstream: a.upstream + b.upstream,
        };
        all.fold(Self::default(), |a, b| Self {
            receipts: pair(a.receipts, b.receipts),
            others: pair(a.others, b.others),
            saved: a.saved + b.saved,
            refused: a.refused + b.refused,
            in_flight: a.in_flight + b.in_flight,
        })
    }
}

/// Sums the samples of a metric with this label.
pub(super) fn sum(exposition: &str, metric: &str, label: &str) -> u64 {
    let samples = exposition.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        // Another metric may begin with the same name.
        let is_ours = labels.is_empty() || labels.starts_with('{');
        (is_ours && labels.contains(label)).then(|| value.parse::<f64>().ok())?
    });
    // Counters are whole numbers far below 2^53, so the conversion is exact.
    samples.sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::{Metrics, Reason, Route};

    #[test]
    fn samples_are_added_up_by_label() {
        let text = "# HELP wawp_gateway_requests_total Calls.\n\
            wawp_gateway_requests_total{code=\"200\",route=\"other\"} 3\n\
            wawp_gateway_requests_total{code=\"201\",route=\"seen\"} 30\n\
            wawp_gateway_requests_total{code=\"429\",route=\"seen\"} 2\n\
            wawp_gateway_upstream_requests_total{code=\"201\",route=\"seen\"} 8\n\
            wawp_gateway_upstream_requests_saved_total 24\n";
        let figures = Figures::read(text);
        let pair = |by_apps, upstream| Pair { by_apps, upstream };
        assert_eq!(
            (figures.receipts, figures.others),
            (pair(32, 8), pair(3, 0))
        );
        assert_eq!(figures.all(), pair(35, 8));
        assert_eq!(figures.saved, 24);
        assert_eq!(figures.receipts.merge_factor(), Some(4.0));
        assert_eq!(figures.others.merge_factor(), None);
    }

    #[test]
    fn what_the_gateway_counts_is_found() {
        let metrics = Metrics::new(1);
        let ok = http::StatusCode::CREATED;
        metrics.requests[Route::ReceiptPath as usize]
            .code(ok)
            .inc_by(5);
        metrics.requests[Route::Other as usize].code(ok).inc_by(2);
        metrics.upstream[Route::ReceiptPath as usize].code(ok).inc();
        metrics.upstream[Route::Other as usize].error().inc_by(2);
        metrics.other_tenants().savings.settle(5, 1);
        metrics.in_flight.set(3);
        let instance = metrics.other_instances();
        instance.rejected(Reason::MaxWait).inc();
        instance.rejected(Reason::Paused).inc();
        let expected = Figures {
            receipts: Pair {
                by_apps: 5,
                upstream: 1,
            },
            others: Pair {
                by_apps: 2,
                upstream: 2,
            },
            saved: 4,
            refused: 2,
            in_flight: 3,
        };
        let read = Figures::read(&metrics.exposition());
        assert_eq!(read, expected);
        let twice: Figures = [read, read].into_iter().sum();
        assert_eq!((twice.all().by_apps, twice.all().upstream), (14, 6));
        assert_eq!((twice.saved, twice.refused, twice.in_flight), (8, 4, 6));
    }
}
