//! The body of an answer as it goes to the client.
//!
//! Invariant: whatever becomes of the answer (read to its end, cut off, never
//! read), its [`Ending`] is settled once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::Error;
use crate::front::Activity;
use crate::metrics::{Metrics, Route};
use crate::upstream::UpstreamBody;

/// The body of an answer to a client.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    kind: Kind,
    /// Settled when the body is dropped.
    ending: Option<Ending>,
}

#[derive(Debug)]
enum Kind {
    Whole {
        bytes: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    /// What was read ahead, then the rest.
    Streamed {
        held: VecDeque<Bytes>,
        rest: UpstreamBody,
    },
}

/// What is left to do when an answer has been given: a call is in flight, and
/// its time runs, until then.
#[derive(Debug)]
pub(crate) struct Ending {
    metrics: Arc<Metrics>,
    route: Route,
    began: Instant,
    /// The connection the call came on, busy until then.
    activity: Option<Arc<Activity>>,
}

impl Ending {
    /// A call comes into flight.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        route: Route,
        activity: Option<Arc<Activity>>,
    ) -> Self {
        metrics.in_flight.inc();
        Self {
            metrics,
            route,
            began: Instant::now(),
            activity,
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.metrics
            .request_seconds(self.route)
            .observe(self.began.elapsed().as_secs_f64());
        if let Some(activity) = &self.activity {
            activity.ended();
        }
    }
}

impl AnswerBody {
    /// A body held in full.
    pub(crate) fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self {
            kind: Kind::Whole { bytes, trailers },
            ending: None,
        }
    }

    /// A body streamed from the upstream.
    pub(crate) fn streamed(body: UpstreamBody) -> Self {
        Self::resumed(VecDeque::new(), body)
    }

    /// A body of which some was read already.
    pub(crate) fn resumed(held: VecDeque<Bytes>, rest: UpstreamBody) -> Self {
        Self {
            kind: Kind::Streamed { held, rest },
            ending: None,
        }
    }

    /// Ties the end of the call to the end of this body.
    pub(crate) fn until_end(mut self, ending: Ending) -> Self {
        self.ending = Some(ending);
        self
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.get_mut().kind {
            Kind::Whole { bytes, trailers } => {
                let data = bytes.take().map(Frame::data);
                Poll::Ready(
                    data.or_else(|| trailers.take().map(Frame::trailers))
                        .map(Ok),
                )
            }
            Kind::Streamed { held, rest } => match held.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None => Pin::new(rest).poll_frame(cx),
            },
        }
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
