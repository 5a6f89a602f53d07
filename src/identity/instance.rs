//! The id of an instance.
//!
//! Invariants: texts that a lenient backend reads as the same id are equal; an id of
//! the usual length (12 characters at api.wawp.net) is stored inline, because each
//! request and up to 100,000 accounts hold one.

use std::fmt;
use std::ops::Deref;

use crate::http::has_byte;

/// The longest id, in bytes. Without a limit a client could choose how much memory an
/// account takes.
const MAX_LENGTH: usize = 128;

/// The longest id stored inline, in bytes.
const MAX_INLINE: usize = 22;

/// The id of an instance, trimmed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct InstanceId(Text);

#[derive(Clone, PartialEq, Eq)]
enum Text {
    /// The rest of the bytes is zero.
    Short {
        length: u8,
        bytes: [u8; MAX_INLINE],
    },
    Long(Box<str>),
}

impl InstanceId {
    /// [`trim`]s an id that was found; `None` if it is empty or too long then.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let name = trim(name);
        if name.is_empty() || name.len() > MAX_LENGTH {
            return None;
        }
        let mut bytes = [0; MAX_INLINE];
        let text = match (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(inline), Ok(length)) => {
                inline.copy_from_slice(name.as_bytes());
                Text::Short { length, bytes }
            }
            _ => Text::Long(Box::from(name)),
        };
        Some(Self(text))
    }

    /// The bytes of the id. Comparing them needs no check for UTF-8.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { length, bytes } => &bytes[..usize::from(*length)],
            Text::Long(name) => name.as_bytes(),
        }
    }
}

/// A value without white space and control characters around it, literal or
/// percent-encoded, cut at a NUL: a lenient backend reads `123%20` and `123%00x`
/// as `123`.
pub(super) fn trim(text: &str) -> &str {
    if is_plain(text.as_bytes()) {
        return text;
    }
    let mut text = text;
    while let Some(length) = blank_at(text, char_at_start, hex_at_start) {
        text = &text[length..];
    }
    // C strings end at a NUL. After the start was trimmed: a NUL there cuts nothing.
    for nul in ["\0", "%00"] {
        text = text.split(nul).next().unwrap_or_default();
    }
    while let Some(length) = blank_at(text, char_at_end, hex_at_end) {
        text = &text[..text.len() - length];
    }
    text
}

/// Whether a text has only visible ASCII and no escapes, so that nothing can be trimmed.
/// Nearly all values are so, and one cheap pass finds out.
pub(super) fn is_plain(text: &[u8]) -> bool {
    !has_byte(text, |byte| !byte.is_ascii_graphic() | (byte == b'%'))
}

/// The length of one blank at the start or the end of a text, if there is one.
fn blank_at(
    text: &str,
    char_at: fn(&str) -> Option<char>,
    hex_at: fn(&str) -> Option<&str>,
) -> Option<usize> {
    // Some editors write a byte order mark (U+FEFF) in front of a text.
    let is_blank =
        |letter: &char| letter.is_whitespace() || letter.is_control() || *letter == '\u{feff}';
    if let Some(letter) = char_at(text).filter(is_blank) {
        return Some(letter.len_utf8());
    }
    let escape = hex_at(text)?;
    let byte = u8::from_str_radix(escape.strip_prefix('%')?, 16).ok()?;
    (byte <= b' ' || byte == 0x7f).then_some(escape.len())
}

fn char_at_start(text: &str) -> Option<char> {
    text.chars().next()
}

fn char_at_end(text: &str) -> Option<char> {
    text.chars().next_back()
}

fn hex_at_start(text: &str) -> Option<&str> {
    text.get(..3)
}

fn hex_at_end(text: &str) -> Option<&str> {
    text.get(text.len().checked_sub(3)?..)
}

impl Deref for InstanceId {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("made from text")
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_kept_as_it_was() {
        for letter in ["a", "é"] {
            for length in 1..=MAX_LENGTH / letter.len() {
                let text = letter.repeat(length);
                let name = InstanceId::new(&text).unwrap();
                assert_eq!(&*name, text);
                assert_eq!(name.as_bytes(), text.as_bytes());
                assert_eq!(InstanceId::new(&text), Some(name.clone()));
                assert_ne!(InstanceId::new(&format!("{text}b")), Some(name));
            }
        }
        assert_eq!(InstanceId::new(&"a".repeat(MAX_LENGTH + 1)), None);
        assert_eq!(InstanceId::new(""), None);
    }

    #[test]
    fn an_id_is_the_same_in_every_spelling() {
        for text in [
            "123",
            " 123 ",
            "123%20",
            "%09123",
            "123\0",
            "123\0abc",
            "123%00",
            "%00123%00abc",
            "\u{feff}123\r\n",
            "%0d%0A123%7f",
            "\u{a0}123\u{2003}",
            "123\u{1}",
        ] {
            assert_eq!(InstanceId::new(text).as_deref(), Some("123"), "{text:?}");
        }
        for text in ["12 3", "12%203", "%2", "%zz", "+123", "%2b1", "é%e9"] {
            assert_eq!(InstanceId::new(text).as_deref(), Some(text), "{text:?}");
        }
        for text in [" ", "%20", "\0", " %00 "] {
            assert_eq!(InstanceId::new(text), None, "{text:?}");
        }
    }
}
