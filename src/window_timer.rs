//! A worker's alarm: wakes those who wait for a moment, on time.
//!
//! tokio's timer counts whole milliseconds, and so does its wait for the next
//! of them: what sleeps on it wakes up to two late. While a worker keeps its
//! alarm, a timer of the kernel's wakes them instead; everywhere else, above
//! all in simulated time, they sleep on tokio's clock. Invariants: nobody is
//! woken early, each is woken once, and whoever stops waiting leaves nothing
//! behind; while somebody waits, the timer is set for the first deadline or
//! for a moment before it.

mod lateness;
mod queue;
#[cfg_attr(target_os = "linux", path = "window_timer/timerfd.rs")]
#[cfg_attr(not(target_os = "linux"), path = "window_timer/no_timer.rs")]
mod timer;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use lateness::Lateness;
use queue::{Place, Queue};
use timer::Timer;

/// One worker's alarm; without anybody who keeps it, tokio's clock.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// Locked by its own worker only, and never while something is awaited.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None while nobody keeps the alarm.
    timer: Option<Arc<Timer>>,
    /// The moment it was last set for, if its lateness tells anything.
    set_for: Option<Instant>,
    lateness: Lateness,
    queue: Queue,
}

impl Alarm {
    /// Keeps the alarm for as long as this is polled, in the runtime of those
    /// who wait for it. Where the system has no such timer it does nothing.
    pub(crate) async fn keep(&self) -> Infallible {
        let Err(error) = self.ring().await;
        tracing::info!(%error, "no timer of the kernel's: windows end with the runtime's ticks");
        std::future::pending().await
    }

    async fn ring(&self) -> io::Result<Infallible> {
        let timer = Arc::new(Timer::new()?);
        self.lock().timer = Some(Arc::clone(&timer));
        let _kept = Kept(self);
        loop {
            timer.fired().await?;
            let now = Instant::now();
            self.lock().fired(now);
            self.wake_due(now);
            self.lock().set()?;
        }
    }

    fn wake_due(&self, now: Instant) {
        loop {
            // A statement of its own: the lock is let go before anybody wakes.
            let due = self.lock().queue.take_due(now);
            match due {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }

    /// Waits until `deadline`.
    pub(crate) async fn at(&self, deadline: Instant) {
        let waiting = Waiting {
            alarm: self,
            deadline,
            place: None,
        };
        waiting.await;
        if Instant::now() < deadline {
            tokio::time::sleep_until(deadline).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sets the timer for whoever is first.
    fn set(&mut self) -> io::Result<()> {
        let (Some(timer), Some(deadline)) = (&self.timer, self.queue.first()) else {
            return Ok(());
        };
        let now = Instant::now();
        let wait = deadline.saturating_duration_since(now);
        let ahead = self.lateness.ahead_of(wait);
        self.set_for = ahead.map(|ahead| now + ahead);
        timer.set(ahead.unwrap_or(wait))
    }

    /// The timer was seen to have fired.
    fn fired(&mut self, now: Instant) {
        if let Some(moment) = self.set_for.take() {
            self.lateness.observe(now.saturating_duration_since(moment));
        }
    }
}

/// An alarm that is kept; afterwards all who wait are sent to tokio's clock.
struct Kept<'a>(&'a Alarm);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let all = {
            let mut state = self.0.lock();
            state.timer = None;
            state.queue.take_all()
        };
        all.for_each(Waker::wake);
    }
}

/// Ends at the deadline; sooner only where nobody keeps the alarm.
struct Waiting<'a> {
    alarm: &'a Alarm,
    deadline: Instant,
    /// Its place in the queue, once it has one.
    place: Option<Place>,
}

impl Future for Waiting<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if Instant::now() >= this.deadline {
            return Poll::Ready(());
        }
        let mut state = this.alarm.lock();
        if state.timer.is_none() {
            return Poll::Ready(());
        }
        let deadline = this.deadline;
        let place = *this
            .place
            .get_or_insert_with(|| state.queue.place(deadline));
        // Only a new first deadline moves the timer: windows are nearly always
        // equal, so a newcomer's is the last.
        let sooner = state.queue.put(place, cx.waker().clone());
        if sooner && state.set().is_err() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            // A timer set for it fires in vain, once: cheaper than to set it anew.
            self.alarm.lock().queue.leave(place);
        }
    }
}
