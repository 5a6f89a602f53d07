//! A request body that is recorded while it streams by.
//!
//! Invariant: recording delays no frame; only [`RecordedBody::read`] holds a whole body, up to its limit.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::state::State;

/// A request body that is recorded in the log as it is read.
pub(super) struct RecordedBody {
    inner: Incoming,
    state: Arc<State>,
    number: u64,
}

/// Why a body could not be read to its end.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is longer than the limit.
    TooLarge,
    /// The connection broke off, or the framing is invalid.
    Broken,
}

impl RecordedBody {
    pub(super) fn new(inner: Incoming, state: Arc<State>, number: u64) -> Self {
        // An empty body is complete now, and hyper may never poll it.
        if inner.is_end_stream() {
            state.log.record_body(number, &[], true);
        }
        Self {
            inner,
            state,
            number,
        }
    }

    /// Reads the rest of the body into memory, at most `limit` bytes.
    pub(super) async fn read(&mut self, limit: usize) -> Result<Bytes, ReadError> {
        use http_body_util::BodyExt as _;
        let mut whole = BytesMut::new();
        while let Some(frame) = self.frame().await {
            // Trailers are not part of the body.
            let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else {
                continue;
            };
            if whole.len() + data.len() > limit {
                return Err(ReadError::TooLarge);
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
}

impl Body for RecordedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx))
            .transpose()
            .map_err(io::Error::other)?;
        // A reader that knows the length may not poll again after the last frame.
        let complete = frame.is_none() || self.inner.is_end_stream();
        // Recorded before the frame is passed on, so that a body that is dropped half-way is
        // recorded as far as it was read.
        let data = frame.as_ref().and_then(Frame::data_ref);
        if complete || data.is_some() {
            self.state
                .log
                .record_body(self.number, data.map_or(&[], |data| data), complete);
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
