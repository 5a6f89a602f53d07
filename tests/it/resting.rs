//! Connections at rest: an idle client costs next to nothing, and notices nothing.
//!
//! Whether a connection rests is seen from its stream: at rest it is read with little room, and by HTTP with much.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Instant;
use wawp_gateway::gateway::Gateway;

use crate::support::{Line, Stage, World, at_rest, get, post, receipt, text};

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

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
fn client_of(gateway: &Gateway, buffer: usize) -> (Line, Held) {
    let (near, io) = tokio::io::duplex(buffer);
    (Line::new(near), serve(gateway, io, true))
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

fn client(gateway: &Gateway) -> (Line, Held) {
    client_of(gateway, 64 * 1024)
}

/// A new client, whose bytes reach the gateway so many at a time; it need not read meanwhile.
fn client_through(gateway: &Gateway, narrow: usize) -> (Line, Held) {
    let (near, mut wide) = tokio::io::duplex(64 * 1024);
    let (mut end, io) = tokio::io::duplex(narrow);
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut wide, &mut end).await });
    (Line::new(near), serve(gateway, io, true))
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
        assert!(client.asks(request).await.status() < 300);
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(!held.rests().await, "the next call may come at once");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(held.rests().await);
    }
    let head = "HEAD /sandbox/echo HTTP/1.1\r\nHost: h\r\n\r\n";
    client.says(head).await;
    assert_eq!(client.answer_to("HEAD").await.status(), 200);
    a_while().await;
    assert!(held.rests().await);
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_never_rests() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    for _ in 0..20 {
        assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
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
    client.says(get("/quick")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says(PLAIN).await;
    assert_eq!(client.answer().await.text(), "ok");
    client.says(get("/slow")).await;
    line.request().await;
    a_while().await;
    assert!(!held.rests().await);
    line.says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")
        .await;
    a_while().await;
    assert!(!held.rests().await);
    line.says("ok").await;
    assert_eq!(client.answer().await.text(), "okok");
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
        let answer = client.answer().await;
        assert_eq!(answer.text(), "hello");
        assert_eq!(
            answer.field("x-echo-target"),
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
        assert_eq!(client.answer().await.status(), 201);
        assert_eq!(client.answer().await.status(), 404);
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
    assert_eq!(client.answer().await.status(), 201);
    a_while().await;
    assert!(!held.rests().await, "a head has begun");
    client.says(rest).await;
    assert_eq!(client.answer().await.status(), 404);

    client
        .says([&get("/sandbox/status/201"), half].concat())
        .await;
    assert_eq!(client.answer().await.status(), 201);
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
    assert_eq!(client.answer().await.status(), 201);
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
    let answer = late.answer().await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.field("connection"), Some("close"));
    late.hears_end().await;
    world.gateway.drained().await;
    assert_eq!(world.gateway.unfinished(), (0, 0));
}

/// What a request might hide in its body.
const HIDDEN: &str = "GET /v2/send/text?instance_id=1&message=smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

fn announced(target: &str, length: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn a_request_answered_before_its_body_came_never_rests() {
    // The upstream goes on reading, or leaves.
    for reads_on in [true, false] {
        let mut stage = Stage::new("");
        let (mut client, held) = client(&stage.gateway);
        let target = "/v2/send/file?instance_id=1&access_token=t";
        client
            .says(announced(target, HIDDEN.len() + 5) + "begin")
            .await;
        let mut line = stage.upstream.accepts().await;
        assert!(line.hears_until("begin").await.starts_with("POST /v2/send"));
        line.says(PLAIN).await;
        assert_eq!(client.answer().await.text(), "ok");
        let mut line = Some(line).filter(|_| reads_on);
        for _ in 0..4 {
            a_while().await;
            assert!(line.is_none() || !held.rests().await);
        }
        // Whoever still reads takes it for what it is.
        if client.tries_to_say(HIDDEN).await.is_ok()
            && let Some(line) = &mut line
        {
            line.hears(HIDDEN).await;
            line.hears_nothing().await;
        }
        client.hears_end().await;
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wanted_is_never_a_request() {
    let refused = "http://elsewhere.test/";
    // It does not come at all, in part, later, or at once: then the connection may go on.
    for come in [0, 10, HIDDEN.len()] {
        let mut stage = Stage::new("");
        let (mut client, held) = client(&stage.gateway);
        let (now, later) = HIDDEN.split_at(come);
        client.says(announced(refused, HIDDEN.len()) + now).await;
        assert_eq!(client.answer().await.status(), 421);
        a_while().await;
        assert!(!held.rests().await, "{come}");
        if later.is_empty() {
            assert_eq!(client.asks(announced(refused, 0)).await.status(), 421);
            a_while().await;
            assert!(!held.rests().await, "once is for ever");
        } else {
            client.tries_to_say(later).await.ok();
        }
        client.hears_end().await;
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_announced_body_that_is_declined_never_rests() {
    let mut stage = Stage::new("");
    let (mut client, held) = client(&stage.gateway);
    client
        .says("POST /v2/send/file?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    line.hears_until("\r\n\r\n").await;
    line.says("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status(), 417);
    a_while().await;
    assert!(!held.rests().await);
    client.hears_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_with_trailers_is_a_body_read() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    let answer = client
        .asks("POST /sandbox/sink HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-End: 1\r\n\r\n")
        .await;
    assert_eq!(answer.json()["bytes"], 2);
    a_while().await;
    assert!(held.rests().await);
    assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_is_no_rest() {
    let world = World::new("server.body_timeout = \"30s\"");
    let (mut client, held) = client_of(&world.gateway, 1000);
    // Once a body that is streamed, once one that is written with its head.
    for (target, length) in [
        ("/sandbox/bytes/50000", 50_000),
        ("/sandbox/bytes/3000", 3000),
    ] {
        assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
        client.says(get(target)).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!held.rests().await, "{target}");
        assert_eq!(client.answer().await.body.len(), length);
        a_while().await;
        assert!(held.rests().await, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_never_rests() {
    let mut stage = Stage::new("");
    let (mut client, held) = client(&stage.gateway);
    let request = "GET /ws?instance_id=1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    // Declined it is a call as any other.
    client.says(request).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says(PLAIN).await;
    assert_eq!(client.answer().await.text(), "ok");
    a_while().await;
    assert!(held.rests().await);

    client.says(request).await;
    line.request().await;
    line.says(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    assert_eq!(client.answer().await.status(), 101);
    for _ in 0..3 {
        a_while().await;
        assert!(!held.rests().await);
        client.says(HIDDEN).await;
        line.hears(HIDDEN).await;
        line.says("an answer").await;
        client.hears("an answer").await;
    }
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_0_rests_if_it_stays() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    for _ in 0..2 {
        let answer = client
            .asks("GET /v2/session/me?instance_id=1&access_token=t HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("connection"), Some("keep-alive"));
        a_while().await;
        assert!(held.rests().await);
    }
    let last = "GET /sandbox/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert_eq!(client.asks(last).await.status(), 200);
    let began = Instant::now();
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_being_closed_never_rests() {
    let world = World::new("server.idle_timeout = \"75s\"");
    let (near, io) = tokio::io::duplex(64 * 1024);
    let _held = serve(&world.gateway, io, false);
    let mut client = Line::new(near);
    let last = "GET /sandbox/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert_eq!(client.asks(last).await.status(), 200);
    let began = Instant::now();
    a_while().await;
    client.says(last).await;
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(75 + 5));
    assert_eq!(world.sandbox.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn http_2_is_told_from_http_1_however_its_first_bytes_are_cut() {
    for buffer in [1, 7, 24, 25, 64 * 1024] {
        let world = World::new("");
        let (near, far) = tokio::io::duplex(buffer);
        let gateway = world.gateway.clone();
        tokio::spawn(async move { gateway.serve(far).await });
        let io = TokioIo::new(near);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
        tokio::spawn(connection);
        for _ in 0..3 {
            let request = Request::post("http://gateway.test/sandbox/echo")
                .body(Full::new(Bytes::from_static(b"hello")))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.to_bytes(), "hello");
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn http_2_that_begins_in_a_drain_is_answered_and_asked_to_end() {
    let world = World::new("limit.rate = 0.1\nlimit.burst = 1\nlimit.max_wait = \"30s\"");
    assert_eq!(world.call(text("spends the token")).await.status(), 201);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let gateway = world.gateway.clone();
    tokio::spawn(async move { gateway.serve(far).await });
    at_rest().await;
    world.gateway.drain();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let io = TokioIo::new(near);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let body =
        r#"{"instance_id":"123","access_token":"token-1","chatId":"1@c.us","message":"queued"}"#;
    let request = Request::post("http://gateway.test/v2/send/text")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap();
    let began = Instant::now();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 201);
    answer.into_body().collect().await.unwrap();
    world.gateway.drained().await;
    assert!(began.elapsed() < Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn what_only_begins_like_http_2_is_http_1() {
    let world = World::new("server.header_timeout = \"10s\"");
    let request = post("/sandbox/echo", "hello");
    let (mut client_one, _) = client(&world.gateway);
    client_one.says(&request[..1]).await;
    a_while().await;
    client_one.says(&request[1..]).await;
    assert_eq!(client_one.answer().await.text(), "hello");
    // Nobody takes up HTTP/2 half-way.
    a_while().await;
    client_one.says("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client_one.hears_end().await;

    for (said, seconds) in [
        ("PRI * HTTP/2.0\r\n\r\nS", 10),
        ("PRI * HTTP/2.1\r\n\r\n", 0),
    ] {
        let (mut client, _) = client(&world.gateway);
        let began = Instant::now();
        client.says(said).await;
        let heard = client.hears_rest().await;
        assert!(
            heard.is_empty() || heard.starts_with("HTTP/1.1 400 "),
            "{heard}"
        );
        assert_eq!(began.elapsed(), Duration::from_secs(seconds), "{said:?}");
    }
}

/// One request, and what is said before it that means nothing.
#[derive(Clone, Debug)]
enum Asks {
    Get { lines: &'static str },
    Head,
    Post { body: String },
    Chunked { chunks: Vec<String>, trailers: bool },
    Receipt,
}

impl Asks {
    fn request(&self, n: usize) -> String {
        let target = format!("/sandbox/echo?n={n}");
        match self {
            Self::Get { lines } => format!("{lines}{}", get(&target)),
            Self::Head => format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"),
            Self::Post { body } => post(&target, body),
            Self::Chunked { chunks, trailers } => {
                let chunks: String = chunks
                    .iter()
                    .map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()))
                    .collect();
                let end = if *trailers { "X-End: 1\r\n" } else { "" };
                format!(
                    "POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n{end}\r\n"
                )
            }
            Self::Receipt => receipt([n]),
        }
    }

    fn body(&self) -> String {
        match self {
            Self::Post { body } => body.clone(),
            Self::Chunked { chunks, .. } => chunks.concat(),
            _ => String::new(),
        }
    }
}

fn asks() -> impl Strategy<Value = Asks> {
    let body = prop_oneof!["[a-z]{0,20}", Just(HIDDEN.to_owned())];
    let chunk = prop_oneof!["[a-z]{1,20}", Just(HIDDEN.to_owned())];
    prop_oneof![
        prop_oneof![Just(""), Just("\r\n"), Just("\n\r\n")].prop_map(|lines| Asks::Get { lines }),
        Just(Asks::Head),
        body.prop_map(|body| Asks::Post { body }),
        (proptest::collection::vec(chunk, 0..4), any::<bool>())
            .prop_map(|(chunks, trailers)| Asks::Chunked { chunks, trailers }),
        Just(Asks::Receipt),
    ]
}

/// Where the stream is cut, and how long nothing is said there: for less than a rest is away, for more, and for
/// exactly that.
fn cuts() -> impl Strategy<Value = Vec<(prop::sample::Index, u64)>> {
    let pause = prop_oneof![
        Just(0_u64),
        Just(10),
        900..1100_u64,
        Just(1000),
        Just(1001),
        2000..9000_u64
    ];
    proptest::collection::vec((any::<prop::sample::Index>(), pause), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// However a client's bytes are cut and whatever pauses lie between them, its requests are answered, each with its
    /// own answer, in order.
    #[test]
    fn answers_are_the_requests_in_order(
        asked in proptest::collection::vec(asks(), 1..8),
        cuts in cuts(),
        between in any::<bool>(),
        buffer in prop_oneof![Just(16_usize), Just(64 * 1024)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let patient = "limit.rate = 0\nlimit.burst = 0\nserver.header_timeout = \"1000s\"\n\
                           server.idle_timeout = \"1000s\"\nserver.body_timeout = \"1000s\"\n";
            let world = World::new(patient);
            let (mut line, held) = client_through(&world.gateway, buffer);
            let requests: Vec<_> = asked.iter().enumerate().map(|(n, asks)| asks.request(n)).collect();
            let said = requests.concat();
            let mut pauses: Vec<_> = cuts.iter().map(|(at, pause)| (at.index(said.len()), *pause)).collect();
            if between {
                let ends = requests.iter().scan(0, |end, request| { *end += request.len(); Some(*end) });
                pauses.extend(ends.map(|end| (end, 1200)));
            }
            pauses.sort_unstable();
            let mut from = 0;
            for (at, pause) in pauses {
                line.says(&said[from..at]).await;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                from = at;
            }
            line.says(&said[from..]).await;
            let mut answers = Vec::new();
            for asks in &asked {
                let method = if matches!(asks, Asks::Head) { "HEAD" } else { "GET" };
                answers.push(line.answer_to(method).await);
            }
            for (n, (asks, answer)) in asked.iter().zip(answers).enumerate() {
                if let Asks::Receipt = asks {
                    prop_assert_eq!(answer.status(), 201);
                    continue;
                }
                let target = format!("/sandbox/echo?n={n}");
                prop_assert_eq!(answer.field("x-echo-target"), Some(&*target), "{:?}", answer);
                prop_assert_eq!(answer.text(), asks.body());
            }
            a_while().await;
            prop_assert!(held.rests().await);
            line.says_no_more().await;
            line.hears_end().await;
            let receipts = asked.iter().filter(|asks| matches!(asks, Asks::Receipt)).count();
            prop_assert!(world.sandbox.calls().len() <= asked.len());
            let sent = world.sandbox.calls().iter().map(|call| call.ids.len()).sum::<usize>();
            prop_assert_eq!(sent, receipts);
            Ok(())
        })?;
    }
}
