//! Answers over HTTP/2, as their client takes them.
//!
//! hyper does not poll a body for which its client grants no window, and says
//! nothing of it either; but the pieces it was given shrink as they are written.
//! Owns telling by them since when a client has taken nothing of an answer.
//! Invariants: an answer lies untaken only while bytes of it do, so one that is
//! still to come from the upstream never does; whatever is taken of it, be it a
//! byte, begins its time anew.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::state::Activity;

/// The answers on one connection of which bytes lie untaken.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    /// Since when, in nanoseconds, and which answer it is.
    untaken: Mutex<BTreeSet<(u64, u64)>>,
    /// The first moment of these; zero where there are none.
    oldest: AtomicU64,
    /// When the stream last went on that had taken nothing for a while.
    resumed: AtomicU64,
    /// Answers so far.
    count: AtomicU64,
}

impl Offers {
    /// Since when an answer lies untaken, the oldest one; zero: none does. One
    /// that only waits for its turn on a slow stream is not left lying.
    pub(crate) fn oldest(&self) -> u64 {
        match self.oldest.load(Relaxed) {
            0 => 0,
            oldest => oldest.max(self.resumed.load(Relaxed)),
        }
    }

    /// The stream goes on.
    pub(crate) fn resumes(&self, now: u64) {
        self.resumed.store(now, Relaxed);
    }

    /// An answer lies untaken since another moment than before; zero: it does
    /// not.
    fn moves(&self, answer: u64, before: u64, since: u64) {
        let mut untaken = lock(&self.untaken);
        if before != 0 {
            untaken.remove(&(before, answer));
        }
        if since != 0 {
            untaken.insert((since, answer));
        }
        let oldest = untaken.first().map_or(0, |(since, _)| *since);
        self.oldest.store(oldest, Relaxed);
    }
}

/// What is offered of one answer.
#[derive(Debug)]
struct Offer {
    activity: Arc<Activity>,
    /// Which of the connection's answers it is.
    answer: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that lie untaken.
    bytes: usize,
    /// Since when nothing was taken of them; zero where there are none.
    since: u64,
}

impl Offer {
    fn new(activity: Arc<Activity>) -> Self {
        let count = activity.offers().map(|offers| &offers.count);
        Self {
            answer: count.map_or(0, |count| count.fetch_add(1, Relaxed)),
            activity,
            state: Mutex::default(),
        }
    }

    fn offers(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.bytes += bytes;
        if state.since == 0 && state.bytes != 0 {
            self.moves(&mut state);
        }
    }

    fn takes(&self, bytes: usize) {
        if bytes != 0 {
            let mut state = lock(&self.state);
            state.bytes -= bytes;
            self.moves(&mut state);
        }
    }

    /// Begins its time anew.
    fn moves(&self, state: &mut State) {
        let now = Instant::now();
        let since = match state.bytes {
            0 => 0,
            _ => self.activity.nanos(now).max(1),
        };
        let before = std::mem::replace(&mut state.since, since);
        if let Some(offers) = self.activity.offers() {
            offers.moves(self.answer, before, since);
        }
        if since == 0 {
            self.activity.waits_anew(now);
        }
    }
}

/// The body of an answer over HTTP/2.
pub(crate) struct Offered<B> {
    body: B,
    offer: Arc<Offer>,
}

impl<B> Offered<B> {
    /// A body that goes out on the connection of this activity.
    pub(crate) fn new(body: B, activity: Arc<Activity>) -> Self {
        let offer = Arc::new(Offer::new(activity));
        Self { body, offer }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Offered<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let piece = |bytes| Piece::new(bytes, &this.offer);
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a body, which tells as it is taken, or thrown away.
pub(crate) struct Piece {
    bytes: Bytes,
    offer: Arc<Offer>,
}

impl Piece {
    fn new(bytes: Bytes, offer: &Arc<Offer>) -> Self {
        offer.offers(bytes.len());
        let offer = Arc::clone(offer);
        Self { bytes, offer }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.offer.takes(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.offer.takes(self.bytes.len());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
