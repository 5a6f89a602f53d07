//! Wakes a connection for its deadline, and when a drain begins.
//!
//! Invariant: a connection has one timer, which is set only when the deadline
//! moves closer. A request that ends in time does not touch it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::drain_signal::Drain;

/// The time of a timer without a deadline. When it fires, it is set again.
const NEVER: Duration = Duration::from_secs(3600);

/// The one timer of a connection, and its view of the drain.
pub(crate) struct ConnTimer<'c> {
    sleep: Pin<&'c mut Sleep>,
    drain: &'c Drain,
    drain_begun: Pin<&'c mut (dyn Future<Output = ()> + Send + 'c)>,
    /// [`Wakeup::Drain`] was reported.
    is_draining: bool,
    /// Wakes the connection's task. It is registered once with timer and drain, not
    /// with each poll of a busy connection.
    waker: Option<Waker>,
    /// `waker` is registered with the timer.
    is_registered: bool,
}

/// Why the connection was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// The drain begins. Reported once.
    Drain,
    /// The deadline may have passed, or it has moved to a later time.
    Timer,
}

impl<'c> ConnTimer<'c> {
    /// `sleep` is made by [`sleep`], `drain_begun` by [`Drain::begun`]; the
    /// caller pins them in its own future.
    pub(crate) fn new(
        sleep: Pin<&'c mut Sleep>,
        drain: &'c Drain,
        drain_begun: Pin<&'c mut (dyn Future<Output = ()> + Send + 'c)>,
    ) -> Self {
        Self {
            sleep,
            drain,
            drain_begun,
            is_draining: false,
            waker: None,
            is_registered: false,
        }
    }

    /// Whether [`poll`](Self::poll) has reported a drain.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// The drain that the connection belongs to.
    pub(super) fn drain(&self) -> &Drain {
        self.drain
    }

    /// Waits for the drain and for `deadline`. It may also return once for the
    /// earlier deadline of a previous poll.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<Wakeup> {
        let is_same_task = self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_same_task {
            self.waker = Some(cx.waker().clone());
            self.is_registered = false;
        }
        // The flag is one load. The future takes a lock, so it is polled only to
        // register a new waker. (A drain that begins between the two is not lost: the
        // future reports it when polled, or wakes the task after that.)
        let drain_begins = !self.is_draining
            && (self.drain.has_begun()
                || !is_same_task && self.drain_begun.as_mut().poll(cx).is_ready());
        if drain_begins {
            self.is_draining = true;
            return Poll::Ready(Wakeup::Drain);
        }
        // For a later deadline the timer is not set: to set it for each request would
        // cost more than one early wake-up.
        if let Some(deadline) = deadline.filter(|deadline| *deadline < self.sleep.deadline()) {
            self.set(deadline);
        }
        if self.is_registered && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // If the task has used up its budget (tokio's cooperative scheduling), the timer
        // returns `Pending` without storing the waker, and the task is polled again.
        self.is_registered = tokio::task::coop::has_budget_remaining();
        ready!(self.sleep.as_mut().poll(cx));
        self.set(Instant::now() + NEVER);
        Poll::Ready(Wakeup::Timer)
    }

    fn set(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.is_registered = false;
    }
}

/// A timer without a deadline, for [`ConnTimer::new`].
pub(crate) fn sleep() -> Sleep {
    tokio::time::sleep(NEVER)
}
