//! A connection of the fast path (see [`h1`](crate::http::h1)).
//!
//! It has no separate task: the task of the request reads and writes. Invariant:
//! no byte of a request is written to a connection that is known to be dead when checked.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::io::ReadBuf;
use tokio::task::coop::unconstrained;
use tokio_util::io::poll_read_buf;

use super::dial::Io;
use super::error::{SendError, UpstreamError};
use crate::body::UpstreamRequest;
use crate::http::h1::{
    BodyDecoder, Decoded, FinalResponse, MAX_RESPONSE_HEAD, Malformed, ResponseRead, WriteBuf,
    read_response, write_request,
};

/// The size of the read buffer for heads and short bodies: a head with the headers that
/// a CDN adds and a body of some KB arrive in one read. It lies on the stack, so that a
/// request that waits for its response holds no buffer.
const SHORT_READ: usize = 8192;

/// The size of the read buffer for long bodies: at first, and at most. A client
/// that does not read its response makes the gateway hold no more than this.
const LONG_READ: usize = 16 * 1024;
const MAX_LONG_READ: usize = MAX_RESPONSE_HEAD;

/// The most interim responses before the final one. Without a bound, an upstream
/// that sends them without a pause would keep the task busy past the response
/// timeout.
const MAX_INFORMATIONAL: usize = 100;

/// A connection that carries one request of the fast path after another.
pub(super) struct FastConnection {
    io: Box<dyn Io>,
    /// The part of the request that was not written yet.
    out: WriteBuf,
    /// The request is written and flushed.
    is_written: bool,
    /// The last response lets another request follow.
    keeps_alive: bool,
    /// Interim responses to the current request.
    informational: usize,
    /// Bytes that were read and not yet decoded.
    read: Bytes,
    /// The read buffer for long bodies, and its next size.
    buffer: BytesMut,
    buffer_size: usize,
}

impl FastConnection {
    pub(super) fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            out: WriteBuf::default(),
            is_written: true,
            keeps_alive: true,
            informational: 0,
            read: Bytes::new(),
            buffer: BytesMut::new(),
            buffer_size: LONG_READ,
        }
    }

    /// Sends a request with a complete body, and waits for the head of its
    /// response, which may arrive before the whole request is written.
    pub(super) async fn send(
        &mut self,
        request: &UpstreamRequest,
    ) -> Result<FinalResponse, SendError> {
        if !poll_fn(|cx| Poll::Ready(self.is_usable(cx))).await {
            return Err(SendError::Unprocessed);
        }
        let body = request.body.held().unwrap_or_default();
        write_request(&mut self.out, &request.head, body);
        self.is_written = false;
        // Until a response allows it: if this future is dropped, the response of this
        // request would be read as that of the next one.
        self.keeps_alive = false;
        self.informational = 0;
        poll_fn(|cx| self.poll_response(cx))
            .await
            .map_err(SendError::Failed)
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<FinalResponse, UpstreamError>> {
        // An upstream may respond and close before it has read the request. So
        // a write error is not reported: the read below finds the response, or
        // the end of the stream.
        drop(self.poll_write(cx));
        loop {
            match read_response(&mut self.read) {
                Ok(Some(ResponseRead::Final(response))) => {
                    self.keeps_alive = response.keeps_alive;
                    return Poll::Ready(Ok(response));
                }
                Ok(Some(ResponseRead::Informational)) if self.informational < MAX_INFORMATIONAL => {
                    self.informational += 1;
                    continue;
                }
                Ok(Some(ResponseRead::Informational)) | Err(Malformed) => {
                    return Poll::Ready(Err(UpstreamError::Malformed));
                }
                Ok(None) => {}
            }
            match ready!(self.poll_read_short(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(UpstreamError::BrokeOff)),
            }
        }
    }

    /// Writes the rest of the request.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream that buffers, as TLS does, is flushed once at the end.
        while !self.out.is_empty() {
            ready!(self.out.poll_write(&mut *self.io, cx))?;
        }
        if !self.is_written {
            ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
            self.is_written = true;
        }
        Poll::Ready(Ok(()))
    }

    /// The next frame of the body of a response; an error where it broke off.
    pub(super) fn poll_body(
        &mut self,
        decoder: &mut BodyDecoder,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        // A response may begin while the upstream still reads the request. A
        // write error does not end it: see `poll_response`.
        drop(self.poll_write(cx));
        loop {
            match decoder.decode(&mut self.read) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Decoded::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::NeedMore) => {}
                Err(Malformed) => return Poll::Ready(Some(Err(()))),
            }
            // A body that fits the short buffer is read on the stack. A longer one is read
            // into an allocated buffer, whose pieces are passed on without a copy.
            let is_short =
                matches!(decoder, BodyDecoder::Length(left) if *left <= SHORT_READ as u64);
            let read = if is_short || !self.read.is_empty() {
                self.poll_read_short(cx)
            } else {
                self.poll_read_long(cx)
            };
            match ready!(read) {
                Ok(1..) => {}
                // The only end that such a body has (RFC 9112 §6.3, rule 8).
                Ok(0) if *decoder == BodyDecoder::UntilClose => *decoder = BodyDecoder::ENDED,
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(()))),
            }
        }
    }

    /// Whether it can carry a request: it is new, or its last response was read to
    /// its end, and it has not ended. If so, `cx` is woken when the connection ends.
    pub(super) fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        // An idle connection holds no buffer.
        self.buffer = BytesMut::new();
        self.keeps_alive && self.is_written && self.read.is_empty() && self.is_silent(cx)
    }

    /// Whether there is nothing to read. The end of the stream means that the
    /// connection is dead; bytes before a request could pass for its response.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        // `unconstrained`: a task that has used up its tokio budget would get `Pending`
        // from a dead connection too.
        let read = unconstrained(poll_fn(|cx| {
            Pin::new(&mut *self.io).poll_read(cx, &mut byte)
        }));
        pin!(read).poll(cx).is_pending()
    }

    /// Appends to the bytes read. Returns their number; 0 at the end of the
    /// stream.
    fn poll_read_short(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut piece = [const { MaybeUninit::uninit() }; SHORT_READ];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut *self.io).poll_read(cx, &mut piece))?;
        let piece = piece.filled();
        // Bytes left from an earlier read are few, the beginning of a head or of a
        // chunk, so copying them is cheap.
        self.read = if self.read.is_empty() {
            Bytes::copy_from_slice(piece)
        } else {
            Bytes::from([&*self.read, piece].concat())
        };
        Poll::Ready(Ok(piece.len()))
    }

    /// The same for a long body, while all bytes read are decoded. The buffer
    /// becomes the piece, without a copy.
    fn poll_read_long(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() < SHORT_READ {
            self.buffer = BytesMut::with_capacity(self.buffer_size);
        }
        let capacity = self.buffer.capacity();
        let length = ready!(poll_read_buf(Pin::new(&mut *self.io), cx, &mut self.buffer))?;
        // A full buffer: the upstream sends faster than it is read, and larger reads
        // need fewer system calls.
        if length == capacity {
            self.buffer_size = (2 * self.buffer_size).min(MAX_LONG_READ);
        }
        self.read = self.buffer.split().freeze();
        Poll::Ready(Ok(length))
    }
}

/// Without the bytes: they may hold secrets.
impl fmt::Debug for FastConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastConnection").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
