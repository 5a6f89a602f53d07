//! The upstream connections of one worker.
//!
//! Owns idle HTTP/1.1 connections and shared HTTP/2 ones. Invariant: a
//! connection is used by whoever took it and nobody else (HTTP/1.1), comes back
//! only after a complete answer, and is looked at for life before each use.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::time::{Instant, Sleep};

use super::failure::Failure;
use super::patience::Patience;
use crate::body::RequestBody;
use crate::config;

/// Idle connections kept; more would only be held open for nothing.
const MAX_IDLE: usize = 512;

/// Calls at once on one HTTP/2 connection before another is opened: the
/// usual `SETTINGS_MAX_CONCURRENT_STREAMS` (RFC 9113 §6.5.2 advises no less).
pub(super) const MAX_STREAMS: usize = 100;

/// The upstream connections of one worker.
#[derive(Debug)]
pub(super) struct Pool {
    idle_timeout: Duration,
    response_timeout: Duration,
    /// Open HTTP/1.1 connections, the idle ones included.
    open: Arc<AtomicUsize>,
    /// Touched by one worker and by scrapes, so the lock is hardly ever waited for.
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    /// The most recently used is last, and is taken first: the others age out.
    idle: Vec<Idle>,
    shared: Vec<Shared>,
}

#[derive(Debug)]
struct Idle {
    connection: Exclusive,
    since: Instant,
}

#[derive(Debug, Clone)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
    used: Arc<Mutex<Instant>>,
}

/// A connection that one call at a time may have.
#[derive(Debug)]
pub(super) struct Exclusive {
    sender: http1::SendRequest<RequestBody>,
    /// Rings no later than the answer to its next call would be too late.
    timer: Pin<Box<Sleep>>,
    open: Arc<AtomicUsize>,
}

/// A connection taken for one call.
#[derive(Debug)]
pub(super) enum Connection {
    H1(Exclusive),
    H2(Stream),
}

/// A place on a shared connection.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Shared,
}

/// The pools of all workers, for whoever counts their connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools(Arc<Mutex<Vec<Weak<Pool>>>>);

/// Why a request brought no answer on a connection.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The connection was dead: here is the request, not a byte of it written.
    Untouched(Box<Request<RequestBody>>),
    /// It failed after it may have been written.
    Failed(Failure),
}

impl Pool {
    pub(super) fn new(settings: &config::Upstream) -> Self {
        Self {
            idle_timeout: settings.idle_timeout,
            response_timeout: settings.response_timeout,
            open: Arc::default(),
            connections: Mutex::default(),
        }
    }

    /// A live connection, if there is one. Upgrades need HTTP/1.1.
    pub(super) fn take(&self, upgrade: bool, now: Instant) -> Option<Connection> {
        let mut connections = self.lock();
        if !upgrade {
            connections
                .shared
                .retain(|shared| !shared.sender.is_closed());
            let free = |shared: &&Shared| shared.streams.load(Ordering::Relaxed) < MAX_STREAMS;
            if let Some(shared) = connections.shared.iter().find(free) {
                return Some(Connection::H2(Stream::new(shared.clone())));
            }
        }
        while let Some(idle) = connections.idle.pop() {
            // Not ready: its last request is still being written, or it is closing.
            if idle.connection.sender.is_ready() && now < idle.since + self.idle_timeout {
                return Some(Connection::H1(idle.connection));
            }
        }
        None
    }

    /// Counts a connection that was made for one call.
    pub(super) fn own(&self, sender: http1::SendRequest<RequestBody>) -> Connection {
        self.open.fetch_add(1, Ordering::Relaxed);
        Connection::H1(Exclusive {
            sender,
            timer: Box::pin(tokio::time::sleep(self.response_timeout)),
            open: Arc::clone(&self.open),
        })
    }

    /// How many connections are open: idle, and in use.
    pub(super) fn census(&self) -> (usize, usize) {
        let connections = self.lock();
        let idle = connections.idle.len();
        let shared = connections.shared.len();
        let streams = |shared: &&Shared| shared.streams.load(Ordering::Relaxed) > 0;
        let busy = connections.shared.iter().filter(streams).count();
        let taken = self.open.load(Ordering::Relaxed).saturating_sub(idle);
        (idle + shared - busy, taken + busy)
    }

    /// Adds a shared connection, and takes a place on it.
    pub(super) fn share(&self, sender: http2::SendRequest<RequestBody>) -> Connection {
        let shared = Shared {
            sender,
            streams: Arc::new(AtomicUsize::new(0)),
            used: Arc::new(Mutex::new(Instant::now())),
        };
        self.lock().shared.push(shared.clone());
        Connection::H2(Stream::new(shared))
    }

    /// Drops connections that are dead or have been idle too long.
    pub(super) fn close_idle(&self, now: Instant) {
        let mut connections = self.lock();
        let timeout = self.idle_timeout;
        connections
            .idle
            .retain(|idle| !idle.connection.sender.is_closed() && now < idle.since + timeout);
        connections.shared.retain(|shared| {
            let used = *shared.used.lock().unwrap_or_else(PoisonError::into_inner);
            let busy = shared.streams.load(Ordering::Relaxed) > 0;
            !shared.sender.is_closed() && (busy || now < used + timeout)
        });
    }

    fn give_back(&self, connection: Exclusive) {
        let mut connections = self.lock();
        if !connection.sender.is_closed() && connections.idle.len() < MAX_IDLE {
            connections.idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pools {
    /// Counts this pool's connections with the others' for as long as it lives.
    pub(super) fn add(&self, pool: Pool) -> Arc<Pool> {
        let pool = Arc::new(pool);
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// How many connections are open in all: idle, and in use.
    pub(super) fn census(&self) -> (usize, usize) {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pools = pools.iter().filter_map(Weak::upgrade);
        pools.fold((0, 0), |(idle, active), pool| {
            let more = pool.census();
            (idle + more.0, active + more.1)
        })
    }
}

impl Connection {
    pub(super) fn is_h2(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// Sends a request and waits for the head of the answer; `None` if that
    /// took too long.
    pub(super) async fn send(
        &mut self,
        request: &mut Request<RequestBody>,
        patience: &Patience,
    ) -> Option<Result<Response<Incoming>, Unsent>> {
        let request = std::mem::take(request);
        let sent = match self {
            Self::H1(Exclusive { sender, timer, .. }) => {
                let answer = pin!(sender.try_send_request(request));
                patience.wait(answer, timer.as_mut()).await?
            }
            Self::H2(stream) => {
                let mut timer = Box::pin(tokio::time::sleep_until(patience.end()));
                let answer = pin!(stream.shared.sender.try_send_request(request));
                patience.wait(answer, timer.as_mut()).await?
            }
        };
        Some(sent.map_err(|mut error| match error.take_message() {
            Some(request) => Unsent::Untouched(Box::new(request)),
            None => Unsent::Failed(Failure::from(error.error())),
        }))
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stream {
    fn new(shared: Shared) -> Self {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Self { shared }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
        *self
            .shared
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A connection in use by an answer that is still being read.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Connection,
    pool: Arc<Pool>,
}

impl Lease {
    pub(super) fn new(connection: Connection, pool: &Arc<Pool>) -> Self {
        Self {
            connection,
            pool: Arc::clone(pool),
        }
    }

    /// The answer is complete: somebody else may have the connection.
    pub(super) fn give_back(self) {
        if let Connection::H1(connection) = self.connection {
            self.pool.give_back(connection);
        }
    }
}
