//! The listener's side: accepting connections and speaking HTTP on them.
//!
//! Owns limits against slow and idle clients, TLS, and the polite end of a
//! connection. It knows a proxy that answers requests and nothing of how.
//! Invariant: one accept loop per worker; whatever a client does on its
//! connection, it holds up no other.

mod connection;
mod fast;
mod hyper;
mod idle;
mod introduction;
mod listener;
mod tls;

use std::sync::Arc;

use ::hyper::server::conn::{http1, http2};
use arc_swap::ArcSwapOption;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub(crate) use listener::accept;
pub use tls::CertificateError;

use crate::config;
use crate::conn::drain::Drain;
use crate::observe::metrics::Metrics;
use crate::proxy::Proxy;

/// What connections need, whichever worker serves them.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    pub(crate) proxy: Proxy,
    pub(crate) common: Arc<Common>,
}

/// What the connections of all workers share.
pub(crate) struct Common {
    settings: config::Server,
    metrics: Arc<Metrics>,
    /// One permit per connection: `server.max_connections`.
    permits: Arc<Semaphore>,
    /// The connections' tasks.
    pub(crate) connections: TaskTracker,
    drain: Drain,
    tls: ArcSwapOption<tls::Acceptor>,
    /// How HTTP is spoken, made once for all connections.
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

/// A certificate with its key, read and found to fit.
pub(crate) struct Certificate(Arc<tls::Acceptor>);

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common")
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

impl Common {
    /// # Errors
    /// The certificate or its key cannot be used.
    pub(crate) fn new(
        settings: config::Server,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Result<Self, CertificateError> {
        let tls = Certificate::read(&settings)?.map(|certificate| certificate.0);
        Ok(Self {
            permits: Arc::new(Semaphore::new(settings.max_connections)),
            connections: TaskTracker::new(),
            tls: ArcSwapOption::from(tls),
            http1: self::hyper::http1(&settings),
            http2: self::hyper::http2(&settings),
            settings,
            metrics,
            drain,
        })
    }

    /// Puts another certificate in force, for connections made from now on.
    /// Whether there is TLS at all stays as it is.
    pub(crate) fn renew_certificate(&self, certificate: Option<Certificate>) {
        if let (Some(Certificate(acceptor)), true) = (certificate, self.has_tls()) {
            self.tls.store(Some(acceptor));
        }
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
