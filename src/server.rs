//! Connections of clients: accepting them, TLS, and HTTP on them.
//!
//! Owns timeouts against slow and idle clients, and the end of each connection.
//! It passes each request to the proxy and does not know what it means.
//! Invariants: one accept loop per worker; no client delays another connection.
//!
//! - `listener`: the accept loop; `tls`: certificates;
//! - `proxy_protocol`: the client's address, if a trusted proxy sends it;
//! - `connection`: one connection, from its first byte to its end;
//! - `idle`, `detect`: waiting for a request, and which protocol it speaks;
//! - `fast`: HTTP/1.1 requests in the usual form; `hyper`: all others;
//! - `inspect`: one request, read and not served;
//! - `unreadable`: connections that end before there is a request.

mod connection;
mod detect;
mod fast;
mod hyper;
mod idle;
mod inspect;
mod listener;
mod proxy_protocol;
mod tls;
mod unreadable;

use std::net::IpAddr;
use std::sync::Arc;

use ::hyper::server::conn::{http1, http2};
use arc_swap::ArcSwapOption;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub(crate) use listener::accept;
pub use tls::CertificateError;
use unreadable::UnreadableLog;

use crate::config;
use crate::conn::drain_signal::Drain;
use crate::observe::metrics::{Metrics, Unreadable};
use crate::proxy::Proxy;

/// One worker's server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) proxy: Proxy,
    pub(crate) shared: Arc<ServerShared>,
}

/// What the servers of all workers share.
pub(crate) struct ServerShared {
    settings: config::Server,
    metrics: Arc<Metrics>,
    /// One permit per connection: `server.max_connections`.
    permits: Arc<Semaphore>,
    /// The tasks of all connections.
    pub(crate) connections: TaskTracker,
    drain: Drain,
    unreadable: UnreadableLog,
    /// `None` without `server.tls`.
    tls: ArcSwapOption<tls::Acceptor>,
    /// hyper's settings, built once for all connections.
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

/// A certificate with its key, read and checked.
pub(crate) struct Certificate(Arc<tls::Acceptor>);

impl std::fmt::Debug for ServerShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerShared")
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

impl ServerShared {
    /// # Errors
    /// The certificate or its key cannot be used.
    pub(crate) fn new(
        settings: config::Server,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Result<Self, CertificateError> {
        let certificate = Certificate::read(&settings)?;
        let shared = Self {
            permits: Arc::new(Semaphore::new(settings.max_connections)),
            connections: TaskTracker::new(),
            tls: ArcSwapOption::empty(),
            http1: self::hyper::http1(&settings),
            http2: self::hyper::http2(&settings),
            settings,
            metrics,
            drain,
            unreadable: UnreadableLog::default(),
        };
        shared.use_certificate(certificate);
        Ok(shared)
    }

    /// Uses another certificate for new connections. It cannot turn TLS on or
    /// off: that needs a restart.
    pub(crate) fn renew_certificate(&self, certificate: Option<Certificate>) {
        if self.has_tls() {
            self.use_certificate(certificate);
        }
    }

    fn use_certificate(&self, certificate: Option<Certificate>) {
        let Some(Certificate(acceptor)) = certificate else {
            return;
        };
        if let Some(expiry) = acceptor.expiry {
            self.metrics.scraped().certificate_expiry(expiry);
        }
        self.tls.store(Some(acceptor));
    }

    /// Counts and logs a connection that cannot be read.
    fn record_unreadable(&self, reason: Unreadable, peer: Option<IpAddr>) {
        self.unreadable.record(reason, peer, &self.metrics);
    }

    /// Whether clients speak TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.load().is_some()
    }
}

impl Certificate {
    /// Reads certificate and key, if the settings name them.
    ///
    /// # Errors
    /// They cannot be used.
    pub(crate) fn read(settings: &config::Server) -> Result<Option<Self>, CertificateError> {
        let acceptor = settings.tls.as_ref().map(tls::acceptor).transpose()?;
        Ok(acceptor.map(Self))
    }
}
