//! Sending one call for one caller: what is passed through, and its answer.
//!
//! Invariant: a call that comes here is sent once, and its lane learns what
//! came of it.

use std::collections::VecDeque;

use http::StatusCode;
use tokio::time::Instant;

use super::error::Error;
use super::ratelimit_headers;
use super::upgrade;
use super::{Proxy, Shared, server_timing};
use crate::body::{ClientResponse, RequestBody, UpstreamRequest};
use crate::http::request_head::RequestHead;
use crate::http::response_head::ResponseHead;
use crate::http::retry_after;
use crate::limit::{Kind, Lane, Pass, Scope};
use crate::observe::access_log::LogEntry;
use crate::observe::metrics::Route;
use crate::receipt::Receipt;
use crate::upstream::UpstreamResponse;

impl Proxy {
    /// A receipt where merging is only observed: a call of its own.
    pub(super) async fn send_alone(
        &self,
        receipt: Receipt,
        lane: &Lane,
        log_entry: &mut LogEntry,
    ) -> Result<Box<ClientResponse>, Error> {
        let Shared {
            limiter, batcher, ..
        } = &*self.shared;
        batcher.haunt(&receipt, lane);
        let pass = if limiter.observes() {
            // The ghost of its batch pays.
            limiter.unheld(Route::Seen)
        } else {
            let opened = Instant::now();
            let kind = Kind::Receipt { opened };
            limiter.pass(lane, kind, opened, Route::Seen).await?
        };
        let UpstreamRequest { mut head, body } = receipt.into_request();
        self.send(&mut head, body, lane, pass, Route::Seen, log_entry)
            .await
    }

    /// Sends a call that has its token, once, and passes the answer on.
    pub(super) async fn send(
        &self,
        head: &mut RequestHead,
        body: RequestBody,
        lane: &Lane,
        pass: Pass,
        route: Route,
        log_entry: &mut LogEntry,
    ) -> Result<Box<ClientResponse>, Error> {
        let client_upgrade = head.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let mut request = UpstreamRequest {
            head: head.take(),
            body,
        };
        log_entry.set_queue_wait(pass.waited.unwrap_or_default());
        // With its token, that is.
        let began = pass.permit.granted;
        let answer = self.upstream.call(&mut request, route).await;
        log_entry.upstream_responded(began);
        let answer = answer.inspect_err(|_| lane.unanswered(&pass.permit))?;
        let UpstreamResponse {
            head,
            body,
            upgrade,
        } = answer;
        lane.answered(&pass.permit, head.status(), retry_after::asked(&head));
        if let (Some(upstream), Some(client)) = (upgrade, client_upgrade) {
            upgrade::bridge(client, upstream, &self.shared.tasks, &self.shared.drain);
        }
        let body = body.into_client_body(VecDeque::new());
        let mut answer = Box::new(ClientResponse { head, body });
        self.annotate(&mut answer.head, lane, &pass, began);
        Ok(answer)
    }

    /// Adds what the gateway may add to an answer.
    fn annotate(&self, head: &mut ResponseHead, lane: &Lane, pass: &Pass, began: Instant) {
        if head.status() == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        if let (Some(queue), true) = (pass.waited, self.shared.settings.timing_header) {
            server_timing::of_queued(head, queue, began.elapsed());
        }
        self.tell_limit(head, lane, pass.permit.remaining);
    }

    /// Adds the `RateLimit` fields, where the settings want them.
    pub(super) fn tell_limit(&self, head: &mut ResponseHead, lane: &Lane, remaining: Option<u32>) {
        if let (Some(remaining), true) = (remaining, lane.tells_limit()) {
            let quota = lane.quota();
            let next = quota.map(|quota| quota.interval()).unwrap_or_default();
            ratelimit_headers::describe(head, Scope::Instance, quota, remaining, next);
        }
    }
}
