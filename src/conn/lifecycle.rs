//! The deadline of a connection, and what follows when it has passed.
//!
//! The loops of `server` poll the stream, then [`Lifecycle::poll`], and execute
//! the [`Action`] it returns. They decide nothing themselves.
//!
//! | Deadline | Follows |
//! | --- | --- |
//! | a response is not read for `server.body_timeout` | cut; on HTTP/2 the other streams have [`LINGERING_CLOSE`] to end first |
//! | a head is not complete after `server.header_timeout` | cut |
//! | no request for `server.idle_timeout` | close |
//! | drain, and no request for [`DRAIN_GRACE`] | close |
//! | drain, and requests in flight or HTTP/2 | close at once: responses are still delivered |
//! | [`LINGERING_CLOSE`] after the close, with no request in flight | cut |
//! | HTTP/1 idle for [`PARK_AFTER`] | park: free the state of HTTP |
//!
//! Invariants: a call of [`Lifecycle::poll`] that finds nothing due reads no
//! clock; a wake-up before the deadline changes nothing.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::state::{ConnState, Phase};
use super::timer::{ConnTimer, Wakeup};
use super::{DRAIN_GRACE, LINGERING_CLOSE};

/// How long a connection is idle before it is parked. The next request of a
/// busy client comes sooner and finds the state of HTTP in place.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// What the server must do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Free the state of HTTP and wait on the bare stream.
    Park,
    /// Take no further request. Requests in flight are served, then the stream
    /// is shut down.
    Close,
    /// Drop the stream.
    Cut,
}

/// Decides when a connection ends, and how.
pub(crate) struct Lifecycle<'c> {
    state: Arc<ConnState>,
    timer: ConnTimer<'c>,
    end: End,
    /// hyper serves the connection, so parking it frees memory.
    can_park: bool,
}

/// How far the end of the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not in sight.
    Open,
    /// A drain has begun. The connection is closed at `until`, or with the
    /// response to a request that arrives before.
    DrainGrace { until: Instant },
    /// The server takes no further request since `since`.
    Closing { since: Instant },
    /// As `Closing`. A response is not read, and ends the connection at `at`.
    Cutting { since: Instant, at: Instant },
    /// The stream is being shut down, which may take until `until`.
    ShuttingDown { until: Instant },
}

impl<'c> Lifecycle<'c> {
    pub(crate) fn new(state: Arc<ConnState>, timer: ConnTimer<'c>) -> Self {
        Self {
            state,
            timer,
            end: End::Open,
            can_park: false,
        }
    }

    pub(crate) fn state(&self) -> &Arc<ConnState> {
        &self.state
    }

    /// Waits until the connection needs an action.
    ///
    /// To be polled after the stream: what the stream reported moves the
    /// deadline.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Action> {
        loop {
            let deadline = self.deadline();
            let action = match ready!(self.timer.poll(cx, deadline)) {
                Wakeup::Drain => self.on_drain(Instant::now()),
                Wakeup::Timer => self.on_timeout(Instant::now()),
            };
            if let Some(action) = action {
                return Poll::Ready(action);
            }
        }
    }

    /// Waits until `until`, which is closer than any deadline. A drain that
    /// begins meanwhile is noted.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        loop {
            match ready!(self.timer.poll(cx, Some(until))) {
                // No request is in flight, so no action follows yet.
                Wakeup::Drain => drop(self.on_drain(Instant::now())),
                Wakeup::Timer if until <= Instant::now() => return Poll::Ready(()),
                Wakeup::Timer => {}
            }
        }
    }

    // === events of the server's loops ===

    /// hyper begins or ends to serve the connection.
    pub(crate) fn set_can_park(&mut self, can_park: bool) {
        self.can_park = can_park;
    }

    /// A response without `Connection: close` was sent. The client may have sent
    /// another request since, even if a drain began.
    pub(crate) fn on_response_sent(&mut self) {
        if self.timer.is_draining() {
            let until = Instant::now() + DRAIN_GRACE;
            self.end = End::DrainGrace { until };
        }
    }

    /// The server begins to shut down the stream.
    pub(crate) fn on_shutdown(&mut self) {
        let until = Instant::now() + LINGERING_CLOSE;
        self.end = End::ShuttingDown { until };
    }

    // === decisions ===

    /// When [`on_timeout`](Self::on_timeout) must look at the connection.
    fn deadline(&self) -> Option<Instant> {
        match self.end {
            End::Open => earlier(self.park_at(), self.timeout()),
            End::DrainGrace { until } => {
                earlier(self.can_close_now().then_some(until), self.timeout())
            }
            End::Closing { since } => self.lingering_timeout(since),
            End::Cutting { at, .. } => Some(at),
            End::ShuttingDown { until } => Some(until),
        }
    }

    /// The timer has fired, for the present deadline or for an earlier one.
    fn on_timeout(&mut self, now: Instant) -> Option<Action> {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        match self.end {
            End::Open | End::DrainGrace { .. } if is_due(self.timeout()) => {
                let is_idle = self.state.phase() == Phase::Idle
                    && self.state.response_unread_since().is_none();
                match is_idle {
                    true => Some(self.close(now)),
                    false => Some(self.cut(now, now)),
                }
            }
            End::Open => is_due(self.park_at()).then_some(Action::Park),
            End::DrainGrace { until } => {
                (until <= now && self.can_close_now()).then(|| self.close(now))
            }
            End::Closing { since } => {
                is_due(self.lingering_timeout(since)).then(|| self.cut(now, since))
            }
            End::Cutting { at, .. } if now < at => None,
            End::Cutting { since, .. } if is_due(self.lingering_timeout(since)) => {
                Some(self.cut(now, since))
            }
            End::Cutting { since, .. } => {
                // The client reads again: the connection may end in peace.
                self.end = End::Closing { since };
                None
            }
            End::ShuttingDown { until } => (until <= now).then_some(Action::Cut),
        }
    }

    /// The drain begins.
    fn on_drain(&mut self, now: Instant) -> Option<Action> {
        if self.end != End::Open {
            // The end is near already.
            return None;
        }
        if self.state.phase() == Phase::Serving || self.state.is_http2() {
            return Some(self.close(now));
        }
        let until = now + DRAIN_GRACE;
        self.end = End::DrainGrace { until };
        None
    }

    fn close(&mut self, now: Instant) -> Action {
        self.end = End::Closing { since: now };
        Action::Close
    }

    /// Ends a connection whose time is up, and which takes no further request
    /// since `since`.
    fn cut(&mut self, now: Instant, since: Instant) -> Action {
        let is_first = !matches!(self.end, End::Cutting { .. });
        if is_first && self.state.is_http2() && self.state.phase() == Phase::Serving {
            // One stream is stuck. The other streams are not at fault: no
            // further ones are taken, and these have a while to end.
            let at = now + LINGERING_CLOSE;
            self.end = End::Cutting { since, at };
            return Action::Close;
        }
        if self.timer.is_draining() && self.state.response_unread_since().is_some() {
            // Counts for the exit code: a response was not delivered.
            self.timer.drain().record_cut();
        }
        Action::Cut
    }

    // === times ===

    /// When a connection that is open has been idle or stuck for too long.
    fn timeout(&self) -> Option<Instant> {
        let timeouts = self.state.timeouts();
        // An unread response comes first: until it is read, the client has no
        // reason to send a request.
        self.response_read_timeout().or_else(|| {
            let (phase, since) = self.state.phase_since();
            match phase {
                Phase::Idle => Some(since + timeouts.idle),
                Phase::ReadingHead => Some(since + timeouts.header),
                // The upstream has its own timeout.
                Phase::Serving => None,
            }
        })
    }

    /// When a connection that is closing since `since` has been idle or stuck for
    /// too long.
    fn lingering_timeout(&self, since: Instant) -> Option<Instant> {
        self.response_read_timeout().or_else(|| {
            let (phase, entered) = self.state.phase_since();
            (phase != Phase::Serving).then(|| entered.max(since) + LINGERING_CLOSE)
        })
    }

    fn response_read_timeout(&self) -> Option<Instant> {
        let since = self.state.response_unread_since()?;
        Some(since + self.state.timeouts().response_read)
    }

    fn park_at(&self) -> Option<Instant> {
        let since = self.can_park.then(|| self.state.quiet_since())??;
        Some(since + PARK_AFTER)
    }

    /// Whether a drain may close the connection without a request. A request of
    /// HTTP/1 that is in flight ends its connection itself, by the
    /// `Connection: close` of its response; HTTP/2 needs a GOAWAY.
    fn can_close_now(&self) -> bool {
        self.state.phase() != Phase::Serving || self.state.is_http2()
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
