//! Gauges that are set when metrics are scraped, and those of the drain.
//!
//! Invariant: requests do not update them; [`Gateway::exposition`] does, before it
//! writes.
//!
//! [`Gateway::exposition`]: crate::gateway::Gateway::exposition

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec};

use super::Metrics;
use super::registrar::Registrar;

/// The state of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct BucketStatus {
    /// Tokens left; `None` without a limit.
    pub(crate) tokens: Option<f64>,
    /// Time left of a pause.
    pub(crate) paused: Duration,
}

/// The gauges that are set at a scrape, and those of the drain.
#[derive(Debug)]
pub(crate) struct Scraped {
    tokens: GaugeVec,
    paused: GaugeVec,
    max_queue: IntGauge,
    limit_observed: IntGauge,
    batch_observed: IntGauge,
    idle: IntGauge,
    active: IntGauge,
    draining: IntGauge,
    drain_deadline: Gauge,
    /// Without a series while clients do not use TLS.
    certificate_expiry: IntGaugeVec,
}

impl BucketStatus {
    /// The fewer tokens and the longer pause of two buckets of an instance.
    #[must_use]
    pub(crate) fn scarcer(self, other: Self) -> Self {
        let tokens = match (self.tokens, other.tokens) {
            (Some(one), Some(other)) => Some(one.min(other)),
            // A bucket without a limit is never the scarcer one.
            (one, other) => one.or(other),
        };
        Self {
            tokens,
            paused: self.paused.max(other.paused),
        }
    }
}

impl Scraped {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        let connections = registrar.gauges(
            "wawp_gateway_upstream_connections",
            "Open connections to the upstream, by state.",
            &["state"],
        );
        let mode = registrar.gauges(
            "wawp_gateway_mode",
            "1 if batch.mode or limit.mode is \"observe\", 0 if it is in force.",
            &["what"],
        );
        Self {
            limit_observed: mode.with_label_values(&["limit"]),
            batch_observed: mode.with_label_values(&["batch"]),
            tokens: registrar.float_gauges(
                "wawp_gateway_limit_tokens",
                "Tokens left in the bucket of an instance with the fewest.",
                &["instance"],
            ),
            paused: registrar.float_gauges(
                "wawp_gateway_limit_paused",
                "Seconds left of the pause after an upstream 429, by instance; 0 = none.",
                &["instance"],
            ),
            max_queue: registrar.gauge(
                "wawp_gateway_limit_max_queue",
                "Requests that may wait in one queue: limit.max_queue.",
            ),
            idle: connections.with_label_values(&["idle"]),
            active: connections.with_label_values(&["active"]),
            draining: registrar.gauge("wawp_gateway_draining", "1 during a drain, else 0."),
            certificate_expiry: registrar.gauges(
                "wawp_gateway_certificate_expiry_timestamp_seconds",
                "When the certificate in use expires, as Unix time.",
                &[],
            ),
            drain_deadline: registrar.float_gauge(
                "wawp_gateway_drain_deadline_timestamp_seconds",
                "When a drain will cut what has not ended, as Unix time; 0 while there is none.",
            ),
        }
    }

    /// `limit.max_queue`.
    pub(crate) fn queue_limit(&self) -> i64 {
        self.max_queue.get()
    }

    /// Seconds until the certificate in use expires.
    pub(crate) fn certificate_seconds(&self, now: SystemTime) -> Option<i64> {
        let expiry = self.certificate_expiry.collect();
        let sample = expiry.first()?.get_metric().first()?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(sample.get_gauge().get_value() as i64 - now.as_secs() as i64)
    }

    /// Seconds left of a drain.
    pub(crate) fn drain_seconds(&self, now: SystemTime) -> Option<f64> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        (self.draining.get() == 1).then(|| self.drain_deadline.get() - now.as_secs_f64())
    }

    pub(crate) fn max_queue(&self, calls: usize) {
        self.max_queue.set(whole(calls));
    }

    /// Whether limits and merging are only observed.
    pub(crate) fn modes(&self, limit_observed: bool, batch_observed: bool) {
        self.limit_observed.set(limit_observed.into());
        self.batch_observed.set(batch_observed.into());
    }

    pub(crate) fn upstream_connections(&self, idle: usize, active: usize) {
        self.idle.set(whole(idle));
        self.active.set(whole(active));
    }

    /// A certificate with this expiry, as Unix time, is in use.
    pub(crate) fn certificate_expiry(&self, expiry: i64) {
        // A vector without labels: unlike a plain gauge, it has no series before it is set. 0 would
        // raise the alert.
        let labels: [&str; 0] = [];
        self.certificate_expiry
            .with_label_values(&labels)
            .set(expiry);
    }

    /// A drain has begun.
    pub(crate) fn draining(&self) {
        self.draining.set(1);
    }

    /// The drain will cut open connections after this time.
    pub(crate) fn drain_deadline(&self, timeout: Duration) {
        // Wall-clock time, because a dashboard compares it with its own.
        let deadline = (SystemTime::now() + timeout).duration_since(UNIX_EPOCH);
        self.drain_deadline
            .set(deadline.unwrap_or_default().as_secs_f64());
    }
}

impl Metrics {
    /// The gauges that are set at a scrape, and those of the drain.
    pub(crate) fn scraped(&self) -> &Scraped {
        &self.scraped
    }

    /// Sets the bucket gauges of each instance with a label; `status` returns the state of its
    /// buckets.
    pub(crate) fn set_bucket_gauges(&self, status: impl Fn(&str) -> BucketStatus) {
        for series in self.named_instances() {
            let name = &*series.name;
            let status = status(name);
            // Looked up on each scrape, which is rare; keeping them would cost memory per instance.
            let paused = self.scraped.paused.with_label_values(&[name]);
            paused.set(status.paused.as_secs_f64());
            match status.tokens {
                Some(tokens) => self.scraped.tokens.with_label_values(&[name]).set(tokens),
                // There is no limit, perhaps since a reload.
                None => drop(self.scraped.tokens.remove_label_values(&[name])),
            }
        }
    }
}

/// As the integer of a gauge.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
