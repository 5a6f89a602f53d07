//! Requests served by hyper: all HTTP/2, and HTTP/1 outside the fast path.
//!
//! Owns hyper's settings and its use. Invariants: each `Incoming` of hyper becomes
//! a `ClientBody`, which reports its end; a connection is parked only while hyper
//! holds nothing of it except unread bytes, which are put back.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Server, unreadable};
use crate::body::{ClientBody, ResponseBody};
use crate::config;
use crate::conn::escaped_io::{EscapedIo, NotedHeads};
use crate::conn::lifecycle::{Action, Lifecycle};
use crate::conn::rewind::Rewind;
use crate::conn::state::ConnCtx;
use crate::conn::tracked_body::TrackedBody;
use crate::conn::tracked_io::TrackedIo;
use crate::http::request_head::RequestHead;
use crate::observe::metrics::Unreadable::{self, TooLong};

/// Concurrent streams on one HTTP/2 connection: enough for a busy app that uses
/// a single connection (RFC 9113 §6.5.2 recommends at least 100).
const MAX_STREAMS: u32 = 250;
/// Bytes that a client may send before they are read, on a stream and on a
/// connection: they bound the memory that one connection takes.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// How often a silent HTTP/2 client is pinged, and how long it may take to
/// acknowledge.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// The smallest buffer that hyper accepts, in bytes; it panics below.
const MIN_BUFFER: usize = 8 * 1024;

/// hyper's settings for HTTP/1.
pub(super) fn http1(settings: &config::Server) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // Some clients and servers compare header names by case, against RFC 9110 §5.1.
        .preserve_header_case(true)
        // A client that has closed its sending side may still read the response.
        .half_close(true)
        // The `Date` of the upstream is passed on (rule: transparency).
        .auto_date_header(false)
        // `Lifecycle` has one timer for this and for the idle timeout.
        .header_read_timeout(None)
        .max_headers(settings.max_headers)
        .max_buf_size(settings.max_header_bytes.max(MIN_BUFFER))
        .timer(TokioTimer::new());
    builder
}

/// hyper's settings for HTTP/2.
pub(super) fn http2(settings: &config::Server) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .auto_date_header(false)
        .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Finds clients that disappeared without a FIN: frames of an idle HTTP/2
        // connection start no timeout.
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .timer(TokioTimer::new());
    builder
}

impl Server {
    /// Serves HTTP/1 requests until the connection ends. If it has been idle for a
    /// while, returns the stream, to be parked.
    pub(super) async fn serve_http1<IO>(
        &self,
        io: Rewind<IO>,
        conn: &ConnCtx,
        lifecycle: &mut Lifecycle<'_>,
    ) -> Option<Rewind<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let noted = Arc::new(NotedHeads::default());
        // If hyper cannot read it, its beginning says why.
        let opening = unreadable::opening(io.prefix());
        let settings = &self.shared.settings;
        let io = noting(TrackedIo::new(io, &conn.state), &noted, settings);
        let io = TokioIo::new(io);
        let service = self.service(conn, Some(noted), std::convert::identity);
        let connection = self.shared.http1.serve_connection(io, service);
        let mut connection = connection.with_upgrades();
        lifecycle.set_can_park(true);
        let end = drive(
            Pin::new(&mut connection),
            http1::UpgradeableConnection::graceful_shutdown,
            lifecycle,
        );
        let end = end.await;
        lifecycle.set_can_park(false);
        match end {
            End::Ended => None,
            End::Unreadable(reason) => {
                let reason = reason.unwrap_or(opening);
                self.shared.record_unreadable(reason, conn.peer);
                None
            }
            End::Parked => {
                // Nothing is lost with hyper's state (as of hyper 1.12). Every
                // response has ended, every body was read to its end, and hyper has
                // been polled since:
                // - it reads no body: that body would still be a `PendingBody`;
                // - it has no bytes to send: each poll ends by writing them, and
                //   what the stream does not take is reported as blocked;
                // - so with request and response at their end it became idle in
                //   that poll, or shut the stream down, and then it is not parked;
                // - an upgrade ends the connection in the poll that wrote its
                //   101, and no task waits for an upgrade that was declined.
                // So hyper waits for a head, and may have read a part of it.
                let parts = connection.into_parts()?;
                let (io, ahead) = parts.io.into_inner().into_parts();
                let mut io = io.into_inner();
                io.rewind(ahead);
                io.rewind(parts.read_buf);
                Some(io)
            }
        }
    }

    /// Serves HTTP/2 requests until the connection ends.
    pub(super) async fn serve_http2<IO>(
        &self,
        io: Rewind<IO>,
        conn: &ConnCtx,
        lifecycle: &mut Lifecycle<'_>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // From here on received bytes are frames, and begin no head.
        conn.state.on_http2();
        let io = TokioIo::new(TrackedIo::new(io, &conn.state));
        // HTTP/1 needs no tracking of bodies: there a blocked stream is an unread
        // response. HTTP/2 blocks each stream separately (RFC 9113 §5.2).
        let state = Arc::clone(&conn.state);
        let tracked = move |body| TrackedBody::new(body, Arc::clone(&state));
        let service = self.service(conn, None, tracked);
        let connection = pin!(self.shared.http2.serve_connection(io, service));
        let graceful_shutdown = http2::Connection::graceful_shutdown;
        drive(connection, graceful_shutdown, lifecycle).await;
    }

    /// The service that hyper calls for each request of one connection. `wrap`
    /// makes each response body the type that the protocol needs. HTTP/1 has
    /// `noted`.
    fn service<B, W>(
        &self,
        conn: &ConnCtx,
        noted: Option<Arc<NotedHeads>>,
        wrap: W,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<B>,
        Error = Infallible,
        Future: Send + 'static,
    >
    + Send
    + Unpin
    + 'static
    + use<B, W>
    where
        B: http_body::Body + 'static,
        W: Fn(ResponseBody) -> B + Clone + Send + Unpin + 'static,
    {
        let (proxy, conn) = (self.proxy.clone(), conn.clone());
        let body_timeout = self.shared.settings.body_timeout;
        service_fn(move |request: Request<Incoming>| {
            let now = Instant::now();
            conn.state.on_request_started(now);
            let (head, body) = read(request, noted.as_deref(), &conn, body_timeout);
            let response = proxy.clone().handle(head, body, conn.clone(), now);
            let (wrap, noted) = (wrap.clone(), noted.clone());
            // hyper drops this future if the client disconnects; the work of `handle` goes on
            // (rule: sent once).
            async move {
                let response = response.await?;
                if let (StatusCode::SWITCHING_PROTOCOLS, Some(noted)) = (response.status(), noted) {
                    noted.on_upgrade();
                }
                let head = response.head.into_parts();
                Ok(Response::from_parts(head, wrap(response.body)))
            }
        })
    }
}

/// The head and the body of a request, with what hyper does not keep of the head.
pub(super) fn read(
    request: Request<Incoming>,
    noted: Option<&NotedHeads>,
    conn: &ConnCtx,
    body_timeout: Duration,
) -> (Box<RequestHead>, ClientBody) {
    let (head, body) = request.into_parts();
    let body = ClientBody::new(body, &head, body_timeout, &conn.state);
    let mut head = Box::new(RequestHead::from(head));
    if let Some(notes) = noted.and_then(NotedHeads::take_next) {
        if let Some((target, case)) = notes.target {
            head.set_raw_target(target, case);
        }
        if let Some(conflict) = notes.conflict {
            head.extensions.insert(conflict);
        }
    }
    (head, body)
}

/// A stream for hyper that also notes what hyper does not keep of a head.
pub(super) fn noting<IO>(
    io: IO,
    noted: &Arc<NotedHeads>,
    settings: &config::Server,
) -> EscapedIo<IO> {
    // Above hyper's own limit (its buffer and half of it again), so that hyper refuses
    // a long head, as it would without `EscapedIo`.
    let max_head = 2 * settings.max_header_bytes.max(MIN_BUFFER);
    EscapedIo::new(io, noted, settings.max_headers, max_head)
}

/// How a connection stopped being served by hyper.
enum End {
    Ended,
    /// hyper could not read a request; the reason, if it is not in its beginning.
    Unreadable(Option<Unreadable>),
    /// The connection must be parked.
    Parked,
}

/// Polls a hyper connection to its end, and executes what `lifecycle` decides.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: impl Fn(Pin<&mut C>),
    lifecycle: &mut Lifecycle<'_>,
) -> End
where
    C: Future<Output = hyper::Result<()>>,
{
    loop {
        // First the connection: what it reads or writes moves the deadline.
        let event = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Ok(ended)),
            Poll::Pending => lifecycle.poll(cx).map(Err),
        });
        match event.await {
            Ok(Ok(())) | Err(Action::Cut) => return End::Ended,
            Ok(Err(error)) => {
                // The text of a hyper error can quote a request (rule: secrets); its
                // kind cannot.
                tracing::debug!(kind = kind(&error), "connection ended with an error");
                return match error.is_parse() {
                    true => End::Unreadable(error.is_parse_too_large().then_some(TooLong)),
                    false => End::Ended,
                };
            }
            Err(Action::Park) => return End::Parked,
            // HTTP/1: the response in flight is the last one. HTTP/2: GOAWAY. hyper is
            // polled on until all responses are delivered, or until a cut.
            Err(Action::Close) => graceful_shutdown(connection.as_mut()),
        }
    }
}

fn kind(error: &hyper::Error) -> &'static str {
    match error {
        error if error.is_parse() => "malformed",
        error if error.is_incomplete_message() => "incomplete",
        error if error.is_timeout() => "timeout",
        // A response body broke off: hyper calls that an error of its user.
        error if error.is_user() => "response",
        _ => "connection",
    }
}
