//! One connection to the upstream, in use by one call or shared by several.
//!
//! Invariant: whoever speaks on it (hyper, or we in the plain case), a call
//! that was not written is told apart from one that may have arrived.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use hyper::body::{Body as _, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use tokio::time::{Instant, Sleep};

use super::error::Failure;
use super::fast::Wire;
use super::timeout::Patience;
use crate::body::RequestBody;
use crate::http::h1::{BodyDecoder, FinalResponse};
use crate::http::response_head::ResponseHead;

/// Calls at once on one HTTP/2 connection before another is opened: the
/// usual `SETTINGS_MAX_CONCURRENT_STREAMS` (RFC 9113 §6.5.2 advises no less).
pub(super) const MAX_STREAMS: usize = 100;

/// What a call asks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing beyond what plain HTTP/1.1 can do.
    Plain,
    /// Bodies that stream.
    Streams,
    /// That it can be upgraded: HTTP/1.1 by hyper.
    Upgrade,
}

/// A connection taken for one call.
#[derive(Debug)]
pub(super) enum Connection {
    H1(Exclusive),
    H2(Stream),
}

/// A connection that one call at a time may have.
#[derive(Debug)]
pub(super) struct Exclusive {
    speaker: Speaker,
    /// Rings no later than the answer to its next call would be too late.
    timer: Pin<Box<Sleep>>,
    open: Arc<AtomicUsize>,
}

/// Who speaks HTTP/1.1 on it.
#[derive(Debug)]
pub(super) enum Speaker {
    Hyper(http1::SendRequest<RequestBody>),
    /// Boxed, as it goes from hand to hand.
    Plain(Box<Wire>),
}

/// A place on a shared connection.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Shared,
}

/// A connection that several calls have at once.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
    used: Arc<Mutex<Instant>>,
}

/// The head of an answer, and where its body comes from.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) head: ResponseHead,
    pub(super) source: Source,
    /// The connection itself, where the upstream agreed to an upgrade.
    pub(super) upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// Where the body of an answer comes from.
#[derive(Debug)]
pub(super) enum Source {
    Hyper(Incoming),
    /// From the connection of a plain call, so framed.
    Plain(BodyDecoder),
}

/// Why a request brought no answer on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The connection was dead: the request is where it was, not a byte of it
    /// written.
    Untouched,
    /// It failed after it may have been written.
    Failed(Failure),
}

impl Connection {
    pub(super) fn is_h2(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// Sends a request and waits for the head of the answer; `None` if that
    /// took too long.
    pub(super) async fn send(
        &mut self,
        request: &mut Request<RequestBody>,
        patience: &Patience,
    ) -> Option<Result<Received, Unsent>> {
        // hyper's futures are boxed, or plain calls would carry the room for them.
        let sent = match self {
            Self::H1(Exclusive { speaker, timer, .. }) => match speaker {
                Speaker::Plain(wire) => {
                    let answer = pin!(wire.call(request));
                    let answer = patience.wait(answer, timer.as_mut()).await?;
                    return Some(answer.map(Received::from));
                }
                Speaker::Hyper(sender) => {
                    let mut answer = Box::pin(sender.try_send_request(std::mem::take(request)));
                    patience.wait(answer.as_mut(), timer.as_mut()).await?
                }
            },
            Self::H2(stream) => {
                let sender = &mut stream.shared.sender;
                let mut answer = Box::pin(sender.try_send_request(std::mem::take(request)));
                let mut timer = Box::pin(tokio::time::sleep_until(patience.end()));
                patience.wait(answer.as_mut(), timer.as_mut()).await?
            }
        };
        let sent = sent.map(Received::from);
        Some(sent.map_err(|mut error| match error.take_message() {
            Some(untouched) => {
                *request = untouched;
                Unsent::Untouched
            }
            None => Unsent::Failed(Failure::from(error.error())),
        }))
    }

    fn wire(&mut self) -> Option<&mut Wire> {
        match self {
            Self::H1(Exclusive {
                speaker: Speaker::Plain(wire),
                ..
            }) => Some(wire),
            Self::H1(_) | Self::H2(_) => None,
        }
    }
}

impl Exclusive {
    /// Counts itself among those `open`; answers take no longer than `longest`.
    pub(super) fn new(speaker: Speaker, longest: Duration, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self {
            speaker,
            timer: Box::pin(tokio::time::sleep(longest)),
            open: Arc::clone(open),
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self.speaker, Speaker::Plain(_))
    }

    /// Whether it takes a call. A plain one finds that out when it does; of
    /// hyper's the last request is still being written if not, or it is closing.
    pub(super) fn is_ready(&self) -> bool {
        match &self.speaker {
            Speaker::Hyper(sender) => sender.is_ready(),
            Speaker::Plain(_) => true,
        }
    }

    /// Whether no call can be made on it any more. If not, whoever waits in
    /// `cx` is woken at the end of a plain one: hyper looks after its own.
    pub(super) fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.speaker {
            Speaker::Hyper(sender) => sender.is_closed(),
            Speaker::Plain(wire) => !wire.may_be_used(cx),
        }
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(sender: http2::SendRequest<RequestBody>) -> Self {
        Self {
            sender,
            streams: Arc::new(AtomicUsize::new(0)),
            used: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// When a call last ended on it.
    pub(super) fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on it.
    pub(super) fn stream(&self) -> Connection {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Connection::H2(Stream {
            shared: self.clone(),
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Shared { streams, used, .. } = &self.shared;
        streams.fetch_sub(1, Ordering::Relaxed);
        *used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl From<Response<Incoming>> for Received {
    fn from(mut response: Response<Incoming>) -> Self {
        let upgrade = (response.status() == http::StatusCode::SWITCHING_PROTOCOLS)
            .then(|| hyper::upgrade::on(&mut response));
        let (head, incoming) = response.into_parts();
        Self {
            head: head.into(),
            source: Source::Hyper(incoming),
            upgrade,
        }
    }
}

impl From<FinalResponse> for Received {
    fn from(response: FinalResponse) -> Self {
        Self {
            head: response.head,
            source: Source::Plain(response.decoder),
            upgrade: None,
        }
    }
}

impl Source {
    /// The next piece, from this connection.
    pub(super) fn poll_frame(
        &mut self,
        connection: Option<&mut Connection>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        match self {
            Self::Hyper(incoming) => match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                // HTTP/2 has a reset that says "no error": hyper takes it for
                // the end, wherever it comes (RFC 9113 §8.1: behind it only).
                None if connection.is_some_and(|it| it.is_h2()) && !incoming.is_end_stream() => {
                    Poll::Ready(Some(Err(())))
                }
                frame => Poll::Ready(frame.map(|frame| frame.map_err(drop))),
            },
            Self::Plain(decoder) => match connection.and_then(Connection::wire) {
                Some(wire) => wire.poll_body(decoder, cx),
                // Given back at the body's end, or closed when it broke off.
                None => Poll::Ready(None),
            },
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Plain(decoder) => decoder.has_ended(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Plain(BodyDecoder::Length(left)) => SizeHint::with_exact(*left),
            Self::Plain(BodyDecoder::Chunked(_) | BodyDecoder::UntilClose) => SizeHint::default(),
        }
    }
}
