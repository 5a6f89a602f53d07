//! A response of the upstream that is being read.
//!
//! Invariant: its connection returns to the pool when the response was read to
//! its end, and never before.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Sleep;

use super::connection::{BodySource, Received};
use super::error::UpstreamError;
use super::pool::Lease;
use crate::body::{self, ResponseBody};
use crate::http::response_head::ResponseHead;
use crate::observe::metrics::Metrics;

/// The longest pause within the response to a batch, whose callers wait for all of
/// it.
const SHARED_SILENCE: Duration = Duration::from_secs(30);

/// A response of the upstream: its head, and its body, not read yet.
#[derive(Debug)]
pub(crate) struct UpstreamResponse {
    pub(crate) head: Box<ResponseHead>,
    pub(crate) body: Box<UpstreamBody>,
    /// The connection itself, where the upstream agreed to an upgrade.
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
}

impl UpstreamResponse {
    /// A response on the connection of `lease`. Its body may pause for
    /// `silence_timeout`.
    pub(super) fn new(
        received: Received,
        mut lease: Lease,
        silence_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let Received {
            mut head,
            body,
            upgrade,
        } = received;
        // Before the hop-by-hop headers are removed: `Keep-Alive` is one of them.
        lease.keep_alive = head.keep_alive_timeout();
        lease.is_reusable = !head.announces_missing_body();
        head.strip_hop_by_hop(upgrade.is_some());
        let mut body = Box::new(UpstreamBody {
            source: body,
            lease: Some(lease),
            silence_timeout,
            silence_timer: None,
            metrics,
        });
        // An empty body is never polled, so it must release the connection here.
        body.release_at_end();
        Self {
            head,
            body,
            upgrade,
        }
    }
}

/// The body of a response. Read to its end, it returns its connection to the
/// pool; dropped earlier, it closes it.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    source: BodySource,
    /// `None` once the body has ended or broken off.
    lease: Option<Lease>,
    silence_timeout: Duration,
    /// Armed only while the next frame is awaited.
    silence_timer: Option<Pin<Box<Sleep>>>,
    metrics: Arc<Metrics>,
}

impl UpstreamBody {
    fn release_at_end(&mut self) {
        if self.source.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.release();
        }
    }

    /// The body for a client. The pieces in `held` were read before and are sent
    /// first.
    pub(crate) fn into_client_body(self: Box<Self>, held: VecDeque<Bytes>) -> ResponseBody {
        ResponseBody::streamed(held, Box::into_pin(self))
    }

    /// Reads the body to its end, or until it is longer than `limit` bytes.
    ///
    /// # Errors
    /// The body broke off.
    pub(crate) async fn collect(
        mut self: Box<Self>,
        limit: usize,
    ) -> Result<Collected, UpstreamError> {
        self.silence_timeout = self.silence_timeout.min(SHARED_SILENCE);
        let mut held = VecDeque::new();
        let mut trailers = None;
        let mut length = 0;
        while let Some(frame) = self.frame().await {
            match frame.map_err(|_| UpstreamError::BrokeOff)?.into_data() {
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
            // The usual case, without a copy.
            0 | 1 => held.pop_front().unwrap_or_default(),
            _ => Bytes::from(Vec::from(held).concat()),
        };
        Ok(Collected::Whole {
            body: whole,
            trailers,
        })
    }
}

/// What was read of a body.
#[derive(Debug)]
pub(crate) enum Collected {
    /// All of it.
    Whole {
        body: Bytes,
        trailers: Option<http::HeaderMap>,
    },
    /// The pieces read, and the rest.
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
                let timeout = this.silence_timeout;
                let timer = this
                    .silence_timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                ready!(timer.as_mut().poll(cx));
                Some(Err(()))
            }
        };
        this.silence_timer = None;
        match frame {
            Some(Err(())) => {
                // Dropping the lease closes the connection: the rest of this body would be
                // read as the next response.
                this.lease = None;
                // A separate metric: the call was counted under its status with the head.
                this.metrics.upstream_broken_off.inc();
                Poll::Ready(Some(Err(body::Error::UpstreamBrokeOff)))
            }
            Some(Ok(frame)) => {
                // With the last frame: the client may not poll again for the end.
                this.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                if let Some(lease) = this.lease.take() {
                    lease.release();
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
