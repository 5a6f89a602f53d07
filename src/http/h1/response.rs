//! The head of a response: read and written.
//!
//! Invariant: the head alone determines where the body ends (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes};
use http::{HeaderName, HeaderValue, StatusCode};
use hyper::ext::ReasonPhrase;

use super::decode::BodyDecoder;
use super::encode::BodyEncoder;
use super::framing::{Framing, HeaderKind};
use super::write_buf::COPIED;
use super::{HEAD_END, Malformed};
use crate::http::content_length;
use crate::http::has_byte;
use crate::http::header_case::{HeaderCase, is_same_name};
use crate::http::hop_by_hop::HOP_BY_HOP;
use crate::http::raw_head::RawHeaderLines;
use crate::http::response_head::{ResponseHead, has_no_body};

/// The most headers of a response, for this codec and for hyper: the default limit
/// for requests, and the number that hyper parses without an allocation.
pub(crate) const MAX_RESPONSE_HEADERS: usize = 100;
/// The longest head of a response, in bytes.
pub(crate) const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// The head of a final response, and how to read its body.
#[derive(Debug)]
pub(crate) struct FinalResponse {
    /// Boxed, as in the response to the client, to which it is passed on.
    pub(crate) head: Box<ResponseHead>,
    pub(crate) decoder: BodyDecoder,
    /// Another request may follow on the connection.
    pub(crate) keeps_alive: bool,
}

/// What was read.
#[derive(Debug)]
pub(crate) enum ResponseRead {
    /// An interim response: the final one follows (RFC 9110 §15.2).
    Informational,
    Final(FinalResponse),
}

/// Takes the head of a response out of `read`; `None` while it is incomplete.
///
/// # Errors
/// It is malformed or too long.
pub(crate) fn read_response(read: &mut Bytes) -> Result<Option<ResponseRead>, Malformed> {
    if read.is_empty() {
        return Ok(None);
    }
    // Uninitialised: filling a hundred headers costs more than parsing ten.
    let mut headers = [const { MaybeUninit::uninit() }; MAX_RESPONSE_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    // A proxy replaces line folding in responses with spaces (RFC 9112 §5.2).
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, read, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if read.len() <= MAX_RESPONSE_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed),
    };
    let response = interpret(read, &parsed)?;
    read.advance(length);
    Ok(Some(response))
}

fn interpret(read: &Bytes, parsed: &httparse::Response<'_, '_>) -> Result<ResponseRead, Malformed> {
    let status = StatusCode::from_u16(parsed.code.unwrap_or(0)).map_err(|_| Malformed)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // No request on the fast path asks for an upgrade, so what follows would not
        // be HTTP.
        return Err(Malformed);
    }
    if status.is_informational() {
        return Ok(ResponseRead::Informational);
    }
    let is_http11 = parsed.version == Some(1);
    let (framing, mut head) = match read_raw(parsed.headers, is_http11, status) {
        Some(read) => read,
        None => read_map(read, parsed.headers, is_http11, status)?,
    };
    let decoder = framing.decoder(status)?;
    let reason = parsed.reason.unwrap_or_default();
    if status.canonical_reason() != Some(reason) {
        head.set_reason(ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| Malformed)?);
    }
    Ok(ResponseRead::Final(FinalResponse {
        keeps_alive: decoder != BodyDecoder::UntilClose && framing.keeps_alive(),
        head,
        decoder,
    }))
}

/// Keeps the header lines as text, except hop-by-hop headers; `None` where a
/// header must be changed before it may be forwarded.
fn read_raw(
    headers: &[httparse::Header<'_>],
    is_http11: bool,
    status: StatusCode,
) -> Option<(Framing, Box<ResponseHead>)> {
    if has_no_body(status) {
        // A 204 must not have a length (RFC 9110 §8.6), so one may have to be removed.
        return None;
    }
    let line_length = |header: &httparse::Header<'_>| header.name.len() + header.value.len() + 4;
    let mut lines = Vec::with_capacity(headers.iter().map(line_length).sum());
    let mut framing = Framing::new(is_http11);
    let mut head = Box::new(ResponseHead::new(status));
    let (mut length, mut has_coding, mut case) = (None, false, None);
    for &httparse::Header { name, value } in headers {
        let is = |known: &&str| is_same_name(name.as_bytes(), known.as_bytes());
        match framing.add(name.as_bytes(), value) {
            // An option other than `close` and `keep-alive` may name a header that must
            // be removed.
            HeaderKind::ConnectionOptions => return None,
            HeaderKind::Connection => {
                // The gateway may set it anew, in the same case.
                case = (name == "Connection").then_some(HeaderCase::CONNECTION);
                continue;
            }
            // Repeated lengths must be reduced to one.
            HeaderKind::ContentLength if length.is_some() => return None,
            HeaderKind::ContentLength => length = Some(content_length::parse(value)?),
            HeaderKind::Other if !HOP_BY_HOP.iter().any(is) => {}
            kind @ (HeaderKind::TransferEncoding | HeaderKind::Other) => {
                has_coding |= kind == HeaderKind::TransferEncoding;
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                head.append(name, HeaderValue::from_bytes(value).ok()?);
                continue;
            }
        }
        if has_byte(value, |byte| byte == b'\n') {
            // A folded line must be unfolded (RFC 9112 §5.2).
            return None;
        }
        lines.extend_from_slice(name.as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value);
        lines.extend_from_slice(b"\r\n");
    }
    if length.is_some() && has_coding {
        // The length must not be forwarded: a client that believed it would
        // read another body (RFC 9112 §6.3).
        return None;
    }
    head.set_raw(RawHeaderLines::new(lines, length), case);
    Some((framing, head))
}

/// Puts all headers into a map.
fn read_map(
    read: &Bytes,
    parsed: &[httparse::Header<'_>],
    is_http11: bool,
    status: StatusCode,
) -> Result<(Framing, Box<ResponseHead>), Malformed> {
    let mut framing = Framing::new(is_http11);
    let mut head = Box::new(ResponseHead::new(status));
    head.headers_mut().reserve(parsed.len() + 2);
    let mut is_lower_case = true;
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Malformed)?;
        is_lower_case &= name.as_str() == header.name;
        let value = header_value(read, header.value)?;
        if framing.add(header.name.as_bytes(), value.as_bytes()) != HeaderKind::Connection {
            head.append(name, value);
        }
    }
    let names = parsed.iter().map(|header| header.name.as_bytes());
    if !is_lower_case {
        head.set_case(HeaderCase::of(names));
    }
    Ok((framing, head))
}

/// A value that shares the buffer `read`, or a copy of a folded one.
fn header_value(read: &Bytes, value: &[u8]) -> Result<HeaderValue, Malformed> {
    HeaderValue::from_maybe_shared(read.slice_ref(value)).or_else(|_| {
        let lines: Vec<_> = value
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .collect();
        HeaderValue::from_bytes(&lines.join(&b' ')).map_err(|_| Malformed)
    })
}

/// Writes the head of a response whose body has this length, if that is known.
/// Returns how to write the body.
pub(crate) fn write_response(
    text: &mut Vec<u8>,
    head: &mut ResponseHead,
    length: Option<u64>,
) -> BodyEncoder {
    let announced = head.normalize_content_length();
    let status = head.status();
    let reason = head.reason();
    let first = "HTTP/1.1 200 \r\n".len() + reason.len();
    // A short body is copied after the head: one allocation and one write for both.
    let body = length.map_or(0, |length| usize::try_from(length).unwrap_or(COPIED));
    text.reserve(first + head.encoded_length() + HEAD_END + body.min(COPIED));
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(status.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(reason);
    text.extend_from_slice(b"\r\n");
    head.write_headers(text);
    let encoder = match (has_no_body(status), announced, length) {
        (true, ..) => BodyEncoder::Length(0),
        (false, Some(length), _) => BodyEncoder::Length(length),
        (false, None, Some(length)) => {
            content_length::write(text, length);
            BodyEncoder::Length(length)
        }
        (false, None, None) => {
            text.extend_from_slice(b"transfer-encoding: chunked\r\n");
            BodyEncoder::Chunked { is_open: false }
        }
    };
    text.extend_from_slice(b"\r\n");
    encoder
}
