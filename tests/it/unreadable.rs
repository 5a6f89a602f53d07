//! Connections that end before there is a request, and requests that could be read in two ways: what becomes of them,
//! and what the operator learns.

use std::time::Duration;

use tokio::time::sleep;

use crate::reach::Log;
use crate::support::{World, get};

const READ: &str = "could not be read";
const METRIC: &str = "wawp_gateway_unreadable_total";

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_counted_and_logged_with_its_reason_once_in_a_while() {
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    let proxy_v2 = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c123456789012";
    for (bytes, label, level, reason) in [
        (
            "\x16\x03\x01\x02\0\x01\0\x01",
            "tls",
            "WARN",
            "TLS, where server.tls is not set",
        ),
        (
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "proxy_header",
            "WARN",
            "access.trusted_proxies",
        ),
        (proxy_v2, "proxy_header", "WARN", "access.trusted_proxies"),
        (
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "http",
            "INFO",
            "malformed HTTP",
        ),
        ("hello\r\n\r\n", "http", "INFO", "malformed HTTP"),
        (&long, "too_long", "INFO", "a request head that is too long"),
        (&many, "too_long", "INFO", "a request head that is too long"),
    ] {
        let (log, _guard) = Log::listen();
        let world = World::new("");
        let label = format!("reason=\"{label}\"");
        for (seconds, expected) in [(0, Some(1)), (5, None), (6, Some(2))] {
            sleep(Duration::from_secs(seconds)).await;
            let mut client = world.client_from("192.0.2.7");
            client.tries_to_say(bytes).await.ok();
            client.hears_rest().await;
            let lines = log.lines_with(READ);
            assert_eq!(lines.len(), usize::from(expected.is_some()), "{lines:?}");
            if let Some(times) = expected {
                let line = &lines[0];
                assert!(line.starts_with(level), "{line}");
                assert!(line.contains(reason), "{line}");
                assert!(line.contains("peer=192.0.2.7"), "{line}");
                assert!(line.contains(&format!("times={times}")), "{line}");
                assert!(
                    !line.contains("no colon") && !line.contains("hello"),
                    "{line}"
                );
            }
        }
        assert_eq!(world.counted(METRIC, &[&label]), 3.0, "{label}");
        assert_eq!(world.counted(METRIC, &[]), 3.0, "{label}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_or_with_half_of_one_is_no_news() {
    let (log, _guard) = Log::listen();
    let world = World::new("");
    for bytes in ["", "\r\n", "GET / HT"] {
        let mut client = world.client();
        client.says(bytes).await;
        client.says_no_more().await;
        client.hears_rest().await;
    }
    assert_eq!(world.call(get("/v2/chats")).await.status(), 401);
    assert_eq!(world.counted(METRIC, &[]), 0.0);
    assert!(log.lines_with(READ).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_malformed_header_of_a_trusted_proxy_is_told_too() {
    let (log, _guard) = Log::listen();
    let world = World::new("access.trusted_proxies = [\"192.0.2.7\"]");
    let mut client = world.client_from("192.0.2.7");
    client.says("PROXY TCP9 x\r\n").await;
    client.hears_end().await;
    assert_eq!(world.counted(METRIC, &["proxy_header"]), 1.0);
    assert_eq!(log.lines_with(READ).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn framing_that_could_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let hidden = get("/hidden");
    for (fields, reason) in [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length beside Transfer-Encoding",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length beside Transfer-Encoding",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 6",
            "Content-Length beside Transfer-Encoding",
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "more than one Transfer-Encoding field",
        ),
        (
            "Transfer-Encoding: chunked, chunked",
            "no Transfer-Encoding but chunked is understood",
        ),
        (
            "Transfer-Encoding: gzip, chunked",
            "no Transfer-Encoding but chunked is understood",
        ),
    ] {
        // Behind a request with the same connection, too, and with an unusual target.
        for before in ["", "GET /v2/chats HTTP/1.1\r\nHost: h\r\nTE: x\r\n\r\n"] {
            for target in ["/v2/chats", "/v2/chats#x"] {
                let world = World::new("");
                let mut client = world.client();
                client.says(before).await;
                client
                    .says(format!(
                        "POST {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n0\r\n\r\n{hidden}"
                    ))
                    .await;
                if !before.is_empty() {
                    assert_eq!(client.response().await.status(), 401);
                }
                let refused = client.response().await;
                assert_eq!(refused.status(), 400, "{fields}");
                assert_eq!(refused.json()["code"], "malformed");
                assert!(refused.text().contains(reason), "{}", refused.text());
                assert_eq!(refused.field("connection"), Some("close"));
                client.hears_end().await;
                let forwarded = usize::from(!before.is_empty());
                assert_eq!(world.sandbox.calls().len(), forwarded, "{fields}");
            }
        }
    }
}
