//! The running gateway: its sockets, its workers, its end.
//!
//! Owns the order of starting and draining (design §3.9). Invariant: all
//! sockets are bound before anything is served, and a drain ends in time.
//!
//! - `reload`: reading the settings again.

mod reload;
pub mod signals;
pub mod systemd;
pub mod telemetry;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::reload::Reloads;
pub use self::reload::{Reload, check};
use self::signals::{Asked, Signals};
use self::systemd::Sockets;
use crate::config::Config;
use crate::gateway::{BuildError, Gateway};
use crate::observe::admin::{self, Ready};
use crate::server;
use crate::upstream::Dial;

/// Connections that may wait to be accepted: the usual `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A gateway with its sockets bound.
#[derive(Debug)]
pub struct App {
    config: Config,
    gateway: Gateway,
    listener: StdListener,
    admin: StdListener,
    /// The listening socket outlives us: its next owner takes what we leave.
    inherited: bool,
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
    /// Everything accepted was answered.
    Drained,
    /// Something had to be cut.
    Cut {
        /// Calls that had not ended.
        calls: usize,
        /// Connections that had not ended.
        connections: usize,
    },
}

impl App {
    /// Binds the sockets and puts the gateway together.
    ///
    /// # Errors
    /// An address is in use or not ours; a file cannot be used.
    pub fn bind(config: Config, dial: Dial) -> Result<Self, StartError> {
        Self::bind_or_inherit(config, dial, Sockets::default())
    }

    /// As [`bind`](Self::bind), with the sockets a service manager holds for
    /// us in place of those the settings name.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_or_inherit(
        config: Config,
        dial: Dial,
        sockets: Sockets,
    ) -> Result<Self, StartError> {
        let gateway = Gateway::new(&config, dial)?;
        let inherited = sockets.calls.is_some();
        let or_listen = |socket, setting, address| match socket {
            Some(socket) => Ok(socket),
            None => listen(setting, address),
        };
        let listener = or_listen(sockets.calls, "server.listen", config.server.listen)?;
        let admin = or_listen(sockets.admin, "server.admin", config.server.admin)?;
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Ok(Self {
            config,
            gateway,
            listener,
            admin,
            inherited,
            workers,
        })
    }

    /// Serves on the caller's runtime alone, instead of a worker per core.
    #[must_use]
    pub fn single_worker(mut self) -> Self {
        self.workers = 1;
        self
    }

    /// The address calls are accepted on.
    ///
    /// # Errors
    /// The operating system cannot tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The address of the admin pages.
    ///
    /// # Errors
    /// The operating system cannot tell.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// The gateway that is served.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Serves until a signal asks to stop, then drains. What a drain cuts ends
    /// with the caller's runtime: only after that is
    /// [`flush_access_log`](Gateway::flush_access_log) sure to miss no line.
    ///
    /// # Errors
    /// A thread could not be started.
    pub async fn run(self, signals: &mut Signals, reload: Reload) -> Result<Ended, StartError> {
        let running = self.start()?;
        systemd::ready();
        let mut reloads = Reloads::new(reload);
        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Reload => reloads.ask(),
                    Asked::Stop => break,
                },
                read = reloads.read() => reloads.finish(read, &self.gateway),
            }
        }
        systemd::stopping();
        Ok(self.end(running, signals.stop()).await)
    }

    /// Serves until told to stop, then drains: for tests and the demo, which
    /// share their process with others.
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

    async fn end(self, running: Running, again: impl Future<Output = ()>) -> Ended {
        let timeout = self.config.server.drain_timeout;
        tracing::info!(timeout_s = timeout.as_secs_f64(), "draining");
        let deadline = Instant::now() + timeout;
        let gateway = self.gateway.clone();
        gateway.metrics().scraped().drain_deadline(timeout);
        // Our own hold on the listening socket; the workers let go of theirs.
        drop(self);
        let ended = drain(&gateway, &running, deadline, again).await;
        running.end();
        ended
    }

    fn start(&self) -> Result<Running, StartError> {
        let ready = Ready::default();
        let stop = CancellationToken::new();
        let ended = CancellationToken::new();
        let admin = TcpListener::from_std(self.admin.try_clone()?)?;
        tokio::spawn(admin::serve(admin, self.gateway.clone(), ready.clone()));
        let mut threads = Vec::new();
        for index in 1..self.workers {
            let worker = Worker {
                gateway: self.gateway.another(),
                listener: self.listener.try_clone()?,
                inherited: self.inherited,
                stop: stop.clone(),
                ended: ended.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || {
                runtime.block_on(worker.work());
                // A name look-up may hang for long: it is not waited for.
                runtime.shutdown_background();
            })?);
        }
        let worker = Worker {
            gateway: self.gateway.clone(),
            listener: self.listener.try_clone()?,
            inherited: self.inherited,
            stop: stop.clone(),
            ended: ended.clone(),
        };
        tokio::spawn(worker.work());
        ready.set(true);
        Ok(Running {
            ready,
            stop,
            ended,
            threads,
        })
    }
}

/// One worker: accepts, serves, and stays until everything has ended.
struct Worker {
    gateway: Gateway,
    listener: StdListener,
    inherited: bool,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Worker {
    async fn work(self) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                return tracing::error!(%error, "a worker cannot use the listening socket");
            }
        };
        let front = self.gateway.front();
        let upstream = front.proxy.upstream.clone();
        tokio::select! {
            _ = upstream.keep_pool_tidy() => {}
            // Simulated time has no such worker: there windows end by tokio's clock.
            _ = upstream.alarm().keep() => {}
            () = self.ended.cancelled() => {}
            () = async {
                server::accept(front, listener, self.inherited, &self.stop).await;
                // The listener is closed now; connections go on.
                std::future::pending().await
            } => {}
        }
    }
}

struct Running {
    ready: Ready,
    stop: CancellationToken,
    ended: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn end(self) {
        self.ended.cancel();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
    }
}

/// Design §3.9, in its order.
async fn drain(
    gateway: &Gateway,
    running: &Running,
    deadline: Instant,
    again: impl Future<Output = ()>,
) -> Ended {
    // 1. Load balancers look elsewhere.
    running.ready.set(false);
    // 2. No new connections.
    running.stop.cancel();
    // 3. Open windows end at once, connections are asked to end.
    gateway.drain();
    // 4. Everything accepted is answered, unless time or patience runs out.
    let in_time = tokio::select! {
        () = gateway.drained() => true,
        () = tokio::time::sleep_until(deadline) => false,
        () = again => false,
    };
    let (calls, connections) = gateway.unfinished();
    if in_time && connections == 0 {
        tracing::info!("drained: everything accepted was answered");
        return Ended::Drained;
    }
    tracing::error!(
        calls,
        connections,
        "drain cut short: what had not ended is lost"
    );
    Ended::Cut { calls, connections }
}

fn listen(setting: &'static str, address: SocketAddr) -> Result<StdListener, StartError> {
    let bind = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restart need not wait for old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(StdListener::from(socket))
    };
    bind().map_err(|reason| StartError::Listen {
        setting,
        address,
        reason,
    })
}
