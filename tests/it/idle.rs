//! Idle client connections hold no HTTP state, and the client does not notice.
//!
//! Whether a connection holds HTTP state is seen from its stream: without it, reads have a small buffer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Instant;
use wawp_gateway::gateway::Gateway;

use crate::support::{ClientConn, Stage, World, at_rest, get, post, receipt, text};

mod http2;
mod laws;
mod never;

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What a request might hide in its body.
const HIDDEN: &str = "GET /v2/send/text?instance_id=1&message=smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

/// Longer than a connection lies idle before it rests.
const A_WHILE: Duration = Duration::from_millis(1500);

/// The gateway's end of a connection, which notes how much room it was last read with.
struct Watched {
    io: DuplexStream,
    room: Arc<AtomicUsize>,
    /// It can be shut, or does not come to it: TLS has a farewell to write first.
    can_shut: bool,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.room.store(buf.remaining(), Relaxed);
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.can_shut {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// How the gateway holds a connection.
struct Held(Arc<AtomicUsize>);

impl Held {
    /// Whether it rests, a microsecond from now. While a call is answered HTTP reads nothing: what is seen then was so
    /// when it came.
    async fn rests(&self) -> bool {
        at_rest().await;
        self.0.load(Relaxed) < 4096
    }
}

/// A new client, whose connection takes so many bytes at a time.
fn client_of(gateway: &Gateway, buffer: usize) -> (ClientConn, Held) {
    let (near, io) = tokio::io::duplex(buffer);
    (ClientConn::new(near), serve(gateway, io, true))
}

fn serve(gateway: &Gateway, io: DuplexStream, can_shut: bool) -> Held {
    let room = Arc::new(AtomicUsize::new(0));
    let watched = Watched {
        io,
        room: Arc::clone(&room),
        can_shut,
    };
    let gateway = gateway.clone();
    tokio::spawn(async move { gateway.serve(watched).await });
    Held(room)
}

fn client(gateway: &Gateway) -> (ClientConn, Held) {
    client_of(gateway, 64 * 1024)
}

/// A new client, whose bytes reach the gateway so many at a time; it need not read meanwhile.
fn client_through(gateway: &Gateway, narrow: usize) -> (ClientConn, Held) {
    let (near, mut wide) = tokio::io::duplex(64 * 1024);
    let (mut end, io) = tokio::io::duplex(narrow);
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut wide, &mut end).await });
    (ClientConn::new(near), serve(gateway, io, true))
}

/// The same request, but one that hyper must serve: the fast path keeps no HTTP state between requests.
fn for_hyper(request: &str) -> String {
    request.replacen("\r\n", "\r\nTE: trailers\r\n", 1)
}

async fn a_while() {
    tokio::time::sleep(A_WHILE).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_rests_before_its_first_byte_and_when_it_lies_idle() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    assert!(held.rests().await, "nothing was said yet");
    for request in [get("/sandbox/echo"), text("a"), receipt([1])] {
        assert!(client.asks(for_hyper(&request)).await.status() < 300);
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(!held.rests().await, "the next call may come at once");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(held.rests().await);
    }
    let head = "HEAD /sandbox/echo HTTP/1.1\r\nHost: h\r\n\r\n";
    client.says(head).await;
    assert_eq!(client.response_to("HEAD").await.status(), 200);
    a_while().await;
    assert!(held.rests().await);
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_plain_call_leaves_its_connection_at_rest() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    for request in [get("/sandbox/echo"), text("a"), receipt([1])] {
        assert!(client.asks(for_hyper(&request)).await.status() < 300);
        a_while().await;
        assert!(client.asks(request).await.status() < 300);
        assert!(held.rests().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_never_rests() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    for _ in 0..20 {
        let request = for_hyper(&get("/sandbox/echo"));
        assert_eq!(client.asks(request).await.status(), 200);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert!(!held.rests().await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_no_rest() {
    let mut stage = Stage::new("");
    let (mut client, held) = client(&stage.gateway);
    client.says(for_hyper(&get("/quick"))).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says(PLAIN).await;
    assert_eq!(client.response().await.text(), "ok");
    client.says(for_hyper(&get("/slow"))).await;
    line.request().await;
    a_while().await;
    assert!(!held.rests().await);
    line.says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")
        .await;
    a_while().await;
    assert!(!held.rests().await);
    line.says("ok").await;
    assert_eq!(client.response().await.text(), "okok");
    a_while().await;
    assert!(held.rests().await);
}

#[tokio::test(start_paused = true)]
async fn a_call_comes_byte_by_byte_after_a_rest() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    for n in 0..3 {
        let request = post(&format!("/sandbox/echo?n={n}"), "hello");
        for byte in request.as_bytes() {
            client.says([*byte]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let response = client.response().await;
        assert_eq!(response.text(), "hello");
        assert_eq!(
            response.field("x-echo-target"),
            Some(&*format!("/sandbox/echo?n={n}"))
        );
        a_while().await;
        assert!(held.rests().await);
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_calls_after_a_rest_are_answered_in_order() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    for _ in 0..2 {
        client
            .says([get("/sandbox/status/201"), get("/sandbox/status/404")].concat())
            .await;
        assert_eq!(client.response().await.status(), 201);
        assert_eq!(client.response().await.status(), 404);
        a_while().await;
        assert!(held.rests().await);
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_head_that_came_with_a_request_is_kept() {
    let world = World::new("server.header_timeout = \"10s\"");
    let (mut client, held) = client(&world.gateway);
    let second = get("/sandbox/status/404");
    let (half, rest) = second.split_at(20);
    client
        .says([&get("/sandbox/status/201"), half].concat())
        .await;
    assert_eq!(client.response().await.status(), 201);
    a_while().await;
    assert!(!held.rests().await, "a head has begun");
    client.says(rest).await;
    assert_eq!(client.response().await.status(), 404);

    client
        .says([&get("/sandbox/status/201"), half].concat())
        .await;
    assert_eq!(client.response().await.status(), 201);
    let began = Instant::now();
    client.hears_end().await;
    let waited = began.elapsed().as_secs();
    assert!((10..=11).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn empty_lines_between_requests_wake_nobody() {
    let world = World::new("server.idle_timeout = \"75s\"");
    let (mut client, held) = client(&world.gateway);
    client.says([&text("a"), "\r\n"].concat()).await;
    assert_eq!(client.response().await.status(), 201);
    let began = Instant::now();
    a_while().await;
    assert!(held.rests().await);
    client.says("\r\n\n").await;
    assert!(held.rests().await);
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(75));
}

#[tokio::test(start_paused = true)]
async fn a_resting_connection_is_closed_when_its_time_is_up() {
    let world = World::new("server.header_timeout = \"10s\"\nserver.idle_timeout = \"75s\"");
    let (mut fresh, _) = client(&world.gateway);
    let began = Instant::now();
    fresh.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(10));

    let (mut client, held) = client(&world.gateway);
    assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(74)).await;
    assert!(held.rests().await);
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(75));
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn idle_time_may_be_shorter_than_a_rest_is_away() {
    let world = World::new("server.idle_timeout = \"500ms\"");
    let (mut client, _) = client(&world.gateway);
    assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
    let began = Instant::now();
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn half_a_head_that_ends_a_rest_is_cut() {
    let world = World::new("server.header_timeout = \"10s\"\nserver.idle_timeout = \"75s\"");
    let (mut client, held) = client(&world.gateway);
    assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(held.rests().await);
    let began = Instant::now();
    client.says("G").await;
    a_while().await;
    assert!(!held.rests().await);
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_a_resting_connection_is_left() {
    let world = World::new("");
    let (mut client, _) = client(&world.gateway);
    assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
    a_while().await;
    client.says_no_more().await;
    let began = Instant::now();
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    at_rest().await;
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_resting_connections_linger_and_closes_them() {
    let world = World::new("");
    let (mut fresh, _) = client(&world.gateway);
    let (mut rested, held) = client(&world.gateway);
    let (mut late, _) = client(&world.gateway);
    for client in [&mut rested, &mut late] {
        assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
    }
    a_while().await;
    assert!(held.rests().await);
    let began = Instant::now();
    world.gateway.drain();
    tokio::time::sleep(Duration::from_millis(900)).await;
    // In pieces: the drain does not end between them.
    let (begin, end) = "GET /sandbox/echo HTTP/1.1\r\nHost: h\r\n\r\n".split_at(9);
    late.says(begin).await;
    for client in [&mut fresh, &mut rested] {
        client.hears_end().await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
    tokio::time::sleep(Duration::from_millis(900)).await;
    late.says(end).await;
    let response = late.response().await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.field("connection"), Some("close"));
    late.hears_end().await;
    world.gateway.drained().await;
    assert_eq!(world.gateway.unfinished(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_0_rests_if_it_stays() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    for _ in 0..2 {
        let response = client
            .asks("GET /v2/session/me?instance_id=1&access_token=t HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.field("connection"), Some("keep-alive"));
        a_while().await;
        assert!(held.rests().await);
    }
    let last = "GET /sandbox/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert_eq!(client.asks(last).await.status(), 200);
    let began = Instant::now();
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}
