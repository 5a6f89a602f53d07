//! The key by which receipts merge: everything in them except the ids.
//!
//! Owns the parts of the key and their names ([`KeyPart`]). Invariant: receipts with
//! different credentials never have equal keys, not even by intent. A short key holds
//! the bytes themselves, a long one their SHA-256 digest, for which no collision is
//! known.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ring::digest;

use crate::sharded::hash_of;

/// Longer keys are replaced by their digest: a waiting receipt would otherwise
/// hold a long chat or cookie twice (rule: bounds).
const MAX_LENGTH: usize = 512;

/// A part of the key, by its name. Two receipts merge if all their parts are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyPart<'r> {
    Path,
    /// How the body carries its fields.
    Carrier,
    /// How the ids are written.
    IdsForm,
    /// The ids, in a form that is never extended.
    Ids,
    /// A field of the query, by the name of its variable.
    Query(&'r [u8]),
    /// A field of the body.
    Body(&'r [u8]),
    Header(&'r str),
}

impl fmt::Display for KeyPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path"),
            Self::Carrier => f.write_str("body type"),
            Self::IdsForm => f.write_str("form of the ids"),
            Self::Ids => f.write_str("ids"),
            Self::Query(name) => write!(f, "query key {}", String::from_utf8_lossy(name)),
            Self::Body(name) => write!(f, "body key {}", String::from_utf8_lossy(name)),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}

/// Receives the parts of a key in their order, each with its values.
pub(crate) trait KeySink {
    /// The next part begins.
    fn part(&mut self, part: KeyPart<'_>);
    /// A value of the current part; `None` for a key without a value.
    fn value(&mut self, value: Option<&[u8]>);
}

/// What two receipts must have in common to share an upstream call.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MergeKey {
    /// The hash of `bytes`, computed once and used by several tables. Its secret is random.
    hash: u64,
    bytes: Arc<[u8]>,
}

impl MergeKey {
    /// A key of the parts that `write` lists.
    pub(crate) fn new(write: impl FnOnce(&mut KeyWriter)) -> Self {
        let mut writer = KeyWriter {
            bytes: Vec::with_capacity(256),
            digest: None,
        };
        write(&mut writer);
        let bytes = writer.finish();
        Self {
            hash: hash_of(&bytes),
            bytes,
        }
    }

    /// A hash for tables.
    pub(crate) fn hashed(&self) -> u64 {
        self.hash
    }

    /// The same bytes in every process. They hold credentials.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Hash for MergeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Writes parts so that no two lists of parts give the same bytes.
pub(crate) struct KeyWriter {
    bytes: Vec<u8>,
    /// The digest of earlier bytes, once the key became too long.
    digest: Option<digest::Context>,
}

impl KeySink for KeyWriter {
    fn part(&mut self, part: KeyPart<'_>) {
        let (kind, name): (u8, &[u8]) = match part {
            KeyPart::Path => (b'p', b""),
            KeyPart::Carrier => (b'c', b""),
            KeyPart::IdsForm => (b'f', b""),
            KeyPart::Ids => (b'i', b""),
            KeyPart::Query(name) => (b'q', name),
            KeyPart::Body(name) => (b'b', name),
            KeyPart::Header(name) => (b'h', name.as_bytes()),
        };
        self.text(kind, name);
    }

    fn value(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.text(b'+', value),
            None => self.bytes.push(b'-'),
        }
    }
}

impl KeyWriter {
    fn text(&mut self, kind: u8, text: &[u8]) {
        // Heads and bodies are bounded, so the length always fits. With the length
        // in front, the texts `ab`, `c` and `a`, `bc` give different keys.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        match (u8::try_from(length), length.to_be_bytes()) {
            // Most texts are short, and each byte of the key is hashed.
            (Ok(length @ 0..=254), _) => self.bytes.extend_from_slice(&[kind, length]),
            (_, [a, b, c, d]) => self.bytes.extend_from_slice(&[kind, u8::MAX, a, b, c, d]),
        }
        if self.bytes.len() + text.len() <= MAX_LENGTH {
            self.bytes.extend_from_slice(text);
        } else {
            self.digest(text);
        }
    }

    /// Replaces the bytes so far and a text by their digest. Not inlined: most keys are
    /// short, and a digest needs a large stack frame.
    #[cold]
    fn digest(&mut self, text: &[u8]) {
        let sha256 = || digest::Context::new(&digest::SHA256);
        let digest = self.digest.get_or_insert_with(sha256);
        digest.update(&self.bytes);
        // The long text is hashed in place: the buffer stays small.
        digest.update(text);
        self.bytes.clear();
    }

    fn finish(self) -> Arc<[u8]> {
        let Some(mut digest) = self.digest else {
            return Arc::from(self.bytes);
        };
        digest.update(&self.bytes);
        // A short key begins with the `p` of the path, so it never equals a digest.
        [b"#", digest.finish().as_ref()].concat().into()
    }
}

impl fmt::Debug for MergeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MergeKey(…)")
    }
}
