//! Method overrides: a request that asks to be handled with another method.

use http::request::Parts;
use percent_encoding::percent_decode_str;

/// Headers that override the method.
const HEADERS: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];
/// The query field that does the same in WordPress, Laravel and Rails.
const FIELD: &[u8] = b"_method";

/// Whether a backend may handle a request with another method than its own.
pub(crate) fn is_overridden(head: &Parts) -> bool {
    // Compared, not looked up: a hash costs more than the few names of a request.
    let is_override = |name: &str| name.starts_with("x-") && HEADERS.contains(&name);
    head.headers.keys().any(|name| is_override(name.as_str()))
        || names_method(head.uri.query().unwrap_or_default())
}

/// Whether [`FIELD`] occurs in a query, plain or encoded.
fn names_method(query: &str) -> bool {
    let bytes = query.as_bytes();
    // Nearly always finds neither an escape nor the first two letters of the name. A fold
    // without an early exit is compiled to a comparison of sixteen bytes at a time.
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    let may_name = pairs.fold(false, |found, (byte, next)| {
        found | (*byte == b'%') | ((*byte == FIELD[0]) & (*next == FIELD[1]))
    });
    may_name && {
        let decoded: Vec<u8> = percent_decode_str(query).collect();
        decoded.windows(FIELD.len()).any(|window| window == FIELD)
    }
}
