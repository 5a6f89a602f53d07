//! How long a response may take to begin.
//!
//! Invariant: a connection that carries one request after another arms its
//! timer once, not with every request. So the timer may fire for a request that
//! was answered long ago; then it is armed for the current one.

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
    pub(super) length: Duration,
    /// Knows when that was, where the request is streamed.
    pub(super) progress: Option<Progress>,
}

impl ResponseTimeout {
    /// Waits for a response; `None` if it did not come in time. `timer` fires
    /// no later than this timeout ends.
    pub(super) async fn wait_for<T>(
        &self,
        mut response: Pin<&mut impl Future<Output = T>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Option<T> {
        poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            loop {
                ready!(timer.as_mut().poll(cx));
                let end = self.end();
                if end <= Instant::now() {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(end);
            }
        })
        .await
    }

    /// When it ends, unless another piece of the request is sent before.
    pub(super) fn end(&self) -> Instant {
        let last = self.progress.as_ref().map(Progress::last_piece);
        last.map_or(self.started, |last| last.max(self.started)) + self.length
    }
}

#[cfg(test)]
mod tests;
