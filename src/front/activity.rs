//! What a connection is doing, and when that has gone on for too long.
//!
//! Invariant: a connection has one timer, set anew only when its deadline
//! moves closer; a request that comes and goes in time arms nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config;

/// What a connection is doing.
#[derive(Debug)]
pub(crate) struct Activity {
    header_timeout: Duration,
    idle_timeout: Duration,
    /// The longest a client may leave bytes of its answer unread.
    write_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// Calls on this connection not yet answered in full.
    calls: usize,
    http2: bool,
    /// Since when the client has taken none of the bytes it was offered.
    stalled: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// The first byte of a head is awaited, or its last.
    Head,
    /// Calls are being answered.
    Busy,
}

/// What must become of a connection whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Nothing was asked for a while: close politely.
    Idle,
    /// A head did not come, or the answer is not being read: cut.
    Stuck,
}

impl Activity {
    pub(super) fn new(settings: &config::Server) -> Self {
        Self {
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
            write_timeout: settings.body_timeout,
            state: Mutex::new(State {
                phase: Phase::Head,
                since: Instant::now(),
                calls: 0,
                http2: false,
                stalled: None,
            }),
        }
    }

    /// Bytes came from the client; `preface` if they begin HTTP/2.
    pub(super) fn received(&self, preface: bool) {
        let mut state = self.lock();
        state.http2 |= preface;
        if state.phase == Phase::Idle && !state.http2 {
            state.enter(Phase::Head);
        }
    }

    /// The client took bytes, or would not.
    pub(super) fn sent(&self, progress: bool) {
        let mut state = self.lock();
        if progress {
            state.stalled = None;
        } else if state.stalled.is_none() {
            state.stalled = Some(Instant::now());
        }
    }

    /// A request's head is complete.
    pub(super) fn began(&self) {
        let mut state = self.lock();
        state.calls += 1;
        state.enter(Phase::Busy);
    }

    /// A call has been answered in full.
    pub(crate) fn ended(&self) {
        let mut state = self.lock();
        state.calls = state.calls.saturating_sub(1);
        if state.calls == 0 {
            state.enter(Phase::Idle);
        }
    }

    /// Calls not yet finished, those whose client has gone included.
    pub(crate) fn calls(&self) -> usize {
        self.lock().calls
    }

    /// Whether calls are being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.lock().phase == Phase::Busy
    }

    /// Whether the client speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.lock().http2
    }

    /// When a connection that was asked to end at `asked` has had long enough:
    /// once nothing is being answered, or nobody reads the answers.
    pub(super) fn farewell(&self, asked: Instant, length: Duration) -> Option<Instant> {
        let state = self.lock();
        let stalled = state.stalled.map(|since| since + self.write_timeout);
        let quiet = (state.phase != Phase::Busy).then(|| state.since.max(asked) + length);
        stalled.into_iter().chain(quiet).min()
    }

    /// When the present state will have gone on for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.lock();
        let phase = match state.phase {
            Phase::Idle => Some(state.since + self.idle_timeout),
            Phase::Head => Some(state.since + self.header_timeout),
            Phase::Busy => None,
        };
        let stalled = state.stalled.map(|since| since + self.write_timeout);
        phase.into_iter().chain(stalled).min()
    }

    /// Whether it has, and what follows.
    pub(super) fn overdue(&self, now: Instant) -> Option<Overdue> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        let state = self.lock();
        let idle = state.phase == Phase::Idle && state.stalled.is_none();
        Some(if idle { Overdue::Idle } else { Overdue::Stuck })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }
}
