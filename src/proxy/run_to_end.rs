//! Finishes a request even if its client has disconnected (rule: sent once).
//!
//! hyper drops the future of a request when its client disconnects. Invariant: a future
//! in [`RunToEnd`] then goes on in a separate task. (If the client disconnected within
//! the request body, reading the body fails there and aborts the upstream request.)

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_util::task::TaskTracker;

/// A future that is polled to its end, also when its owner drops it.
pub(crate) struct RunToEnd<F: Future<Output: Send + 'static> + Send + 'static> {
    /// `None` once it has ended.
    future: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F: Future<Output: Send + 'static> + Send + 'static> RunToEnd<F> {
    pub(crate) fn new(future: F, tasks: TaskTracker) -> Self {
        Self {
            future: Some(Box::pin(future)),
            tasks,
        }
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Future for RunToEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self
            .future
            .as_mut()
            .expect("a future is not polled after its end");
        let output = ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(output)
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Drop for RunToEnd<F> {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else {
            return;
        };
        // A future that panicked must not be polled again. Without a runtime no task can
        // be started: the process is ending.
        if !std::thread::panicking() && tokio::runtime::Handle::try_current().is_ok() {
            self.tasks.spawn(future);
        }
    }
}
