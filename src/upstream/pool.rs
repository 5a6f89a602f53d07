//! The upstream connections of one worker.
//!
//! Owns idle HTTP/1.1 connections, hyper's and plain ones, and shared HTTP/2
//! ones. Invariant: a connection is used by whoever took it and nobody else
//! (HTTP/1.1), comes back only after a complete answer, and is looked at for
//! life before each use.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, response};
use http_body::Frame;
use hyper::body::{Body as _, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::failure::Failure;
use super::patience::Patience;
use super::plain::{Broken, Wire};
use crate::body::RequestBody;
use crate::config;
use crate::hop;
use crate::plain::{Answer, Framing};

/// Idle connections kept; more would only be held open for nothing.
const MAX_IDLE: usize = 512;

/// Calls at once on one HTTP/2 connection before another is opened: the
/// usual `SETTINGS_MAX_CONCURRENT_STREAMS` (RFC 9113 §6.5.2 advises no less).
pub(super) const MAX_STREAMS: usize = 100;

/// What a call asks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing beyond what plain HTTP/1.1 can do.
    Plain,
    /// Bodies that stream.
    Streams,
    /// That it can be upgraded: HTTP/1.1 by hyper.
    Upgrade,
}

/// The upstream connections of one worker.
#[derive(Debug)]
pub(super) struct Pool {
    idle_timeout: Duration,
    response_timeout: Duration,
    /// Told when an idle plain connection has come to its end: hyper's look
    /// after themselves.
    ended: Arc<Ended>,
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

#[derive(Debug, Clone)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
    used: Arc<Mutex<Instant>>,
}

/// A connection that one call at a time may have.
#[derive(Debug)]
pub(super) struct Exclusive {
    speaker: Speaker,
    /// Rings no later than the answer to its next call would be too late.
    timer: Pin<Box<Sleep>>,
    open: Arc<AtomicUsize>,
}

/// Who speaks HTTP/1.1 on it.
#[derive(Debug)]
enum Speaker {
    Hyper(http1::SendRequest<RequestBody>),
    /// Boxed, as it goes from hand to hand.
    Plain(Box<Wire>),
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

/// The head of an answer, and where its body comes from.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) head: response::Parts,
    pub(super) source: Source,
    /// The connection itself, where the upstream agreed to an upgrade.
    pub(super) upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// Where the body of an answer comes from.
#[derive(Debug)]
pub(super) enum Source {
    Hyper(Incoming),
    /// From the connection that is leased for it.
    Plain(Framing),
}

/// Why a request brought no answer on a connection.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The connection was dead: the request is where it was, not a byte of it
    /// written.
    Untouched,
    /// It failed after it may have been written.
    Failed(Failure),
}

impl Pool {
    pub(super) fn new(settings: &config::Upstream) -> Self {
        Self {
            idle_timeout: settings.idle_timeout,
            response_timeout: settings.response_timeout,
            ended: Arc::default(),
            open: Arc::default(),
            connections: Mutex::default(),
        }
    }

    /// A connection, if there is one.
    pub(super) fn take(&self, need: Need, now: Instant) -> Option<Connection> {
        let mut connections = self.lock();
        if need != Need::Upgrade {
            connections
                .shared
                .retain(|shared| !shared.sender.is_closed());
            let free = |shared: &&Shared| shared.streams.load(Ordering::Relaxed) < MAX_STREAMS;
            if let Some(shared) = connections.shared.iter().find(free) {
                return Some(Connection::H2(Stream::new(shared.clone())));
            }
        }
        while let Some(idle) = connections.idle(need).pop() {
            // Not ready: its last request is still being written, or it is closing.
            if idle.connection.is_ready() && now < idle.until {
                return Some(Connection::H1(idle.connection));
            }
        }
        None
    }

    /// Counts a connection that was made for one call, on which hyper speaks.
    pub(super) fn own(&self, sender: http1::SendRequest<RequestBody>) -> Connection {
        self.exclusive(Speaker::Hyper(sender))
    }

    /// The same for plain calls.
    pub(super) fn own_plain(&self, wire: Wire) -> Connection {
        self.exclusive(Speaker::Plain(Box::new(wire)))
    }

    fn exclusive(&self, speaker: Speaker) -> Connection {
        self.open.fetch_add(1, Ordering::Relaxed);
        Connection::H1(Exclusive {
            speaker,
            timer: Box::pin(tokio::time::sleep(self.response_timeout)),
            open: Arc::clone(&self.open),
        })
    }

    /// How many connections are open: idle, and in use.
    pub(super) fn census(&self) -> (usize, usize) {
        let mut connections = self.lock();
        connections.drop_ended(&self.ended);
        let idle = connections.hyper.len() + connections.plain.len();
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
        connections.drop_ended(&self.ended);
        connections.hyper.retain(|idle| now < idle.until);
        connections.plain.retain(|idle| now < idle.until);
        connections.shared.retain(|shared| {
            let used = *shared.used.lock().unwrap_or_else(PoisonError::into_inner);
            let busy = shared.streams.load(Ordering::Relaxed) > 0;
            !shared.sender.is_closed() && (busy || now < used + timeout)
        });
    }

    /// Waits until an idle connection has come to its end.
    pub(super) async fn one_ended(&self) {
        self.ended.0.notified().await;
    }

    /// Keeps a connection for the next call, but no longer than the upstream
    /// has promised to.
    fn give_back(&self, mut connection: Exclusive, promised: Option<Duration>) {
        if connection.has_ended(&self.ended) {
            return;
        }
        let longest = self.idle_timeout;
        let until = Instant::now() + promised.map_or(longest, |promised| promised.min(longest));
        let mut connections = self.lock();
        let idle = match &connection.speaker {
            Speaker::Hyper(_) => &mut connections.hyper,
            Speaker::Plain(_) => &mut connections.plain,
        };
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
    fn idle(&mut self, need: Need) -> &mut Vec<Idle> {
        match need {
            Need::Plain => &mut self.plain,
            Need::Streams | Need::Upgrade => &mut self.hyper,
        }
    }

    fn drop_ended(&mut self, ended: &Arc<Ended>) {
        for idle in [&mut self.hyper, &mut self.plain] {
            idle.retain_mut(|idle| !idle.connection.has_ended(ended));
        }
    }
}

impl Wake for Ended {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
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
    ) -> Option<Result<Received, Unsent>> {
        let sent = match self {
            Self::H1(Exclusive { speaker, timer, .. }) => match speaker {
                Speaker::Plain(wire) => {
                    let answer = pin!(wire.call(request));
                    let answer = patience.wait(answer, timer.as_mut()).await?;
                    return Some(answer.map(Received::from).map_err(Unsent::from));
                }
                Speaker::Hyper(sender) => {
                    // Boxed, or plain calls would carry the room for it.
                    let answer = Box::pin(sender.try_send_request(std::mem::take(request)));
                    patience.wait(pin!(answer), timer.as_mut()).await?
                }
            },
            Self::H2(stream) => {
                let sender = &mut stream.shared.sender;
                let answer = Box::pin(sender.try_send_request(std::mem::take(request)));
                let mut timer = Box::pin(tokio::time::sleep_until(patience.end()));
                patience.wait(pin!(answer), timer.as_mut()).await?
            }
        };
        let sent = sent.map(Received::from);
        Some(sent.map_err(|mut error| match error.take_message() {
            Some(untouched) => {
                *request = untouched;
                Unsent::Untouched
            }
            None => Unsent::Failed(Failure::from(error.error())),
        }))
    }
}

impl Exclusive {
    /// Whether it takes a call. A plain one finds that out when it does.
    fn is_ready(&self) -> bool {
        match &self.speaker {
            Speaker::Hyper(sender) => sender.is_ready(),
            Speaker::Plain(_) => true,
        }
    }

    /// Whether no call can be made on it any more; if not, `ended` is told of
    /// its end.
    fn has_ended(&mut self, ended: &Arc<Ended>) -> bool {
        match &mut self.speaker {
            Speaker::Hyper(sender) => sender.is_closed(),
            Speaker::Plain(wire) => {
                let waker = Waker::from(Arc::clone(ended));
                !wire.may_be_used(&mut Context::from_waker(&waker))
            }
        }
    }
}

impl From<Response<Incoming>> for Received {
    fn from(mut response: Response<Incoming>) -> Self {
        let upgrade = (response.status() == http::StatusCode::SWITCHING_PROTOCOLS)
            .then(|| hyper::upgrade::on(&mut response));
        let (mut head, incoming) = response.into_parts();
        if hop::has(&head.headers, "transfer-encoding") {
            // Whoever believed it would read another body (RFC 9112 §6.3).
            head.headers.remove(CONTENT_LENGTH);
        }
        Self {
            head,
            source: Source::Hyper(incoming),
            upgrade,
        }
    }
}

impl From<Answer> for Received {
    fn from(answer: Answer) -> Self {
        Self {
            head: answer.head,
            source: Source::Plain(answer.framing),
            upgrade: None,
        }
    }
}

impl From<Broken> for Unsent {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Untouched => Self::Untouched,
            Broken::Failed(failure) => Self::Failed(failure),
        }
    }
}

impl Source {
    /// The next piece, on the connection of this lease.
    pub(super) fn poll_frame(
        &mut self,
        lease: Option<&mut Lease>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        match self {
            Self::Hyper(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(drop))),
            Self::Plain(framing) => match lease.and_then(Lease::wire) {
                Some(wire) => wire.poll_body(framing, cx),
                // Given back at the body's end, or closed when it broke off.
                None => Poll::Ready(None),
            },
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Plain(framing) => framing.has_ended(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Plain(Framing::Ended) => SizeHint::with_exact(0),
            Self::Plain(Framing::Length(left)) => SizeHint::with_exact(*left),
            Self::Plain(Framing::Chunked(_) | Framing::Close) => SizeHint::default(),
        }
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
    /// How long the upstream keeps it open after this answer, if it said so.
    promised: Option<Duration>,
}

impl Lease {
    pub(super) fn new(connection: Connection, pool: &Arc<Pool>) -> Self {
        Self {
            connection,
            pool: Arc::clone(pool),
            promised: None,
        }
    }

    /// The upstream will keep the connection open for that long.
    pub(super) fn promised(&mut self, promised: Option<Duration>) {
        self.promised = promised;
    }

    fn wire(&mut self) -> Option<&mut Wire> {
        match &mut self.connection {
            Connection::H1(Exclusive {
                speaker: Speaker::Plain(wire),
                ..
            }) => Some(wire),
            Connection::H1(_) | Connection::H2(_) => None,
        }
    }

    /// The answer is complete: somebody else may have the connection.
    pub(super) fn give_back(self) {
        if let Connection::H1(connection) = self.connection {
            self.pool.give_back(connection, self.promised);
        }
    }
}
