//! A connection on which plain calls are made (see [`plain`](crate::plain)).
//!
//! It has no task of its own: whoever has taken it reads and writes. Invariant:
//! a call for which it was dead already was not written, not a byte of it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::Frame;
use tokio::io::ReadBuf;
use tokio::task::coop::unconstrained;
use tokio_util::io::poll_read_buf;

use super::connect::Io;
use super::failure::Failure;
use crate::body::RequestBody;
use crate::plain::{Answer, Framing, Malformed, Outbox, Taken, read_answer, write_request};

/// Bytes of a usual answer, read at a time. They lie on the stack, so that a
/// call that waits for its answer holds no room for it.
const PIECE: usize = 2048;

/// The room for pieces of long bodies: at first, and once it was filled. A
/// client that does not read its answer has us hold no more than this.
const ROOM: usize = 16 * 1024;
const MAX_ROOM: usize = super::connect::READ_BUFFER;

/// A connection on which plain calls are made, one after another.
pub(super) struct Wire {
    io: Box<dyn Io>,
    /// Read, and made no use of yet.
    read: Bytes,
    /// Where long bodies are read to.
    room: BytesMut,
    /// All of the last call was written, and its answer lets another follow.
    is_reusable: bool,
}

/// Why a plain call brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The connection was dead: nothing was written.
    Untouched,
    /// It failed after something may have been written.
    Failed(Failure),
}

impl Wire {
    pub(super) fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            read: Bytes::new(),
            room: BytesMut::new(),
            is_reusable: false,
        }
    }

    /// Sends a request whose body is at hand, and waits for the head of its
    /// answer. That may come before the whole request is written.
    pub(super) async fn call(&mut self, request: &Request<RequestBody>) -> Result<Answer, Broken> {
        self.is_reusable = false;
        let mut out = Outbox::default();
        let body = request.body().held().unwrap_or_default();
        write_request(&mut out, request, body);
        let mut is_begun = false;
        let mut is_flushed = false;
        poll_fn(|cx| {
            if !is_begun && !self.is_silent(cx) {
                return Poll::Ready(Err(Broken::Untouched));
            }
            is_begun = true;
            let mut is_broken = false;
            while !is_flushed && !is_broken {
                let step = if out.is_empty() {
                    let flushed = Pin::new(&mut *self.io).poll_flush(cx);
                    is_flushed = flushed.is_ready();
                    flushed
                } else {
                    out.poll_write(&mut *self.io, cx).map_ok(drop)
                };
                match step {
                    Poll::Ready(Ok(())) => {}
                    // It may have been answered all the same.
                    Poll::Ready(Err(_)) => is_broken = true,
                    Poll::Pending => break,
                }
            }
            let answer = match self.poll_answer(cx) {
                Poll::Pending if is_broken => Err(Failure::BrokeOff),
                answer => ready!(answer),
            };
            let answer = answer.inspect(|answer| {
                self.is_reusable = answer.keeps_alive && is_flushed && !is_broken;
            });
            Poll::Ready(answer.map_err(Broken::Failed))
        })
        .await
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        loop {
            match read_answer(&mut self.read) {
                Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                Ok(None) => {}
                Err(Malformed) => return Poll::Ready(Err(Failure::Malformed)),
            }
            match ready!(self.poll_piece(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Failure::BrokeOff)),
            }
        }
    }

    /// The next piece of an answer's body; an error where that broke off.
    pub(super) fn poll_body(
        &mut self,
        framing: &mut Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        loop {
            match framing.take(&mut self.read) {
                Ok(Taken::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Taken::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Taken::End) => return Poll::Ready(None),
                Ok(Taken::Nothing) => {}
                Err(Malformed) => return Poll::Ready(Some(Err(()))),
            }
            let is_short = matches!(framing, Framing::Length(left) if *left <= PIECE as u64);
            let read = if is_short || !self.read.is_empty() {
                self.poll_piece(cx)
            } else {
                self.poll_long(cx)
            };
            match ready!(read) {
                Ok(1..) => {}
                Ok(0) if *framing == Framing::Close => *framing = Framing::Ended,
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(()))),
            }
        }
    }

    /// Whether another call may be made on it, once an answer has been read to
    /// its end. If so, whoever waits in `cx` is woken when it ends.
    pub(super) fn may_rest(&mut self, cx: &mut Context<'_>) -> bool {
        self.room = BytesMut::new();
        self.is_reusable && self.read.is_empty() && self.is_silent(cx)
    }

    /// Whether nothing has come on it: it is alive then, for all one can know.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        // A task that has used up its turn would be told of nothing.
        let read = unconstrained(poll_fn(|cx| {
            Pin::new(&mut *self.io).poll_read(cx, &mut byte)
        }));
        pin!(read).poll(cx).is_pending()
    }

    /// Reads behind what was read: how much. None is the stream's end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut piece = [const { MaybeUninit::uninit() }; PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut *self.io).poll_read(cx, &mut piece))?;
        let piece = piece.filled();
        self.read = if self.read.is_empty() {
            Bytes::copy_from_slice(piece)
        } else {
            Bytes::from([&*self.read, piece].concat())
        };
        Poll::Ready(Ok(piece.len()))
    }

    /// The same where nothing is left of what was read, in long pieces.
    fn poll_long(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.room.capacity() < PIECE {
            self.room = BytesMut::with_capacity(ROOM);
        }
        let length = ready!(poll_read_buf(Pin::new(&mut *self.io), cx, &mut self.room))?;
        self.read = self.room.split().freeze();
        if self.room.capacity() == 0 {
            self.room = BytesMut::with_capacity((2 * length).clamp(ROOM, MAX_ROOM));
        }
        Poll::Ready(Ok(length))
    }
}

/// Without what was read: it may be anything.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}
