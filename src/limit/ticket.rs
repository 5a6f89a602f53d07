//! A place in a bucket's line.
//!
//! Invariant: a ticket that is dropped before it was served leaves no trace in
//! the line, and the figures of who waits are kept by tickets alone.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::bucket::{Holder, Permit};
use crate::observe::metrics::InstanceSeries;

/// A place in line. Resolves to the token; dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Ticket {
    holder: Arc<dyn Holder>,
    /// `None` for a ghost, which no figure of who waits counts.
    series: Option<Arc<InstanceSeries>>,
    ticket: u64,
    /// `None` once it has told.
    granted: Option<oneshot::Receiver<Permit>>,
}

impl Ticket {
    pub(super) fn new(
        holder: Arc<dyn Holder>,
        series: Option<Arc<InstanceSeries>>,
        ticket: u64,
        granted: oneshot::Receiver<Permit>,
    ) -> Self {
        if let Some(series) = &series {
            series.queued.inc();
        }
        Self {
            holder,
            series,
            ticket,
            granted: Some(granted),
        }
    }
}

impl Future for Ticket {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let Some(granted) = &mut self.granted else {
            return Poll::Pending;
        };
        let answer = ready!(Pin::new(granted).poll(cx));
        // If the serving task was cut off with its runtime, no token will
        // come, and the caller's own deadline ends the wait.
        self.granted = None;
        answer.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(series) = &self.series {
            series.queued.dec();
        }
        // One that was served stands in no line any more.
        if self.granted.take().is_some() {
            self.holder.bucket().leave(self.ticket);
        }
    }
}
