//! `Expect: 100-continue`: the client gets `100 Continue` when the upstream sends it, and not before.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{ClientConn, Stage, World, get, head_and_body, ids, receipt};

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A client that has announced a body of four bytes, and the upstream that has heard the announcement.
async fn announced(stage: &mut Stage) -> (ClientConn, ClientConn) {
    let mut client = stage.client();
    // With instance and token in the head there is nothing to look for in the body.
    client
        .says("POST /v2/send/file?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    let head = line.hears_until("\r\n\r\n").await;
    assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
    assert!(head.contains("Content-Length: 4\r\n"), "{head}");
    (client, line)
}

#[tokio::test(start_paused = true)]
async fn the_client_goes_on_when_the_upstream_asks() {
    let mut stage = Stage::new("");
    let (mut client, mut line) = announced(&mut stage).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    client.hears_nothing().await;
    line.hears_nothing().await;
    line.says(CONTINUE).await;
    client.hears(CONTINUE).await;
    line.hears_nothing().await;
    client.says("body").await;
    line.hears("body").await;
    line.says(PLAIN).await;
    client.hears(PLAIN).await;
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_final_answer_comes_without_the_body() {
    for response in [
        "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut stage = Stage::new("");
        let (mut client, mut line) = announced(&mut stage).await;
        let began = Instant::now();
        line.says(response).await;
        let heard = client.response().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(heard.start, response.lines().next().unwrap());
        assert_eq!(heard.field("connection"), Some("close"));
        // The next request, written all the same, is not read as the body.
        client.tries_to_say(get("/x?instance_id=1")).await.ok();
        assert_eq!(line.hears_rest().await, "", "no body was ever asked for");
        client.hears_end().await;
        assert_eq!(began.elapsed(), Duration::ZERO, "neither side is kept");
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_final_answer_may_take_its_time_to_come_without_the_body() {
    let mut stage = Stage::new("");
    let (mut client, mut line) = announced(&mut stage).await;
    line.says("HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\n")
        .await;
    let head = client.hears_until("\r\n\r\n").await;
    assert!(head.contains("onnection: close\r\n"), "{head}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    line.says("no").await;
    client.hears("no").await;
    let began = Instant::now();
    line.says("no").await;
    client.hears("no").await;
    line.hears_end().await;
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_is_not_waited_for_longer_than_a_second() {
    let mut stage = Stage::new("");
    let (mut client, mut line) = announced(&mut stage).await;
    let began = Instant::now();
    client.hears(CONTINUE).await;
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    client.says("body").await;
    line.hears("body").await;
    line.says(PLAIN).await;
    client.hears(PLAIN).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_wait_is_served_as_well() {
    let mut stage = Stage::new("");
    let (mut client, mut line) = announced(&mut stage).await;
    client.says("body").await;
    line.says(CONTINUE).await;
    line.hears("body").await;
    line.says(PLAIN).await;
    let mut heard = client.response().await;
    if heard.status() == 100 {
        heard = client.response().await;
    }
    assert_eq!(heard.text(), "ok");
}

#[tokio::test(start_paused = true)]
async fn where_the_body_must_be_looked_into_the_gateway_says_it_itself() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let body = r#"{"instance_id":"1","access_token":"t","chatId":"1@c.us"}"#;
    client
        .says(format!(
            "POST /v2/send/text HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
    client.hears(CONTINUE).await;
    client.says(body).await;
    let mut line = stage.upstream.accepts().await;
    line.hears_until("\r\n\r\n").await;
    line.says(CONTINUE).await;
    line.hears(body).await;
    line.says(PLAIN).await;
    client.hears(PLAIN).await;
}

/// Java and .NET can wait for `100 Continue`. The gateway sends it for a receipt, because it needs the body to merge.
#[tokio::test(start_paused = true)]
async fn receipts_that_expect_to_be_asked_for_are_merged() {
    let world = World::new("");
    let began = Instant::now();
    let mut clients = [world.client(), world.client()];
    for (number, client) in clients.iter_mut().enumerate() {
        let request = receipt([number]);
        let (head, body) = head_and_body(&request);
        let head = head.replacen("\r\n", "\r\nExpect: 100-continue\r\n", 1);
        client.says(head).await;
        client.hears(CONTINUE).await;
        client.says(body).await;
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 201);
    }
    assert_eq!(began.elapsed(), Duration::from_millis(50));
    let calls = world.sandbox.calls();
    assert_eq!((calls.len(), &calls[0].ids[..]), (1, &ids(0..2)[..]));
}
