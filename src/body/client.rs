//! A request body as it comes from the client.
//!
//! Owns the pieces held back while the body is looked into, and the clock
//! that cuts off a client which stops sending. Invariant: every byte that came
//! is handed on once, in order, but for what [`ClientBody::splice`] replaced.

use std::collections::VecDeque;
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
use super::incoming::Coming;
use super::{Error, LOOK, splice};
use crate::conn::pending_body::PendingBody;
use crate::conn::state::ConnState;
use crate::http::header_case::HeaderCase;

/// What a piece costs at least, for its place in the list: a body cut into
/// single bytes must not take a hundred times its size.
const PIECE_COST: usize = 64;

/// A request body as it comes from the client, streamed.
#[derive(Debug)]
pub(crate) struct ClientBody {
    /// What is still to come.
    coming: Coming,
    /// When it came, if that was with its head.
    came: Option<Instant>,
    /// Read ahead, not yet handed on.
    held: VecDeque<Frame<Bytes>>,
    held_bytes: usize,
    /// What holding them costs: a small piece more than its bytes.
    held_cost: usize,
    /// How the names of the head it came with were spelt, if that is known.
    header_case: Option<HeaderCase>,
    /// The longest silence allowed: `server.body_timeout`.
    patience: Duration,
    /// Counts what comes, for the access log.
    bytes: Option<ByteCounter>,
    /// Armed only while nothing comes.
    silence: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    /// The body that follows `head` on a connection.
    pub(crate) fn new(
        incoming: Incoming,
        head: &Parts,
        patience: Duration,
        conn: &Arc<ConnState>,
    ) -> Self {
        let mut body = Self::none(patience);
        if !incoming.is_end_stream() {
            body.coming = Coming::new(incoming, PendingBody::new(conn, head));
        }
        body
    }

    /// A body that came whole with its head `now`, or none. With its length in
    /// the head it may go upstream so, too.
    pub(crate) fn plain(
        bytes: Bytes,
        header_case: HeaderCase,
        patience: Duration,
        now: Instant,
    ) -> Self {
        let mut body = Self {
            came: Some(now),
            header_case: Some(header_case),
            ..Self::none(patience)
        };
        if !bytes.is_empty() {
            body.held_bytes = bytes.len();
            body.held_cost = bytes.len().max(PIECE_COST);
            body.held = VecDeque::from([Frame::data(bytes)]);
        }
        body
    }

    /// When the body came, if that was with its head.
    pub(crate) fn came(&self) -> Option<Instant> {
        self.came
    }

    /// A body that [`came`](Self::came) with its head or [`is_empty`](Self::is_empty),
    /// in one piece.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        debug_assert!(
            self.came.is_some() || self.is_empty(),
            "the rest would be lost"
        );
        if self.held.len() > 1 {
            // A tenant's key in it was replaced.
            return Bytes::from(self.held());
        }
        let data = self.held.pop_front().map(Frame::into_data);
        data.and_then(Result::ok).unwrap_or_default()
    }

    fn none(patience: Duration) -> Self {
        Self {
            coming: Coming::nothing(),
            came: None,
            held: VecDeque::new(),
            held_bytes: 0,
            held_cost: 0,
            header_case: None,
            patience,
            bytes: None,
            silence: None,
        }
    }

    /// How the names of the head it came with were spelt, if that is known.
    pub(crate) fn take_header_case(&mut self) -> Option<HeaderCase> {
        self.header_case.take()
    }

    /// Has the body's bytes counted as they come.
    pub(crate) fn count(&mut self, bytes: Option<ByteCounter>) {
        if let Some(bytes) = &bytes {
            bytes.add(self.held_bytes);
        }
        self.bytes = bytes;
    }

    /// The body, leaving none in its place.
    pub(crate) fn take(&mut self) -> Self {
        let none = Self::none(self.patience);
        std::mem::replace(self, none)
    }

    /// True when the request has no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_complete() && self.held.is_empty()
    }

    /// True when the client has sent everything.
    pub(crate) fn is_complete(&self) -> bool {
        self.coming.is_over()
    }

    /// The `index`th piece of the body's data, reading ahead if need be;
    /// `None` at the end, or where [`LOOK`] bytes are held already.
    pub(crate) async fn piece(&mut self, index: usize) -> Result<Option<Bytes>, Error> {
        poll_fn(|cx| self.poll_piece(index, cx)).await
    }

    /// As [`piece`](Self::piece), for a hand-written future.
    pub(crate) fn poll_piece(
        &mut self,
        index: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Error>> {
        loop {
            if let Some(frame) = self.held.get(index) {
                // Trailers hold no data, and nothing follows them.
                return Poll::Ready(Ok(frame.data_ref().cloned()));
            }
            if self.is_complete() || self.held_cost >= LOOK {
                return Poll::Ready(Ok(None));
            }
            match ready!(self.poll_incoming(cx)) {
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    self.held_bytes += length;
                    self.held_cost += length.max(PIECE_COST);
                    self.held.push_back(frame);
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {}
            }
        }
    }

    /// The whole body as one buffer, if it ends within [`LOOK`] bytes and has
    /// no trailers; nothing is taken away from it.
    pub(crate) async fn whole(&mut self) -> Result<Option<Bytes>, Error> {
        let mut pieces = 0;
        while self.piece(pieces).await?.is_some() {
            pieces += 1;
        }
        let data_only = self.held.iter().all(Frame::is_data);
        if !self.is_complete() || self.held_bytes > LOOK || !data_only {
            return Ok(None);
        }
        let mut data = self.held.iter().filter_map(Frame::data_ref);
        if self.held.len() <= 1 {
            return Ok(Some(data.next().cloned().unwrap_or_default()));
        }
        let mut whole = Vec::with_capacity(self.held_bytes);
        data.for_each(|piece| whole.extend_from_slice(piece));
        let whole = Bytes::from(whole);
        self.held = VecDeque::from([Frame::data(whole.clone())]);
        Ok(Some(whole))
    }

    /// A copy of the data held, in one piece.
    pub(crate) fn held(&self) -> Vec<u8> {
        let mut held = Vec::with_capacity(self.held_bytes);
        let data = self.held.iter().filter_map(Frame::data_ref);
        data.for_each(|piece| held.extend_from_slice(piece));
        held
    }

    /// Puts other bytes in place of some of those held. The ranges are in
    /// bytes from the body's beginning, in order, apart, not empty and held.
    pub(crate) fn splice(&mut self, edits: &[(Range<usize>, Bytes)]) {
        self.held = splice::splice(std::mem::take(&mut self.held), edits);
        let lengths = || {
            let data = self.held.iter().map(Frame::data_ref);
            data.map(|data| data.map_or(0, Bytes::len))
        };
        self.held_bytes = lengths().sum();
        self.held_cost = lengths().map(|length| length.max(PIECE_COST)).sum();
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.coming.poll_frame(cx) {
            Poll::Ready(frame) => {
                self.silence = None;
                if let (Some(bytes), Some(Ok(frame))) = (&self.bytes, &frame) {
                    bytes.add(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let patience = self.patience;
                let silence = self.silence.get_or_insert_with(|| {
                    Box::pin(tokio::time::sleep_until(Instant::now() + patience))
                });
                ready!(silence.as_mut().poll(cx));
                Poll::Ready(Some(Err(self.coming.break_off(Error::ClientTooSlow))))
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

    // No size hint: the request's own framing headers decide how it is sent
    // on, so that a chunked body stays chunked.
}
