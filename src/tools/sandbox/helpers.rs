//! The test helpers under `/sandbox/`, for what no endpoint of the vendor does.
//!
//! Owns echo, chosen statuses, long bodies, the sink, the upgrade, trailers, and the list of requests.
//! Invariant: bodies are streamed in both directions, never held whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, TRAILER, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::call_log::Call;
use super::conn::{Conn, NoResponse};
use super::recorded_body::RecordedBody;
use super::responses::{self, Body, Failure, Shape};
use super::state::State;

/// The repeated block of `/sandbox/bytes`: each byte is the offset modulo 251. With a prime, a lost or repeated block
/// of any power of two is visible.
static PATTERN: [u8; 251 * 256] = pattern();

const HELPERS: &str =
    "helpers: calls (GET, DELETE), echo, status/{200-599}, bytes/{n}, sink, ws, trailers";

/// Responds to `/sandbox/{helper}`.
pub(super) async fn respond(
    conn: &Conn,
    helper: &str,
    parts: &Parts,
    body: RecordedBody,
    upgrade: OnUpgrade,
) -> Result<Response<Body>, NoResponse> {
    let shape = Shape::of(&parts.headers);
    let bad =
        |what: &str| Failure::new(StatusCode::BAD_REQUEST, "invalid_param", what).response(shape);
    Ok(match helper.split_once('/') {
        None if helper == "echo" => echo(parts, body),
        None if helper == "sink" => sink(body).await?,
        None if helper == "ws" => ws(conn, parts, upgrade),
        None if helper == "trailers" => trailers(),
        Some(("status", code)) => match code.parse() {
            // 1xx is no final response (RFC 9110 §15.2), so a client would wait for another one.
            Ok(code @ 200..=599) => status(code, shape),
            _ => bad("status: give a number from 200 to 599"),
        },
        Some(("bytes", length)) => match length.parse() {
            Ok(length) => bytes(length),
            Err(_) => bad("bytes: give a length in bytes, at most 18446744073709551615"),
        },
        _ => Failure::new(StatusCode::NOT_FOUND, "not_found", HELPERS).response(shape),
    })
}

/// The recorded requests as a JSON list, oldest first. DELETE clears it.
pub(super) fn calls(state: &State, method: &Method) -> Response<Body> {
    if *method == Method::DELETE {
        state.log.clear();
        return responses::empty(StatusCode::NO_CONTENT);
    }
    // No headers and no body: both can contain the token.
    let line = |call: &Call| {
        let mut line = json!({
            "method": call.method.as_str(),
            "path": call.path(),
            "query": call.masked_query(),
            "instance": call.instance,
            "ids": call.ids,
            "body_bytes": call.body_bytes,
            "status": call.status,
            "ms": u64::try_from(call.at.duration_since(state.began).as_millis()).unwrap_or(u64::MAX),
        });
        // Backends differ in how they read a list.
        if call.is_receipt() {
            line["php"] = call.as_php();
            line["node"] = call.as_node();
        }
        line
    };
    responses::json(StatusCode::OK, &state.log.map(line).into())
}

/// Returns the head as `X-Echo-*` lines, one `X-Echo-Header: name: value` per header line, and streams the body back.
fn echo(parts: &Parts, body: RecordedBody) -> Response<Body> {
    // The request body becomes the response body, so backpressure reaches from one side to the
    // other.
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    let mut line = |name: &'static str, value: &[u8]| {
        // A target may contain bytes that no header value may; that line is left out.
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    };
    line("x-echo-method", parts.method.as_str().as_bytes());
    // HTTP/2 always has a scheme and an authority; an absolute target is remarkable in HTTP/1.1 only.
    let target = match parts.uri.path_and_query() {
        Some(target) if parts.version == Version::HTTP_2 => target.to_string(),
        _ => parts.uri.to_string(),
    };
    line("x-echo-target", target.as_bytes());
    line("x-echo-version", format!("{:?}", parts.version).as_bytes());
    for (name, value) in &parts.headers {
        line(
            "x-echo-header",
            &[name.as_str().as_bytes(), b": ", value.as_bytes()].concat(),
        );
    }
    // The echoed bytes are those of the request, so what describes them must stay too.
    for name in [CONTENT_TYPE, CONTENT_ENCODING] {
        if let Some(value) = parts.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    response
}

/// Responds with a chosen status.
fn status(code: u16, shape: Shape) -> Response<Body> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // These have no content (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
    if matches!(code, 204 | 205 | 304) {
        return responses::empty(status);
    }
    match shape {
        Shape::Html => responses::html(status),
        _ if code < 400 => responses::json(status, &json!({ "status": code })),
        _ => Failure::new(status, "sandbox_status", "This status was asked for").response(shape),
    }
}

/// Responds with a body of this many bytes.
fn bytes(length: u64) -> Response<Body> {
    let mut response = Response::new(Patterned { left: length }.boxed_unsync());
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    response
}

/// Reads the whole body, and returns its length and checksum.
async fn sink(mut body: RecordedBody) -> Result<Response<Body>, NoResponse> {
    // Length and checksum show a test whether bytes were lost or changed on the way.
    let (mut length, mut sum) = (0, Fnv::default());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| NoResponse)?.into_data() {
            length += data.len() as u64;
            sum.add(&data);
        }
    }
    Ok(responses::json(
        StatusCode::OK,
        &json!({ "bytes": length, "fnv1a64": format!("{:016x}", sum.0) }),
    ))
}

/// Accepts an upgrade and then echoes raw bytes. No WebSocket frames, and no `Sec-WebSocket-Accept`.
fn ws(conn: &Conn, parts: &Parts, upgrade: OnUpgrade) -> Response<Body> {
    // Both fields are lists and may be repeated (RFC 9110 §5.3, §7.6.1).
    let has_item = |name: HeaderName, word: &str| {
        let mut values = parts
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values.any(|value| {
            value
                .split(',')
                .any(|item| item.trim().eq_ignore_ascii_case(word))
        })
    };
    let mut response = if parts.version == Version::HTTP_11
        && has_item(CONNECTION, "upgrade")
        && has_item(UPGRADE, "websocket")
    {
        let stop = conn.stop.clone();
        // The upgrade completes only after this response has been sent, so it cannot be awaited
        // here.
        conn.upgrades.spawn(async move {
            let echo = async {
                let (mut from, mut to) =
                    tokio::io::split(TokioIo::new(upgrade.await.map_err(io::Error::other)?));
                tokio::io::copy(&mut from, &mut to).await?;
                tokio::io::AsyncWriteExt::shutdown(&mut to).await
            };
            tokio::select! {
                () = stop.cancelled() => {}
                ended = echo => if let Err(error) = ended {
                    tracing::debug!(%error, "a sandbox upgrade ended early");
                }
            }
        });
        responses::empty(StatusCode::SWITCHING_PROTOCOLS)
    } else {
        let text = "send Connection: upgrade and Upgrade: websocket over HTTP/1.1";
        Failure::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", text).response(Shape::Json)
    };
    // `Connection` and `Upgrade` are forbidden in HTTP/2 (RFC 9113 §8.2.2). A 426 must name the
    // protocol too (RFC 9110 §15.5.22).
    if parts.version == Version::HTTP_11 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response
            .headers_mut()
            .insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    response
}

/// Responds with a body and a checksum in its trailers.
fn trailers() -> Response<Body> {
    let data = Bytes::from_static(b"trailers follow\n");
    let sum = HeaderValue::from_str(&format!("{:016x}", checksum(&data)));
    let trailers = sum
        .map(|sum| HeaderMap::from_iter([(HeaderName::from_static("x-checksum"), sum)]))
        .ok();
    let mut response = Response::new(
        Trailing {
            data: Some(data),
            trailers,
        }
        .boxed_unsync(),
    );
    response
        .headers_mut()
        // hyper sends only trailers that this field announces.
        .insert(TRAILER, HeaderValue::from_static("x-checksum"));
    response
}

/// The 64-bit FNV-1a checksum that `/sandbox/sink` returns, there in hexadecimal.
pub fn checksum(data: &[u8]) -> u64 {
    let mut sum = Fnv::default();
    sum.add(data);
    sum.0
}

/// The state of a 64-bit FNV-1a checksum.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, data: &[u8]) {
        for byte in data {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

const fn pattern() -> [u8; 251 * 256] {
    let mut bytes = [0; 251 * 256];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at % 251) as u8;
        at += 1;
    }
    bytes
}

/// A body of known length, generated while it is read.
struct Patterned {
    left: u64,
}

impl http_body::Body for Patterned {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        // Whole patterns, so that every frame starts at the start of the pattern.
        let length =
            usize::try_from(self.left).map_or(PATTERN.len(), |left| left.min(PATTERN.len()));
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
            &PATTERN[..length],
        )))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body with trailers. It has no known length, since HTTP/1.1 has trailers only in chunked coding.
struct Trailing {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for Trailing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(
            data.or_else(|| self.trailers.take().map(Frame::trailers))
                .map(Ok),
        )
    }
}
