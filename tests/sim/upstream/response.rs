//! Responses of the upstream as they are written: in pieces, in part, or with a body that must
//! not be there.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::Sleep;

use crate::rng::Rng;
use crate::wire::RESPONSE;

/// How a response ends early: why, over HTTP/2, and after which time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    reason: h2::Reason,
    after: Duration,
}

impl Cut {
    pub(super) fn drawn(rng: &mut Rng) -> Self {
        use h2::Reason;
        Self {
            reason: rng.pick(&[Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR]),
            // Without a pause hyper sends nothing of the response over HTTP/1.1.
            after: rng.pick(&[Duration::ZERO, Duration::from_millis(1)]),
        }
    }
}

/// A response body: its pieces, then its end or an error.
pub(super) struct ResponseBody {
    pieces: Vec<Bytes>,
    cut: Option<Cut>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(super) fn new(body: Bytes, cut: Option<Cut>, in_pieces: bool) -> Self {
        let middle = body.len() / 2;
        let mut pieces = vec![body.slice(..middle)];
        if cut.is_none() {
            match in_pieces {
                true => pieces.insert(0, body.slice(middle..)),
                false => pieces = vec![body],
            }
        }
        let pause = cut.filter(|cut| !cut.after.is_zero());
        Self {
            pieces,
            cut,
            pause: pause.map(|cut| Box::pin(tokio::time::sleep(cut.after))),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(piece) = self.pieces.pop() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(cut) = self.cut else {
            return Poll::Ready(None);
        };
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        // hyper resets the stream with this reason; over HTTP/1.1 it ends the connection.
        Poll::Ready(Some(Err(cut.reason.into())))
    }
}

/// A response that ends with its head, and the body that it announces all the same, which
/// arrives late.
#[derive(Debug)]
pub(super) struct LateBody {
    head: String,
    body: &'static str,
    after: Duration,
}

impl LateBody {
    pub(super) fn drawn(rng: &mut Rng, number: usize, status: StatusCode) -> Self {
        // A 304 may announce the length of a 200 (RFC 9110 §8.6).
        let may_have_length = status == StatusCode::NO_CONTENT;
        let (field, body) = match rng.below(if may_have_length { 4 } else { 2 }) {
            0 => ("transfer-encoding: chunked", "0\r\n\r\n"),
            1 => ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
            2 => ("content-length: 5", "hello"),
            // What the next caller would take for its response.
            _ => (
                "content-length: 38",
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            ),
        };
        let status = status.as_str();
        Self {
            head: format!("HTTP/1.1 {status} \r\n{RESPONSE}: {number}\r\n{field}\r\n\r\n"),
            body,
            after: Duration::from_millis(rng.pick(&[0, 1, 50])),
        }
    }

    /// Writes it; `false` if the connection has ended.
    pub(super) async fn write(self, io: &mut (impl AsyncWrite + Unpin)) -> bool {
        if io.write_all(self.head.as_bytes()).await.is_err() {
            return false;
        }
        tokio::time::sleep(self.after).await;
        io.write_all(self.body.as_bytes()).await.is_ok()
    }
}
