//! The order in which a worker runs tasks that are ready.
//!
//! If each task ran from read to write without a break, the worker would write a
//! little every few microseconds. Each write wakes the peer, and other work in
//! between empties the caches. So all ready requests are read and processed first,
//! and their writes follow together (figures in `benches/README.md`).
//!
//! Invariant: a task waits only for other tasks that are ready now.

use std::future::poll_fn;
use std::task::Poll;

/// Lets the worker's other ready tasks run first. With a single request in
/// flight there is nothing to wait for, and it returns at once.
pub(crate) async fn to_ready_tasks(requests_in_flight: usize) {
    let mut has_yielded = requests_in_flight <= 1;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        // `tokio::task::yield_now` would also wait until the runtime has polled
        // all sockets. This only moves the task to the end of the queue.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn all_tasks_read_before_one_writes() {
        let steps = RefCell::new(Vec::new());
        let steps: &'static RefCell<_> = Box::leak(Box::new(steps));
        let tasks = LocalSet::new();
        for request in 0..3 {
            tasks.spawn_local(async move {
                steps.borrow_mut().push(("read", request));
                to_ready_tasks(3).await;
                steps.borrow_mut().push(("written", request));
            });
        }
        tasks.await;
        let all = |step| (0..3).map(move |request| (step, request));
        assert_eq!(
            *steps.borrow(),
            all("read").chain(all("written")).collect::<Vec<_>>()
        );
    }
}
