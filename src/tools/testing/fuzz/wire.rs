//! Inputs as text that people can read and a fuzzer can change.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};

/// Separates the parts of an input.
const SEPARATOR: &[u8] = b"\n====\n";

/// Reads a request: `POST /target`, header lines, an empty line, the body.
/// Lines end with LF; `None` is text that no server would accept.
pub(super) fn request(text: &[u8]) -> Option<(Parts, Bytes)> {
    let (line, mut rest) = cut(text, b"\n")?;
    let (method, target) = cut(line, b" ")?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = Uri::try_from(target).ok()?;
    loop {
        let (line, after) = cut(rest, b"\n")?;
        rest = after;
        if line.is_empty() {
            let (head, ()) = request.into_parts();
            return Some((head, Bytes::copy_from_slice(rest)));
        }
        // Exactly one space, so that one request has one text.
        let (name, value) = cut(line, b": ")?;
        request.headers_mut().append(
            HeaderName::from_bytes(name).ok()?,
            HeaderValue::from_bytes(value).ok()?,
        );
    }
}

/// The parts of an input.
pub(super) fn parts(text: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((part, after)) = cut(rest, SEPARATOR) {
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}

/// Splits at the first occurrence of `at`.
pub(super) fn cut<'t>(text: &'t [u8], at: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let start = text.windows(at.len()).position(|window| window == at)?;
    Some((&text[..start], &text[start + at.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_written() {
        let (head, body) = request(b"POST /a?b=c\nx-y: z\n\n{}\n").unwrap();
        assert_eq!((head.method, head.uri.path()), (Method::POST, "/a"));
        assert_eq!(
            (&head.headers["x-y"], &body[..]),
            (&HeaderValue::from_static("z"), &b"{}\n"[..])
        );
        assert!(request(b"POST /a").is_none());
        assert_eq!(parts(b"a\n====\nb"), [b"a", b"b"]);
    }
}
