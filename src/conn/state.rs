//! What a connection is doing, and since when.
//!
//! The connection's task, its stream, its requests and their bodies report events
//! here (`on_*`); [`lifecycle`](super::lifecycle) reads the result.
//!
//! Invariants: events and queries of each poll take no lock, and mostly do not read
//! the clock; the phase is `Serving` exactly while requests are in flight.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::send_tracker::SendTracker;
use crate::config;

/// What a request knows of its connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnCtx {
    /// The client's address; `None` for connections from within this process.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) state: Arc<ConnState>,
}

/// The state of one connection.
///
/// All events come from one thread, except those of requests that outlive their
/// connection. No invariant spans two fields, so relaxed atomics suffice.
#[derive(Debug)]
pub(crate) struct ConnState {
    timeouts: Timeouts,
    /// Times below are nanoseconds since then; zero means "never".
    accepted_at: Instant,
    /// The phase in the two lowest bits; above them, since when it lasts. In one
    /// word, so that the two always match.
    phase: AtomicU64,
    /// Requests whose responses have not ended.
    in_flight: AtomicUsize,
    /// Request bodies that are not yet read to their end. An abandoned one counts
    /// for the rest of the connection.
    pending_bodies: AtomicUsize,
    /// A body was abandoned: no HTTP/1 request can be read behind it.
    has_abandoned_body: AtomicBool,
    /// The client waits for `100 Continue` before it sends a body.
    expects_continue: AtomicBool,
    /// Since when the stream accepts none of the bytes to be written.
    blocked_since: AtomicU64,
    /// The stream was shut down, or is being shut down.
    is_shut_down: AtomicBool,
    /// Present if the client speaks HTTP/2. Boxed: most connections have none.
    send_tracker: OnceLock<Box<SendTracker>>,
}

/// The timeouts of one connection, from `[server]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// From the first byte of a head to its last; for the first request from the
    /// accept.
    pub(crate) header: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// Without progress, while the client could read bytes of a response.
    pub(crate) response_read: Duration,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between two requests.
    Idle = 0,
    /// The head of a request is due: the first one on the connection, or one that
    /// has begun to arrive.
    ReadingHead = 1,
    /// Requests are in flight.
    Serving = 2,
}

/// The 62 bits above these hold nanoseconds for 146 years.
const PHASE_BITS: u32 = 2;

impl ConnState {
    /// A connection that was just accepted.
    pub(crate) fn new(settings: &config::Server) -> Self {
        Self {
            timeouts: Timeouts {
                header: settings.header_timeout,
                idle: settings.idle_timeout,
                response_read: settings.body_timeout,
            },
            accepted_at: Instant::now(),
            phase: AtomicU64::new(Phase::ReadingHead as u64),
            in_flight: AtomicUsize::new(0),
            pending_bodies: AtomicUsize::new(0),
            has_abandoned_body: AtomicBool::new(false),
            expects_continue: AtomicBool::new(false),
            blocked_since: AtomicU64::new(0),
            is_shut_down: AtomicBool::new(false),
            send_tracker: OnceLock::new(),
        }
    }

    // === events of the stream ===

    /// The client speaks HTTP/2.
    pub(crate) fn on_http2(&self) {
        self.send_tracker.get_or_init(Box::default);
    }

    /// Bytes arrived.
    pub(crate) fn on_bytes_received(&self) {
        // These bytes may be the rest of a body whose response was already sent.
        let is_of_body =
            || self.pending_bodies.load(Relaxed) != 0 && !self.has_abandoned_body.load(Relaxed);
        // Frames of HTTP/2 are not heads: a connection without streams stays idle.
        if self.phase() == Phase::Idle && !self.is_http2() && !is_of_body() {
            self.enter(Phase::ReadingHead, Instant::now());
        }
    }

    /// A write was accepted by the stream, or it was blocked.
    pub(crate) fn on_write(&self, made_progress: bool) {
        let was_blocked = self.blocked_since.load(Relaxed) != 0;
        if made_progress && was_blocked {
            self.blocked_since.store(0, Relaxed);
            let now = Instant::now();
            self.on_response_read(now);
            if let Some(tracker) = self.send_tracker() {
                tracker.on_stream_unblocked(self.nanos(now));
            }
        } else if !made_progress && !was_blocked {
            // Only the first blocked write counts. At least 1, since zero means "never".
            let since = self.nanos(Instant::now()).max(1);
            self.blocked_since.store(since, Relaxed);
        }
    }

    /// The client has read a response that was unread.
    pub(super) fn on_response_read(&self, now: Instant) {
        // The idle timeout starts again: before, the client had no reason to send
        // another request.
        let phase = self.phase();
        if phase != Phase::Serving {
            self.enter(phase, now);
        }
    }

    /// The stream is being shut down.
    pub(crate) fn on_shutdown(&self) {
        self.is_shut_down.store(true, Relaxed);
    }

    // === events of requests ===

    /// The head of a request is complete.
    pub(crate) fn on_request_started(&self, now: Instant) {
        self.in_flight.fetch_add(1, Relaxed);
        self.enter(Phase::Serving, now);
    }

    /// The response to a request has ended.
    pub(crate) fn on_response_ended(&self, now: Instant) {
        if self.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.enter(Phase::Idle, now);
        }
    }

    /// A request has a body.
    pub(super) fn on_body_started(&self, expects_continue: bool) {
        self.pending_bodies.fetch_add(1, Relaxed);
        if expects_continue {
            self.expects_continue.store(true, Relaxed);
        }
    }

    /// A body was read to its end.
    pub(super) fn on_body_ended(&self) {
        self.pending_bodies.fetch_sub(1, Relaxed);
        if self.phase() == Phase::Idle {
            // The response was sent before the body ended: the idle timeout starts now.
            self.enter(Phase::Idle, Instant::now());
        }
    }

    /// A body will not be read to its end.
    pub(super) fn on_body_abandoned(&self) {
        self.has_abandoned_body.store(true, Relaxed);
    }

    // === commands ===

    /// Accepts the body that the client sends only after `100 Continue`. False if it
    /// was declined before.
    pub(super) fn accept_body(&self) -> bool {
        // A swap, because the body and the response may decide at the same time: only
        // one of them finds `true`.
        self.expects_continue.swap(false, Relaxed)
    }

    /// Declines a body that was not yet accepted. Returns whether an HTTP/1
    /// connection must end with the response that is about to be sent.
    pub(crate) fn decline_body(&self) -> bool {
        // In both cases a body may be in front of the next request: a client may send it
        // without waiting for `100 Continue` (RFC 9110 §10.1.1).
        // A load first, because a swap for each response would cost more.
        let declines =
            self.expects_continue.load(Relaxed) && self.expects_continue.swap(false, Relaxed);
        declines || self.has_abandoned_body.load(Relaxed)
    }

    // === queries ===

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Requests in flight, including those whose client has disconnected.
    pub(crate) fn requests_in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.send_tracker().is_some()
    }

    /// The unread responses, if the client speaks HTTP/2.
    pub(super) fn send_tracker(&self) -> Option<&SendTracker> {
        self.send_tracker.get().map(|tracker| &**tracker)
    }

    /// What the connection is doing.
    pub(super) fn phase(&self) -> Phase {
        phase_of(self.phase.load(Relaxed))
    }

    /// What the connection is doing, and since when.
    pub(super) fn phase_since(&self) -> (Phase, Instant) {
        let packed = self.phase.load(Relaxed);
        (phase_of(packed), self.instant(packed >> PHASE_BITS))
    }

    /// Since when an HTTP/1 connection is idle, with nothing left to read or to
    /// write; `None` if it is not.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        let (phase, since) = self.phase_since();
        let is_quiet = phase == Phase::Idle
            && self.in_flight.load(Relaxed) == 0
            && self.pending_bodies.load(Relaxed) == 0
            && self.blocked_since.load(Relaxed) == 0
            && !self.is_shut_down.load(Relaxed)
            && !self.is_http2();
        is_quiet.then_some(since)
    }

    /// Since when the client reads nothing although bytes of a response are ready;
    /// `None` if there are no such bytes.
    pub(super) fn response_unread_since(&self) -> Option<Instant> {
        // Independent of requests in flight: a request has ended when its last bytes
        // are buffered, and the client may never read them.
        let blocked = self.blocked_since.load(Relaxed);
        let unread = self.send_tracker().map_or(0, SendTracker::unread_since);
        let since = match (blocked, unread) {
            (0, 0) => return None,
            (0, since) | (since, 0) => since,
            (blocked, unread) => blocked.min(unread),
        };
        Some(self.instant(since))
    }

    /// The nanoseconds from when the connection was accepted until `time`.
    pub(super) fn nanos(&self, time: Instant) -> u64 {
        let nanos = time.saturating_duration_since(self.accepted_at).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn instant(&self, nanos: u64) -> Instant {
        self.accepted_at + Duration::from_nanos(nanos)
    }

    fn enter(&self, phase: Phase, now: Instant) {
        let packed = self.nanos(now) << PHASE_BITS | phase as u64;
        self.phase.store(packed, Relaxed);
    }
}

fn phase_of(packed: u64) -> Phase {
    match packed & ((1 << PHASE_BITS) - 1) {
        0 => Phase::Idle,
        1 => Phase::ReadingHead,
        _ => Phase::Serving,
    }
}
