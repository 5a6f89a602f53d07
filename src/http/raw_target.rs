//! Request targets with bytes that a URI may not contain.
//!
//! Clients send them, and servers accept them, but `http::Uri` cannot hold
//! them: it cuts them at a `#` without an error and refuses other bytes. Such a
//! target is percent-encoded for the parser and for identity. A [`RawTarget`] in
//! the extensions of the head keeps the bytes that are forwarded (rule:
//! pass-through).
//!
//! Invariant: a target that `http::Uri` would change is never given to it.

use std::ops::Range;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;

/// The bytes of a target, as received.
#[derive(Clone)]
pub(crate) struct RawTarget {
    /// Path and query.
    bytes: Bytes,
    /// The first byte that a URI may not contain.
    byte: u8,
    /// The index of the first `#` in the percent-encoded target.
    fragment_at: Option<usize>,
    /// The target is no path, so it was replaced by `/`.
    is_replaced: bool,
}

impl RawTarget {
    /// The raw target of a request; `None` for the usual request, whose URI has
    /// all bytes of its target.
    pub(crate) fn of(head: &Parts) -> Option<&Self> {
        head.extensions.get()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The first byte that a URI may not contain.
    pub(crate) fn byte(&self) -> u8 {
        self.byte
    }

    /// Whether these bytes can be sent as the target of a request.
    pub(crate) fn is_path(&self) -> bool {
        !self.is_replaced
    }

    /// The query as read by a backend that ignores everything from `#` on.
    pub(crate) fn query_before_fragment<'h>(&self, head: &'h Parts) -> Option<&'h str> {
        let target = head.uri.path_and_query()?.as_str();
        let before = target.get(..self.fragment_at?)?;
        before.split_once('?').map(|(_, query)| query)
    }

    /// Replaces bytes. `at` is their range in the percent-encoded target.
    pub(crate) fn replace(&mut self, at: &Range<usize>, text: &[u8]) {
        let raw = self.raw_index(at.start)..self.raw_index(at.end);
        let (before, after) = (&self.bytes[..raw.start], &self.bytes[raw.end..]);
        self.bytes = Bytes::from([before, text, after].concat());
        // An edit before the `#` moves it; one that covers it removes it.
        self.fragment_at = match self.fragment_at {
            Some(fragment) if at.end <= fragment => Some(fragment - at.len() + text.len()),
            fragment => fragment.filter(|fragment| *fragment < at.start),
        };
    }

    /// The index of the raw byte that is at `index` in the percent-encoded
    /// target.
    fn raw_index(&self, index: usize) -> usize {
        // An escaped byte takes three in the percent-encoded target.
        let mut encoded = 0;
        let is_before = |byte: &&u8| {
            let begins_before = encoded < index;
            encoded += encoded_length(**byte);
            begins_before
        };
        self.bytes.iter().take_while(is_before).count()
    }
}

/// The request that begins here with its target percent-encoded; `None` if it
/// has a usual target, or one with white space or control characters (which a
/// parser refuses), or if its request line is incomplete.
pub(crate) fn escape(read: &[u8]) -> Option<(Vec<u8>, RawTarget)> {
    let target = target(read)?;
    let text = &read[target.clone()];
    // An absolute target (RFC 9112 §3.2.2) has its path after the authority.
    let path_at = match text.starts_with(b"/") {
        true => Some(0),
        false => path_in_absolute(text),
    };
    let Some(path_at) = path_at else {
        // Neither a path nor an absolute target: `/` lets the parser go on, so that the
        // request is refused with a message that names the byte.
        let byte = *text.iter().find(|&&byte| is_unusual_in_authority(byte))?;
        let raw = RawTarget {
            bytes: Bytes::new(),
            byte,
            fragment_at: None,
            is_replaced: true,
        };
        let escaped = [&read[..target.start], b"/", &read[target.end..]].concat();
        return Some((escaped, raw));
    };
    let path = &text[path_at..];
    if is_kept(path) {
        return None;
    }
    let byte = *path.iter().find(|&&byte| is_unusual(byte))?;
    let mut escaped = Vec::with_capacity(read.len() + 2 * path.len());
    escaped.extend_from_slice(&read[..target.start + path_at]);
    let (start, mut fragment_at) = (escaped.len(), None);
    for &byte in path {
        if byte == b'#' && fragment_at.is_none() {
            fragment_at = Some(escaped.len() - start);
        }
        match is_unusual(byte) {
            true => {
                escaped.extend_from_slice(percent_encoding::percent_encode_byte(byte).as_bytes())
            }
            false => escaped.push(byte),
        }
    }
    escaped.extend_from_slice(&read[target.end..]);
    let raw = RawTarget {
        bytes: Bytes::copy_from_slice(path),
        byte,
        fragment_at,
        is_replaced: false,
    };
    Some((escaped, raw))
}

/// The target in the request line (RFC 9112 §3).
fn target(read: &[u8]) -> Option<Range<usize>> {
    // A server skips empty lines before a request (RFC 9112 §2.2).
    let line = read
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let start = line + read[line..].iter().position(|&byte| byte == b' ')? + 1;
    if read[line..start].contains(&b'\n') {
        return None;
    }
    let is_control = |&byte: &u8| byte <= b' ' || byte == 0x7f;
    let end = start + read[start..].iter().position(is_control)?;
    (read[end] == b' ' && start < end).then_some(start..end)
}

/// Where the path of an absolute target begins.
fn path_in_absolute(target: &[u8]) -> Option<usize> {
    let scheme = target.windows(3).position(|bytes| bytes == b"://")?;
    let authority = scheme + 3;
    let is_end = |byte: &u8| matches!(byte, b'/' | b'?' | b'#');
    let end = authority + target[authority..].iter().position(is_end)?;
    (target[end] == b'/').then_some(end)
}

/// Whether `http::Uri` holds all bytes of this path and query.
fn is_kept(path: &[u8]) -> bool {
    PathAndQuery::try_from(path).is_ok_and(|kept| kept.as_str().len() == path.len())
}

fn is_unusual_in_authority(byte: u8) -> bool {
    // An IPv6 address is in brackets.
    is_unusual(byte) && !matches!(byte, b'[' | b']')
}

/// Whether path and query may not contain a byte (RFC 3986 §3.3 and §3.4).
fn is_unusual(byte: u8) -> bool {
    !byte.is_ascii_alphanumeric() && !b"-._~!$&'()*+,;=:@/?%".contains(&byte)
}

fn encoded_length(byte: u8) -> usize {
    if is_unusual(byte) { 3 } else { 1 }
}
