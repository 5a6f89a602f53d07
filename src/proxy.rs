//! One request, from its head to its response.
//!
//! Owns the order of the steps: access, target, keys, receipt or identity, limiter,
//! upstream, response. Invariant: each request gets one response and is counted once.
//!
//! - [`shared`]: what all requests share; [`request_ctx`]: what the steps of one request share;
//! - [`prepare`]: the steps before a request may wait; [`inspect`]: these steps alone;
//! - [`target`]: requests for another host; [`raw_target`]: targets that are no URI;
//!   [`preflight`], [`cors`]: browsers;
//! - [`identify`]: instance, credential, keys, and the lane at the limiter;
//! - [`receipts`]: read receipts; [`passthrough`]: all other requests;
//! - [`error`]: failures and their responses; [`server_timing`], [`ratelimit_headers`]:
//!   what is added to a response; [`upgrade`]: WebSockets;
//! - [`run_to_end`], [`request_guard`]: the end of a request, and its accounting.

mod cors;
pub(crate) mod error;
mod identify;
pub(crate) mod inspect;
mod passthrough;
mod preflight;
mod prepare;
pub(crate) mod ratelimit_headers;
mod raw_target;
mod receipts;
mod request_ctx;
mod request_guard;
mod run_to_end;
mod server_timing;
mod shared;
mod target;
mod upgrade;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::ORIGIN;
use http::{HeaderValue, Method, StatusCode, Version};
use tokio::time::Instant;

use crate::body::{ClientBody, ClientResponse};
use crate::conn::state::ConnCtx;
use crate::http::hop_by_hop;
use crate::http::request_head::RequestHead;
use crate::http::response_head::has_no_body;
use crate::observe::metrics::Failure;
use crate::upstream::Upstream;
use error::Error;
use prepare::{Kind, Prepared};
use request_ctx::RequestCtx;
use request_guard::RequestGuard;
use run_to_end::RunToEnd;
use shared::Reloadable;
pub(crate) use shared::Shared;

/// The most unfinished requests of one connection. HTTP/2 bounds only the open streams:
/// a client that opens and resets streams (CVE-2023-44487) leaves requests behind, which
/// are finished nevertheless (rule: sent once).
const MAX_PER_CONNECTION: usize = 500;

/// The proxy of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) shared: Arc<Shared>,
    /// The worker's own connections to the upstream.
    pub(crate) upstream: Arc<Upstream>,
}

/// The facts of a request head that are needed for the response. The head itself is
/// handed to the upstream.
struct HeadFacts {
    version: Version,
    is_head: bool,
    origin: Option<HeaderValue>,
}

impl Proxy {
    /// Serves one request on the connection `conn`, whose head was complete at `now`.
    ///
    /// The head is boxed: it has more than 200 bytes and is moved often.
    pub(crate) fn handle(
        self,
        head: Box<RequestHead>,
        body: ClientBody,
        conn: ConnCtx,
        now: Instant,
    ) -> RunToEnd<impl Future<Output = Result<ClientResponse, Infallible>> + Send> {
        let tasks = self.shared.tasks.clone();
        RunToEnd::new(self.respond(head, body, conn, now), tasks)
    }

    /// Never fails: a failure becomes a response.
    ///
    /// Here and below, futures are kept small, because each waiting request holds one. An
    /// `async fn` stores an argument that it takes by value twice. So large arguments are
    /// taken by reference, and code that does not wait is in ordinary functions.
    fn respond(
        self,
        head: Box<RequestHead>,
        mut body: ClientBody,
        conn: ConnCtx,
        now: Instant,
    ) -> impl Future<Output = Result<ClientResponse, Infallible>> + Send {
        let ConnCtx { peer, state } = conn;
        let shared = &*self.shared;
        let settings = shared.reloadable.load_full();
        let route = settings.route(head.uri.path());
        let is_crowded = state.requests_in_flight() > MAX_PER_CONNECTION;
        // Before the steps: a request that they refuse is logged and counted, too.
        let mut log_entry = shared.access_log.begin(&head, route);
        if !body.is_empty() {
            body.count(log_entry.request_bytes());
        }
        let metrics = Arc::clone(&shared.metrics);
        let mut guard = Box::new(RequestGuard::new(metrics, route, now, state, log_entry));
        let facts = HeadFacts {
            version: head.version,
            is_head: head.method == Method::HEAD,
            origin: hop_by_hop::has(&head.headers, &ORIGIN).then(|| head.headers[ORIGIN].clone()),
        };
        async move {
            let result = match is_crowded {
                true => Err(Error::Overloaded(
                    "requests on one connection",
                    MAX_PER_CONNECTION,
                )),
                false => {
                    self.forward(&settings, head, &mut body, peer, &mut guard)
                        .await
                }
            };
            // `Ok` is a response of the upstream; those of the gateway are errors here.
            if let (Some(origin), Ok(response)) = (&facts.origin, &result) {
                self.shared.cors.learn(origin, &response.head);
            }
            // Nothing needs the rest of the body. It is discarded from now on, so that a
            // client that is still sending gets the response.
            drop(body);
            Ok(self.finish(result, &facts, guard))
        }
    }

    /// The steps of a request, in their order.
    async fn forward(
        &self,
        reloadable: &Reloadable,
        mut head: Box<RequestHead>,
        body: &mut ClientBody,
        peer: Option<IpAddr>,
        guard: &mut RequestGuard,
    ) -> Result<ClientResponse, Error> {
        let settings = &self.shared.settings;
        // First, because under overload each further step would cost time.
        if self.shared.metrics.requests_in_flight() > settings.max_in_flight {
            let limit = settings.max_in_flight;
            return Err(Error::Overloaded("server.max_in_flight", limit));
        }
        let tenants = &reloadable.tenants;
        let client = tenants.client(peer, &head.headers);
        let ctx = &mut RequestCtx {
            client,
            settings: reloadable,
            route: guard.route,
            log_entry: &mut guard.log_entry,
        };
        ctx.log_entry.set_client(client);
        let Prepared { kind, substitution } = self.prepare(ctx, &mut head, body).await?;
        let mut result = match kind {
            // Boxed, here and below: a future is as large as its largest branch.
            Kind::Preflight => return Box::pin(self.forward_preflight(ctx, head, body)).await,
            // Two steps, because the future of the wait must not hold the receipt.
            Kind::Receipt(receipt) => {
                // The receipt has taken what it holds.
                drop(head);
                let mut joined = self.join(ctx, receipt)?;
                self.await_verdict(ctx, &mut joined).await
            }
            Kind::Other => Box::pin(self.pass_through(ctx, head, body)).await,
        };
        if let (Some(substitution), Ok(response)) = (substitution, &mut result) {
            substitution.hide_token(response.head.headers_mut());
        }
        result
    }

    /// Completes and counts the response, or makes the one for a failure.
    fn finish(
        &self,
        result: Result<ClientResponse, Error>,
        facts: &HeadFacts,
        mut guard: Box<RequestGuard>,
    ) -> ClientResponse {
        let shared = &*self.shared;
        let (log_entry, route) = (&mut guard.log_entry, guard.route);
        let error = result.as_ref().err().map(Error::code);
        let budget = result.as_ref().err().and_then(Error::budget);
        let not_merged = log_entry.not_merged();
        // The next request may begin elsewhere than it seems (RFC 9112 §6.3).
        let is_malformed = matches!(result, Err(Error::Malformed(_)));
        let mut response = result.unwrap_or_else(|error| {
            let mut response = error.response();
            if let (Some(reason), true) = (not_merged, shared.settings.timing_header) {
                server_timing::of_refused(&mut response.head, reason);
            }
            // Otherwise a browser hides the response from its page (rule: preflights).
            if let Some(origin) = &facts.origin {
                shared.cors.add(origin, &mut response.head);
            }
            response
        });
        let status = response.status();
        log_entry.set_response(status, error, budget);
        if error.is_some() || status.as_u16() >= 400 {
            shared.metrics.failures.push(|| Failure {
                time: SystemTime::now(),
                status,
                code: error,
                budget,
                route,
                instance: log_entry.instance_label(),
                times: 1,
            });
        }
        shared.metrics.requests[route as usize].code(status).inc();
        if let Some(merging) = log_entry.merging() {
            shared.metrics.receipts.count(merging);
        }
        let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
        let must_close = || is_malformed || guard.conn().decline_body() || shared.drain.has_begun();
        // HTTP/2 has GOAWAY instead, which its connection sends.
        if facts.version < Version::HTTP_2 && !is_upgrade && must_close() {
            response.head.close_connection();
        }
        let has_no_body = facts.is_head || has_no_body(status);
        // The request ends when the body is dropped, not here.
        response.body.observe(guard, has_no_body);
        response
    }
}
