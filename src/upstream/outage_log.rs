//! Log messages while the upstream cannot be reached.
//!
//! Owns how often all workers together log. Invariants: a cause is logged when
//! it first appears and then at most once in [`PAUSE`], however many upstream
//! calls fail; a message holds nothing of a request; a call that succeeds on a
//! pooled connection costs nothing here.

use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Unreachable;

/// Short enough to see in a log that an outage lasts, long enough not to fill a
/// disk.
const PAUSE: Duration = Duration::from_secs(10);

/// Logs that the upstream cannot be reached, and that it can be again.
#[derive(Debug, Default)]
pub(super) struct OutageLog {
    /// The last attempt to make a connection failed.
    is_outage: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that failed since the last message.
    calls: u64,
    /// The last message said that the upstream cannot be reached.
    is_logged: bool,
    /// At most one of each kind, and there are few kinds.
    causes: Vec<Cause>,
}

#[derive(Debug)]
struct Cause {
    kind: Unreachable,
    /// The latest error text of the name lookup or of TLS.
    detail: Option<String>,
    last_logged: Option<Instant>,
}

impl OutageLog {
    /// Keeps the error text of a failure, for the message about it.
    pub(super) fn note_detail(&self, kind: Unreachable, detail: impl Display) {
        self.with(|state| state.cause(kind).detail = Some(detail.to_string()));
    }

    /// An upstream call could not be sent.
    pub(super) fn record_failure(&self, kind: Unreachable) {
        let message = self.with(|state| state.record(kind, Instant::now()));
        self.is_outage.store(true, Ordering::Relaxed);
        if let Some((calls, detail)) = message {
            tracing::warn!(calls, reason = %kind, detail, "the upstream cannot be reached");
        }
    }

    /// An upstream call was sent on a new connection.
    pub(super) fn record_success(&self) {
        // Read first: a write would move the cache line between all workers.
        if self.is_outage.load(Ordering::Relaxed) && self.is_outage.swap(false, Ordering::Relaxed) {
            // Only one worker gets `true` from the swap, so one message is written.
            let (calls, is_logged) = self.with(|state| {
                let calls = std::mem::take(&mut state.calls);
                (calls, std::mem::take(&mut state.is_logged))
            });
            if is_logged {
                tracing::info!(calls, "the upstream is reached again");
            }
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let state = self.state.lock();
        change(&mut state.unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl State {
    /// Counts a failed call. Returns the number of calls for a message and its
    /// detail, if one is due.
    fn record(&mut self, kind: Unreachable, now: Instant) -> Option<(u64, Option<String>)> {
        // Counted even without a message: the next one reports all of them.
        self.calls += 1;
        let cause = self.cause(kind);
        if cause.last_logged.is_some_and(|last| now - last < PAUSE) {
            return None;
        }
        // Per cause: a new one is logged at once, also within the pause of another.
        cause.last_logged = Some(now);
        let detail = cause.detail.clone();
        self.is_logged = true;
        Some((std::mem::take(&mut self.calls), detail))
    }

    fn cause(&mut self, kind: Unreachable) -> &mut Cause {
        let at = self.causes.iter().position(|cause| cause.kind == kind);
        let at = at.unwrap_or_else(|| {
            self.causes.push(Cause {
                kind,
                detail: None,
                last_logged: None,
            });
            self.causes.len() - 1
        });
        &mut self.causes[at]
    }
}

#[cfg(test)]
mod tests;
