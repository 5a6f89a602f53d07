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
    /// Turns the close after a break into a reset, where the stream has one.
    harden: fn(&IO),
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

    fn with(io: IO, harden: fn(&IO)) -> (Self, Breaker) {
        let left = Arc::new(AtomicUsize::new(UNLIMITED));
        (
            Self {
                io,
                left: Arc::clone(&left),
                harden,
            },
            Breaker(left),
        )
    }

    /// How much of a write may pass, or the error that ends the connection.
    fn allowance(&self, wanted: usize) -> io::Result<usize> {
        match self.left.load(Ordering::Acquire) {
            UNLIMITED => Ok(wanted),
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            left => Ok(wanted.min(left)),
        }
    }

    fn spend(&self, written: usize) {
        let left = self.left.load(Ordering::Acquire);
        if left != UNLIMITED {
            self.left
                .store(left.saturating_sub(written), Ordering::Release);
        }
    }

    fn is_breaking(&self) -> bool {
        self.left.load(Ordering::Acquire) != UNLIMITED
    }
}

impl<IO> Drop for BreakableIo<IO> {
    fn drop(&mut self) {
        if self.is_breaking() {
            (self.harden)(&self.io);
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
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
