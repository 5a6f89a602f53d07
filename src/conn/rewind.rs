//! A stream that takes back bytes that were read from it (as in hyper-util).
//!
//! Invariant: the next reader gets the bytes that were read ahead first and in
//! order, unless they were skipped or taken.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection_permit::ConnectionPermit;

/// Bytes read at a time: enough for the whole head of a usual request. The
/// buffer is on the stack, so a connection that waits holds no memory for it.
const READ_SIZE: usize = 2048;

/// A stream whose first bytes can be inspected and read again.
pub(crate) struct Rewind<IO> {
    io: IO,
    /// Bytes that were read from the stream and not consumed yet.
    prefix: BytesMut,
    /// Held as long as the stream exists; on an upgrade hyper hands the stream over.
    permit: Option<ConnectionPermit>,
}

impl<IO> Rewind<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self {
            io,
            prefix: BytesMut::new(),
            permit: None,
        }
    }

    /// Holds the connection's permit until the stream is dropped.
    pub(crate) fn hold(&mut self, permit: ConnectionPermit) {
        self.permit = Some(permit);
    }

    /// The bytes that were read and not consumed yet.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Consumes all bytes that were read.
    pub(crate) fn take_prefix(&mut self) -> Bytes {
        std::mem::take(&mut self.prefix).freeze()
    }

    /// Consumes the first `length` bytes of those that were read.
    pub(crate) fn skip(&mut self, length: usize) {
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            // An idle connection must not keep a buffer, which may be large.
            self.prefix = BytesMut::new();
        }
    }

    /// Puts bytes in front of all others, to be read again.
    pub(crate) fn rewind(&mut self, bytes: Bytes) {
        // An empty `Bytes` may keep a large buffer alive.
        if !bytes.is_empty() {
            // Copies only if the buffer is shared.
            let mut prefix = BytesMut::from(bytes);
            prefix.extend_from_slice(&self.prefix);
            self.prefix = prefix;
        }
    }
}

impl<IO: AsyncRead + Unpin> Rewind<IO> {
    /// Appends more bytes to [`prefix`](Self::prefix) and returns how many; zero at
    /// the end of the stream.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Not initialised: zeroing 2 KiB for each poll would cost more than the read.
        let mut buffer = [const { MaybeUninit::uninit() }; READ_SIZE];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.prefix.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewind<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.skip(length);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewind<IO> {
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
