//! A call, once begun, is finished, even if the client has gone.
//!
//! hyper drops the future of a request when its client leaves. Invariant: a
//! call wrapped in [`Finish`] then goes on in a task of its own. (If the
//! client left in the middle of its body, that task soon meets the break and
//! aborts the upstream request.)

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_util::task::TaskTracker;

/// A call that is finished in any case.
pub(crate) struct Finish<F: Future<Output: Send + 'static> + Send + 'static> {
    /// `None` once it has ended.
    call: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Finish<F> {
    pub(crate) fn new(call: F, tasks: TaskTracker) -> Self {
        Self {
            call: Some(Box::pin(call)),
            tasks,
        }
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Future for Finish<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let call = self
            .call
            .as_mut()
            .expect("a future is not polled after its end");
        let output = ready!(call.as_mut().poll(cx));
        self.call = None;
        Poll::Ready(output)
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Drop for Finish<F> {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        // A call that panicked cannot go on, and without a runtime (it is
        // being shut down) nothing can.
        if !std::thread::panicking() && tokio::runtime::Handle::try_current().is_ok() {
            self.tasks.spawn(call);
        }
    }
}
