//! A connection on which HTTP is spoken.
//!
//! Owns how hyper is set up, and asking it to end or to let go. Invariants:
//! hyper's `Incoming` goes from here through the proxy's first lines into a
//! `ClientBody`, which tells when it was read to its end; hyper lets go of a
//! connection only while it holds nothing of it but bytes that can be read
//! again.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Front;
use crate::body::{ClientBody, ResponseBody};
use crate::config;
use crate::conn::rewind::Rewound;
use crate::conn::send_tracker::Offered;
use crate::conn::state::{Activity, Overdue};
use crate::conn::timer::{Bell, Ring};
use crate::conn::tracked_io::Watched;
use crate::conn::{FAREWELL, LINGER};

/// Streams at once on one HTTP/2 connection: room for a busy app behind one
/// connection (RFC 9113 §6.5.2 advises at least 100).
const MAX_STREAMS: u32 = 250;
/// Bytes a client may send ahead of us on a stream and on a connection: what
/// one connection can make us hold.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// A silent HTTP/2 client is pinged this often, and cut this long after.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// hyper's smallest buffer for a head.
const MIN_BUFFER: usize = 8 * 1024;

pub(super) fn http1(settings: &config::Server) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .preserve_header_case(true)
        // A client that has said all it has to say may still want the answer.
        .half_close(true)
        // The upstream's date is passed on; where it sends none, none is due.
        .auto_date_header(false)
        // Ours: one timer per connection, with idle time told from head time.
        .header_read_timeout(None)
        .max_headers(settings.max_headers)
        .max_buf_size(settings.max_header_bytes.max(MIN_BUFFER))
        .timer(TokioTimer::new());
    builder
}

pub(super) fn http2(settings: &config::Server) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .auto_date_header(false)
        .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .timer(TokioTimer::new());
    builder
}

/// What became of a connection.
enum Attended {
    Ended,
    /// It may come to rest.
    Idle,
}

/// What it is woken by.
enum Event {
    Ended(hyper::Result<()>),
    Rang(Ring),
}

impl Front {
    /// Speaks HTTP/1 until the connection ends, or has lain idle for a while:
    /// its stream, then.
    pub(super) async fn speak_http1<IO>(
        &self,
        io: Rewound<IO>,
        peer: Option<IpAddr>,
        activity: &Arc<Activity>,
        bell: &mut Bell<'_>,
    ) -> Option<Rewound<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(Watched::new(io, activity));
        let service = self.service(peer, activity, std::convert::identity);
        let connection = self.common.http1.serve_connection(io, service);
        let mut connection = connection.with_upgrades();
        let pinned = Pin::new(&mut connection);
        let end = http1::UpgradeableConnection::graceful_shutdown;
        match attend(pinned, end, activity, bell).await {
            Attended::Ended => None,
            Attended::Idle => {
                // What goes with hyper's state is nothing (read in hyper
                // 1.12). Activity says that every call was answered and every
                // body read to its end, and hyper has had its turn since:
                // - it reads no body, whose receiver would still be `Unread`;
                // - it has no bytes to send: a turn ends by writing them, and
                //   what does not go out is told as stalled;
                // - so with both messages at their end it became idle in that
                //   turn, or closed, which shuts the stream in that turn, too;
                // - an upgrade ends the connection with the turn that wrote
                //   its 101, and one that was declined nobody waits for.
                // It waits for a head, then, and may have read part of one.
                let parts = connection.into_parts()?;
                let mut io = parts.io.into_inner().into_inner();
                io.put_back(parts.read_buf);
                Some(io)
            }
        }
    }

    /// Speaks HTTP/2 until the connection ends.
    pub(super) async fn speak_http2<IO>(
        &self,
        io: Rewound<IO>,
        peer: Option<IpAddr>,
        activity: &Arc<Activity>,
        bell: &mut Bell<'_>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        activity.speaks_http2();
        let io = TokioIo::new(Watched::new(io, activity));
        let offering = Arc::clone(activity);
        let offered = move |body| Offered::new(body, Arc::clone(&offering));
        let service = self.service(peer, activity, offered);
        let connection = pin!(self.common.http2.serve_connection(io, service));
        let end = http2::Connection::graceful_shutdown;
        attend(connection, end, activity, bell).await;
    }

    /// Answers the requests of one connection, with bodies `as_spoken` on it.
    fn service<B, S>(
        &self,
        peer: Option<IpAddr>,
        activity: &Arc<Activity>,
        as_spoken: S,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<B>,
        Error = Infallible,
        Future: Send + 'static,
    >
    + Send
    + Unpin
    + 'static
    + use<B, S>
    where
        B: http_body::Body + 'static,
        S: Fn(ResponseBody) -> B + Clone + Send + Unpin + 'static,
    {
        let (proxy, activity) = (self.proxy.clone(), Arc::clone(activity));
        let body_timeout = self.common.settings.body_timeout;
        service_fn(move |request: Request<Incoming>| {
            let now = Instant::now();
            activity.began(now);
            let activity = Arc::clone(&activity);
            let (head, body) = request.into_parts();
            let body = ClientBody::new(body, &head, body_timeout, &activity);
            let answer = proxy
                .clone()
                .handle(Box::new(head), body, peer, activity, now);
            let as_spoken = as_spoken.clone();
            async move {
                let response = *answer.await?;
                let head = response.head.into_parts();
                Ok(Response::from_parts(head, as_spoken(response.body)))
            }
        })
    }
}

/// Attends to a connection, which `end` asks to end.
async fn attend<C>(
    mut connection: Pin<&mut C>,
    end: impl Fn(Pin<&mut C>),
    activity: &Activity,
    bell: &mut Bell<'_>,
) -> Attended
where
    C: Future<Output = hyper::Result<()>>,
{
    // When it was asked to end.
    let mut ending: Option<Instant> = None;
    // When an answer that nobody reads ends the others on the connection, too.
    let mut cut: Option<Instant> = None;
    loop {
        let event = poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            // After each turn of the connection its deadline may be closer.
            let deadline = match ending {
                _ if cut.is_some() => cut,
                Some(asked) => activity.farewell(asked, FAREWELL),
                None if bell.is_draining() => activity.deadline(),
                None => {
                    let rest = activity.rests_at().into_iter();
                    rest.chain(activity.deadline()).min()
                }
            };
            bell.poll(cx, deadline).map(Event::Rang)
        });
        match event.await {
            Event::Ended(ended) => {
                if let Err(error) = ended {
                    // hyper's own text can quote a request; its kind cannot.
                    tracing::debug!(kind = kind(&error), "connection ended with an error");
                }
                return Attended::Ended;
            }
            Event::Rang(Ring::Drain) => {
                let now = Instant::now();
                if activity.is_busy() || activity.is_http2() {
                    end(connection.as_mut());
                    ending = Some(now);
                } else {
                    bell.set(now + LINGER);
                }
            }
            Event::Rang(Ring::Timer) => {
                let now = Instant::now();
                let overdue = activity.overdue(now);
                let is_over = ending.map_or(overdue == Some(Overdue::Stuck), |asked| {
                    let until = activity.farewell(asked, FAREWELL);
                    until.is_some_and(|until| until <= now)
                });
                if is_over {
                    // Calls beside it have no part in that: the client is told
                    // to make no more here, and these have a while to end.
                    if cut.is_none() && activity.is_http2() && activity.is_busy() {
                        end(connection.as_mut());
                        ending = ending.or(Some(now));
                        cut = Some(now + FAREWELL);
                        continue;
                    }
                    bell.cuts(activity);
                    return Attended::Ended;
                }
                cut = None;
                if ending.is_some() {
                    continue;
                }
                let is_draining = bell.is_draining();
                let lingered = is_draining && (!activity.is_busy() || activity.is_http2());
                if overdue == Some(Overdue::Idle) || lingered {
                    end(connection.as_mut());
                    ending = Some(now);
                } else if !is_draining && activity.rests_at().is_some_and(|at| at <= now) {
                    return Attended::Idle;
                }
            }
        }
    }
}

fn kind(error: &hyper::Error) -> &'static str {
    match error {
        error if error.is_parse() => "malformed",
        error if error.is_incomplete_message() => "incomplete",
        error if error.is_timeout() => "timeout",
        error if error.is_user() => "answer",
        _ => "connection",
    }
}
