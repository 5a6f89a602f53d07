//! What wakes a connection besides its stream: its deadline, and the drain.
//!
//! Invariant: a connection has one timer, set anew only when its deadline
//! moves closer; a request that comes and goes in time arms nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::state::Activity;
use crate::conn::drain::Drain;

/// "No deadline": the timer is looked at again by then.
const FAR: Duration = Duration::from_secs(3600);

/// What wakes a connection.
pub(crate) struct Bell<'c> {
    timer: Pin<&'c mut Sleep>,
    drain: &'c Drain,
    begun: Pin<&'c mut (dyn Future<Output = ()> + Send + 'c)>,
    is_draining: bool,
    /// Who is woken by the timer and the drain. Both are asked to wake once,
    /// not in every turn of a busy connection.
    waker: Option<Waker>,
    is_armed: bool,
}

/// Why it rang.
pub(crate) enum Ring {
    /// The drain begins; told once.
    Drain,
    /// A deadline may have passed.
    Timer,
}

impl<'c> Bell<'c> {
    /// A timer made by [`timer`], and the drain with its beginning.
    pub(crate) fn new(
        timer: Pin<&'c mut Sleep>,
        drain: &'c Drain,
        begun: Pin<&'c mut (dyn Future<Output = ()> + Send + 'c)>,
    ) -> Self {
        Self {
            timer,
            drain,
            begun,
            is_draining: false,
            waker: None,
            is_armed: false,
        }
    }

    /// Whether it has told of a drain.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// The connection is being cut. A drain is told of it if the client has not
    /// all of its answers.
    pub(crate) fn cuts(&self, activity: &Activity) {
        if self.is_draining && activity.has_unread() {
            self.drain.cuts();
        }
    }

    /// Rings at this moment, be it later than what it was set to.
    pub(crate) fn set(&mut self, moment: Instant) {
        self.timer.as_mut().reset(moment);
        self.is_armed = false;
    }

    /// Waits for the drain, and until the timer's moment or a closer deadline.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<Ring> {
        let is_known = self
            .waker
            .as_ref()
            .is_some_and(|it| it.will_wake(cx.waker()));
        if !is_known {
            self.waker = Some(cx.waker().clone());
            self.is_armed = false;
        }
        let begins = !self.is_draining
            && (self.drain.has_begun() || !is_known && self.begun.as_mut().poll(cx).is_ready());
        if begins {
            self.is_draining = true;
            return Poll::Ready(Ring::Drain);
        }
        if let Some(deadline) = deadline.filter(|deadline| *deadline < self.timer.deadline()) {
            self.set(deadline);
        }
        if self.is_armed && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        // A task that has used up its turn is put off before the timer knows of
        // it; it is polled again, and asks again then.
        self.is_armed = tokio::task::coop::has_budget_remaining();
        ready!(self.timer.as_mut().poll(cx));
        self.set(Instant::now() + FAR);
        Poll::Ready(Ring::Timer)
    }
}

/// A timer that is not set yet.
pub(crate) fn timer() -> Sleep {
    tokio::time::sleep(FAR)
}
