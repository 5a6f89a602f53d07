//! Requests that are answered before their body has come: the client can go on, and hears its response.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;

use crate::support::{ClientConn, Stage, World, at_rest, get, stream};

/// A world whose few tokens are spent, and in which the next one is too far away to be waited for.
async fn spent(more: &str) -> World {
    let world = World::new(&format!("limit.rate = 0.001\nlimit.burst = 1\n{more}"));
    let one_more = format!("{}hello", head("Content-Length: 5"));
    while world.call(&one_more).await.status() != 429 {}
    world
}

/// The head of a call of instance 123 that announces a body so.
fn head(framing: &str) -> String {
    format!(
        "POST /v2/send/text?instance_id=123&access_token=token-1 HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
    )
}

/// A client whose call was refused before its body came.
async fn refused(world: &World, framing: &str) -> ClientConn {
    let mut client = world.client();
    client.says(head(framing)).await;
    let response = client.response().await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.field("connection"), None);
    client
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_the_body_is_taken_and_the_connection_goes_on() {
    let large = "x".repeat(1 << 20);
    for (framing, rest) in [
        ("Content-Length: 5", "hello"),
        ("Content-Length: 1048576", &*large),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        (
            "Transfer-Encoding: chunked\r\nTrailer: X-Sum",
            "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
    ] {
        let world = spent("").await;
        let mut client = refused(&world, framing).await;
        let refused = world.sandbox.calls().len();
        for piece in rest.as_bytes().chunks(rest.len().div_ceil(20)) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.says(piece).await;
        }
        let pause = Duration::from_secs(60);
        tokio::time::sleep(pause).await;
        let response = client.asks(get("/sandbox/echo?instance_id=2")).await;
        assert_eq!(response.status(), 200, "{framing}");
        assert_eq!(world.sandbox.calls().len(), refused + 1, "{framing}");
        at_rest().await;
        assert_eq!(world.counted("wawp_gateway_connections", &[]), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_the_body_in_one_breath_is_answered() {
    let world = spent("").await;
    let mut client = refused(&world, "Content-Length: 5").await;
    let next = get("/sandbox/echo?instance_id=2");
    let response = client.asks(format!("hello{next}")).await;
    assert_eq!(response.status(), 200);
    client
        .says(format!("{}hel", head("Content-Length: 5")))
        .await;
    assert_eq!(client.response().await.status(), 429);
    let next = get("/sandbox/echo?instance_id=3");
    assert_eq!(client.asks(format!("lo{next}")).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_upstream_costs_no_connection() {
    let stage = Stage::new("");
    let mut client = stage.client();
    drop(stage.upstream);
    for _ in 0..3 {
        client.says(head("Content-Length: 5")).await;
        let response = client.response().await;
        assert_eq!(response.json()["code"], "upstream_unreachable");
        client.says("hello").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_breaks_off_in_the_middle_costs_no_connection() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client
        .says(format!("{}hel", head("Content-Length: 5")))
        .await;
    let mut line = stage.upstream.accepts().await;
    line.hears_until("hel").await;
    line.hangs_up();
    assert_eq!(client.response().await.status(), 502);
    client.says("lo").await;
    client.says(get("/x?instance_id=1&access_token=t")).await;
    let mut line = stage.upstream.accepts().await;
    assert!(line.request().await.start.starts_with("GET /x?"));
    line.says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_awaited_as_long_as_a_connection_lies_idle() {
    let world = spent("server.idle_timeout = \"40s\"").await;
    let mut client = refused(&world, "Content-Length: 5").await;
    let began = Instant::now();
    client.says("hell").await;
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(40));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_not_read_for_ever() {
    let world = spent("server.idle_timeout = \"40s\"").await;
    let mut client = refused(&world, "Transfer-Encoding: chunked").await;
    let began = Instant::now();
    while client.tries_to_say("5\r\nhello\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(45));
    }
    assert!(began.elapsed() >= Duration::from_secs(40));
}

#[tokio::test(start_paused = true)]
async fn after_the_body_the_connection_is_idle_anew() {
    let world = spent("server.idle_timeout = \"40s\"").await;
    let mut client = refused(&world, "Content-Length: 5").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    client.says("hello").await;
    let began = Instant::now();
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(40));
}

#[tokio::test(start_paused = true)]
async fn the_last_request_of_a_connection_ends_it_when_its_body_has_come() {
    let world = spent("").await;
    let mut client = world.client();
    client
        .says(head("Connection: close\r\nContent-Length: 10"))
        .await;
    assert_eq!(client.response().await.status(), 429);
    for piece in ["hello", "world"] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.hears_nothing().await;
        client.says(piece).await;
    }
    let began = Instant::now();
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_follow_the_end_is_not_held_back_for_long() {
    for (version, framing) in [
        ("HTTP/1.1", "Connection: close\r\nContent-Length: 10"),
        ("HTTP/1.0", "Content-Length: 10"),
    ] {
        let world = spent("").await;
        let mut client = world.client();
        let began = Instant::now();
        client
            .says(head(framing).replace("HTTP/1.1", version) + "hello")
            .await;
        assert_eq!(client.response().await.status(), 429);
        client.hears_end().await;
        let seconds = began.elapsed().as_secs();
        assert!((5..=6).contains(&seconds), "{framing}: {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn what_http_takes_for_no_expectation_keeps_no_body_back() {
    for (version, expect) in [("HTTP/1.1", "nonsense"), ("HTTP/1.0", "100-continue")] {
        let world = spent("").await;
        let mut client = world.client();
        let framing = format!("Expect: {expect}\r\nContent-Length: 1048576");
        client
            .says(head(&framing).replace("HTTP/1.1", version))
            .await;
        assert_eq!(client.response().await.status(), 429);
        client.says("x".repeat(1 << 20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_such_a_body_a_few_seconds() {
    let world = spent("").await;
    let mut client = refused(&world, "Content-Length: 5").await;
    let began = Instant::now();
    world.gateway.drain();
    client.hears_end().await;
    world.gateway.drained().await;
    assert!(
        began.elapsed() <= Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_never_asked_for_ends_the_connection_and_it_is_said() {
    let world = spent("").await;
    let mut client = world.client();
    client
        .says(head("Content-Length: 5\r\nExpect: 100-continue"))
        .await;
    let response = client.response().await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.field("connection"), Some("close"));
    client.hears_end().await;
}

/// What is refused over HTTP/2.
const TARGET: &str = "http://h/v2/send/text?instance_id=123&access_token=token-1";

/// A body of so many kilobytes.
struct Kilobytes(Arc<AtomicUsize>);

impl Body for Kilobytes {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let has_more = self
            .0
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        let piece = has_more.map(|_| Ok(Frame::data(Bytes::from_static(&[b'x'; 1000]))));
        Poll::Ready(piece.ok())
    }
}

#[tokio::test(start_paused = true)]
async fn over_http_2_the_rest_is_taken_as_well() {
    let world = spent("").await;
    let io = TokioIo::new(stream(&world.gateway));
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let left = Arc::new(AtomicUsize::new(1000));
    let body = Kilobytes(Arc::clone(&left));
    let request = Request::post(TARGET).body(body);
    let response = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 429);
    at_rest().await;
    // Far more than may be sent unread.
    assert_eq!(left.load(Relaxed), 0);
}

type Http2 = h2::client::SendRequest<Bytes>;

/// So many calls on one connection of HTTP/2, refused before their bodies came.
async fn refused_at_once(world: &World, calls: usize) -> (Http2, Vec<h2::SendStream<Bytes>>) {
    let (mut client, connection) = h2::client::handshake(stream(&world.gateway)).await.unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..calls {
        client = client.ready().await.unwrap();
        let request = Request::post(TARGET).body(()).unwrap();
        let (response, body) = client.send_request(request, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 429);
        bodies.push(body);
    }
    (client, bodies)
}

#[tokio::test(start_paused = true)]
async fn over_http_2_bodies_that_do_not_come_hold_up_nobody_for_long() {
    let world = spent("").await;
    // As many as there may be at once.
    let (client, _bodies) = refused_at_once(&world, 250).await;
    let began = Instant::now();
    let mut client = client.ready().await.unwrap();
    let request = Request::get("http://h/sandbox/echo?instance_id=2").body(());
    let (response, _) = client.send_request(request.unwrap(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    assert!(began.elapsed() <= Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn over_http_2_such_bodies_do_not_draw_out_a_drain() {
    let world = spent("").await;
    let (_client, bodies) = refused_at_once(&world, 15).await;
    let began = Instant::now();
    world.gateway.drain();
    tokio::spawn(async move {
        for mut body in bodies {
            tokio::time::sleep(Duration::from_secs(4)).await;
            body.send_data(Bytes::new(), true).ok();
        }
    });
    world.gateway.drained().await;
    assert!(
        began.elapsed() <= Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
}
