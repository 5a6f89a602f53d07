//! The accounting of one request, from its head to the end of its response.
//!
//! Invariant: each request is counted as in flight until its response body is dropped,
//! and logged once then, whether the body was read to its end, cut off or never read.

use std::sync::Arc;

use tokio::time::Instant;

use crate::body::BodyObserver;
use crate::conn::state::ConnState;
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::{Metrics, Route};

/// Counts a request as in flight until its response has ended.
#[derive(Debug)]
pub(crate) struct RequestGuard {
    metrics: Arc<Metrics>,
    pub(crate) route: Route,
    /// When the head of the request was complete.
    started: Instant,
    /// The connection of the request, which is not idle until the response has ended.
    conn: Arc<ConnState>,
    /// The entry of the request in the access log.
    pub(crate) log_entry: LogEntry,
    /// Bytes of the response body that were sent.
    bytes: u64,
    /// The response body was sent to its end.
    is_complete: bool,
}

impl RequestGuard {
    /// Counts a request as in flight.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        route: Route,
        started: Instant,
        conn: Arc<ConnState>,
        log_entry: LogEntry,
    ) -> Self {
        metrics.in_flight.inc();
        Self {
            metrics,
            route,
            started,
            conn,
            log_entry,
            bytes: 0,
            is_complete: false,
        }
    }

    /// The connection of the request.
    pub(crate) fn conn(&self) -> &ConnState {
        &self.conn
    }
}

impl BodyObserver for RequestGuard {
    fn sent(&mut self, bytes: usize, is_end: bool) {
        self.bytes += bytes as u64;
        self.is_complete = is_end;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // In `drop`, because hyper drops requests and bodies of clients that disconnect.
        self.metrics.in_flight.dec();
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.started);
        self.metrics
            .request_seconds(self.route)
            .observe(duration.as_secs_f64());
        self.log_entry
            .finish(self.bytes, self.is_complete, duration);
        self.conn.on_response_ended(now);
    }
}
