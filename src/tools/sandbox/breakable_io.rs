//! A connection that can be broken on purpose.
//!
//! Owns the number of bytes that may still be written, and how the connection closes. It knows nothing of HTTP.
//! Invariant: after a break no byte beyond the limit reaches the peer, not even an orderly end of stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The limit of a connection that is not to be broken.
const UNLIMITED: usize = usize::MAX;

/// Breaks the connection that it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Breaker(Arc<AtomicUsize>);

/// A stream that can be made to break while it writes.
#[derive(Debug)]
pub(super) struct BreakableIo<IO> {
    io: IO,
    left: Arc<AtomicUsize>,
    /// Makes the close after a break a reset, if the stream has resets.
    reset_on_close: fn(&IO),
}

impl Breaker {
    /// Lets the connection write `bytes` more and then breaks it.
    pub(super) fn break_after(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Release);
    }
}

impl BreakableIo<TcpStream> {
    /// Wraps a TCP stream; a break ends in a reset, not in an orderly close.
    pub(super) fn tcp(io: TcpStream) -> (Self, Breaker) {
        Self::with(io, |io| {
            // Without linger time a close discards unsent data and sends RST. If this fails, it is an ordinary close.
            SockRef::from(io)
                .set_linger(Some(std::time::Duration::ZERO))
                .ok();
        })
    }
}

impl<IO> BreakableIo<IO> {
    /// Wraps any stream; a break drops it.
    pub(super) fn new(io: IO) -> (Self, Breaker) {
        Self::with(io, |_| {})
    }

    fn with(io: IO, reset_on_close: fn(&IO)) -> (Self, Breaker) {
        let left = Arc::new(AtomicUsize::new(UNLIMITED));
        (
            Self {
                io,
                left: Arc::clone(&left),
                reset_on_close,
            },
            Breaker(left),
        )
    }

    /// Bytes of a write of `wanted` bytes that are allowed, or the error that ends the connection.
    fn allowance(&self, wanted: usize) -> io::Result<usize> {
        match self.left.load(Ordering::Acquire) {
            UNLIMITED => Ok(wanted),
            // The error makes hyper drop the connection, and the drop resets it.
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            left => Ok(wanted.min(left)),
        }
    }

    /// Counts written bytes, once a fault has set a limit.
    fn spend(&self, written: usize) {
        // Load and store need not be one step: bytes count only after a fault has been set, and
        // one fault breaks the connection.
        let left = self.left.load(Ordering::Acquire);
        if left != UNLIMITED {
            self.left
                .store(left.saturating_sub(written), Ordering::Release);
        }
    }

    /// Whether a fault has set a limit.
    fn is_breaking(&self) -> bool {
        self.left.load(Ordering::Acquire) != UNLIMITED
    }
}

impl<IO> Drop for BreakableIo<IO> {
    fn drop(&mut self) {
        if self.is_breaking() {
            (self.reset_on_close)(&self.io);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for BreakableIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for BreakableIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let allowed = self.allowance(buf.len())?;
        let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..allowed]))?;
        self.spend(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_breaking() {
            // `poll_write` enforces the limit for one buffer. The caller repeats the others.
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_breaking() {
            // A FIN can pass for the end of a response that the close delimits (RFC 9112 §6.3).
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
