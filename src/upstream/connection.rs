//! One connection to the upstream, used by one request or shared by several.
//!
//! Invariant: with hyper as on the fast path, a request that was certainly not
//! processed is distinguished from one that may have been processed.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use hyper::body::{Body as _, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use tokio::time::{Instant, Sleep};

use super::age::Age;
use super::error::{self, SendError, UpstreamError};
use super::fast::FastConnection;
use super::liveness::Liveness;
use super::request;
use super::timeout::ResponseTimeout;
use crate::body::{RequestBody, UpstreamRequest};
use crate::http::h1::{BodyDecoder, FinalResponse};
use crate::http::response_head::ResponseHead;

/// Requests at the same time on one HTTP/2 connection before another is opened.
/// RFC 9113 §6.5.2 recommends that servers allow at least 100.
pub(super) const MAX_STREAMS: usize = 100;

/// A connection that was taken for one request.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(Http1Connection),
    Http2(Http2Stream),
}

/// A connection that carries one request at a time.
#[derive(Debug)]
pub(super) struct Http1Connection {
    codec: Http1Codec,
    pub(super) age: Age,
    /// The response timeout, armed for this request or an earlier one: it never
    /// fires too late (see `timeout.rs`).
    timer: Pin<Box<Sleep>>,
    /// The number of open HTTP/1.1 connections of the worker.
    open: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(super) enum Http1Codec {
    Hyper(http1::SendRequest<RequestBody>),
    Fast(Box<FastConnection>),
}

/// One stream of a shared connection.
#[derive(Debug)]
pub(super) struct Http2Stream {
    connection: Http2Connection,
}

/// A connection that carries several requests at once.
#[derive(Debug, Clone)]
pub(super) struct Http2Connection {
    sender: http2::SendRequest<RequestBody>,
    pub(super) age: Age,
    liveness: Arc<Liveness>,
    streams: Arc<AtomicUsize>,
    last_used: Arc<Mutex<Instant>>,
    /// It takes no further requests; those that it carries may end.
    is_retired: Arc<AtomicBool>,
}

/// The head of a response, and the source of its body.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) head: Box<ResponseHead>,
    pub(super) body: BodySource,
    /// The connection itself, where the upstream agreed to an upgrade.
    pub(super) upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// The source of a response body.
#[derive(Debug)]
pub(super) enum BodySource {
    Hyper(Incoming),
    /// From a connection of the fast path.
    Fast(BodyDecoder),
}

impl Connection {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Whether the fast path serves it.
    pub(super) fn is_fast(&self) -> bool {
        matches!(self, Self::Http1(connection) if connection.is_fast())
    }

    /// Sends a request and waits for the head of its response; `None` after the
    /// timeout.
    pub(super) async fn send(
        &mut self,
        request: &mut UpstreamRequest,
        timeout: &ResponseTimeout,
    ) -> Option<Result<Received, SendError>> {
        // hyper's futures are boxed. Otherwise this future would be as large as the
        // largest of them, also for requests of the fast path.
        let sent = match self {
            Self::Http1(Http1Connection { codec, timer, .. }) => match codec {
                Http1Codec::Fast(connection) => {
                    let response = pin!(connection.send(request));
                    let response = timeout.wait_for(response, timer.as_mut()).await?;
                    return Some(response.map(Received::from));
                }
                Http1Codec::Hyper(sender) => {
                    let mut response =
                        Box::pin(sender.try_send_request(request::take_for_hyper(request)));
                    timeout.wait_for(response.as_mut(), timer.as_mut()).await?
                }
            },
            Self::Http2(stream) => return Box::pin(stream.send(request, timeout)).await,
        };
        let sent = sent.map(Received::from);
        Some(sent.map_err(|mut error| match error.take_message() {
            // hyper returns the request only if it has not written any of it.
            Some(unsent) => {
                request::restore(request, unsent);
                SendError::Unprocessed
            }
            None => SendError::Failed(UpstreamError::from(error.error())),
        }))
    }

    fn fast(&mut self) -> Option<&mut FastConnection> {
        match self {
            Self::Http1(Http1Connection {
                codec: Http1Codec::Fast(connection),
                ..
            }) => Some(connection),
            Self::Http1(_) | Self::Http2(_) => None,
        }
    }
}

impl Http2Stream {
    /// Like [`Connection::send`].
    async fn send(
        &mut self,
        request: &mut UpstreamRequest,
        timeout: &ResponseTimeout,
    ) -> Option<Result<Received, SendError>> {
        // hyper returns a request that it has not sent, but not one that the upstream
        // has refused: that needs a copy.
        let head = request.head.clone();
        let body = request.body.keep_copy();
        let sender = &mut self.connection.sender;
        let mut response = Box::pin(sender.try_send_request(request::take_for_hyper(request)));
        // A shared connection has no timer: each request needs a separate one.
        let mut timer = Box::pin(tokio::time::sleep_until(timeout.end()));
        let sent = timeout.wait_for(response.as_mut(), timer.as_mut()).await?;
        let mut error = match sent {
            Ok(response) => return Some(Ok(response.into())),
            Err(error) => error,
        };
        if let Some(unsent) = error.take_message() {
            request::restore(request, unsent);
            return Some(Err(SendError::Unprocessed));
        }
        let failed = SendError::Failed(UpstreamError::from(error.error()));
        if !error::is_unprocessed(error.error()) {
            return Some(Err(failed));
        }
        // The next request would be refused too. And after a GOAWAY hyper closes only
        // when no stream is open: new requests could keep the connection open.
        self.connection.is_retired.store(true, Ordering::Relaxed);
        let Some(body) = body.recover().await else {
            return Some(Err(failed));
        };
        *request = UpstreamRequest { head, body };
        Some(Err(SendError::Unprocessed))
    }
}

impl Http1Connection {
    /// Counts itself in `open`. No response takes longer than `longest` to
    /// begin.
    pub(super) fn new(
        codec: Http1Codec,
        age: Age,
        longest: Duration,
        open: &Arc<AtomicUsize>,
    ) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self {
            codec,
            age,
            timer: Box::pin(tokio::time::sleep(longest)),
            open: Arc::clone(open),
        }
    }

    pub(super) fn is_fast(&self) -> bool {
        matches!(self.codec, Http1Codec::Fast(_))
    }

    /// Whether it can take a request now. hyper cannot while it writes the last
    /// request or closes. The fast path checks this when it sends.
    pub(super) fn is_ready(&self) -> bool {
        match &self.codec {
            Http1Codec::Hyper(sender) => sender.is_ready(),
            Http1Codec::Fast(_) => true,
        }
    }

    /// Whether it can never take a request again. If not, a connection of the fast
    /// path wakes `cx` when it ends. hyper's task closes its connection itself.
    pub(super) fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.codec {
            Http1Codec::Hyper(sender) => sender.is_closed(),
            Http1Codec::Fast(connection) => !connection.is_usable(cx),
        }
    }
}

impl Drop for Http1Connection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Http2Connection {
    pub(super) fn new(
        sender: http2::SendRequest<RequestBody>,
        age: Age,
        liveness: Arc<Liveness>,
    ) -> Self {
        Self {
            sender,
            age,
            liveness,
            streams: Arc::new(AtomicUsize::new(0)),
            last_used: Arc::new(Mutex::new(Instant::now())),
            is_retired: Arc::default(),
        }
    }

    /// Whether it can take a request now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.streams() < MAX_STREAMS && !self.liveness.is_silent(now)
    }

    /// Whether it can never take a request again.
    pub(super) fn has_ended(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed) || self.sender.is_closed()
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// The number of its streams, also after the connection itself was dropped.
    pub(super) fn stream_count(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.streams)
    }

    /// When the last request on it ended.
    pub(super) fn last_used(&self) -> Instant {
        *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream on it.
    pub(super) fn stream(&self) -> Connection {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Connection::Http2(Http2Stream {
            connection: self.clone(),
        })
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let Http2Connection {
            streams, last_used, ..
        } = &self.connection;
        streams.fetch_sub(1, Ordering::Relaxed);
        *last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl From<Response<Incoming>> for Received {
    fn from(mut response: Response<Incoming>) -> Self {
        let upgrade = (response.status() == http::StatusCode::SWITCHING_PROTOCOLS)
            .then(|| hyper::upgrade::on(&mut response));
        let (head, incoming) = response.into_parts();
        Self {
            head: Box::new(head.into()),
            body: BodySource::Hyper(incoming),
            upgrade,
        }
    }
}

impl From<FinalResponse> for Received {
    fn from(response: FinalResponse) -> Self {
        Self {
            head: response.head,
            body: BodySource::Fast(response.decoder),
            upgrade: None,
        }
    }
}

impl BodySource {
    /// The next frame, read from `connection`, which is `None` once it was released
    /// at the end of the body.
    pub(super) fn poll_frame(
        &mut self,
        connection: Option<&mut Connection>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        match self {
            Self::Hyper(incoming) => match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                // hyper reports RST_STREAM with NO_ERROR as the end of the body. Without
                // END_STREAM before it, the body is incomplete (RFC 9113 §8.1).
                None if connection.is_some_and(|it| it.is_http2()) && !incoming.is_end_stream() => {
                    Poll::Ready(Some(Err(())))
                }
                frame => Poll::Ready(frame.map(|frame| frame.map_err(drop))),
            },
            Self::Fast(decoder) => match connection.and_then(Connection::fast) {
                Some(connection) => connection.poll_body(decoder, cx),
                None => Poll::Ready(None),
            },
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Fast(decoder) => decoder.has_ended(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Fast(BodyDecoder::Length(left)) => SizeHint::with_exact(*left),
            Self::Fast(BodyDecoder::Chunked(_) | BodyDecoder::UntilClose) => SizeHint::default(),
        }
    }
}
