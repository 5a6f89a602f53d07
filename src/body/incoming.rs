//! The part of a request body that was not received yet (lingering close).
//!
//! Invariant: a client that gets its response before it has sent the whole body can
//! still read the response. hyper would close the connection: a client that is
//! still writing gets a reset, which can destroy the response (RFC 9112 §9.6). Over
//! HTTP/2 it would reset the stream, which some clients report as a failure (RFC
//! 9113 §8.1). So the rest of the body is read and discarded, unless the client
//! waits for `100 Continue` before it sends it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::Error;
use crate::conn::pending_body::PendingBody;

/// A body received through hyper. When it is dropped, its rest is read and
/// discarded for a limited time.
#[derive(Debug)]
pub(super) struct IncomingBody {
    /// `None` once the body has ended or broken off.
    rest: Option<Rest>,
    broke_off: Option<Error>,
}

#[derive(Debug)]
struct Rest {
    incoming: Incoming,
    pending: PendingBody,
}

impl IncomingBody {
    pub(super) fn new(incoming: Incoming, pending: PendingBody) -> Self {
        Self {
            rest: Some(Rest { incoming, pending }),
            broke_off: None,
        }
    }

    /// A body without bytes, or whose bytes are held elsewhere.
    pub(super) fn ended() -> Self {
        Self {
            rest: None,
            broke_off: None,
        }
    }

    /// Whether the body was read to its end.
    pub(super) fn has_ended(&self) -> bool {
        self.rest.is_none() && self.broke_off.is_none()
    }

    /// The next frame. This asks a client that waits for `100 Continue` to send.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(self.broke_off.map(Err));
        };
        // Marked before hyper is polled: the first poll sends `100 Continue`.
        if !rest.pending.accept() {
            // The final response was sent instead, so the client will not send it.
            return Poll::Ready(Some(Err(self.break_off(Error::Declined))));
        }
        match ready!(Pin::new(&mut rest.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if rest.ends_with(&frame) {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None if rest.is_complete() => {
                self.end();
                Poll::Ready(None)
            }
            // hyper's error is dropped: its text may quote the request.
            None | Some(Err(_)) => Poll::Ready(Some(Err(self.break_off(Error::ClientGone)))),
        }
    }

    /// Ends the body with an error.
    pub(super) fn break_off(&mut self, why: Error) -> Error {
        self.rest = None;
        self.broke_off = Some(why);
        why
    }

    fn end(&mut self) {
        // `take`, so that the drop below finds nothing to discard.
        if let Some(rest) = self.rest.take() {
            rest.pending.finish();
        }
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        // A task, because a drop cannot wait. A client that waits for `100 Continue`
        // sends no body. There is no runtime while it shuts down.
        if !rest.pending.expects_continue()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(rest.discard());
        }
    }
}

impl Rest {
    /// Whether no frame follows this one. Asked at once: if polled again, hyper may
    /// report the end only together with the next request.
    fn ends_with(&self, frame: &Frame<Bytes>) -> bool {
        frame.is_trailers() || self.incoming.is_end_stream()
    }

    /// Whether the end of hyper's frames is the end of the body. Over HTTP/2 it
    /// may also be RST_STREAM with NO_ERROR, which hyper does not report.
    fn is_complete(&self) -> bool {
        !self.pending.is_http2() || self.incoming.is_end_stream()
    }

    /// Reads and discards the rest.
    async fn discard(mut self) {
        let limit = self.pending.discard_timeout();
        let has_ended = timeout(limit, async {
            while let Some(frame) = self.incoming.frame().await {
                match frame {
                    Ok(frame) if self.ends_with(&frame) => break,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
            true
        });
        if has_ended.await.unwrap_or(false) {
            self.pending.finish();
        }
    }
}
