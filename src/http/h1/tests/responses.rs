//! Responses: hyper would read them the same, in whatever pieces they come.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fields;
use crate::http::h1::decode::Chunked;
use crate::http::h1::{BodyDecoder, Decoded, Malformed, ResponseRead, read_response};

/// Options of `Connection` that say nothing beyond the framing.
const KNOWN: [&str; 2] = ["keep-alive", "close"];

/// A response as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    status: u16,
    reason: Option<Vec<u8>>,
    fields: Vec<(String, Vec<u8>)>,
    /// `None` if it broke off.
    body: Option<Vec<u8>>,
    trailers: Vec<(String, Vec<u8>)>,
}

pub(super) fn chunked() -> BodyDecoder {
    BodyDecoder::Chunked(Chunked::Size)
}

/// The whole body, of which all was read.
pub(super) fn body(decoder: &mut BodyDecoder, read: &mut Bytes) -> Result<Vec<u8>, Malformed> {
    let mut body = Vec::new();
    loop {
        match decoder.decode(read)? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::End => return Ok(body),
            Decoded::Trailers(_) => {}
            Decoded::NeedMore => return Err(Malformed),
        }
    }
}

/// The response in these pieces, after which the connection ends; `None` if it is
/// malformed.
fn on_fast_path(pieces: &[&[u8]]) -> Option<Parsed> {
    let mut pieces = pieces.iter();
    let mut read = Bytes::new();
    let mut more = |read: &mut Bytes| {
        let piece = pieces.next()?;
        *read = Bytes::from([&**read, piece].concat());
        Some(())
    };
    let mut response = loop {
        match read_response(&mut read) {
            Ok(Some(ResponseRead::Final(response))) => break response,
            Ok(Some(ResponseRead::Informational)) => {}
            Ok(None) => more(&mut read)?,
            Err(Malformed) => return None,
        }
    };
    let head = response.head.into_parts();
    let reason = head.extensions.get::<ReasonPhrase>();
    let mut parsed = Parsed {
        status: head.status.as_u16(),
        reason: reason.map(|reason| reason.as_bytes().to_vec()),
        fields: fields(&head.headers, &KNOWN),
        body: Some(Vec::new()),
        trailers: Vec::new(),
    };
    loop {
        match response.decoder.decode(&mut read) {
            Ok(Decoded::Data(data)) => parsed.body.as_mut().unwrap().extend_from_slice(&data),
            Ok(Decoded::Trailers(trailers)) => parsed.trailers = fields(&trailers, &[]),
            Ok(Decoded::End) => return Some(parsed),
            Ok(Decoded::NeedMore) => {
                if more(&mut read).is_none() {
                    if response.decoder != BodyDecoder::UntilClose {
                        parsed.body = None;
                    }
                    return Some(parsed);
                }
            }
            Err(Malformed) => {
                parsed.body = None;
                return Some(parsed);
            }
        }
    }
}

/// What hyper reads of them.
fn by_hyper(text: &[u8]) -> Option<Parsed> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut sender, connection) = http1::Builder::new()
            .allow_obsolete_multiline_headers_in_responses(true)
            .max_headers(100)
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(near))
            .await
            .unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::get("/").header("host", "h");
        let mut response = pin!(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()));
        let none = poll_fn(|cx| std::task::Poll::Ready(response.as_mut().poll(cx).is_pending()));
        assert!(none.await);
        far.read_u8().await.unwrap();
        far.write_all(text).await.unwrap();
        far.shutdown().await.unwrap();
        let (head, mut body) = response.await.ok()?.into_parts();
        if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
            // The request did not ask for an upgrade: no response for the fast path.
            return None;
        }
        let reason = head.extensions.get::<ReasonPhrase>();
        let mut parsed = Parsed {
            status: head.status.as_u16(),
            reason: reason.map(|reason| reason.as_bytes().to_vec()),
            fields: fields(&head.headers, &KNOWN),
            body: Some(Vec::new()),
            trailers: Vec::new(),
        };
        while let Some(frame) = body.frame().await {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => parsed.body.as_mut().unwrap().extend_from_slice(&data),
                Ok(Err(frame)) => parsed.trailers = fields(&frame.into_trailers().unwrap(), &[]),
                Err(_) => {
                    parsed.body = None;
                    break;
                }
            }
        }
        Some(parsed)
    })
}

fn line() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "Server: S",
        "X-Odd-CASE:\tv \t",
        "x-empty:",
        "Content-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: 0",
        "Content-Length: 05",
        "Content-Length: +5",
        "Content-Length: x",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Connection: close",
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "X: caf\u{e9}",
        "X: folded\r\n  on",
        "X: folded\r\n\ton \r\n and on",
        "no colon",
        "Sp ace: 1",
        "X: a\u{0}b",
    ]);
    prop_oneof![9 => known.prop_map(str::to_owned), 1 => "[ -~]{0,12}"]
}

fn texts() -> impl Strategy<Value = String> {
    let start = prop::sample::select(vec![
        "HTTP/1.1 200 OK",
        "HTTP/1.1 201 Created",
        "HTTP/1.1 207 Quite all right",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 304 Not Modified",
        "HTTP/1.1 599 ",
        "HTTP/1.1 500",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found",
        "HTTP/2.0 200 OK",
        "HTTP/1.1 099 No",
        "HTTP/1.1 1000 No",
        "http/1.1 200 OK",
        "nonsense",
    ]);
    let lines = proptest::collection::vec(line(), 0..4);
    let framed = prop::sample::select(vec![
        ("", ""),
        ("Content-Length: 5\r\n", "hello"),
        ("content-length: 5\r\n", "hello and more"),
        ("Content-Length: 5\r\n", "hel"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        (
            "Transfer-Encoding: chunked\r\n",
            "2;a=b\r\nhe\r\n3 \r\nllo\r\n0\r\nX-End: 1\r\nx-end: 2\r\n\r\n",
        ),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "g\r\n"),
        ("Transfer-Encoding: chunked\r\n", "FFFFFFFFFFFFFFFFF\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\nhello\n0\n\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhel"),
        ("", "until the end"),
    ]);
    let text = (start, lines, framed).prop_map(|(start, lines, (framing, body))| {
        let mut text = format!("{start}\r\n{framing}");
        for line in lines {
            text += &line;
            text += "\r\n";
        }
        text += "\r\n";
        text += body;
        text
    });
    super::or_broken(text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn hyper_reads_a_response_in_the_same_way(
        text in texts(),
        mut cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let text = super::latin(&text);
        let whole = on_fast_path(&[&text]);
        let mut cuts: Vec<_> = cuts.iter_mut().map(|cut| cut.index(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        prop_assert_eq!(&on_fast_path(&pieces), &whole, "in pieces");
        let bytes: Vec<_> = text.chunks(1).collect();
        prop_assert_eq!(&on_fast_path(&bytes), &whole, "byte by byte");
        prop_assert_eq!(whole, by_hyper(&text));
    }
}

#[test]
fn a_chunk_that_does_not_end_where_it_should_is_an_error_at_once() {
    let mut read = Bytes::from_static(b"5\r\nhelloX");
    let mut decoder = chunked();
    assert_eq!(
        decoder.decode(&mut read),
        Ok(Decoded::Data(Bytes::from_static(b"hello")))
    );
    assert_eq!(decoder.decode(&mut read), Err(Malformed));
}
