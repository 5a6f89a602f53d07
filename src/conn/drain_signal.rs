//! Whether a drain has begun (rule: drain), and how many connections it cut.
//!
//! Invariants: the query costs one load and no lock, because it runs for every
//! request and every poll of a connection; waiting tasks are woken when the drain
//! begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// The drain of the gateway. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain(Arc<State>);

#[derive(Debug, Default)]
struct State {
    has_begun: AtomicBool,
    /// For tasks that wait. `is_cancelled` takes a lock that all workers share, so
    /// queries use `has_begun`.
    begun: CancellationToken,
    /// Connections that the drain has cut.
    cut_connections: AtomicUsize,
}

impl Drain {
    /// Begins the drain.
    pub(crate) fn begin(&self) {
        // Before the wake-ups: a woken task must find it set.
        self.0.has_begun.store(true, Ordering::Release);
        self.0.begun.cancel();
    }

    /// Whether the drain has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Acquire)
    }

    /// Waits until the drain begins.
    pub(crate) fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.0.begun.cancelled()
    }

    /// Counts a connection that is cut before its client has read all responses.
    pub(crate) fn record_cut(&self) {
        // Relaxed: no other data depends on it.
        self.0.cut_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were cut before their clients had read all responses.
    pub(crate) fn cut_count(&self) -> usize {
        self.0.cut_connections.load(Ordering::Relaxed)
    }
}
