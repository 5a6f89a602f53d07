//! What looks like a message id, and how a list of them is written.
//!
//! Invariant: an id has neither a quote nor a backslash. So the text between each two
//! quotes of a JSON list is an id.

use std::fmt;

use memchr::memchr_iter;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use super::NotMerged;
use crate::http::has_byte;

/// The longest id in bytes. Real ids have at most two JIDs and 32 digits, which is
/// far below.
const MAX_ID: usize = 512;

/// Bytes of a usual id with quotes and comma, to estimate the size of a list.
const USUAL_ID: usize = 64;

/// All characters except the unreserved ones of RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Whether a text looks like a message id as WAHA writes it:
/// `{true or false}_{chat}_{id}[_{participant}]`.
pub(super) fn is_message_id(text: &str) -> bool {
    let prefixes = ["true_", "false_"];
    let Some(rest) = prefixes.iter().find_map(|it| text.strip_prefix(it)) else {
        return false;
    };
    let rest = rest.as_bytes();
    // Quote and backslash are visible ASCII, but would break the invariant of this file.
    let is_foreign = |byte: u8| !byte.is_ascii_graphic() | (byte == b'"') | (byte == b'\\');
    if text.len() > MAX_ID || has_byte(rest, is_foreign) {
        return false;
    }
    let (mut parts, mut start) = (1, 0);
    for end in memchr_iter(b'_', rest) {
        if start == end {
            return false;
        }
        (parts, start) = (parts + 1, end + 1);
    }
    (2..=3).contains(&parts) && start < rest.len()
}

/// How many ids a JSON list has.
///
/// # Errors
/// The text is anything other than a list of texts that all look like ids.
pub(super) fn count(json: &str) -> Result<usize, NotMerged> {
    let IdCount(count) = serde_json::from_str(json).map_err(|_| NotMerged::IdsShape)?;
    Ok(count)
}

/// The length of a JSON list of texts that all look like ids.
#[derive(Debug)]
struct IdCount(usize);

impl<'de> Deserialize<'de> for IdCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor).map(Self)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of message ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while list.next_element::<LooksLikeId>()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

/// A text that looks like an id. It is checked and not kept, so counting a list
/// allocates nothing.
struct LooksLikeId;

impl<'de> Deserialize<'de> for LooksLikeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(LooksLikeId)
    }
}

impl Visitor<'_> for LooksLikeId {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message id")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self, E> {
        match is_message_id(text) {
            true => Ok(self),
            false => Err(E::custom("not a message id")),
        }
    }
}

/// Writes ids as a JSON list. Ids need no escapes.
pub(super) fn json_list<'i>(ids: impl Iterator<Item = &'i str>) -> String {
    let mut list = String::with_capacity(2 + ids.size_hint().0 * USUAL_ID);
    list.push('[');
    for id in ids {
        let comma = if list.len() > 1 { "," } else { "" };
        list.extend([comma, "\"", id, "\""]);
    }
    list.push(']');
    list
}

/// Percent-encodes text for a query value, piece by piece.
pub(super) fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_an_id() {
        for good in [
            "false_447400000000@c.us_AAAA",
            "true_1@g.us_3EB0_447@lid",
            "false_a_b",
        ] {
            assert!(is_message_id(good), "{good}");
        }
        for bad in [
            "",
            "false",
            "false_a",
            "maybe_a_b",
            "false_a_b_c_d",
            "false__b",
            "false_a_",
            "false_a_b_",
            "FALSE_a_b",
            "false_a b_c",
            "false_a_b\n",
            "false_ä_b",
            "false_a\"_b",
        ] {
            assert!(!is_message_id(bad), "{bad}");
        }
        let of_length = |length| format!("false_a_{}", "x".repeat(length - "false_a_".len()));
        assert!(is_message_id(&of_length(MAX_ID)));
        assert!(!is_message_id(&of_length(MAX_ID + 1)));
    }

    #[test]
    fn a_list_is_written_as_json() {
        assert_eq!(json_list([].into_iter()), "[]");
        assert_eq!(json_list(["a", "b"].into_iter()), r#"["a","b"]"#);
    }

    #[test]
    fn a_list_is_encoded_as_javascript_does() {
        assert_eq!(
            encode(r#"["false_1@c.us_A"]"#).to_string(),
            "%5B%22false_1%40c.us_A%22%5D"
        );
    }
}
