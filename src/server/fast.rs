//! The fast path: a simple HTTP/1.1 request, served without hyper.
//!
//! [`h1`](crate::http::h1) decides which requests are simple. Invariants: any other
//! request stays on the stream byte for byte, for hyper; nothing is kept from one
//! request to the next; the connection is not read while a response is pending, as
//! with hyper.

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

/// How long the rest of a request may take to arrive. Long requests arrive in
/// several packets, and many clients write head and body separately. A request that
/// takes longer is left to hyper, which streams its body.
const ARRIVAL_TIME: Duration = Duration::from_millis(5);

/// What the connection must do after a response.
pub(super) enum Next {
    /// Wait for the next request.
    Wait,
    /// Shut the stream down: the response had `Connection: close`.
    Close,
    /// Drop the stream: the client cannot get the whole response.
    Cut,
}

/// How the writing of a response ended.
enum Outcome {
    Sent,
    /// The body broke off, or the stream failed.
    Broken,
}

/// A response that is being written.
struct ResponseWriter {
    out: WriteBuf,
    encoder: BodyEncoder,
    /// `None` once the body was read to its end or broke off. Dropping it ends the
    /// request for the metrics, which must happen before the client sees the end of
    /// the response and sends another request.
    body: Option<ResponseBody>,
    broke_off: bool,
}

/// Takes a simple request off the stream, if it has arrived completely or does so
/// within [`ARRIVAL_TIME`].
pub(super) async fn take_request<IO>(
    io: &mut Rewind<IO>,
    max_headers: usize,
    lifecycle: &mut Lifecycle<'_>,
) -> Option<FastRequest>
where
    IO: AsyncRead + Unpin,
{
    let mut until = None;
    loop {
        match read_request(io.take_prefix(), max_headers) {
            RequestRead::Complete(request, rest) => {
                // The beginning of the next request, if the client pipelines.
                io.rewind(rest);
                return Some(request);
            }
            RequestRead::ForHyper(bytes) => {
                io.rewind(bytes);
                return None;
            }
            RequestRead::Incomplete(bytes) => io.rewind(bytes),
        }
        // A head has begun: `server.header_timeout` runs from here, also if hyper
        // takes over.
        lifecycle.state().on_bytes_received();
        // The clock is read only here: nearly all requests arrive in one piece.
        let until = *until.get_or_insert_with(|| Instant::now() + ARRIVAL_TIME);
        let has_more = poll_fn(|cx| match io.poll_fill(cx) {
            Poll::Ready(filled) => Poll::Ready(matches!(filled, Ok(1..))),
            // A drain needs no action here: the response will carry `Connection: close`.
            Poll::Pending => lifecycle.poll_until(cx, until).map(|()| false),
        });
        if !has_more.await {
            return None;
        }
    }
}

impl Server {
    /// Serves a simple request.
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
        // The lifecycle is not polled meanwhile: no timeout of the client is running, and a
        // drain waits for the response.
        let Ok(response) = proxy.handle(head, body, conn.clone(), now).await;
        let is_last = response.head.closes_connection();
        let mut writer = ResponseWriter::new(response);
        // Other ready requests are processed before this response is written: writing
        // them together takes less processor time than one by one.
        yield_now::to_ready_tasks(self.proxy.shared.metrics.requests_in_flight()).await;
        loop {
            // First the writer, whose progress moves the deadline of the lifecycle.
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
                // A drain: the response is delivered first. Its head may have been sent
                // without `Connection: close`, then the client may send one more request.
                Err(Action::Close | Action::Park) => {}
            }
        }
    }
}

impl ResponseWriter {
    fn new(mut response: ClientResponse) -> Self {
        let mut out = WriteBuf::default();
        let length = response.body.size_hint().exact();
        let encoder = write_response(out.text(), &mut response.head, length);
        let has_body = !has_no_body(response.status());
        Self {
            out,
            encoder,
            // The head is dropped: it is encoded, and sending the body may take long.
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
            // Body first, so that head and first chunk go out in one write.
            let is_read = self.poll_body(cx);
            let written = loop {
                if self.out.is_empty() {
                    break Pin::new(&mut *io).poll_flush(cx);
                }
                match self.out.poll_write(io, cx) {
                    // Each write that takes bytes restarts `server.body_timeout`: a slow
                    // client is not disconnected.
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
            // The body pauses. `pause` may have ended the current chunk, which must be
            // written now: the client may wait for it.
            if is_read.is_pending() && !self.encoder.pause(&mut self.out) {
                return Poll::Pending;
            }
        }
    }

    /// Reads the body until there is enough to write. Small pieces are collected: each
    /// write is a system call and a packet.
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
                // Requests with `TE: trailers` are left to hyper, so this client did not
                // ask for trailers (RFC 9110 §6.5.1).
                Some(Ok(Err(_trailers))) => Ok(()),
                // Shorter than announced, or without a last chunk: only a closed connection
                // shows the client that the body is incomplete.
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
