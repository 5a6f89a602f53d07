//! When two failures are the same, and which failures last.
//!
//! The rule: two responses are the same failure if they have the same status and
//! the same body shape. The shape of a body is its words in their order, without
//! the words that differ from one request to the next. Such a word
//!
//! - holds a digit (ids, timestamps, durations, counts, hexadecimal trace ids),
//! - begins as a message id does (`true_`, `false_`), or
//! - has more than [`LONGEST_WORD`] bytes (other opaque ids).
//!
//! White space, quotes, brackets and commas separate words and do not count, so
//! a list of one id has the shape of a list of fifty. Field names, error texts
//! and symbolic codes count. The shape of a compressed body is unknown: the
//! status alone decides.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_ENCODING;
use tokio::time::Instant;

use super::remembered::Remembered;
use crate::http::response_head::ResponseHead;
use crate::receipt::MergeKey;

/// Longer words are taken for opaque ids.
const LONGEST_WORD: usize = 24;

/// Merge keys whose common failure is remembered.
const CAPACITY: usize = 1000;

/// How long a common failure is remembered after it was last seen.
const MEMORY: Duration = Duration::from_secs(60);

/// A response that an id or the length of a list may have caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    status: StatusCode,
    shape: u64,
}

impl Rejection {
    /// The rejection, if this response is one.
    pub(super) fn of(head: &ResponseHead, body: &[u8]) -> Option<Self> {
        let status = head.status();
        // Only these may depend on the ids of one caller (rule: splitting). 404 or
        // 401 concern the instance or the credential, which all callers share.
        if !matches!(status.as_u16(), 400 | 413 | 414 | 422 | 500) {
            return None;
        }
        // Compressed bytes differ with every timestamp inside, and the gateway does
        // not decompress.
        let shape = match head.get(&CONTENT_ENCODING).is_some() {
            true => 0,
            false => shape(body),
        };
        Some(Self { status, shape })
    }

    #[cfg(test)]
    pub(super) fn new(status: StatusCode, shape: u64) -> Self {
        Self { status, shape }
    }
}

fn shape(body: &[u8]) -> u64 {
    // Each word is hashed with its length, so "ab c" and "a bc" differ. A collision
    // would only take two failures for one.
    let mut hasher = DefaultHasher::new();
    for word in body.split(|byte| !is_of_word(*byte)) {
        if !word.is_empty() && !is_variable(word) {
            word.hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn is_of_word(byte: u8) -> bool {
    // Bytes from 0x80 on are parts of letters in UTF-8. The signs join the parts
    // of ids, addresses, dates and base64: split at them, an id of letters would
    // leave words that differ with each response.
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"_-.@+/=%:".contains(&byte)
}

fn is_variable(word: &[u8]) -> bool {
    word.iter().any(u8::is_ascii_digit)
        || word.starts_with(b"true_")
        || word.starts_with(b"false_")
        || word.len() > LONGEST_WORD
}

/// The failures that all receipts of a merge key have in common at present.
#[derive(Debug)]
pub(super) struct CommonFailures(Remembered<MergeKey, Rejection>);

impl CommonFailures {
    pub(super) fn new() -> Self {
        Self(Remembered::new(CAPACITY))
    }

    /// The failure that receipts of this key have in common.
    pub(super) fn of(&self, key: &MergeKey, now: Instant) -> Option<Rejection> {
        self.0.find(std::iter::once(key), now)
    }

    /// Remembers that all receipts of a key fail in this way.
    pub(super) fn remember(&self, key: &MergeKey, rejection: Rejection, now: Instant) {
        let entry = (key.clone(), rejection);
        self.0.extend(std::iter::once(entry), now, now + MEMORY);
    }

    /// Forgets the common failure of a key.
    pub(super) fn forget(&self, key: &MergeKey) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(status: u16, body: &str) -> Option<Rejection> {
        let head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        Rejection::of(&head, body.as_bytes())
    }

    #[test]
    fn ids_timestamps_and_the_length_of_a_list_make_no_other_failure() {
        let one = r#"{"error":"invalid ids","ids":["false_1@c.us_ABC"],"at":"2026-11-29T13:45:16Z","trace":"9f86d081884c7d65"}"#;
        for other in [
            r#"{"error":"invalid ids","ids":["false_1@c.us_ABC","false_447@c.us_X"],"at":"2027-01-01T00:00:00.123+01:00","trace":"aa"}"#,
            r#"{"error": "invalid ids", "ids": [], "at": 1795959916, "trace": "0b"}"#,
        ] {
            let other = other.replace("\"aa\"", "\"a0\"");
            assert_eq!(of(422, one), of(422, &other), "{other}");
        }
        assert_eq!(of(500, "took 12 ms"), of(500, "took 3.5 ms"));
        assert_eq!(of(400, "no chat false_a_b"), of(400, "no chat true_c_d"));
        let opaque = "AbCdEfGhIjKlMnOpQrStUvWxYz";
        assert_eq!(of(400, &format!("see {opaque}")), of(400, "see"));
        let length = |length| format!("see {}", &opaque[..length]);
        assert_eq!(of(400, &length(25)), of(400, "see"));
        assert_ne!(of(400, &length(24)), of(400, "see"));
    }

    #[test]
    fn another_status_text_or_field_is_another_failure() {
        let one = of(422, r#"{"error":"invalid id"}"#);
        for (status, other) in [
            (400, r#"{"error":"invalid id"}"#),
            (422, r#"{"error":"unknown chat"}"#),
            (422, r#"{"message":"invalid id"}"#),
            (422, ""),
        ] {
            assert_ne!(one, of(status, other), "{status} {other}");
        }
        assert_eq!(of(404, "not found"), None);
    }

    #[test]
    fn of_a_compressed_body_only_the_status_counts() {
        let mut head = ResponseHead::new(StatusCode::INTERNAL_SERVER_ERROR);
        head.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let of = |body: &[u8]| Rejection::of(&head, body);
        assert_eq!(of(b"one"), of(b"two"));
    }
}
