//! The running program: sockets, workers, reload, drain.
//!
//! Owns the order in which things start and end. Invariant: all sockets are
//! bound before anything is served.
//!
//! - `listen`: sockets; [`systemd`]: sockets that the service manager holds;
//! - `worker`: one thread per core; `drain`: the steps of the end;
//! - [`signals`]: stop and reload; `reload`: the settings are read again;
//! - [`telemetry`]: the log and the panic hook.

mod drain;
mod listen;
mod reload;
pub mod signals;
pub mod systemd;
pub mod telemetry;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;

use tokio::net::TcpListener;

use self::reload::Reloads;
pub use self::reload::{LoadSettings, check, check_cluster};
use self::signals::{Event, Signals};
use self::systemd::Sockets;
use self::worker::Workers;
use crate::config::{self, Config};
use crate::descriptors;
use crate::gateway::{BuildError, Gateway};
use crate::observe::admin::{self, Ready};
use crate::upstream::Dial;

/// A gateway with its sockets bound.
#[derive(Debug)]
pub struct App {
    config: Config,
    gateway: Gateway,
    listener: StdListener,
    admin: StdListener,
    /// The service manager keeps the listening socket open: connections that are not
    /// accepted wait in its backlog for the next process.
    is_inherited: bool,
    workers: usize,
}

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{setting}: cannot listen on {address}: {reason}")]
    Listen {
        /// The setting that holds the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        reason: io::Error,
    },
    /// A file that the settings name cannot be used.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The operating system refused threads or signals.
    #[error("cannot start: {0}")]
    Os(#[from] io::Error),
}

/// How the gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every accepted request has its response.
    Drained,
    /// Requests or connections were cut.
    Cut {
        /// Requests that had not ended.
        requests: usize,
        /// Connections that had not ended.
        connections: usize,
    },
}

impl App {
    /// Binds the sockets and builds the gateway.
    ///
    /// # Errors
    /// An address is in use or does not belong to this machine; a file cannot be used.
    pub fn bind(config: Config, dial: Dial) -> Result<Self, StartError> {
        Self::bind_or_inherit(config, dial, Sockets::default())
    }

    /// As [`bind`](Self::bind), with the sockets of a service manager in place of
    /// those that the settings name.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_or_inherit(
        config: Config,
        dial: Dial,
        sockets: Sockets,
    ) -> Result<Self, StartError> {
        // Before the sockets: with a bad certificate no port is taken.
        let gateway = Gateway::new(&config, dial)?;
        let is_inherited = sockets.requests.is_some();
        let inherited_or_bound = |socket, setting, address| match socket {
            Some(socket) => Ok(socket),
            None => listen::listen(address).map_err(|reason| StartError::Listen {
                setting,
                address,
                reason,
            }),
        };
        let listener = inherited_or_bound(sockets.requests, "server.listen", config.server.listen)?;
        let admin = inherited_or_bound(sockets.admin, "server.admin", config.server.admin)?;
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Ok(Self {
            config,
            gateway,
            listener,
            admin,
            is_inherited,
            workers,
        })
    }

    /// Serves on the caller's runtime alone, instead of one worker per core.
    #[must_use]
    pub fn single_worker(mut self) -> Self {
        self.workers = 1;
        self
    }

    /// The address on which requests are accepted.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The address of the admin pages.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// The gateway that is served.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Serves until a signal asks to stop, then drains.
    ///
    /// What a drain cuts ends with the caller's runtime. Call
    /// [`flush_access_log`](Gateway::flush_access_log) after that, or entries of cut
    /// requests may be missing.
    ///
    /// # Errors
    /// A thread could not be started.
    pub async fn run(
        self,
        signals: &mut Signals,
        load_settings: LoadSettings,
    ) -> Result<Ended, StartError> {
        // Not in `run_until`: the limit is one of the whole process.
        raise_descriptor_limit(&self.config.server);
        let running = self.start()?;
        // Only now: the service manager starts what depends on this service.
        systemd::ready();
        let mut reloads = Reloads::new(load_settings);
        loop {
            tokio::select! {
                event = signals.next() => match event {
                    Event::Reload => reloads.request(),
                    Event::Stop => break,
                },
                read = reloads.read() => reloads.finish(read, &self.gateway),
            }
        }
        systemd::stopping();
        // From here on a second signal to stop cuts the drain short.
        Ok(self.end(running, signals.stop()).await)
    }

    /// Serves until `stop` resolves, then drains: for tests and the demo, which share
    /// their process with other code.
    ///
    /// # Errors
    /// A thread could not be started.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<Ended, StartError> {
        let running = self.start()?;
        stop.await;
        let gateway = self.gateway.clone();
        let ended = self.end(running, std::future::pending()).await;
        gateway.flush_access_log();
        Ok(ended)
    }

    fn start(&self) -> Result<Running, StartError> {
        let ready = Ready::default();
        // Runs on the first worker's runtime until that is dropped, so the admin pages
        // are there during a drain.
        let admin = TcpListener::from_std(self.admin.try_clone()?)?;
        tokio::spawn(admin::serve(admin, self.gateway.clone(), ready.clone()));
        // Also on that runtime: the gateway deregisters at the end of the drain.
        tokio::spawn(self.gateway.clone().follow_cluster());
        let workers = Workers::start(
            self.workers,
            &self.gateway,
            &self.listener,
            self.is_inherited,
        )?;
        ready.set(true);
        Ok(Running { ready, workers })
    }

    async fn end(self, running: Running, abort: impl Future<Output = ()>) -> Ended {
        let settings = self.config.server.clone();
        let timeout = settings.drain_timeout;
        tracing::info!(timeout_s = timeout.as_secs_f64(), "draining");
        let gateway = self.gateway.clone();
        gateway.metrics().scraped().drain_deadline(timeout);
        // A socket is closed with its last descriptor: these are closed now, those of the
        // workers when they stop accepting.
        drop(self);
        let Running { ready, workers } = running;
        let ended = drain::drain(&gateway, &ready, &workers, &settings, abort).await;
        if let Some(cluster) = gateway.cluster() {
            // Only now: until its last request has ended, it takes part in the budget.
            cluster.leave().await;
        }
        workers.stop();
        ended
    }
}

/// The parts of a gateway that is running.
struct Running {
    ready: Ready,
    workers: Workers,
}

/// Raises the limit on open files, and warns if `server.max_connections` cannot
/// be reached with it.
fn raise_descriptor_limit(settings: &config::Server) {
    let needed = descriptors::needed(settings.max_connections, settings.max_in_flight);
    match descriptors::raise_limit() {
        Ok(Some(limit)) if limit < needed => tracing::warn!(
            limit,
            needed,
            "server.max_connections cannot be reached: raise the limit on open files \
             (ulimit -n, LimitNOFILE=)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files"),
    }
}
