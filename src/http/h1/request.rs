//! Requests of the fast path: read and written.
//!
//! Invariant: a request that could be read in two ways is left to hyper.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Uri};

use super::decode::BodyDecoder;
use super::framing::{Framing, FramingConflict};
use super::write_buf::{COPIED, WriteBuf};
use super::{HEAD_END, Malformed};
use crate::http::content_length;
use crate::http::header_case::{self, HeaderCase};
use crate::http::hop_by_hop;
use crate::http::raw_target::{self, RawTarget};
use crate::http::request_head::RequestHead;

/// The most headers on the fast path; few requests have more than twenty.
const MAX_HEADERS: usize = 32;

/// The longest head and the longest body on the fast path, in bytes. Together
/// they are no more than hyper's smallest buffer holds.
const MAX_HEAD: usize = 8 * 1024;
const MAX_BODY: usize = 8 * 1024;

/// Headers with a meaning that only hyper implements.
static FOR_HYPER: [HeaderName; 5] = [TRANSFER_ENCODING, EXPECT, UPGRADE, TE, TRAILER];

/// A complete request on the fast path.
pub(crate) struct FastRequest {
    /// In a box from here on: it is passed through about ten functions.
    pub(crate) head: Box<RequestHead>,
    pub(crate) body: Bytes,
}

/// What was read.
pub(crate) enum RequestRead {
    /// A request for the fast path, and the bytes behind it.
    Complete(FastRequest, Bytes),
    /// The beginning of a request that may be one for the fast path, unchanged.
    Incomplete(Bytes),
    /// Bytes for hyper, unchanged.
    ForHyper(Bytes),
}

/// Reads a request from its first byte. A request with more headers than
/// `max_headers` is for hyper.
pub(crate) fn read_request(read: Bytes, max_headers: usize) -> RequestRead {
    let read = match read_usual(read, max_headers) {
        RequestRead::ForHyper(read) => read,
        result => return result,
    };
    // Its target may be all that is unusual. A usual request does not come here.
    let Some((escaped, target)) = raw_target::escape(&read) else {
        return RequestRead::ForHyper(read);
    };
    match read_usual(escaped.into(), max_headers) {
        RequestRead::Complete(mut request, rest) if target.is_path() => {
            request.head.extensions.insert(target);
            RequestRead::Complete(request, rest)
        }
        RequestRead::Incomplete(_) => RequestRead::Incomplete(read),
        RequestRead::Complete(..) | RequestRead::ForHyper(_) => RequestRead::ForHyper(read),
    }
}

/// Reads a request whose target `http::Uri` can hold.
fn read_usual(read: Bytes, max_headers: usize) -> RequestRead {
    // hyper decides about empty lines before a request.
    if !read.first().is_some_and(u8::is_ascii_alphabetic) {
        return RequestRead::ForHyper(read);
    }
    // Uninitialised: filling all of them costs more than parsing some.
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let head_length = match request.parse_with_uninit_headers(&read, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if read.len() <= MAX_HEAD => {
            return RequestRead::Incomplete(read);
        }
        _ => return RequestRead::ForHyper(read),
    };
    let Some((mut head, body_length)) = interpret(&read, &request, max_headers) else {
        return RequestRead::ForHyper(read);
    };
    let length = head_length + body_length;
    if read.len() < length {
        return RequestRead::Incomplete(read);
    }
    let names = request.headers.iter().map(|header| header.name.as_bytes());
    // `Connection` was not kept: see `interpret`.
    let is_kept = |name: &&[u8]| !header_case::is_same_name(name, b"connection");
    head.set_header_case(HeaderCase::of(names.filter(is_kept)));
    let request = FastRequest {
        head,
        body: read.slice(head_length..length),
    };
    RequestRead::Complete(request, read.slice(length..))
}

/// The head of a request and the length of its body; `None` if it is for hyper.
fn interpret(
    read: &Bytes,
    request: &httparse::Request<'_, '_>,
    max_headers: usize,
) -> Option<(Box<RequestHead>, usize)> {
    if request.version != Some(1) || request.headers.len() > max_headers {
        return None;
    }
    let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
    // A response to HEAD or CONNECT ends differently: the fast path need not know
    // how.
    if method == Method::HEAD || method == Method::CONNECT {
        return None;
    }
    // Other forms (absolute, authority, asterisk) are rare (RFC 9112 §3.2).
    let target = request.path.filter(|target| target.starts_with('/'))?;
    let length_of_target = target.len();
    let target = PathAndQuery::from_maybe_shared(read.slice_ref(target.as_bytes())).ok()?;
    // A parsed target ends at `#`, without an error.
    if target.as_str().len() != length_of_target {
        return None;
    }
    let mut head = Box::<RequestHead>::default();
    head.method = method;
    head.uri = Uri::from(target);
    // Filled in place: a new map would have to replace this one.
    let headers = &mut head.headers;
    headers.reserve(request.headers.len());
    let mut length = None;
    for header in &*request.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        if name == CONTENT_LENGTH {
            let value = usize::try_from(content_length::parse(header.value)?).ok()?;
            // Two lengths are an attempt at request smuggling (RFC 9112 §11.2).
            if length.replace(value).is_some() || value > MAX_BODY {
                return None;
            }
        } else if name == CONNECTION {
            if !header.value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
            // Hop-by-hop, and the default of HTTP/1.1 (RFC 9112 §9.3).
            continue;
        } else if FOR_HYPER.contains(&name) {
            return None;
        }
        let value = HeaderValue::from_maybe_shared(read.slice_ref(header.value)).ok()?;
        headers.append(name, value);
    }
    Some((head, length.unwrap_or(0)))
}

/// The head of a request that is for hyper.
pub(crate) struct RequestFrame {
    /// The length of the head.
    pub(crate) length: usize,
    /// Finds the end of the body.
    pub(crate) body: BodyDecoder,
    pub(crate) conflict: Option<FramingConflict>,
    /// The case of the header names.
    pub(crate) case: HeaderCase,
}

/// Finds the end of a head and the framing of the body behind it, as hyper does
/// (RFC 9112 §6.3); `None` while the head is incomplete.
///
/// # Errors
/// hyper refuses this head.
pub(crate) fn frame_request(
    read: &[u8],
    max_headers: usize,
) -> Result<Option<RequestFrame>, Malformed> {
    let mut headers = vec![httparse::EMPTY_HEADER; max_headers];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(read) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed),
    };
    let mut framing = Framing::new(request.version == Some(1));
    for header in &*request.headers {
        framing.add(header.name.as_bytes(), header.value);
    }
    let names = request.headers.iter().map(|header| header.name.as_bytes());
    Ok(Some(RequestFrame {
        length,
        body: framing.request_decoder()?,
        conflict: framing.conflict(),
        case: HeaderCase::of(names),
    }))
}

/// Writes a request with a complete body.
///
/// # Panics
/// The head announces another length than the body has. The upstream would
/// then read the next request as part of this one, or wait for ever.
pub(crate) fn write_request(out: &mut WriteBuf, head: &RequestHead, body: Bytes) {
    // One allocation for the whole message in the usual case.
    let room = HEAD_END + body.len().min(COPIED);
    write_request_head(out.text(), head, Some(body.len()), room);
    out.push(body);
}

/// Writes the head of a request whose body has this length; `None` if the headers
/// themselves frame the body. `room` is for what follows.
///
/// # Panics
/// As [`write_request`].
pub(crate) fn write_request_head(
    text: &mut Vec<u8>,
    head: &RequestHead,
    length: Option<usize>,
    room: usize,
) {
    let (method, headers) = (head.method.as_str(), &head.headers);
    let target = match RawTarget::of(head) {
        Some(raw) => raw.bytes(),
        None => head
            .uri
            .path_and_query()
            .map_or("/", PathAndQuery::as_str)
            .as_bytes(),
    };
    let first = method.len() + target.len() + "  HTTP/1.1\r\n".len();
    text.reserve(first + header_case::encoded_length(headers) + room);
    text.extend_from_slice(method.as_bytes());
    text.push(b' ');
    text.extend_from_slice(target);
    text.extend_from_slice(b" HTTP/1.1\r\n");
    header_case::write_headers(text, headers, head.header_case());
    if let Some(length) = length {
        match hop_by_hop::first(headers, &CONTENT_LENGTH).map(HeaderValue::as_bytes) {
            Some(announced) => assert_eq!(
                content_length::parse(announced),
                Some(length as u64),
                "a body's length"
            ),
            None if length == 0 => {}
            None => content_length::write(text, length as u64),
        }
    }
    text.extend_from_slice(b"\r\n");
}
