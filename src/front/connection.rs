//! One connection, from its first byte to its polite end.
//!
//! Invariant: hyper's `Incoming` is seen here and in the proxy's first lines
//! only; errors of a connection end that connection and nothing else.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::activity::{Activity, Overdue};
use super::{Front, LINGER};
use crate::config;

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
/// How long a connection that was asked to end may take over it.
const FAREWELL: Duration = Duration::from_secs(5);
/// "No deadline": the timer is looked at again by then.
const FAR: Duration = Duration::from_secs(3600);

impl Front {
    /// Serves one connection over any stream of bytes, which begins with what
    /// a trusted proxy may say of its client.
    pub(crate) async fn serve<IO>(&self, io: IO, peer: Option<SocketAddr>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Some((io, peer)) = self.introduce(io, peer).await {
            self.serve_introduced(io, peer).await;
        }
    }

    /// Serves one connection of which it is known who is on it.
    pub(super) async fn serve_introduced<IO>(&self, io: IO, peer: Option<IpAddr>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.common.metrics.connections.inc();
        let _open = Counted(self);
        let activity = Arc::new(Activity::new(&self.common.settings));
        let io = TokioIo::new(Watched {
            io,
            activity: Arc::clone(&activity),
            first: true,
        });
        let service = {
            let (proxy, activity) = (self.proxy.clone(), Arc::clone(&activity));
            service_fn(move |request| {
                let now = Instant::now();
                activity.began(now);
                proxy
                    .clone()
                    .handle(request, peer, Arc::clone(&activity), now)
            })
        };
        let builder = builder(&self.common.settings);
        let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
        let mut timer = pin!(tokio::time::sleep_until(Instant::now() + FAR));
        let mut drain = pin!(self.common.drain.begun());
        let mut draining = false;
        // Who is woken by the timer and the drain. Both are asked to wake once,
        // not in every turn of a busy connection.
        let mut waker: Option<Waker> = None;
        let mut armed = false;
        // When it was asked to end.
        let mut ending: Option<Instant> = None;
        loop {
            let event = poll_fn(|cx| {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(ended));
                }
                if !waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
                    waker = Some(cx.waker().clone());
                    armed = false;
                    if !draining && drain.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Event::Drain);
                    }
                }
                if !draining && self.common.drain.has_begun() {
                    return Poll::Ready(Event::Drain);
                }
                // After each turn of the connection its deadline may be closer.
                let deadline = match ending {
                    Some(asked) => activity.farewell(asked, FAREWELL),
                    None => activity.deadline(),
                };
                if let Some(deadline) = deadline.filter(|deadline| *deadline < timer.deadline()) {
                    timer.as_mut().reset(deadline);
                    armed = false;
                }
                if armed && !timer.is_elapsed() {
                    return Poll::Pending;
                }
                armed = true;
                timer.as_mut().poll(cx).map(|()| Event::Timer)
            });
            match event.await {
                Event::Ended(ended) => {
                    if let Err(error) = ended {
                        // hyper's own text can quote a request; its kind cannot.
                        tracing::debug!(kind = kind(&*error), "connection ended with an error");
                    }
                    return;
                }
                Event::Drain => {
                    draining = true;
                    if activity.is_busy() || activity.is_http2() {
                        connection.as_mut().graceful_shutdown();
                        ending = Some(Instant::now());
                    } else {
                        timer.as_mut().reset(Instant::now() + LINGER);
                        armed = false;
                    }
                }
                Event::Timer => {
                    let now = Instant::now();
                    timer.as_mut().reset(now + FAR);
                    armed = false;
                    if let Some(asked) = ending {
                        if activity
                            .farewell(asked, FAREWELL)
                            .is_some_and(|end| end <= now)
                        {
                            return;
                        }
                        continue;
                    }
                    let overdue = activity.overdue(now);
                    if overdue == Some(Overdue::Stuck) {
                        return;
                    }
                    if overdue == Some(Overdue::Idle) || (draining && !activity.is_busy()) {
                        connection.as_mut().graceful_shutdown();
                        ending = Some(now);
                    }
                }
            }
        }
    }
}

/// What a connection is woken by.
enum Event<T> {
    Ended(T),
    Drain,
    Timer,
}

struct Counted<'f>(&'f Front);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.common.metrics.connections.dec();
    }
}

fn builder(settings: &config::Server) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
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
        .http2()
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

fn kind(error: &(dyn std::error::Error + 'static)) -> &'static str {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_parse() => "malformed",
        Some(error) if error.is_incomplete_message() => "incomplete",
        Some(error) if error.is_timeout() => "timeout",
        Some(error) if error.is_user() => "answer",
        _ => "connection",
    }
}

/// A stream that tells of its comings and goings.
struct Watched<IO> {
    io: IO,
    activity: Arc<Activity>,
    first: bool,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let received = &buf.filled()[before..];
        if !received.is_empty() {
            // No method begins like the preface of HTTP/2 (RFC 9113 §3.4).
            let preface = std::mem::take(&mut self.first) && received.starts_with(b"PRI");
            self.activity.received(preface);
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> Watched<IO> {
    fn tell<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.activity.sent(polled.is_ready());
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.tell(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.tell(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.tell(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
