//! Whether a drain has begun (design §3.9).
//!
//! Invariant: asking costs a load and no lock, since every call and every turn
//! of a connection asks; whoever waits is woken when it begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Whether a drain has begun, for everybody who must know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain(Arc<State>);

#[derive(Debug, Default)]
struct State {
    has_begun: AtomicBool,
    /// Asking it takes a lock that is everybody's: it is only waited for.
    begun: CancellationToken,
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

    /// Waits until it begins.
    pub(crate) fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.0.begun.cancelled()
    }
}
