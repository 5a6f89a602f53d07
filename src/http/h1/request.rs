//! The head of a request: told whether it is plain, and written.
//!
//! Invariant: what could be read in two ways is not plain.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::LAST_LINES;
use super::header_case::{self, Spelling};
use super::response::digits;
use super::write_buf::{COPIED, Outbox};

/// Fields of a plain request at most; few have more than twenty.
const MAX_FIELDS: usize = 32;

/// Bytes of a plain request, head and body each: what is read ahead of one is
/// no more than hyper's smallest buffer.
const MAX_HEAD: usize = 8 * 1024;
const MAX_BODY: usize = 8 * 1024;

/// A field with its own case of a request that is not plain.
static OTHER: [HeaderName; 5] = [TRANSFER_ENCODING, EXPECT, UPGRADE, TE, TRAILER];

/// A plain request.
pub(crate) struct Plain {
    pub(crate) head: Box<Parts>,
    pub(crate) spelling: Spelling,
    pub(crate) body: Bytes,
}

/// What was read of a request.
pub(crate) enum Read {
    /// All of a plain one; then what follows it.
    Whole(Plain, Bytes),
    /// The beginning of what may become one; here it is back.
    Begun(Bytes),
    /// It is for hyper to say what this is; here it is back.
    Other(Bytes),
}

/// Reads a request from its first byte. One of more fields than `most` is no
/// plain one.
pub(crate) fn read_request(said: Bytes, most: usize) -> Read {
    // Empty lines before it are for hyper to judge.
    if !said.first().is_some_and(u8::is_ascii_alphabetic) {
        return Read::Other(said);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let head_length = match request.parse(&said) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if said.len() <= MAX_HEAD => return Read::Begun(said),
        _ => return Read::Other(said),
    };
    let Some((head, body_length)) = plain(&said, &request, most) else {
        return Read::Other(said);
    };
    let length = head_length + body_length;
    if said.len() < length {
        return Read::Begun(said);
    }
    let names = request.headers.iter().map(|field| field.name);
    let is_kept = |name: &&str| !name.eq_ignore_ascii_case("connection");
    let request = Plain {
        head,
        spelling: Spelling::of(names.filter(is_kept)),
        body: said.slice(head_length..length),
    };
    Read::Whole(request, said.slice(length..))
}

/// The head of a plain request, and the length of its body.
fn plain(
    said: &Bytes,
    request: &httparse::Request<'_, '_>,
    most: usize,
) -> Option<(Box<Parts>, usize)> {
    if request.version != Some(1) || request.headers.len() > most {
        return None;
    }
    let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
    if method == Method::HEAD || method == Method::CONNECT {
        return None;
    }
    let target = request.path.filter(|target| target.starts_with('/'))?;
    let target = PathAndQuery::from_maybe_shared(said.slice_ref(target.as_bytes())).ok()?;
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    let mut length = None;
    for field in &*request.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if name == CONTENT_LENGTH {
            let told = usize::try_from(digits(field.value)?).ok()?;
            if length.replace(told).is_some() || told > MAX_BODY {
                return None;
            }
        } else if name == CONNECTION {
            if !field.value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
            // It is of this hop, and says what is so without it (RFC 9112 §9.3).
            continue;
        } else if OTHER.contains(&name) {
            return None;
        }
        let value = HeaderValue::from_maybe_shared(said.slice_ref(field.value)).ok()?;
        headers.append(name, value);
    }
    let mut head = Box::new(Request::new(()).into_parts().0);
    head.method = method;
    head.uri = Uri::from(target);
    head.headers = headers;
    Some((head, length.unwrap_or(0)))
}

/// Writes a request whose body is at hand.
///
/// # Panics
/// The head tells another length than the body has: the upstream would take
/// the next request's bytes for this one's, or wait for ever.
pub(crate) fn write_request<B>(
    out: &mut Outbox,
    request: &Request<B>,
    spelling: Option<&Spelling>,
    body: Bytes,
) {
    let (method, headers) = (request.method().as_str(), request.headers());
    let target = request.uri().path_and_query();
    let target = target.map_or("/", PathAndQuery::as_str);
    let text = out.text();
    let first = method.len() + target.len() + "  HTTP/1.1\r\n".len();
    text.reserve(first + header_case::room(headers) + LAST_LINES + body.len().min(COPIED));
    text.extend_from_slice(method.as_bytes());
    text.push(b' ');
    text.extend_from_slice(target.as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    header_case::write(text, headers, spelling);
    match headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) {
        Some(told) => assert_eq!(digits(told), Some(body.len() as u64), "a body's length"),
        None if body.is_empty() => {}
        None => {
            text.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
    }
    text.extend_from_slice(b"\r\n");
    out.push(body);
}
