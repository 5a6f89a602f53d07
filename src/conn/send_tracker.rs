//! The responses on an HTTP/2 connection whose clients do not read them.
//!
//! hyper stops polling a body when its client grants no window for the stream,
//! and reports nothing. The chunks that hyper was given shrink as they are
//! written, so [`tracked_body`](super::tracked_body) reports that progress here.
//!
//! Invariants: a response is unread only while bytes of it are in hyper's
//! buffers, so a slow upstream is never taken for a slow client; each byte that
//! is written restarts the time of its response.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Which responses of one connection are unread, and since when. Times are in
/// nanoseconds since the connection was accepted; zero stands for "never".
#[derive(Debug, Default)]
pub(crate) struct SendTracker {
    /// The time of the last progress, and the number of the response.
    unread: Mutex<BTreeSet<(u64, u64)>>,
    /// The first time in `unread`, so that a query needs no lock.
    oldest: AtomicU64,
    /// When the stream last took bytes after it had been blocked.
    unblocked_at: AtomicU64,
    /// Responses so far: their numbers.
    responses: AtomicU64,
}

impl SendTracker {
    /// A number for the next response.
    pub(super) fn register(&self) -> u64 {
        self.responses.fetch_add(1, Relaxed)
    }

    /// Since when the oldest unread response has made no progress; zero if all
    /// responses are read.
    ///
    /// While the stream itself is blocked, no response can make progress. That
    /// time counts against the stream and not against a response behind it.
    pub(super) fn unread_since(&self) -> u64 {
        match self.oldest.load(Relaxed) {
            0 => 0,
            oldest => oldest.max(self.unblocked_at.load(Relaxed)),
        }
    }

    /// The stream takes bytes again.
    pub(super) fn on_stream_unblocked(&self, now: u64) {
        self.unblocked_at.store(now, Relaxed);
    }

    /// A response made progress: it was unread since `before` and is unread
    /// since `since` now. Zero: it has no bytes that are unread.
    pub(super) fn on_progress(&self, response: u64, before: u64, since: u64) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        if before != 0 {
            unread.remove(&(before, response));
        }
        if since != 0 {
            unread.insert((since, response));
        }
        let oldest = unread.first().map_or(0, |(since, _)| *since);
        self.oldest.store(oldest, Relaxed);
    }
}
