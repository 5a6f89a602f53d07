//! Detects that the upstream of an HTTP/2 connection no longer responds.
//!
//! hyper sends a PING after [`PING_INTERVAL`] without a frame, and a live upstream
//! acknowledges it at once (RFC 9113 §6.7). Invariant: a connection whose PING has
//! no acknowledgement after [`PONG_WAIT`] gets no further request. A slow response
//! never ends a connection, because PINGs are acknowledged meanwhile.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// After this time without a frame from the upstream, hyper sends a PING.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(3);

/// After this time without an acknowledgement, hyper ends the connection and all
/// requests on it.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an acknowledgement may take: longer than any round trip.
const PONG_WAIT: Duration = Duration::from_secs(1);

/// When bytes were last received on a connection.
#[derive(Debug)]
pub(super) struct Liveness {
    created: Instant,
    /// Milliseconds after `created`.
    last_read: AtomicU64,
}

impl Liveness {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            created: Instant::now(),
            last_read: AtomicU64::new(0),
        })
    }

    /// Whether a PING has no acknowledgement.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let last_read = Duration::from_millis(self.last_read.load(Ordering::Relaxed));
        // hyper does not report its PINGs. After so long without bytes, one must have
        // been sent and not acknowledged.
        now.saturating_duration_since(self.created + last_read) > PING_INTERVAL + PONG_WAIT
    }

    fn record_read(&self) {
        let elapsed = self.created.elapsed().as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.last_read.store(elapsed, Ordering::Relaxed);
    }
}

/// A stream that records when bytes were received.
pub(super) struct LiveIo<IO> {
    io: IO,
    liveness: Arc<Liveness>,
    /// Takes the first byte that is received.
    first_byte: Option<oneshot::Sender<u8>>,
}

impl<IO> LiveIo<IO> {
    pub(super) fn new(
        io: IO,
        liveness: &Arc<Liveness>,
        first_byte: Option<oneshot::Sender<u8>>,
    ) -> Self {
        Self {
            io,
            liveness: Arc::clone(liveness),
            first_byte,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for LiveIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        // Any byte counts, not only acknowledgements: hyper sends PINGs only when
        // nothing arrives.
        if let Some(first) = buf.filled().get(before) {
            self.liveness.record_read();
            if let Some(first_byte) = self.first_byte.take() {
                // Nothing waits for it after the connect timeout.
                first_byte.send(*first).ok();
            }
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for LiveIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
