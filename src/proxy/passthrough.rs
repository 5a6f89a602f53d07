//! Requests that are forwarded unchanged, and receipts that are sent alone.
//!
//! Invariant: a request is sent once, and its lane is notified of the result.

use std::collections::VecDeque;

use http::StatusCode;
use tokio::time::Instant;

use super::error::Error;
use super::request_ctx::RequestCtx;
use super::{Proxy, Shared, ratelimit_headers, server_timing, upgrade};
use crate::body::{ClientBody, ClientResponse, RequestBody, UpstreamRequest};
use crate::http::request_head::RequestHead;
use crate::http::response_head::ResponseHead;
use crate::http::retry_after;
use crate::limit::{Acquired, Kind, Lane, Scope};
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::{Route, UpstreamFailure};
use crate::receipt::{NotMerged, Receipt};
use crate::upstream::UpstreamResponse;

impl Proxy {
    /// Identifies a request, takes its bucket token and sends it.
    ///
    /// # Errors
    /// An access rule or the limiter refuses the request, or there is no response.
    pub(super) async fn pass_through(
        &self,
        ctx: &mut RequestCtx<'_>,
        head: Box<RequestHead>,
        body: &mut ClientBody,
    ) -> Result<ClientResponse, Error> {
        // In a block, because this future must not hold the identity while it waits.
        let lane = {
            let identity = self.identify(ctx, &head, body).await?;
            self.lane(ctx, &identity, &head)?
        };
        // `limit.max_wait` counts from here, without the time that the client took to send
        // its body.
        let arrived_at = body.arrived_at().unwrap_or_else(Instant::now);
        let limiter = &self.shared.limiter;
        let mut acquired = limiter
            .acquire(&lane, Kind::Request, arrived_at, ctx.route)
            .await;
        let result = match &mut acquired {
            Ok(acquired) => {
                let mut request = UpstreamRequest {
                    head,
                    body: RequestBody::take(body),
                };
                self.send(ctx, &mut request, &lane, acquired).await
            }
            Err(refused) => Err((*refused).into()),
        };
        count(&lane, ctx.route, &result, ctx.log_entry);
        result
    }

    /// Sends a receipt alone, because merging is only observed (rule: observe mode).
    ///
    /// # Errors
    /// The limiter refuses the receipt, or there is no response.
    pub(super) async fn send_alone(
        &self,
        ctx: &mut RequestCtx<'_>,
        receipt: &Receipt,
        lane: &Lane,
    ) -> Result<ClientResponse, Error> {
        let Shared {
            limiter, batcher, ..
        } = &*self.shared;
        ctx.log_entry.set_merging(Err(NotMerged::MergingOff));
        batcher.shadow(&ctx.settings.batch, receipt, lane);
        let mut acquired = if lane.rules().observes {
            // The shadow of its batch takes the token.
            limiter.untracked(lane, Route::ReceiptPath)
        } else {
            let opened = Instant::now();
            let kind = Kind::Receipt { opened };
            limiter
                .acquire(lane, kind, opened, Route::ReceiptPath)
                .await?
        };
        let mut request = receipt.own_request();
        self.send(ctx, &mut request, lane, &mut acquired).await
    }

    /// Sends a request that has its token, once, and returns the response while its
    /// body is still arriving.
    async fn send(
        &self,
        ctx: &mut RequestCtx<'_>,
        request: &mut UpstreamRequest,
        lane: &Lane,
        acquired: &mut Acquired,
    ) -> Result<ClientResponse, Error> {
        // Taken out now, because the upstream call consumes the head.
        let client_upgrade = request
            .head
            .extensions
            .remove::<hyper::upgrade::OnUpgrade>();
        ctx.log_entry
            .set_queue_wait(acquired.waited.unwrap_or_default());
        let sent_at = acquired.permit.granted;
        // Dropped on a failure, else with the body of the response.
        let place = acquired.permit.send();
        let result = self.upstream.call(request, ctx.route).await;
        ctx.log_entry.upstream_responded(sent_at);
        let UpstreamResponse {
            head,
            body,
            upgrade,
        } = result.inspect_err(|_| lane.on_no_response(&acquired.permit))?;
        lane.on_response(&acquired.permit, head.status(), retry_after::of_429(&head));
        // Resolves after the 101 has been written, which happens later.
        if let (Some(upstream), Some(client)) = (upgrade, client_upgrade) {
            upgrade::bridge(client, upstream, &self.shared.tasks, &self.shared.drain);
        }
        let mut body = body.into_client_body(VecDeque::new());
        body.hold(place);
        let mut response = ClientResponse { head, body };
        // Where merging is only observed, no response changes (rule: observe mode).
        let merges = !ctx.settings.batch_observes();
        let not_merged = ctx.log_entry.not_merged().filter(|_| merges);
        self.annotate(&mut response.head, lane, acquired, not_merged);
        Ok(response)
    }

    /// Adds `Server-Timing` and `RateLimit`, if the settings enable them.
    fn annotate(
        &self,
        head: &mut ResponseHead,
        lane: &Lane,
        acquired: &Acquired,
        not_merged: Option<NotMerged>,
    ) {
        // A 101 is part of another protocol's handshake: nothing is added to it.
        if head.status() == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let is_timed = acquired.waited.is_some() || not_merged.is_some();
        if is_timed && self.shared.settings.timing_header {
            let queue = acquired.waited.unwrap_or_default();
            let upstream = acquired.permit.granted.elapsed();
            server_timing::of_forwarded(head, not_merged, queue, upstream);
        }
        self.add_ratelimit_headers(head, lane, acquired.permit.remaining);
    }

    /// Adds the `RateLimit` headers, if the settings enable them.
    pub(super) fn add_ratelimit_headers(
        &self,
        head: &mut ResponseHead,
        lane: &Lane,
        remaining: Option<u32>,
    ) {
        if let (Some(remaining), true) = (remaining, lane.sends_ratelimit_headers()) {
            let quota = lane.quota();
            let next = quota.map(|quota| quota.interval()).unwrap_or_default();
            ratelimit_headers::describe(head, Scope::Instance, quota, remaining, next);
        }
    }
}

/// Counts the result of a request in the metrics of its instance.
pub(super) fn count(
    lane: &Lane,
    route: Route,
    result: &Result<ClientResponse, Error>,
    log_entry: &mut LogEntry,
) {
    let series = lane.series();
    series.requests(route).inc();
    if let Err(Error::RateLimited(refused)) = result {
        series.rejected(refused.reason()).inc();
    }
    let failure = match result {
        Ok(response) => UpstreamFailure::of(response.status()),
        Err(Error::Upstream(_)) => Some(UpstreamFailure::NoResponse),
        Err(_) => None,
    };
    if let Some(failure) = failure {
        series.errors(failure).inc();
    }
    // Only for failures: `finish` then names the instance in the list of failures, by a
    // label that the cap on metric labels allows.
    if !matches!(result, Ok(response) if response.status().as_u16() < 400) {
        log_entry.name_instance(&series.name);
    }
}
