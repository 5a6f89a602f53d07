//! The story of one request, from its head to its answer.
//!
//! Owns the order of things in design §2: identify, merge or admit, send,
//! answer. Every rule it follows lives in a room of its own. Invariant: each
//! request is answered once and counted once.

mod cors;
pub(crate) mod error;
mod identify;
mod passthrough;
mod preflight;
pub(crate) mod ratelimit_headers;
mod receipts;
mod request_guard;
mod run_to_end;
mod server_timing;
mod target;
mod upgrade;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::ORIGIN;
use http::{HeaderValue, Method, StatusCode, Version};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::batch::Batcher;
use crate::body::{ClientBody, ClientResponse, RequestBody};
use crate::config::{self, Config, InForce};
use crate::conn::drain::Drain;
use crate::conn::state::ConnCtx;
use crate::http::hop_by_hop;
use crate::http::request_head::RequestHead;
use crate::http::response_head::has_no_body;
use crate::limit::{Kind, Lane, Limiter};
use crate::observe::access_log::{AccessLog, LogEntry};
use crate::observe::metrics::{Failure, Metrics, Route};
use crate::redact::Secrets;
use crate::tenant::Tenants;
use crate::tenant::key::Keyring;
use crate::upstream::Upstream;
use cors::Cors;
use error::Error;
use identify::Caller;
use preflight::is_preflight;
use receipts::may_be_receipt;
use request_guard::RequestGuard;
use run_to_end::RunToEnd;
use target::ThisHost;

/// Calls of one connection that may be unfinished at once. HTTP/2 bounds its
/// open streams; a client that opens and resets them leaves calls behind,
/// which are finished all the same.
const MAX_CALLS: usize = 500;

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: config::Server,
    this_host: ThisHost,
    /// Caller may call, and for which instances; replaced on reload.
    pub(crate) tenants: ArcSwap<Tenants>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) batcher: Arc<Batcher>,
    /// The CORS fields that the upstream returned recently.
    cors: Cors,
    /// The tenants' keys; none where no tenant has one.
    pub(crate) keyring: ArcSwapOption<Keyring>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Arc<AccessLog>,
    /// The settings as the admin pages show them.
    pub(crate) shown: ArcSwapOption<InForce>,
    /// What must have ended before the gateway may: batches, calls whose
    /// client has gone, upgraded connections.
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: Drain,
}

/// One worker's proxy: what is shared, and its own way upstream.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) shared: Arc<Shared>,
    pub(crate) upstream: Arc<Upstream>,
}

impl Shared {
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let tasks = TaskTracker::new();
        let secrets = Secrets::new(&config.tenants).map(Arc::new);
        metrics.keep_secret(secrets.clone());
        let limiter = Arc::new(Limiter::new(config, Arc::clone(&metrics)));
        let batcher = Arc::new(Batcher::new(
            config.batch.clone(),
            Arc::clone(&limiter),
            Arc::clone(&metrics),
            tasks.clone(),
        ));
        Self {
            settings: config.server.clone(),
            this_host: ThisHost::new(&config.server, &config.upstream.url),
            tenants: ArcSwap::from_pointee(Tenants::new(&config.tenants, &config.access, &metrics)),
            limiter,
            batcher,
            cors: Cors::default(),
            keyring: ArcSwapOption::from_pointee(Keyring::new(&config.tenants)),
            metrics,
            access_log: Arc::new(AccessLog::new(&config.log, secrets)),
            shown: ArcSwapOption::empty(),
            tasks,
            drain: Drain::default(),
        }
    }
}

impl Proxy {
    /// Answers one request on the connection `conn`, whose head came `now`.
    /// The head is boxed, as it goes from hand to hand.
    pub(crate) fn handle(
        self,
        head: Box<RequestHead>,
        body: ClientBody,
        conn: ConnCtx,
        now: Instant,
    ) -> RunToEnd<impl Future<Output = Result<Box<ClientResponse>, Infallible>> + Send> {
        let tasks = self.shared.tasks.clone();
        RunToEnd::new(self.answer(head, body, conn, now), tasks)
    }

    /// Never fails: failures are answers too.
    ///
    /// Here and below: what an async function is given by value, its future
    /// holds twice (once as given, once as used). So large things are given by
    /// reference, and what needs no waiting happens in plain functions.
    fn answer(
        self,
        mut head: Box<RequestHead>,
        mut body: ClientBody,
        conn: ConnCtx,
        now: Instant,
    ) -> impl Future<Output = Result<Box<ClientResponse>, Infallible>> + Send {
        let ConnCtx { peer, state } = conn;
        let shared = &*self.shared;
        let route = if shared.batcher.is_receipt_path(head.uri.path()) {
            Route::Seen
        } else {
            Route::Other
        };
        let crowded = state.requests_in_flight() > MAX_CALLS;
        let mut log_entry = shared.access_log.begin(&head, route);
        if !body.is_empty() {
            body.count(log_entry.request_bytes());
        }
        let metrics = Arc::clone(&shared.metrics);
        let mut ending = RequestGuard::new(metrics, route, now, state, log_entry);
        let version = head.version;
        let is_head = head.method == Method::HEAD;
        async move {
            let log_entry = &mut ending.log_entry;
            // The head is taken apart on the way.
            let origin = head.headers.get(ORIGIN).cloned();
            let answer = self
                .call(&mut head, &mut body, peer, route, crowded, log_entry)
                .await;
            if let (Some(origin), Ok(answer)) = (&origin, &answer) {
                self.shared.cors.learn(origin, &answer.head);
            }
            // What has not come of it is not wanted any more.
            drop(body);
            Ok(self.end(answer, origin, version, is_head, ending))
        }
    }

    /// What the client is told, whatever came of its call.
    fn end(
        &self,
        answer: Result<Box<ClientResponse>, Error>,
        origin: Option<HeaderValue>,
        version: Version,
        is_head: bool,
        mut ending: RequestGuard,
    ) -> Box<ClientResponse> {
        let shared = &*self.shared;
        let (log_entry, route) = (&mut ending.log_entry, ending.route);
        let error = answer.as_ref().err().map(Error::code);
        let mut answer = answer.unwrap_or_else(|error| {
            let mut answer = error.answer();
            if let Some(origin) = origin {
                shared.cors.add(&origin, &mut answer.head);
            }
            answer
        });
        log_entry.set_response(answer.status(), error);
        if error.is_some() || answer.status().is_server_error() {
            shared.metrics.failures.push(|| Failure {
                time: SystemTime::now(),
                status: answer.status(),
                code: error,
                route,
                instance: log_entry.instance_label(),
                times: 1,
            });
        }
        shared.metrics.requests[route as usize]
            .code(answer.status())
            .inc();
        let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let ends = || ending.conn().decline_body() || shared.drain.has_begun();
        if version < Version::HTTP_2 && !switched && ends() {
            answer.head.close_connection();
        }
        let is_unread = is_head || has_no_body(answer.status());
        answer.body.observe(Box::new(ending), is_unread);
        answer
    }

    async fn call(
        &self,
        head: &mut RequestHead,
        body: &mut ClientBody,
        peer: Option<IpAddr>,
        route: Route,
        crowded: bool,
        log_entry: &mut LogEntry,
    ) -> Result<Box<ClientResponse>, Error> {
        let max_in_flight = self.shared.settings.max_in_flight;
        if self.shared.metrics.calls() > max_in_flight {
            return Err(Error::Overloaded("server.max_in_flight", max_in_flight));
        }
        if crowded {
            return Err(Error::Overloaded("calls on one connection", MAX_CALLS));
        }
        let tenants = self.shared.tenants.load_full();
        let client = tenants.client(peer, &head.headers);
        log_entry.set_client(client);
        tenants.may_connect(client)?;
        if head.headers.len() > self.shared.settings.max_headers {
            return Err(Error::TooManyHeaders(self.shared.settings.max_headers));
        }
        self.shared.this_host.check(head)?;
        let upgradable = head.version == Version::HTTP_11 && body.is_empty();
        hop_by_hop::strip(&mut head.headers, upgradable);
        if head.version == Version::HTTP_2 {
            hop_by_hop::from_http2(head, body.is_empty());
        }
        let caller = Caller {
            client,
            tenants: &tenants,
        };
        if is_preflight(head, body) {
            // Boxed: most requests are none.
            return Box::pin(self.forward_preflight(head, body, caller, route, log_entry)).await;
        }
        let substitution = if self.shared.keyring.load().is_some() {
            // Boxed: most gateways have no tenant with a key.
            Box::pin(self.unlock(head, body, client)).await?
        } else {
            None
        };
        let receipt = if route == Route::Seen && may_be_receipt(head) {
            self.understand(head, body).await?
        } else {
            None
        };
        let mut answer = match receipt.map(|receipt| self.join(receipt, caller, log_entry)) {
            Some(Ok(joined)) => self.receive(joined, log_entry).await,
            Some(Err(denied)) => Err(denied.into()),
            // Boxed, or the many receipts that wait in batches would each carry
            // the room that sending takes.
            None => Box::pin(self.pass_through(head, body, caller, route, log_entry)).await,
        };
        if let (Some(substitution), Ok(answer)) = (substitution, &mut answer) {
            substitution.hide_token(answer.head.headers_mut());
        }
        answer
    }

    /// Any other call: identified, admitted, sent once.
    async fn pass_through(
        &self,
        head: &mut RequestHead,
        body: &mut ClientBody,
        caller: Caller<'_>,
        route: Route,
        log_entry: &mut LogEntry,
    ) -> Result<Box<ClientResponse>, Error> {
        let identity = self.identify(head, body, caller).await?;
        let asked = body.arrived_at().unwrap_or_else(Instant::now);
        let lane = self.lane(&identity, head, caller, route, log_entry)?;
        let limiter = &self.shared.limiter;
        let answer = match limiter.pass(&lane, Kind::Call, asked, route).await {
            Ok(pass) => {
                let body = RequestBody::streamed(body.take());
                self.send(head, body, &lane, pass, route, log_entry).await
            }
            Err(refused) => Err(refused.into()),
        };
        count(&lane, route, &answer, log_entry);
        answer
    }
}

/// Counts a call's end in its instance's figures.
fn count(
    lane: &Lane,
    route: Route,
    answer: &Result<Box<ClientResponse>, Error>,
    log_entry: &mut LogEntry,
) {
    let series = lane.series();
    series.requests(route).inc();
    if let Err(Error::RateLimited(refused)) = answer {
        series.rejected(refused.refusal.reason()).inc();
    }
    if !matches!(answer, Ok(answer) if !answer.status().is_server_error()) {
        log_entry.series = Some(Arc::clone(series));
    }
}
