//! A local stand-in for api.wawp.net.
//!
//! It answers as far as the vendor's pages, its clients and WAHA's sources tell: credentials in every spelling, the
//! documented errors, receipts that fail whole when one id is malformed. It remembers what reached it, so that a test
//! compares what a client sent with what came out at the far end, and it fails on demand ([`Fault`]).
//!
//! It refuses to be an HTTP framework or a WhatsApp: no message leaves it, and no state but the list of calls is kept.
//! Invariant: whatever is sent to it, its memory stays bounded; bodies are streamed, and of each only the first
//! 64 KiB are remembered. All its waiting is in tokio's time, so over [`Sandbox::serve_io`] it runs in paused time.
//!
//! | Part | Owns |
//! | --- | --- |
//! | `service` | the story of one call |
//! | `call` | what is remembered of a call |
//! | `credentials` | who calls and with which parameters, in every spelling |
//! | `endpoints`, `seen`, `samples` | the paths under `/v2`, read receipts, plausible answers |
//! | `answers` | the shapes of answers and errors |
//! | `tools` | the helpers under `/sandbox/` |
//! | `faults`, `line` | failures on demand, and the connection that can be torn |
//! | `quota` | calls per second and instance |

mod answers;
mod call;
mod cors;
mod credentials;
mod endpoints;
mod faults;
mod line;
mod quota;
mod samples;
mod seen;
mod service;
mod tools;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::call::Call;
pub use self::faults::{Fault, FaultKind, Match};
pub use self::tools::checksum;

use self::call::Log;
use self::faults::Faults;
use self::line::{Cut, Line};
use self::quota::Quotas;
use self::service::Conn;

/// Open connections at most; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 10_000;

/// Streams of one HTTP/2 connection. The gateway may put everything on one, and hyper's 200 would pace it unasked.
const MAX_STREAMS: u32 = 1_000;

/// How long open calls may take to finish once the shutdown begins.
const GRACE: Duration = Duration::from_secs(1);

/// The pause after a failed `accept`: descriptors have run out, and an immediate retry would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the stand-in behaves.
#[derive(Clone, Default)]
pub struct Settings {
    /// The time from a complete call under `/v2` to its answer.
    pub latency: Duration,
    /// The allowance of every instance: calls per second and burst. `None` and a rate of 0 mean unlimited.
    pub quota: Option<(f64, u32)>,
    /// The only valid token. `None` takes any text that is not empty and does not begin with `invalid`.
    pub token: Option<String>,
    /// The only instances. `None` takes 1 to 64 characters of `[A-Za-z0-9_-]`, unless they begin with `missing`.
    pub instances: Option<Vec<String>>,
    /// The faults scripted from the start, see [`Sandbox::script`].
    pub faults: Vec<Fault>,
}

/// A running stand-in; clones share its memory of calls, its quotas and its faults.
#[derive(Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

/// What all clones and connections look at.
struct Shared {
    settings: Settings,
    log: Log,
    faults: Faults,
    quotas: Option<Quotas>,
    /// Messages sent; it numbers their ids, so a duplicate is visible.
    messages: AtomicU64,
    /// Instances created, likewise.
    created: AtomicU64,
    began: Instant,
    /// Wall-clock time at `began`; the timestamps in answers follow tokio's time from here.
    epoch: Duration,
}

// === impl Settings ===

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("latency", &self.latency)
            .field("quota", &self.quota)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("instances", &self.instances)
            .field("faults", &self.faults)
            .finish()
    }
}

// === impl Sandbox ===

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("settings", &self.shared.settings)
            .field("received", &self.received())
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Makes a stand-in that listens nowhere yet.
    pub fn new(settings: Settings) -> Self {
        let began = Instant::now();
        Self {
            shared: Arc::new(Shared {
                log: Log::default(),
                faults: Faults::new(settings.faults.clone()),
                quotas: settings
                    .quota
                    .and_then(|(rate, burst)| Quotas::new(rate, burst, began)),
                messages: AtomicU64::new(0),
                created: AtomicU64::new(0),
                began,
                epoch: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
                settings,
            }),
        }
    }

    /// Serves HTTP/1.1 and cleartext HTTP/2 on a listener until `shutdown` completes.
    ///
    /// Calls that are open then have a second to finish; what is left after it is cut.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let mut open = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = open.join_next() => {}
                accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        // A failure here means that the peer has left already; the first read will say so too.
                        stream.set_nodelay(true).ok();
                        let (line, cut) = Line::tcp(stream);
                        open.spawn(self.clone().connection(line, cut, stop.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the sandbox cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        stop.cancel();
        let idle = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, idle).await.is_err() {
            open.shutdown().await;
        }
    }

    /// Serves one connection over any stream until it closes.
    pub async fn serve_io<IO>(&self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (line, cut) = Line::new(io);
        self.clone()
            .connection(line, cut, CancellationToken::new())
            .await;
    }

    /// Returns the calls received, oldest first: the last 10,000, or fewer if they carried much.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.log.calls()
    }

    /// Returns how many calls were received since the last [`clear`](Self::clear), remembered or not.
    pub fn received(&self) -> u64 {
        self.shared.log.received()
    }

    /// Returns how many messages were sent since the start.
    pub fn messages(&self) -> u64 {
        self.shared.messages.load(Ordering::Relaxed)
    }

    /// Forgets the calls received.
    pub fn clear(&self) {
        self.shared.log.clear();
    }

    /// Queues a fault for the next calls that match it; where several match, the one queued first strikes.
    pub fn script(&self, fault: Fault) {
        self.shared.faults.push(fault);
    }

    async fn connection<IO>(self, line: Line<IO>, cut: Cut, stop: CancellationToken)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http2().max_concurrent_streams(MAX_STREAMS);
        // Upgrades outlive the HTTP on their connection, but not this future, whether it ends or is dropped.
        let upgrades = TaskTracker::new();
        let stop = stop.child_token();
        let _guard = stop.clone().drop_guard();
        let conn = Conn::new(self.shared, cut, stop.clone(), upgrades.clone());
        let served = builder.serve_connection_with_upgrades(
            TokioIo::new(line),
            service_fn(move |request| service::answer(conn.clone(), request)),
        );
        let mut served = pin!(served);
        let ended = tokio::select! {
            ended = &mut served => ended,
            () = stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a sandbox connection ended early");
        }
        upgrades.close();
        upgrades.wait().await;
    }
}

impl Shared {
    /// The time of answers: seconds and milliseconds since the Unix epoch, moved by tokio's clock.
    fn now(&self) -> Duration {
        self.epoch + self.began.elapsed()
    }
}

/// Runs a stand-in on an address until `shutdown` completes, and prints where it listens.
///
/// # Errors
///
/// The address cannot be bound; the text names it and, for a port in use, says so.
pub async fn run(
    listen: SocketAddr,
    settings: Settings,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is in use, choose another or 0 for any".to_owned()
            }
            _ => error.to_string(),
        };
        io::Error::new(
            error.kind(),
            format!("sandbox cannot listen on {listen}: {why}"),
        )
    })?;
    let address = listener.local_addr()?;
    writeln!(io::stdout(), "sandbox listening on http://{address}")?;
    Sandbox::new(settings).serve(listener, shutdown).await;
    Ok(())
}
