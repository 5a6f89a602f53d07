//! Targets with bytes that a URI may not contain: forwarded byte for byte, or refused with our own 400.

use std::time::Duration;

use crate::support::{ClientConn, Logged, Stage, World, get, receipt_in_query};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Bytes that clients send and that `http::Uri` drops, refuses, or both.
fn bytes() -> impl Iterator<Item = u8> {
    b"#\"[]{}|\\^`<>".iter().copied().chain(0x80..=0xff)
}

/// A target with a byte in path and query, and text behind it.
fn target(byte: u8) -> Vec<u8> {
    let (path, query) = (
        &b"/v2/send/te"[..],
        &b"xt?instance_id=1&message=Order%20"[..],
    );
    [path, &[byte], query, &[byte], b"12%20is%20ready&chatId=1"].concat()
}

/// All of them in one target.
fn all() -> Vec<u8> {
    let all: Vec<u8> = bytes().collect();
    [b"/v2/x?a=".as_slice(), &all, b"&chatId=1"].concat()
}

fn request(method: &str, target: &[u8], rest: &str) -> Vec<u8> {
    [method.as_bytes(), b" ", target, b" ", rest.as_bytes()].concat()
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// The upstream reads a request with this target, and responds.
async fn forwards(line: &mut ClientConn, method: &str, target: &[u8], body: &str) {
    let request = line.request().await;
    assert_eq!(
        request.start,
        format!("{method} {} HTTP/1.1", latin(target))
    );
    assert_eq!(request.text(), body);
    assert_eq!(request.field("host"), Some("upstream.test"));
    line.says(OK).await;
}

/// The rest of requests that are served on the fast path and by hyper.
const FORMS: [(&str, &str, &str); 7] = [
    ("GET", "HTTP/1.1\r\nHost: h\r\n\r\n", ""),
    (
        "POST",
        "HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na=b",
        "a=b",
    ),
    (
        "GET",
        "HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "",
    ),
    (
        "POST",
        "HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\na=b",
        "a=b",
    ),
    (
        "POST",
        "HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n",
        "a=b",
    ),
    ("GET", "HTTP/1.0\r\n\r\n", ""),
    ("POST", "HTTP/1.0\r\nContent-Length: 3\r\n\r\na=b", "a=b"),
];

#[tokio::test(start_paused = true)]
async fn every_byte_of_a_target_is_forwarded() {
    for target in bytes().map(target).chain([all()]) {
        for (method, rest, body) in FORMS {
            let mut stage = Stage::new("");
            let mut client = stage.client();
            client.says(request(method, &target, rest)).await;
            let mut line = stage.upstream.accepts().await;
            forwards(&mut line, method, &target, body).await;
            assert_eq!(client.response().await.text(), "ok", "{method} {rest}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn header_names_keep_their_case_beside_such_a_target() {
    for connection in ["keep-alive", "close"] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let rest =
            format!("HTTP/1.1\r\nHost: h\r\nX-ODD-case: 1\r\nConnection: {connection}\r\n\r\n");
        client.says(request("GET", b"/a#b", &rest)).await;
        let mut line = stage.upstream.accepts().await;
        line.hears("GET /a#b HTTP/1.1\r\nHost: upstream.test\r\nX-ODD-case: 1\r\n\r\n")
            .await;
    }
}

/// Requests that hyper serves, and whose connection it keeps. The upstream reads their method.
const SERVED_BY_HYPER: [(&str, &str); 5] = [
    ("HEAD", "HEAD /first HTTP/1.1\r\nHost: h\r\n\r\n"),
    (
        "GET",
        "GET /first HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ),
    (
        "GET",
        "GET /first HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: te\r\n\r\n",
    ),
    (
        "POST",
        "POST /first HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n9;x=y\r\nGET /a#b \r\n1\r\nx\r\n0\r\n\r\n",
    ),
    (
        "POST",
        "POST /first HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-End: 1\r\n\r\n",
    ),
];

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_behind_a_request_that_hyper_served() {
    for (method, first) in SERVED_BY_HYPER {
        for is_pipelined in [true, false] {
            for (next, rest, body) in FORMS {
                let mut stage = Stage::new("");
                let mut client = stage.client();
                let second = request(next, &target(b'#'), rest);
                let third = request(next, &all(), rest);
                let closes = rest.contains("close") || rest.contains("1.0");
                client.says(first).await;
                if is_pipelined {
                    client.says([&second[..], &third].concat()).await;
                }
                let mut line = stage.upstream.accepts().await;
                line.request().await;
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                line.says(head).await;
                client.response_to(method).await;
                if !is_pipelined {
                    client.says(&second).await;
                }
                let mut line = stage.upstream.accepts().await;
                forwards(&mut line, next, &target(b'#'), body).await;
                assert_eq!(client.response().await.text(), "ok");
                if closes {
                    client.hears_end().await;
                    continue;
                }
                if !is_pipelined {
                    client.says(&third).await;
                }
                forwards(&mut line, next, &all(), body).await;
                assert_eq!(client.response().await.text(), "ok");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_in_single_bytes_loses_nothing() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    for target in [target(b'#'), all()] {
        for byte in request("GET", &target, "HTTP/1.1\r\nHost: h\r\n\r\n") {
            client.says([byte]).await;
            tokio::time::sleep(Duration::from_millis(6)).await;
        }
        let mut line = stage.upstream.accepts().await;
        forwards(&mut line, "GET", &target, "").await;
        assert_eq!(client.response().await.text(), "ok");
        drop(line);
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_only_hyper_could_send_is_refused_with_its_byte() {
    let long = "x".repeat(70_000);
    let long = format!(
        "HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{long}",
        long.len()
    );
    for (method, target, rest) in [
        ("HEAD", "/a#b", "HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("POST", "/a#b", &*long),
        (
            "POST",
            "/a#b",
            "HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        ),
        (
            "GET",
            "/a#b",
            "HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        ("OPTIONS", "*#b", "HTTP/1.1\r\nHost: h\r\n\r\n"),
        (
            "GET",
            "http://upstream.test#b",
            "HTTP/1.1\r\nHost: h\r\n\r\n",
        ),
        (
            "GET",
            "http://upstream.test?a#b",
            "HTTP/1.1\r\nHost: h\r\n\r\n",
        ),
        ("GET", "a#b", "HTTP/1.1\r\nHost: h\r\n\r\n"),
    ] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        client.says(request(method, target.as_bytes(), rest)).await;
        let response = client.response_to(method).await;
        assert_eq!(response.status(), 400, "{method} {target}");
        let status = response.field("proxy-status").unwrap();
        assert!(status.contains("error=http_request_error"), "{status}");
        assert!(
            status.contains("0x23") && status.contains("%23"),
            "{status}"
        );
        if method != "HEAD" {
            assert_eq!(response.json()["code"], "malformed");
        }
        let exposition = stage.gateway.exposition();
        let counted = |labels: &[&str]| {
            crate::support::counted(&exposition, "wawp_gateway_requests_total", labels)
        };
        assert_eq!(counted(&["code=\"400\""]), 1.0, "{method} {target}");
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_a_target_is_logged_without_what_it_holds() {
    let target = "/v2/send/text?instance_id=123&access_token=s3cret-1&message=Order%20#12";
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer s3cret-2\r\nUser-Agent: s3cret-3\r\n\
         Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    );
    for format in ["json", "text"] {
        // Whatever the sample: each refusal is written.
        let logged = Logged::new(&format!(
            "[log]\nformat = \"{format}\"\naccess_sample = 1000000\n"
        ));
        for _ in 0..2 {
            assert_eq!(logged.world.call(&request).await.status(), 400);
        }
        let text = logged.text().await;
        assert_eq!(text.lines().count(), 2, "{text}");
        for line in text.lines() {
            let (status, error) = match format {
                "json" => (r#""status":400"#, r#""error":"malformed""#),
                _ => ("/v2/send/text 400 ", "error=malformed"),
            };
            assert!(line.contains(status) && line.contains(error), "{line}");
            assert!(
                !line.contains("s3cret") && !line.contains("Order"),
                "{line}"
            );
        }
        assert!(!logged.world.gateway.exposition().contains("s3cret"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_absolute_target_keeps_its_bytes_and_its_check() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client
        .says("GET http://upstream.test/a#b\"c HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    forwards(&mut line, "GET", b"/a#b\"c", "").await;
    assert_eq!(client.response().await.text(), "ok");
    let response = client
        .asks("GET http://example.com/a#b HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    assert_eq!(response.status(), 421);
}

#[tokio::test(start_paused = true)]
async fn control_characters_in_a_target_stay_malformed() {
    for target in [&b"/a\x01b#"[..], b"/a\x7f#", b"/a#\tb", b"/a#b c"] {
        let mut stage = Stage::new("");
        let mut client = stage.client();
        let request = request("GET", target, "HTTP/1.1\r\nHost: h\r\n\r\n");
        client.tries_to_say(request).await.ok();
        assert!(client.hears_rest().await.starts_with("HTTP/1.1 400 "));
        stage.upstream.is_left_alone().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_with_such_a_target_is_forwarded_unchanged_and_alone() {
    let mut stage = Stage::new("");
    let receipts = [1, 2]
        .map(|id| receipt_in_query([id]).replacen("participant=null", "participant=\"#\"", 1));
    let mut clients = [stage.client(), stage.client()];
    for (client, receipt) in clients.iter_mut().zip(&receipts) {
        client.says(receipt).await;
    }
    for receipt in &receipts {
        let mut line = stage.upstream.accepts().await;
        let sent = line.request().await;
        assert_eq!(Some(&*sent.start), receipt.lines().next());
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_key_beside_such_bytes_is_replaced() {
    let mut stage = Stage::new(
        "[[tenant]]\nname = \"a\"\ninstances = [\"1\"]\nkey = \"acme-key-0123456789\"\n[tenant.tokens]\n1 = \"real-token\"\n",
    );
    for rest in ["HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.0\r\n\r\n"] {
        let target = b"/x?m=\"\xff&access_token=acme-key-0123456789&instance_id=1&n=#1&o=\"";
        let mut client = stage.client();
        client.says(request("GET", target, rest)).await;
        let mut line = stage.upstream.accepts().await;
        let expected = b"/x?m=\"\xff&access_token=real-token&instance_id=1&n=#1&o=\"";
        forwards(&mut line, "GET", expected, "").await;
        line.hangs_up();
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_ends_at_a_fragment_is_ambiguous() {
    let tenant = "[[tenant]]\nname = \"a\"\ninstances = [\"1\"]\nnetworks = [\"10.0.0.0/8\"]\n";
    let world = World::new(tenant);
    let mut client = world.client_from("192.0.2.1");
    for (target, status) in [
        ("/x?instance_id=1", 403),
        // A backend that ignores the fragment would act on instance 1.
        ("/x?instance_id=1#&access_token=t", 403),
        ("/x?instance_id=2&m=#&access_token=t", 404),
    ] {
        assert_eq!(client.asks(get(target)).await.status(), status, "{target}");
    }
}
