//! In what order a worker does what is ready.
//!
//! A worker with many calls at hand that carries each as far as it goes writes
//! a little every few microseconds, between doing everything else: whoever is
//! written to is woken by each write, and nothing that was just done is still
//! in the cache when it is done for the next call. So calls read and think
//! first, and write when all have (figures in benches/README.md).
//! Invariant: nothing is waited for but other tasks that are ready.

use std::future::poll_fn;
use std::task::Poll;

/// Lets the worker's other tasks go first that are ready now. Of `calls` in
/// flight, one that is alone goes on at once.
pub(crate) async fn to_ready_tasks(calls: usize) {
    let mut is_behind = calls <= 1;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_behind, true) {
            return Poll::Ready(());
        }
        // Not `tokio::task::yield_now`: that waits for a look at all sockets, too.
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
    async fn all_read_before_one_writes() {
        let done = RefCell::new(Vec::new());
        let done: &'static RefCell<_> = Box::leak(Box::new(done));
        let tasks = LocalSet::new();
        for call in 0..3 {
            tasks.spawn_local(async move {
                done.borrow_mut().push(("reads", call));
                to_ready_tasks(3).await;
                done.borrow_mut().push(("writes", call));
            });
        }
        tasks.await;
        let all = |what| (0..3).map(move |call| (what, call));
        assert_eq!(
            *done.borrow(),
            all("reads").chain(all("writes")).collect::<Vec<_>>()
        );
    }
}
