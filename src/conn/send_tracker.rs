//! Finds the responses on an HTTP/2 connection that the client does not read.
//!
//! If a client grants no flow-control window (RFC 9113 §5.2), hyper stops polling
//! the body and reports nothing. But the chunks that hyper holds shrink as they are
//! written: [`tracked_body`](super::tracked_body) reports that progress here.
//!
//! Invariants: a response is unread only while bytes of it are in hyper's
//! buffers, so a slow upstream is never taken for a slow client; each byte that
//! is written restarts the time of its response.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Which responses of one connection are unread, and since when. Times are
/// nanoseconds since the connection was accepted; zero means "never".
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
    /// Registers a response and returns its number.
    pub(super) fn register(&self) -> u64 {
        self.responses.fetch_add(1, Relaxed)
    }

    /// Since when the oldest unread response has made no progress; zero if all
    /// responses are read.
    pub(super) fn unread_since(&self) -> u64 {
        // While the TCP stream is blocked, no response can make progress. That time
        // counts for the stream, not for the responses.
        match self.oldest.load(Relaxed) {
            0 => 0,
            oldest => oldest.max(self.unblocked_at.load(Relaxed)),
        }
    }

    /// The stream takes bytes again.
    pub(super) fn on_stream_unblocked(&self, now: u64) {
        self.unblocked_at.store(now, Relaxed);
    }

    /// A response made progress: the time since when it is unread changes from
    /// `before` to `since`; zero if it has no unread bytes.
    pub(super) fn on_progress(&self, response: u64, before: u64, since: u64) {
        // The response is part of the entry: two can have the same time.
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
