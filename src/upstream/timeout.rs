//! The timeout for the head of a response.
//!
//! Invariant: a connection does not arm its timer for each request, because that
//! is costly. The timer may fire for an earlier request that has its response; it
//! is then armed again for the current one.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::body::Progress;

/// How long the response to one request may take to begin.
#[derive(Debug)]
pub(super) struct ResponseTimeout {
    /// When the request was sent.
    pub(super) started: Instant,
    /// The longest wait after the last piece of the request was sent.
    pub(super) limit: Duration,
    /// Has the time of that piece, if the request is streamed.
    pub(super) progress: Option<Progress>,
}

impl ResponseTimeout {
    /// Waits for a response; `None` after the timeout. `timer` fires
    /// no later than this timeout ends.
    pub(super) async fn wait_for<T>(
        &self,
        mut response: Pin<&mut impl Future<Output = T>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Option<T> {
        poll_fn(|cx| {
            // The response first: one that arrives with the timeout still counts.
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            loop {
                ready!(timer.as_mut().poll(cx));
                // Fired for an earlier request, or before the last piece of this one.
                let end = self.end();
                if end <= Instant::now() {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(end);
            }
        })
        .await
    }

    /// The end of the timeout, unless another piece of the request is sent.
    pub(super) fn end(&self) -> Instant {
        let last = self.progress.as_ref().map(Progress::last_piece);
        last.map_or(self.started, |last| last.max(self.started)) + self.limit
    }
}

#[cfg(test)]
mod tests;
