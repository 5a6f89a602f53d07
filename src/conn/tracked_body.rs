//! The body of a response over HTTP/2. Reports its progress to the connection.
//!
//! Invariant: each byte that hyper receives is reported once as added and once as
//! taken. It is taken when hyper writes or drops it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::state::ConnState;

/// The progress of one response.
#[derive(Debug)]
struct ResponseProgress {
    conn: Arc<ConnState>,
    /// The number of the response in the connection's `SendTracker`.
    response: u64,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    /// Bytes that hyper holds and has not yet written.
    bytes: usize,
    /// Since when none of them was written, in nanoseconds since the connection was
    /// accepted; zero if there are none.
    since: u64,
}

impl ResponseProgress {
    fn new(conn: Arc<ConnState>) -> Self {
        let tracker = conn.send_tracker();
        Self {
            response: tracker.map_or(0, |tracker| tracker.register()),
            conn,
            pending: Mutex::default(),
        }
    }

    fn on_added(&self, bytes: usize) {
        let mut pending = self.lock();
        pending.bytes += bytes;
        // New bytes are no progress of the client: they do not restart the timeout.
        if pending.since == 0 && pending.bytes != 0 {
            self.restart(&mut pending);
        }
    }

    fn on_taken(&self, bytes: usize) {
        if bytes != 0 {
            let mut pending = self.lock();
            pending.bytes -= bytes;
            self.restart(&mut pending);
        }
    }

    /// Restarts the time, or stops it if no bytes are left.
    fn restart(&self, pending: &mut Pending) {
        let now = Instant::now();
        let since = match pending.bytes {
            0 => 0,
            // At least 1, since zero means "no bytes".
            _ => self.conn.nanos(now).max(1),
        };
        let before = std::mem::replace(&mut pending.since, since);
        if let Some(tracker) = self.conn.send_tracker() {
            tracker.on_progress(self.response, before, since);
        }
        if since == 0 {
            self.conn.on_response_read(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // A panic elsewhere leaves two valid integers.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a response over HTTP/2.
pub(crate) struct TrackedBody<B> {
    body: B,
    progress: Arc<ResponseProgress>,
}

impl<B> TrackedBody<B> {
    /// A body that is sent on this connection.
    pub(crate) fn new(body: B, conn: Arc<ConnState>) -> Self {
        let progress = Arc::new(ResponseProgress::new(conn));
        Self { body, progress }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = TrackedChunk;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<TrackedChunk>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let chunk = |bytes| TrackedChunk::new(bytes, &this.progress);
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A chunk of a body that reports when its bytes are written or dropped.
pub(crate) struct TrackedChunk {
    bytes: Bytes,
    progress: Arc<ResponseProgress>,
}

impl TrackedChunk {
    fn new(bytes: Bytes, progress: &Arc<ResponseProgress>) -> Self {
        progress.on_added(bytes.len());
        let progress = Arc::clone(progress);
        Self { bytes, progress }
    }
}

impl Buf for TrackedChunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.progress.on_taken(count);
    }
}

impl Drop for TrackedChunk {
    fn drop(&mut self) {
        // hyper drops the rest of a stream that the client has reset.
        self.progress.on_taken(self.bytes.len());
    }
}
