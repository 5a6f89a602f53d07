//! The fast path: an HTTP/1.1 request in the usual form, served without hyper
//! (see [`h1`](crate::http::h1)).
//!
//! Owns reading one request that has arrived whole, and writing its response.
//! Invariants: a request in any other form stays on the stream byte for byte;
//! nothing is kept from one request to the next; the connection is not read
//! while a response is awaited, as with hyper.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Server;
use crate::body::{ClientBody, ClientResponse, ResponseBody};
use crate::conn::lifecycle::{Action, Lifecycle};
use crate::conn::rewind::Rewind;
use crate::conn::state::{ConnCtx, ConnState};
use crate::http::h1::{
    BodyEncoder, FastRequest, Malformed, RequestRead, WriteBuf, read_request, write_response,
};
use crate::http::response_head::has_no_body;
use crate::yield_now;

/// How long the rest of a request may take to arrive. A request longer than a
/// packet arrives in several, and many clients write head and body separately. A
/// request that takes longer is left to hyper, which streams its body.
const ARRIVAL_TIME: Duration = Duration::from_millis(5);

/// What the connection does after a response.
pub(super) enum Next {
    /// It waits for the next request.
    Wait,
    /// It is shut down: the response said `Connection: close`.
    Close,
    /// It is dropped: the client cannot get the whole response.
    Cut,
}

/// How the writing of a response ended.
enum Outcome {
    Sent,
    /// Its body broke off, or the stream did.
    Broken,
}

/// A response that is being written.
struct ResponseWriter {
    out: WriteBuf,
    encoder: BodyEncoder,
    /// `None` once the body was read to its end or broke off. To drop it ends
    /// the request, before the client can see the end and send the next one.
    body: Option<ResponseBody>,
    broke_off: bool,
}

/// Takes a request off the stream, if one in the usual form has arrived whole
/// or does so within [`ARRIVAL_TIME`].
pub(super) async fn take_request<IO>(
    io: &mut Rewind<IO>,
    max_fields: usize,
    lifecycle: &mut Lifecycle<'_>,
) -> Option<FastRequest>
where
    IO: AsyncRead + Unpin,
{
    let mut until = None;
    loop {
        match read_request(io.take_prefix(), max_fields) {
            RequestRead::Complete(request, rest) => {
                io.rewind(rest);
                return Some(request);
            }
            RequestRead::ForHyper(bytes) => {
                io.rewind(bytes);
                return None;
            }
            RequestRead::Incomplete(bytes) => io.rewind(bytes),
        }
        lifecycle.state().on_bytes_received();
        // The clock is read only here: nearly all requests arrive whole.
        let until = *until.get_or_insert_with(|| Instant::now() + ARRIVAL_TIME);
        let has_more = poll_fn(|cx| match io.poll_fill(cx) {
            Poll::Ready(filled) => Poll::Ready(matches!(filled, Ok(1..))),
            // A drain needs no action here: the response will say so.
            Poll::Pending => lifecycle.poll_until(cx, until).map(|()| false),
        });
        if !has_more.await {
            return None;
        }
    }
}

impl Server {
    /// Serves a request of the usual form.
    pub(super) async fn serve_fast<IO>(
        &self,
        io: &mut Rewind<IO>,
        request: FastRequest,
        conn: &ConnCtx,
        lifecycle: &mut Lifecycle<'_>,
    ) -> Next
    where
        IO: AsyncWrite + Unpin,
    {
        let now = Instant::now();
        conn.state.on_request_started(now);
        let FastRequest { head, body } = request;
        let body = ClientBody::complete(body, self.shared.settings.body_timeout, now);
        let proxy = self.proxy.clone();
        let Ok(response) = proxy.handle(head, body, conn.clone(), now).await;
        let is_last = response.head.closes_connection();
        let mut writer = ResponseWriter::new(response);
        // Responses that are ready together are written together.
        yield_now::to_ready_tasks(self.proxy.shared.metrics.calls()).await;
        loop {
            let outcome = poll_fn(|cx| match writer.poll(io, &conn.state, cx) {
                Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
                Poll::Pending => lifecycle.poll(cx).map(Err),
            });
            match outcome.await {
                Ok(Outcome::Sent) if is_last => return Next::Close,
                Ok(Outcome::Sent) => {
                    lifecycle.on_response_sent();
                    return Next::Wait;
                }
                Ok(Outcome::Broken) | Err(Action::Cut) => return Next::Cut,
                // The response is delivered first. Its head may be gone already,
                // without a word about the close.
                Err(Action::Close | Action::Park) => {}
            }
        }
    }
}

impl ResponseWriter {
    fn new(mut response: Box<ClientResponse>) -> Self {
        let mut out = WriteBuf::default();
        let length = response.body.size_hint().exact();
        let encoder = write_response(out.text(), &mut response.head, length);
        let has_body = !has_no_body(response.status());
        Self {
            out,
            encoder,
            // The head is dropped: it is written, and a long body would keep it.
            body: has_body.then_some(response.body),
            broke_off: false,
        }
    }

    /// Reads the body and writes it as it arrives.
    fn poll<IO>(
        &mut self,
        io: &mut Rewind<IO>,
        state: &ConnState,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome>
    where
        IO: AsyncWrite + Unpin,
    {
        loop {
            let is_read = self.poll_body(cx);
            let written = loop {
                if self.out.is_empty() {
                    break Pin::new(&mut *io).poll_flush(cx);
                }
                match self.out.poll_write(io, cx) {
                    // Each write that takes bytes restarts the client's time.
                    Poll::Ready(Ok(_)) => state.on_write(true),
                    Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                    Poll::Pending => break Poll::Pending,
                }
            };
            state.on_write(written.is_ready());
            match written {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Broken),
                Poll::Ready(Ok(())) => {}
            }
            if self.body.is_none() {
                return Poll::Ready(match self.broke_off {
                    true => Outcome::Broken,
                    false => Outcome::Sent,
                });
            }
            // A body that pauses may have ended a chunk: then there is more to write.
            if is_read.is_pending() && !self.encoder.pause(&mut self.out) {
                return Poll::Pending;
            }
        }
    }

    /// Reads the body until there is enough to write.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.out.has_room()
            && let Some(body) = &mut self.body
        {
            let frame = match body.is_end_stream() {
                true => None,
                false => ready!(Pin::new(body).poll_frame(cx)),
            };
            let put = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.encoder.put(&mut self.out, data),
                // The client did not ask for trailers (RFC 9110 §6.5.1).
                Some(Ok(Err(_trailers))) => Ok(()),
                Some(Err(_)) => Err(Malformed),
                None => {
                    self.body = None;
                    self.encoder.end(&mut self.out)
                }
            };
            if put.is_err() {
                self.body = None;
                self.broke_off = true;
            }
        }
        Poll::Ready(())
    }
}
