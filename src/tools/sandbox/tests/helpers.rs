//! The helpers under `/sandbox/`.

use super::*;

#[tokio::test]
async fn echo_returns_head_and_body_of_the_request() {
    let sandbox = Sandbox::new(Settings::default());
    let target = "/sandbox/echo?a=%41&&b=c+d%20@&access_token=s3cret";
    let mut request = typed("text/x", target, "\u{1f}\u{8b} not really gzip");
    request
        .headers_mut()
        .insert("content-encoding", "gzip".parse().unwrap());
    request
        .headers_mut()
        .append("x-twice", "one".parse().unwrap());
    request
        .headers_mut()
        .append("x-twice", "two, \u{e9}".parse().unwrap());
    let response = send(&sandbox, request).await;
    assert_eq!(
        (response.status.as_u16(), response.text()),
        (200, "\u{1f}\u{8b} not really gzip")
    );
    assert_eq!(response.header("x-echo-method"), "POST");
    assert_eq!(response.header("x-echo-target"), target);
    assert_eq!(response.header("x-echo-version"), "HTTP/1.1");
    assert_eq!(
        (
            response.header("content-type"),
            response.header("content-encoding")
        ),
        ("text/x", "gzip")
    );
    assert!(
        sandbox.calls()[0].body_complete,
        "a body of known length ends without a last frame"
    );
    let lines: Vec<_> = response
        .headers
        .get_all("x-echo-header")
        .iter()
        .map(|line| line.as_bytes())
        .collect();
    for line in ["x-twice: one", "x-twice: two, \u{e9}", "content-length: 19"] {
        assert!(lines.contains(&line.as_bytes()), "{line}: {lines:?}");
    }
}

#[tokio::test]
async fn a_requested_status_is_returned() {
    let sandbox = Sandbox::new(Settings::default());
    for code in [200, 204, 302, 304, 404, 463, 502, 599] {
        let response = send(&sandbox, get(&format!("/sandbox/status/{code}"))).await;
        assert_eq!(response.status, code);
        assert_eq!(response.body.is_empty(), code == 204 || code == 304);
    }
    let mut request = get("/sandbox/status/502");
    request
        .headers_mut()
        .insert("accept", "text/html".parse().unwrap());
    assert!(
        send(&sandbox, request)
            .await
            .text()
            .contains("<h1>502 Bad Gateway</h1>")
    );
    for path in [
        "status/100",
        "status/101",
        "status/600",
        "status/x",
        "bytes/-1",
        "bytes/x",
    ] {
        assert_eq!(
            send(&sandbox, get(&format!("/sandbox/{path}")))
                .await
                .status,
            400,
            "{path}"
        );
    }
    assert_eq!(send(&sandbox, get("/sandbox/other")).await.status, 404);
}

#[tokio::test]
async fn bytes_are_a_pattern_of_the_requested_length() {
    let sandbox = Sandbox::new(Settings::default());
    for length in [0_usize, 1, 251, 64_256, 64_257, 1_000_000] {
        let response = send(&sandbox, get(&format!("/sandbox/bytes/{length}"))).await;
        assert_eq!(response.header("content-length"), length.to_string());
        assert_eq!(response.body.len(), length);
        assert!(
            response
                .body
                .iter()
                .enumerate()
                .all(|(at, byte)| usize::from(*byte) == at % 251),
            "{length}"
        );
    }
}

#[tokio::test]
async fn the_sink_reads_a_large_body_and_records_its_beginning() {
    let sandbox = Sandbox::new(Settings::default());
    let body = vec![b'x'; 5_000_000];
    let sum = format!("{:016x}", checksum(&body));
    let request = Request::put("/sandbox/sink")
        .body(Full::from(body))
        .unwrap();
    let response = send(&sandbox, request).await.json();
    assert_eq!(
        (response["bytes"].as_u64(), response["fnv1a64"].as_str()),
        (Some(5_000_000), Some(sum.as_str()))
    );
    let recorded = sandbox.calls().remove(0);
    assert_eq!(
        (
            recorded.body.len(),
            recorded.body_bytes,
            recorded.body_complete
        ),
        (65_536, 5_000_000, true)
    );
    assert_eq!(
        checksum(b"a"),
        0xaf63_dc4c_8601_ec8c,
        "the published sum of FNV-1a"
    );
}

#[tokio::test]
async fn a_body_is_recorded_while_it_streams_and_when_it_breaks_off() {
    let sandbox = Sandbox::new(Settings::default());
    let mut stream = connect(&sandbox);
    stream
        .write_all(b"POST /sandbox/sink HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf")
        .await
        .unwrap();
    while sandbox
        .calls()
        .first()
        .is_none_or(|call| call.body_bytes < 4)
    {
        tokio::task::yield_now().await;
    }
    drop(stream);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let call = sandbox.calls().remove(0);
    assert_eq!(
        (&call.body[..], call.body_complete, call.status),
        (&b"half"[..], false, 0)
    );
}

#[tokio::test]
async fn an_upgrade_echoes_raw_bytes() {
    let sandbox = Sandbox::new(Settings::default());
    let mut stream = connect(&sandbox);
    let ask = "GET /sandbox/ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    for text in ["one", "\0\u{7f}two"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text.as_bytes());
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(sandbox.calls()[0].status, 101);
    assert_eq!(send(&sandbox, get("/sandbox/ws")).await.status, 426);
}

#[tokio::test]
async fn trailers_follow_over_both_versions() {
    let sandbox = Sandbox::new(Settings::default());
    let mut request = get("/sandbox/trailers");
    request
        .headers_mut()
        .insert("te", "trailers".parse().unwrap());
    let sum = format!("{:016x}", checksum(b"trailers follow\n"));
    for response in [
        send(&sandbox, request.clone()).await,
        send_h2(&sandbox, request).await.unwrap(),
    ] {
        assert_eq!(response.text(), "trailers follow\n");
        assert_eq!(
            response.trailers.unwrap().get("x-checksum").unwrap(),
            sum.as_str()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_list_of_requests_shows_no_secrets() {
    let sandbox = Sandbox::new(Settings::default());
    tokio::time::advance(Duration::from_millis(1_500)).await;
    let id = "false_1@c.us_AAA";
    let body = format!(r#"{{"access_token":"s3cret","chatId":"1@c.us","messageIds":["{id}"]}}"#);
    let mut request = typed(
        "application/json",
        "/v2/send/seen?instance_id=123&access_token=s3cret&x=1",
        &body,
    );
    request
        .headers_mut()
        .insert("authorization", "Bearer s3cret".parse().unwrap());
    request
        .headers_mut()
        .insert("access-token", "s3cret".parse().unwrap());
    send(&sandbox, request).await;
    send(&sandbox, get("/sandbox/status/200")).await;
    let page = send(&sandbox, get("/sandbox/calls")).await;
    assert!(!page.text().contains("s3cret"), "{}", page.text());
    let expected = serde_json::json!({
        "method": "POST", "path": "/v2/send/seen", "query": "instance_id=123&access_token=***&x=1",
        "instance": "123", "ids": [id], "body_bytes": body.len(), "status": 201, "ms": 1_500,
        "php": { "chatId": "1@c.us", "messageIds": [id] },
        "node": { "chatId": "1@c.us", "messageIds": [id] },
    });
    assert_eq!(page.json()[0], expected);
    assert_eq!(
        page.json().as_array().unwrap().len(),
        2,
        "the page itself is not recorded"
    );
    assert!(!format!("{:?}", sandbox.calls()).contains("s3cret"));

    let clear = Request::delete("/sandbox/calls")
        .body(Full::default())
        .unwrap();
    assert_eq!(send(&sandbox, clear).await.status, 204);
    assert_eq!(send(&sandbox, get("/sandbox/calls")).await.text(), "[]");
}
