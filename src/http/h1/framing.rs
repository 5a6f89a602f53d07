//! What the headers of a message say about its body and its connection.
//!
//! Invariant: a message whose body could be delimited in two ways is malformed
//! (RFC 9112 §6.3).

use http::StatusCode;

use super::Malformed;
use super::decode::{BodyDecoder, Chunked};
use crate::http::content_length;
use crate::http::header_case::is_same_name;
use crate::http::response_head::has_no_body;

/// Gathers the headers that frame the body or concern the connection.
#[derive(Default)]
pub(super) struct Framing {
    is_http11: bool,
    /// Whether `chunked` is the last transfer coding; `None` without any.
    is_chunked: Option<bool>,
    /// There is more than one `Transfer-Encoding`.
    has_more_codings: bool,
    length: Option<u64>,
    /// The lengths are no numbers, or contradict each other.
    is_length_wrong: bool,
    has_close: bool,
    has_keep_alive: bool,
}

/// Why recipients may find the end of a request's body in different places. Such a
/// request may smuggle another one (RFC 9112 §6.3 and §11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FramingConflict(pub(crate) &'static str);

/// What kind of header was given to [`Framing::add`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderKind {
    ContentLength,
    TransferEncoding,
    /// `Connection`, with no options but `close` and `keep-alive`.
    Connection,
    /// `Connection`, with an option that may name a header.
    ConnectionOptions,
    Other,
}

impl Framing {
    pub(super) fn new(is_http11: bool) -> Self {
        Self {
            is_http11,
            ..Self::default()
        }
    }

    /// Adds the next header and returns its kind.
    pub(super) fn add(&mut self, name: &[u8], value: &[u8]) -> HeaderKind {
        let is = |known| is_same_name(name, known);
        let elements = || value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        if is(b"content-length") {
            // Equal lengths count as one (RFC 9112 §6.3, rule 5).
            for length in elements().map(content_length::parse) {
                let differs = self.length.is_some_and(|known| Some(known) != length);
                self.is_length_wrong |= length.is_none() || differs;
                self.length = length;
            }
            HeaderKind::ContentLength
        } else if is(b"transfer-encoding") {
            let last = elements().next_back().unwrap_or_default();
            // Lenient parsers skip other bytes and may find `chunked` where this code
            // does not: such a value is no known coding.
            let is_chunked = value.is_ascii() && last.eq_ignore_ascii_case(b"chunked");
            self.has_more_codings = self.is_chunked.replace(is_chunked).is_some();
            HeaderKind::TransferEncoding
        } else if is(b"connection") {
            let mut has_options = false;
            for option in elements() {
                let is_close = option.eq_ignore_ascii_case(b"close");
                let is_keep_alive = option.eq_ignore_ascii_case(b"keep-alive");
                self.has_close |= is_close;
                self.has_keep_alive |= is_keep_alive;
                has_options |= !is_close && !is_keep_alive;
            }
            match has_options {
                true => HeaderKind::ConnectionOptions,
                false => HeaderKind::Connection,
            }
        } else {
            HeaderKind::Other
        }
    }

    /// How the body of a response with this status is read.
    ///
    /// # Errors
    /// Its end cannot be known for certain.
    pub(super) fn decoder(&self, status: StatusCode) -> Result<BodyDecoder, Malformed> {
        if has_no_body(status) {
            return Ok(BodyDecoder::ENDED);
        }
        match self.is_chunked {
            // RFC 9112 §6.1: framing that HTTP/1.0 does not have is faulty.
            Some(_) if !self.is_http11 => Err(Malformed),
            Some(true) => Ok(BodyDecoder::Chunked(Chunked::Size)),
            // Another last coding: the body ends with the connection (RFC 9112 §6.3,
            // rule 4).
            Some(false) => Ok(BodyDecoder::UntilClose),
            None if self.is_length_wrong => Err(Malformed),
            None => Ok(self
                .length
                .map_or(BodyDecoder::UntilClose, BodyDecoder::Length)),
        }
    }

    /// How the body of a request is read (RFC 9112 §6.3).
    ///
    /// # Errors
    /// Its end cannot be known for certain.
    pub(super) fn request_decoder(&self) -> Result<BodyDecoder, Malformed> {
        match self.is_chunked {
            Some(true) if self.is_http11 => Ok(BodyDecoder::Chunked(Chunked::Size)),
            Some(_) => Err(Malformed),
            None if self.is_length_wrong => Err(Malformed),
            None => Ok(BodyDecoder::Length(self.length.unwrap_or(0))),
        }
    }

    /// Why recipients may find the end of this request's body in different places,
    /// although [`request_decoder`](Self::request_decoder) finds one.
    pub(super) fn conflict(&self) -> Option<FramingConflict> {
        self.is_chunked?;
        if self.length.is_some() || self.is_length_wrong {
            Some(FramingConflict("Content-Length beside Transfer-Encoding"))
        } else {
            let conflict = FramingConflict("more than one Transfer-Encoding field");
            self.has_more_codings.then_some(conflict)
        }
    }

    /// Whether the connection persists after this response (RFC 9112 §9.3).
    pub(super) fn keeps_alive(&self) -> bool {
        !self.has_close && (self.is_http11 || self.has_keep_alive)
    }
}
