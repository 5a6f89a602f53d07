//! Header lines of a response that stay as text.
//!
//! The gateway reads few headers of a response. Parsing all of them into a map
//! and writing them again costs more than the rest of the forwarding, so the
//! HTTP/1.1 codec keeps the lines as received. Only
//! [`ResponseHead`](super::response_head::ResponseHead) holds a [`RawHeaderLines`]: it
//! alone knows that a header may be here and not in its map.
//!
//! Invariants: no hop-by-hop header is among the lines; no line is folded; each
//! line is a valid header.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::header_case::{HeaderCase, is_same_name};

/// Header lines, each ended by CRLF.
#[derive(Clone)]
pub(in crate::http) struct RawHeaderLines {
    lines: Bytes,
    /// The value of the one `Content-Length` among the lines.
    content_length: Option<u64>,
}

impl RawHeaderLines {
    /// Takes over lines for which the invariants of this file hold.
    pub(in crate::http) fn new(lines: Vec<u8>, content_length: Option<u64>) -> Self {
        Self {
            lines: lines.into(),
            content_length,
        }
    }

    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    pub(super) fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The values of the headers with this name, which is in lower case.
    pub(super) fn get_all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers()
            .filter(move |(given, _)| is_same_name(given, name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The headers as a map would hold them. Values share the buffer of the
    /// lines.
    pub(super) fn parsed(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.headers().filter_map(|(name, value)| {
            // Never fails: each line is a valid header.
            let name = HeaderName::from_bytes(name).ok()?;
            let value = HeaderValue::from_maybe_shared(self.lines.slice_ref(value)).ok()?;
            Some((name, value))
        })
    }

    /// The names as they are written in the lines, followed by `others`.
    pub(super) fn header_case(&self, others: Option<&HeaderCase>) -> HeaderCase {
        let names = self.headers().map(|(name, _)| name);
        HeaderCase::of(names.chain(others.into_iter().flat_map(HeaderCase::names)))
    }

    /// Name and value of each line.
    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.lines.split(|&byte| byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = line.iter().position(|&byte| byte == b':')?;
            // The codec writes ": " after each name.
            Some((&line[..colon], &line[colon + 2..]))
        })
    }
}
