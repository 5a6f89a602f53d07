//! Clients of every age: HTTP/1.0, pipelining, half-closed, HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::{Framing, Stage, World, get, ids, post, receipt, stream, text};

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_0_is_answered_and_left() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client
        .says("GET /v2/chats HTTP/1.0\r\nX-A: 1\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    line.hears("GET /v2/chats HTTP/1.1\r\n").await;
    let rest = line.hears_until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(rest.contains("host: upstream.test\r\n"), "{rest}");
    assert!(rest.contains("x-a: 1\r\n"), "{rest}");
    line.says(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )
    .await;
    let response = client.response().await;
    assert!(response.start.ends_with(" 200 OK"), "{response:?}");
    assert_eq!(response.framing, Framing::UntilClose, "1.0 knows no chunks");
    assert_eq!(response.text(), "abcde");
    client.hears_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_0_may_keep_its_connection() {
    let world = World::new("");
    let mut client = world.client();
    for _ in 0..2 {
        let response = client
            .asks("GET /v2/session/me?instance_id=1&access_token=t HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.field("connection"), Some("keep-alive"));
    }
    assert_eq!(world.sandbox.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::new("");
    let mut client = world.client();
    let requests = [
        get("/sandbox/status/201"),
        receipt([1]),
        get("/sandbox/status/404"),
        text("a"),
        get("/sandbox/status/202"),
    ];
    client.says(requests.concat()).await;
    for expected in [201, 201, 404, 201, 202] {
        assert_eq!(client.response().await.status(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_closed_its_half_still_gets_its_answer() {
    for request in [get("/v2/chats"), text("a"), receipt([1])] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        client.says(request).await;
        client.says_no_more().await;
        let mut line = stage.upstream.accepts().await;
        line.request().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        line.says(PLAIN).await;
        assert_eq!(client.response().await.text(), "ok");
        client.hears_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_serves_many_requests() {
    let world = World::new("");
    let mut client = world.client();
    for n in 0..20 {
        assert_eq!(client.asks(receipt([n])).await.status(), 201);
        assert_eq!(client.asks(get("/sandbox/echo")).await.status(), 200);
    }
    assert_eq!(world.counted("wawp_gateway_connections", &[]), 1.0);
}

struct Http2(http2::SendRequest<Full<Bytes>>);

impl Http2 {
    async fn connect(world: &World) -> Self {
        let io = TokioIo::new(stream(&world.gateway));
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn asks(&self, request: Request<Full<Bytes>>) -> (u16, HeaderMap, Bytes) {
        let (head, body) = self
            .0
            .clone()
            .send_request(request)
            .await
            .unwrap()
            .into_parts();
        assert_eq!(head.version, Version::HTTP_2);
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), head.headers, body)
    }
}

fn h2_post(target: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://gateway.test{target}"))
        .header("content-type", "application/json")
        .body(Full::from(body.to_owned()))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn http_2_with_prior_knowledge() {
    let world = World::new("");
    let client = Http2::connect(&world).await;
    let (status, headers, body) = client
        .asks(h2_post("/sandbox/echo?a=%40&b=@", "hello"))
        .await;
    assert_eq!(status, 200);
    assert_eq!(body, "hello");
    assert_eq!(headers["x-echo-target"], "/sandbox/echo?a=%40&b=@");
    assert_eq!(headers["x-echo-version"], "HTTP/1.1");
    let echoed: Vec<_> = headers.get_all("x-echo-header").iter().collect();
    let hosts = echoed
        .iter()
        .filter(|line| line.as_bytes().starts_with(b"host:"));
    assert_eq!(hosts.collect::<Vec<_>>(), [&"host: upstream.test"]);
    let response = client
        .asks(h2_post(
            "/v2/send/text",
            r#"{"instance_id":"1","access_token":"t","chatId":"1@c.us","message":"m"}"#,
        ))
        .await;
    assert_eq!(response.0, 201);
    assert_eq!(world.sandbox.messages(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_leaves_its_call_behind() {
    let world = World::new("limit.rate = 0.1\nlimit.burst = 1\nlimit.max_wait = \"30s\"");
    assert_eq!(world.call(text("spends the token")).await.status(), 201);
    let client = Http2::connect(&world).await;
    let body =
        r#"{"instance_id":"123","access_token":"token-1","chatId":"1@c.us","message":"queued"}"#;
    let asking = client.asks(h2_post("/v2/send/text", body));
    let soon = Duration::from_millis(10);
    assert!(tokio::time::timeout(soon, asking).await.is_err());
    assert_eq!(world.counted("wawp_gateway_limit_queued", &[]), 1.0);
    // Its future is gone now, and with it the stream; a drain waits for the call all the same.
    drop(client);
    world.gateway.drain();
    world.gateway.drained().await;
    assert_eq!(world.sandbox.messages(), 2);
    assert!(world.sandbox.calls()[1].body_complete);
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_stream_is_reset_is_not_whole() {
    for reason in [h2::Reason::CANCEL, h2::Reason::NO_ERROR] {
        let mut stage = Stage::new("");
        let io = stream(&stage.gateway);
        let (client, connection) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = Request::post("http://h/x?instance_id=1&access_token=t").body(());
        let (_answer, mut body) = client.send_request(request.unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"begin"), false).unwrap();
        let mut line = stage.upstream.accepts().await;
        line.hears_until("begin\r\n").await;
        body.send_reset(reason);
        line.hears_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn receipts_merge_across_protocols() {
    let world = World::new("");
    let client = Http2::connect(&world).await;
    let body = |n| {
        format!(
            r#"{{"instance_id":"123","access_token":"token-1","chatId":"1@c.us","messageIds":["{}"]}}"#,
            ids([n])[0]
        )
    };
    let old = world.calling(post("/v2/send/seen", &body(0)));
    let (first, second) = tokio::join!(
        client.asks(h2_post("/v2/send/seen", &body(1))),
        client.asks(h2_post("/v2/send/seen", &body(2))),
    );
    assert_eq!(
        (first.0, second.0, old.await.unwrap().status()),
        (201, 201, 201)
    );
    let calls = world.sandbox.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let mut sent = calls[0].ids.clone();
    sent.sort();
    assert_eq!(sent, ids(0..3));
}

#[tokio::test(start_paused = true)]
async fn many_streams_at_once() {
    let world = World::new("limit.rate = 0\nlimit.burst = 0");
    let client = std::sync::Arc::new(Http2::connect(&world).await);
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let client = std::sync::Arc::clone(&client);
            tokio::spawn(async move { client.asks(h2_post("/sandbox/sink", "x")).await.0 })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(world.sandbox.calls().len(), 200);
}
