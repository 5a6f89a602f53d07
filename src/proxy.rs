//! The story of one request, from its head to its answer.
//!
//! Owns the order of things in design §2: identify, merge or admit, send,
//! answer. Every rule it follows lives in a room of its own. Invariant: each
//! request is answered once and counted once.

pub(crate) mod error;
mod finish;
mod send;
mod target;
mod timing;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::{AccessLog, Trail};
use crate::batch::{Batcher, Given, Told, Untold};
use crate::body::{self, AnswerBody, ClientBody, Ending, LOOK, RequestBody};
use crate::config::{self, Config};
use crate::front::Activity;
use crate::hop;
use crate::identity::{self, Findings, Identity};
use crate::limit::{Kind, Lane, Limiter};
use crate::metrics::{Failure, Metrics, Route, TenantSeries};
use crate::receipt::Receipt;
use crate::tenant::key::{Keyring, Opened};
use crate::tenant::{Client, Denied, Secrets, Tenants};
use crate::upstream::Upstream;
use error::Error;
use finish::Finish;
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
    /// The settings in force as the admin pages show them, secrets masked.
    pub(crate) shown: ArcSwapOption<String>,
    /// What must have ended before the gateway may: batches, calls whose
    /// client has gone, upgraded connections.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when a drain begins.
    pub(crate) draining: CancellationToken,
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
            draining: CancellationToken::new(),
        }
    }
}

impl Proxy {
    /// Answers one request on a connection of `peer`. Never fails: failures
    /// are answers too.
    pub(crate) async fn handle(
        &self,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
        activity: Option<Arc<Activity>>,
    ) -> Response<AnswerBody> {
        let (head, incoming) = request.into_parts();
        let path = head.uri.path();
        let route = if self.shared.batcher.is_receipt_path(path) {
            Route::Seen
        } else {
            Route::Other
        };
        let crowded = activity
            .as_ref()
            .is_some_and(|activity| activity.calls() > MAX_CALLS);
        let mut trail = self.shared.access_log.begin(&head, route);
        let mut body = ClientBody::new(incoming, self.shared.settings.body_timeout);
        if !body.is_empty() {
            body.count(trail.request_bytes());
        }
        let ending = Ending::new(Arc::clone(&self.shared.metrics), route, activity, trail);
        Finish::new(
            self.clone()
                .answer(head, body, peer, route, ending, crowded),
            self.shared.tasks.clone(),
        )
        .await
    }

    async fn answer(
        self,
        head: Parts,
        body: ClientBody,
        peer: Option<IpAddr>,
        route: Route,
        mut ending: Ending,
        crowded: bool,
    ) -> Response<AnswerBody> {
        let shared = Arc::clone(&self.shared);
        let version = head.version;
        let is_head = head.method == Method::HEAD;
        let trail = &mut ending.trail;
        let answer = self.call(head, body, peer, route, crowded, trail).await;
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
        if version < Version::HTTP_2 && !switched && shared.draining.is_cancelled() {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let is_unread = is_head || has_no_body(answer.status());
        answer.map(|body| body.until_end(ending, is_unread))
    }

    async fn call(
        self,
        mut head: Parts,
        mut body: ClientBody,
        peer: Option<IpAddr>,
        route: Route,
        crowded: bool,
        trail: &mut Trail,
    ) -> Result<Response<AnswerBody>, Error> {
        let max_in_flight = self.shared.settings.max_in_flight;
        if usize::try_from(self.shared.metrics.in_flight.get()).unwrap_or(0) > max_in_flight {
            return Err(Error::Overloaded("server.max_in_flight", max_in_flight));
        }
        if crowded {
            return Err(Error::Overloaded("calls on one connection", MAX_CALLS));
        }
        let client = {
            let tenants = self.shared.tenants.load();
            let client = tenants.client(peer, &head.headers);
            trail.client(client);
            tenants.may_connect(client)?;
            client
        };
        if head.headers.len() > self.shared.settings.max_headers {
            return Err(Error::TooManyHeaders(self.shared.settings.max_headers));
        }
        self.shared.this_host.check(&head)?;
        let upgradable = head.version == Version::HTTP_11 && body.is_empty();
        hop::strip(&mut head.headers, upgradable);
        if head.version == Version::HTTP_2 {
            hop::from_http2(&mut head, body.is_empty());
        }
        let opened = self.unlock(&mut head, &mut body, client).await?;
        let mut answer = if route == Route::Seen && may_be_receipt(&head) {
            self.receive(head, body, client, trail).await
        } else {
            self.pass_through(head, body, client, route, trail).await
        };
        if let (Some(opened), Ok(answer)) = (opened, &mut answer) {
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

    /// A call that may be a read receipt: understood, it joins a batch.
    async fn receive(
        self,
        head: Parts,
        mut body: ClientBody,
        client: Client,
        trail: &mut Trail,
    ) -> Result<Response<AnswerBody>, Error> {
        let Some(whole) = self.in_time(body.whole()).await?.flatten() else {
            return self
                .pass_through(head, body, client, Route::Seen, trail)
                .await;
        };
        let receipt = match Receipt::read(head, whole) {
            Ok(receipt) => receipt,
            Err(head) => {
                return self
                    .pass_through(*head, body, client, Route::Seen, trail)
                    .await;
            }
        };
        trail.receipt(&receipt);
        let identity = &receipt.identity;
        trail.identified(identity, receipt.head(), || self.tenant_of(identity));
        let instance = identity.instance.as_deref();
        let tenant = self.let_in(client, instance, receipt.ambiguous, Route::Seen)?;
        let lane = {
            let head = receipt.head();
            self.shared
                .limiter
                .lane(&head.method, head.uri.path(), &receipt.identity)
                .counted_for(tenant)
        };
        if self.shared.batcher.observes() {
            let answer = self.send_alone(receipt, &lane, trail).await;
            count(&lane, Route::Seen, &answer, trail);
            return answer;
        }
        let told = self
            .shared
            .batcher
            .join(receipt, lane.clone(), &self.upstream);
        let answer = match told {
            Ok(told) => match told.await {
                Ok(told) => {
                    trail.timing(&told.timing);
                    self.tell(told, &lane)
                }
                // The batch's task was cut off: the gateway is being ended.
                Err(_) => Err(Error::Upstream(crate::upstream::Failure::BrokeOff)),
            },
            Err(refused) => Err(refused.into()),
        };
        count(&lane, Route::Seen, &answer, trail);
        answer
    }

    /// Holds a call against the rules for its instance, before it costs
    /// anybody a token or a place in a batch; tells in whose figures it counts.
    fn let_in(
        &self,
        client: Client,
        instance: Option<&str>,
        ambiguous: bool,
        route: Route,
    ) -> Result<Arc<TenantSeries>, Denied> {
        let tenants = self.shared.tenants.load();
        let series = tenants.may_use(client, instance, ambiguous)?;
        series.requests(route).inc();
        Ok(Arc::clone(series))
    }

    /// Whose an instance is.
    fn tenant_of(&self, identity: &Identity) -> Option<Arc<str>> {
        let tenants = self.shared.tenants.load();
        tenants.name_of(identity.instance.as_deref()?)
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

    fn tell(&self, told: Told, lane: &Lane) -> Result<Response<AnswerBody>, Error> {
        let (mut answer, remaining) = match told.verdict {
            Ok(Given::Shared(shared)) => {
                let body = AnswerBody::whole(shared.body.clone(), shared.trailers.clone());
                (
                    Response::from_parts(shared.head.clone(), body),
                    shared.remaining,
                )
            }
            Ok(Given::Own(answer)) => (*answer, None),
            Err(Untold::Refused(refused)) => return Err(refused.into()),
            Err(Untold::Failed(failure)) => return Err(failure.into()),
        };
        if self.shared.settings.timing_header {
            timing::of_receipt(answer.headers_mut(), &told.timing);
        }
        self.tell_limit(&mut answer, lane, remaining);
        Ok(answer)
    }

    /// Any other call: identified, admitted, sent once.
    async fn pass_through(
        self,
        mut head: Parts,
        mut body: ClientBody,
        client: Client,
        route: Route,
        trail: &mut Trail,
    ) -> Result<Response<AnswerBody>, Error> {
        let mut findings = Findings::of_head(&head);
        if self.shared.tenants.load().is_strict() {
            findings.look_on();
        }
        if !body.is_empty() {
            // Boxed: most calls have told all in their head.
            let look = identity::look::into_body(&mut findings, &head.headers, &mut body);
            self.in_time(Box::pin(look)).await?;
        }
        let deadline = Instant::now() + self.shared.limiter.rules().max_wait;
        let ambiguous = findings.is_ambiguous();
        let identity = findings.identity();
        trail.identified(&identity, &head, || self.tenant_of(&identity));
        let tenant = self.let_in(client, identity.instance.as_deref(), ambiguous, route)?;
        let lane = self
            .shared
            .limiter
            .lane(&head.method, head.uri.path(), &identity)
            .counted_for(tenant);
        let pass = self
            .shared
            .limiter
            .pass(&lane, Kind::Call, deadline, route)
            .await;
        let answer = match pass {
            Ok(pass) => {
                let body = RequestBody::streamed(body);
                self.send(&mut head, body, &lane, pass, route, trail).await
            }
            Err(refused) => Err(refused.into()),
        };
        count(&lane, route, &answer, trail);
        answer
    }
}

/// Counts a call's end in its instance's figures.
fn count(
    lane: &Lane,
    route: Route,
    answer: &Result<Response<AnswerBody>, Error>,
    trail: &mut Trail,
) {
    let series = lane.series();
    series.requests(route).inc();
    if let Err(Error::RateLimited(refused)) = answer {
        series.rejected(refused.refusal.reason()).inc();
    }
    if !matches!(answer, Ok(answer) if !answer.status().is_server_error()) {
        trail.failed = Some(Arc::clone(series));
    }
}

/// Whether an answer of this status ends with its head (RFC 9110 §6.4.1).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether it is worth reading the body to find out.
fn may_be_receipt(head: &Parts) -> bool {
    let length = head
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    head.method == Method::POST && length.is_none_or(|length| length <= LOOK as u64)
}
