//! The upstream connections of one worker.
//!
//! Owns idle HTTP/1.1 connections, of hyper and of the fast path, and shared
//! HTTP/2 connections. Invariants: an HTTP/1.1 connection carries one request at a
//! time, returns to the pool only after a complete response, and is used again
//! only if it has not ended. All workers together keep at most `upstream.max_idle`
//! idle HTTP/1.1 connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use hyper::client::conn::http2;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::age::{Ages, Begun};
use super::connection::{Connection, Http1Codec, Http1Connection, Http2Connection};
use super::idle::{Idle, IdleConnections, IdleCount};
use super::liveness::Liveness;
use super::request::RequestKind;
use crate::body::{RequestBody, ResponsePending};
use crate::config;

/// The upstream connections of one worker.
#[derive(Debug)]
pub(super) struct Pool {
    idle_timeout: Duration,
    /// The bound on the idle connections of all workers.
    max_idle: usize,
    response_timeout: Duration,
    ages: Ages,
    /// Notified when an idle connection has ended.
    ended: Arc<Ended>,
    /// Wakes `ended`.
    waker: Waker,
    /// Open HTTP/1.1 connections, the idle ones included.
    open: Arc<AtomicUsize>,
    /// This pool and those of the other workers.
    all: Pools,
    /// Used by one worker and by metric scrapes, so the lock is nearly always free.
    connections: Mutex<Connections>,
}

#[derive(Debug)]
struct Connections {
    hyper: IdleConnections,
    fast: IdleConnections,
    http2: Vec<Http2Connection>,
    /// The number of streams on each HTTP/2 connection that takes no further ones. It
    /// closes with the last of them, because only they hold it.
    closing: Vec<Arc<AtomicUsize>>,
}

#[derive(Debug, Default)]
struct Ended(Notify);

impl Wake for Ended {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// The pools of all workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools {
    pools: Arc<Mutex<Vec<Weak<Pool>>>>,
    idle: IdleCount,
}

impl Pool {
    fn new(settings: &config::Upstream, ages: Ages, all: &Pools) -> Self {
        let ended = Arc::new(Ended::default());
        Self {
            idle_timeout: settings.idle_timeout,
            max_idle: settings.max_idle,
            response_timeout: settings.response_timeout,
            ages,
            waker: Waker::from(Arc::clone(&ended)),
            ended,
            open: Arc::default(),
            all: all.clone(),
            connections: Mutex::new(Connections {
                hyper: IdleConnections::new(&all.idle),
                fast: IdleConnections::new(&all.idle),
                http2: Vec::new(),
                closing: Vec::new(),
            }),
        }
    }

    /// A connection for a request of this kind, if there is one.
    pub(super) fn take(&self, kind: RequestKind, now: Instant) -> Option<Connection> {
        let mut connections = self.lock();
        if kind != RequestKind::Upgrade {
            // One HTTP/2 connection serves all kinds but upgrades (RFC 9113 §8.6), so it
            // is preferred to idle HTTP/1.1 connections.
            connections.retire(&self.ages, now);
            let is_free = |shared: &&Http2Connection| shared.is_ready(now);
            if let Some(shared) = connections.http2.iter().find(is_free) {
                return Some(shared.stream());
            }
        }
        let idle = connections.idle(kind == RequestKind::Fast);
        // Others that are closing or too old are dropped.
        while let Some(idle) = idle.pop_newest() {
            let Idle {
                connection, until, ..
            } = idle;
            let is_too_old = self.ages.is_too_old(&connection.age, now);
            if connection.is_ready() && now < until && !is_too_old {
                return Some(Connection::Http1(connection));
            }
        }
        None
    }

    /// Counts a new HTTP/1.1 connection. It enters the pool after its response.
    pub(super) fn add_http1(&self, codec: Http1Codec, begun: Begun) -> Connection {
        let age = self.ages.established(begun);
        let connection = Http1Connection::new(codec, age, self.response_timeout, &self.open);
        Connection::Http1(connection)
    }

    /// Adds a new HTTP/2 connection and opens a stream on it.
    pub(super) fn add_http2(
        &self,
        sender: http2::SendRequest<RequestBody>,
        begun: Begun,
        liveness: Arc<Liveness>,
    ) -> Connection {
        let age = self.ages.established(begun);
        let shared = Http2Connection::new(sender, age, liveness);
        let stream = shared.stream();
        self.lock().http2.push(shared);
        stream
    }

    /// How many connections are open: idle, and in use. First closes those that
    /// take no further request.
    pub(super) fn count(&self) -> (usize, usize) {
        self.close_idle(Instant::now());
        let connections = self.lock();
        let idle = connections.hyper.len() + connections.fast.len();
        let shared = connections.http2.len();
        let is_busy = |shared: &&Http2Connection| shared.streams() > 0;
        let busy = connections.http2.iter().filter(is_busy).count();
        // `open` counts HTTP/1.1 connections only. It is not under the lock and may be
        // older than `idle`, so the difference must not fall below zero.
        let taken = self.open.load(Ordering::Relaxed).saturating_sub(idle);
        (
            idle + shared - busy,
            taken + busy + connections.closing.len(),
        )
    }

    /// Drops connections that have ended, are too old, or have been idle too long.
    pub(super) fn close_idle(&self, now: Instant) {
        let mut connections = self.lock();
        let cx = &mut Context::from_waker(&self.waker);
        for is_fast in [false, true] {
            let idle = connections.idle(is_fast);
            idle.retain(|idle| {
                let Idle {
                    connection, until, ..
                } = idle;
                let is_too_old = self.ages.is_too_old(&connection.age, now);
                now < *until && !is_too_old && !connection.has_ended(cx)
            });
        }
        connections.retire(&self.ages, now);
        connections
            .http2
            .retain(|shared| shared.streams() > 0 || now < shared.last_used() + self.idle_timeout);
    }

    /// Waits until an idle connection has ended.
    pub(super) async fn idle_ended(&self) {
        self.ended.0.notified().await;
    }

    /// Keeps a connection for the next request, but no longer than the upstream
    /// keeps it open according to its `Keep-Alive` header.
    fn put_idle(&self, mut connection: Http1Connection, keep_alive: Option<Duration>) {
        // Polling registers the waker, so an idle connection that the upstream
        // closes is noticed and closed at once.
        let now = Instant::now();
        if connection.has_ended(&mut Context::from_waker(&self.waker))
            || self.ages.is_too_old(&connection.age, now)
        {
            return;
        }
        let longest = self.idle_timeout;
        let until = now + keep_alive.map_or(longest, |keep_alive| keep_alive.min(longest));
        let is_fast = connection.is_fast();
        self.lock().idle(is_fast).push(Idle {
            connection,
            since: now,
            until,
        });
        if self.all.idle.load(Ordering::Relaxed) > self.max_idle {
            self.all.close_oldest();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// Lets go of HTTP/2 connections that take no further request.
    fn retire(&mut self, ages: &Ages, now: Instant) {
        let takes_none =
            |shared: &mut Http2Connection| shared.has_ended() || ages.is_too_old(&shared.age, now);
        let retired = self.http2.extract_if(.., takes_none);
        self.closing
            .extend(retired.map(|shared| shared.stream_count()));
        let is_open = |streams: &Arc<AtomicUsize>| streams.load(Ordering::Relaxed) > 0;
        self.closing.retain(is_open);
    }

    fn idle(&mut self, is_fast: bool) -> &mut IdleConnections {
        match is_fast {
            true => &mut self.fast,
            false => &mut self.hyper,
        }
    }

    /// Those whose oldest connection has been idle longest, and since when.
    fn oldest(&mut self) -> Option<(Instant, &mut IdleConnections)> {
        [&mut self.hyper, &mut self.fast]
            .into_iter()
            .filter_map(|idle| Some((idle.oldest()?, idle)))
            .min_by_key(|(since, _)| *since)
    }
}

impl Pools {
    /// Adds the pool of another worker.
    pub(super) fn add(&self, settings: &config::Upstream, ages: Ages) -> Arc<Pool> {
        let pool = Arc::new(Pool::new(settings, ages, self));
        self.lock().push(Arc::downgrade(&pool));
        pool
    }

    /// How many connections are open in all: idle, and in use.
    pub(super) fn count(&self) -> (usize, usize) {
        let pools = self.lock();
        let pools = pools.iter().filter_map(Weak::upgrade);
        pools.fold((0, 0), |(idle, active), pool| {
            let more = pool.count();
            (idle + more.0, active + more.1)
        })
    }

    /// Closes the idle connections that take no further request.
    pub(super) fn close_idle(&self) {
        let pools = self.lock();
        let pools = pools.iter().filter_map(Weak::upgrade);
        pools.for_each(|pool| pool.close_idle(Instant::now()));
    }

    /// Closes the connection that has been idle longest, of whichever worker.
    fn close_oldest(&self) {
        let pools = self.lock();
        let pools = pools.iter().filter_map(Weak::upgrade);
        let oldest = pools
            .filter_map(|pool| {
                let (since, _) = pool.lock().oldest()?;
                Some((since, pool))
            })
            .min_by_key(|(since, _)| *since);
        let closed = oldest.and_then(|(_, pool)| pool.lock().oldest()?.1.pop_oldest());
        drop(closed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is in use until its response was read.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Connection,
    pool: Arc<Pool>,
    /// How long the upstream keeps it open after this response, if it said so.
    pub(super) keep_alive: Option<Duration>,
    /// Another request may follow this response.
    pub(super) is_reusable: bool,
    /// Notifies a streamed request body when its response is over.
    _response_pending: Option<ResponsePending>,
}

impl Lease {
    pub(super) fn new(
        connection: Connection,
        pool: &Arc<Pool>,
        response_pending: Option<ResponsePending>,
    ) -> Self {
        Self {
            connection,
            pool: Arc::clone(pool),
            keep_alive: None,
            is_reusable: true,
            _response_pending: response_pending,
        }
    }

    /// The response is complete: another request may have the connection.
    pub(super) fn release(self) {
        // An HTTP/2 connection never left the pool: dropping the stream is enough.
        if let (Connection::Http1(connection), true) = (self.connection, self.is_reusable) {
            self.pool.put_idle(connection, self.keep_alive);
        }
    }
}
