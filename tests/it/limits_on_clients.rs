//! Clients that are too slow, too big or too many.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Stage, World, at_rest, get, head_and_body, receipt, text};

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_cut() {
    for beginning in ["", "GET / HTTP/1.1\r\nX-Slow: "] {
        let world = World::new("server.header_timeout = \"10s\"");
        let mut client = world.client();
        let began = Instant::now();
        client.says(beginning).await;
        client.hears_rest().await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert_eq!(world.counted("wawp_gateway_connections", &[]), 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_is_cut() {
    let world = World::new("server.header_timeout = \"10s\"");
    let mut client = world.client();
    let began = Instant::now();
    client.says("GET / HTTP/1.1\r\n").await;
    while client.tries_to_say("X-A: b\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(12));
    }
    assert!(began.elapsed() >= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn the_second_head_has_its_own_time() {
    let world = World::new("server.header_timeout = \"10s\"\nserver.idle_timeout = \"75s\"");
    let mut client = world.client();
    assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
    tokio::time::sleep(Duration::from_secs(70)).await;
    let began = Instant::now();
    client.says("GET / HT").await;
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_its_time() {
    let world = World::new("server.idle_timeout = \"75s\"");
    let mut client = world.client();
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
        tokio::time::sleep(Duration::from_secs(74)).await;
    }
    assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(3 * 74 + 75));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_idleness() {
    let mut stage = Stage::new(
        "server.idle_timeout = \"5s\"\nserver.header_timeout = \"5s\"\nserver.body_timeout = \"5s\"",
    );
    let mut client = stage.client();
    client.says(text("slow")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    line.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    line.says("2\r\nok\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_answered_408() {
    let receipt = receipt([1]);
    let text = text("a");
    for request in [&receipt[..receipt.len() - 5], &text[..text.len() - 5]] {
        let world = World::new("server.body_timeout = \"30s\"");
        let mut client = world.client();
        let began = Instant::now();
        client.says(request).await;
        let response = client.response().await;
        assert!((30_000..30_100).contains(&began.elapsed().as_millis()));
        assert_eq!(response.status(), 408);
        assert_eq!(response.json()["code"], "client_too_slow");
        assert!(
            response
                .field("proxy-status")
                .unwrap()
                .contains("error=http_request_error")
        );
        client.hears_end().await;
        let complete = world
            .sandbox
            .calls()
            .into_iter()
            .find(|call| call.body_complete);
        assert!(complete.is_none(), "{complete:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_in_the_middle_aborts_the_call() {
    let mut stage = Stage::new("server.body_timeout = \"30s\"");
    let mut client = stage.client();
    client
        .says("POST /x?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    let began = Instant::now();
    let mut line = stage.upstream.accepts().await;
    assert!(line.hears_rest().await.ends_with("\r\n\r\nhalf"));
    assert!((30_000..30_100).contains(&began.elapsed().as_millis()));
    assert_eq!(client.response().await.status(), 408);
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_slow_but_steady_passes() {
    let world = World::new("server.body_timeout = \"30s\"");
    let mut client = world.client();
    client
        .says("POST /sandbox/sink?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n")
        .await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(29)).await;
        client.says("x").await;
    }
    let response = client.response().await;
    assert_eq!(response.json()["bytes"], 20);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_dribbles_in_is_read_ahead_for_a_while_and_then_passed_on() {
    for request in [receipt([1]), text("a")] {
        let mut stage = Stage::new("server.header_timeout = \"10s\"");
        let mut client = stage.client();
        let (head, body) = head_and_body(&request);
        client.says(head).await;
        let began = Instant::now();
        let dribbling = async {
            for byte in body.as_bytes().chunks(1) {
                client.says(byte).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (_, heard) = tokio::join!(dribbling, async {
            let mut line = stage.upstream.accepts().await;
            let waited = began.elapsed().as_secs();
            assert!((10..=20).contains(&waited), "{waited} s");
            line.request().await
        });
        assert_eq!(heard.text(), body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let world = World::new("server.body_timeout = \"30s\"");
    let mut client = world.client();
    let began = Instant::now();
    client.says(get("/sandbox/bytes/100000000")).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 1.0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 0.0);
    assert_eq!(world.counted("wawp_gateway_in_flight_requests", &[]), 0.0);
    assert!(began.elapsed() < Duration::from_secs(32));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_still_leaving_is_no_idleness() {
    for is_plain in [true, false] {
        let mut stage = Stage::new("server.idle_timeout = \"5s\"\nserver.body_timeout = \"30s\"");
        let (mut client, body) = stage.answering(is_plain).await;
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!(client.response().await.text(), body);
        let began = Instant::now();
        client.hears_end().await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_fields_are_refused() {
    let world = World::new("server.max_headers = 20");
    let with = |count: usize| {
        let fields: String = (1..count).map(|n| format!("X-{n}: {n}\r\n")).collect();
        format!("GET /sandbox/echo HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
    };
    assert_eq!(world.call(with(20)).await.status(), 200);
    let mut client = world.client();
    client.says(with(21)).await;
    assert_eq!(client.response().await.status(), 431);
    client.hears_end().await;
    assert_eq!(world.sandbox.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_long_is_refused() {
    let world = World::new("server.max_header_bytes = 16384");
    let with = |length: usize| {
        format!(
            "GET /sandbox/echo HTTP/1.1\r\nHost: h\r\nX-Long: {}\r\n\r\n",
            "x".repeat(length)
        )
    };
    assert_eq!(world.call(with(15_000)).await.status(), 200);
    let mut client = world.client();
    client.says(with(40_000)).await;
    assert_eq!(client.response().await.status(), 431);
    client.hears_end().await;
    assert_eq!(world.sandbox.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn fields_are_counted_alike_whoever_reads_them() {
    let request = "GET /sandbox/echo HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nX-1: 1\r\nX-2: 2\r\nX-3: 3\r\n\r\n";
    for (most, status) in [(4, 431), (5, 200)] {
        let world = World::new(&format!("server.max_headers = {most}"));
        let mut clients = [world.client(), world.client()];
        for (client, is_plain) in clients.iter_mut().zip([true, false]) {
            client.says_as(is_plain, request).await;
            assert_eq!(client.response().await.status(), status, "{most}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_made_up_name_takes_no_label() {
    let world = World::new("");
    for n in 0..50 {
        let path = format!("/v2/session/me?instance_id=missing{n}&access_token=invalid");
        world.call(get(&path)).await;
    }
    at_rest().await;
    let exposition = world.gateway.metrics().exposition();
    assert!(!exposition.contains("missing"), "{exposition}");
    assert_eq!(
        world.counted(
            "wawp_gateway_instance_requests_total",
            &["instance=\"other\""]
        ),
        50.0
    );
}
