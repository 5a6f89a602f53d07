//! The key by which receipts merge: everything in them except the ids.
//!
//! Invariant: receipts with different credentials never have equal keys, not even
//! by intent. A short key holds the bytes themselves, a long one their SHA-256
//! digest, for which no collision is known.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderName;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_TYPE, COOKIE, ORIGIN,
};
use http::request::Parts;
use ring::digest;

use super::HASHER;
use super::parse::Fields;
use crate::identity::{INSTANCE_HEADER, TOKEN_HEADER};

/// Longer keys are replaced by their digest: a waiting receipt would otherwise
/// hold a long chat or cookie twice (rule: bounds).
const MAX_LENGTH: usize = 512;

/// End-to-end fields that can change the response, in the order of the key.
static FIELDS: [HeaderName; 9] = [
    AUTHORIZATION,
    HeaderName::from_static(TOKEN_HEADER),
    HeaderName::from_static(INSTANCE_HEADER),
    COOKIE,
    ACCEPT,
    ACCEPT_LANGUAGE,
    ACCEPT_ENCODING,
    CONTENT_TYPE,
    ORIGIN,
];

/// The vendor's own fields.
const VENDOR_PREFIX: &str = "x-wawp-";

/// What two receipts must have in common to share an upstream call.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MergeKey {
    /// The hash of `bytes`, computed once and used by several tables.
    hash: u64,
    bytes: Arc<[u8]>,
}

impl MergeKey {
    pub(crate) fn new(head: &Parts, body: &Bytes, fields: &Fields) -> Self {
        let mut key = KeyWriter {
            bytes: Vec::with_capacity(256),
            digest: None,
        };
        // As received, not normalised: the merged request has one caller's path.
        key.part(head.uri.path().as_bytes());
        // A whole-chat receipt (no ids, or an empty list) never merges with a list:
        // neither includes the other.
        key.part(&[u8::from(fields.ids_at.is_some())]);
        let query = head.uri.query().unwrap_or_default().as_bytes();
        // Sorted by name, so the order in the query does not matter. The values are
        // still encoded: only equal bytes are certain to mean the same to a backend.
        for (name, range) in &fields.query {
            key.part(name.as_bytes());
            key.part(&query[range.clone()]);
        }
        key.end();
        // The raw JSON, so that absent, `null`, `"null"` and `""` differ.
        for range in &fields.body {
            key.optional_part(range.as_ref().map(|range| &body[range.clone()]));
        }
        if fields.body[2].is_none() {
            // No chat in the body, so it is in the query. An empty body and `{}` are
            // different requests then.
            key.part(body.trim_ascii());
        }
        // One pass over the fields instead of one search for each name.
        let mut standard = Vec::with_capacity(FIELDS.len());
        let mut vendor = Vec::new();
        for (name, value) in &head.headers {
            if let Some(field) = FIELDS.iter().position(|field| field == name) {
                standard.push((field, value));
            } else if name.as_str().starts_with(VENDOR_PREFIX) {
                vendor.push((name.as_str(), value));
            }
        }
        // A stable sort: the order of one name's values matters.
        standard.sort_by_key(|(field, _)| *field);
        vendor.sort_by_key(|(name, _)| *name);
        for values in standard.chunk_by(|one, next| one.0 == next.0) {
            // The index instead of the name: shorter, and unique.
            key.part(&[u8::try_from(values[0].0).unwrap_or(u8::MAX)]);
            for (_, value) in values {
                key.part(value.as_bytes());
            }
            key.end();
        }
        key.end();
        for values in vendor.chunk_by(|one, next| one.0 == next.0) {
            key.part(values[0].0.as_bytes());
            for (_, value) in values {
                key.part(value.as_bytes());
            }
            key.end();
        }
        let bytes = key.finish();
        Self {
            hash: HASHER.hash_one(&bytes),
            bytes,
        }
    }
}

#[cfg(test)]
impl MergeKey {
    /// Bytes that it holds.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }
}

impl Hash for MergeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Writes parts so that no two lists of parts give the same bytes.
struct KeyWriter {
    bytes: Vec<u8>,
    /// The digest of earlier bytes, once the key became too long.
    digest: Option<digest::Context>,
}

impl KeyWriter {
    fn part(&mut self, part: &[u8]) {
        // Heads and bodies are bounded, so the length always fits. With the length
        // in front, the parts `ab`, `c` and `a`, `bc` give different keys.
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let [a, b, c, d] = length.to_be_bytes();
        self.bytes.extend_from_slice(&[b'+', a, b, c, d]);
        if self.bytes.len() + part.len() <= MAX_LENGTH {
            self.bytes.extend_from_slice(part);
        } else {
            let sha256 = || digest::Context::new(&digest::SHA256);
            let digest = self.digest.get_or_insert_with(sha256);
            digest.update(&self.bytes);
            // The long part is hashed in place: the buffer stays small.
            digest.update(part);
            self.bytes.clear();
        }
    }

    fn finish(self) -> Arc<[u8]> {
        let Some(mut digest) = self.digest else {
            return Arc::from(self.bytes);
        };
        digest.update(&self.bytes);
        // A short key begins with `+`, so it never equals a digest.
        [b"#", digest.finish().as_ref()].concat().into()
    }

    fn optional_part(&mut self, part: Option<&[u8]>) {
        match part {
            Some(part) => self.part(part),
            None => self.end(),
        }
    }

    fn end(&mut self) {
        self.bytes.push(b'.');
    }
}

impl fmt::Debug for MergeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MergeKey(…)")
    }
}
