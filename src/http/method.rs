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
    let query = || {
        let query: Vec<u8> = percent_decode_str(head.uri.query().unwrap_or_default()).collect();
        query.windows(FIELD.len()).any(|window| window == FIELD)
    };
    HEADERS.iter().any(|name| head.headers.contains_key(*name)) || query()
}
