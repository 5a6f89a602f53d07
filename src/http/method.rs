//! Methods that stand for others.

use http::request::Parts;
use percent_encoding::percent_decode_str;

/// Headers by which a request asks to be handled as one with another method.
const HEADERS: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];
/// The query field that does the same in WordPress, Laravel and Rails.
const FIELD: &[u8] = b"_method";

/// Whether some backend may handle a request as one with another method.
pub(crate) fn is_overridden(head: &Parts) -> bool {
    // Compared, not looked up: a hash costs more than the few names of a request.
    let is_override = |name: &str| name.starts_with("x-") && HEADERS.contains(&name);
    head.headers.keys().any(|name| is_override(name.as_str()))
        || names_method(head.uri.query().unwrap_or_default())
}

/// Whether [`FIELD`] occurs in a query, plain or encoded.
fn names_method(query: &str) -> bool {
    if query.bytes().any(|byte| byte == b'%') {
        let query: Vec<u8> = percent_decode_str(query).collect();
        return query.windows(FIELD.len()).any(|window| window == FIELD);
    }
    // Without escapes nothing needs to be decoded, and few bytes start the name.
    let bytes = query.as_bytes();
    let starts = bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == FIELD[0]);
    { starts }.any(|(at, _)| bytes[at..].starts_with(FIELD))
}
