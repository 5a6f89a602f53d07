//! The target of a request: this upstream, and no host that the client chooses.

use crate::support::{Stage, World, get};

#[tokio::test(start_paused = true)]
async fn connect_is_refused() {
    for target in ["api.wawp.net:443", "localhost:22", "upstream.test:80"] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let response = client
            .asks(format!(
                "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
            ))
            .await;
        assert_eq!(response.status(), 405);
        assert!(response.field("allow").unwrap().contains("POST"));
        assert_eq!(response.json()["status"], 405);
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn foreign_absolute_targets_are_refused() {
    for target in [
        "http://example.com/",
        "http://169.254.169.254/latest/meta-data",
        "http://upstream.test@example.com/",
        "http://upstream.test.example.com/",
    ] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let response = client
            .asks(format!(
                "GET {target} HTTP/1.1\r\nHost: upstream.test\r\n\r\n"
            ))
            .await;
        assert_eq!(response.status(), 421, "{target}");
        assert_eq!(response.json()["code"], "foreign_target");
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn absolute_targets_for_this_host_are_served() {
    for host in [
        "upstream.test",
        "UPSTREAM.test:80",
        "127.0.0.1:8080",
        "localhost:8080",
        "gw.test",
        "gw.test:99",
    ] {
        let mut stage = Stage::new("server.names = [\"gw.test\"]");
        let mut client = stage.client();
        client
            .says(format!(
                "GET http://{host}/v2/chats?a=%41 HTTP/1.1\r\nHost: ignored.example\r\n\r\n"
            ))
            .await;
        let mut line = stage.upstream.accepts().await;
        line.hears("GET /v2/chats?a=%41 HTTP/1.1\r\nHost: upstream.test\r\n\r\n")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_absolute_receipt_merges_with_others() {
    let world = World::new("");
    let plain = crate::support::receipt([1]);
    let absolute = crate::support::receipt([2]).replacen("POST /", "POST http://upstream.test/", 1);
    let responses = world.together([plain, absolute]).await;
    assert!(responses.iter().all(|response| response.status() == 201));
    assert_eq!(world.sandbox.calls().len(), 1);
    assert_eq!(world.sandbox.calls()[0].target, "/v2/send/seen");
}

#[tokio::test(start_paused = true)]
async fn any_host_field_reaches_the_upstream_as_its_own() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client
        .says("GET / HTTP/1.1\r\nhost: whatever.example:1\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    assert_eq!(line.request().await.field("host"), Some("upstream.test"));
}

#[tokio::test(start_paused = true)]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let bodies = [
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc",
        "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
    ];
    for request in bodies {
        let world = World::new("");
        let mut client = world.client();
        client.tries_to_say(request).await.ok();
        client.says_no_more().await;
        let heard = client.hears_rest().await;
        let smuggled = world
            .sandbox
            .calls()
            .iter()
            .any(|call| call.target.contains("smuggled"));
        assert!(!smuggled, "{request:?}");
        if !heard.starts_with("HTTP/1.1 400 ") {
            // The one reading of both lengths that RFC 9112 §6.3 leaves: chunks win, and the length goes no further.
            assert!(
                request.contains("Transfer-Encoding: chunked"),
                "{request:?}: {heard:?}"
            );
            let calls = world.sandbox.calls();
            assert!(
                calls
                    .iter()
                    .all(|call| !call.headers.contains_key("content-length")),
                "{calls:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_field_can_split_an_answer_or_a_request() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(get("/v2/chats?a=%0d%0aX-Evil:%201")).await;
    let mut line = stage.upstream.accepts().await;
    line.hears("GET /v2/chats?a=%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: upstream.test\r\n\r\n")
        .await;
}
