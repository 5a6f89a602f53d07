//! The way to the upstream: one call, sent at most once.
//!
//! Owns the connections of one worker. Invariant: a request of which a byte may have
//! been written is never sent again from here; only one that a dead pooled
//! connection handed back untouched goes out on another (design §3.5).

mod connect;
mod connection;
mod error;
mod fast;
mod outage_log;
mod pool;
mod response;
mod timeout;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use tokio::sync::Notify;
use tokio::time::Instant;

use connect::Connector;
pub use connect::{Dial, Io, TlsError};
use connection::{Connection, Need, Received, Unsent};
pub(crate) use error::{Failure, Unreachable};
use pool::{Lease, Pool, Pools};
pub(crate) use response::{Collected, UpstreamResponse};
use timeout::Patience;

use crate::body::{Progress, RequestBody};
use crate::config;
use crate::http::hop_by_hop;
use crate::observe::metrics::{Metrics, Route};
use crate::yield_now;

/// Fresh connections tried for one request that none of them took.
const FRESH_TRIES: usize = 2;

/// The pool is looked through at most this often.
const TIDY_PAUSE: Duration = Duration::from_secs(1);

/// One worker's way to the upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    connector: Arc<Connector>,
    settings: config::Upstream,
    host: HeaderValue,
    pool: Arc<Pool>,
    /// Those of all workers.
    pools: Pools,
    /// Held by whoever makes a connection that others can share, with the last
    /// failure to make one.
    connecting: tokio::sync::Mutex<Option<(Instant, Failure)>>,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// Prepares the way; connects to nothing yet.
    ///
    /// # Errors
    /// The extra CA file cannot be read or holds no certificate.
    pub(crate) fn new(
        settings: config::Upstream,
        dial: Dial,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let host = HeaderValue::from_str(settings.url.authority.as_str())
            .expect("an authority is a valid header value");
        let pools = Pools::default();
        Ok(Self {
            connector: Arc::new(Connector::new(&settings, dial)?),
            pool: pools.add(Pool::new(&settings)),
            pools,
            settings,
            host,
            connecting: tokio::sync::Mutex::new(None),
            metrics,
        })
    }

    /// Says whether [`new`](Self::new) could use these settings.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn check(settings: &config::Upstream) -> Result<(), TlsError> {
        Connector::new(settings, Dial::Tcp).map(drop)
    }

    /// The same way for another worker, with connections of its own.
    pub(crate) fn another(&self) -> Self {
        Self {
            connector: Arc::clone(&self.connector),
            settings: self.settings.clone(),
            host: self.host.clone(),
            pool: self.pools.add(Pool::new(&self.settings)),
            pools: self.pools.clone(),
            connecting: tokio::sync::Mutex::new(None),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Sends one request and waits for the head of its answer. The request is
    /// taken out of its place: so the futures from here to the connection need
    /// no room for it.
    ///
    /// # Errors
    /// No answer came; [`Failure`] tells whether the request may have arrived.
    pub(crate) async fn call(
        &self,
        request: &mut Request<RequestBody>,
        route: Route,
    ) -> Result<UpstreamResponse, Failure> {
        // All of them: calls of one instance go in the order they come here.
        yield_now::to_ready_tasks(self.metrics.calls()).await;
        let began = Instant::now();
        let result = self.exchange(request, began).await;
        match result {
            Ok((received, lease)) => {
                self.metrics.upstream[route as usize]
                    .code(received.head.status())
                    .inc();
                let seconds = began.elapsed().as_secs_f64();
                self.metrics.upstream_seconds(route).observe(seconds);
                let patience = self.settings.response_timeout;
                let metrics = Arc::clone(&self.metrics);
                Ok(UpstreamResponse::new(
                    received, lease, route, patience, metrics,
                ))
            }
            Err(failure) => {
                self.metrics.upstream[route as usize].error().inc();
                if let Failure::Unreachable(kind) = failure {
                    self.connector.reach().lost(kind);
                }
                Err(failure)
            }
        }
    }

    /// How many connections all workers have open: idle, and in use.
    pub(crate) fn connections(&self) -> (usize, usize) {
        self.pools.census()
    }

    /// Closes pooled connections that have been idle too long or have ended,
    /// for ever.
    pub(crate) async fn keep_pool_tidy(&self) -> std::convert::Infallible {
        loop {
            tokio::select! {
                () = tokio::time::sleep((self.settings.idle_timeout / 2).max(TIDY_PAUSE)) => {}
                () = self.pool.one_ended() => {}
            }
            self.pool.close_idle(Instant::now());
        }
    }

    async fn exchange(
        &self,
        request: &mut Request<RequestBody>,
        began: Instant,
    ) -> Result<(Received, Lease), Failure> {
        let need = need(request);
        let mut patience = Patience {
            began,
            length: self.settings.response_timeout,
            progress: request.body().progress(),
        };
        let progress = patience.progress.as_ref();
        let answering = progress.map(Progress::until_answered);
        let mut fresh_tries = 0;
        loop {
            let (mut connection, reused) = match self.pool.take(need, patience.began) {
                Some(connection) => (connection, true),
                None => {
                    fresh_tries += 1;
                    // Boxed, or every call would carry the room a handshake needs.
                    let made = Box::pin(self.fresh(need)).await?;
                    patience.began = Instant::now();
                    made
                }
            };
            self.address(request, connection.is_h2());
            let sent = connection.send(request, &patience).await;
            if fresh_tries > 0 && !matches!(sent, Some(Err(Unsent::Untouched))) {
                self.connector.reach().found();
            }
            match sent {
                None => return Err(Failure::Timeout),
                Some(Ok(received)) => {
                    return Ok((received, Lease::new(connection, &self.pool, answering)));
                }
                Some(Err(Unsent::Untouched)) if reused || fresh_tries < FRESH_TRIES => {}
                Some(Err(Unsent::Untouched)) => {
                    return Err(Failure::Unreachable(Unreachable::ClosedAtOnce));
                }
                Some(Err(Unsent::Failed(failure))) => {
                    let client = patience.progress.and_then(|progress| progress.failure());
                    return Err(client.map_or(failure, Failure::Client));
                }
            }
        }
    }

    /// A new connection; or one that somebody else made meanwhile, where the
    /// upstream speaks HTTP/2 or it is not yet known whether it does: one
    /// connection then serves all, and a hundred callers need not make one each.
    async fn fresh(&self, need: Need) -> Result<(Connection, bool), Failure> {
        if need == Need::Upgrade || !self.connector.may_share() {
            return Ok((self.connector.connect(&self.pool, need).await?, false));
        }
        let asked = Instant::now();
        let mut failed = self.connecting.lock().await;
        if let Some(connection) = self.pool.take(need, Instant::now()) {
            return Ok((connection, true));
        }
        if let Some((_, failure)) = failed.filter(|(when, _)| *when >= asked) {
            // Whoever was first has found out for all who waited.
            return Err(failure);
        }
        if !self.connector.may_share() {
            drop(failed);
            return Ok((self.connector.connect(&self.pool, need).await?, false));
        }
        let made = self.connector.connect(&self.pool, need).await;
        *failed = made
            .as_ref()
            .err()
            .map(|failure| (Instant::now(), *failure));
        Ok((made?, false))
    }

    /// Writes the target and the host as this connection's protocol wants them.
    fn address(&self, request: &mut Request<RequestBody>, h2: bool) {
        let target = |uri: &Uri| {
            let target = uri.path_and_query().cloned();
            target.unwrap_or(PathAndQuery::from_static("/"))
        };
        if h2 {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(if self.settings.url.tls {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            });
            parts.authority = Some(self.settings.url.authority.clone());
            parts.path_and_query = Some(target(request.uri()));
            *request.uri_mut() =
                Uri::from_parts(parts).expect("scheme, authority and path make a target");
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(HOST);
            // Connection-specific (RFC 9113 §8.2.2); the `TE: trailers` itself may stay.
            request.headers_mut().remove(CONNECTION);
            request.headers_mut().remove(TRANSFER_ENCODING);
        } else {
            if request.uri().authority().is_some() || request.uri().path_and_query().is_none() {
                *request.uri_mut() = Uri::from(target(request.uri()));
            }
            *request.version_mut() = Version::HTTP_11;
            request.headers_mut().insert(HOST, self.host.clone());
            let streamed = matches!(request.body(), RequestBody::Streamed(_));
            if streamed && !request.headers().contains_key(CONTENT_LENGTH) {
                // Said here, since hyper takes a GET to have no body unless told.
                let chunked = HeaderValue::from_static("chunked");
                request.headers_mut().insert(TRANSFER_ENCODING, chunked);
            }
            if streamed && hop_by_hop::expects_continue(request.headers()) {
                let go_on = Arc::new(Notify::new());
                request.body_mut().hold_until(Arc::clone(&go_on));
                hyper::ext::on_informational(request, move |answer| {
                    if answer.status() == http::StatusCode::CONTINUE {
                        go_on.notify_one();
                    }
                });
            }
        }
    }
}

/// What a request asks of its connection.
fn need(request: &Request<RequestBody>) -> Need {
    if hop_by_hop::has(request.headers(), "upgrade") {
        Need::Upgrade
    } else if request.body().header_case().is_some() {
        Need::Plain
    } else {
        Need::Streams
    }
}
