//! Metrics of merging.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::WAIT_SECONDS;
use super::registrar::Registrar;

/// Callers and ids of one batch; the default caps are 1,000 and 100.
const SIZES: &[f64] = &[
    1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0,
];

/// Metrics of merging.
pub(crate) struct Batches {
    /// Callers per batch sent.
    pub(crate) callers: Histogram,
    /// Distinct ids per batch sent.
    pub(crate) ids: Histogram,
    /// Time from a batch's first caller to its sealing.
    pub(crate) wait: Histogram,
    /// Upstream calls whose callers had to be sent again separately.
    pub(crate) splits: IntCounter,
    /// Upstream calls of receipts that were sent again.
    pub(crate) retries: IntCounter,
    /// Batches that have not been sent.
    pub(crate) open: IntGauge,
}

impl Batches {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        Self {
            callers: registrar.histogram(
                "wawp_gateway_batch_callers",
                "Callers per batch of read receipts.",
                SIZES,
            ),
            ids: registrar.histogram(
                "wawp_gateway_batch_message_ids",
                "Distinct message ids per batch (0 = whole chat).",
                SIZES,
            ),
            wait: registrar.histogram(
                "wawp_gateway_batch_wait_seconds",
                "Time from a batch's first caller to its sealing.",
                WAIT_SECONDS,
            ),
            splits: registrar.counter(
                "wawp_gateway_batch_splits_total",
                "Upstream calls for several receipts that were rejected, so that their receipts were sent again separately.",
            ),
            retries: registrar.counter(
                "wawp_gateway_batch_retries_total",
                "Upstream calls of read receipts that were sent again.",
            ),
            open: registrar.gauge(
                "wawp_gateway_batches_open",
                "Batches that have not been sent.",
            ),
        }
    }
}
