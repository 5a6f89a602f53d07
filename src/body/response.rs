//! The body of an answer as it goes to the client.
//!
//! Invariant: whatever becomes of the response (read to its end, cut off, never
//! read), its observer is dropped with it, once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};

use super::Error;
use crate::http::h1::Wording;

/// An answer to a client. Boxed, as it goes from hand to hand.
pub(crate) type ClientAnswer = Box<Response<AnswerBody>>;

/// The body of an answer to a client.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    kind: Kind,
    /// How its head is worded, if that is known.
    wording: Option<Wording>,
    /// Dropped with the body. Boxed, so that a response stays small to move.
    observer: Option<Box<dyn BodyObserver>>,
}

enum Kind {
    Whole {
        bytes: Option<Bytes>,
        /// Boxed: hardly any answer has some.
        trailers: Option<Box<HeaderMap>>,
    },
    /// What was read ahead, then the rest.
    Streamed {
        held: VecDeque<Bytes>,
        rest: StreamedBody,
    },
}

/// Watches a response body until it is dropped.
pub(crate) trait BodyObserver: std::fmt::Debug + Send + Sync {
    /// Bytes of the body were handed to the connection. `is_end`: they are the last.
    fn sent(&mut self, bytes: usize, is_end: bool);
}

/// A body that the upstream is still sending.
pub(crate) type StreamedBody = Pin<Box<dyn Body<Data = Bytes, Error = Error> + Send + Sync>>;

impl AnswerBody {
    /// A body held in full.
    pub(crate) fn whole(
        bytes: Bytes,
        trailers: Option<HeaderMap>,
        wording: Option<Wording>,
    ) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        let trailers = trailers.map(Box::new);
        Self {
            kind: Kind::Whole { bytes, trailers },
            wording,
            observer: None,
        }
    }

    /// A body streamed from the upstream, of which some may have been read already.
    pub(crate) fn streamed(
        held: VecDeque<Bytes>,
        rest: StreamedBody,
        wording: Option<Wording>,
    ) -> Self {
        Self {
            wording,
            kind: Kind::Streamed { held, rest },
            observer: None,
        }
    }

    /// How its head is worded, if that is known.
    pub(crate) fn take_wording(&mut self) -> Option<Wording> {
        self.wording.take()
    }

    /// Has the body watched. No client reads a body that `is_unread` to its end: that
    /// of a response to HEAD, or of a status without one.
    pub(crate) fn watch(&mut self, mut observer: Box<dyn BodyObserver>, is_unread: bool) {
        observer.sent(0, is_unread || self.is_end_stream());
        self.observer = Some(observer);
    }
}

/// Without the bytes: they may hold anything.
impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole { .. } => "Whole",
            Self::Streamed { .. } => "Streamed",
        })
    }
}

/// Puts all fields of an answer into its map, for whoever looks at them.
pub(crate) fn unfold(answer: &mut Response<AnswerBody>) {
    let wording = answer.body_mut().take_wording();
    answer.body_mut().wording = match wording {
        Some(Wording::Verbatim(verbatim)) => {
            Some(Wording::Spelt(verbatim.unfold(answer.headers_mut())))
        }
        spelt => spelt,
    };
}

impl Body for AnswerBody {
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
        let is_end = this.is_end_stream();
        if let Some(observer) = &mut this.observer {
            match &frame {
                Some(Ok(frame)) => observer.sent(frame.data_ref().map_or(0, Bytes::len), is_end),
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
            Kind::Streamed { held, rest } if held.is_empty() => rest.size_hint(),
            Kind::Whole { .. } | Kind::Streamed { .. } => SizeHint::default(),
        }
    }
}
