//! Which requests the fast path takes, and that hyper would read them the same.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::fields;
use crate::http::h1::{FastRequest, RequestRead, WriteBuf, read_request, write_request};
use crate::http::raw_target;

/// A request as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// A request on the fast path and the bytes after it; `None` if it is for hyper.
fn on_fast_path(text: &[u8]) -> Option<(Parsed, Vec<u8>)> {
    match read_request(Bytes::copy_from_slice(text), 100) {
        RequestRead::Complete(FastRequest { head, body, .. }, rest) => {
            let parsed = Parsed {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                fields: fields(&head.headers, &["keep-alive"]),
                body: body.to_vec(),
            };
            Some((parsed, rest.to_vec()))
        }
        RequestRead::Incomplete(back) | RequestRead::ForHyper(back) => {
            assert_eq!(back, text, "nothing may be lost");
            None
        }
    }
}

/// The requests that hyper finds in these bytes, after which nothing follows.
fn by_hyper(text: &[u8]) -> Vec<Parsed> {
    let parsed = Arc::new(Mutex::new(Vec::new()));
    let parser = Arc::clone(&parsed);
    let service = service_fn(move |request: Request<Incoming>| {
        let parser = Arc::clone(&parser);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                parser.lock().unwrap().push(Parsed {
                    method: head.method.to_string(),
                    target: head.uri.to_string(),
                    fields: fields(&head.headers, &["keep-alive"]),
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        near.write_all(text).await.unwrap();
        near.shutdown().await.unwrap();
        let connection = http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(far), service);
        // hyper reports the end of the bytes as an error.
        drop(connection.await);
    });
    drop(runtime);
    Arc::into_inner(parsed).unwrap().into_inner().unwrap()
}

/// Texts of usual requests, and some that make a request invalid.
fn line() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "Host: h",
        "host: h",
        "Accept: */*",
        "X-Odd-CASE:\tv \t",
        "x-empty:",
        "Content-Length: 5",
        "content-length: 0",
        "Content-Length: 05",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: 5 5",
        "Content-Length: 99999999999999999999",
        "Content-Length: 9000",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-encoding: \tchunked",
        "Transfer_Encoding: chunked",
        "Connection: keep-alive",
        "Connection: Keep-Alive",
        "Connection: close",
        "Connection: keep-alive, close",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Expect: 100-continue",
        "TE: trailers",
        "Trailer: x",
        " folded: line",
        "\tfolded",
        "no colon",
        ": no name",
        "X: caf\u{e9}",
        "X: a\u{0}b",
        "X: a\rb",
        "GET / HTTP/1.1",
        "",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => "[ -~]{0,12}"]
}

fn texts() -> impl Strategy<Value = String> {
    let start = prop::sample::select(vec![
        "GET /v2/x?a=%41 HTTP/1.1",
        "POST /v2/send/seen HTTP/1.1",
        "PATCH /a?b=c#d HTTP/1.1",
        "GET /a\"[{b}?c=\u{ff}#d|\u{c3}\u{a9}#e HTTP/1.1",
        "GET /# HTTP/1.1",
        "GET /a#?b=c HTTP/1.1",
        "post / HTTP/1.1",
        "M-SEARCH * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "HEAD / HTTP/1.1",
        "CONNECT h:1 HTTP/1.1",
        "GET http://h/x HTTP/1.1",
        "GET //x HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/2.0",
        "GET  / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET",
        "",
    ]);
    let end = prop::sample::select(vec!["\r\n", "\n"]);
    let body = prop_oneof![
        Just("hello".to_owned()),
        Just("5\r\nhello\r\n0\r\n\r\n".to_owned()),
        Just("helloGET /next HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        "[a-z\r\n]{0,12}"
    ];
    let lines = proptest::collection::vec(line(), 0..5);
    let text = (start, lines, end, body).prop_map(|(start, lines, end, body)| {
        let mut text = String::from(start) + end + "Host: h" + end;
        for line in lines {
            text += &line;
            text += end;
        }
        text += end;
        text += &body;
        text
    });
    super::or_broken(text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn hyper_reads_a_request_of_the_fast_path_in_the_same_way(text in texts()) {
        let text = super::latin(&text);
        if let Some((parsed, rest)) = on_fast_path(&text) {
            // hyper is given a target that it can read.
            let escaped = raw_target::escape(&text);
            let escaped = escaped.map_or(text, |(escaped, _)| escaped);
            let mut all = by_hyper(&escaped).into_iter();
            prop_assert_eq!(Some(parsed), all.next());
            // The next reader starts after this request, be it this codec or hyper.
            let mut again = all.collect::<Vec<_>>();
            again.truncate(1);
            let mut then = by_hyper(&rest);
            then.truncate(1);
            prop_assert_eq!(then, again);
        }
    }

    #[test]
    fn a_plain_request_is_no_other_before_it_is_there(length in 0..60_usize) {
        let whole = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
        let length = length.min(whole.len());
        prop_assert_eq!(on_fast_path(&whole[..length]).is_some(), length == whole.len());
    }
}

#[test]
fn usual_requests_take_the_fast_path() {
    for text in [
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "DELETE /x HTTP/1.1\r\nhost: h\r\nconnection: keep-alive\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
        "PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert!(on_fast_path(text.as_bytes()).is_some(), "{text:?}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_left_to_hyper() {
    for field in [
        "Transfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2, 2",
        "Content-Length: +2",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: 9000",
        "Connection: close",
        "Connection: x-mine",
        "Upgrade: websocket",
        "Expect: 100-continue",
        "TE: trailers",
        "Trailer: x",
        "X: y\r\n".repeat(40).trim_end(),
        &format!("X: {}", "y".repeat(9000)),
    ] {
        let text = format!(
            "POST /x HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n{}",
            "{}".repeat(9000)
        );
        assert!(on_fast_path(text.as_bytes()).is_none(), "{field:.40}");
    }
    for start in [
        "HEAD / HTTP/1.1",
        "CONNECT h:1 HTTP/1.1",
        "GET http://h/ HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET / HTTP/1.0",
        "\r\nGET / HTTP/1.1",
    ] {
        let text = format!("{start}\r\nHost: h\r\n\r\n");
        assert!(on_fast_path(text.as_bytes()).is_none(), "{start:?}");
    }
}

proptest! {
    #[test]
    fn a_target_leaves_byte_for_byte(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let is_usable = |byte: &u8| *byte > b' ' && *byte != 0x7f;
        let target: Vec<u8> = bytes.into_iter().filter(is_usable).collect();
        let text = [b"GET /", &target[..], b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
        let RequestRead::Complete(request, _) = read_request(text.clone().into(), 100) else {
            panic!("not on the fast path");
        };
        let mut out = WriteBuf::default();
        write_request(&mut out, &request.head, Bytes::new());
        prop_assert_eq!(out.text(), &text);
    }
}

#[test]
fn what_follows_a_request_stays() {
    let text = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HT";
    assert_eq!(on_fast_path(text).unwrap().1, b"GET /2 HT");
}
