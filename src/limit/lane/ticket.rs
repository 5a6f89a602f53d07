//! A queue position, as a future.
//!
//! Invariants: a ticket that is dropped before its verdict leaves nothing in the
//! queue, and the gauge of waiting requests is kept by tickets alone.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::limit::account::Account;
use crate::observe::metrics::InstanceSeries;
use crate::queue::egress::Receiver;
use crate::queue::request::{Permit, RateLimited};

/// A queue position. Resolves to the token, or to the refusal of a request
/// whose token cannot come in time any more. Dropping it gives the position up.
pub(crate) struct Ticket {
    pub(super) account: Arc<Account>,
    /// `None` for a shadow request, which no gauge counts.
    pub(super) series: Option<Arc<InstanceSeries>>,
    pub(super) ticket: u64,
    /// `None` once it has resolved.
    pub(super) verdict: Option<Receiver>,
}

impl Future for Ticket {
    type Output = Result<Permit, RateLimited>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(verdict) = &mut self.verdict else {
            return Poll::Pending;
        };
        let verdict = ready!(Pin::new(verdict).poll(cx));
        // If the serving task was cut off with its runtime, no verdict will
        // come: the request ends with that runtime too.
        self.verdict = None;
        verdict.map_or(Poll::Pending, Poll::Ready)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.ticket).finish()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(series) = &self.series {
            series.queued.dec();
        }
        // One that has resolved waits in no queue any more.
        if self.verdict.take().is_some() {
            self.account.leave(self.ticket);
        }
    }
}
