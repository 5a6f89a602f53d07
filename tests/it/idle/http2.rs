//! The version of HTTP is detected on an idle connection, however its first bytes are cut.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;

use super::{a_while, client};
use crate::support::{World, at_rest, post, stream, text};

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
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.to_bytes(), "hello");
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn http_2_that_begins_in_a_drain_is_answered_and_asked_to_end() {
    let world = World::new("limit.rate = 0.1\nlimit.burst = 1\nlimit.max_wait = \"30s\"");
    assert_eq!(world.call(text("spends the token")).await.status(), 201);
    let io = TokioIo::new(stream(&world.gateway));
    at_rest().await;
    world.gateway.drain();
    tokio::time::sleep(Duration::from_millis(500)).await;
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
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 201);
    response.into_body().collect().await.unwrap();
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
    assert_eq!(client_one.response().await.text(), "hello");
    // A connection that speaks HTTP/1.1 does not change to HTTP/2.
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
