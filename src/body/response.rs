//! The body of an answer as it goes to the client.
//!
//! Invariant: whatever becomes of the answer (read to its end, cut off, never
//! read), its [`Ending`] is settled once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::Error;
use crate::conn::state::Activity;
use crate::http::h1::Wording;
use crate::observe::access_log::Trail;
use crate::observe::metrics::{Metrics, Route};
use crate::upstream::UpstreamBody;

/// An answer to a client. Boxed, as it goes from hand to hand.
pub(crate) type ClientAnswer = Box<Response<AnswerBody>>;

/// The body of an answer to a client.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    kind: Kind,
    /// How its head is worded, if that is known.
    wording: Option<Wording>,
    /// Settled when the body is dropped.
    ending: Option<Ending>,
}

#[derive(Debug)]
enum Kind {
    Whole {
        bytes: Option<Bytes>,
        /// Boxed: hardly any answer has some.
        trailers: Option<Box<HeaderMap>>,
    },
    /// What was read ahead, then the rest.
    Streamed {
        held: VecDeque<Bytes>,
        rest: Box<UpstreamBody>,
    },
}

/// What is left to do when an answer has been given: a call is in flight, and
/// its time runs, until then.
#[derive(Debug)]
pub(crate) struct Ending {
    metrics: Arc<Metrics>,
    pub(crate) route: Route,
    began: Instant,
    /// The connection the call came on, busy until then.
    activity: Arc<Activity>,
    /// What the access log will tell of the call.
    pub(crate) trail: Trail,
    /// Bytes of the body handed on.
    bytes: u64,
    /// The answer was handed on to its end.
    is_complete: bool,
}

impl Ending {
    /// A call comes into flight.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        route: Route,
        began: Instant,
        activity: Arc<Activity>,
        trail: Trail,
    ) -> Self {
        metrics.in_flight.inc();
        Self {
            metrics,
            route,
            began,
            activity,
            trail,
            bytes: 0,
            is_complete: false,
        }
    }

    /// The connection the call came on.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.began);
        self.metrics
            .request_seconds(self.route)
            .observe(duration.as_secs_f64());
        self.trail.end(self.bytes, self.is_complete, duration);
        self.activity.ended(now);
    }
}

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
            ending: None,
        }
    }

    /// A body streamed from the upstream.
    pub(crate) fn streamed(body: Box<UpstreamBody>) -> Self {
        Self::resumed(VecDeque::new(), body)
    }

    /// A body of which some was read already.
    pub(crate) fn resumed(held: VecDeque<Bytes>, mut rest: Box<UpstreamBody>) -> Self {
        Self {
            wording: rest.take_wording(),
            kind: Kind::Streamed { held, rest },
            ending: None,
        }
    }

    /// How its head is worded, if that is known.
    pub(crate) fn take_wording(&mut self) -> Option<Wording> {
        self.wording.take()
    }

    /// Ties the end of the call to the end of this body. Nobody reads one to
    /// its end that `is_unread`: an answer to HEAD, or of a status without one.
    pub(crate) fn until_end(&mut self, mut ending: Ending, is_unread: bool) {
        ending.is_complete = is_unread || self.is_end_stream();
        self.ending = Some(ending);
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
                None => ready!(Pin::new(&mut **rest).poll_frame(cx)),
            },
        };
        let is_end = this.is_end_stream();
        if let Some(ending) = &mut this.ending {
            match &frame {
                Some(Ok(frame)) => {
                    ending.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    ending.is_complete = is_end;
                }
                Some(Err(_)) => {}
                None => ending.is_complete = true,
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
