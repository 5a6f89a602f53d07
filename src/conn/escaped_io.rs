//! The stream that hyper reads HTTP/1 requests from.
//!
//! hyper parses each target as an `http::Uri`, which ends at a `#` without an
//! error, and drops a `Content-Length` beside `Transfer-Encoding`. So this stream
//! finds the head of each request, percent-encodes an unusual target, and keeps what
//! hyper does not keep for the request.
//!
//! Invariants: the head of every request that hyper reads was searched, also
//! behind other requests; of everything else, no byte changes.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::h1::{
    BodyDecoder, Decoded, FramingConflict, Malformed, RequestFrame, frame_request,
};
use crate::http::header_case::HeaderCase;
use crate::http::raw_target::{self, RawTarget};

/// What hyper does not keep of a head.
#[derive(Default)]
pub(crate) struct HeadNotes {
    /// An unusual target, and the case of the header names.
    pub(crate) target: Option<(RawTarget, HeaderCase)>,
    pub(crate) conflict: Option<FramingConflict>,
}

/// `None` for a usual head.
type Entry = Option<Box<HeadNotes>>;

/// One entry for each head that hyper was given and whose request has not
/// started.
#[derive(Default)]
pub(crate) struct NotedHeads {
    entries: Mutex<VecDeque<Entry>>,
    is_upgraded: AtomicBool,
}

impl NotedHeads {
    /// The entry of the request that starts now. hyper starts requests in the
    /// order of their heads.
    pub(crate) fn take_next(&self) -> Entry {
        self.lock().pop_front().flatten()
    }

    /// No request follows on this connection, which was upgraded.
    pub(crate) fn on_upgrade(&self) {
        self.is_upgraded.store(true, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream whose request targets are percent-encoded where `http::Uri` requires
/// it.
pub(crate) struct EscapedIo<IO> {
    io: IO,
    /// A head for hyper.
    head: Bytes,
    /// Bytes that were read and not given to hyper.
    ahead: BytesMut,
    /// hyper was given the first byte of `ahead`, which is still there.
    is_begun: bool,
    /// How many of these were searched for the end of a head.
    searched: usize,
    /// What begins behind `head`.
    next: Next,
    noted: Arc<NotedHeads>,
    max_headers: usize,
    max_head: usize,
}

/// What the next bytes are.
enum Next {
    Head,
    Body(Body),
    /// The rest of a body whose chunked coding is malformed. hyper may read more
    /// forms of it, but without the end of this body, the next head is not found.
    Broken,
    /// Nothing that is searched: hyper refuses what begins here, or the stream is
    /// no longer HTTP.
    Other,
}

/// A body that hyper is reading.
struct Body {
    decoder: BodyDecoder,
    /// Bytes at the end of those that hyper got which the decoder needs again.
    undecoded: BytesMut,
}

impl<IO> EscapedIo<IO> {
    /// Heads longer than `max_head` or with more than `max_headers` headers are
    /// left to hyper, which refuses them.
    pub(crate) fn new(
        io: IO,
        noted: &Arc<NotedHeads>,
        max_headers: usize,
        max_head: usize,
    ) -> Self {
        Self {
            io,
            head: Bytes::new(),
            ahead: BytesMut::new(),
            is_begun: false,
            searched: 0,
            next: Next::Head,
            noted: Arc::clone(noted),
            max_headers,
            max_head,
        }
    }

    /// The stream, and the bytes that were read from it and not passed on. To be
    /// called between two requests only.
    pub(crate) fn into_parts(mut self) -> (IO, Bytes) {
        self.skip_begun();
        debug_assert!(self.head.is_empty(), "hyper has read every complete head");
        (self.io, self.ahead.freeze())
    }

    /// Removes the byte of `ahead` that hyper has.
    fn skip_begun(&mut self) {
        if std::mem::take(&mut self.is_begun) {
            self.ahead.advance(1);
        }
    }

    /// Leaves all further bytes to hyper.
    fn stop_searching(&mut self) {
        self.skip_begun();
        self.next = Next::Other;
    }

    /// Takes the head in `ahead`. False if it is incomplete.
    fn take_head(&mut self) -> bool {
        // A head that comes in single bytes must not be parsed with each of them.
        let searched = std::mem::replace(&mut self.searched, self.ahead.len());
        let unsearched = &self.ahead[searched.saturating_sub(2)..];
        let is_too_long = self.ahead.len() > self.max_head;
        if self.ahead.is_empty() || searched > 0 && !is_too_long && !has_empty_line(unsearched) {
            return false;
        }
        let (escaped, target) = match raw_target::escape(&self.ahead) {
            Some((escaped, target)) => (Some(escaped), Some(target)),
            None => (None, None),
        };
        let read = escaped.as_deref().unwrap_or(&self.ahead);
        let frame = match frame_request(read, self.max_headers) {
            Ok(None) if !is_too_long => return false,
            Ok(Some(frame)) => frame,
            Ok(None) | Err(Malformed) => {
                self.stop_searching();
                return true;
            }
        };
        let RequestFrame {
            length,
            body,
            conflict,
            case,
        } = frame;
        // The bytes behind the head are the same in both.
        let rest = read.len() - length;
        let original = self.ahead.split_to(self.ahead.len() - rest);
        self.head = match escaped {
            Some(mut escaped) => {
                escaped.truncate(length);
                escaped.into()
            }
            None => original.freeze(),
        };
        // The first byte is the same in both, too.
        self.head.advance(std::mem::take(&mut self.is_begun).into());
        self.searched = 0;
        if !body.has_ended() {
            self.next = Next::Body(Body {
                decoder: body,
                undecoded: BytesMut::new(),
            });
        }
        let is_usual = target.is_none() && conflict.is_none();
        let target = target.map(|target| (target, case));
        let entry = (!is_usual).then(|| Box::new(HeadNotes { target, conflict }));
        self.noted.lock().push_back(entry);
        true
    }
}

impl<IO: AsyncRead + Unpin> EscapedIo<IO> {
    /// Reads more bytes of a head, until hyper can be given something. `buf` is
    /// where they are read to first: it is large, and so is the read.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        loop {
            if self.noted.is_upgraded.load(Relaxed) {
                self.stop_searching();
                break;
            }
            if self.take_head() {
                break;
            }
            if !self.ahead.is_empty() && !self.is_begun {
                // hyper closes a connection on which no head has begun when a
                // drain begins.
                self.is_begun = true;
                buf.put_slice(&self.ahead[..1]);
                break;
            }
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            let read = &buf.filled()[start..];
            self.ahead.extend_from_slice(read);
            let has_ended = read.is_empty();
            buf.set_filled(start);
            if has_ended {
                // The end of the stream: hyper decides about a part of a head.
                self.stop_searching();
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads bytes that hyper gets unchanged.
    fn poll_rest(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.next, Next::Broken) {
            return Poll::Ready(Err(broken()));
        }
        let start = buf.filled().len();
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        } else {
            let length = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(length));
        }
        let Next::Body(body) = &mut self.next else {
            return Poll::Ready(Ok(()));
        };
        let read = &buf.filled()[start..];
        let length = match body.length_within(read) {
            Ok(length) => length,
            Err(Malformed) => {
                buf.set_filled(start);
                self.next = Next::Broken;
                return Poll::Ready(Err(broken()));
            }
        };
        // What follows the body is the next head, and not for hyper yet.
        let behind = BytesMut::from(&read[length..]);
        if body.decoder.has_ended() {
            self.next = Next::Head;
        }
        buf.set_filled(start + length);
        let ahead = std::mem::replace(&mut self.ahead, behind);
        self.ahead.extend_from_slice(&ahead);
        Poll::Ready(Ok(()))
    }
}

impl Body {
    /// How many of the bytes read belong to this body.
    ///
    /// # Errors
    /// The end of the body cannot be found.
    fn length_within(&mut self, read: &[u8]) -> Result<usize, Malformed> {
        if let BodyDecoder::Length(left) = &mut self.decoder {
            let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
            *left -= length as u64;
            return Ok(length);
        }
        self.undecoded.extend_from_slice(read);
        let mut rest = std::mem::take(&mut self.undecoded).freeze();
        loop {
            match self.decoder.decode(&mut rest)? {
                Decoded::Data(_) | Decoded::Trailers(_) => {}
                Decoded::NeedMore => {
                    self.undecoded = BytesMut::from(rest);
                    return Ok(read.len());
                }
                Decoded::End => return Ok(read.len() - rest.len()),
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for EscapedIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.head.is_empty() && matches!(this.next, Next::Head) {
            let start = buf.filled().len();
            ready!(this.poll_head(cx, buf))?;
            if buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
        if this.head.is_empty() {
            return this.poll_rest(cx, buf);
        }
        let length = this.head.len().min(buf.remaining());
        buf.put_slice(&this.head.split_to(length));
        // With the bytes behind the head hyper fills its buffer as usual: it keeps
        // whole buffers of a body.
        let is_body = !this.ahead.is_empty() && !matches!(this.next, Next::Head);
        if this.head.is_empty() && is_body && buf.remaining() > 0 {
            // An error comes again with the next read.
            drop(this.poll_rest(cx, buf));
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for EscapedIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Whether a head may end in these bytes: with an empty line.
fn has_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests;
