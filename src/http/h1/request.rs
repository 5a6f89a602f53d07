//! Requests of the fast path: read and written.
//!
//! Invariant: a request that could be read in two ways is left to hyper.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::HEAD_END;
use super::write_buf::{COPIED, WriteBuf};
use crate::http::content_length;
use crate::http::header_case::{self, HeaderCase};
use crate::http::request_head::RequestHead;

/// The most headers on the fast path; few requests have more than twenty.
const MAX_FIELDS: usize = 32;

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
/// `max_fields` is for hyper.
pub(crate) fn read_request(read: Bytes, max_fields: usize) -> RequestRead {
    // hyper decides about empty lines before a request.
    if !read.first().is_some_and(u8::is_ascii_alphabetic) {
        return RequestRead::ForHyper(read);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let head_length = match request.parse(&read) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if read.len() <= MAX_HEAD => {
            return RequestRead::Incomplete(read);
        }
        _ => return RequestRead::ForHyper(read),
    };
    let Some((mut head, body_length)) = interpret(&read, &request, max_fields) else {
        return RequestRead::ForHyper(read);
    };
    let length = head_length + body_length;
    if read.len() < length {
        return RequestRead::Incomplete(read);
    }
    let names = request.headers.iter().map(|field| field.name);
    // `Connection` was not kept: see `interpret`.
    let is_kept = |name: &&str| !name.eq_ignore_ascii_case("connection");
    head.set_header_case(HeaderCase::of(names.filter(is_kept).map(str::as_bytes)));
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
    max_fields: usize,
) -> Option<(Box<RequestHead>, usize)> {
    if request.version != Some(1) || request.headers.len() > max_fields {
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
    let target = PathAndQuery::from_maybe_shared(read.slice_ref(target.as_bytes())).ok()?;
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    let mut length = None;
    for field in &*request.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if name == CONTENT_LENGTH {
            let value = usize::try_from(content_length::parse(field.value)?).ok()?;
            // Two lengths are an attempt at request smuggling (RFC 9112 §11.2).
            if length.replace(value).is_some() || value > MAX_BODY {
                return None;
            }
        } else if name == CONNECTION {
            if !field.value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
            // Hop-by-hop, and the default of HTTP/1.1 (RFC 9112 §9.3).
            continue;
        } else if FOR_HYPER.contains(&name) {
            return None;
        }
        let value = HeaderValue::from_maybe_shared(read.slice_ref(field.value)).ok()?;
        headers.append(name, value);
    }
    let mut head = Box::<RequestHead>::default();
    head.method = method;
    head.uri = Uri::from(target);
    head.headers = headers;
    Some((head, length.unwrap_or(0)))
}

/// Writes a request with a complete body.
///
/// # Panics
/// The head announces another length than the body has. The upstream would
/// then read the next request as part of this one, or wait for ever.
pub(crate) fn write_request(out: &mut WriteBuf, head: &RequestHead, body: Bytes) {
    let (method, headers) = (head.method.as_str(), &head.headers);
    let target = head.uri.path_and_query();
    let target = target.map_or("/", PathAndQuery::as_str);
    let text = out.text();
    let first = method.len() + target.len() + "  HTTP/1.1\r\n".len();
    // One allocation for the whole message in the usual case.
    text.reserve(first + header_case::encoded_length(headers) + HEAD_END + body.len().min(COPIED));
    text.extend_from_slice(method.as_bytes());
    text.push(b' ');
    text.extend_from_slice(target.as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    header_case::write_headers(text, headers, head.header_case());
    match headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) {
        Some(length) => assert_eq!(
            content_length::parse(length),
            Some(body.len() as u64),
            "a body's length"
        ),
        None if body.is_empty() => {}
        None => content_length::write(text, body.len() as u64),
    }
    text.extend_from_slice(b"\r\n");
    out.push(body);
}
