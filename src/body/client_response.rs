//! A response, sent to the client.
//!
//! Invariant: the observer of a body is dropped with it, exactly once, whether the
//! body was sent completely, cut off, or never read.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::Error;
use crate::http::response_head::ResponseHead;

/// A response to a client.
#[derive(Debug)]
pub(crate) struct ClientResponse {
    /// Boxed: about ten functions return a response, and each would copy its 200 bytes.
    pub(crate) head: Box<ResponseHead>,
    pub(crate) body: ResponseBody,
}

impl ClientResponse {
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status()
    }
}

/// The body of a response to a client.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    kind: Kind,
    observer: Option<Box<dyn BodyObserver>>,
    /// Dropped when the body has ended.
    held: Option<Box<dyn Held>>,
}

/// What is held until a body has ended.
pub(crate) trait Held: std::fmt::Debug + Send + Sync {}

impl<T: std::fmt::Debug + Send + Sync> Held for T {}

enum Kind {
    Whole {
        bytes: Option<Bytes>,
        trailers: Option<Box<HeaderMap>>,
    },
    /// The pieces that were read ahead, then the rest.
    Streamed {
        held: VecDeque<Bytes>,
        rest: StreamedBody,
    },
}

/// Observes a response body until it is dropped.
pub(crate) trait BodyObserver: std::fmt::Debug + Send + Sync {
    /// Bytes of the body were handed to the connection; `is_end`: the last ones.
    fn sent(&mut self, bytes: usize, is_end: bool);
}

/// A body that the upstream is still sending.
pub(crate) type StreamedBody = Pin<Box<dyn Body<Data = Bytes, Error = Error> + Send + Sync>>;

impl ResponseBody {
    /// A body held in full.
    pub(crate) fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        let trailers = trailers.map(Box::new);
        Self {
            kind: Kind::Whole { bytes, trailers },
            observer: None,
            held: None,
        }
    }

    /// A body streamed from the upstream. The pieces in `held` were read before and
    /// are sent first.
    pub(crate) fn streamed(held: VecDeque<Bytes>, rest: StreamedBody) -> Self {
        Self {
            kind: Kind::Streamed { held, rest },
            observer: None,
            held: None,
        }
    }

    /// Holds something until the body has ended or is dropped.
    pub(crate) fn hold(&mut self, held: Option<impl Held + 'static>) {
        if !self.is_end_stream() {
            self.held = held.map(|held| Box::new(held) as Box<dyn Held>);
        }
    }

    /// Attaches an observer. `is_unread`: the body is never polled, because the
    /// request is a HEAD or the status has no body.
    pub(crate) fn observe(&mut self, mut observer: Box<dyn BodyObserver>, is_unread: bool) {
        // An empty body is not polled either, so its end is reported here.
        observer.sent(0, is_unread || self.is_end_stream());
        self.observer = Some(observer);
    }
}

/// Without the bytes: they may hold secrets.
impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole { .. } => "Whole",
            Self::Streamed { .. } => "Streamed",
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Whole { bytes, trailers } => {
                let data = bytes.take().map(Frame::data);
                data.or_else(|| Some(Frame::trailers(*trailers.take()?)))
                    .map(Ok)
            }
            Kind::Streamed { held, rest } => match held.pop_front() {
                Some(piece) => Some(Ok(Frame::data(piece))),
                None => ready!(rest.as_mut().poll_frame(cx)),
            },
        };
        // Checked after the frame was taken: at the end of a body, hyper may not poll
        // again.
        let is_end = this.is_end_stream();
        if is_end || !matches!(&frame, Some(Ok(_))) {
            this.held = None;
        }
        if let Some(observer) = &mut this.observer {
            match &frame {
                Some(Ok(frame)) => observer.sent(frame.data_ref().map_or(0, Bytes::len), is_end),
                // No end: dropping the observer then counts a cut-off response.
                Some(Err(_)) => {}
                None => observer.sent(0, true),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { bytes, trailers } => bytes.is_none() && trailers.is_none(),
            Kind::Streamed { held, rest } => held.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole {
                bytes,
                trailers: None,
            } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            // Held pieces are not part of the hint of the rest: then the headers alone
            // announce the length.
            Kind::Streamed { held, rest } if held.is_empty() => rest.size_hint(),
            Kind::Whole { .. } | Kind::Streamed { .. } => SizeHint::default(),
        }
    }
}
