//! A stream that reports reads and writes to the connection's state.
//!
//! Invariant: it changes neither bytes nor results.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::ConnState;

/// A stream that reports reads and writes to the connection's state.
pub(crate) struct TrackedIo<IO> {
    io: IO,
    conn: Arc<ConnState>,
}

impl<IO> TrackedIo<IO> {
    pub(crate) fn new(io: IO, conn: &Arc<ConnState>) -> Self {
        let conn = Arc::clone(conn);
        Self { io, conn }
    }

    pub(crate) fn into_inner(self) -> IO {
        self.io
    }

    /// Reports whether the stream accepted a write or is blocked.
    fn report<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        // An error counts as progress: it ends the connection by itself.
        self.conn.on_write(polled.is_ready());
        polled
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for TrackedIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        // The end of the stream is not a byte.
        if buf.filled().len() > before {
            self.conn.on_bytes_received();
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for TrackedIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.report(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.report(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // With TLS, bytes may be accepted by `poll_write` and blocked here.
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.report(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.conn.on_shutdown();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
