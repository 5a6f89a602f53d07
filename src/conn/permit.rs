//! A connection's place among the others.
//!
//! Invariant: it is held for as long as the connection's stream is there,
//! whoever has that: one that was upgraded has left HTTP, not the gateway.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::observe::metrics::Metrics;

/// A place among the connections, counted in the metrics.
pub(crate) struct Place {
    metrics: Arc<Metrics>,
    /// One of `server.max_connections`; connections within the process need none.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    pub(crate) fn new(metrics: &Arc<Metrics>, permit: Option<OwnedSemaphorePermit>) -> Self {
        metrics.connections.inc();
        Self {
            metrics: Arc::clone(metrics),
            _permit: permit,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}
