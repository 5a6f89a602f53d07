//! The name of an instance, as its account keeps it.
//!
//! Invariant: a name of the usual length (the vendor's have 12 characters)
//! takes no memory of its own; there may be a hundred thousand accounts.

use std::fmt;

/// The longest name kept in place: what a pointer and a length leave room for
/// anyway.
const SHORT: usize = 22;

/// The name of an instance.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// The rest of the bytes is zero.
    Short {
        length: u8,
        bytes: [u8; SHORT],
    },
    Long(Box<str>),
}

impl Name {
    pub(super) fn new(name: &str) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(name.as_bytes());
                Self::Short { length, bytes }
            }
            _ => Self::Long(Box::from(name)),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(name) => name.as_bytes(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("made from text")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_kept_as_it_was() {
        for length in 0..=128 {
            for letter in ["a", "é"] {
                let text = letter.repeat(length);
                let name = Name::new(&text);
                assert_eq!(name.as_str(), text);
                assert_eq!(name.as_bytes(), text.as_bytes());
                assert_eq!(name, Name::new(&text));
                assert_ne!(name, Name::new(&format!("{text}\0")));
            }
        }
    }
}
