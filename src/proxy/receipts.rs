//! Read receipts, from the request to the verdict of its batch.
//!
//! Invariants: a request that turns out not to be a receipt is forwarded unchanged; the
//! access rules are applied to a receipt before it joins a batch.

use std::pin::pin;

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::Error;
use super::passthrough::count;
use super::request_ctx::RequestCtx;
use super::{Proxy, server_timing};
use crate::batch::{BatchResponse, NoResponse, Verdict};
use crate::body::{ClientBody, ClientResponse, ResponseBody, SCAN_LIMIT};
use crate::config::{self, BatchMode};
use crate::http::content_length;
use crate::http::hop_by_hop;
use crate::http::request_head::RequestHead;
use crate::limit::{Lane, RateLimited};
use crate::receipt::{NotMerged, Receipt, parse};
use crate::tenant::Denied;
use crate::upstream::UpstreamError;

/// A receipt, and when its last byte arrived.
pub(super) struct Arrived {
    pub(super) receipt: Box<Receipt>,
    at: Instant,
}

/// A receipt that joined a batch, and the lane of its upstream call.
pub(super) struct Joined {
    lane: Lane,
    route: JoinedRoute,
}

/// How the receipt gets its verdict.
enum JoinedRoute {
    /// From a batch, or refused by the limiter.
    Batch(Result<oneshot::Receiver<Verdict>, RateLimited>),
    /// Merging is only observed: the receipt is sent alone.
    Alone(Box<Receipt>),
}

/// Why the body need not be read to find out that the request does not merge.
fn excluded_by_head(head: &Parts) -> Option<NotMerged> {
    // An announced length saves reading 64 KiB of a body that is too long to merge.
    let length = hop_by_hop::first(&head.headers, &CONTENT_LENGTH);
    let length = length.and_then(|length| content_length::parse(length.as_bytes()));
    let is_long = length.is_some_and(|length| length > SCAN_LIMIT as u64);
    parse::excluded_by_head(head).or(is_long.then_some(NotMerged::TooLarge))
}

impl Proxy {
    /// Reads a request as a receipt. If it is none, head and body stay as they are,
    /// and the result is why it is not merged.
    ///
    /// # Errors
    /// The body broke off.
    pub(super) async fn read_receipt(
        &self,
        settings: &config::Batch,
        head: &mut RequestHead,
        body: &mut ClientBody,
    ) -> Result<Result<Arrived, NotMerged>, Error> {
        if let Some(reason) = excluded_by_head(head) {
            return Ok(Err(reason));
        }
        let limit = self.shared.settings.header_timeout;
        let whole = match self.in_time(limit, pin!(body.whole())).await? {
            Some(Some(whole)) => whole,
            Some(None) => return Ok(Err(NotMerged::TooLarge)),
            None => return Ok(Err(NotMerged::Incomplete)),
        };
        // The window and the deadline of the caller start with the last byte.
        let at = body.arrived_at().unwrap_or_else(Instant::now);
        let receipt = Receipt::read(settings, head, whole);
        Ok(receipt.map(|receipt| Arrived { receipt, at }))
    }

    /// Adds a receipt to a batch.
    ///
    /// # Errors
    /// An access rule forbids the request.
    pub(super) fn join(
        &self,
        ctx: &mut RequestCtx<'_>,
        Arrived { receipt, at }: Arrived,
    ) -> Result<Joined, Denied> {
        ctx.log_entry.set_receipt(&receipt);
        let lane = self.lane(ctx, &receipt.identity, receipt.head())?;
        let settings = &ctx.settings.batch;
        let route = if settings.mode == BatchMode::Observe {
            JoinedRoute::Alone(receipt)
        } else {
            let batcher = &self.shared.batcher;
            JoinedRoute::Batch(batcher.join(settings, receipt, at, &lane, &self.upstream))
        };
        Ok(Joined { lane, route })
    }

    /// Waits for the verdict of a receipt.
    ///
    /// # Errors
    /// The verdict is a refusal, or there is no response.
    pub(super) async fn await_verdict(
        &self,
        ctx: &mut RequestCtx<'_>,
        Joined { lane, route }: &mut Joined,
    ) -> Result<ClientResponse, Error> {
        let result = match route {
            // Boxed: most gateways merge, and this branch is the larger one.
            JoinedRoute::Alone(receipt) => Box::pin(self.send_alone(ctx, receipt, lane)).await,
            JoinedRoute::Batch(Ok(verdict)) => match verdict.await {
                Ok(verdict) => {
                    ctx.log_entry.set_timing(&verdict.timing);
                    if !matches!(verdict.response, Err(NoResponse::RateLimited(_))) {
                        let not_merged = verdict.timing.not_merged;
                        ctx.log_entry.set_merging(not_merged.map_or(Ok(()), Err));
                    }
                    self.verdict_response(verdict, lane)
                }
                // The task of the batch was dropped, because the process ends.
                Err(_) => Err(Error::Upstream(UpstreamError::BrokeOff)),
            },
            JoinedRoute::Batch(Err(refused)) => Err((*refused).into()),
        };
        count(lane, ctx.route, &result, ctx.log_entry);
        result
    }

    /// The response to one caller of a batch.
    fn verdict_response(&self, verdict: Verdict, lane: &Lane) -> Result<ClientResponse, Error> {
        // Clones share their bytes: a response for 1000 callers is held once.
        let (mut response, remaining) = match verdict.response {
            Ok(BatchResponse::Shared(shared)) => {
                let body = ResponseBody::whole(shared.body.clone(), shared.trailers.clone());
                let head = Box::new(shared.head.clone());
                (ClientResponse { head, body }, shared.remaining)
            }
            Ok(BatchResponse::Streamed(response)) => (*response, None),
            Err(NoResponse::RateLimited(refused)) => return Err(refused.into()),
            Err(NoResponse::Failed(failure)) => return Err(failure.into()),
        };
        if self.shared.settings.timing_header {
            server_timing::of_receipt(&mut response.head, &verdict.timing);
        }
        self.add_ratelimit_headers(&mut response.head, lane, remaining);
        Ok(response)
    }
}
