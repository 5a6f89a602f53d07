//! The name of an instance.
//!
//! Invariant: a name of the usual length (the vendor's have 12 characters)
//! takes no memory of its own: every call has one, and so have a hundred
//! thousand accounts.

use std::fmt;
use std::ops::Deref;

/// Longer names are no instance ids, and would let a caller choose how much
/// memory its account takes.
const MAX: usize = 128;

/// The longest name kept in place: what a pointer and a length leave room for
/// anyway.
const SHORT: usize = 22;

/// The name of an instance.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct InstanceId(Text);

#[derive(Clone, PartialEq, Eq)]
enum Text {
    /// The rest of the bytes is zero.
    Short {
        length: u8,
        bytes: [u8; SHORT],
    },
    Long(Box<str>),
}

impl InstanceId {
    /// Takes a name as found; `None` where it is empty or absurdly long.
    pub(crate) fn new(name: &str) -> Option<Self> {
        if name.is_empty() || name.len() > MAX {
            return None;
        }
        let mut bytes = [0; SHORT];
        let text = match (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(name.as_bytes());
                Text::Short { length, bytes }
            }
            _ => Text::Long(Box::from(name)),
        };
        Some(Self(text))
    }

    /// The name's bytes, for whoever only compares them.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { length, bytes } => &bytes[..usize::from(*length)],
            Text::Long(name) => name.as_bytes(),
        }
    }
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
            for length in 1..=MAX / letter.len() {
                let text = letter.repeat(length);
                let name = InstanceId::new(&text).unwrap();
                assert_eq!(&*name, text);
                assert_eq!(name.as_bytes(), text.as_bytes());
                assert_eq!(InstanceId::new(&text), Some(name.clone()));
                assert_ne!(InstanceId::new(&format!("{text}\0")), Some(name));
            }
        }
        assert_eq!(InstanceId::new(&"a".repeat(MAX + 1)), None);
        assert_eq!(InstanceId::new(""), None);
    }
}
