//! What is still to come of a request's body.
//!
//! Invariant: a client whose request is answered early can go on sending, and
//! hears its answer. hyper closes a connection on a body that nobody wants,
//! and whoever writes then meets a reset, which can take the answer with it
//! (RFC 9112 §9.6); of HTTP/2 it resets the stream, which some clients take for
//! a failure (RFC 9113 §8.1). So such a body is read and thrown away.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::Error;
use crate::front::Unread;

/// The rest of a body. Dropped, it is read on for nobody until it ends, or for
/// as long as its connection may lie idle.
#[derive(Debug)]
pub(super) struct Coming {
    /// `None` once it has ended.
    rest: Option<(Incoming, Unread)>,
    /// With `Expect: 100-continue` a client keeps its body back until it is
    /// asked for. Never asked, what it sends next may be another request.
    is_kept_back: bool,
    /// Not all of it came.
    broke_off: Option<Error>,
}

impl Coming {
    pub(super) fn new(incoming: Incoming, unread: Unread, is_kept_back: bool) -> Self {
        Self {
            rest: Some((incoming, unread)),
            is_kept_back,
            broke_off: None,
        }
    }

    /// Nothing: all of it has come.
    pub(super) fn nothing() -> Self {
        Self {
            rest: None,
            is_kept_back: false,
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
        let Some((incoming, _)) = &mut self.rest else {
            return Poll::Ready(self.broke_off.map(Err));
        };
        self.is_kept_back = false;
        let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => Some(frame),
            // hyper's error may name the request; ours says what happened.
            Some(Err(_)) => return Poll::Ready(Some(Err(self.break_off(Error::ClientGone)))),
            None => None,
        };
        if is_last(incoming, frame.as_ref())
            && let Some((_, unread)) = self.rest.take()
        {
            unread.ended();
        }
        Poll::Ready(frame.map(Ok))
    }

    /// Waits for no more of it.
    pub(super) fn break_off(&mut self, why: Error) -> Error {
        if let Some((_, unread)) = self.rest.take() {
            unread.given_up();
        }
        self.broke_off = Some(why);
        why
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let Some((incoming, unread)) = self.rest.take() else {
            return;
        };
        match Handle::try_current() {
            Ok(runtime) if !self.is_kept_back => {
                runtime.spawn(read_on(incoming, unread));
            }
            // Without a runtime, which is being shut down, nothing goes on.
            _ => unread.given_up(),
        }
    }
}

/// Reads a body for nobody.
async fn read_on(mut incoming: Incoming, unread: Unread) {
    let until = Instant::now() + unread.idle_timeout();
    while let Ok(Ok(frame)) = timeout_at(until, incoming.frame())
        .await
        .map(Option::transpose)
    {
        if is_last(&incoming, frame.as_ref()) {
            return unread.ended();
        }
    }
}

/// Whether no frame comes after this one. hyper may tell only with the next
/// request.
fn is_last(incoming: &Incoming, frame: Option<&Frame<Bytes>>) -> bool {
    // Nothing follows trailers.
    frame.is_none_or(Frame::is_trailers) || incoming.is_end_stream()
}
