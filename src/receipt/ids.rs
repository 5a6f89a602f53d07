//! Message ids: what looks like one, and how a list of them is written.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Longer texts are no ids: the longest parts seen are two JIDs and a 32-digit id.
const MAX_ID: usize = 512;

/// The id of a message, as WAHA spells it:
/// `{true or false}_{chat}_{id}[_{participant}]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MessageId(Arc<str>);

impl MessageId {
    /// Takes a text that looks like an id.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let rest = ["true_", "false_"]
            .iter()
            .find_map(|from_me| text.strip_prefix(from_me))?;
        // One look at each byte: there may be a hundred ids in a call.
        let (mut parts, mut is_empty) = (1, true);
        for byte in rest.bytes() {
            match byte {
                b'_' if is_empty => return None,
                b'_' => (parts, is_empty) = (parts + 1, true),
                b'"' | b'\\' => return None,
                _ if byte.is_ascii_graphic() => is_empty = false,
                _ => return None,
            }
        }
        let is_whole = text.len() <= MAX_ID && (2..=3).contains(&parts) && !is_empty;
        is_whole.then(|| Self(Arc::from(text)))
    }

    /// The id's text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// From a text that looks like an id, and nothing else.
impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Reader)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = MessageId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message id")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<MessageId, E> {
        MessageId::new(text).ok_or_else(|| E::custom("no message id"))
    }
}

/// Percent-encodes text for a query value: everything but the unreserved
/// characters of RFC 3986 §2.3.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes whatever is written");
        }
    }
    encoded
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
            assert!(MessageId::new(good).is_some(), "{good}");
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
            assert!(MessageId::new(bad).is_none(), "{bad}");
        }
        assert!(MessageId::new(&format!("false_a_{}", "x".repeat(600))).is_none());
    }

    #[test]
    fn a_list_is_encoded_as_javascript_does() {
        assert_eq!(
            encode(r#"["false_1@c.us_A"]"#),
            "%5B%22false_1%40c.us_A%22%5D"
        );
    }
}
