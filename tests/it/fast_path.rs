//! The fast path (a whole request of known length, served without hyper) cannot be told apart from hyper. Most other
//! tests use it too; these test what only the fast path could get wrong.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::support::{
    ClientConn, Message, Stage, World, at_rest, counted, get, post, receipt, text,
};

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Says a request, which arrives on a new connection upstream.
async fn asks(client: &mut ClientConn, stage: &mut Stage, request: String) -> ClientConn {
    client.says(request).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    line
}

/// How a call went: what the upstream heard, and what the client heard then.
async fn passes(is_plain: bool, request: &str, response: &str) -> (Message, Message, bool) {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says_as(is_plain, request).await;
    let mut line = stage.upstream.accepts().await;
    let heard = line.request().await;
    line.says(response).await;
    if response.contains("until the end") {
        line.says_no_more().await;
    }
    let response = client.response().await;
    // Whether the client may go on is the same, too.
    client.says(get("/next")).await;
    let goes_on = tokio::time::timeout(Duration::from_secs(1), stage.upstream.accepts());
    let is_reused = goes_on.await.is_err();
    (heard, response, is_reused)
}

fn fields() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "Accept: */*",
        "ACCEPT: text/plain",
        "x-one: 1",
        "X-One: 2",
        "Cookie: a=1",
        "Content-Type: application/json",
        "Keep-Alive: timeout=9",
        "Via: 1.1 before",
        "X-Empty:",
    ]);
    proptest::collection::vec(field, 0..6)
        .prop_map(|fields| fields.iter().map(|field| format!("{field}\r\n")).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_plain_call_is_passed_as_hyper_would_pass_it(
        start in prop::sample::select(vec![
            "GET /v2/x?instance_id=1&message=%41",
            "POST /v2/send/text?instance_id=1",
            "DELETE //",
        ]),
        sent in fields(),
        body in prop::sample::select(vec![None, Some(""), Some("{\"instance_id\":\"7\"}"), Some("a=b")]),
        status in prop::sample::select(vec!["200 OK", "201 Fine", "404 Not Found", "204 No Content", "304 Not Modified", "500 "]),
        returned in fields(),
        end in prop::sample::select(vec![
            "Content-Length: 5\r\n\r\nhello",
            "content-length: 0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-End: 1\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "Connection: close\r\nContent-Length: 5\r\n\r\nhello",
            "\r\nuntil the end",
        ]),
    ) {
        let length = body.map(|body| format!("Content-Length: {}\r\n", body.len()));
        let request = format!(
            "{start} HTTP/1.1\r\nHost: h\r\n{sent}{}\r\n{}",
            length.unwrap_or_default(),
            body.unwrap_or_default()
        );
        let end = match status.starts_with(['2', '4', '5']) && !status.starts_with("204") {
            true => end,
            false => "\r\n",
        };
        let response = format!("HTTP/1.1 {status}\r\n{returned}{end}");
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let plain = passes(true, &request, &response).await;
            let hypers = passes(false, &request, &response).await;
            prop_assert_eq!(plain.0.end_to_end(), hypers.0.end_to_end(), "the request");
            prop_assert_eq!(plain.1.framing, hypers.1.framing);
            prop_assert_eq!(plain.1.end_to_end(), hypers.1.end_to_end(), "the response");
            // hyper does not read trailers that were not asked for, and so cannot reuse the connection.
            if !end.contains("X-End") {
                prop_assert_eq!(plain.2, hypers.2, "the connection upstream");
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn callers_of_both_kinds_share_a_batch() {
    let world = World::new("");
    let mut clients = [world.client(), world.client(), world.client()];
    for (number, client) in clients.iter_mut().enumerate() {
        client.says_as(number != 1, &receipt([number])).await;
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 201);
    }
    assert_eq!(world.sandbox.calls().len(), 1);
    let saved = world.counted("wawp_gateway_upstream_requests_saved_total", &[]);
    assert_eq!(saved, 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_a_moment_after_its_head_is_waited_for() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let request = post("/v2/x?instance_id=1&access_token=t", "hello");
    let (head, body) = request.split_at(request.len() - 5);
    client.says(head).await;
    tokio::time::sleep(Duration::from_millis(4)).await;
    client.says(&body[..2]).await;
    client.says(&body[2..]).await;
    let mut line = stage.upstream.accepts().await;
    assert_eq!(line.request().await.text(), "hello");
    line.says(PLAIN).await;
    assert_eq!(client.response().await.text(), "ok");

    // Later than that it is streamed: its head goes ahead.
    let began = Instant::now();
    client.says(head).await;
    let mut line = stage.upstream.accepts().await;
    line.hears_until("\r\n\r\n").await;
    assert!(began.elapsed() < Duration::from_millis(50));
    tokio::time::sleep(Duration::from_secs(9)).await;
    client.says(body).await;
    line.hears("hello").await;
    line.says(PLAIN).await;
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_the_upstream_has_closed_is_not_used() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    for last_words in [
        "",
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut line = asks(&mut client, &mut stage, get("/one")).await;
        line.says(PLAIN).await;
        assert_eq!(client.response().await.text(), "ok");
        line.says(last_words).await;
        line.hangs_up();
        at_rest().await;
        client
            .says(post("/v2/send/text?instance_id=1", "hello"))
            .await;
        let mut line = stage.upstream.accepts().await;
        assert_eq!(line.request().await.text(), "hello");
        line.says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.response().await.text(), "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_that_have_ended_are_not_counted() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let idle = |stage: &Stage| {
        let name = "wawp_gateway_upstream_connections";
        counted(&stage.gateway.exposition(), name, &["state=\"idle\""])
    };
    let mut line = asks(&mut client, &mut stage, get("/one")).await;
    line.says(PLAIN).await;
    client.response().await;
    assert_eq!(idle(&stage), 1.0);
    line.hangs_up();
    assert_eq!(idle(&stage), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_not_used_again_behind_a_body_that_cannot_be() {
    for is_plain in [true, false] {
        for (head, is_reused) in [
            ("204 No Content\r\nTransfer-Encoding: chunked", false),
            ("304 Not Modified\r\nTransfer-Encoding: chunked", false),
            ("204 No Content\r\nContent-Length: 2", false),
            ("204 No Content\r\nContent-Length: 0", true),
            ("304 Not Modified\r\nContent-Length: 2", true),
            ("204 No Content", true),
        ] {
            let mut stage = Stage::new("");
            let mut client = stage.client();
            client.says_as(is_plain, &get("/x")).await;
            let mut line = stage.upstream.accepts().await;
            line.request().await;
            line.says(format!("HTTP/1.1 {head}\r\n\r\n")).await;
            client.hears_until("\r\n\r\n").await;
            at_rest().await;
            client.says_as(is_plain, &get("/y")).await;
            if !is_reused {
                line = stage.upstream.accepts().await;
            }
            assert!(line.request().await.start.starts_with("GET /y "), "{head}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_no_longer_than_the_upstream_says() {
    for is_plain in [true, false] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let mut asks = async |line: Option<ClientConn>, pause: u64| {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            client.says_as(is_plain, &get("/x")).await;
            let mut line = match line {
                Some(line) => line,
                None => stage.upstream.accepts().await,
            };
            line.request().await;
            line.says(
                "HTTP/1.1 200 OK\r\nKeep-Alive: max=9, timeout=5\r\nContent-Length: 2\r\n\r\nok",
            )
            .await;
            assert_eq!(client.response().await.text(), "ok");
            line
        };
        let line = asks(None, 0).await;
        let line = asks(Some(line), 3900).await;
        let mut old = line;
        asks(None, 4100).await;
        old.hears_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_before_the_request_is_written_is_passed_on() {
    let mut stage = Stage::new("batch.paths = [\"/v2/send/seen\"]");
    let mut client = stage.client();
    client.says(text("hello")).await;
    let mut line = stage.upstream.accepts().await;
    // It says so without having read anything.
    line.says("HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await;
    line.hangs_up();
    assert_eq!(client.response().await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_answer_is_told_so() {
    let unasked = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(70_000));
    for (response, code) in [
        ("nonsense\r\n\r\n", "upstream_broke_off"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "upstream_broke_off",
        ),
        (unasked, "upstream_broke_off"),
        (&*endless, "upstream_broke_off"),
        ("HTTP/1.1 200 OK\r\nConte", "upstream_broke_off"),
        ("", "upstream_broke_off"),
    ] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let mut line = asks(&mut client, &mut stage, text("hello")).await;
        line.tries_to_say(response).await.ok();
        line.says_no_more().await;
        let heard = client.response().await;
        assert_eq!(heard.status(), 502, "{response:.40}");
        assert_eq!(heard.json()["code"], code, "{response:.40}");
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_waits_for_a_slow_client() {
    let mut stage = Stage::new("server.body_timeout = \"30s\"");
    let mut client = stage.client();
    let mut line = asks(&mut client, &mut stage, get("/long")).await;
    let length = 3_000_000;
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(length)
    );
    let writes = tokio::spawn(async move {
        line.says(response).await;
        (Instant::now(), line)
    });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!writes.is_finished(), "the upstream may not get ahead");
    assert_eq!(client.response().await.body.len(), length);
    writes.await.unwrap();

    // One that takes nothing for too long is cut, and so is the upstream.
    let mut line = asks(&mut client, &mut stage, get("/long")).await;
    let began = Instant::now();
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(length)
    );
    assert!(line.tries_to_say(response).await.is_err());
    assert!((30..=31).contains(&began.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_cut_where_it_broke() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for (response, end) in [(half, "half"), (chunk, "4\r\nhalf\r\n")] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let mut line = asks(&mut client, &mut stage, get("/x")).await;
        line.says(response).await;
        line.hangs_up();
        let began = Instant::now();
        let heard = client.hears_rest().await;
        assert!(heard.ends_with(end), "{heard:?}");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn pieces_of_an_answer_go_on_as_they_come() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let mut line = asks(&mut client, &mut stage, get("/events")).await;
    line.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.hears_until("\r\n\r\n").await;
    for word in ["one", "three", "four"] {
        tokio::time::sleep(Duration::from_secs(100)).await;
        line.says(format!("{:x}\r\n{word}\r\n", word.len())).await;
        client
            .hears(format!("{:x}\r\n{word}\r\n", word.len()))
            .await;
    }
    line.says("0\r\n\r\n").await;
    client.hears("0\r\n\r\n").await;
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_in_two_packets_is_plain_all_the_same() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let request = get(&format!("/v2/x?instance_id=1&padding={}", "x".repeat(4000)));
    let (one, other) = request.split_at(2500);
    client.says(one).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    client.says(other).await;
    let mut line = stage.upstream.accepts().await;
    let heard = line.request().await;
    assert_eq!(heard.start, Message::request(request.as_bytes()).start);
    line.says(PLAIN).await;
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_begins_with_a_call_ends_the_connection_after_it() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let mut line = asks(&mut client, &mut stage, get("/x")).await;
    stage.gateway.drain();
    line.says(PLAIN).await;
    let response = client.response().await;
    assert_eq!(response.field("connection"), Some("close"));
    let began = Instant::now();
    client.hears_end().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    stage.gateway.drained().await;
}

#[tokio::test(start_paused = true)]
async fn fields_of_the_hop_in_an_answer_do_not_end_the_connection() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let mut line = asks(&mut client, &mut stage, get("/x")).await;
    line.says("HTTP/1.1 200 OK\r\nTE: trailers\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(client.response().await.text(), "ok");
    client.says(get("/x")).await;
    line.request().await;
}

#[tokio::test(start_paused = true)]
async fn heads_before_the_answer_are_passed_over_but_not_for_ever() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let mut line = asks(&mut client, &mut stage, get("/x")).await;
    line.says(early.repeat(100)).await;
    line.says(PLAIN).await;
    assert_eq!(client.response().await.text(), "ok");
    client.says(get("/x")).await;
    line.request().await;
    line.says(early.repeat(101)).await;
    assert_eq!(client.response().await.status(), 502);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_connection_is_spelt_as_the_upstream_spells_it() {
    for is_plain in [true, false] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        client.says_as(is_plain, &get("/x")).await;
        let mut line = stage.upstream.accepts().await;
        line.request().await;
        stage.gateway.drain();
        line.says("HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok")
            .await;
        let heard = client.hears_rest().await;
        assert!(heard.contains("\r\nConnection: close\r\n"), "{heard}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_shares_an_answer_gets_all_of_it_however_they_asked() {
    for leader_is_plain in [true, false] {
        let mut stage = Stage::new("");
        let (mut leader, mut other) = (stage.client(), stage.client());
        leader.says_as(leader_is_plain, &receipt([1])).await;
        other.says_as(!leader_is_plain, &receipt([2])).await;
        let mut line = stage.upstream.accepts().await;
        line.request().await;
        line.says("HTTP/1.1 201 Created\r\nX-Thing: 1\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok")
            .await;
        for client in [&mut leader, &mut other] {
            let response = client.response().await;
            assert_eq!((response.status(), response.text()), (201, "ok"));
            assert_eq!(response.field("x-thing"), Some("1"));
            let cookies = response.fields.iter();
            let cookies = cookies.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
            let cookies: Vec<_> = cookies.map(|(_, value)| value.as_str()).collect();
            assert_eq!(cookies, ["a=1", "b=2"]);
            assert!(response.field("server-timing").is_some());
            assert_eq!(response.field("content-length"), Some("2"));
        }
        stage.upstream.is_left_alone().await;
    }
}
