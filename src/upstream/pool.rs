//! The upstream connections of one worker.
//!
//! Owns idle HTTP/1.1 connections, hyper's and plain ones, and shared HTTP/2
//! ones. Invariant: a connection is used by whoever took it and nobody else
//! (HTTP/1.1), comes back only after a complete answer, and is looked at for
//! life before each use.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use hyper::client::conn::http2;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection::{Connection, Exclusive, MAX_STREAMS, Need, Shared, Speaker};
use crate::body::{Answering, RequestBody};
use crate::config;

/// Idle connections kept; more would only be held open for nothing.
const MAX_IDLE: usize = 512;

/// The upstream connections of one worker.
#[derive(Debug)]
pub(super) struct Pool {
    idle_timeout: Duration,
    response_timeout: Duration,
    /// Told when an idle connection has come to its end.
    ended: Arc<Ended>,
    /// Who is woken then: `ended`.
    waker: Waker,
    /// Open HTTP/1.1 connections, the idle ones included.
    open: Arc<AtomicUsize>,
    /// Touched by one worker and by scrapes, so the lock is hardly ever waited for.
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    /// The most recently used is last, and is taken first: the others age out.
    hyper: Vec<Idle>,
    plain: Vec<Idle>,
    shared: Vec<Shared>,
}

#[derive(Debug)]
struct Idle {
    connection: Exclusive,
    /// When it is too old to be used.
    until: Instant,
}

#[derive(Debug, Default)]
struct Ended(Notify);

impl Wake for Ended {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// The pools of all workers, for whoever counts their connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools(Arc<Mutex<Vec<Weak<Pool>>>>);

impl Pool {
    pub(super) fn new(settings: &config::Upstream) -> Self {
        let ended = Arc::new(Ended::default());
        Self {
            idle_timeout: settings.idle_timeout,
            response_timeout: settings.response_timeout,
            waker: Waker::from(Arc::clone(&ended)),
            ended,
            open: Arc::default(),
            connections: Mutex::default(),
        }
    }

    /// A connection, if there is one.
    pub(super) fn take(&self, need: Need, now: Instant) -> Option<Connection> {
        let mut connections = self.lock();
        if need != Need::Upgrade {
            connections.shared.retain(|shared| !shared.has_ended());
            let free = |shared: &&Shared| shared.streams() < MAX_STREAMS;
            if let Some(shared) = connections.shared.iter().find(free) {
                return Some(shared.stream());
            }
        }
        let idle = connections.idle(need == Need::Plain);
        while let Some(Idle { connection, until }) = idle.pop() {
            if connection.is_ready() && now < until {
                return Some(Connection::H1(connection));
            }
        }
        None
    }

    /// Counts a connection that was made for one call.
    pub(super) fn own(&self, speaker: Speaker) -> Connection {
        Connection::H1(Exclusive::new(speaker, self.response_timeout, &self.open))
    }

    /// Adds a shared connection, and takes a place on it.
    pub(super) fn share(&self, sender: http2::SendRequest<RequestBody>) -> Connection {
        let shared = Shared::new(sender);
        let stream = shared.stream();
        self.lock().shared.push(shared);
        stream
    }

    /// How many connections are open: idle, and in use.
    pub(super) fn census(&self) -> (usize, usize) {
        self.close_idle(Instant::now());
        let connections = self.lock();
        let idle = connections.hyper.len() + connections.plain.len();
        let shared = connections.shared.len();
        let is_busy = |shared: &&Shared| shared.streams() > 0;
        let busy = connections.shared.iter().filter(is_busy).count();
        let taken = self.open.load(Ordering::Relaxed).saturating_sub(idle);
        (idle + shared - busy, taken + busy)
    }

    /// Drops connections that are dead or have been idle too long.
    pub(super) fn close_idle(&self, now: Instant) {
        let mut connections = self.lock();
        let cx = &mut Context::from_waker(&self.waker);
        for is_plain in [false, true] {
            let idle = connections.idle(is_plain);
            idle.retain_mut(|idle| now < idle.until && !idle.connection.has_ended(cx));
        }
        connections.shared.retain(|shared| {
            let is_used = shared.streams() > 0 || now < shared.used() + self.idle_timeout;
            is_used && !shared.has_ended()
        });
    }

    /// Waits until an idle connection has come to its end.
    pub(super) async fn one_ended(&self) {
        self.ended.0.notified().await;
    }

    /// Keeps a connection for the next call, but no longer than the upstream
    /// has promised to.
    fn give_back(&self, mut connection: Exclusive, promised: Option<Duration>) {
        if connection.has_ended(&mut Context::from_waker(&self.waker)) {
            return;
        }
        let longest = self.idle_timeout;
        let until = Instant::now() + promised.map_or(longest, |promised| promised.min(longest));
        let mut connections = self.lock();
        let idle = connections.idle(connection.is_plain());
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, until });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    fn idle(&mut self, is_plain: bool) -> &mut Vec<Idle> {
        match is_plain {
            true => &mut self.plain,
            false => &mut self.hyper,
        }
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

/// A connection in use by an answer that is still being read.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Connection,
    pool: Arc<Pool>,
    /// How long the upstream keeps it open after this answer, if it said so.
    pub(super) promised: Option<Duration>,
    /// Tells a request that is streamed when this is over.
    _answering: Option<Answering>,
}

impl Lease {
    pub(super) fn new(
        connection: Connection,
        pool: &Arc<Pool>,
        answering: Option<Answering>,
    ) -> Self {
        Self {
            connection,
            pool: Arc::clone(pool),
            promised: None,
            _answering: answering,
        }
    }

    /// The answer is complete: somebody else may have the connection.
    pub(super) fn give_back(self) {
        if let Connection::H1(connection) = self.connection {
            self.pool.give_back(connection, self.promised);
        }
    }
}
