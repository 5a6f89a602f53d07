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
    let query = || {
        // Searched anywhere, also within values. A false match is harmless: the request
        // verifies nothing and is no preflight.
        let query: Vec<u8> = percent_decode_str(head.uri.query().unwrap_or_default()).collect();
        query.windows(FIELD.len()).any(|window| window == FIELD)
    };
    HEADERS.iter().any(|name| head.headers.contains_key(*name)) || query()
}
