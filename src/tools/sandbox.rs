//! A local stand-in for api.wawp.net.
//!
//! It responds as the vendor's pages, its clients and WAHA's sources describe: credentials in every location, the
//! documented errors, receipts that fail as a whole when one id is malformed. It records every request, so that a test
//! can compare what a client sent with what reached the upstream, and it fails on demand ([`Fault`]).
//!
//! It is neither an HTTP framework nor a WhatsApp server: no message is delivered, and only the record of requests is kept.
//! Invariant: its memory stays bounded; bodies are streamed, and of each only the first 64 KiB are recorded. It waits
//! only in tokio's time, so that [`Sandbox::serve_io`] works in paused time.
//!
//! | Part | Owns |
//! | --- | --- |
//! | `state` | settings, and what all connections share |
//! | `service` | the steps from a request to its response |
//! | `conn` | what the requests of one connection share, and how a fault strikes them |
//! | `call_log`, `recorded_body` | the record of requests |
//! | `params` | credentials and parameters, wherever a request carries them |
//! | `paths`, `endpoints`, `receipts`, `samples` | the paths of the API, read receipts, plausible bodies |
//! | `responses` | the formats of responses and errors |
//! | `helpers` | the test helpers under `/sandbox/` |
//! | `faults`, `breakable_io` | failures on demand, and the stream that can be broken |
//! | `cors` | preflights, and headers that let a page of another origin read a response |
//! | `quota` | requests per second and instance |

mod breakable_io;
mod call_log;
mod conn;
mod cors;
mod endpoints;
mod faults;
mod helpers;
mod params;
mod paths;
mod quota;
mod receipts;
mod recorded_body;
mod responses;
mod samples;
mod service;
mod state;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::call_log::Call;
pub use self::faults::{Fault, FaultKind, Match};
pub use self::helpers::checksum;
pub use self::state::Settings;

use self::breakable_io::{BreakableIo, Breaker};
use self::conn::Conn;
use self::state::State;

/// Maximum of open connections; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 10_000;

/// Concurrent streams of one HTTP/2 connection. The gateway may use a single connection, and hyper's default of 200
/// would slow it down.
const MAX_STREAMS: u32 = 1_000;

/// How long open requests may take to finish after the shutdown has begun.
const GRACE: Duration = Duration::from_secs(1);

/// The pause after a failed `accept`: descriptors have run out, and an immediate retry would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running stand-in; clones share its record of requests, its quotas and its faults.
#[derive(Clone)]
pub struct Sandbox {
    state: Arc<State>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("settings", &self.state.settings)
            .field("received", &self.received())
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Makes a stand-in that does not listen yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            state: Arc::new(State::new(settings)),
        }
    }

    /// Serves HTTP/1.1 and cleartext HTTP/2 on a listener until `shutdown` completes.
    ///
    /// Open requests then have a second to finish; connections still open after it are closed.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        // Dropping the set aborts its tasks, so no connection outlives this future.
        let mut open = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                // In this order, so that a busy listener can neither delay the shutdown nor let
                // finished tasks pile up.
                biased;
                () = &mut shutdown => break,
                Some(_) = open.join_next() => {}
                accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        // It fails if the peer has already closed; the first read then fails too.
                        stream.set_nodelay(true).ok();
                        let (io, breaker) = BreakableIo::tcp(stream);
                        open.spawn(self.clone().connection(io, breaker, stop.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the sandbox cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // The port is free at once: a test may bind it again while open requests finish.
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
        let (io, breaker) = BreakableIo::new(io);
        self.clone()
            .connection(io, breaker, CancellationToken::new())
            .await;
    }

    /// Returns the requests received, oldest first: the last 10,000, or fewer if they were large.
    pub fn calls(&self) -> Vec<Call> {
        self.state.log.calls()
    }

    /// Returns how many requests were received since the last [`clear`](Self::clear), recorded or not.
    pub fn received(&self) -> u64 {
        self.state.log.received()
    }

    /// Returns how many messages were sent since the start.
    pub fn messages(&self) -> u64 {
        self.state.messages.load(Ordering::Relaxed)
    }

    /// Clears the record of requests.
    pub fn clear(&self) {
        self.state.log.clear();
    }

    /// Queues a fault for the next requests that match it; of several matching faults, the one queued first strikes.
    pub fn script(&self, fault: Fault) {
        self.state.faults.push(fault);
    }

    /// Serves one connection until it ends or `stop` is cancelled.
    async fn connection<IO>(self, io: BreakableIo<IO>, breaker: Breaker, stop: CancellationToken)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http2().max_concurrent_streams(MAX_STREAMS);
        // An upgraded connection goes on after its HTTP part has ended. This future waits for it.
        let upgrades = TaskTracker::new();
        let stop = stop.child_token();
        // The token is cancelled however this future ends, also when it is dropped.
        let _guard = stop.clone().drop_guard();
        let conn = Conn::new(self.state, breaker, stop.clone(), upgrades.clone());
        let served = builder.serve_connection_with_upgrades(
            TokioIo::new(io),
            service_fn(move |request| service::respond(conn.clone(), request)),
        );
        let mut served = pin!(served);
        let ended = tokio::select! {
            ended = &mut served => ended,
            () = stop.cancelled() => {
                // Requests in progress still get their response; HTTP/2 clients get GOAWAY.
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a sandbox connection ended early");
        }
        // `wait` returns only once the tracker is closed.
        upgrades.close();
        upgrades.wait().await;
    }
}

/// Runs a stand-in on an address until `shutdown` completes, and prints the address.
///
/// # Errors
///
/// The address cannot be bound; the message names the address and the reason.
pub async fn run(
    listen: SocketAddr,
    settings: Settings,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        // The text of the system does not say what the user can do.
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
    // With port 0 only the bound address shows the port, and scripts wait for this line.
    writeln!(io::stdout(), "sandbox listening on http://{address}")?;
    Sandbox::new(settings).serve(listener, shutdown).await;
    Ok(())
}
