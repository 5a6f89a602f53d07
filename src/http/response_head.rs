//! The head of a response.
//!
//! Owns the status, the reason phrase, and all headers with the case of their
//! names. A header lies either in a map or in raw lines that were not parsed
//! (see [`raw_head`](super::raw_head)); callers cannot tell the difference.
//!
//! Invariant: no hop-by-hop header is in the raw lines. Accessors for end-to-end
//! headers search both; those for hop-by-hop headers only the map. The codec
//! consumes `Connection` itself.

use std::fmt;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;

use super::header_case::{self, HeaderCase};
use super::raw_head::RawHeaderLines;
use super::{content_length, hop_by_hop};

/// The head of a response.
#[derive(Clone)]
pub(crate) struct ResponseHead {
    /// Its map holds all headers except those in `raw`. A response that hyper
    /// read or will write keeps hyper's own extensions: among them the reason
    /// phrase and the case of the names.
    parts: response::Parts,
    raw: Option<RawHeaderLines>,
    /// The case of the names in the map; `None` where they are in lower case
    /// or hyper knows their case.
    case: Option<HeaderCase>,
}

impl ResponseHead {
    /// A head without headers.
    pub(crate) fn new(status: StatusCode) -> Self {
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = status;
        Self::from(parts)
    }

    /// Adds raw lines, and the case of the names in the map.
    pub(in crate::http) fn set_raw(&mut self, raw: RawHeaderLines, case: Option<HeaderCase>) {
        self.raw = Some(raw);
        self.case = case;
    }

    /// Sets the case of the names in the map.
    pub(in crate::http) fn set_case(&mut self, case: HeaderCase) {
        self.case = Some(case);
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.parts.status
    }

    /// The reason phrase (RFC 9112 §4). The HTTP/1.1 codec writes it.
    pub(super) fn reason(&self) -> &[u8] {
        match self.parts.extensions.get::<ReasonPhrase>() {
            Some(reason) => reason.as_bytes(),
            None => {
                let reason = self.parts.status.canonical_reason();
                reason.unwrap_or_default().as_bytes()
            }
        }
    }

    /// Sets a reason phrase other than the usual one of the status.
    pub(super) fn set_reason(&mut self, reason: ReasonPhrase) {
        self.parts.extensions.insert(reason);
    }

    /// The first value of this header.
    pub(crate) fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// All values of this header, in their order.
    pub(crate) fn get_all(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        // Raw lines first: headers in the map were added later or are hop-by-hop.
        let raw = self.raw.iter();
        let raw = raw.flat_map(|raw| raw.get_all(name.as_str()));
        let map = self.parts.headers.get_all(name).iter();
        raw.chain(map.map(HeaderValue::as_bytes))
    }

    /// Adds a header after others of the same name.
    pub(crate) fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.parts.headers.append(name, value);
    }

    /// Sets a header and removes others of the same name.
    pub(crate) fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        // Only a header that exists makes the raw lines be parsed: that is costly, and
        // most inserted headers are new.
        if self.get(&name).is_some() {
            self.headers_mut().remove(&name);
        }
        self.parts.headers.insert(name, value);
    }

    /// All headers as one map. The first call parses the raw lines.
    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        if let Some(raw) = self.raw.take() {
            // Received headers first, then those that the gateway added.
            let added = std::mem::replace(&mut self.parts.headers, raw.parsed().collect());
            for (name, value) in &added {
                self.parts.headers.append(name, value.clone());
            }
            // The names of the map keep their case as well.
            self.case = Some(raw.header_case(self.case.as_ref()));
        }
        &mut self.parts.headers
    }

    /// The head for hyper. The case of names that hyper did not read is lost.
    pub(crate) fn into_parts(mut self) -> response::Parts {
        self.headers_mut();
        self.parts
    }

    /// Whether `Connection: close` was set by [`close_connection`](Self::close_connection).
    pub(crate) fn closes_connection(&self) -> bool {
        let connection = self.parts.headers.get(CONNECTION);
        connection.is_some_and(|option| option == "close")
    }

    /// Announces that the connection closes after this response (RFC 9112 §9.6).
    pub(crate) fn close_connection(&mut self) {
        let close = HeaderValue::from_static("close");
        self.parts.headers.insert(CONNECTION, close);
    }

    /// Removes the hop-by-hop headers and the version of the upstream's hop.
    pub(crate) fn strip_hop_by_hop(&mut self, is_upgrade: bool) {
        hop_by_hop::strip(&mut self.parts.headers, is_upgrade);
        self.parts.version = Version::HTTP_11;
    }

    /// Whether the headers announce a body that a response with this status
    /// cannot have. If the upstream sends that body anyway, its bytes would be read
    /// as the next response. A 304 rightly announces the length that a 200
    /// would have (RFC 9110 §8.6).
    pub(crate) fn announces_missing_body(&self) -> bool {
        if !has_no_body(self.status()) {
            return false;
        }
        let is_not_modified = self.status() == StatusCode::NOT_MODIFIED;
        let has_length = || self.get_all(&CONTENT_LENGTH).any(|length| length != b"0");
        self.get(&TRANSFER_ENCODING).is_some() || !is_not_modified && has_length()
    }

    /// How long the connection may be used for another request, if the response
    /// says so.
    pub(crate) fn keep_alive_timeout(&self) -> Option<Duration> {
        hop_by_hop::keep_alive_timeout(&self.parts.headers)
    }

    /// The announced length of the body. Repeated equal values are reduced to one,
    /// so that no client reads the list differently (RFC 9112 §6.3).
    pub(super) fn normalize_content_length(&mut self) -> Option<u64> {
        if let Some(raw) = &self.raw {
            // Raw lines have at most one length: see `read_raw` in the codec.
            return raw.content_length();
        }
        let headers = &mut self.parts.headers;
        if !hop_by_hop::has(headers, &CONTENT_LENGTH) {
            return None;
        }
        let mut values = headers.get_all(CONTENT_LENGTH).iter();
        let (first, others) = (values.next()?.as_bytes(), values.next().is_some());
        // The decoder accepts several values only if they are equal.
        let is_repeated = others || first.contains(&b',');
        let length = content_length::parse(first.split(|&byte| byte == b',').next()?.trim_ascii());
        match length {
            // RFC 9110 §8.6: a 204 has no length.
            Some(length) if self.parts.status != StatusCode::NO_CONTENT => {
                if is_repeated {
                    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                }
            }
            _ => drop(headers.remove(CONTENT_LENGTH)),
        }
        length
    }

    /// Bytes that the headers take on the wire: exact for raw lines, estimated
    /// for the map.
    pub(super) fn encoded_length(&self) -> usize {
        let raw = self.raw.as_ref().map_or(0, |raw| raw.lines().len());
        raw + header_case::encoded_length(&self.parts.headers)
    }

    /// Writes all header lines.
    pub(super) fn write_headers(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.raw.as_ref().map_or(&[], RawHeaderLines::lines));
        header_case::write_headers(text, &self.parts.headers, self.case.as_ref());
    }
}

/// A head that hyper read, or one that the gateway builds.
impl From<response::Parts> for ResponseHead {
    fn from(parts: response::Parts) -> Self {
        Self {
            parts,
            raw: None,
            case: None,
        }
    }
}

/// Without the headers: cookies and redirects hold credentials.
impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Whether a response with this status ends with its head (RFC 9110 §6.4.1).
pub(crate) fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests;
