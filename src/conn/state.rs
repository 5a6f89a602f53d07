//! What a connection is doing, and when that has gone on for too long.
//!
//! Invariant: what is asked and told with every turn of a connection costs no
//! lock, and mostly no clock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::send_tracker::Offers;
use crate::config;

/// What a connection is doing. All on one thread but for calls that outlive
/// their client, and no two fields must agree: relaxed atomics, no lock.
#[derive(Debug)]
pub(crate) struct Activity {
    header_timeout: Duration,
    idle_timeout: Duration,
    /// The longest a client may leave bytes of its answer unread.
    write_timeout: Duration,
    /// What moments are counted from.
    born: Instant,
    /// The phase in the two lowest bits, and since when it lasts.
    state: AtomicU64,
    /// Calls on this connection not yet answered in full.
    calls: AtomicUsize,
    /// Request bodies that came on this connection and were not read to their
    /// end; one that was given up is never taken off.
    unread: AtomicUsize,
    /// One was given up: no request of HTTP/1 can be read behind it.
    gave_up: AtomicBool,
    /// One is kept back by the client until it is asked for.
    kept_back: AtomicBool,
    /// What the client was offered of its answers; it speaks HTTP/2 if this is
    /// there. Boxed, as most connections have none.
    offers: OnceLock<Box<Offers>>,
    /// The stream is being shut, or was.
    shut: AtomicBool,
    /// Since when the client has taken none of the bytes it was offered; zero
    /// while it takes them.
    stalled: AtomicU64,
}

/// How long a connection lies idle before it comes to rest. A busy one's next
/// call comes sooner and finds everything in place; and its timer fires this
/// often at most.
const REST: Duration = Duration::from_secs(1);

/// Below the phase's two bits there is room for 146 years of nanoseconds.
const PHASE_BITS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle = 0,
    /// The first byte of a head is awaited, or its last.
    Head = 1,
    /// Calls are being answered.
    Busy = 2,
}

/// What must become of a connection whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Nothing was asked for a while: close politely.
    Idle,
    /// A head did not come, or the answer is not being read: cut.
    Stuck,
}

impl Activity {
    pub(crate) fn new(settings: &config::Server) -> Self {
        let born = Instant::now();
        Self {
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
            write_timeout: settings.body_timeout,
            born,
            state: AtomicU64::new(Phase::Head as u64),
            calls: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            gave_up: AtomicBool::new(false),
            kept_back: AtomicBool::new(false),
            offers: OnceLock::new(),
            shut: AtomicBool::new(false),
            stalled: AtomicU64::new(0),
        }
    }

    /// The client begins to speak HTTP/2.
    pub(crate) fn speaks_http2(&self) {
        self.offers.get_or_init(Box::default);
    }

    /// Bytes came from the client. Those of a body whose request was answered
    /// already begin no head.
    pub(crate) fn received(&self) {
        let is_of_a_body = || self.unread.load(Relaxed) != 0 && !self.gave_up.load(Relaxed);
        if self.phase().0 == Phase::Idle && !self.is_http2() && !is_of_a_body() {
            self.enter(Phase::Head, Instant::now());
        }
    }

    /// The client took bytes, or would not.
    pub(crate) fn sent(&self, progress: bool) {
        let stalled = self.stalled.load(Relaxed) != 0;
        if progress && stalled {
            self.stalled.store(0, Relaxed);
            let now = Instant::now();
            self.waits_anew(now);
            if let Some(offers) = self.offers() {
                offers.resumes(self.nanos(now));
            }
        } else if !progress && !stalled {
            let since = self.nanos(Instant::now()).max(1);
            self.stalled.store(since, Relaxed);
        }
    }

    /// An answer has gone out of which bytes lay untaken: what the client is
    /// to do next, it was not to do before.
    pub(crate) fn waits_anew(&self, now: Instant) {
        let (phase, _) = self.phase();
        if phase != Phase::Busy {
            self.enter(phase, now);
        }
    }

    /// The stream is being shut.
    pub(crate) fn shuts(&self) {
        self.shut.store(true, Relaxed);
    }

    /// A request's body is to be read from the connection.
    pub(crate) fn body_begins(&self, is_kept_back: bool) {
        self.unread.fetch_add(1, Relaxed);
        if is_kept_back {
            self.kept_back.store(true, Relaxed);
        }
    }

    /// A body that is kept back is asked for: false if it was declined.
    pub(crate) fn asks_for_body(&self) -> bool {
        self.kept_back.swap(false, Relaxed)
    }

    /// A body's end has come.
    pub(crate) fn body_came(&self) {
        self.unread.fetch_sub(1, Relaxed);
        if self.phase().0 == Phase::Idle {
            // Answered before: only now there is nothing to be done.
            self.enter(Phase::Idle, Instant::now());
        }
    }

    /// A body will not be read to its end.
    pub(crate) fn body_given_up(&self) {
        self.gave_up.store(true, Relaxed);
    }

    /// Declines a body that was not asked for yet. Whether a connection of
    /// HTTP/1 must end with the answer that is now given, as a body is, or may
    /// be, in the way of another request.
    pub(crate) fn declines_body(&self) -> bool {
        let declines = self.kept_back.load(Relaxed) && self.kept_back.swap(false, Relaxed);
        declines || self.gave_up.load(Relaxed)
    }

    /// A request's head is complete.
    pub(crate) fn began(&self, now: Instant) {
        self.calls.fetch_add(1, Relaxed);
        self.enter(Phase::Busy, now);
    }

    /// A call has been answered in full.
    pub(crate) fn ended(&self, now: Instant) {
        if self.calls.fetch_sub(1, Relaxed) == 1 {
            self.enter(Phase::Idle, now);
        }
    }

    /// How long the connection may lie idle.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// Calls not yet finished, those whose client has gone included.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// Whether calls are being answered.
    pub(crate) fn is_busy(&self) -> bool {
        self.phase().0 == Phase::Busy
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.offers().is_some()
    }

    /// What the client was offered of its answers, where it speaks HTTP/2.
    pub(crate) fn offers(&self) -> Option<&Offers> {
        self.offers.get().map(|offers| &**offers)
    }

    /// When a connection that was asked to end at `asked` has had long enough:
    /// once nothing is being answered, or nobody reads the answers.
    pub(crate) fn farewell(&self, asked: Instant, length: Duration) -> Option<Instant> {
        self.unread_until().or_else(|| {
            let (phase, since) = self.phase();
            (phase != Phase::Busy).then(|| since.max(asked) + length)
        })
    }

    /// When the present state will have gone on for too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.unread_until().or_else(|| {
            let (phase, since) = self.phase();
            match phase {
                Phase::Idle => Some(since + self.idle_timeout),
                Phase::Head => Some(since + self.header_timeout),
                Phase::Busy => None,
            }
        })
    }

    /// Whether it has, and what follows.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Overdue> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        let idle = self.phase().0 == Phase::Idle && !self.has_unread();
        Some(if idle { Overdue::Idle } else { Overdue::Stuck })
    }

    /// When the connection may come to rest, if nothing happens before.
    pub(crate) fn rests_at(&self) -> Option<Instant> {
        let (phase, since) = self.phase();
        let is_quiet = phase == Phase::Idle
            && self.calls.load(Relaxed) == 0
            && self.unread.load(Relaxed) == 0
            && self.stalled.load(Relaxed) == 0
            && !self.shut.load(Relaxed)
            && !self.is_http2();
        is_quiet.then(|| since + REST)
    }

    /// Whether bytes of an answer are there for the client to take. A call has
    /// ended by then if they are its last: until they have gone the connection
    /// is not idle all the same.
    pub(crate) fn has_unread(&self) -> bool {
        self.unread_until().is_some()
    }

    /// How long the client may still leave its answer unread.
    fn unread_until(&self) -> Option<Instant> {
        let stalled = self.stalled.load(Relaxed);
        let offered = self.offers().map_or(0, Offers::oldest);
        let since = match (stalled, offered) {
            (0, 0) => return None,
            (0, since) | (since, 0) => since,
            (stalled, offered) => stalled.min(offered),
        };
        Some(self.moment(since) + self.write_timeout)
    }

    fn phase(&self) -> (Phase, Instant) {
        let state = self.state.load(Relaxed);
        let phase = match state & ((1 << PHASE_BITS) - 1) {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        };
        (phase, self.moment(state >> PHASE_BITS))
    }

    fn enter(&self, phase: Phase, now: Instant) {
        let state = self.nanos(now) << PHASE_BITS | phase as u64;
        self.state.store(state, Relaxed);
    }

    pub(crate) fn nanos(&self, moment: Instant) -> u64 {
        let nanos = moment.saturating_duration_since(self.born).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn moment(&self, nanos: u64) -> Instant {
        self.born + Duration::from_nanos(nanos)
    }
}
