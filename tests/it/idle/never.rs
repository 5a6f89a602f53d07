//! Connections that never come to rest: something is left to be read, written or waited for.

use std::time::Duration;

use tokio::time::Instant;

use super::{HIDDEN, PLAIN, a_while, client, client_of, for_hyper, serve};
use crate::support::{ClientConn, Stage, World, get};

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
        assert_eq!(client.response().await.text(), "ok");
        let mut line = Some(line).filter(|_| reads_on);
        for _ in 0..4 {
            a_while().await;
            assert!(!held.rests().await);
        }
        // An upstream that still reads gets it as the rest of the body, not as a request.
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
    // It comes later, in part later, or at once.
    for come in [0, 10, HIDDEN.len()] {
        let mut stage = Stage::new("");
        let (mut client, held) = client(&stage.gateway);
        let (now, later) = HIDDEN.split_at(come);
        client.says(announced(refused, HIDDEN.len()) + now).await;
        assert_eq!(client.response().await.status(), 421);
        a_while().await;
        assert_eq!(held.rests().await, later.is_empty(), "{come}");
        client.says(later).await;
        a_while().await;
        client.hears_nothing().await;
        assert_eq!(client.asks(announced(refused, 0)).await.status(), 421);
        client.hears_end().await;
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_announced_body_that_is_declined_ends_the_connection() {
    let mut stage = Stage::new("");
    let (mut client, _) = client(&stage.gateway);
    client
        .says("POST /v2/send/file?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    line.hears_until("\r\n\r\n").await;
    line.says("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        .await;
    let response = client.response().await;
    assert_eq!(response.status(), 417);
    assert_eq!(response.field("connection"), Some("close"));
    client.hears_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_with_trailers_is_a_body_read() {
    let world = World::new("");
    let (mut client, held) = client(&world.gateway);
    let response = client
        .asks("POST /sandbox/sink HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-End: 1\r\n\r\n")
        .await;
    assert_eq!(response.json()["bytes"], 2);
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
        let first = for_hyper(&get("/sandbox/echo"));
        assert_eq!(client.asks(first).await.status(), 200);
        client.says(for_hyper(&get(target))).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!held.rests().await, "{target}");
        assert_eq!(client.response().await.body.len(), length);
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
    assert_eq!(client.response().await.text(), "ok");
    a_while().await;
    assert!(held.rests().await);

    client.says(request).await;
    line.request().await;
    line.says(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    assert_eq!(client.response().await.status(), 101);
    for _ in 0..3 {
        a_while().await;
        assert!(!held.rests().await);
        client.says(HIDDEN).await;
        line.hears(HIDDEN).await;
        line.says("a response").await;
        client.hears("a response").await;
    }
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_being_closed_never_rests() {
    let world = World::new("server.idle_timeout = \"75s\"");
    let (near, io) = tokio::io::duplex(64 * 1024);
    let _held = serve(&world.gateway, io, false);
    let mut client = ClientConn::new(near);
    let last = "GET /sandbox/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert_eq!(client.asks(last).await.status(), 200);
    let began = Instant::now();
    a_while().await;
    client.says(last).await;
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(75 + 5));
    assert_eq!(world.sandbox.calls().len(), 1);
}
