//! Nothing is ever sent twice, and what was begun is finished.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{Stage, World, at_rest, get, ids, post, receipt, text};

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test(start_paused = true)]
async fn a_message_that_was_read_is_not_sent_again() {
    for (said, code) in [
        ("", "upstream_broke_off"),
        ("HTTP/1.1 200 OK\r\nCont", "upstream_broke_off"),
        ("SMTP ready\r\n\r\n", "upstream_broke_off"),
    ] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        client.says(text("only once")).await;
        let mut line = stage.upstream.accepts().await;
        line.request().await;
        line.says(said).await;
        line.hangs_up();
        let response = client.response().await;
        assert_eq!(response.status(), 502, "{said:?}");
        let body = response.json();
        assert_eq!(body["status"], 502);
        assert_eq!(body["code"], code);
        assert_eq!(body["error"], "Bad Gateway");
        assert!(body["message"].is_string());
        assert!(
            response
                .field("proxy-status")
                .unwrap()
                .starts_with("wawp-gateway; error=")
        );
        assert_eq!(response.field("retry-after"), None);
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_method_is_safe() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        client
            .says(format!(
                "{method} /v2/send/text?a=b HTTP/1.1\r\nHost: h\r\n\r\n"
            ))
            .await;
        let mut line = stage.upstream.accepts().await;
        line.request().await;
        line.hangs_up();
        assert_eq!(client.response_to(method).await.status(), 502);
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_is_not_asked_twice() {
    let mut stage = Stage::new("upstream.response_timeout = \"20s\"");
    let mut client = stage.client();
    client.says(text("only once")).await;
    let began = Instant::now();
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    let response = client.response().await;
    assert_eq!(began.elapsed(), Duration::from_secs(20));
    assert_eq!(response.status(), 504);
    assert_eq!(response.json()["code"], "upstream_timeout");
    line.hears_end().await;
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_idle_is_replaced() {
    for request in [text("a"), get("/v2/send/text?message=a"), receipt([1])] {
        for noticed in [true, false] {
            let mut stage = Stage::new("");
            let mut client = stage.client();
            client.says(get("/v2/chats")).await;
            let mut first = stage.upstream.accepts().await;
            first.request().await;
            first.says(PLAIN).await;
            client.response().await;
            at_rest().await;
            // Before the request, or when it has been given to this connection but is not written yet.
            if noticed {
                first.hangs_up();
                client.says(&request).await;
            } else {
                client.says(&request).await;
                first.hangs_up();
            }
            let mut second = stage.upstream.accepts().await;
            second.request().await;
            second.says(PLAIN).await;
            assert_eq!(client.response().await.text(), "ok");
            second.hears_nothing().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_lost_on_a_reused_connection_is_not_sent_again() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(get("/v2/chats")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line.says(PLAIN).await;
    client.response().await;
    client.says(text("only once")).await;
    line.request().await;
    line.hangs_up();
    assert_eq!(client.response().await.status(), 502);
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_cannot_be_reached() {
    let stage = Stage::new("");
    let mut client = stage.client();
    drop(stage.upstream);
    let response = client.asks(text("a")).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.json()["code"], "upstream_unreachable");
    let details = response.field("proxy-status").unwrap();
    assert!(
        details.starts_with("wawp-gateway; error=connection_refused; details=\""),
        "{details}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_sent_though_its_client_has_left() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(receipt([1])).await;
    at_rest().await;
    client.hangs_up();
    let mut line = stage.upstream.accepts().await;
    assert_eq!(line.request().await.json()["messageIds"], json!(ids([1])));
    line.says(PLAIN).await;
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_is_sent_though_its_client_has_left() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(text("a")).await;
    client.hangs_up();
    let mut line = stage.upstream.accepts().await;
    assert_eq!(line.request().await.json()["message"], "a");
    tokio::time::sleep(Duration::from_secs(10)).await;
    line.says(PLAIN).await;
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_is_finished_though_its_client_leaves_before_the_answer() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(text("a")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    client.hangs_up();
    tokio::time::sleep(Duration::from_secs(10)).await;
    line.hears_nothing().await;
    line.says(PLAIN).await;
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn a_queued_call_is_sent_though_its_client_has_left() {
    let world = World::new("limit.rate = 1\nlimit.burst = 1");
    assert_eq!(world.call(text("spends the token")).await.status(), 201);
    let mut client = world.client();
    client.says(text("queued")).await;
    at_rest().await;
    assert_eq!(world.counted("wawp_gateway_limit_queued", &[]), 1.0);
    client.hangs_up();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.sandbox.messages(), 2);
    assert_eq!(world.sandbox.calls().len(), 2);
    assert!(world.sandbox.calls()[1].body_complete);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_the_middle_of_its_body_aborts_the_call() {
    let heads = [
        "POST /v2/send/file?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf",
        "POST /v2/send/file?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for request in heads {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        client.says(request).await;
        let mut line = stage.upstream.accepts().await;
        line.hears_until("half").await;
        at_rest().await;
        client.hangs_up();
        let rest = line.hears_rest().await;
        assert!(!rest.contains("0\r\n"), "no end was made up: {rest:?}");
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_breaks_off_is_not_sent() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let whole = receipt([1]);
    client.says(&whole[..whole.len() - 1]).await;
    at_rest().await;
    client.hangs_up();
    stage.upstream.is_left_alone().await;
}

#[tokio::test(start_paused = true)]
async fn connections_to_the_upstream_are_reused_one_call_at_a_time() {
    let mut stage = Stage::new("limit.rate = 0\nlimit.burst = 0");
    let mut clients = [stage.client(), stage.client()];
    for client in &mut clients {
        client.says(get("/v2/chats")).await;
    }
    let mut lines = [
        stage.upstream.accepts().await,
        stage.upstream.accepts().await,
    ];
    for line in &mut lines {
        line.request().await;
        line.says(PLAIN).await;
    }
    for client in &mut clients {
        client.response().await;
    }
    clients[0].says(post("/v2/x", "{}")).await;
    // The one used last is used first.
    lines[1].request().await;
    lines[1].says(PLAIN).await;
    clients[0].response().await;
    lines[0].hears_nothing().await;
}
