//! Sends requests to the upstream, each at most once.
//!
//! Owns the upstream connections of one worker. Invariant: a request of which a
//! byte may have been written is never sent again from here (rule: sent once).
//! Only a request that a dead pooled connection returned untouched goes out on
//! another connection.
//!
//! - [`pool`]: idle and shared connections;
//! - [`connect`], [`dial`], [`tls`]: making new ones;
//! - [`connection`], [`fast`], [`liveness`]: one connection, of hyper or of the
//!   fast path, and whether it still lives;
//! - [`request`], [`response`]: what goes out and what comes back;
//! - [`timeout`], [`error`], [`outage_log`]: when it takes too long or fails.

mod connect;
mod connection;
mod dial;
mod error;
mod fast;
mod liveness;
mod outage_log;
mod pool;
mod request;
mod response;
mod timeout;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Mutex;
use tokio::time::Instant;

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

/// New connections tried for one request that none of them took.
const MAX_FRESH: usize = 2;

/// The shortest time between two searches for connections to close.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// The upstream, as one worker reaches it.
#[derive(Debug)]
pub(crate) struct Upstream {
    connector: Arc<Connector>,
    settings: config::Upstream,
    host: HeaderValue,
    pool: Arc<Pool>,
    /// The pools of all workers.
    pools: Pools,
    /// Held while a connection is made that others can share. Holds the last
    /// failure to make one.
    connecting: Mutex<Option<(Instant, UpstreamError)>>,
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
        Ok(Self {
            connector: Arc::new(Connector::new(&settings, dial)?),
            pool: pools.add(Pool::new(&settings)),
            pools,
            settings,
            host,
            connecting: Mutex::new(None),
            metrics,
        })
    }

    /// Checks that [`new`](Self::new) can use these settings.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn check(settings: &config::Upstream) -> Result<(), TlsError> {
        Connector::new(settings, Dial::Tcp).map(drop)
    }

    /// The same upstream for another worker, with connections of its own.
    pub(crate) fn another(&self) -> Self {
        Self {
            connector: Arc::clone(&self.connector),
            settings: self.settings.clone(),
            host: self.host.clone(),
            pool: self.pools.add(Pool::new(&self.settings)),
            pools: self.pools.clone(),
            connecting: Mutex::new(None),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Sends one request and waits for the head of its response. Takes the
    /// request out of its place, so that the futures down to the connection
    /// need no room for it.
    ///
    /// # Errors
    /// There is no response; [`UpstreamError`] says whether the request may
    /// have been processed.
    pub(crate) async fn call(
        &self,
        request: &mut UpstreamRequest,
        route: Route,
    ) -> Result<UpstreamResponse, UpstreamError> {
        // All requests yield, not only some: those of one instance must leave
        // in the order in which they come here.
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

    /// How many connections all workers have open: idle, and in use.
    pub(crate) fn connections(&self) -> (usize, usize) {
        self.pools.count()
    }

    /// Closes, for ever, pooled connections that have ended or have been idle
    /// too long.
    pub(crate) async fn keep_pool_tidy(&self) -> std::convert::Infallible {
        loop {
            tokio::select! {
                () = tokio::time::sleep((self.settings.idle_timeout / 2).max(TIDY_INTERVAL)) => {}
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
        let kind = request::kind(request);
        let mut timeout = ResponseTimeout {
            started,
            length: self.settings.response_timeout,
            progress: request.body.progress(),
        };
        let progress = timeout.progress.as_ref();
        let response_pending = progress.map(Progress::response_pending);
        let mut fresh = 0;
        loop {
            // Any number of pooled connections may turn out to be dead, as after a
            // restart of the upstream. Each try removes one, so the loop ends.
            let (mut connection, is_reused) = match self.pool.take(kind, timeout.started) {
                Some(connection) => (connection, true),
                None => {
                    fresh += 1;
                    // Boxed, so that a request on a pooled connection needs no
                    // room for a handshake.
                    let connected = Box::pin(self.connect(kind)).await?;
                    // Connecting has a timeout of its own.
                    timeout.started = Instant::now();
                    connected
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
                request::prepare_http1(request, &self.host);
            }
            let sent = connection.send(request, &timeout).await;
            // Only a new connection says something about an outage: a pooled one
            // was made before it.
            if fresh > 0 && !matches!(sent, Some(Err(SendError::Unprocessed))) {
                self.connector.outage_log().record_success();
            }
            match sent {
                None => return Err(UpstreamError::Timeout),
                Some(Ok(received)) => {
                    let lease = Lease::new(connection, &self.pool, response_pending);
                    return Ok((received, lease));
                }
                Some(Err(SendError::Unprocessed)) if is_reused || fresh < MAX_FRESH => {}
                Some(Err(SendError::Unprocessed)) => {
                    return Err(Unreachable::ClosedAtOnce.into());
                }
                Some(Err(SendError::Failed(error))) => {
                    // hyper reports a broken request body as an error of the
                    // connection; the body knows the cause.
                    let client = timeout.progress.and_then(|progress| progress.failure());
                    return Err(client.map_or(error, UpstreamError::Client));
                }
            }
        }
    }

    /// A new connection, and whether it carried a request before. Where the
    /// upstream speaks HTTP/2, or may do so, only one request at a time
    /// connects: the others then share its connection.
    async fn connect(&self, kind: RequestKind) -> Result<(Connection, bool), UpstreamError> {
        if kind == RequestKind::Upgrade || !self.connector.may_share() {
            return Ok((self.connector.connect(&self.pool, kind).await?, false));
        }
        let asked = Instant::now();
        let mut last_failure = self.connecting.lock().await;
        if let Some(connection) = self.pool.take(kind, Instant::now()) {
            return Ok((connection, true));
        }
        if let Some((_, error)) = last_failure.filter(|(when, _)| *when >= asked) {
            // One attempt failed while this request waited: that counts for all
            // that waited, or a hundred would fail one after another.
            return Err(error);
        }
        if !self.connector.may_share() {
            // The upstream chose HTTP/1.1 meanwhile: all connect at once.
            drop(last_failure);
            return Ok((self.connector.connect(&self.pool, kind).await?, false));
        }
        let connected = self.connector.connect(&self.pool, kind).await;
        let failure = connected.as_ref().err();
        *last_failure = failure.map(|error| (Instant::now(), *error));
        Ok((connected?, false))
    }
}
