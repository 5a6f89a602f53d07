//! An upstream's answer, while it is being read.
//!
//! Invariant: its connection goes back to the pool when the answer has been
//! read to its end, and never before.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Sleep;

use super::connection::{Received, Source};
use super::error::Failure;
use super::pool::Lease;
use crate::body::{self, ResponseBody};
use crate::http::response_head::ResponseHead;
use crate::observe::metrics::{Metrics, Route};

/// How long an answer that others wait for in full may stay silent midway.
const SHARED_SILENCE: Duration = Duration::from_secs(30);

/// A response of the upstream: its head, and its body still to come.
#[derive(Debug)]
pub(crate) struct UpstreamResponse {
    pub(crate) head: ResponseHead,
    pub(crate) body: Box<UpstreamBody>,
    /// The connection itself, where the upstream agreed to an upgrade.
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
}

impl UpstreamResponse {
    /// An answer that comes on the connection of this lease, and may stay
    /// silent for as long as `patience`.
    pub(super) fn new(
        received: Received,
        mut lease: Lease,
        route: Route,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let Received {
            mut head,
            source,
            upgrade,
        } = received;
        lease.promised = head.kept_alive_for();
        head.strip_hop_by_hop(upgrade.is_some());
        let mut body = Box::new(UpstreamBody {
            source,
            lease: Some(lease),
            route,
            patience,
            silence: None,
            metrics,
        });
        body.release_at_end();
        Self {
            head,
            body,
            upgrade,
        }
    }
}

/// The body of an upstream's answer. Gives its connection back when it has
/// been read to the end; dropped earlier, it closes it.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    source: Source,
    lease: Option<Lease>,
    route: Route,
    /// The longest silence allowed.
    patience: Duration,
    /// Armed only while nothing comes.
    silence: Option<Pin<Box<Sleep>>>,
    metrics: Arc<Metrics>,
}

impl UpstreamBody {
    fn release_at_end(&mut self) {
        if self.source.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }

    /// The body for a client, behind the pieces `held` that were read already.
    pub(crate) fn into_client_body(self: Box<Self>, held: VecDeque<Bytes>) -> ResponseBody {
        ResponseBody::streamed(held, Box::into_pin(self))
    }

    /// Reads the answer to its end, or up to some `limit` of bytes.
    ///
    /// # Errors
    /// The answer broke off.
    pub(crate) async fn collect(mut self: Box<Self>, limit: usize) -> Result<Collected, Failure> {
        self.patience = self.patience.min(SHARED_SILENCE);
        let mut held = VecDeque::new();
        let mut trailers = None;
        let mut length = 0;
        while let Some(frame) = self.frame().await {
            match frame.map_err(|_| Failure::BrokeOff)?.into_data() {
                Ok(piece) => {
                    length += piece.len();
                    held.push_back(piece);
                    if length > limit {
                        return Ok(Collected::Longer(held, self));
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        let whole = match held.len() {
            0 | 1 => held.pop_front().unwrap_or_default(),
            _ => Bytes::from(Vec::from(held).concat()),
        };
        Ok(Collected::Whole {
            body: whole,
            trailers,
        })
    }
}

/// What has been read of an answer.
#[derive(Debug)]
pub(crate) enum Collected {
    /// All of it.
    Whole {
        body: Bytes,
        trailers: Option<http::HeaderMap>,
    },
    /// Its beginning; the rest is still to come.
    Longer(VecDeque<Bytes>, Box<UpstreamBody>),
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let this = self.get_mut();
        let connection = this.lease.as_mut().map(|lease| &mut lease.connection);
        let frame = match this.source.poll_frame(connection, cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let patience = this.patience;
                let silence = this
                    .silence
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                ready!(silence.as_mut().poll(cx));
                Some(Err(()))
            }
        };
        this.silence = None;
        match frame {
            Some(Err(())) => {
                this.lease = None;
                // The head was counted under its code; the break counts too (design §7.9).
                this.metrics.upstream[this.route as usize].error().inc();
                Poll::Ready(Some(Err(body::Error::UpstreamBrokeOff)))
            }
            Some(Ok(frame)) => {
                this.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                if let Some(lease) = this.lease.take() {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}
