//! A request body, received from the client.
//!
//! Owns the pieces that are held while the body is scanned, and the timeout for
//! a client that stops sending. Invariant: every byte is passed on once and in
//! order, except those that [`ClientBody::splice`] replaced.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::ByteCounter;
use super::held::HeldFrames;
use super::incoming::IncomingBody;
use super::{Error, SCAN_LIMIT};
use crate::conn::pending_body::PendingBody;
use crate::conn::state::ConnState;

/// A request body, received from the client.
#[derive(Debug)]
pub(crate) struct ClientBody {
    /// The part that was not received yet.
    incoming: IncomingBody,
    /// When the body arrived, if that was together with its head.
    arrived_at: Option<Instant>,
    /// Frames that were received but not passed on yet.
    held: HeldFrames,
    /// The longest time between two frames: `server.body_timeout`.
    silence_timeout: Duration,
    /// Counts the bytes for the access log.
    bytes: Option<ByteCounter>,
    /// Armed only while the next frame is awaited.
    silence_timer: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    /// The body that follows `head` on a connection.
    pub(crate) fn new(
        incoming: Incoming,
        head: &Parts,
        silence_timeout: Duration,
        conn: &Arc<ConnState>,
    ) -> Self {
        let mut body = Self::none(silence_timeout);
        if !incoming.is_end_stream() {
            body.incoming = IncomingBody::new(incoming, PendingBody::new(conn, head));
        }
        body
    }

    /// A body that arrived `now`, complete and together with its head.
    pub(crate) fn complete(bytes: Bytes, silence_timeout: Duration, now: Instant) -> Self {
        Self {
            arrived_at: Some(now),
            held: HeldFrames::of(bytes),
            ..Self::none(silence_timeout)
        }
    }

    /// When the body arrived, if that was together with its head.
    pub(crate) fn arrived_at(&self) -> Option<Instant> {
        self.arrived_at
    }

    /// Takes a body that arrived together with its head, or an empty one, in one
    /// piece.
    pub(crate) fn take_bytes(&mut self) -> Bytes {
        debug_assert!(
            self.arrived_at.is_some() || self.is_empty(),
            "the rest would be lost"
        );
        if self.held.len() > 1 {
            // `splice` has cut the body into pieces around a tenant key.
            return Bytes::from(self.take().held());
        }
        let data = self.held.pop_front().map(Frame::into_data);
        data.and_then(Result::ok).unwrap_or_default()
    }

    /// No body.
    pub(crate) fn none(silence_timeout: Duration) -> Self {
        Self {
            incoming: IncomingBody::ended(),
            arrived_at: None,
            held: HeldFrames::default(),
            silence_timeout,
            bytes: None,
            silence_timer: None,
        }
    }

    /// Counts the bytes of the body from now on, including those held.
    pub(crate) fn count(&mut self, bytes: Option<ByteCounter>) {
        if let Some(bytes) = &bytes {
            bytes.add(self.held.bytes);
        }
        self.bytes = bytes;
    }

    /// Takes the body, and leaves an empty one.
    pub(crate) fn take(&mut self) -> Self {
        let none = Self::none(self.silence_timeout);
        std::mem::replace(self, none)
    }

    /// Puts pieces back in front, so that they are passed on again.
    pub(super) fn prepend(&mut self, pieces: Vec<Bytes>) {
        // From the last to the first: each goes in front of the one before.
        for piece in pieces.into_iter().rev() {
            self.held.push_front(piece);
        }
    }

    /// Whether nothing of the body is left, or the request has none.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_complete() && self.held.is_empty()
    }

    /// Whether the client has sent everything.
    pub(crate) fn is_complete(&self) -> bool {
        self.incoming.has_ended()
    }

    /// Whether the body has arrived, and has at most [`SCAN_LIMIT`] bytes.
    pub(crate) fn is_held(&self) -> bool {
        self.is_complete() && self.held.bytes <= SCAN_LIMIT
    }

    /// The pieces that are held.
    pub(crate) fn held_pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.held.data()
    }

    /// The piece with this index (from 0), read now if it is not held yet;
    /// `None` at the end, or where [`SCAN_LIMIT`] bytes are held.
    pub(crate) async fn piece(&mut self, index: usize) -> Result<Option<Bytes>, Error> {
        poll_fn(|cx| self.poll_piece(index, cx)).await
    }

    /// Like [`piece`](Self::piece), for a hand-written future.
    pub(crate) fn poll_piece(
        &mut self,
        index: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Error>> {
        loop {
            // Trailers hold no data, and nothing follows them.
            if index < self.held.len() {
                return Poll::Ready(Ok(self.held.data_at(index).cloned()));
            }
            // Without this bound a client could make the gateway hold any amount.
            if self.is_complete() || self.held.cost >= SCAN_LIMIT {
                return Poll::Ready(Ok(None));
            }
            match ready!(self.poll_incoming(cx)) {
                Some(Ok(frame)) => self.held.push_back(frame),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {}
            }
        }
    }

    /// A copy of the whole body, if it has at most [`SCAN_LIMIT`] bytes and no
    /// trailers. The body stays as it is.
    pub(crate) async fn whole(&mut self) -> Result<Option<Bytes>, Error> {
        let mut pieces = 0;
        while self.piece(pieces).await?.is_some() {
            pieces += 1;
        }
        // Trailers could not be merged with those of other requests.
        if !self.is_held() || !self.held.is_data() {
            return Ok(None);
        }
        // The usual case, without a copy: `Bytes` are shared, and a short piece has a buffer of
        // its size since it is held.
        if self.held.len() <= 1 {
            return Ok(Some(self.held.data().next().cloned().unwrap_or_default()));
        }
        let whole = Bytes::from(self.held());
        // The copy replaces the pieces, so the bytes are not held twice.
        self.held = HeldFrames::of(whole.clone());
        Ok(Some(whole))
    }

    /// A copy of the held data, in one piece.
    pub(crate) fn held(&self) -> Vec<u8> {
        let mut held = Vec::with_capacity(self.held.bytes);
        let data = self.held.data();
        data.for_each(|piece| held.extend_from_slice(piece));
        held
    }

    /// Replaces some of the held bytes. The ranges count from the beginning of
    /// the body; they are in order, not empty, and do not touch each other.
    pub(crate) fn splice(&mut self, edits: &[(Range<usize>, Bytes)]) {
        self.held.splice(edits);
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.incoming.poll_frame(cx) {
            Poll::Ready(frame) => {
                // The next silence is measured from this frame.
                self.silence_timer = None;
                if let (Some(bytes), Some(Ok(frame))) = (&self.bytes, &frame) {
                    bytes.add(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let timeout = self.silence_timeout;
                let timer = self
                    .silence_timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                ready!(timer.as_mut().poll(cx));
                // hyper itself would wait without a limit.
                Poll::Ready(Some(Err(self.incoming.break_off(Error::ClientTooSlow))))
            }
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(frame) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        self.poll_incoming(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    // Without a size hint the headers of the request decide how its body is
    // framed: a chunked body stays chunked.
}
