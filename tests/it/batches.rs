//! Merging: which receipts share a call, and that no caller notices.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    Stage, World, at_rest, head_and_body, ids, post, receipt, receipt_in_query, receipt_of, text,
};

const WINDOW: Duration = Duration::from_millis(50);
const OK: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn fifty_callers_share_one_call_in_the_body_spelling() {
    let world = World::new("");
    let began = Instant::now();
    let responses = world.together((0..50).map(|n| receipt([n]))).await;
    assert_eq!(began.elapsed(), WINDOW);
    let calls = world.sandbox.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].ids, ids(0..50));
    let body: Value = serde_json::from_slice(&calls[0].body).unwrap();
    let expected = json!({
        "instance_id": "123", "access_token": "token-1", "chatId": "1@c.us", "messageIds": ids(0..50),
    });
    assert_eq!(body, expected);
    for response in responses {
        assert_eq!(response.status(), 201);
        let timing = response.field("server-timing").unwrap();
        assert!(
            timing.starts_with(
                r#"batch;dur=50;desc="50 callers, 50 ids", queue;dur=0, upstream;dur="#
            ),
            "{timing}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_callers_share_one_call_in_the_query_spelling() {
    let world = World::new("");
    let began = Instant::now();
    let responses = world.together((0..50).map(|n| receipt_in_query([n]))).await;
    assert_eq!(began.elapsed(), WINDOW);
    assert!(responses.iter().all(|response| response.status() == 201));
    let calls = world.sandbox.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].ids, ids(0..50));
    assert!(calls[0].target.starts_with(
        "/v2/send/seen?instance_id=123&access_token=token-1&chatId=1%40c.us&messageIds=%5B%22false_"
    ));
    assert!(calls[0].target.ends_with("%22%5D&participant=null"));
    assert_eq!(calls[0].body.len(), 0);
}

/// Whether its body came soon after its head, or so long that hyper reads it.
#[tokio::test(start_paused = true)]
async fn a_window_runs_from_the_moment_its_first_receipt_has_come() {
    for pause in [3, 1000].map(Duration::from_millis) {
        let world = World::new("");
        let (mut first, mut second) = (world.client(), world.client());
        let request = receipt([1]);
        let (head, body) = head_and_body(&request);
        first.says(head).await;
        tokio::time::sleep(pause).await;
        first.says(body).await;
        let began = Instant::now();
        tokio::time::sleep(WINDOW - Duration::from_millis(1)).await;
        second.says(receipt([2])).await;
        assert_eq!(first.response().await.status(), 201);
        assert_eq!(began.elapsed(), WINDOW);
        assert_eq!(second.response().await.status(), 201);
        assert_eq!(world.sandbox.calls().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn ids_are_sent_once_and_in_the_order_they_were_first_seen() {
    let world = World::new("");
    world
        .together([receipt([3, 1]), receipt([1, 2]), receipt([3, 0, 2])])
        .await;
    let calls = world.sandbox.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].ids, ids([3, 1, 2, 0]));
}

#[tokio::test(start_paused = true)]
async fn the_verdict_of_a_merged_call_is_every_callers_own() {
    let mut stage = Stage::new("server.timing_header = false");
    let mut callers = [stage.client(), stage.client(), stage.client()];
    for (n, caller) in callers.iter_mut().enumerate() {
        caller.says(receipt([n])).await;
    }
    let mut line = stage.upstream.accepts().await;
    let request = line.request().await;
    assert_eq!(request.json()["messageIds"], json!(ids(0..3)));
    let response = "HTTP/1.1 403 Not Yours\r\nX-Case: Kept\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                  Content-Type: text/html\r\nContent-Length: 9\r\n\r\n<p>no</p>";
    line.says(response).await;
    let expected = crate::support::Message::response(response.as_bytes(), "POST").end_to_end();
    for caller in &mut callers {
        assert_eq!(caller.response().await.end_to_end(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_caller_is_forwarded_byte_for_byte_one_window_later() {
    let bodies = [
        r#"{ "messageIds" : [ "false_1@c.us_A" , "false_1@c.us_A" ],"chatId":"1@c.us"  , "participant":null}"#,
        "{\"chatId\":\"\\u0031@c.us\",\n\t\"instance_id\":\"123\",\"access_token\":\"t\"}",
    ];
    for body in bodies {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let began = Instant::now();
        let head = "POST /v2/send/seen?access_token=a%2Fb+c&instance_id=1 HTTP/1.1";
        let fields = format!(
            "X-Odd-CASE: 1\r\ncontent-TYPE: application/json\r\nAccept: */*\r\nContent-Length: {}",
            body.len()
        );
        let head = if body.contains("instance_id") {
            "POST /v2/send/seen HTTP/1.1"
        } else {
            head
        };
        client
            .says(format!(
                "{head}\r\nHost: gateway.test\r\n{fields}\r\n\r\n{body}"
            ))
            .await;
        let mut line = stage.upstream.accepts().await;
        assert_eq!(began.elapsed(), WINDOW);
        line.hears(format!(
            "{head}\r\nHost: upstream.test\r\n{fields}\r\n\r\n{body}"
        ))
        .await;
        line.says(OK).await;
        assert_eq!(client.response().await.status(), 201);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_caller_in_the_query_spelling_is_forwarded_byte_for_byte() {
    let target = "/v2/send/seen?participant=null&chatId=1%40c.us&messageIds=%5b%22false_1@c.us_A%22%5D&instance_id=1\
                  &access_token=%74";
    for rest in [
        "\r\n",
        "Content-Length: 0\r\n\r\n",
        "Content-Length: 2\r\n\r\n{}",
    ] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let began = Instant::now();
        client
            .says(format!(
                "POST {target} HTTP/1.1\r\nHost: gateway.test\r\n{rest}"
            ))
            .await;
        let mut line = stage.upstream.accepts().await;
        assert_eq!(began.elapsed(), WINDOW);
        line.hears(format!(
            "POST {target} HTTP/1.1\r\nHost: upstream.test\r\n{rest}"
        ))
        .await;
        line.hears_nothing().await;
        line.says(OK).await;
        assert_eq!(client.response().await.status(), 201);
    }
}

#[tokio::test(start_paused = true)]
async fn later_callers_do_not_move_the_window() {
    let world = World::new("");
    let began = Instant::now();
    let first = world.calling(receipt([1]));
    tokio::time::sleep(WINDOW * 4 / 5).await;
    let second = world.calling(receipt([2]));
    first.await.unwrap();
    assert_eq!(began.elapsed(), WINDOW);
    second.await.unwrap();
    assert_eq!(began.elapsed(), WINDOW);
    assert_eq!(world.sandbox.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_joins_a_call_that_is_on_the_wire() {
    let mut stage = Stage::new("");
    let mut first = stage.client();
    first.says(receipt([1])).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    let mut second = stage.client();
    second.says(receipt([2])).await;
    let mut other = stage.upstream.accepts().await;
    assert_eq!(other.request().await.json()["messageIds"], json!(ids([2])));
    line.says(OK).await;
    other.says("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(first.response().await.status(), 201);
    assert_eq!(second.response().await.status(), 204);
}

#[tokio::test(start_paused = true)]
async fn what_differs_in_anything_but_ids_is_not_merged() {
    let body =
        |extra: &str| format!(r#"{{"chatId":"1@c.us","messageIds":["false_1@c.us_A"]{extra}}}"#);
    let query = "/v2/send/seen?instance_id=123&access_token=t";
    let with = |field: &str| {
        post(query, &body("")).replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
    };
    let whole = r#"{"chatId":"1@c.us"}"#;
    let requests = [
        post(query, &body("")),
        post("/v2/send/seen?instance_id=123&access_token=u", &body("")),
        post("/v2/send/seen?instance_id=124&access_token=t", &body("")),
        post(query, &body(r#","reply_to":null"#)),
        post(query, &body(r#","participant":null"#)),
        post(query, &body(r#","participant":"null""#)),
        post(query, &body(r#","participant":"""#)),
        post(query, &body(r#","participant":"2@c.us""#)),
        post(query, whole),
        post(
            query,
            r#"{"chatId":"2@c.us","messageIds":["false_1@c.us_A"]}"#,
        ),
        post(
            query,
            r#"{"chatId":"1@c.us","messageIds":["false_1@c.us_A"],"instance_id":"123"}"#,
        ),
        with("Authorization: Bearer t"),
        with("access-token: t"),
        with("X-Instance-ID: 123"),
        with("Cookie: a=b"),
        with("Accept: application/xml"),
        with("Accept-Language: de"),
        with("Accept-Encoding: gzip"),
        with("X-Wawp-Anything: 1"),
        receipt([1]),
        receipt_in_query([1]),
    ];
    let world = World::new("limit.rate = 0\nlimit.burst = 0");
    let count = requests.len();
    // Each twice: so it is known that they could have been merged.
    world
        .together(requests.iter().chain(&requests).cloned())
        .await;
    let calls = world.sandbox.calls();
    assert_eq!(calls.len(), count, "{calls:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_completely_is_forwarded_at_once_and_untouched() {
    let query = "/v2/send/seen?instance_id=123&access_token=t";
    let id = "false_1@c.us_A";
    let odd = [
        format!(r#"{{"chatId":"1@c.us","messageIds":["{id}"],"messageId":"{id}"}}"#),
        format!(r#"{{"chatId":"1@c.us","messageIds":["{id}"],"chatId":"1@c.us"}}"#),
        r#"{"chatId":"1@c.us","messageIds":["no id"]}"#.to_owned(),
        r#"{"chatId":"1@c.us","messageIds":[7]}"#.to_owned(),
        format!(r#"{{"chatId":1,"messageIds":["{id}"]}}"#),
        format!(r#"{{"messageIds":["{id}"]}}"#),
        format!(r#"{{"chatId":"1@c.us","messageIds":["{id}"]"#),
        format!("chatId=1%40c.us&messageIds={id}"),
        format!(r#"[{{"chatId":"1@c.us","messageIds":["{id}"]}}]"#),
        format!(
            r#"{{"chatId":"1@c.us","messageIds":["{id}"],"pad":"{}"}}"#,
            "x".repeat(70_000)
        ),
    ];
    for body in odd {
        let mut stage = Stage::new("");
        let began = Instant::now();
        let mut client = stage.client();
        let request = post(query, &body);
        let (_, heard) = tokio::join!(client.says(&request), async {
            stage.upstream.accepts().await.request().await
        });
        assert_eq!(began.elapsed(), Duration::ZERO, "{body}");
        assert_eq!(heard.text(), body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_sent_as_soon_as_it_is_full() {
    let world = World::new("batch.max_ids = 10");
    let began = Instant::now();
    world
        .together((0..5).map(|n| receipt([2 * n, 2 * n + 1])))
        .await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(world.sandbox.calls().len(), 1);

    let world = World::new("batch.max_callers = 2");
    let began = Instant::now();
    world.together((0..4).map(|n| receipt([n]))).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    let sent: Vec<_> = world
        .sandbox
        .calls()
        .into_iter()
        .map(|call| call.ids)
        .collect();
    assert_eq!(sent, [ids([0, 1]), ids([2, 3])]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_would_overfill_a_batch_opens_another() {
    let world = World::new("batch.max_ids = 4");
    world
        .together([receipt(0..3), receipt(3..6), receipt(10..20)])
        .await;
    let mut sent: Vec<_> = world
        .sandbox
        .calls()
        .into_iter()
        .map(|call| call.ids)
        .collect();
    sent.sort();
    assert_eq!(sent, [ids(0..3), ids(3..6), ids(10..20)]);
}

#[tokio::test(start_paused = true)]
async fn whole_chat_calls_share_a_call_with_each_other_and_nobody_else() {
    let query = "/v2/send/seen?instance_id=123&access_token=t";
    let world = World::new("");
    let whole = post(query, r#"{"chatId":"1@c.us"}"#);
    let empty = post(query, r#"{"messageIds": [], "chatId":"1@c.us"}"#);
    let list = post(
        query,
        r#"{"chatId":"1@c.us","messageIds":["false_1@c.us_A"]}"#,
    );
    let responses = world.together([whole.clone(), list, empty, whole]).await;
    assert_eq!(world.sandbox.calls().len(), 2);
    for n in [0, 2, 3] {
        assert!(responses[n].json()["ids"].is_array());
    }
    assert_eq!(responses[1].body, b"");
}

#[tokio::test(start_paused = true)]
async fn a_window_of_zero_turns_merging_off() {
    let world = World::new("batch.window = \"0ms\"");
    let began = Instant::now();
    world.together((0..5).map(|n| receipt([n]))).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(world.sandbox.calls().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_batch_grows_while_it_waits_for_its_token() {
    let world = World::new("limit.rate = 1\nlimit.burst = 1");
    assert_eq!(world.call(text("spends the token")).await.status(), 201);
    let began = Instant::now();
    let mut callers = Vec::new();
    for n in 0..9 {
        callers.push(world.calling(receipt([n])));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap().status(), 201);
    }
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    let calls = world.sandbox.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1].ids, ids(0..9));
}

#[tokio::test(start_paused = true)]
async fn callers_that_hang_up_leave_their_ids() {
    let world = World::new("");
    for n in 0..3 {
        let mut client = world.client();
        client.says(receipt([n])).await;
        at_rest().await;
        client.hangs_up();
    }
    tokio::time::sleep(WINDOW).await;
    at_rest().await;
    let calls = world.sandbox.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].ids, ids(0..3));
    assert!(calls[0].body_complete);
}

#[tokio::test(start_paused = true)]
async fn one_credential_never_rides_on_another() {
    let world = World::new("");
    let one = ids([1]);
    let responses = world
        .together([
            receipt_of("123", "good", "1@c.us", &one),
            receipt_of("123", "invalid", "1@c.us", &one),
        ])
        .await;
    assert_eq!(responses[0].status(), 201);
    assert_eq!(responses[1].status(), 401);
    assert_eq!(world.sandbox.calls().len(), 2);
}
