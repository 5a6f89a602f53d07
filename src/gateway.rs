//! The gateway without sockets: all layers below, wired together.
//!
//! Owns what a reload replaces and what a drain ends. Invariant: each worker has a
//! [`Gateway`] of its own; all of them share batches, buckets and metrics.
//!
//! - `files`: the files that settings name.

mod files;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use self::files::Files;
use crate::config::{Config, InForce};
use crate::observe::metrics::Metrics;
use crate::proxy::{Proxy, Shared};
use crate::redact::Secrets;
pub use crate::server::CertificateError;
use crate::server::{Server, ServerShared};
use crate::tenant::Tenants;
use crate::tenant::key::Keyring;
pub use crate::upstream::TlsError;
use crate::upstream::{Dial, Upstream};

/// How long the end waits for the access log: its reader may have stopped.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// One worker's gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    server: Server,
}

/// Why the gateway could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// TLS to the upstream.
    #[error(transparent)]
    Upstream(#[from] TlsError),
    /// TLS to clients.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Gateway {
    /// Builds the gateway; opens no socket.
    ///
    /// # Errors
    /// A file that the settings name cannot be used.
    pub fn new(config: &Config, dial: Dial) -> Result<Self, BuildError> {
        let metrics = Arc::new(Metrics::new(config.metrics.max_instances));
        let shared = Arc::new(Shared::new(config, Arc::clone(&metrics)));
        let server_shared = ServerShared::new(
            config.server.clone(),
            Arc::clone(&metrics),
            shared.drain.clone(),
        )?;
        let upstream = Upstream::new(config.upstream.clone(), dial, metrics)?;
        let proxy = Proxy {
            shared,
            upstream: Arc::new(upstream),
        };
        Ok(Self {
            server: Server {
                proxy,
                shared: Arc::new(server_shared),
            },
        })
    }

    /// The same gateway for another worker, with upstream connections of its own.
    #[must_use]
    pub fn another(&self) -> Self {
        let proxy = Proxy {
            shared: Arc::clone(&self.server.proxy.shared),
            upstream: Arc::new(self.server.proxy.upstream.another()),
        };
        Self {
            server: Server {
                proxy,
                shared: Arc::clone(&self.server.shared),
            },
        }
    }

    /// Serves one connection from within this process to its end. No rule about
    /// networks applies to it.
    pub async fn serve<IO>(&self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.serve_from(io, None).await;
    }

    /// Serves one connection to its end, as one that `peer` made; without a peer, as
    /// one from within this process.
    pub async fn serve_from<IO>(&self, io: IO, peer: Option<SocketAddr>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.server
            .shared
            .connections
            .track_future(self.server.serve(io, peer))
            .await;
    }

    /// Writes the access log to `sink`, if the settings enable it. A line never
    /// delays a request: lines that `sink` does not take in time are dropped and
    /// counted.
    ///
    /// # Errors
    /// The thread for it could not be started.
    pub fn log_access_to(&self, sink: Box<dyn Write + Send>) -> io::Result<()> {
        let shared = &self.server.proxy.shared;
        shared.access_log.write_to(sink, &shared.metrics)
    }

    /// Shows these settings on the admin pages.
    pub fn show_settings(&self, settings: InForce) {
        let shown = &self.server.proxy.shared.shown;
        shown.store(Some(Arc::new(settings)));
    }

    pub(crate) fn shown_settings(&self) -> Option<Arc<InForce>> {
        self.server.proxy.shared.shown.load_full()
    }

    /// Waits until the lines of the access log are written, at most
    /// two seconds.
    pub fn flush_access_log(&self) {
        self.server.proxy.shared.access_log.flush(FLUSH_TIMEOUT);
    }

    /// The metrics of all workers.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.server.proxy.shared.metrics
    }

    /// All metrics in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn exposition(&self) -> String {
        let shared = &self.server.proxy.shared;
        shared.limiter.report();
        let (idle, active) = self.server.proxy.upstream.connections();
        let metrics = self.metrics();
        metrics.scraped().upstream_connections(idle, active);
        metrics.exposition()
    }

    /// Applies the settings that a reload may change, except the files that they name.
    /// Requests under way keep the settings under which they began.
    pub fn reload(&self, config: &Config) {
        let shared = &self.server.proxy.shared;
        let tenants = Tenants::new(&config.tenants, &config.access, &shared.metrics);
        let keyring = Keyring::new(&config.tenants).map(Arc::new);
        shared.tenants.store(Arc::new(tenants));
        shared.keyring.store(keyring);
        shared.limiter.reconfigure(config);
        shared.batcher.reconfigure(config.batch.clone());
        let secrets = Secrets::new(&config.tenants).map(Arc::new);
        shared.metrics.keep_secret(secrets.clone());
        shared.access_log.reconfigure(&config.log, secrets);
    }

    /// As [`reload`](Self::reload), with the certificate of these files.
    pub(crate) fn reload_with(&self, config: &Config, files: Files) {
        self.server.shared.renew_certificate(files.certificate);
        self.reload(config);
    }

    /// Whether clients use TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.server.shared.has_tls()
    }

    /// Starts a drain: open windows end, connections are asked to end.
    pub fn drain(&self) {
        let shared = &self.server.proxy.shared;
        shared.metrics.scraped().draining();
        shared.drain.begin();
        shared.batcher.flush();
    }

    /// Waits until every connection and every request has ended, which may be never
    /// without a [`drain`](Self::drain).
    pub async fn drained(&self) {
        let shared = &self.server.proxy.shared;
        self.server.shared.connections.close();
        self.server.shared.connections.wait().await;
        shared.tasks.close();
        shared.tasks.wait().await;
    }

    /// Requests and connections that have not ended, or were cut by the drain before
    /// their response was sent.
    #[must_use]
    pub fn unfinished(&self) -> (usize, usize) {
        let shared = &self.server.proxy.shared;
        (
            self.metrics().calls().max(shared.tasks.len()),
            self.server.shared.connections.len() + shared.drain.cut_count(),
        )
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}
