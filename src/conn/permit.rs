//! The share of a connection in `server.max_connections`.
//!
//! Invariant: the permit is held as long as the connection's stream exists. A
//! connection that was upgraded has left HTTP, but not the gateway.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::observe::metrics::Metrics;

/// The permit of one open connection, counted in the metrics.
pub(crate) struct ConnectionPermit {
    metrics: Arc<Metrics>,
    /// One of `server.max_connections`; connections from within this process
    /// need none.
    _permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionPermit {
    pub(crate) fn new(metrics: &Arc<Metrics>, permit: Option<OwnedSemaphorePermit>) -> Self {
        metrics.connections.inc();
        Self {
            metrics: Arc::clone(metrics),
            _permit: permit,
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}
