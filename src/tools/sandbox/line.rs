//! A connection that can be torn on purpose.
//!
//! Owns the budget of bytes that may still be written, and the manner of closing. It knows nothing of HTTP.
//! Invariant: once a line is cut, not one byte beyond the budget reaches the peer, not even an orderly end of stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The budget of a line nobody has cut.
const WHOLE: usize = usize::MAX;

/// The knife: shortens what its line will still write.
#[derive(Clone, Debug)]
pub(super) struct Cut(Arc<AtomicUsize>);

/// A stream whose writing can be cut short.
#[derive(Debug)]
pub(super) struct Line<IO> {
    io: IO,
    left: Arc<AtomicUsize>,
    /// Makes the close that follows a cut abrupt, where the stream knows such a thing.
    harden: fn(&IO),
}

impl Cut {
    /// Lets the line write `bytes` more and then breaks it.
    pub(super) fn after(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Release);
    }
}

impl Line<TcpStream> {
    /// Wraps a TCP stream; a cut ends in a reset, not in an orderly close.
    pub(super) fn tcp(io: TcpStream) -> (Self, Cut) {
        Self::with(io, |io| {
            // No linger time: closing discards what is unsent and sends RST. Failing is no worse than a plain close.
            SockRef::from(io)
                .set_linger(Some(std::time::Duration::ZERO))
                .ok();
        })
    }
}

impl<IO> Line<IO> {
    /// Wraps any stream; a cut ends in a plain drop.
    pub(super) fn new(io: IO) -> (Self, Cut) {
        Self::with(io, |_| {})
    }

    fn with(io: IO, harden: fn(&IO)) -> (Self, Cut) {
        let left = Arc::new(AtomicUsize::new(WHOLE));
        (
            Self {
                io,
                left: Arc::clone(&left),
                harden,
            },
            Cut(left),
        )
    }

    /// Returns how much of a write may pass, or the error that ends the line.
    fn allowance(&self, wanted: usize) -> io::Result<usize> {
        match self.left.load(Ordering::Acquire) {
            WHOLE => Ok(wanted),
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            left => Ok(wanted.min(left)),
        }
    }

    fn spend(&self, written: usize) {
        let left = self.left.load(Ordering::Acquire);
        if left != WHOLE {
            self.left
                .store(left.saturating_sub(written), Ordering::Release);
        }
    }

    fn is_cut(&self) -> bool {
        self.left.load(Ordering::Acquire) != WHOLE
    }
}

impl<IO> Drop for Line<IO> {
    fn drop(&mut self) {
        if self.is_cut() {
            (self.harden)(&self.io);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Line<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Line<IO> {
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
        if self.is_cut() {
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
        if self.is_cut() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
