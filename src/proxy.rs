//! The story of one request, from its head to its answer.
//!
//! Owns the order of things in design §2: identify, merge or admit, send,
//! answer. Every rule it follows lives in a room of its own. Invariant: each
//! request is answered once and counted once.

mod cors;
pub(crate) mod error;
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
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::{EXPECT, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::batch::Batcher;
use crate::body::{self, ClientBody, ClientResponse, RequestBody};
use crate::config::{self, Config, InForce};
use crate::conn::drain::Drain;
use crate::conn::state::ConnCtx;
use crate::http::forwarded_for::Client;
use crate::http::hop_by_hop;
use crate::http::path;
use crate::http::request_head::RequestHead;
use crate::http::response_head::has_no_body;
use crate::identity::scan::{self, Extent};
use crate::identity::{Certainty, Findings, Fingerprint, Identity, verification};
use crate::limit::{Kind, Lane, Limiter};
use crate::observe::access_log::{AccessLog, LogEntry};
use crate::observe::metrics::{Failure, Metrics, Route, TenantSeries};
use crate::redact::Secrets;
use crate::tenant::key::{Keyring, Substitution};
use crate::tenant::{Denied, Tenants};
use crate::upstream::Upstream;
use cors::Cors;
use error::Error;
use preflight::is_preflight;
use receipts::may_be_receipt;
use request_guard::RequestGuard;
use run_to_end::RunToEnd;
use target::ThisHost;

/// Calls of one connection that may be unfinished at once. HTTP/2 bounds its
/// open streams; a client that opens and resets them leaves calls behind,
/// which are finished all the same.
const MAX_CALLS: usize = 500;

/// How long a body may take to be scanned for an identity that contradicts the
/// head's. Clients send head and body together; anything longer would be felt.
const CONTRADICTION_SCAN: Duration = Duration::from_millis(25);

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: config::Server,
    this_host: ThisHost,
    /// Who may call, and for which instances; replaced on reload.
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
        let who = Who {
            client,
            tenants: &tenants,
        };
        if is_preflight(head, body) {
            // Boxed: most requests are none.
            return Box::pin(self.forward_preflight(head, body, who, route, log_entry)).await;
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
        let mut answer = match receipt.map(|receipt| self.join(receipt, who, log_entry)) {
            Some(Ok(joined)) => self.receive(joined, log_entry).await,
            Some(Err(denied)) => Err(denied.into()),
            // Boxed, or the many receipts that wait in batches would each carry
            // the room that sending takes.
            None => Box::pin(self.pass_through(head, body, who, route, log_entry)).await,
        };
        if let (Some(substitution), Ok(answer)) = (substitution, &mut answer) {
            substitution.hide_token(answer.head.headers_mut());
        }
        answer
    }

    /// Replaces a tenant's key by the real token before the credentials are read.
    /// The rules of access are applied afterwards; so a key that is shown from
    /// outside its tenant's networks does not count as one.
    async fn unlock(
        &self,
        head: &mut RequestHead,
        body: &mut ClientBody,
        client: Client,
    ) -> Result<Option<Substitution>, Error> {
        let Some(keyring) = self.shared.keyring.load_full() else {
            return Ok(None);
        };
        let mut search = keyring.search(head, client);
        if !body.is_empty() {
            let scan = Box::pin(search.scan_body(&head.headers, body));
            self.in_time(self.shared.settings.header_timeout, scan)
                .await?;
        }
        Ok(search.replace(head, body)?)
    }

    /// Bounds reading ahead: `None` when it takes longer. A body that arrives
    /// slowly is then passed on as it comes.
    async fn in_time<T>(
        &self,
        limit: Duration,
        reading: impl Future<Output = Result<T, body::Error>>,
    ) -> Result<Option<T>, Error> {
        match tokio::time::timeout(limit, reading).await {
            Ok(read) => Ok(Some(read?)),
            Err(_) => Ok(None),
        }
    }

    /// Any other call: identified, admitted, sent once.
    async fn pass_through(
        &self,
        head: &mut RequestHead,
        body: &mut ClientBody,
        who: Who<'_>,
        route: Route,
        log_entry: &mut LogEntry,
    ) -> Result<Box<ClientResponse>, Error> {
        let identity = self.identify(head, body, who).await?;
        let asked = body.arrived_at().unwrap_or_else(Instant::now);
        let lane = self.lane(&identity, head, who, route, log_entry)?;
        let limiter = &self.shared.limiter;
        let answer = match limiter.pass(&lane, Kind::Request, asked, route).await {
            Ok(pass) => {
                let body = RequestBody::streamed(body.take());
                self.send(head, body, &lane, pass, route, log_entry).await
            }
            Err(refused) => Err(refused.into()),
        };
        count(&lane, route, &answer, log_entry);
        answer
    }

    /// Reads who calls, from the head and the beginning of the body.
    async fn identify(
        &self,
        head: &Parts,
        body: &mut ClientBody,
        who: Who<'_>,
    ) -> Result<Identity, Error> {
        let mut findings = Findings::of_head(head);
        let extent = match self.scan_limit(head, &findings, who) {
            _ if body.is_empty() => Extent::Whole,
            None => Extent::Part,
            Some(limit) => {
                // Boxed: many requests have no body.
                let scan = Box::pin(scan::scan_body(&mut findings, &head.headers, body));
                self.in_time(limit, scan).await?.unwrap_or(Extent::Part)
            }
        };
        if extent == Extent::Part {
            findings.set_partial();
        }
        let mut identity = findings.identity();
        if identity.is_hidden() {
            // Such requests would otherwise share a bucket with all those that
            // name nobody, and exhaust it for them.
            identity.credential = Some(Fingerprint::of_client(who.client.address()));
        }
        Ok(identity)
    }

    /// How long a body may take to be scanned; `None` if it is not scanned.
    ///
    /// If the head states who calls and no rule depends on it, the scan only
    /// finds out whether the body contradicts it. Then it must neither hold up
    /// a slow body nor ask for one that the upstream may refuse unseen; a
    /// request that is not scanned verifies nothing.
    fn scan_limit(&self, head: &Parts, findings: &Findings, who: Who<'_>) -> Option<Duration> {
        if who.tenants.depends_on_instance() || !findings.is_complete() {
            return Some(self.shared.settings.header_timeout);
        }
        (!head.headers.contains_key(EXPECT)).then_some(CONTRADICTION_SCAN)
    }

    /// The lane of an identified request.
    fn lane(
        &self,
        identity: &Identity,
        head: &Parts,
        who: Who<'_>,
        route: Route,
        log_entry: &mut LogEntry,
    ) -> Result<Lane, Denied> {
        log_entry.set_identity(identity, head, || who.tenant(identity));
        let tenant = who.let_in(identity, route)?;
        let path = head.uri.path();
        let is_receipt = route == Route::Seen;
        let verifies = verification::is_conclusive(&head.method, path, is_receipt, identity);
        let limiter = &self.shared.limiter;
        let path = path::normalize(path);
        let class = |limit: &config::Limit| limit.class_of(&head.method, &path, is_receipt);
        let lane = limiter.lane(identity, class, verifies);
        Ok(lane.counted_in(tenant.upstream().clone()))
    }
}

/// Who calls, and the rules held against it. A reload leaves a call under
/// those it began under.
#[derive(Clone, Copy)]
struct Who<'c> {
    client: Client,
    tenants: &'c Tenants,
}

impl Who<'_> {
    /// Holds a call against the rules for its instance, before it costs
    /// anybody a token or a place in a batch; tells in whose figures it counts.
    fn let_in(&self, identity: &Identity, route: Route) -> Result<Arc<TenantSeries>, Denied> {
        let instance = identity.instance.as_deref();
        let is_ambiguous = identity.certainty == Certainty::Ambiguous;
        let series = self.tenants.may_use(self.client, instance, is_ambiguous)?;
        series.requests(route).inc();
        Ok(Arc::clone(series))
    }

    /// Whose an instance is.
    fn tenant(&self, identity: &Identity) -> Option<Arc<str>> {
        self.tenants.name_of(identity.instance.as_deref()?)
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
