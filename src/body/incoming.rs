//! What is still to come of a request's body.
//!
//! Invariant: a client whose request is answered early can go on sending, and
//! hears its answer. hyper closes a connection on a body that nobody wants,
//! and whoever writes then meets a reset, which can take the answer with it
//! (RFC 9112 §9.6); of HTTP/2 it resets the stream, which some clients take for
//! a failure (RFC 9113 §8.1). So such a body is read and thrown away; but not
//! one that the client keeps back until it is asked for.

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

/// The rest of a body. Dropped, it is read on for nobody until it ends, or for
/// as long as there is patience with it.
#[derive(Debug)]
pub(super) struct Coming {
    /// `None` once all has come, or no more of it is waited for.
    rest: Option<Rest>,
    /// Why not all of it came.
    broke_off: Option<Error>,
}

#[derive(Debug)]
struct Rest {
    incoming: Incoming,
    pending: PendingBody,
}

impl Coming {
    pub(super) fn new(incoming: Incoming, pending: PendingBody) -> Self {
        Self {
            rest: Some(Rest { incoming, pending }),
            broke_off: None,
        }
    }

    /// Nothing: all of it has come.
    pub(super) fn nothing() -> Self {
        Self {
            rest: None,
            broke_off: None,
        }
    }

    /// True when all of it has come.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_none() && self.broke_off.is_none()
    }

    /// Asks for the next frame.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(self.broke_off.map(Err));
        };
        if !rest.pending.accept() {
            // Nothing comes, and it is not to be waited for.
            return Poll::Ready(Some(Err(self.break_off(Error::Declined))));
        }
        match ready!(Pin::new(&mut rest.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if rest.ends_with(&frame) {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None if rest.has_ended() => {
                self.end();
                Poll::Ready(None)
            }
            // hyper's error may name the request; ours says what happened.
            None | Some(Err(_)) => Poll::Ready(Some(Err(self.break_off(Error::ClientGone)))),
        }
    }

    /// Waits for no more of it.
    pub(super) fn break_off(&mut self, why: Error) -> Error {
        self.rest = None;
        self.broke_off = Some(why);
        why
    }

    fn end(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.pending.finish();
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        // Without a runtime, which is being shut down, nothing goes on.
        if !rest.pending.expects_continue()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(rest.read_on());
        }
    }
}

impl Rest {
    /// Whether no frame comes after this one. Where hyper tells by saying so
    /// itself, it may do it with the next request only.
    fn ends_with(&self, frame: &Frame<Bytes>) -> bool {
        // Nothing follows trailers.
        frame.is_trailers() || self.incoming.is_end_stream()
    }

    /// Whether the end of hyper's frames is the end of the body. HTTP/2 has a
    /// reset that says "no error", and hyper makes nothing of it.
    fn has_ended(&self) -> bool {
        !self.pending.is_http2() || self.incoming.is_end_stream()
    }

    /// Reads it for nobody.
    async fn read_on(mut self) {
        let patience = self.pending.discard_timeout();
        let has_come = timeout(patience, async {
            while let Some(frame) = self.incoming.frame().await {
                match frame {
                    Ok(frame) if self.ends_with(&frame) => break,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
            true
        });
        if has_come.await.unwrap_or(false) {
            self.pending.finish();
        }
    }
}
