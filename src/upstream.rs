//! Sends requests to the upstream, each at most once.
//!
//! Owns the upstream connections of one worker. Invariant: a request that the
//! upstream may have processed is never sent again from here (rule: sent once).
//!
//! - [`age`]: when connections take no further request;
//! - [`pool`], [`idle`]: idle and shared connections;
//! - [`connect`], [`dial`], [`tunnel`], [`tls`]: making new ones;
//! - [`connection`], [`fast`]: one connection, of hyper or of the fast path;
//! - [`liveness`]: whether an HTTP/2 connection still responds;
//! - [`request`], [`response`]: requests sent and responses received;
//! - [`timeout`], [`error`], [`outage_log`]: timeouts and failures.

mod age;
mod connect;
mod connection;
mod dial;
mod error;
mod fast;
mod idle;
mod liveness;
mod outage_log;
mod pool;
mod request;
mod response;
mod timeout;
mod tls;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Mutex;
use tokio::time::Instant;

use age::Ages;
use connect::Connector;
use connection::{Connection, Received};
pub use dial::{Dial, Io};
use error::SendError;
pub(crate) use error::{Unreachable, UpstreamError};
use pool::{Lease, Pool, Pools};
use request::RequestKind;
pub(crate) use response::{Collected, UpstreamResponse};
use timeout::ResponseTimeout;
pub use tls::TlsError;

use crate::body::{Progress, UpstreamRequest};
use crate::config;
use crate::http::raw_target::RawTarget;
use crate::observe::metrics::{Metrics, Route};
use crate::yield_now;

/// At most this many new connections are tried for one request.
const MAX_FRESH: usize = 2;

/// The shortest time between two searches for connections to close.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// The upstream, as one worker reaches it.
#[derive(Debug)]
pub(crate) struct Upstream {
    connector: Arc<Connector>,
    settings: config::Upstream,
    host: HeaderValue,
    pool: Arc<Pool>,
    /// The pools of all workers.
    pools: Pools,
    /// Locked while a connection is made that others can share. Holds the time and
    /// error of the last failed attempt.
    connecting: Mutex<Option<(Instant, UpstreamError)>>,
    ages: Ages,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// Prepares to connect; makes no connection yet.
    ///
    /// # Errors
    /// The CA file cannot be read or holds no certificate.
    pub(crate) fn new(
        settings: config::Upstream,
        dial: Dial,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let host = HeaderValue::from_str(settings.url.authority.as_str())
            .expect("an authority is a valid header value");
        let pools = Pools::default();
        let ages = Ages::new(settings.max_age);
        Ok(Self {
            connector: Arc::new(Connector::new(&settings, dial, ages.clone())?),
            pool: pools.add(&settings, ages.clone()),
            pools,
            settings,
            host,
            connecting: Mutex::new(None),
            ages,
            metrics,
        })
    }

    /// Checks that [`new`](Self::new) can use these settings.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn check(settings: &config::Upstream) -> Result<(), TlsError> {
        Connector::new(settings, Dial::Tcp, Ages::new(settings.max_age)).map(drop)
    }

    /// The same upstream for another worker, with separate connections.
    pub(crate) fn another(&self) -> Self {
        Self {
            connector: Arc::clone(&self.connector),
            settings: self.settings.clone(),
            host: self.host.clone(),
            pool: self.pools.add(&self.settings, self.ages.clone()),
            pools: self.pools.clone(),
            connecting: Mutex::new(None),
            ages: self.ages.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Sends one request and waits for the head of its response. Takes the request
    /// out of the reference: moved by value, it would be stored again in each of
    /// the nested futures.
    ///
    /// # Errors
    /// There is no response; [`UpstreamError`] says whether the request may
    /// have been processed.
    pub(crate) async fn call(
        &self,
        request: &mut UpstreamRequest,
        route: Route,
    ) -> Result<UpstreamResponse, UpstreamError> {
        // All requests yield, not only some: requests of one instance must be sent in
        // the order in which they arrive here.
        yield_now::to_ready_tasks(self.metrics.requests_in_flight()).await;
        let started = Instant::now();
        let result = self.exchange(request, started).await;
        let series = &self.metrics.upstream[route as usize];
        match result {
            Ok((received, lease)) => {
                series.code(received.head.status()).inc();
                let seconds = started.elapsed().as_secs_f64();
                self.metrics.upstream_seconds(route).observe(seconds);
                let silence_timeout = self.settings.response_timeout;
                let metrics = Arc::clone(&self.metrics);
                let response = UpstreamResponse::new(received, lease, silence_timeout, metrics);
                Ok(response)
            }
            Err(error) => {
                series.error().inc();
                if let UpstreamError::Unreachable(kind) = error {
                    self.connector.outage_log().record_failure(kind);
                }
                Err(error)
            }
        }
    }

    /// Writes target and headers as they are sent over HTTP/1.1.
    pub(crate) fn prepare(&self, request: &mut UpstreamRequest) {
        request::prepare_http1(request, &self.host);
    }

    /// How many connections all workers have open: idle, and in use.
    pub(crate) fn connections(&self) -> (usize, usize) {
        self.pools.count()
    }

    /// Replaces the connections of all workers: each takes no further request, and the
    /// name is looked up again. Uses the proxy of these settings.
    pub(crate) fn reload(&self, settings: &config::Upstream) {
        // The URL needs a restart, and the proxy of another one may be none.
        if settings.url == self.settings.url {
            self.connector.set_proxy(settings.proxy.clone());
        }
        self.ages.end_all();
        self.pools.close_idle();
    }

    /// Closes pooled connections that have ended, are too old, or have been idle too
    /// long. Runs until it is dropped.
    pub(crate) async fn reap_idle(&self) -> std::convert::Infallible {
        let times = [self.settings.idle_timeout, self.settings.max_age];
        let shortest = times.into_iter().filter(|time| !time.is_zero()).min();
        let interval = (shortest.unwrap_or_default() / 2).max(REAP_INTERVAL);
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.pool.idle_ended() => {}
            }
            self.pool.close_idle(Instant::now());
        }
    }

    async fn exchange(
        &self,
        request: &mut UpstreamRequest,
        started: Instant,
    ) -> Result<(Received, Lease), UpstreamError> {
        let kind = request::kind(request, self.settings.http);
        let mut timeout = ResponseTimeout {
            started,
            limit: self.settings.response_timeout,
            progress: request.body.progress(),
        };
        let progress = timeout.progress.as_ref();
        // Lives until the response was read, or until this function fails.
        let response_pending = progress.map(Progress::response_pending);
        let mut fresh = 0;
        loop {
            // Any number of pooled connections may turn out to be dead, as after a
            // restart of the upstream. Each try removes one, so the loop ends.
            let (mut connection, is_reused) = match self.pool.take(kind, timeout.started) {
                Some(connection) => (connection, true),
                None => {
                    // Boxed, so that a request on a pooled connection needs no
                    // room for a handshake.
                    let (connection, is_reused) = Box::pin(self.connect(kind)).await?;
                    // Connecting has a separate timeout.
                    timeout.started = Instant::now();
                    fresh += usize::from(!is_reused);
                    (connection, is_reused)
                }
            };
            if let Some(raw) = RawTarget::of(&request.head)
                && !connection.is_fast()
            {
                // hyper would cut the target, or refuse it.
                return Err(UpstreamError::RawTarget(raw.byte()));
            }
            if connection.is_http2() {
                request::prepare_http2(&mut request.head, &self.settings.url);
            } else {
                self.prepare(request);
            }
            let sent = connection.send(request, &timeout).await;
            // Only a new connection shows that an outage is over: a pooled one may be
            // older than the outage.
            if fresh > 0 && !matches!(sent, Some(Err(SendError::Unprocessed))) {
                self.connector.outage_log().record_success();
            }
            match sent {
                None => return Err(UpstreamError::Timeout),
                Some(Ok(received)) => {
                    let lease = Lease::new(connection, &self.pool, response_pending);
                    return Ok((received, lease));
                }
                // Certainly not processed, so sending it again is safe (rule: sent once).
                Some(Err(SendError::Unprocessed)) if is_reused || fresh < MAX_FRESH => {}
                Some(Err(SendError::Unprocessed)) => {
                    return Err(Unreachable::ClosedAtOnce.into());
                }
                Some(Err(SendError::Failed(error))) => {
                    // hyper reports a failed request body as an error of the connection.
                    // The body itself keeps the cause: then the client is at fault.
                    let client = timeout.progress.and_then(|progress| progress.failure());
                    return Err(client.map_or(error, UpstreamError::Client));
                }
            }
        }
    }

    /// A connection (new, or one another request has just opened), and whether it is
    /// reused. Where the upstream speaks HTTP/2, or may do so, only one request at a time
    /// connects: the others then share its connection.
    async fn connect(&self, kind: RequestKind) -> Result<(Connection, bool), UpstreamError> {
        if kind == RequestKind::Upgrade || !self.connector.may_share() {
            return Ok((self.connector.connect(&self.pool, kind).await?, false));
        }
        let called_at = Instant::now();
        let mut last_failure = self.connecting.lock().await;
        // The holder of the lock before this request may have made one.
        if let Some(connection) = self.pool.take(kind, Instant::now()) {
            return Ok((connection, true));
        }
        if let Some((_, error)) = last_failure.filter(|(when, _)| *when >= called_at) {
            // An attempt failed while this request waited. It counts for all that
            // waited: one after another, each would wait for the connect timeout.
            return Err(error);
        }
        if !self.connector.may_share() {
            // The upstream has chosen HTTP/1.1 meanwhile, and its connections are not
            // shared: all waiting requests connect at the same time.
            drop(last_failure);
            return Ok((self.connector.connect(&self.pool, kind).await?, false));
        }
        let connected = self.connector.connect(&self.pool, kind).await;
        let failure = connected.as_ref().err();
        *last_failure = failure.map(|error| (Instant::now(), *error));
        Ok((connected?, false))
    }
}
