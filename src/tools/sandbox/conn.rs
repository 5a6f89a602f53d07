//! What the requests of one connection share, and how a fault strikes them.
//!
//! Invariant: a fault that breaks a response off sends exactly the bytes that it names.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::breakable_io::Breaker;
use super::faults::{FaultKind, FaultTarget};
use super::responses::{self, Body};
use super::state::State;

/// Bytes of a response head that [`FaultKind::ResetMidHead`] lets through: the status line and two letters.
const HALF_A_HEAD: usize = "HTTP/1.1 200 OK\r\nco".len();

/// What the requests of one connection share.
#[derive(Clone)]
pub(super) struct Conn {
    pub(super) state: Arc<State>,
    breaker: Breaker,
    /// Cancelled when the server stops; upgraded connections end with it.
    pub(super) stop: CancellationToken,
    /// The tasks of upgraded connections, which outlive their request.
    pub(super) upgrades: TaskTracker,
}

/// The request gets no response: its connection ends (HTTP/1.1) or its stream is reset (HTTP/2).
#[derive(Debug)]
pub(super) struct NoResponse;

impl Conn {
    pub(super) fn new(
        state: Arc<State>,
        breaker: Breaker,
        stop: CancellationToken,
        upgrades: TaskTracker,
    ) -> Self {
        Self {
            state,
            breaker,
            stop,
            upgrades,
        }
    }

    /// Applies the first fault that matches; `None` lets the request go on.
    pub(super) async fn strike(
        &self,
        target: FaultTarget<'_>,
    ) -> Result<Option<Response<Body>>, NoResponse> {
        let Some(kind) = self.state.faults.take(target) else {
            return Ok(None);
        };
        match kind {
            FaultKind::Status {
                code,
                headers,
                body,
            } => {
                let mut response = responses::full(code, "application/json", body);
                // A header of the fault replaces a default one.
                for name in headers.keys() {
                    response.headers_mut().remove(name);
                }
                response.headers_mut().extend(headers);
                Ok(Some(response))
            }
            FaultKind::ResetBeforeHead => {
                // The error makes hyper close the connection; the breaker turns the close into a
                // reset.
                self.breaker.break_after(0);
                Err(NoResponse)
            }
            FaultKind::ResetMidHead => {
                // hyper writes a normal response, and the stream breaks after these bytes.
                self.breaker.break_after(HALF_A_HEAD);
                Ok(Some(responses::full(
                    StatusCode::OK,
                    "text/plain",
                    "never read",
                )))
            }
            FaultKind::CutBody { promised, sent } => Ok(Some(Response::new(
                BrokenOff {
                    promised,
                    sent: Some(sent),
                    flushed: false,
                }
                .boxed_unsync(),
            ))),
            // The future is dropped when the client disconnects, so nothing leaks.
            FaultKind::NeverAnswer => std::future::pending().await,
            FaultKind::Delay(time) => {
                // In tokio's time, which tests can pause.
                tokio::time::sleep(time).await;
                Ok(None)
            }
        }
    }
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sandbox closed the connection on purpose, or its client did")
    }
}

impl std::error::Error for NoResponse {}

/// A body that breaks off before its announced end.
struct BrokenOff {
    promised: u64,
    sent: Option<Bytes>,
    flushed: bool,
}

impl http_body::Body for BrokenOff {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(sent) = self.sent.take() {
            return Poll::Ready(Some(Ok(Frame::data(sent))));
        }
        // hyper flushes when a body is pending. An error without that would discard what is still buffered.
        if !self.flushed {
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}
