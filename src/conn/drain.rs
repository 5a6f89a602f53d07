//! Whether a drain has begun (design §3.9), and whom it has cut.
//!
//! Invariant: asking costs a load and no lock, since every call and every turn
//! of a connection asks; whoever waits is woken when it begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Whether a drain has begun, for everybody who must know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain(Arc<State>);

#[derive(Debug, Default)]
struct State {
    has_begun: AtomicBool,
    /// Asking it takes a lock that is everybody's: it is only waited for.
    begun: CancellationToken,
    /// Connections it has cut.
    cut: AtomicUsize,
}

impl Drain {
    /// Begins the drain.
    pub(crate) fn begin(&self) {
        // First, so that whoever is woken finds it set.
        self.0.has_begun.store(true, Ordering::Release);
        self.0.begun.cancel();
    }

    /// Whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Acquire)
    }

    /// A connection is cut whose client has not all of its answers.
    pub(crate) fn cuts(&self) {
        self.0.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were cut so.
    pub(crate) fn cut(&self) -> usize {
        self.0.cut.load(Ordering::Relaxed)
    }

    /// Waits until it begins.
    pub(crate) fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.0.begun.cancelled()
    }
}
