//! Whether the server can be used: shared → suspect → fallback → recovering → shared.
//!
//! Invariant: a failure alone changes nothing for requests. Service goes on without the server only
//! when no operation has succeeded for [`FALLBACK_AFTER`] and a request needed one.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;

/// How long a request may be without the server, at most, before it goes on without it.
pub(super) const FALLBACK_AFTER: Duration = Duration::from_secs(1);
/// How long operations must succeed after an outage before the server is used again.
pub(super) const RECOVERY: Duration = Duration::from_secs(1);

/// Whether the server is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is used, and the last operation has succeeded.
    Shared,
    /// It is used, and the last operation has failed.
    Suspect,
    /// Service goes on without it.
    Fallback,
    /// It can be used again. Service goes on without it for another moment.
    Recovering,
}

impl Phase {
    pub(crate) const ALL: [Self; 4] = [
        Self::Shared,
        Self::Suspect,
        Self::Fallback,
        Self::Recovering,
    ];

    /// The name in metrics and on pages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Suspect => "suspect",
            Self::Fallback => "fallback",
            Self::Recovering => "recovering",
        }
    }

    /// Whether requests use the server.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::Suspect)
    }
}

/// The state of the server, as this gateway sees it.
#[derive(Debug)]
pub(super) struct Health {
    phase: Phase,
    last_success: Instant,
    last_failure: Option<Failure>,
    /// A request needed the server since the last success.
    is_needed: bool,
    /// When operations began to succeed again, and for how long they must.
    recovery: Option<(Instant, Duration)>,
    /// When service began to go on without the server.
    fallback_since: Instant,
}

impl Health {
    /// The state before the first connection: service goes on without the server.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Fallback,
            last_success: now,
            last_failure: None,
            is_needed: false,
            recovery: None,
            fallback_since: now,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }

    pub(super) fn last_success(&self) -> Instant {
        self.last_success
    }

    /// When service began to go on without the server; `None` while it is used.
    pub(super) fn fallback_since(&self) -> Option<Instant> {
        (!self.phase.is_shared()).then_some(self.fallback_since)
    }

    /// An operation has succeeded. Recovery takes [`RECOVERY`] and a `jitter`, so that not all
    /// gateways return at the same time.
    pub(super) fn record_success(&mut self, now: Instant, jitter: impl FnOnce() -> Duration) {
        self.last_success = now;
        self.is_needed = false;
        match (self.phase, self.recovery) {
            (Phase::Shared, _) => {}
            (Phase::Suspect, _) => self.phase = Phase::Shared,
            // The first connection, without an outage before it.
            (Phase::Fallback, _) if self.last_failure.is_none() => self.phase = Phase::Shared,
            (Phase::Recovering, Some((begun, length))) => {
                if now >= begun + length {
                    self.phase = Phase::Shared;
                }
            }
            (Phase::Fallback | Phase::Recovering, _) => {
                self.phase = Phase::Recovering;
                self.recovery = Some((now, RECOVERY + jitter()));
            }
        }
    }

    /// An operation has failed, or there was no connection for it.
    pub(super) fn record_failure(&mut self, failure: Failure, is_needed: bool, now: Instant) {
        self.last_failure = Some(failure);
        // A heartbeat that fails after a request must not hide that one needed the server.
        self.is_needed |= is_needed;
        match self.phase {
            Phase::Shared => self.phase = Phase::Suspect,
            // The outage goes on, so `fallback_since` stays. Recovery begins anew.
            Phase::Recovering => self.phase = Phase::Fallback,
            Phase::Suspect | Phase::Fallback => {}
        }
        self.check(now);
    }

    /// A request needs the server, and there is no connection.
    pub(super) fn record_need(&mut self, now: Instant) {
        self.is_needed = true;
        self.check(now);
    }

    /// Ends the use of the server, if that is due.
    pub(super) fn check(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.phase = Phase::Fallback;
            self.fallback_since = now;
        }
    }

    /// When the use of the server ends unless an operation succeeds before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        // An outage that no request notices changes nothing, and is not reported.
        let is_due = self.phase == Phase::Suspect && self.is_needed;
        is_due.then(|| self.last_success + FALLBACK_AFTER)
    }
}
