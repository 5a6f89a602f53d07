//! Encodes a token for the part of a request in which it replaces a key.
//!
//! Invariant: whatever characters a token has, a recipient decodes exactly the token,
//! and reads no other field into it.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but the unreserved characters of RFC 3986 §2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Encodes a token for a query or a form.
pub(super) fn encoded(token: &str) -> String {
    utf8_percent_encode(token, ENCODED).to_string()
}

/// Encodes a token as a JSON string.
pub(super) fn quoted(token: &str) -> String {
    serde_json::Value::from(token).to_string()
}

/// The parts of a credential field that may be a token: all of it, and the text
/// after a scheme such as `Bearer`.
pub(super) fn candidates(value: &[u8]) -> impl Iterator<Item = Range<usize>> {
    // As ranges, because the caller replaces the bytes.
    let end = value.trim_ascii_end().len();
    let start = value.len() - value.trim_ascii_start().len();
    let whole = start..end.max(start);
    let scheme_end = value[whole.clone()]
        .iter()
        .position(u8::is_ascii_whitespace);
    let credentials = scheme_end.map(|at| {
        let rest = &value[start + at..end];
        end - rest.trim_ascii_start().len()..end
    });
    [Some(whole), credentials].into_iter().flatten()
}

/// Puts a token into the value of a header; `None` if a header cannot hold it.
pub(super) fn replaced_in_field(
    value: &HeaderValue,
    at: Range<usize>,
    token: &str,
) -> Option<HeaderValue> {
    let bytes = replaced(value.as_bytes(), at, token.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from(bytes)).ok()?;
    // Keeps it out of `Debug` output and of HPACK's dynamic table (RFC 7541 §7.1.3).
    value.set_sensitive(true);
    Some(value)
}

/// The text with another text in place of a range.
pub(super) fn replaced(text: &[u8], range: Range<usize>, with: &[u8]) -> Vec<u8> {
    [&text[..range.start], with, &text[range.end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_token_in_a_field() {
        let parts = |value: &'static str| -> Vec<&str> {
            candidates(value.as_bytes())
                .map(|range| &value[range])
                .collect()
        };
        assert_eq!(parts("k"), ["k"]);
        assert_eq!(parts("Bearer k"), ["Bearer k", "k"]);
        assert_eq!(parts(" bearer \t k "), ["bearer \t k", "k"]);
        assert_eq!(parts("Bearer k l"), ["Bearer k l", "k l"]);
        assert_eq!(parts(""), [""]);
        assert_eq!(parts("  "), [""]);
    }

    #[test]
    fn every_character_is_written_so_that_it_is_read_again() {
        let token: String = (' '..='~').collect();
        assert_eq!(crate::identity::decode(&encoded(&token)), token);
        assert_eq!(
            serde_json::from_str::<String>(&quoted(&token)).unwrap(),
            token
        );
        let value = replaced_in_field(&HeaderValue::from_static("Bearer k"), 7..8, &token).unwrap();
        assert_eq!(value.to_str().unwrap(), format!("Bearer {token}"));
        assert!(value.is_sensitive());
    }
}
