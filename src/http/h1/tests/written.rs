//! What is written: heads with the case of their names, bodies in their framing.

use bytes::Bytes;
use http::HeaderValue;
use http::header::{HOST, SERVER};
use proptest::prelude::*;
use tokio::io::AsyncReadExt as _;

use crate::http::h1::{
    BodyEncoder, RequestRead, ResponseRead, WriteBuf, read_request, read_response, write_request,
    write_response,
};
use crate::http::header_case::is_same_name;
use crate::http::request_head::RequestHead;
use crate::http::response_head::ResponseHead;

/// Writes everything to a narrow stream, and reads it there.
fn written(mut out: WriteBuf, narrow: usize) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut near, mut far) = tokio::io::duplex(narrow);
        let writes = async {
            while !out.is_empty() {
                std::future::poll_fn(|cx| out.poll_write(&mut near, cx))
                    .await
                    .unwrap();
            }
            drop(near);
        };
        let mut parsed = String::new();
        let (_, read) = tokio::join!(writes, far.read_to_string(&mut parsed));
        read.unwrap();
        parsed
    })
}

fn request(text: &str) -> RequestHead {
    match read_request(Bytes::copy_from_slice(text.as_bytes()), 100) {
        RequestRead::Complete(request, _) => *request.head,
        _ => panic!("not a request of the fast path"),
    }
}

fn sent(head: &RequestHead, body: &'static str) -> String {
    let mut out = WriteBuf::default();
    write_request(&mut out, head, Bytes::from_static(body.as_bytes()));
    written(out, 7)
}

#[test]
fn a_request_is_written_as_it_was_read() {
    let text = "POST /v2/x?a=%41 HTTP/1.1\r\nHost: h\r\nX-a: 3\r\nX-B: 1\r\nX-A: 1\r\nx-a: 2\r\n\
                Content-LENGTH: 2\r\n\r\n{}";
    let as_it_came = sent(&request(text), "{}");
    // Headers of one name are written together, each in its own case.
    assert_eq!(
        as_it_came,
        "POST /v2/x?a=%41 HTTP/1.1\r\nHost: h\r\nX-a: 3\r\nX-A: 1\r\nx-a: 2\r\nX-B: 1\r\n\
         Content-LENGTH: 2\r\n\r\n{}"
    );
}

#[test]
fn changed_headers_leave_the_case_of_the_others() {
    let mut request = request(
        "GET / HTTP/1.1\r\nHOST: h\r\nConnection: keep-alive\r\nX-ONE: 1\r\nX-Two: 2\r\nX-THREE: 3\r\n\r\n",
    );
    request.headers.remove("x-two");
    request
        .headers
        .insert(HOST, HeaderValue::from_static("upstream"));
    request
        .headers
        .insert(SERVER, HeaderValue::from_static("new"));
    let sent = sent(&request, "");
    let mut lines: Vec<_> = sent.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "",
            "GET / HTTP/1.1",
            "HOST: upstream",
            "X-ONE: 1",
            "X-THREE: 3",
            "server: new"
        ]
    );
}

#[test]
fn a_name_does_not_take_the_case_of_a_similar_one() {
    let mut request = request("GET / HTTP/1.1\r\nHost: h\r\nX^: 1\r\nY~: 2\r\n\r\n");
    assert!(sent(&request, "").contains("\r\nX^: 1\r\nY~: 2\r\n"));
    for (name, value) in [("x~", "3"), ("y^", "4")] {
        request
            .headers
            .insert(name, HeaderValue::from_static(value));
    }
    assert!(sent(&request, "").contains("\r\nx~: 3\r\ny^: 4\r\n"));
}

/// Names that differ in case, if that: `[` from `{` and `^` from `~` as `A` from `a`.
fn alike() -> impl Strategy<Value = (String, String)> {
    let letter = prop::sample::select(b"aAzZ^~@`[{09-".to_vec());
    let both = (letter, any::<bool>(), prop::bool::weighted(0.05));
    let both = both.prop_map(|(one, other_case, differs)| {
        let has_case = one.is_ascii_alphabetic() && other_case;
        (one, if has_case || differs { one ^ 0x20 } else { one })
    });
    prop::collection::vec(both, 0..30).prop_map(|both| {
        let name = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (one, other) = both.into_iter().unzip();
        (name(one), name(other))
    })
}

proptest! {
    #[test]
    fn names_are_the_same_in_any_case_and_in_nothing_else((spelt, other) in alike()) {
        let lower = other.to_ascii_lowercase();
        let is_it = spelt.eq_ignore_ascii_case(&lower);
        prop_assert_eq!(is_same_name(spelt.as_bytes(), lower.as_bytes()), is_it);
    }
}

fn response(text: &str) -> ResponseHead {
    match read_response(&mut Bytes::copy_from_slice(text.as_bytes())) {
        Ok(Some(ResponseRead::Final(response))) => *response.head,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_response_is_written_as_it_was_read() {
    for input in [
        "HTTP/1.1 207 Quite all right\r\nserver: S\r\nX-ODD-case: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Empty: \r\nETag: \"a: b\"\r\ncontent-length: 2\r\nX-Last: 1\r\n\r\n",
        "HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut text = Vec::new();
        let mut head = response(input);
        write_response(&mut text, &mut head, None);
        assert_eq!(String::from_utf8(text).unwrap(), input);
        // Nor does it change when its lines are parsed, except in the order of headers.
        head.append(SERVER, HeaderValue::from_static("ours"));
        let mut added = Vec::new();
        write_response(&mut added, &mut head, None);
        let added = String::from_utf8(added).unwrap();
        assert!(added.contains("ours"));
        head.headers_mut();
        let mut text = Vec::new();
        write_response(&mut text, &mut head, None);
        let text = String::from_utf8(text).unwrap();
        let servers = |text: &str| {
            let lines = text
                .lines()
                .filter(|line| line.to_lowercase().contains("server"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(servers(&text), servers(&added));
        assert_eq!(text.len(), added.len());
    }
}

#[test]
fn the_head_says_where_the_body_ends() {
    let mut text = Vec::new();
    let mut head = response("HTTP/1.1 200 OK\r\nX: 1\r\n\r\n");
    assert_eq!(
        write_response(&mut text, &mut head, Some(3)),
        BodyEncoder::Length(3)
    );
    assert!(text.ends_with(b"X: 1\r\ncontent-length: 3\r\n\r\n"));
    text.clear();
    let chunked = BodyEncoder::Chunked { is_open: false };
    assert_eq!(write_response(&mut text, &mut head, None), chunked);
    assert!(text.ends_with(b"X: 1\r\ntransfer-encoding: chunked\r\n\r\n"));
}

#[test]
fn a_length_is_written_once_and_only_for_a_body() {
    for (input, length) in [
        (
            "200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
            Some("Content-Length: 5"),
        ),
        ("200 OK\r\ncontent-length: 5, 5", Some("content-length: 5")),
        ("204 No Content\r\nContent-Length: 5", None),
        (
            "304 Not Modified\r\nContent-Length: 5",
            Some("Content-Length: 5"),
        ),
    ] {
        let input = format!("HTTP/1.1 {input}\r\n\r\n");
        let mut text = Vec::new();
        write_response(&mut text, &mut response(&input), None);
        let text = String::from_utf8(text).unwrap();
        let lengths = text
            .lines()
            .filter(|line| line.to_lowercase().contains("length"));
        assert_eq!(
            lengths.collect::<Vec<_>>(),
            Vec::from_iter(length),
            "{input:?}"
        );
    }
}

#[test]
fn a_body_of_another_length_than_announced_is_an_error() {
    let mut out = WriteBuf::default();
    let mut short = BodyEncoder::Length(3);
    assert!(short.put(&mut out, Bytes::from_static(b"ab")).is_ok());
    assert!(short.end(&mut out).is_err());
    assert!(short.put(&mut out, Bytes::from_static(b"cd")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_body_comes_out_as_it_was_put_in(
        pieces in proptest::collection::vec((0..9000_usize, any::<u8>()), 0..6),
        narrow in 1..10_000_usize,
        in_chunks in any::<bool>(),
    ) {
        let pieces: Vec<_> = pieces
            .into_iter()
            .map(|(length, byte)| Bytes::from(vec![byte % 128; length]))
            .collect();
        let whole = pieces.concat();
        let mut how = match in_chunks {
            true => BodyEncoder::Chunked { is_open: false },
            false => BodyEncoder::Length(whole.len() as u64),
        };
        let mut out = WriteBuf::default();
        let mut parsed = String::new();
        for piece in pieces {
            if !out.has_room() {
                parsed += &written(std::mem::take(&mut out), narrow);
            }
            how.put(&mut out, piece).unwrap();
        }
        if out.has_piece() {
            parsed += &written(std::mem::take(&mut out), narrow);
        }
        how.end(&mut out).unwrap();
        parsed += &written(out, narrow);
        let parsed = match in_chunks {
            true => {
                let mut parsed = Bytes::from(parsed);
                let mut decoder = super::responses::chunked();
                let body = super::responses::body(&mut decoder, &mut parsed).unwrap();
                prop_assert!(parsed.is_empty());
                body
            }
            false => parsed.into_bytes(),
        };
        prop_assert_eq!(parsed, whole);
    }
}
