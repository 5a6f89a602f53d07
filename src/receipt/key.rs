//! The key under which receipts merge: everything in them but the ids.
//!
//! Invariant: the key holds the very bytes, not a hash of them, so that two
//! different credentials can never share a call by accident or by design.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::HeaderName;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_TYPE, COOKIE, ORIGIN,
};
use http::request::Parts;

use super::parse::Fields;
use crate::identity::{INSTANCE_HEADER, TOKEN_HEADER};

/// End-to-end fields that can change the answer, in the order they are keyed.
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

/// Fields of the vendor's own, whatever they mean.
const VENDOR_PREFIX: &str = "x-wawp-";

/// What two receipts must have in common to share a call.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MergeKey {
    /// Of the bytes, made once: tables look for a key more than once.
    hash: u64,
    bytes: Arc<[u8]>,
}

/// Drawn at start: nobody outside can make keys that fall together.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl MergeKey {
    pub(crate) fn new(head: &Parts, body: &Bytes, fields: &Fields) -> Self {
        let mut key = Writer(Vec::with_capacity(256));
        key.part(head.uri.path().as_bytes());
        // Absent ids and an empty list are one form; a list is another.
        key.part(&[u8::from(fields.ids_at.is_some())]);
        let query = head.uri.query().unwrap_or_default().as_bytes();
        for (name, range) in &fields.query {
            key.part(name.as_bytes());
            key.part(&query[range.clone()]);
        }
        key.end();
        for range in &fields.body {
            key.maybe(range.as_ref().map(|range| &body[range.clone()]));
        }
        if fields.body[2].is_none() {
            // The query spelling: an empty body and `{}` are two requests.
            key.part(body.trim_ascii());
        }
        // One look at each field instead of one search for each name.
        let mut standard = Vec::with_capacity(FIELDS.len());
        let mut vendor = Vec::new();
        for (name, value) in &head.headers {
            if let Some(field) = FIELDS.iter().position(|field| field == name) {
                standard.push((field, value));
            } else if name.as_str().starts_with(VENDOR_PREFIX) {
                vendor.push((name.as_str(), value));
            }
        }
        // Stable: the order of one name's values matters.
        standard.sort_by_key(|(field, _)| *field);
        vendor.sort_by_key(|(name, _)| *name);
        for values in standard.chunk_by(|one, next| one.0 == next.0) {
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
        Self {
            hash: HASHER.hash_one(&key.0),
            bytes: Arc::from(key.0),
        }
    }
}

impl Hash for MergeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Writes parts so that no two lists of parts give the same bytes.
struct Writer(Vec<u8>);

impl Writer {
    fn part(&mut self, part: &[u8]) {
        // Longer than any request line or body that gets here.
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        self.0.push(b'+');
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(part);
    }

    fn maybe(&mut self, part: Option<&[u8]>) {
        match part {
            Some(part) => self.part(part),
            None => self.end(),
        }
    }

    fn end(&mut self) {
        self.0.push(b'.');
    }
}

impl fmt::Debug for MergeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MergeKey(…)")
    }
}
