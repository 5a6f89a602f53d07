//! Timeouts of a connection, and when it is closed, cut or parked.
//!
//! The loops of `server` poll the stream, then [`Lifecycle::poll`], and execute
//! the [`Action`] it returns. They decide nothing themselves.
//!
//! | When | Action |
//! | --- | --- |
//! | a response is not read for `server.body_timeout` | cut; on HTTP/2 first GOAWAY, and cut after [`LINGERING_CLOSE`] if still unread |
//! | a head is not complete after `server.header_timeout` | cut |
//! | no request for `server.idle_timeout` | close |
//! | drain, and no request for [`DRAIN_GRACE`] | close |
//! | drain, and requests in flight or HTTP/2 | stop accepting at once; responses in flight are still delivered |
//! | [`LINGERING_CLOSE`] after the close, with no request in flight | cut |
//! | HTTP/1 idle for [`PARK_AFTER`] | park: free the HTTP state |
//!
//! Invariants: a [`Lifecycle::poll`] with nothing due does not read the clock; a
//! wake-up before the deadline changes nothing.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::state::{ConnState, Phase};
use super::timer::{ConnTimer, Wakeup};
use super::{DRAIN_GRACE, LINGERING_CLOSE};

/// How long a connection is idle before it is parked. The next request of a
/// busy client arrives sooner, and uses the HTTP state again.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// What the server must do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Free the HTTP state and wait on the stream alone.
    Park,
    /// Take no further request. Requests in flight are served, then the stream
    /// is shut down. (The fast path may take one more: see
    /// [`on_response_sent`](Lifecycle::on_response_sent).)
    Close,
    /// Drop the stream.
    Cut,
}

/// Decides when a connection ends, and how.
pub(crate) struct Lifecycle<'c> {
    state: Arc<ConnState>,
    timer: ConnTimer<'c>,
    stage: Stage,
    /// hyper serves the connection, so parking it frees memory.
    can_park: bool,
}

/// How close the connection is to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Requests are accepted.
    Open,
    /// A drain has begun. The connection is closed at `until`, or with the
    /// response to a request that arrives before.
    DrainGrace { until: Instant },
    /// No further request is accepted since `since`. On the fast path
    /// [`on_response_sent`](Lifecycle::on_response_sent) may end this stage.
    Closing { since: Instant },
    /// As `Closing`, and a response is not being read: the connection is cut `at`.
    Cutting { since: Instant, at: Instant },
    /// The stream is being shut down, which may take until `until`.
    ShuttingDown { until: Instant },
}

impl<'c> Lifecycle<'c> {
    pub(crate) fn new(state: Arc<ConnState>, timer: ConnTimer<'c>) -> Self {
        Self {
            state,
            timer,
            stage: Stage::Open,
            can_park: false,
        }
    }

    pub(crate) fn state(&self) -> &Arc<ConnState> {
        &self.state
    }

    /// Waits until the connection needs an action.
    ///
    /// Poll it after the stream: what the stream reported moves the deadline.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Action> {
        // Loops until the timer is registered for the deadline of now: a wake-up may
        // have been for an earlier one.
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

    /// Waits until `until`, which must be earlier than every deadline. If a drain begins
    /// meanwhile, that is recorded.
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

    /// A response without `Connection: close` was sent.
    pub(crate) fn on_response_sent(&mut self) {
        // The drain began after the head of the response was made. The client expects
        // an open connection, and another request may be on its way.
        if self.timer.is_draining() {
            let until = Instant::now() + DRAIN_GRACE;
            self.stage = Stage::DrainGrace { until };
        }
    }

    /// The server begins to shut down the stream.
    pub(crate) fn on_shutdown(&mut self) {
        let until = Instant::now() + LINGERING_CLOSE;
        self.stage = Stage::ShuttingDown { until };
    }

    // === decisions ===

    /// When [`on_timeout`](Self::on_timeout) must check the connection.
    fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Open => earlier(self.park_at(), self.timeout()),
            Stage::DrainGrace { until } => {
                earlier(self.can_close_now().then_some(until), self.timeout())
            }
            Stage::Closing { since } => self.lingering_timeout(since),
            Stage::Cutting { at, .. } => Some(at),
            Stage::ShuttingDown { until } => Some(until),
        }
    }

    /// The timer has fired, for the current deadline or for an earlier one.
    fn on_timeout(&mut self, now: Instant) -> Option<Action> {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        match self.stage {
            Stage::Open | Stage::DrainGrace { .. } if is_due(self.timeout()) => {
                // Only an idle client can still use a shutdown (with TLS a
                // `close_notify`). One that stopped in the middle gets nothing more.
                let is_idle = self.state.phase() == Phase::Idle
                    && self.state.response_unread_since().is_none();
                match is_idle {
                    true => Some(self.close(now)),
                    false => Some(self.cut(now, now)),
                }
            }
            Stage::Open => is_due(self.park_at()).then_some(Action::Park),
            Stage::DrainGrace { until } => {
                (until <= now && self.can_close_now()).then(|| self.close(now))
            }
            Stage::Closing { since } => {
                is_due(self.lingering_timeout(since)).then(|| self.cut(now, since))
            }
            Stage::Cutting { at, .. } if now < at => None,
            Stage::Cutting { since, .. } if is_due(self.lingering_timeout(since)) => {
                Some(self.cut(now, since))
            }
            Stage::Cutting { since, .. } => {
                // The client reads again: its responses are delivered.
                self.stage = Stage::Closing { since };
                None
            }
            Stage::ShuttingDown { until } => (until <= now).then_some(Action::Cut),
        }
    }

    /// The drain begins.
    fn on_drain(&mut self, now: Instant) -> Option<Action> {
        if self.stage != Stage::Open {
            // The connection is ending already.
            return None;
        }
        if self.state.phase() == Phase::Serving || self.state.is_http2() {
            // The client is notified: by `Connection: close` in the response, or by
            // GOAWAY, which says which streams are served (RFC 9113 §6.8).
            return Some(self.close(now));
        }
        // An idle HTTP/1 client cannot be notified, and may be sending a request now.
        let until = now + DRAIN_GRACE;
        self.stage = Stage::DrainGrace { until };
        None
    }

    fn close(&mut self, now: Instant) -> Action {
        self.stage = Stage::Closing { since: now };
        Action::Close
    }

    /// Cuts a connection after a timeout; `since` is when the close began,
    /// or `now`.
    fn cut(&mut self, now: Instant, since: Instant) -> Action {
        let is_first = !matches!(self.stage, Stage::Cutting { .. });
        if is_first && self.state.is_http2() && self.state.phase() == Phase::Serving {
            // One stream is stuck, and the others are not at fault. No further
            // streams are accepted, and these get some time to end.
            let at = now + LINGERING_CLOSE;
            self.stage = Stage::Cutting { since, at };
            return Action::Close;
        }
        if self.timer.is_draining() && self.state.response_unread_since().is_some() {
            // A response was not delivered: the process must exit with 1.
            self.timer.drain().record_cut();
        }
        Action::Cut
    }

    // === times ===

    /// When an open connection has been idle or stuck for too long.
    fn timeout(&self) -> Option<Instant> {
        let timeouts = self.state.timeouts();
        // An unread response takes precedence: until it is read, the client has no
        // reason to send a request.
        self.response_read_timeout().or_else(|| {
            let (phase, since) = self.state.phase_since();
            match phase {
                Phase::Idle => Some(since + timeouts.idle),
                Phase::ReadingHead => Some(since + timeouts.header),
                // It is the gateway's part to respond. `upstream.response_timeout` and the
                // timeouts of the bodies bound that.
                Phase::Serving => None,
            }
        })
    }

    /// When a connection that is closing since `since` has been idle or stuck for
    /// too long.
    fn lingering_timeout(&self, since: Instant) -> Option<Instant> {
        self.response_read_timeout().or_else(|| {
            let (phase, entered) = self.state.phase_since();
            // From the later of the two: the last request may have ended after the close.
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

    /// Whether a drain may close the connection now. A response over HTTP/1 in
    /// flight ends its connection by `Connection: close`; HTTP/2 needs a GOAWAY.
    fn can_close_now(&self) -> bool {
        self.state.phase() != Phase::Serving || self.state.is_http2()
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
