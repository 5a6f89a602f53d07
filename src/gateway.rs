//! The gateway without sockets: all layers below, wired together.
//!
//! Owns what a reload replaces and what a drain ends. Invariant: each worker has a separate
//! [`Gateway`] with its own upstream connections; all share batches, buckets and metrics.
//!
//! - `files`: the files that settings name.

mod files;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use self::files::Files;
pub use crate::cluster::CaError;
use crate::cluster::{Cluster, Connect};
use crate::config::{self, Config, InForce};
use crate::observe::metrics::Metrics;
use crate::proxy::{Proxy, Shared};
pub use crate::server::CertificateError;
use crate::server::{Server, ServerShared};
pub use crate::upstream::TlsError;
use crate::upstream::{Dial, Upstream};

/// How long the end waits for the access log (rule: drain): the process that reads it may
/// have stopped.
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
    /// TLS to the server of the cluster.
    #[error(transparent)]
    Cluster(#[from] CaError),
}

impl Gateway {
    /// Builds the gateway; opens no socket.
    ///
    /// # Errors
    /// A file that the settings name cannot be used.
    pub fn new(config: &Config, dial: Dial) -> Result<Self, BuildError> {
        Self::build(config, dial, Cluster::new)
    }

    /// As [`new`](Self::new), but the server of the cluster is reached by this transport. Without
    /// `[cluster]` it is not used.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn over(
        config: &Config,
        dial: Dial,
        transport: Box<dyn Connect>,
    ) -> Result<Self, BuildError> {
        Self::build(config, dial, |settings, metrics| {
            Ok(Cluster::over(transport, settings, metrics))
        })
    }

    fn build(
        config: &Config,
        dial: Dial,
        connect: impl FnOnce(&config::Cluster, &Metrics) -> Result<Arc<Cluster>, CaError>,
    ) -> Result<Self, BuildError> {
        let metrics = Arc::new(Metrics::new(config.metrics.max_instances));
        let cluster = config.cluster.as_ref();
        let cluster = cluster.map(|settings| connect(settings, &metrics));
        let cluster = cluster.transpose()?;
        let shared = Arc::new(Shared::new(config, Arc::clone(&metrics), cluster));
        // One drain: connections close for it, and responses get `Connection: close`.
        let drain = shared.drain.clone();
        let server_shared = ServerShared::new(config.server.clone(), Arc::clone(&metrics), drain)?;
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

    /// The same gateway for another worker, with separate upstream connections.
    #[must_use]
    pub fn for_another_worker(&self) -> Self {
        let proxy = Proxy {
            shared: Arc::clone(&self.server.proxy.shared),
            // A connection's task runs on one worker; to use it from another would wake a
            // second thread for each request.
            upstream: Arc::new(self.server.proxy.upstream.another()),
        };
        Self {
            server: Server {
                proxy,
                shared: Arc::clone(&self.server.shared),
            },
        }
    }

    /// Serves one connection from within this process to its end. Rules about networks do
    /// not apply to it.
    pub async fn serve<IO>(&self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.serve_from(io, None).await;
    }

    /// Serves one connection from `peer` to its end; `None` for a connection from within
    /// this process.
    pub async fn serve_from<IO>(&self, io: IO, peer: Option<SocketAddr>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Tracked, so that a drain waits for it as for the connections of the listener.
        self.server
            .shared
            .connections
            .track_future(self.server.serve(io, peer))
            .await;
    }

    /// Writes the access log to `sink`, if the settings enable it. It never delays a
    /// request: lines that `sink` does not take in time are dropped and counted.
    ///
    /// # Errors
    /// The thread that writes could not be started.
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

    /// Waits until the access log is written, at most two seconds.
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
        // Gauges are set when they are scraped: to keep them current would cost each request.
        shared.limiter.report();
        if let Some(cluster) = &shared.cluster {
            cluster.report();
        }
        let (idle, active) = self.server.proxy.upstream.connections();
        let settings = shared.reloadable.load();
        let metrics = self.metrics();
        metrics.scraped().upstream_connections(idle, active);
        metrics
            .scraped()
            .modes(settings.limit_observes(), settings.batch_observes());
        metrics.exposition()
    }

    /// Applies the settings that a reload may change, except the files that they name.
    /// Requests in flight keep those with which they began.
    pub fn reload(&self, config: &Config) {
        self.server.proxy.shared.reload(config);
        self.server.proxy.upstream.reload(&config.upstream);
    }

    /// As [`reload`](Self::reload), and uses the certificate from the files.
    pub(crate) fn reload_with(&self, config: &Config, files: Files) {
        self.server.shared.renew_certificate(files.certificate);
        self.reload(config);
    }

    /// Whether clients use TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.server.shared.has_tls()
    }

    /// Starts a drain: open windows end, and connections close as soon as they have
    /// delivered their responses.
    pub fn drain(&self) {
        let shared = &self.server.proxy.shared;
        shared.metrics.scraped().draining();
        // First, so that the responses of the batches flushed below carry
        // `Connection: close`.
        shared.drain.begin();
        shared.batcher.flush();
    }

    /// Waits until all connections and requests have ended. Without a
    /// [`drain`](Self::drain) that may never happen.
    pub async fn drained(&self) {
        let shared = &self.server.proxy.shared;
        // A closed `TaskTracker` still accepts tasks; `wait` needs it closed. Connections
        // first: one that ends may leave requests behind, which go on as tasks.
        self.server.shared.connections.close();
        self.server.shared.connections.wait().await;
        shared.tasks.close();
        shared.tasks.wait().await;
    }

    /// Requests and connections that have not ended, including the connections that the
    /// drain cut before their clients had read all responses.
    #[must_use]
    pub fn unfinished(&self) -> (usize, usize) {
        let shared = &self.server.proxy.shared;
        (
            // Not the sum: a request whose client has disconnected is counted in both.
            self.metrics().requests_in_flight().max(shared.tasks.len()),
            self.server.shared.connections.len() + shared.drain.cut_count(),
        )
    }

    /// Keeps up with the other gateways, until the process ends.
    pub(crate) async fn follow_cluster(self) {
        let shared = &self.server.proxy.shared;
        if let Some(cluster) = &shared.cluster {
            tokio::join!(
                Arc::clone(cluster).run(),
                shared.limiter.follow_cluster(),
                shared.batcher.follow_cluster(),
            );
        }
    }

    /// What gateways share; `None` without `[cluster]`.
    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.server.proxy.shared.cluster.as_ref()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}
