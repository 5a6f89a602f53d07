//! Metrics of a cluster. They exist only with `[cluster]`.

use std::time::Duration;

use prometheus::{
    Counter, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

use super::registrar::Registrar;

/// From a server on the same machine (0.1 ms) to the longest `cluster.timeout` that makes sense.
const OPERATION_SECONDS: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0,
];

/// Metrics of a cluster.
#[derive(Debug)]
pub(crate) struct ClusterSeries {
    state: IntGaugeVec,
    replicas: IntGauge,
    seconds: HistogramVec,
    errors: IntCounterVec,
    fallback_seconds: Counter,
    /// Slots of buckets that are reserved and not used.
    pub(crate) slots_held: IntGauge,
    /// Batches whose upstream call carried ids of other gateways.
    pub(crate) led: IntCounter,
    /// Batches that got the verdict of another gateway's call.
    pub(crate) followed: IntCounter,
}

impl ClusterSeries {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        let merges = registrar.counters(
            "wawp_gateway_cluster_merges_total",
            "Batches of receipts that were merged with those of other gateways, by the part of this gateway.",
            &["role"],
        );
        Self {
            state: registrar.gauges(
                "wawp_gateway_cluster_state",
                "1 for the state of the cluster's server, as this gateway sees it.",
                &["state"],
            ),
            replicas: registrar.gauge(
                "wawp_gateway_cluster_replicas",
                "Gateways of the cluster that were seen lately, this one included.",
            ),
            seconds: registrar.histograms(
                "wawp_gateway_cluster_operation_seconds",
                "Time until an operation on the cluster's server succeeded or failed.",
                OPERATION_SECONDS,
                &["operation"],
            ),
            errors: registrar.counters(
                "wawp_gateway_cluster_errors_total",
                "Operations on the cluster's server and connections to it that failed, by reason.",
                &["reason"],
            ),
            fallback_seconds: registrar.float_counter(
                "wawp_gateway_cluster_fallback_seconds_total",
                "Time in which this gateway went on without the cluster's server.",
            ),
            slots_held: registrar.gauge(
                "wawp_gateway_cluster_slots_held",
                "Slots of buckets that are reserved on the cluster's server and not used yet.",
            ),
            led: merges.with_label_values(&["lead"]),
            followed: merges.with_label_values(&["follow"]),
        }
    }

    /// Sets the state `current` of all states.
    pub(crate) fn set_state(&self, current: &str, all: impl Iterator<Item = &'static str>) {
        for state in all {
            let is_current = i64::from(state == current);
            self.state.with_label_values(&[state]).set(is_current);
        }
    }

    /// Sets the number of gateways that were seen lately.
    pub(crate) fn set_replicas(&self, live: u32) {
        self.replicas.set(live.into());
    }

    /// The times of one operation; to be looked up once.
    pub(crate) fn operation(&self, name: &str) -> Histogram {
        self.seconds.with_label_values(&[name])
    }

    /// Failures for one reason.
    pub(crate) fn errors(&self, reason: &str) -> IntCounter {
        self.errors.with_label_values(&[reason])
    }

    /// Adds time in which service went on without the server.
    pub(crate) fn add_fallback(&self, time: Duration) {
        self.fallback_seconds.inc_by(time.as_secs_f64());
    }
}
