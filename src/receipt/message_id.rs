//! What looks like a message id, and how a list of them is written.
//!
//! Invariant: an id has neither a quote nor a backslash. So the text between each two
//! quotes of a JSON list is an id.

use memchr::memchr_iter;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_encode};

use super::{NotMerged, json};
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
pub(crate) fn is_message_id(text: &str) -> bool {
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

/// Removes what is white space in JSON, which is less than what is white space elsewhere.
fn trim(json: &str) -> &str {
    json.trim_matches([' ', '\t', '\n', '\r'])
}

/// How many ids a JSON list has.
///
/// # Errors
/// The text is anything other than a list of texts that all look like ids.
pub(super) fn count(json: &str) -> Result<usize, NotMerged> {
    let inside = trim(json)
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'));
    let inside = inside.ok_or(NotMerged::IdsShape)?;
    let mut quotes = memchr_iter(b'"', inside.as_bytes());
    let (mut count, mut end) = (0, 0);
    while let Some(open) = quotes.next() {
        let close = quotes.next().ok_or(NotMerged::IdsShape)?;
        let comma = if count > 0 { "," } else { "" };
        // What looks like an id as it stands has no escapes.
        let is_id = is_message_id(&inside[open + 1..close])
            || json::text(&inside[open..=close]).is_some_and(|id| is_message_id(&id));
        if trim(&inside[end..open]) != comma || !is_id {
            return Err(NotMerged::IdsShape);
        }
        (count, end) = (count + 1, close + 1);
    }
    match trim(&inside[end..]) {
        "" => Ok(count),
        _ => Err(NotMerged::IdsShape),
    }
}

/// Writes ids as a JSON list. Ids need no escapes.
pub(super) fn json_list<'i>(ids: impl Iterator<Item = &'i [u8]>) -> Vec<u8> {
    let mut list = Vec::with_capacity(2 + ids.size_hint().0 * USUAL_ID);
    list.push(b'[');
    for id in ids {
        if list.len() > 1 {
            list.push(b',');
        }
        list.push(b'"');
        list.extend_from_slice(id);
        list.push(b'"');
    }
    list.push(b']');
    list
}

/// Percent-encodes text for a query value, piece by piece.
pub(super) fn encode(text: &[u8]) -> PercentEncode<'_> {
    percent_encode(text, RESERVED)
}

/// By how many bytes a value of a query is longer than [`encode`] would make it, because of escapes
/// that are not needed.
pub(super) fn needless(value: &[u8]) -> usize {
    let escapes = value.split(|byte| *byte == b'%').skip(1);
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let is_needless = |escape: &&[u8]| match escape {
        [high, low, ..] => digit(*high)
            .zip(digit(*low))
            .and_then(|(high, low)| u8::try_from(16 * high + low).ok())
            .is_some_and(|byte| encode(&[byte]).map(str::len).sum::<usize>() == 1),
        _ => false,
    };
    2 * escapes.filter(is_needless).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_that_no_query_needs_are_counted() {
        for (value, needless_bytes) in [
            ("false_1%40c.us_A", 0),
            ("%66alse_1%40c%2Eus_%41", 6),
            ("%%4%zz%2", 0),
        ] {
            assert_eq!(needless(value.as_bytes()), needless_bytes, "{value}");
        }
    }

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
    fn a_list_has_ids_and_nothing_else() {
        for (list, expected) in [
            ("[]", Some(0)),
            (" [ \r\n] ", Some(0)),
            (r#"["false_1_A"]"#, Some(1)),
            ("\t[ \"false_1_A\" ,\n\"f\\u0061lse_1_B\" ] ", Some(2)),
            ("", None),
            ("[", None),
            ("[,]", None),
            (r#""false_1_A""#, None),
            (r#"["false_1_A"#, None),
            (r#"["false_1_A",]"#, None),
            (r#"[,"false_1_A"]"#, None),
            (r#"["false_1_A" "false_1_B"]"#, None),
            (r#"["false_1_A",,"false_1_B"]"#, None),
            (r#"["false_1_A",1]"#, None),
            (r#"["false_1_A"]]"#, None),
            (r#"[["false_1_A"]]"#, None),
            (r#"["false_1_A",["false_1_B"]]"#, None),
            (r#"["false_1_A","x"]"#, None),
            (r#"["false_1_\"","false_1_B"]"#, None),
            (r#"["false_1_\"]"#, None),
            (r#"["false_1_\ud800"]"#, None),
            ("[\u{c}\"false_1_A\"]", None),
            ("[\u{a0}\"false_1_A\"]", None),
        ] {
            assert_eq!(count(list).ok(), expected, "{list}");
        }
    }

    #[test]
    fn a_list_is_written_as_json() {
        assert_eq!(json_list([].into_iter()), b"[]");
        assert_eq!(json_list([&b"a"[..], b"b"].into_iter()), br#"["a","b"]"#);
    }

    #[test]
    fn a_list_is_encoded_as_javascript_does() {
        assert_eq!(
            encode(br#"["false_1@c.us_A"]"#).to_string(),
            "%5B%22false_1%40c.us_A%22%5D"
        );
    }
}
