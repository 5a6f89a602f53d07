//! The story of one request, from its head to its answer.
//!
//! Owns the order of things in design §2: identify, merge or admit, send,
//! answer. Every rule it follows lives in a room of its own. Invariant: each
//! request is answered once and counted once.

pub(crate) mod error;
mod passthrough;
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
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::batch::Batcher;
use crate::body::{self, ClientAnswer, ClientBody, RequestBody};
use crate::config::{self, Config, InForce};
use crate::conn::drain::Drain;
use crate::conn::state::Activity;
use crate::http::forwarded_for::Client;
use crate::http::h1::has_no_body;
use crate::http::hop_by_hop;
use crate::identity::{self, Findings, Identity};
use crate::limit::{Kind, Lane, Limiter};
use crate::observe::access_log::{AccessLog, Trail};
use crate::observe::metrics::{Failure, Metrics, Route, TenantSeries};
use crate::redact::Secrets;
use crate::tenant::key::{Keyring, Opened};
use crate::tenant::{Denied, Tenants};
use crate::upstream::Upstream;
use error::Error;
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
    /// Who may call, and for which instances; replaced on reload.
    pub(crate) tenants: ArcSwap<Tenants>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) batcher: Arc<Batcher>,
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
    /// Answers one request on a connection of `peer` whose head came `now`.
    /// The head is boxed, as it goes from hand to hand.
    pub(crate) fn handle(
        self,
        head: Box<Parts>,
        body: ClientBody,
        peer: Option<IpAddr>,
        activity: Arc<Activity>,
        now: Instant,
    ) -> RunToEnd<impl Future<Output = Result<ClientAnswer, Infallible>> + Send> {
        let tasks = self.shared.tasks.clone();
        RunToEnd::new(self.answer(head, body, peer, activity, now), tasks)
    }

    /// Never fails: failures are answers too.
    ///
    /// Here and below: what an async function is given by value, its future
    /// holds twice (once as given, once as used). So large things are given by
    /// reference, and what needs no waiting happens in plain functions.
    fn answer(
        self,
        mut head: Box<Parts>,
        mut body: ClientBody,
        peer: Option<IpAddr>,
        activity: Arc<Activity>,
        now: Instant,
    ) -> impl Future<Output = Result<ClientAnswer, Infallible>> + Send {
        let shared = &*self.shared;
        let route = if shared.batcher.is_receipt_path(head.uri.path()) {
            Route::Seen
        } else {
            Route::Other
        };
        let crowded = activity.calls() > MAX_CALLS;
        let mut trail = shared.access_log.begin(&head, route);
        if !body.is_empty() {
            body.count(trail.request_bytes());
        }
        let metrics = Arc::clone(&shared.metrics);
        let mut ending = RequestGuard::new(metrics, route, now, activity, trail);
        let version = head.version;
        let is_head = head.method == Method::HEAD;
        async move {
            let trail = &mut ending.trail;
            let answer = self
                .call(&mut head, &mut body, peer, route, crowded, trail)
                .await;
            // What has not come of it is not wanted any more.
            drop(body);
            Ok(self.end(answer, version, is_head, ending))
        }
    }

    /// What the client is told, whatever came of its call.
    fn end(
        &self,
        answer: Result<ClientAnswer, Error>,
        version: Version,
        is_head: bool,
        mut ending: RequestGuard,
    ) -> ClientAnswer {
        let shared = &*self.shared;
        let (trail, route) = (&mut ending.trail, ending.route);
        let error = answer.as_ref().err().map(Error::code);
        let mut answer = answer.unwrap_or_else(|error| error.answer());
        trail.answered(answer.status(), error);
        if error.is_some() || answer.status().is_server_error() {
            shared.metrics.failures.push(|| Failure {
                time: SystemTime::now(),
                status: answer.status(),
                code: error,
                route,
                instance: trail.failed_instance(),
                times: 1,
            });
        }
        shared.metrics.requests[route as usize]
            .code(answer.status())
            .inc();
        let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let ends = || ending.activity().declines_body() || shared.drain.has_begun();
        if version < Version::HTTP_2 && !switched && ends() {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let is_unread = is_head || has_no_body(answer.status());
        answer.body_mut().watch(Box::new(ending), is_unread);
        answer
    }

    async fn call(
        &self,
        head: &mut Parts,
        body: &mut ClientBody,
        peer: Option<IpAddr>,
        route: Route,
        crowded: bool,
        trail: &mut Trail,
    ) -> Result<ClientAnswer, Error> {
        let max_in_flight = self.shared.settings.max_in_flight;
        if self.shared.metrics.calls() > max_in_flight {
            return Err(Error::Overloaded("server.max_in_flight", max_in_flight));
        }
        if crowded {
            return Err(Error::Overloaded("calls on one connection", MAX_CALLS));
        }
        let tenants = self.shared.tenants.load_full();
        let client = tenants.client(peer, &head.headers);
        trail.client(client);
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
        let opened = if self.shared.keyring.load().is_some() {
            // Boxed: most gateways have no tenant with a key.
            Box::pin(self.unlock(head, body, client)).await?
        } else {
            None
        };
        let who = Who {
            client,
            tenants: &tenants,
        };
        let receipt = if route == Route::Seen && may_be_receipt(head) {
            self.understand(head, body).await?
        } else {
            None
        };
        let mut answer = match receipt.map(|receipt| self.join(receipt, who, trail)) {
            Some(Ok(joined)) => self.receive(joined, trail).await,
            Some(Err(denied)) => Err(denied.into()),
            // Boxed, or the many receipts that wait in batches would each carry
            // the room that sending takes.
            None => Box::pin(self.pass_through(head, body, who, route, trail)).await,
        };
        if let (Some(opened), Ok(answer)) = (opened, &mut answer) {
            body::unfold(answer);
            opened.hide_token(answer.headers_mut());
        }
        answer
    }

    /// Puts the real token where a tenant's key stands, before anything else
    /// looks at the credentials. The rules of access come afterwards; a key
    /// shown from outside its tenant's networks is therefore none.
    async fn unlock(
        &self,
        head: &mut Parts,
        body: &mut ClientBody,
        client: Client,
    ) -> Result<Option<Opened>, Error> {
        let Some(keyring) = self.shared.keyring.load_full() else {
            return Ok(None);
        };
        let mut search = keyring.search(head, client);
        if !body.is_empty() {
            let look = Box::pin(search.look_into(&head.headers, body));
            self.in_time(look).await?;
        }
        Ok(search.replace(head, body)?)
    }

    /// Bounds reading ahead. A body that dribbles in is passed on as it comes,
    /// with what is known by then; `None`.
    async fn in_time<T>(
        &self,
        reading: impl Future<Output = Result<T, body::Error>>,
    ) -> Result<Option<T>, Error> {
        let patience = self.shared.settings.header_timeout;
        match tokio::time::timeout(patience, reading).await {
            Ok(read) => Ok(Some(read?)),
            Err(_) => Ok(None),
        }
    }

    /// Any other call: identified, admitted, sent once.
    async fn pass_through(
        &self,
        head: &mut Parts,
        body: &mut ClientBody,
        who: Who<'_>,
        route: Route,
        trail: &mut Trail,
    ) -> Result<ClientAnswer, Error> {
        let mut findings = Findings::of_head(head);
        if who.tenants.is_strict() {
            findings.look_on();
        }
        if !body.is_empty() && !findings.is_complete() {
            // Boxed: most calls have told all in their head.
            let look = identity::look::into_body(&mut findings, &head.headers, body);
            self.in_time(Box::pin(look)).await?;
        }
        let asked = body.came().unwrap_or_else(Instant::now);
        let lane = {
            let ambiguous = findings.is_ambiguous();
            let identity = findings.identity();
            self.lane(&identity, ambiguous, head, who, route, trail)?
        };
        let limiter = &self.shared.limiter;
        let answer = match limiter.pass(&lane, Kind::Request, asked, route).await {
            Ok(pass) => {
                let body = RequestBody::streamed(body.take());
                self.send(head, body, &lane, pass, route, trail).await
            }
            Err(refused) => Err(refused.into()),
        };
        count(&lane, route, &answer, trail);
        answer
    }

    /// The lane of a call of which it is known who makes it.
    fn lane(
        &self,
        identity: &Identity,
        ambiguous: bool,
        head: &Parts,
        who: Who<'_>,
        route: Route,
        trail: &mut Trail,
    ) -> Result<Lane, Denied> {
        trail.identified(identity, head, || who.tenant(identity));
        let tenant = who.let_in(identity, ambiguous, route)?;
        let limiter = &self.shared.limiter;
        let path = head.uri.path();
        let is_receipt = self.shared.batcher.is_receipt_path(path);
        let class = |limit: &config::Limit| limit.class_of(&head.method, path, is_receipt);
        let lane = limiter.lane(identity, class, is_receipt || is_of_api(path));
        Ok(lane.counted_in(tenant.upstream().clone()))
    }
}

/// Whether a path stands below `/v2/`, where every request needs a credential;
/// elsewhere there are public pages. Base URLs that end with a slash bring
/// another before it.
fn is_of_api(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_prefix('/').unwrap_or(path).starts_with("v2/")
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
    fn let_in(
        &self,
        identity: &Identity,
        ambiguous: bool,
        route: Route,
    ) -> Result<Arc<TenantSeries>, Denied> {
        let instance = identity.instance.as_deref();
        let series = self.tenants.may_use(self.client, instance, ambiguous)?;
        series.requests(route).inc();
        Ok(Arc::clone(series))
    }

    /// Whose an instance is.
    fn tenant(&self, identity: &Identity) -> Option<Arc<str>> {
        self.tenants.name_of(identity.instance.as_deref()?)
    }
}

/// Counts a call's end in its instance's figures.
fn count(lane: &Lane, route: Route, answer: &Result<ClientAnswer, Error>, trail: &mut Trail) {
    let series = lane.series();
    series.requests(route).inc();
    if let Err(Error::RateLimited(refused)) = answer {
        series.rejected(refused.refusal.reason()).inc();
    }
    if !matches!(answer, Ok(answer) if !answer.status().is_server_error()) {
        trail.failed = Some(Arc::clone(series));
    }
}
