//! A request body that is not yet read to its end, as its connection sees it.
//!
//! Invariants: a body that the client sends only after `100 Continue` is either
//! accepted or declined, never both; a connection with an abandoned body accepts
//! no further HTTP/1 request.

use std::sync::Arc;
use std::time::Duration;

use http::Version;
use http::request::Parts;

use super::LINGERING_CLOSE;
use super::state::ConnState;
use crate::http::hop_by_hop;

/// A body that is not yet read to its end. [`finish`](Self::finish) reports its
/// end; dropping it before abandons the body.
#[derive(Debug)]
pub(crate) struct PendingBody {
    conn: Arc<ConnState>,
    discard_timeout: Duration,
    /// The client waits for `100 Continue`.
    expects_continue: bool,
    is_finished: bool,
}

impl PendingBody {
    /// The body that follows `head`.
    pub(crate) fn new(conn: &Arc<ConnState>, head: &Parts) -> Self {
        // hyper sends `100 Continue` under the same condition. HTTP/2 frames separate
        // bodies from requests, so there a body that was declined does no harm.
        let expects_continue =
            head.version == Version::HTTP_11 && hop_by_hop::expects_continue(&head.headers);
        conn.on_body_started(expects_continue);
        Self {
            // Discarding a body keeps the connection for another request. That is not
            // worth a long wait if the connection ends anyway, or if it is one of the
            // limited streams of HTTP/2.
            discard_timeout: match hop_by_hop::may_persist(head) {
                true => conn.timeouts().idle,
                false => LINGERING_CLOSE,
            },
            conn: Arc::clone(conn),
            expects_continue,
            is_finished: false,
        }
    }

    /// Lets the client send the body. False if the body was declined, because
    /// the response has been sent: the next bytes may be another request.
    pub(crate) fn accept(&mut self) -> bool {
        // Polling the body makes hyper send `100 Continue`, so this must be decided before.
        if self.expects_continue {
            self.expects_continue = !self.conn.accept_body();
        }
        !self.expects_continue
    }

    /// Whether the client waits for `100 Continue`.
    pub(crate) fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether it is the body of an HTTP/2 stream.
    pub(crate) fn is_http2(&self) -> bool {
        self.conn.is_http2()
    }

    /// How long the body may be read just to discard it.
    pub(crate) fn discard_timeout(&self) -> Duration {
        self.discard_timeout
    }

    /// The body was read to its end.
    pub(crate) fn finish(mut self) {
        self.is_finished = true;
    }
}

impl Drop for PendingBody {
    fn drop(&mut self) {
        match self.is_finished {
            true => self.conn.on_body_ended(),
            false => self.conn.on_body_abandoned(),
        }
    }
}
