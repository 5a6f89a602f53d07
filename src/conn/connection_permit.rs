//! The permit of a connection: one of `server.max_connections`.
//!
//! Invariant: it is held as long as the connection's stream exists, also after an
//! upgrade to another protocol.

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
